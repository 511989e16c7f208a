//! `starlane scatter`.

use clap::Args;
use gateway::shapes::{Data, ScatterAnswer, ScatterEnd, ScatterLine, ScatterOutcome, Until};
use serde_json::{Value, json};
use starlane_core::{Code, Method, Problem, Selector};

use super::request::{Content, parse_call};
use super::{Session, statement};
use crate::client::JsonLines;
use crate::output::{Format, Render, Stop, Table, human, safe};

/// Asks every resource that a selector means at once, and prints a line for each as it answers: the point, the status,
/// the body. Those that do not answer are named with the reason.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane scatter 'shop:**<Mechtron>^Ext<Stock>' '{\"item\": 1}'
  starlane scatter 'shop:*<Mechtron>[region = \"eu\"]^Http<Get>/total' --until quorum
  starlane scatter 'shop:**<Mechtron>^Ext<Stock>' '{}' --until 2 --timeout 1s -o jsonl

Exit code 0 when as many answered as `--until` says, with a status below 400; 1 when not; 3 when the
selector means nothing. The others are given up as soon as enough have answered.")]
pub(super) struct ScatterArgs {
    /// The selector, what is asked, and a path: SELECTOR^Ext<Method>, SELECTOR^Http<Get>/path; Http<Get> of / when
    /// left out
    target: String,
    #[command(flatten)]
    content: Content,
    /// How many good answers to wait for: all, quorum, or a number
    #[arg(long, value_name = "WHEN", default_value = "all")]
    until: Until,
}

pub(super) async fn run(session: &Session, args: ScatterArgs) -> Result<(), Stop> {
    let Target { selector, method, path } = Target::parse(&args.target)?;
    let outgoing = args.content.read(method, path)?;
    let lines = session.client()?.scatter(selector, outgoing, args.until, session.globals.timeout).await?;
    let end = gather(session, lines).await?;
    if end.asked == 0 {
        return Err(Problem::new(Code::NotFound, format!("`{selector}` means nothing that could be asked"))
            .help(format!("`starlane select '{selector}'` shows what it means"))
            .into());
    }
    let wanted = args.until.wanted(end.asked);
    let said = format!("{} of {} answered well", end.ok, end.asked);
    if end.ok >= wanted {
        session.out.note(said);
        return Ok(());
    }
    session.out.note(format!("{said}, and {wanted} were wanted"));
    Err(Stop::Exit(1))
}

/// Shows the answers, one by one where the form allows it; gives the last line.
async fn gather(session: &Session, mut lines: JsonLines<ScatterLine>) -> Result<ScatterEnd, Stop> {
    let mut gathered = Gathered::default();
    let ended = |why: String| {
        Problem::new(Code::Unreachable, why)
            .help("whether the others were asked is not known: look before you ask again")
    };
    loop {
        match lines.next().await {
            Ok(Some(ScatterLine::Answer(answer))) => match session.out.format() {
                None => session.out.lines([text(&answer)])?,
                Some(Format::Jsonl) => session.out.lines([json!(answer).to_string()])?,
                Some(Format::Name) if !answer.is_good() => {}
                Some(Format::Name) => session.out.lines([safe(answer.point.as_str())])?,
                Some(_) => gathered.answers.push(*answer),
            },
            Ok(Some(ScatterLine::End(end))) => {
                gathered.end = Some(end);
                if matches!(
                    session.out.format(),
                    Some(Format::Json | Format::Yaml | Format::Table | Format::Wide)
                ) {
                    session.out.show(&gathered)?;
                }
                return Ok(end);
            }
            Ok(None) => return Err(ended("the node ended before all was gathered".into()).into()),
            Err(error) => return Err(ended(error.to_string()).into()),
        }
    }
}

/// `shop:cart  200  {"total":2}`, or how it ended and why.
fn text(answer: &ScatterAnswer) -> String {
    safe(format!("{}  {}  {}", answer.point, how(answer), what(answer)).trim_end())
}

/// The status of the answer, or how the request ended.
fn how(answer: &ScatterAnswer) -> String {
    match answer.status {
        Some(status) => status.to_string(),
        None => match answer.outcome {
            ScatterOutcome::Ok => "ok",
            ScatterOutcome::Rejected => "rejected",
            ScatterOutcome::Failed => "failed",
            ScatterOutcome::Unknown => "unknown",
        }
        .to_owned(),
    }
}

/// The body of the answer, or why there is none.
fn what(answer: &ScatterAnswer) -> String {
    if let Some(problem) = &answer.problem {
        return format!("{}: {}", problem.code, problem.detail);
    }
    match &answer.body {
        Some(Data::Text(text)) => text.trim_end().to_owned(),
        Some(data @ Data::Base64(_)) => {
            let bytes = data.to_bytes().unwrap_or_default().len() as u64;
            let kind = answer.content_type.as_deref().unwrap_or("bytes");
            format!("({} of {kind})", human::bytes(bytes))
        }
        None => String::new(),
    }
}

/// All answers.
#[derive(Debug, Default)]
struct Gathered {
    answers: Vec<ScatterAnswer>,
    end: Option<ScatterEnd>,
}

impl Render for Gathered {
    fn json(&self) -> Value {
        let mut json = json!({ "answers": self.answers });
        if let Some(end) = self.end {
            json["gathered"] = end.gathered.into();
            json["asked"] = end.asked.into();
            json["ok"] = end.ok.into();
        }
        json
    }

    fn names(&self) -> Vec<String> {
        self.answers.iter().map(|answer| safe(answer.point.as_str())).collect()
    }

    fn table(&self, wide: bool) -> Table {
        let header: &[&str] =
            if wide { &["POINT", "STATUS", "NODE", "BODY"] } else { &["POINT", "STATUS", "BODY"] };
        let mut table = Table::new(header);
        for answer in &self.answers {
            let mut row = vec![answer.point.to_string(), how(answer)];
            if wide {
                row.push(answer.node.as_ref().map(ToString::to_string).unwrap_or_default());
            }
            row.push(what(answer));
            table.row(row);
        }
        table
    }
}

/// Whom to ask for what: `shop:**<Mechtron>^Ext<Stock>`.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    selector: &'a str,
    method: Option<Method>,
    path: Option<String>,
}

impl<'a> Target<'a> {
    /// Selectors may hold a `^` too, in versions and texts: the call begins at the first that has a selector before it
    /// and a call after it.
    fn parse(text: &'a str) -> Result<Self, Problem> {
        let mut first_wrong = None;
        for (at, _) in text.match_indices('^') {
            if text[..at].parse::<Selector>().is_err() {
                continue;
            }
            match parse_call(text, at + 1) {
                Ok((method, path)) => return Ok(Self { selector: &text[..at], method: Some(method), path }),
                Err(problem) => first_wrong = first_wrong.or(Some(problem)),
            }
        }
        if let Some(problem) = first_wrong {
            return Err(problem);
        }
        statement::check(&format!("select {text}"))?;
        Ok(Self { selector: text, method: None, path: None })
    }
}

#[cfg(test)]
mod tests {
    use starlane_core::Span;

    use super::*;

    #[test]
    fn targets_are_read() {
        for (text, selector, method, path) in [
            ("shop:**<Mechtron>^Ext<Stock>", "shop:**<Mechtron>", Some("Ext<Stock>"), None),
            ("shop:*^Http<Get>/a?b=c^d", "shop:*", Some("Http<Get>"), Some("/a?b=c^d")),
            ("shop:repo:site:(^1.2.0)", "shop:repo:site:(^1.2.0)", None, None),
            ("shop:repo:site:(^1.2.0)^Ext<Stock>", "shop:repo:site:(^1.2.0)", Some("Ext<Stock>"), None),
            ("shop:*[a = \"^Ext<A>\"]^Ext<B>", "shop:*[a = \"^Ext<A>\"]", Some("Ext<B>"), None),
            ("shop:*", "shop:*", None, None),
        ] {
            let target = Target::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
            let method_read = target.method.map(|method| method.to_string());
            assert_eq!(
                (target.selector, method_read.as_deref(), target.path.as_deref()),
                (selector, method, path),
                "{text}"
            );
        }
    }

    #[test]
    fn wrong_targets_point_at_the_place() {
        for (text, start, end) in [("shop:*^Ext<stock>", 7, 17), ("shop:*^Ext<Stock>x", 17, 18)] {
            let place = Target::parse(text).unwrap_err().place.unwrap();
            assert_eq!(place.span, Span { start, end }, "{text}");
        }
        assert!(Target::parse("shop:**<").is_err());
        assert!(Target::parse("shop:**<^Ext<Stock>").is_err());
    }

    #[test]
    fn an_answer_is_one_line_whatever_it_holds() {
        let answer = |json: &str| text(&serde_json::from_str(json).unwrap());
        for (json, line) in [
            (
                r#"{"point":"shop:a","outcome":"ok","status":200,"body":{"text":"a\nb\n"}}"#,
                "shop:a  200  a␊b",
            ),
            (r#"{"point":"shop:a","outcome":"ok","status":204}"#, "shop:a  204"),
            (
                r#"{"point":"shop:a","outcome":"ok","status":200,"contentType":"image/png","body":{"base64":"//4="}}"#,
                "shop:a  200  (2 B of image/png)",
            ),
            (
                r#"{"point":"shop:a","outcome":"unknown","problem":{"type":"","title":"","status":504,"detail":"no answer","code":"E-TIMEOUT"}}"#,
                "shop:a  unknown  E-TIMEOUT: no answer",
            ),
        ] {
            assert_eq!(answer(json), line);
        }
    }
}
