//! `starlane exec`.

use clap::Args;

use super::{Session, statement};
use crate::output::Stop;

/// Runs statements of the language, one after the other. The first that fails stops.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane exec 'create localhost<Space>'
  starlane exec 'create? shop<Space>; create? shop:users<Base>; select shop+:**'
  starlane exec 'publish ^[ site.zip ]-> shop:repo:site:1.0.0'")]
pub(super) struct ExecArgs {
    /// The statements, separated by `;`
    #[arg(required = true, value_name = "STATEMENT")]
    words: Vec<String>,
}

pub(super) async fn run(session: &Session, args: ExecArgs) -> Result<(), Stop> {
    statement::run_all(session, "", &args.words.join(" ")).await
}
