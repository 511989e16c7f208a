//! `starlane describe`.

use clap::Args;

use super::Session;
use super::fresh::Fresh;
use super::results::Described;
use super::statement::parse_point;
use crate::output::Stop;

/// Shows all that is known of a resource: its properties, status, children, and the messages that it understands.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane describe shop:cart
  starlane describe shop:cart -o json")]
pub(super) struct DescribeArgs {
    /// The point
    point: String,
    #[command(flatten)]
    fresh: Fresh,
}

pub(super) async fn run(session: &Session, args: DescribeArgs) -> Result<(), Stop> {
    let point = parse_point(&args.point)?;
    let client = session.client()?.reading(args.fresh.into());
    session.out.show(&Described(client.describe(&point).await?))
}
