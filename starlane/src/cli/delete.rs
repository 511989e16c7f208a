//! `starlane delete`.

use clap::Args;

use super::{Session, statement};
use crate::output::Stop;

/// Deletes a resource, or all that match a selector, and says what it removed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane delete shop:orders:o-17
  starlane delete -r shop
  starlane delete 'shop:orders:*<Order>[exists(paid)]'")]
pub(super) struct DeleteArgs {
    /// A point or a selector
    #[arg(required = true, value_name = "SELECTOR")]
    words: Vec<String>,
    /// Delete what stands below too
    #[arg(short, long)]
    recursive: bool,
}

pub(super) async fn run(session: &Session, args: DeleteArgs) -> Result<(), Stop> {
    let verb = if args.recursive { "delete -r" } else { "delete" };
    statement::run_one(session, &statement::from_words(verb, None, &args.words)).await
}
