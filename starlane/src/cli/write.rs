//! `starlane write`.

use clap::Args;

use super::statement::parse_point;
use super::{Session, transfer};
use crate::output::Stop;

/// Replaces the content of a file; the file is made when it is not there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  echo hello | starlane write shop:files:/notes.txt
  starlane write shop:files:/notes.txt notes.txt")]
pub(super) struct WriteArgs {
    /// The point of the file
    point: String,
    /// The local file with the content; `-` for standard input
    #[arg(default_value = "-", value_name = "FILE")]
    from: String,
}

pub(super) async fn run(session: &Session, args: WriteArgs) -> Result<(), Stop> {
    let point = parse_point(&args.point)?;
    session.out.show(&transfer::upload(session, &args.from, &point).await?)
}
