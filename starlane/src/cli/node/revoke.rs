//! `starlane node revoke`.

use std::io::IsTerminal as _;

use clap::Args;
use serde_json::{Value, json};
use starlane_core::{Code, NodeName, Problem};

use crate::cli::Session;
use crate::output::{Render, Stop, Table};

/// Shuts a node out of the mesh for good: its links are closed and its certificate is refused everywhere. Its
/// mechtrons are placed on others. To come back it needs a new token and an empty data folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane node drain edge-1 && starlane node revoke edge-1 --yes")]
pub(super) struct RevokeArgs {
    /// The name of the node
    name: NodeName,
    /// Yes, for good; needed when standard input is a terminal
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(session: &Session, args: RevokeArgs) -> Result<(), Stop> {
    let name = args.name;
    if !args.yes && std::io::stdin().is_terminal() {
        let problem = Problem::new(Code::Usage, format!("revoking shuts `{name}` out of the mesh for good"));
        return Err(problem.help(format!("if that is meant: `starlane node revoke {name} --yes`")).into());
    }
    session.client()?.revoke(&name).await?;
    session.out.show(&Revoked(name))
}

/// A node that was shut out.
struct Revoked(NodeName);

impl Render for Revoked {
    fn json(&self) -> Value {
        json!({ "name": self.0, "revoked": true })
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.to_string()]
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["REVOKED"]);
        table.row(self.names());
        table
    }

    fn text(&self) -> Vec<String> {
        vec![format!("revoked {}", self.0)]
    }
}
