//! `starlane get`.

use clap::Args;

use super::fresh::Fresh;
use super::{Session, statement};
use crate::output::Stop;

/// Shows a resource, or some of its properties.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane get shop:cart
  starlane get shop:cart title region
  starlane get 'shop:cart{ title }'
  starlane get shop:cart -o json")]
pub(super) struct GetArgs {
    /// The point
    point: String,
    /// Keys of properties; all when none is named
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    fresh: Fresh,
}

pub(super) async fn run(session: &Session, args: GetArgs) -> Result<(), Stop> {
    let text = if args.keys.is_empty() || args.keys.iter().any(|key| key.contains('{')) {
        statement::from_words("get", None, &[vec![args.point], args.keys].concat())
    } else {
        format!("get {}{{ {} }}", args.point, args.keys.join(", "))
    };
    if args.fresh.stale_ok {
        return statement::get_stale(session, &text).await;
    }
    statement::run_one(session, &text).await
}
