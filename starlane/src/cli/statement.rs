//! Statements of the language on the command line: read here first, so that a mistake shows before anything is sent;
//! then carried out in order, those about local files by this command and the others by the node.

use std::path::Path;

use gateway::Freshness;
use gateway::shapes::Output;
use starlane_core::{Bindings, Code, Command, Location, Point, Problem, Script, Span, Statement};

use super::results::{Outcome, Outcomes};
use super::{Session, cp, request, select, transfer, watch};
use crate::output::{Format, Stop};

/// The statement that a command's arguments form. `kind` is written after the point; arguments after the first that
/// begin with `+` or `!` become the properties in braces.
pub(super) fn from_words(verb: &str, kind: Option<&str>, words: &[String]) -> String {
    let is_property = |word: &&String| word.starts_with(['+', '!']);
    let in_braces = words.iter().any(|word| !is_property(&word) && word.contains('{'));
    let (properties, head): (Vec<&String>, Vec<&String>) =
        words.iter().partition(|word| !in_braces && is_property(word));
    let mut text = verb.to_owned();
    for (at, word) in head.into_iter().enumerate() {
        text.push(' ');
        match kind {
            Some(kind) if at == 0 => {
                let kind = kind.strip_prefix('<').and_then(|kind| kind.strip_suffix('>')).unwrap_or(kind);
                let (point, rest) = word.split_at(word.find('{').unwrap_or(word.len()));
                text.push_str(&format!("{point}<{kind}>{rest}"));
            }
            _ => text.push_str(word),
        }
    }
    if !properties.is_empty() {
        let properties: Vec<String> = properties.into_iter().map(|word| quoted(word)).collect();
        text.push_str(&format!("{{ {} }}", properties.join(", ")));
    }
    text
}

/// `+key=value` with the value in quotes where the language would end it early or read it as something else: a shell
/// has taken the user's own quotes away. JSON stays JSON.
fn quoted(property: &str) -> String {
    let Some((key, value)) = property.split_once('=') else { return property.to_owned() };
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '.' | '-' | '_' | '~' | '@' | '%');
    let is_json =
        value.starts_with(['{', '[', '"']) && serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok();
    if is_json || (!value.is_empty() && value.chars().all(plain)) {
        return property.to_owned();
    }
    let mut quoted = format!("{key}=\"");
    for c in value.chars() {
        match c {
            '"' | '\\' | '$' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Reads a point, and points at what is wrong with it.
pub(super) fn parse_point(text: &str) -> Result<Point, Problem> {
    text.parse().map_err(|error: starlane_core::PointError| {
        let span = Span { start: error.at, end: error.at + error.length };
        Problem::new(Code::PointSyntax, error.reason).in_text(text, span, "in this point")
    })
}

/// Checks a statement without running it.
pub(super) fn check(text: &str) -> Result<(), Problem> {
    parse(text).map(drop)
}

/// Runs one statement, as a command's arguments form it; its result is the whole result of the command.
pub(super) async fn run_one(session: &Session, text: &str) -> Result<(), Stop> {
    for step in parse(text)? {
        step.run(session, false).await?;
    }
    Ok(())
}

/// Carries out a `get`, as a command's arguments form it, with what the node last heard.
pub(super) async fn get_stale(session: &Session, text: &str) -> Result<(), Stop> {
    let steps = parse(text)?;
    if let Some(step) = steps.iter().find(|step| !matches!(step.command, Command::Get { .. })) {
        let problem = Problem::new(Code::Usage, "what changes something is never stale");
        return Err(step.locate(problem.help("run it without `--stale-ok`")).into());
    }
    let client = session.client()?.reading(Freshness::Stale);
    for step in steps {
        let Command::Get { point, keys } = &step.command else { continue };
        let mut resource = client.resource(point).await.map_err(|problem| step.locate(problem))?;
        let output = if keys.is_empty() {
            Output::Resource { resource }
        } else {
            resource.properties.retain(|key, _| keys.contains(key));
            Output::Properties { point: resource.point, properties: resource.properties }
        };
        emit(session, &Outcome::Node(output))?;
    }
    Ok(())
}

/// Runs the statements of a text in order; the first that fails stops. `name` is whose text it is, empty for what was
/// typed.
pub(super) async fn run_all(session: &Session, name: &str, text: &str) -> Result<(), Stop> {
    let steps = parse(text).map_err(|problem| named(problem, name))?;
    let whole = matches!(session.out.format(), Some(Format::Json | Format::Yaml));
    let mut outcomes = Outcomes::default();
    let mut ended = Ok(());
    for step in &steps {
        match step.run(session, whole).await {
            Ok(outcome) => outcomes.0.extend(outcome),
            Err(Stop::Problem(problem)) => ended = Err(Stop::from(named(*problem, name))),
            Err(other) => ended = Err(other),
        }
        if ended.is_err() {
            break;
        }
    }
    if whole {
        session.out.show(&outcomes)?;
    }
    ended
}

fn emit(session: &Session, outcome: &Outcome) -> Result<(), Stop> {
    match outcome.raw() {
        Some(bytes) if session.out.format().is_none() => session.out.bytes(&bytes),
        _ => session.out.show(outcome),
    }
}

fn named(mut problem: Problem, name: &str) -> Problem {
    if let Some(place) = &mut problem.place
        && place.name.is_empty()
    {
        place.name = name.to_owned();
    }
    problem
}

/// Reads all statements of a text, so that none is run when one is wrong.
fn parse(text: &str) -> Result<Vec<Step<'_>>, Problem> {
    let script = Script::parse(text)?;
    let alone = script.statements.len() == 1;
    let step = |statement: Statement| {
        let command = statement.resolve(&Bindings::default())?;
        Ok(Step { text, command, statement, alone })
    };
    script.statements.into_iter().map(step).collect()
}

/// A statement of a text.
#[derive(Debug)]
struct Step<'a> {
    text: &'a str,
    statement: Statement,
    command: Command,
    /// Whether it is the only one.
    alone: bool,
}

impl Step<'_> {
    /// Carries it out and shows the result, or, with `keep`, hands it back.
    async fn run(&self, session: &Session, keep: bool) -> Result<Option<Outcome>, Stop> {
        let outcome = match self.carry_out(session, keep).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return Ok(None),
            Err(Stop::Problem(problem)) => return Err(self.locate(*problem).into()),
            Err(other) => return Err(other),
        };
        let failed = outcome.failed_status();
        let kept = if keep { Some(outcome) } else { emit(session, &outcome).map(|()| None)? };
        failed.map_or(Ok(kept), |status| request::ended(session, status).map(|()| None))
    }

    /// `None` when the result is shown already, because it may be of any size.
    async fn carry_out(&self, session: &Session, keep: bool) -> Result<Option<Outcome>, Stop> {
        match &self.command {
            Command::Publish { source, point } => {
                transfer::publish(session, Path::new(source), point).await.map(Some)
            }
            Command::Copy { from: Location::Local(file), to: Location::Point(point) } => {
                let point = cp::target(file, point)?;
                transfer::upload(session, file, &point).await.map(Some)
            }
            Command::Copy { from: Location::Point(point), to: Location::Local(file) } => {
                transfer::download(session, point, Path::new(file)).await.map(Some)
            }
            Command::Read(point) if !keep && session.out.format().is_none() => {
                transfer::print(session, session.client()?.read(point).await?).await.map(|()| None)
            }
            Command::Select(selector) => {
                let (client, selector) = (session.client()?, selector.to_string());
                if keep {
                    let page = select::gather(&client, &selector, None, None).await?;
                    let (resources, revision) = (page.resources, page.revision);
                    return Ok(Some(Outcome::Node(Output::List { resources, revision, next: None })));
                }
                select::list(session, &client, &selector, None, None).await.map(|()| None)
            }
            Command::Watch(selector) => {
                let client = session.client()?;
                watch::follow(session, client, &selector.to_string(), None).await.map(|()| None)
            }
            _ => {
                let source = &self.text[self.statement.span.start..self.statement.span.end];
                let mut results = session.client()?.exec(source).await.map_err(|failed| failed.problem)?;
                let result = results.pop();
                let result = result.ok_or_else(|| Problem::new(Code::Internal, "the node gave no result"))?;
                Ok(Some(Outcome::Node(result)))
            }
        }
    }

    /// Moves the place of a problem from the statement, as it was sent, to the whole text; one without a place gets the
    /// statement's, unless it is about the way to the node and there is but one statement.
    fn locate(&self, mut problem: Problem) -> Problem {
        let span = self.statement.span;
        if let Some(place) = &mut problem.place
            && place.name.is_empty()
            && place.source == self.text[span.start..span.end]
        {
            place.span.start += span.start;
            place.span.end += span.start;
            place.source = self.text.to_owned();
            return problem;
        }
        let of_the_way = matches!(
            problem.code,
            Code::Unreachable | Code::Draining | Code::Timeout | Code::Unauthorized | Code::Internal
        );
        if self.alone && of_the_way { problem } else { self.statement.locate(problem) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn arguments_form_a_statement() {
        for (verb, kind, args, statement) in [
            ("create", None, &["localhost<Space>"][..], "create localhost<Space>"),
            ("create?", None, &["shop:users", "<Base>"], "create? shop:users <Base>"),
            (
                "create",
                Some("Mechtron"),
                &["shop:cart", "+config=shop:repo:cart:1.0.0:/config/cart.mechtron"],
                "create shop:cart<Mechtron>{ +config=shop:repo:cart:1.0.0:/config/cart.mechtron }",
            ),
            ("create", Some("<Base>"), &["shop:a{ +b=c }"], "create shop:a<Base>{ +b=c }"),
            (
                "set",
                None,
                &["shop", "+title=Fine shoes", "!motd"],
                "set shop{ +title=\"Fine shoes\", !motd }",
            ),
            ("set", None, &["shop", "+@q=say \"hi\"\n"], "set shop{ +@q=\"say \\\"hi\\\"\\n\" }"),
            ("set", None, &["shop", "+empty="], "set shop{ +empty=\"\" }"),
            ("set", None, &["shop{", "+a=b,", "!c", "}"], "set shop{ +a=b, !c }"),
            ("set", None, &["shop", "+limits={\"a\": 1}"], "set shop{ +limits={\"a\": 1} }"),
            ("set", None, &["shop", "+price=$5 each"], "set shop{ +price=\"\\$5 each\" }"),
            ("delete -r", None, &["shop:**"], "delete -r shop:**"),
        ] {
            assert_eq!(from_words(verb, kind, &words(args)), statement);
        }
    }

    #[test]
    fn properties_typed_in_a_shell_are_the_text_that_was_meant() {
        for value in
            ["hello world", "a,b", "}", "say \"hi\"", "$5", "${x}", "a=b", "ü", "tab\there", "\\", "{", "#"]
        {
            let text = from_words("set", None, &words(&["shop", &format!("+a={value}")]));
            let steps = parse(&text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
            let [Step { command: Command::Set { changes, .. }, .. }] = &steps[..] else { panic!("{text}") };
            let [starlane_core::PropertyChange::Set { value: read, .. }] = &changes[..] else {
                panic!("{text}")
            };
            assert_eq!(read.as_text(), Some(value), "{text}");
        }
    }

    #[test]
    fn nothing_runs_when_one_statement_is_wrong() {
        let place = |text: &str| parse(text).unwrap_err().place.unwrap();
        assert_eq!(place("create a<Space>;\nset A{ +b=c }").line(), 2);
        assert_eq!(place("create a<Space>;\nfetch b").label, "not a command");
    }

    #[test]
    fn a_place_in_a_statement_becomes_one_in_the_script() {
        let script = "create a<Space>;\nset a{ +b=c };";
        let steps = parse(script).unwrap();
        let problem = Problem::new(Code::PropertyLocked, "`b` is locked").in_text(
            "set a{ +b=c }",
            Span { start: 8, end: 9 },
            "here",
        );
        let place = steps[1].locate(problem).place.unwrap();
        assert_eq!((&script[place.span.start..place.span.end], place.line()), ("b", 2));
        let place = steps[1].locate(Problem::new(Code::Unreachable, "no")).place.unwrap();
        assert_eq!(place.line(), 2);
        let alone = &parse("delete a").unwrap()[0];
        assert_eq!(alone.locate(Problem::new(Code::Unreachable, "no")).place, None);
        assert!(alone.locate(Problem::new(Code::NotFound, "no")).place.is_some());
    }
}
