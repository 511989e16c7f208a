//! `starlane dead-letters`.

use clap::Args;
use gateway::shapes::DeadLetterList;
use serde_json::{Value, json};

use super::Session;
use super::statement::parse_point;
use crate::output::{Render, Stop, Table, human};

/// Shows the messages to a space that were sent without waiting for an answer, were taken, and could not be delivered: the last
/// of them, and how many there were since the nodes started. What they said is not kept.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane dead-letters shop
  starlane dead-letters shop -o jsonl

Each node keeps the last 100 of a space in memory. One whose receiver has no space is kept in the space of its sender.")]
pub(super) struct DeadLettersArgs {
    /// The space
    space: String,
}

pub(super) async fn run(session: &Session, args: DeadLettersArgs) -> Result<(), Stop> {
    let list = Letters(session.client()?.dead_letters(&parse_point(&args.space)?).await?);
    session.out.show(&list)?;
    let shown = list.0.letters.len() as u64;
    if shown < list.0.count {
        session.out.note(format!("{} there were, the last {shown} are shown", list.0.count));
    }
    for node in &list.0.missing {
        session.out.note(format!("`{node}` did not tell its own"));
    }
    Ok(())
}

/// The dead letters of a space.
struct Letters(DeadLetterList);

impl Render for Letters {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn json_lines(&self) -> Vec<Value> {
        self.0.letters.iter().map(|letter| json!(letter)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.letters.iter().map(|letter| letter.to.to_string()).collect()
    }

    fn table(&self, wide: bool) -> Table {
        let mut columns = vec!["TIME", "FROM", "TO", "METHOD", "CODE", "REASON"];
        if wide {
            columns.extend(["NODE", "PATH", "BYTES", "ID"]);
        }
        let mut table = Table::new(&columns);
        for letter in &self.0.letters {
            let mut row = vec![
                human::date_time(letter.time.0),
                letter.from.to_string(),
                letter.to.to_string(),
                letter.method.clone(),
                letter.code.to_string(),
                letter.reason.clone(),
            ];
            if wide {
                row.extend([
                    letter.node.to_string(),
                    letter.path.clone(),
                    letter.bytes.to_string(),
                    letter.id.clone(),
                ]);
            }
            table.row(row);
        }
        table
    }

    fn text(&self) -> Vec<String> {
        self.table(false).lines()
    }
}
