//! Reading binds.

use regex::RegexBuilder;

use super::check::Check;
use super::{Address, Arrow, PathPattern, Rule, Step, Stop};
use crate::cursor::{Cursor, shorten, within};
use crate::kind::Name;
use crate::nearest::did_you_mean;
use crate::template::{Bare, Template, variable_unknown};
use crate::{Code, Method, MethodFamily, Problem, Span, changes, command, header};

/// The most rules a bind may have.
const RULES_MAX: usize = 256;
/// The most stops a rule may have, the caller included.
const STEPS_MAX: usize = 16;
/// The longest path pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 2048;
/// How much memory a compiled path pattern may take, in bytes.
const PATTERN_MEMORY_MAX: usize = 1 << 18;

/// The variables that every rule knows besides its captures: the bundle that the bind came from.
pub(super) const BUNDLE: [&str; 2] = ["bundle", "self.config.bundle"];

const RULE_FORM: &str = "a rule is written like `Http<Get>/app/(.*) -> shop:cart^Http<Get>/$1 => &;`";

/// What the blocks around a rule say about it.
#[derive(Clone, Default)]
struct Context {
    auth: bool,
    /// Known when a family was named; inside, `None` is all of them.
    family: Option<Option<MethodFamily>>,
    /// Known when a method was named; inside, `None` is all of them.
    method: Option<Option<Name>>,
}

pub(super) fn read(text: &str) -> Result<Vec<Rule>, Problem> {
    let mut cursor = Cursor::new(text, Code::BindSyntax)?;
    cursor.trivia();
    if cursor.word() != "Bind" {
        cursor.skip_back(0);
        cursor.trivia();
        return Err(cursor.unexpected("`Bind`").help("a bind begins like `Bind(version=1.0.0) {`"));
    }
    header::version(&mut cursor)?;
    let mut rules = Vec::new();
    block(&mut cursor, &Context::default(), &mut rules)?;
    if cursor.is_done() { Ok(rules) } else { Err(cursor.unexpected("the end of the bind")) }
}

/// Reads rules and blocks between braces.
fn block(cursor: &mut Cursor<'_>, context: &Context, rules: &mut Vec<Rule>) -> Result<(), Problem> {
    cursor.trivia();
    let start = cursor.at();
    cursor.expect("{", "and the rules")?;
    loop {
        while cursor.next_is(";") {}
        if cursor.eat("}") {
            return Ok(());
        }
        if cursor.rest().is_empty() {
            return Err(changes::unclosed(cursor, start));
        }
        cursor.nested(|cursor| item(cursor, context.clone(), rules))?;
    }
}

/// Reads one rule, or a block of rules that have something in common.
fn item(cursor: &mut Cursor<'_>, mut context: Context, rules: &mut Vec<Rule>) -> Result<(), Problem> {
    let start = cursor.at();
    if cursor.looks_at("Route") {
        cursor.word();
        auth(cursor, &mut context)?;
        if cursor.eat("<") {
            family(cursor, &mut context)?;
            if cursor.looks_at("<") {
                method(cursor, &mut context)?;
            }
            cursor.expect(">", "after the method of the route")?;
        }
    } else if cursor.looks_at("*") || cursor.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
        family(cursor, &mut context)?;
        if cursor.looks_at("<") {
            method(cursor, &mut context)?;
        }
    } else if cursor.looks_at("<") {
        method(cursor, &mut context)?;
    } else if !cursor.looks_at("/") {
        return Err(cursor.unexpected("a rule or `}`").help(RULE_FORM));
    }
    let path_span = cursor.token();
    let path = match cursor.peek() {
        Some(c) if !c.is_whitespace() && !matches!(c, '-' | '=' | '{' | ';' | '}') => Some(path(cursor)?),
        _ => None,
    };
    cursor.trivia();
    if opens_block(cursor) {
        if path.is_some() {
            let detail = "a path stands on a rule, not on a block";
            return Err(cursor.problem(path_span, detail, "not here").help(RULE_FORM));
        }
        return block(cursor, &context, rules);
    }
    let head = cursor.span_since(start);
    let Some(family) = context.family else {
        let problem =
            cursor.problem(head, "the rule does not say for which family of methods it is", "which family?");
        return Err(
            problem.help("write it like `Http<Get>/path` or put it into `Http { … }`; `*` is all families")
        );
    };
    if rules.len() == RULES_MAX {
        return Err(cursor.problem(head, format!("a bind has at most {RULES_MAX} rules"), "one too many"));
    }
    let mut rule =
        Rule { auth: context.auth, family, method: context.method.flatten(), path, steps: Vec::new() };
    steps(cursor, &mut rule)?;
    rules.push(rule);
    cursor.trivia();
    if cursor.looks_at(";") || cursor.looks_at("}") || cursor.rest().is_empty() {
        return Ok(());
    }
    Err(cursor.unexpected("`;` after the rule").help("a rule ends with `=> &;`"))
}

/// Whether a block follows, perhaps after an arrow; eats the arrow then. `{{` is a stop.
fn opens_block(cursor: &mut Cursor<'_>) -> bool {
    let before = cursor.at();
    if cursor.eat("->") {
        cursor.trivia();
    }
    let opens = cursor.looks_at("{") && !cursor.looks_at("{{");
    if !opens {
        cursor.skip_back(before);
    }
    opens
}

fn auth(cursor: &mut Cursor<'_>, context: &mut Context) -> Result<(), Problem> {
    if !cursor.looks_at("(") {
        return Ok(());
    }
    let help = "what a route can ask for is `Route(auth)`, a caller who is signed in";
    cursor.bump();
    cursor.trivia();
    if cursor.word() != "auth" || !cursor.next_is(")") {
        return Err(cursor.unexpected("`auth)`").help(help));
    }
    context.auth = true;
    Ok(())
}

fn family(cursor: &mut Cursor<'_>, context: &mut Context) -> Result<(), Problem> {
    cursor.trivia();
    let span = cursor.token();
    let word = if cursor.eat("*") { "*" } else { cursor.word() };
    let family = match word {
        "Http" => Some(MethodFamily::Http),
        "Ext" | "Msg" => Some(MethodFamily::Ext),
        "Cmd" => Some(MethodFamily::Cmd),
        "*" => None,
        other => {
            let help = did_you_mean(other, ["Http", "Ext", "Msg", "Cmd", "Route"]).unwrap_or_else(|| {
                "families are `Http`, `Ext`, `Cmd` and `*`; `Route` groups rules".to_owned()
            });
            let detail = format!("no family of methods `{}`", shorten(other));
            return Err(cursor.problem(span, detail, "not a family").help(help));
        }
    };
    if let Some(outer) = &context.family {
        let outer = outer.map_or("*".to_owned(), |family| family.to_string());
        let detail = format!("the rule is inside a block for `{outer}` already");
        return Err(cursor
            .problem(span, detail, "a second family")
            .help("write the method alone, as `<Get>`"));
    }
    context.family = Some(family);
    Ok(())
}

/// Reads `<Get>` or `<*>`, at whose `<` the cursor stands.
fn method(cursor: &mut Cursor<'_>, context: &mut Context) -> Result<(), Problem> {
    cursor.bump();
    cursor.trivia();
    let span = cursor.token();
    let word = if cursor.eat("*") { "*" } else { cursor.word() };
    let is_http = context.family == Some(Some(MethodFamily::Http));
    let name = match word {
        "*" => None,
        word if is_http => Some(Method::http(word).map(|method| method.name)),
        word => Some(word.parse::<Name>().ok()),
    };
    let name = match name {
        Some(None) => {
            let detail = format!("`{}` is not the name of a method", shorten(word));
            let problem = cursor.problem(span, detail, "not a method");
            return Err(
                problem.help("methods are in Pascal case: `<Get>`, `<AddItem>`; `<*>` is all of them")
            );
        }
        Some(name) => name,
        None => None,
    };
    if context.method.is_some() {
        return Err(cursor.problem(
            span,
            "the rule is inside a block for one method already",
            "a second method",
        ));
    }
    cursor.expect(">", "after the method")?;
    context.method = Some(name);
    Ok(())
}

/// Reads a path pattern: a regular expression up to the first white space that is not escaped.
fn path(cursor: &mut Cursor<'_>) -> Result<PathPattern, Problem> {
    let start = cursor.at();
    let mut escaped = false;
    let text = cursor.eat_while_with(|c| {
        let ends = c.is_whitespace() && !escaped;
        escaped = c == '\\' && !escaped;
        !ends
    });
    let span = cursor.span_since(start);
    if text.len() > PATTERN_BYTES_MAX {
        let detail = format!("a path pattern has at most {PATTERN_BYTES_MAX} bytes, this one {}", text.len());
        return Err(cursor.problem(span, detail, "too long"));
    }
    let compile = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(PATTERN_MEMORY_MAX)
            .dfa_size_limit(PATTERN_MEMORY_MAX)
            .nest_limit(64)
            .build()
    };
    // First alone: `a)(b` is no pattern, though it would be one inside a group.
    match compile(text).and_then(|_| compile(&format!("^(?:{text})$"))) {
        Ok(regex) => Ok(PathPattern { text: text.to_owned(), regex }),
        Err(error) => {
            let reason = match &error {
                regex::Error::CompiledTooBig(_) => {
                    "it becomes too large; ask for less, as `[^/]+` for `\\w{1,99}`".to_owned()
                }
                error => {
                    let text = error.to_string();
                    text.rsplit("error: ").next().unwrap_or_default().trim().to_owned()
                }
            };
            Err(cursor
                .problem(span, format!("the path is not a regular expression: {reason}"), "not a pattern")
                .help("a path pattern ends at the first blank; it is matched against the whole path"))
        }
    }
}

fn steps(cursor: &mut Cursor<'_>, rule: &mut Rule) -> Result<(), Problem> {
    loop {
        cursor.trivia();
        let start = cursor.at();
        let arrow = arrow(cursor)?;
        let span = cursor.span_since(start);
        cursor.trivia();
        let stop = stop(cursor, rule)?;
        let first = rule.steps.is_empty();
        let caller = matches!(stop, Stop::Caller);
        if first && (arrow.answer || caller) {
            let problem =
                cursor.problem(span, "the rule leads nowhere before it answers", "no stop before this");
            return Err(problem.help("say who answers: `-> (()) => &` is the resource's own code"));
        }
        if caller && !arrow.answer {
            let problem =
                cursor.problem(span, "what goes back to the caller is an answer", "this is a request");
            return Err(problem.help("write `=> &`"));
        }
        if rule.steps.len() == STEPS_MAX {
            let detail = format!("a rule has at most {STEPS_MAX} stops");
            return Err(cursor.problem(span, detail, "one too many"));
        }
        rule.steps.push(Step { arrow, stop });
        if caller {
            return Ok(());
        }
    }
}

/// Reads `->`, `=>`, `-[ Json ]->` or `=[ Json ]=>`.
fn arrow(cursor: &mut Cursor<'_>) -> Result<Arrow, Problem> {
    if cursor.eat("->") {
        return Ok(Arrow { answer: false, check: None });
    }
    if cursor.eat("=>") {
        return Ok(Arrow { answer: true, check: None });
    }
    let answer = cursor.looks_at("=[");
    if !cursor.eat("-[") && !cursor.eat("=[") {
        return Err(cursor
            .unexpected("`->`, `=>`, `-[ … ]->` or `=[ … ]=>`")
            .help("a rule goes on with `-> STOP` and ends with `=> &;`"));
    }
    cursor.trivia();
    let span = cursor.token();
    let word = cursor.word();
    let Some(check) = Check::ALL.into_iter().find(|check| check.as_str() == word) else {
        let names = Check::ALL.map(Check::as_str);
        let help = did_you_mean(word, names).unwrap_or_else(|| format!("known are {}", names.join(", ")));
        let detail = format!("no check `{}`", shorten(word));
        return Err(cursor.problem(span, detail, "not a check").help(help));
    };
    let end = if answer { "]=>" } else { "]->" };
    if !cursor.next_is(end) {
        return Err(cursor
            .unexpected(&format!("`{end}`"))
            .help("a check is written `-[ Json ]->` on a request and `=[ Json ]=>` on an answer"));
    }
    Ok(Arrow { answer, check: Some(check) })
}

fn stop(cursor: &mut Cursor<'_>, rule: &Rule) -> Result<Stop, Problem> {
    let start = cursor.at();
    if cursor.eat("&") {
        return Ok(Stop::Caller);
    }
    if cursor.eat("((") {
        cursor.expect("))", "after `((`")?;
        return Ok(Stop::Own);
    }
    if cursor.eat("{{") {
        cursor.expect("}}", "after `{{`")?;
        return Ok(Stop::Own);
    }
    let template = Template::read(cursor, Bare { captures: true, ..Bare::POINT })?;
    if template.is_empty() {
        cursor.skip_back(start);
        return Err(cursor.unexpected("a stop").help(
            "a stop is a point, a call as `shop:cart^Http<Get>/$1`, `(())` for the resource's own code, or `&` \
             for the caller",
        ));
    }
    known_variables(cursor, &template, rule)?;
    let to = Address::new(template).map_err(|problem| within(problem, cursor.source(), 0))?;
    if !cursor.eat("^") {
        return Ok(Stop::Point(to));
    }
    let method = command::method(cursor)?;
    let path = command::path(cursor, true)?;
    known_variables(cursor, &path, rule)?;
    Ok(Stop::Call { to, method, path })
}

fn known_variables(cursor: &Cursor<'_>, template: &Template, rule: &Rule) -> Result<(), Problem> {
    let known: Vec<String> = rule.captures().chain(BUNDLE.map(str::to_owned)).collect();
    let unknown = |(name, span): (&str, Span)| {
        (!known.iter().any(|known| known == name))
            .then(|| variable_unknown(name, span, known.iter().map(String::as_str)))
    };
    match template.variables().find_map(unknown) {
        Some(problem) => Err(within(problem, cursor.source(), 0)),
        None => Ok(()),
    }
}
