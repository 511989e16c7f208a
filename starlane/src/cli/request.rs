//! `starlane request`.

use clap::Args;
use starlane_core::{Code, Method, Point, Problem, Span};

use super::{Session, transfer};
use crate::client::{Answer, Outgoing};
use crate::output::{Stop, safe};

/// The longest body that is sent, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Asks a point and prints the body of the answer.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane request 'shop:cart^Ext<AddItem>' '{\"id\": 1}'
  starlane request 'shop:cart^Ext<AddItem>' @item.json --timeout 5s
  starlane request 'localhost^Http<Get>/index.html' -i

Exit code 8 when the mechtron fails or answers with a status of 400 or above, 7 when no answer came in
time and the request may have run, 3 when nothing is at the point, 1 when its mailbox is full.")]
pub(super) struct RequestArgs {
    #[command(flatten)]
    message: Message,
    /// Print the status and the headers before the body
    #[arg(short, long)]
    include: bool,
}

/// A message as it is typed.
#[derive(Debug, Args)]
pub(super) struct Message {
    /// The point, what is asked, and a path: POINT^Ext<Method>, POINT^Http<Get>/path; Http<Get> of / when left out
    target: String,
    #[command(flatten)]
    content: Content,
}

/// What is given along with a message, as it is typed.
#[derive(Debug, Args)]
pub(super) struct Content {
    /// The body; @FILE reads it from a file, `-` from standard input
    body: Option<String>,
    /// A header; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
}

/// A message that is ready to go.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) point: Point,
    pub(super) outgoing: Outgoing,
}

pub(super) async fn run(session: &Session, args: RequestArgs) -> Result<(), Stop> {
    let Call { point, outgoing } = args.message.read()?;
    let mut answer = session.client()?.request(&point, outgoing, session.globals.timeout).await?;
    if args.include {
        session.out.lines(head(&answer))?;
    }
    while let Some(chunk) = answer.chunk().await? {
        session.out.bytes(&chunk)?;
    }
    ended(session, answer.status)
}

/// Says by the exit code when an answer is an error of the mechtron's own.
pub(super) fn ended(session: &Session, status: u16) -> Result<(), Stop> {
    if status < 400 {
        return Ok(());
    }
    session.out.note(format!("the answer's status is {status}"));
    Err(Stop::Exit(8))
}

fn head(answer: &Answer) -> Vec<String> {
    let mut lines = vec![format!("status: {}", answer.status)];
    for (name, value) in &answer.headers {
        lines.push(safe(&format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))));
    }
    lines.push(String::new());
    lines
}

impl Message {
    /// Reads the target and the body.
    pub(super) fn read(self) -> Result<Call, Problem> {
        let Target { point, method, path } = Target::parse(&self.target)?;
        Ok(Call { point, outgoing: self.content.read(method, path)? })
    }
}

impl Content {
    /// Reads the body; what is asked, and of what, is known already.
    pub(super) fn read(self, method: Option<Method>, path: Option<String>) -> Result<Outgoing, Problem> {
        let body = match self.body.as_deref() {
            None => Vec::new(),
            Some("-") => transfer::read_bytes("-", BODY_BYTES_MAX)?,
            Some(text) => match text.strip_prefix('@') {
                Some(file) => transfer::read_bytes(file, BODY_BYTES_MAX)?,
                None => text.as_bytes().to_vec(),
            },
        };
        let mut headers = self.headers;
        if !body.is_empty() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("content-type".to_owned(), content_type(&body).to_owned()));
        }
        Ok(Outgoing { method, path, headers, body: body.into() })
    }
}

/// What a body most likely is.
fn content_type(body: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        "application/json"
    } else if std::str::from_utf8(body).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("`{text}` is not a header: write it as `name: value`")),
    }
}

/// Whom to ask for what: `shop:cart^Ext<AddItem>`, `shop^Http<Get>/index.html`.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    point: Point,
    method: Option<Method>,
    path: Option<String>,
}

impl Target {
    fn parse(text: &str) -> Result<Self, Problem> {
        let Some((point, call)) = text.split_once('^') else {
            return Ok(Self { point: super::statement::parse_point(text)?, method: None, path: None });
        };
        let point: Point = point.parse().map_err(|error: starlane_core::PointError| {
            let span = Span { start: error.at, end: error.at + error.length };
            Problem::new(Code::PointSyntax, error.reason).in_text(text, span, "in this point")
        })?;
        let (method, path) = parse_call(text, text.len() - call.len())?;
        Ok(Self { point, method: Some(method), path })
    }
}

/// Reads what is asked from a byte of a text on: `Ext<AddItem>`, `Http<Get>/index.html`.
pub(super) fn parse_call(text: &str, start: usize) -> Result<(Method, Option<String>), Problem> {
    let wrong = |start: usize, end: usize, label: &str| {
        Problem::new(Code::Syntax, format!("`{}` is not a call", &text[start..end]))
            .in_text(text, Span { start, end }, label)
            .help("calls are written as `^Ext<Method>` or `^Http<Get>/path`")
    };
    let end = text[start..].find('>').map_or(text.len(), |at| start + at + 1);
    let method: Method = text[start..end].parse().map_err(|_| wrong(start, end, "no family and method"))?;
    let path = &text[end..];
    if !path.is_empty() && !path.starts_with('/') {
        return Err(wrong(end, text.len(), "a path begins with `/`"));
    }
    Ok((method, (!path.is_empty()).then(|| path.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let target = Target::parse("shop:cart^Http<Get>/a?b=c^d").unwrap();
        assert_eq!(target.point.as_str(), "shop:cart");
        assert_eq!(target.method.unwrap().to_string(), "Http<Get>");
        assert_eq!(target.path.as_deref(), Some("/a?b=c^d"));
        let plain = Target::parse("shop:cart").unwrap();
        assert_eq!((plain.method, plain.path), (None, None));
        assert_eq!(Target::parse("shop:cart^Msg<Add>").unwrap().method.unwrap().to_string(), "Ext<Add>");
    }

    #[test]
    fn wrong_targets_point_at_the_place() {
        for (text, start, end) in [
            ("shop:Cart^Ext<Add>", 5, 6),
            ("shop:cart^Ext", 10, 13),
            ("shop:cart^Ext<add>", 10, 18),
            ("shop:cart^Ext<Add>x", 18, 19),
            ("shop:cart^", 10, 10),
        ] {
            let place = Target::parse(text).unwrap_err().place.unwrap();
            assert_eq!(place.span, Span { start, end }, "{text}");
        }
    }

    #[test]
    fn a_body_says_what_it_is() {
        for (body, expected) in [
            (&b"{\"a\":1}"[..], "application/json"),
            (b"1", "application/json"),
            (b"hello", "text/plain; charset=utf-8"),
            (b"\xff\xfe", "application/octet-stream"),
        ] {
            assert_eq!(content_type(body), expected);
        }
    }
}
