//! Reading commands.

use super::CreateMode;
use super::form::{Body, CallForm, End, Form};
use super::grant::{Mask, MaskMode, Rights};
use crate::changes::{self, Changes, json};
use crate::cursor::Cursor;
use crate::nearest::did_you_mean;
use crate::template::{Bare, Template};
use crate::{Code, Kind, Method, MethodFamily, Problem, Span, kind, selector};

const VERBS: [&str; 14] = [
    "create", "set", "get", "select", "delete", "publish", "cp", "read", "write", "watch", "send", "request",
    "grant", "chown",
];

/// Reads one command, whose first token comes next.
pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Form, Problem> {
    let form = form(cursor)?;
    form.check().map_err(|problem| crate::cursor::within(problem, cursor.source(), 0))?;
    Ok(form)
}

fn form(cursor: &mut Cursor<'_>) -> Result<Form, Problem> {
    let sign = cursor.token();
    let mode = create_mode(cursor);
    cursor.trivia();
    let span = cursor.token();
    let verb = cursor.word();
    if let Some(mode) = mode
        && verb != "create"
    {
        let detail = format!("`{}` goes with `create` alone", mode_sign(mode));
        return Err(cursor.problem(sign, detail, "not before this command"));
    }
    match verb {
        "create" => create(cursor, mode),
        "set" => {
            let point = point(cursor)?;
            let changes = changes(cursor)?;
            if changes.list.is_empty() {
                let detail = "there is nothing to set";
                return Err(cursor
                    .problem(changes.span, detail, "empty")
                    .help("write it like `set shop{ +key=value }`"));
            }
            Ok(Form::Set { point, changes })
        }
        "get" => get(cursor),
        "select" => selector(cursor).map(Form::Select),
        "watch" => selector(cursor).map(Form::Watch),
        "delete" => delete(cursor),
        "publish" => publish(cursor),
        "cp" => copy(cursor),
        "read" => point(cursor).map(Form::Read),
        "write" => {
            let point = point(cursor)?;
            let content = body(cursor)?;
            if content == Body::None {
                return Err(cursor
                    .unexpected("the content")
                    .help("write it like `write shop:files:/hello.txt \"Hello\"`"));
            }
            Ok(Form::Write { point, content })
        }
        "send" => call(cursor).map(Form::Send),
        "request" => call(cursor).map(Form::Request),
        "grant" => grant(cursor),
        "chown" => Ok(Form::Chown { owner: point(cursor)?, on: selector(cursor)? }),
        "" => Err(cursor.unexpected("a command").help(known_verbs())),
        other => {
            let help = did_you_mean(other, VERBS).unwrap_or_else(known_verbs);
            let detail = format!("no command `{}`", crate::cursor::shorten(other));
            Err(cursor.problem(span, detail, "not a command").help(help))
        }
    }
}

fn known_verbs() -> String {
    format!("commands are {}", VERBS.map(|verb| format!("`{verb}`")).join(", "))
}

fn create_mode(cursor: &mut Cursor<'_>) -> Option<CreateMode> {
    if cursor.eat("?") {
        Some(CreateMode::Ensure)
    } else if cursor.eat("!") {
        Some(CreateMode::Override)
    } else {
        None
    }
}

fn mode_sign(mode: CreateMode) -> &'static str {
    match mode {
        CreateMode::New => "",
        CreateMode::Ensure => "?",
        CreateMode::Override => "!",
    }
}

fn create(cursor: &mut Cursor<'_>, mode: Option<CreateMode>) -> Result<Form, Problem> {
    let sign = cursor.token();
    let after = create_mode(cursor);
    if mode.is_some() && after.is_some() {
        return Err(cursor.problem(sign, "the sign stands before or after `create`, not both", "again"));
    }
    let mode = mode.or(after).unwrap_or_default();
    let target = point(cursor)?;
    cursor.trivia();
    if !cursor.looks_at("<") {
        let help = match target.literal() {
            Some(text) => {
                format!("say what to create: `create {text}<Base>`; kinds are Space, Base, App, Mechtron, …")
            }
            None => "say what to create, as `create shop:users<Base>`".to_owned(),
        };
        return Err(cursor.unexpected("a kind `<…>` after the point").help(help));
    }
    let (kind, kind_span) = kind(cursor)?;
    cursor.trivia();
    let changes = if cursor.looks_at("{") { changes(cursor)? } else { Changes::default() };
    Ok(Form::Create { mode, target, kind, kind_span, changes })
}

/// Reads a kind in its brackets; tells where the name in them stands.
pub(crate) fn kind(cursor: &mut Cursor<'_>) -> Result<(Kind, Span), Problem> {
    let start = cursor.at();
    let (mut depth, mut closed) = (0_usize, false);
    cursor.eat_while_with(|c| {
        match c {
            _ if closed => return false,
            '<' => depth += 1,
            '>' => {
                depth -= 1;
                closed = depth == 0;
            }
            c => return c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '-' | '_' | '*'),
        }
        true
    });
    if !closed {
        let span = Span { start, end: start + 1 };
        return Err(cursor.problem(span, "a kind is never closed", "opened here").help("end it with `>`"));
    }
    let span = Span { start: start + 1, end: cursor.at() - 1 };
    let inner = &cursor.source()[span.start..span.end];
    let kind = inner.parse().map_err(|_| {
        let detail = format!("`{}` is not written like a kind", crate::cursor::shorten(inner));
        let problem = cursor.problem_of(Code::KindSyntax, span, detail, "not a kind");
        problem.help(kind::writing_help(inner))
    })?;
    Ok((kind, span))
}

fn changes(cursor: &mut Cursor<'_>) -> Result<Changes, Problem> {
    cursor.trivia();
    if !cursor.looks_at("{") {
        return Err(cursor
            .unexpected("`{` and the properties")
            .help("write it like `set shop{ +key=value, !other }`"));
    }
    Changes::read(cursor)
}

/// Reads a point, which may hold variables and be relative.
pub(crate) fn point(cursor: &mut Cursor<'_>) -> Result<Template, Problem> {
    cursor.trivia();
    let template = Template::read(cursor, Bare::POINT)?;
    if template.is_empty() {
        return Err(cursor.unexpected("a point").help("points look like `shop:users:bob`"));
    }
    Ok(template)
}

fn selector(cursor: &mut Cursor<'_>) -> Result<Template, Problem> {
    cursor.trivia();
    let mut ahead = cursor.clone();
    selector::skip_extent(&mut ahead)?;
    if ahead.at() == cursor.at() {
        return Err(cursor
            .unexpected("a selector")
            .help("selectors look like `shop:**<Mechtron>[region = \"eu\"]`"));
    }
    Template::raw(cursor, ahead.at(), true)
}

fn get(cursor: &mut Cursor<'_>) -> Result<Form, Problem> {
    let point = point(cursor)?;
    let mut keys = Vec::new();
    cursor.trivia();
    let start = cursor.at();
    if cursor.eat("{") {
        loop {
            cursor.trivia();
            if cursor.rest().is_empty() {
                return Err(changes::unclosed(cursor, start));
            }
            if cursor.eat("}") {
                break;
            }
            keys.push(changes::key(cursor)?);
            if !cursor.next_is(",") && !cursor.looks_at("}") && !cursor.rest().is_empty() {
                return Err(cursor.unexpected("`,` or `}`"));
            }
        }
    }
    Ok(Form::Get { point, keys })
}

fn delete(cursor: &mut Cursor<'_>) -> Result<Form, Problem> {
    let mut recursive = recursive_flag(cursor)?;
    let target = selector(cursor)?;
    recursive |= recursive_flag(cursor)?;
    Ok(Form::Delete { target, recursive })
}

fn recursive_flag(cursor: &mut Cursor<'_>) -> Result<bool, Problem> {
    cursor.trivia();
    if !cursor.looks_at("-") {
        return Ok(false);
    }
    let span = cursor.token();
    match cursor.word() {
        "-r" | "--recursive" => Ok(true),
        other => {
            let detail = format!("`delete` knows no `{}`", crate::cursor::shorten(other));
            Err(cursor.problem(span, detail, "not known").help("`-r` deletes the children too"))
        }
    }
}

/// Reads `^[ file.zip ]-> shop:repo:site:1.0.0`.
fn publish(cursor: &mut Cursor<'_>) -> Result<Form, Problem> {
    let help = "write it like `publish ^[ site.zip ]-> shop:repo:site:1.0.0`";
    if !cursor.next_is("^[") {
        return Err(cursor.unexpected("`^[` and what to publish").help(help));
    }
    cursor.trivia();
    let source = if cursor.looks_at("\"") {
        Template::read(cursor, Bare::POINT)?
    } else {
        let rest = cursor.rest();
        let Some(length) = rest.find("]->").filter(|length| !rest[..*length].contains('\n')) else {
            return Err(cursor.unexpected("the file or directory, then `]->`").help(help));
        };
        Template::raw(cursor, cursor.at() + rest[..length].trim_end().len(), false)?
    };
    if source.is_empty() {
        return Err(cursor.unexpected("a file or a directory").help(help));
    }
    if !cursor.next_is("]->") {
        return Err(cursor.unexpected("`]->` and the bundle's point").help(help));
    }
    Ok(Form::Publish { source, point: point(cursor)? })
}

fn copy(cursor: &mut Cursor<'_>) -> Result<Form, Problem> {
    let help = "one of the two is a point: `cp logo.svg shop:files:/img/logo.svg`, or the other way round";
    let start = cursor.at();
    let from = end(cursor, help)?;
    let to = end(cursor, help)?;
    let detail = match (&from, &to) {
        (End::Local(_), End::Local(_)) => "both ends are local files",
        (End::Point(_), End::Point(_)) => "both ends are points",
        _ => return Ok(Form::Copy { from, to }),
    };
    let both = cursor.since(start);
    let span = Span { start: start + both.len() - both.trim_start().len(), end: cursor.at() };
    Err(cursor.problem(span, detail, "one of them must be a point, the other local").help(help))
}

fn end(cursor: &mut Cursor<'_>, help: &str) -> Result<End, Problem> {
    cursor.trivia();
    let bare =
        Bare { accepts: |c| !c.is_whitespace() && !matches!(c, ';' | '"' | '{' | '}'), captures: false };
    let template = Template::read(cursor, bare)?;
    if template.is_empty() {
        return Err(cursor.unexpected("a point or a local file").help(help));
    }
    let local = match template.literal() {
        Some(text) => is_local(text),
        None => false,
    };
    Ok(if local { End::Local(template) } else { End::Point(template) })
}

/// A point has a `:` in it, unless it begins as paths do: `./a:b` is a file.
fn is_local(text: &str) -> bool {
    let as_path = ["/", "./", "../", "~"].iter().any(|front| text.starts_with(front)) || text.contains('\\');
    as_path || !text.contains(':')
}

/// Reads `P^Ext<Method>/path BODY`.
fn call(cursor: &mut Cursor<'_>) -> Result<CallForm, Problem> {
    let to = point(cursor)?;
    if !cursor.eat("^") {
        return Err(cursor
            .unexpected("`^` and the method after the point")
            .help("write it like `shop:cart^Ext<AddItem>` or `shop:cart^Http<Get>/items`"));
    }
    let method = method(cursor)?;
    let path = path(cursor, false)?;
    Ok(CallForm { to, method, path, body: body(cursor)? })
}

/// Reads the path of a call, which ends at a blank or `;`; empty when there is none.
pub(crate) fn path(cursor: &mut Cursor<'_>, captures: bool) -> Result<Template, Problem> {
    let bare = Bare { accepts: |c| !c.is_whitespace() && !matches!(c, ';' | '"' | '<' | '>'), captures };
    let start = cursor.at();
    let path = if cursor.looks_at("\"") {
        Template::raw(cursor, start, false)?
    } else {
        Template::read(cursor, bare)?
    };
    let begins = cursor.source()[start..cursor.at()].starts_with(['/', '$']);
    if !path.is_empty() && !begins {
        let problem = cursor.problem(path.span, "a path begins with `/`", "not a path");
        return Err(problem.help("write it like `shop:cart^Http<Get>/items`"));
    }
    Ok(path)
}

/// Reads `Ext<AddItem>`.
pub(crate) fn method(cursor: &mut Cursor<'_>) -> Result<Method, Problem> {
    let family = family(cursor)?;
    if !cursor.eat("<") {
        let detail = format!("`<` and the name of a method after `{family}`");
        return Err(cursor.unexpected(&detail).help(format!("write it like `{family}<Get>`")));
    }
    let span = cursor.token();
    let name = cursor.word();
    let method = match family {
        MethodFamily::Http => Method::http(name),
        family => name.parse().ok().map(|name| Method { family, name }),
    };
    let Some(method) = method else {
        let detail = format!("`{}` is not the name of a method", crate::cursor::shorten(name));
        return Err(cursor
            .problem(span, detail, "not a method")
            .help("methods are in Pascal case: `AddItem`"));
    };
    cursor.expect(">", "after the method")?;
    Ok(method)
}

fn family(cursor: &mut Cursor<'_>) -> Result<MethodFamily, Problem> {
    let span = cursor.token();
    match cursor.word() {
        "Http" => Ok(MethodFamily::Http),
        "Ext" | "Msg" => Ok(MethodFamily::Ext),
        "Cmd" => Ok(MethodFamily::Cmd),
        other => {
            let families = ["Http", "Ext", "Cmd"];
            let help = did_you_mean(other, families)
                .unwrap_or_else(|| "families are `Http`, `Ext` and `Cmd`".into());
            let detail = format!("no family of methods `{}`", crate::cursor::shorten(other));
            Err(cursor.problem(span, detail, "not a family").help(help))
        }
    }
}

/// Reads what may stand at the end of a statement: JSON, a text in quotes, or one word.
fn body(cursor: &mut Cursor<'_>) -> Result<Body, Problem> {
    cursor.trivia();
    if cursor.looks_at("{") || cursor.looks_at("[") {
        let (_, text) = json(cursor)?;
        return Ok(Body::Json(text.to_owned()));
    }
    let bare =
        Bare { accepts: |c| !c.is_whitespace() && !matches!(c, ';' | '"' | '{' | '}'), captures: false };
    let text = Template::read(cursor, bare)?;
    Ok(if text.is_empty() { Body::None } else { Body::Text(text) })
}

fn grant(cursor: &mut Cursor<'_>) -> Result<Form, Problem> {
    cursor.trivia();
    let span = cursor.token();
    match cursor.word() {
        "perm" => {
            let mask = mask(cursor)?;
            let (on, to) = on_and_to(cursor)?;
            Ok(Form::Permission { mask, on, to })
        }
        "priv" => {
            cursor.trivia();
            let name =
                cursor.eat_while(|c| crate::cursor::is_word(c) || matches!(c, ':' | '.' | '*')).to_owned();
            if name.is_empty() {
                return Err(cursor.unexpected("the name of a privilege"));
            }
            let (on, to) = on_and_to(cursor)?;
            Ok(Form::Privilege { name, on, to })
        }
        "super" => on_and_to(cursor).map(|(on, to)| Form::Super { on, to }),
        "list" => {
            keyword(cursor, "on")?;
            Ok(Form::ListGrants { on: selector(cursor)? })
        }
        "revoke" => {
            cursor.trivia();
            let span = cursor.token();
            let number = cursor.word().parse().map_err(|_| {
                cursor
                    .problem(span, "expected the number of a grant", "not a number")
                    .help("`grant list on SELECTOR` shows the numbers")
            })?;
            Ok(Form::Revoke { number })
        }
        other => {
            let forms = ["perm", "priv", "super", "list", "revoke"];
            let help = did_you_mean(other, forms)
                .unwrap_or_else(|| "what follows is `perm`, `priv`, `super`, `list` or `revoke`".into());
            let detail = match other {
                "" => "`grant` does not say what".to_owned(),
                other => format!("no `grant {}`", crate::cursor::shorten(other)),
            };
            Err(cursor.problem(span, detail, "not known").help(help))
        }
    }
}

fn mask(cursor: &mut Cursor<'_>) -> Result<Mask, Problem> {
    cursor.trivia();
    let start = cursor.at();
    let mode = match cursor.bump() {
        Some('+') => Some(MaskMode::Add),
        Some('&') => Some(MaskMode::Keep),
        _ => None,
    };
    let rights = Rights::read(cursor.word());
    match mode.zip(rights) {
        Some((mode, rights)) => Ok(Mask { mode, rights }),
        None => Err(cursor
            .problem(cursor.span_since(start), "not a mask of permissions", "not a mask")
            .help("write it like `+csd-RwX`: `+` adds and `&` masks, capitals are on")),
    }
}

fn on_and_to(cursor: &mut Cursor<'_>) -> Result<(Template, Template), Problem> {
    keyword(cursor, "on")?;
    let on = selector(cursor)?;
    keyword(cursor, "to")?;
    Ok((on, selector(cursor)?))
}

fn keyword(cursor: &mut Cursor<'_>, keyword: &str) -> Result<(), Problem> {
    cursor.trivia();
    let span = cursor.token();
    if &cursor.source()[span.start..span.end] == keyword {
        cursor.skip(keyword.len());
        return Ok(());
    }
    Err(cursor
        .unexpected(&format!("`{keyword}` and a selector"))
        .help("write it like `grant perm +csd-RwX on shop:** to mesh:users:bob`"))
}
