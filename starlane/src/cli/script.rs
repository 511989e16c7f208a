//! `starlane script`.

use clap::Args;

use super::{Session, statement, transfer};
use crate::output::Stop;

/// The longest script that is read, in bytes.
const SCRIPT_BYTES_MAX: usize = 1 << 20;

/// Runs the statements of a file in order. All are read before the first is run; the first that fails stops.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane script setup.script
  starlane script - < setup.script")]
pub(super) struct ScriptArgs {
    /// The file; `-` for standard input
    file: String,
}

pub(super) async fn run(session: &Session, args: ScriptArgs) -> Result<(), Stop> {
    let text = transfer::read_text(&args.file, SCRIPT_BYTES_MAX)?;
    let name = if args.file == "-" { "standard input" } else { &args.file };
    statement::run_all(session, name, &text).await
}
