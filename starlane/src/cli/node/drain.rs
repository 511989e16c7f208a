//! `starlane node drain` and `undrain`.

use std::time::Duration;

use clap::Args;
use gateway::shapes::{NodeInfo, NodePatch};
use starlane_core::{Code, NodeName, Problem};
use tokio::time::{Instant, sleep, timeout_at};

use super::Done;
use crate::cli::Session;
use crate::client::Client;
use crate::output::{Stop, human};

/// How long the last mechtron may take to move unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How often the node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Places no mechtron on a node any more, and waits until those that it has are moved away. The node stays in the
/// mesh, and passes messages on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane node drain edge-1
  starlane node drain edge-1 --timeout 10m

It waits two minutes unless `--timeout` says otherwise. When it does not end well, and after Ctrl-C,
the node goes on draining; `starlane node undrain edge-1` ends that.")]
pub(super) struct DrainArgs {
    /// The name of the node
    name: NodeName,
}

pub(super) async fn run(session: &Session, args: DrainArgs) -> Result<(), Stop> {
    let name = args.name;
    let client = session.client()?;
    let node = client.patch_node(&name, &draining(true)).await?;
    let waited = session.globals.timeout.unwrap_or(TIMEOUT);
    let ended = tokio::select! {
        ended = timeout_at(Instant::now() + waited, empty(session, &client, node)) => ended,
        _ = tokio::signal::ctrl_c() => {
            session.out.note(format!("\n{name} goes on draining; to end that: starlane node undrain {name}"));
            return Err(Stop::Interrupted);
        }
    };
    match ended {
        Ok(node) => session.out.show(&Done { said: format!("drained {name}"), node: node? }),
        Err(_) => Err(unfinished(&name, waited).into()),
    }
}

/// The node when no mechtron is assigned to it any more.
async fn empty(session: &Session, client: &Client, mut node: NodeInfo) -> Result<NodeInfo, Problem> {
    let mut told = 0;
    while node.mechtrons > 0 {
        if node.mechtrons != told {
            told = node.mechtrons;
            session.out.note(format!("{}: {told} still there", node.name));
        }
        sleep(LOOK_EVERY).await;
        node = client.node(&node.name).await?;
    }
    Ok(node)
}

fn unfinished(name: &NodeName, waited: Duration) -> Problem {
    let waited = human::duration(waited);
    let detail = format!("`{name}` still has mechtrons after {waited}, and goes on draining");
    Problem::new(Code::Timeout, detail).help(format!(
        "`starlane select '**<Mechtron>[node = \"{name}\"]'` lists them, `starlane why POINT` says why one stays,\n\
         `starlane node undrain {name}` ends it"
    ))
}

/// Lets mechtrons be placed there again.
pub(super) async fn undo(session: &Session, name: &NodeName) -> Result<(), Stop> {
    let node = session.client()?.patch_node(name, &draining(false)).await?;
    session.out.show(&Done { said: format!("undrained {name}"), node })
}

fn draining(draining: bool) -> NodePatch {
    NodePatch { draining: Some(draining), ..NodePatch::default() }
}
