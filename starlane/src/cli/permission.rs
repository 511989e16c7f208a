//! `starlane grant` and `starlane chown`: part of the language, and refused as long as permissions are not supported.

use clap::Args;

use super::{Session, statement};
use crate::output::Stop;

/// Changes who may do what. Read and checked like every statement, and then refused: permissions are not supported yet.
#[derive(Debug, Args)]
pub(super) struct PermissionArgs {
    /// The rest of the statement
    #[arg(required = true, value_name = "STATEMENT", allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(super) async fn run(session: &Session, verb: &str, args: PermissionArgs) -> Result<(), Stop> {
    statement::run_one(session, &format!("{verb} {}", args.words.join(" "))).await
}
