//! `starlane set`.

use clap::Args;

use super::{Session, statement};
use crate::output::Stop;

/// Changes properties of a resource, all or none.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane set localhost +bind=localhost:repo:site:1.0.0:/bind/site.bind
  starlane set shop '+title=Fine shoes' '!motd'
  starlane set 'shop{ +@region=eu, !motd }'")]
pub(super) struct SetArgs {
    /// The point and the changes: `+key=value`, `+@key=value` to lock, `!key` to unset
    #[arg(required = true, value_name = "STATEMENT")]
    words: Vec<String>,
}

pub(super) async fn run(session: &Session, args: SetArgs) -> Result<(), Stop> {
    statement::run_one(session, &statement::from_words("set", None, &args.words)).await
}
