//! Statements of the language on the command line: read here first, so that a mistake shows before anything is sent;
//! then carried out in order, those about local files by this command and the others by the node.

use starlane_core::{Code, Place, Point, Problem, Span};

use super::results::{Outcome, Outcomes};
use super::{Session, request};
use crate::output::{Format, Stop};

/// The statement that a command's arguments form. `kind` is written after the point; arguments after the first that
/// begin with `+` or `!` become the properties in braces.
pub(super) fn from_words(verb: &str, kind: Option<&str>, words: &[String]) -> String {
    let (head, properties): (Vec<&String>, Vec<&String>) = if words.iter().any(|word| word.contains('{')) {
        (words.iter().collect(), Vec::new())
    } else {
        words.iter().partition(|word| !word.starts_with(['+', '!']))
    };
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

/// `+key=value` with the value in quotes where the language would otherwise end it early: a shell has taken the
/// user's own quotes away.
fn quoted(property: &str) -> String {
    let Some((key, value)) = property.split_once('=') else { return property.to_owned() };
    let plain = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(c, ':' | '/' | '.' | '-' | '_' | '@' | '$' | '{' | '}' | '(' | ')')
    };
    if value.starts_with('"') || (!value.is_empty() && value.chars().all(plain)) {
        return property.to_owned();
    }
    let mut quoted = format!("{key}=\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
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

/// Runs one statement; its result is the whole result of the command.
pub(super) async fn run_one(session: &Session, text: &str) -> Result<(), Stop> {
    for statement in parse(text)? {
        let outcome = statement.run(session).await?;
        emit(session, &outcome)?;
    }
    Ok(())
}

/// Runs the statements of a text in order; the first that fails stops. `name` is whose text it is, empty for what was
/// typed.
pub(super) async fn run_all(session: &Session, name: &str, text: &str) -> Result<(), Stop> {
    let statements = parse(text).map_err(|problem| named(problem, name))?;
    let whole = matches!(session.out.format(), Some(Format::Json | Format::Yaml));
    let mut outcomes = Outcomes::default();
    let mut ended = Ok(());
    for statement in &statements {
        match statement.run(session).await {
            Ok(outcome) if whole => outcomes.0.push(outcome),
            Ok(outcome) => ended = emit(session, &outcome),
            Err(Stop::Problem(problem)) => {
                ended = Err(Stop::from(named(statement.place(*problem, text), name)));
            }
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
        Some(bytes) if session.out.format().is_none() => session.out.bytes(&bytes)?,
        _ => session.out.show(outcome)?,
    }
    outcome.failed_status().map_or(Ok(()), |status| request::ended(session, status))
}

fn named(mut problem: Problem, name: &str) -> Problem {
    if let Some(place) = &mut problem.place
        && place.name.is_empty()
    {
        place.name = name.to_owned();
    }
    problem
}

/// A statement, where it stands, and who carries it out.
#[derive(Debug)]
struct Statement {
    text: String,
    start: usize,
}

fn parse(text: &str) -> Result<Vec<Statement>, Problem> {
    Ok(vec![Statement { text: text.to_owned(), start: 0 }])
}

impl Statement {
    async fn run(&self, session: &Session) -> Result<Outcome, Stop> {
        let mut results = session.client()?.exec(&self.text).await.map_err(|failed| failed.problem)?;
        let result = results.pop().ok_or_else(|| Problem::new(Code::Internal, "the node gave no result"))?;
        Ok(Outcome::Node(result))
    }

    /// Moves the place of a problem from the statement to the whole text; one without a place gets the statement's.
    fn place(&self, mut problem: Problem, whole: &str) -> Problem {
        match &mut problem.place {
            Some(place) if place.name.is_empty() && place.source == self.text => {
                place.span.start += self.start;
                place.span.end += self.start;
                place.source = whole.to_owned();
            }
            Some(_) => {}
            None => {
                let span = Span { start: self.start, end: self.start + self.text.len() };
                let source = whole.to_owned();
                problem.place =
                    Some(Box::new(Place { name: String::new(), source, span, label: String::new() }));
            }
        }
        problem
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
            ("delete -r", None, &["shop:**"], "delete -r shop:**"),
        ] {
            assert_eq!(from_words(verb, kind, &words(args)), statement);
        }
    }

    #[test]
    fn a_place_in_a_statement_becomes_one_in_the_script() {
        let script = "create a<Space>;\nset a{ +B=c };";
        let statement = Statement { text: "set a{ +B=c }".into(), start: 17 };
        let problem = Problem::new(Code::PropertyKey, "`B` is not a key").in_text(
            "set a{ +B=c }",
            Span { start: 8, end: 9 },
            "here",
        );
        let place = statement.place(problem, script).place.unwrap();
        assert_eq!(&script[place.span.start..place.span.end], "B");
        assert_eq!(place.line(), 2);
        let place = statement.place(Problem::new(Code::NotFound, "no"), script).place.unwrap();
        assert_eq!(&script[place.span.start..place.span.end], "set a{ +B=c }");
    }
}
