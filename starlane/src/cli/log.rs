//! `starlane log`.

use clap::Args;
use gateway::shapes::{DifferenceKind, History, HistoryEntry};
use serde_json::{Value, json};

use super::Session;
use super::diff::what;
use super::statement::parse_point;
use crate::output::{Render, Stop, Table, human, safe};

/// Shows what happened to a resource, the newest first: in which revision, when, on whose authority, and what changed.
/// It goes as far back as the history is kept, also for one that is gone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane log shop:cart
  starlane log shop:cart --limit 5
  starlane log shop:cart -o json

What a mechtron writes is another log: `starlane logs`.")]
pub(super) struct LogArgs {
    /// The point
    point: String,
    /// Only so many of the newest changes [default: 100, at most 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

pub(super) async fn run(session: &Session, args: LogArgs) -> Result<(), Stop> {
    let point = parse_point(&args.point)?;
    let limit = args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let history = session.client()?.history(&point, limit).await?;
    session.out.show(&Log(history))
}

/// What happened to a resource.
struct Log(History);

fn word(entry: &HistoryEntry) -> &'static str {
    match entry.difference.change {
        DifferenceKind::Added => "created",
        DifferenceKind::Changed => "changed",
        DifferenceKind::Removed => "deleted",
    }
}

impl Render for Log {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn json_lines(&self) -> Vec<Value> {
        self.0.entries.iter().map(|entry| json!(entry)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.entries.iter().map(|entry| entry.revision.to_string()).collect()
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["REVISION", "TIME", "AGENT", "CHANGE", "WHAT"]);
        for entry in &self.0.entries {
            table.row([
                entry.revision.to_string(),
                human::date_time(entry.time.0),
                entry.agent.to_string(),
                word(entry).to_owned(),
                what(&entry.difference),
            ]);
        }
        table
    }

    fn text(&self) -> Vec<String> {
        let line = |entry: &HistoryEntry| {
            let (revision, time) = (entry.revision, human::date_time(entry.time.0));
            let (agent, word, what) = (&entry.agent, word(entry), what(&entry.difference));
            safe(&format!("{revision}  {time}  {agent}  {word}  {what}")).trim_end().to_owned()
        };
        self.0.entries.iter().map(line).collect()
    }
}
