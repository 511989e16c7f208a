//! `starlane trace`.

use clap::Args;
use gateway::shapes::Route;
use serde_json::{Value, json};
use starlane_core::{Code, Problem};

use super::Session;
use super::statement::parse_point;
use crate::output::{Render, Stop, Table, human};

/// Shows the way of a message to a point: each node on it, and the time there and back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane trace shop:cart
  starlane trace shop:cart -o json

Exit code 6 when the way does not lead there; what is known of it is printed all the same.")]
pub(super) struct TraceArgs {
    /// The point
    point: String,
}

pub(super) async fn run(session: &Session, args: TraceArgs) -> Result<(), Stop> {
    let point = parse_point(&args.point)?;
    let way = Way(session.client()?.trace(&point, session.globals.timeout).await?);
    session.out.show(&way)?;
    if way.0.reached {
        return Ok(());
    }
    let reason = way.0.reason.unwrap_or_else(|| format!("no way leads to `{point}`"));
    Err(Problem::new(Code::Unreachable, reason)
        .at(&point)
        .help(format!(
            "`starlane why {point}` says where it lives, `starlane node graph` which links there are"
        ))
        .into())
}

/// The way to a point.
struct Way(Route);

impl Render for Way {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn json_lines(&self) -> Vec<Value> {
        self.0.hops.iter().map(|hop| json!(hop)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.hops.iter().map(|hop| hop.node.to_string()).collect()
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["HOP", "NODE", "TIME"]);
        for (at, hop) in self.0.hops.iter().enumerate() {
            table.row([
                at.to_string(),
                hop.node.to_string(),
                hop.rtt_us.map(human::millis).unwrap_or_default(),
            ]);
        }
        table
    }

    fn text(&self) -> Vec<String> {
        self.table(false).lines()
    }
}
