//! `starlane logs`.

use clap::Args;
use gateway::shapes::LogLine;
use serde_json::json;
use starlane_core::{Code, Problem};

use super::Session;
use super::statement::parse_point;
use crate::output::{Format, Stop, human, safe};

/// Prints what a mechtron logs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane logs shop:cart
  starlane logs shop:cart -f --tail 0
  starlane logs shop:cart -o jsonl")]
pub(super) struct LogsArgs {
    /// The point of the mechtron
    point: String,
    /// Go on with lines as they come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines to begin with
    #[arg(long, value_name = "N", default_value_t = 100)]
    tail: usize,
}

pub(super) async fn run(session: &Session, args: LogsArgs) -> Result<(), Stop> {
    let point = parse_point(&args.point)?;
    let mut lines = session.client()?.logs(&point, args.follow, args.tail).await?;
    loop {
        match lines.next().await {
            Ok(Some(line)) => show(session, &line)?,
            Ok(None) if args.follow => {
                return Err(Problem::new(Code::Unreachable, "the node ended the log")
                    .help("go on with `starlane logs -f --tail 0`; lines in between may be missing")
                    .into());
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err(Problem::new(Code::Unreachable, error.to_string()).into()),
        }
    }
}

fn show(session: &Session, line: &LogLine) -> Result<(), Stop> {
    session.out.lines([match session.out.format() {
        Some(Format::Json | Format::Jsonl) => json!(line).to_string(),
        Some(Format::Name) => safe(&line.line),
        _ => text(line),
    }])
}

/// `2026-03-01T12:04:11.250Z  info  shop:cart  added a shoe`.
fn text(line: &LogLine) -> String {
    format!(
        "{}  {:<5}  {}  {}",
        human::date_time(line.time.0),
        safe(&line.level),
        line.point,
        safe(&line.line)
    )
}

#[cfg(test)]
mod tests {
    use starlane_core::Timestamp;

    use super::*;

    #[test]
    fn a_line_tells_when_how_bad_who_and_what() {
        let line = LogLine {
            time: Timestamp(1_772_366_651_250),
            level: "info".into(),
            point: "shop:cart".parse().unwrap(),
            line: "added\u{1b}[2J a shoe".into(),
            trace: None,
        };
        assert_eq!(text(&line), "2026-03-01T12:04:11.250Z  info   shop:cart  added␛[2J a shoe");
    }
}
