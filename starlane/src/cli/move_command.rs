//! `starlane move`.

use clap::Args;
use gateway::shapes::Moved;
use serde_json::{Value, json};
use starlane_core::NodeName;

use super::Session;
use super::statement::parse_point;
use crate::output::{Render, Stop, Table};

/// Moves a mechtron to a node, with its mailbox and its state, and waits until it is there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane move shop:cart --to edge-1
  starlane move shop:cart --to edge-1 --timeout 2m

Exit code 7 when it is not there in time: it is still on its way, and `starlane why` says where it is.")]
pub(super) struct MoveArgs {
    /// The point of the mechtron
    point: String,
    /// The node
    #[arg(long, value_name = "NODE")]
    to: NodeName,
}

pub(super) async fn run(session: &Session, args: MoveArgs) -> Result<(), Stop> {
    let point = parse_point(&args.point)?;
    let moved = session.client()?.move_to(&point, &args.to, session.globals.timeout).await?;
    session.out.show(&Move(moved))
}

/// A move that was made.
struct Move(Moved);

impl Render for Move {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.node.to_string()]
    }

    fn table(&self, _wide: bool) -> Table {
        let Moved { point, node, from, epoch } = &self.0;
        let mut table = Table::new(&["POINT", "FROM", "TO", "EPOCH"]);
        let from = from.as_ref().map(ToString::to_string).unwrap_or_default();
        table.row([point.to_string(), from, node.to_string(), epoch.0.to_string()]);
        table
    }

    fn text(&self) -> Vec<String> {
        vec![format!("moved {} to {}", self.0.point, self.0.node)]
    }
}
