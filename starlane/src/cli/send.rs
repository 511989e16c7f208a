//! `starlane send`.

use clap::Args;
use gateway::shapes::Output;

use super::Session;
use super::request::{Call, Message};
use super::results::Outcome;
use crate::output::Stop;

/// Sends a message to a point, without waiting for an answer, and prints its id. The exit code says whether a mailbox
/// has taken it, not what became of it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane send 'shop:cart^Ext<Refresh>' '{}'
  tail -1 orders.json | starlane send 'shop:orders^Ext<Add>' -")]
pub(super) struct SendArgs {
    #[command(flatten)]
    message: Message,
}

pub(super) async fn run(session: &Session, args: SendArgs) -> Result<(), Stop> {
    let Call { point, outgoing } = args.message.read()?;
    let sent = session.client()?.send(&point, outgoing).await?;
    session.out.show(&Outcome::Node(Output::Sent { id: sent.id }))
}
