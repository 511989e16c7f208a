//! `starlane read`.

use clap::Args;

use super::statement::parse_point;
use super::{Session, transfer};
use crate::output::Stop;

/// Prints the content of a file or an artifact, byte for byte.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane read shop:files:/notes.txt
  starlane read localhost:repo:site:1.0.0:/bind/site.bind")]
pub(super) struct ReadArgs {
    /// The point of the file or artifact
    point: String,
}

pub(super) async fn run(session: &Session, args: ReadArgs) -> Result<(), Stop> {
    let point = parse_point(&args.point)?;
    transfer::print(session, session.client()?.read(&point).await?).await
}
