//! `starlane publish`.

use std::path::Path;

use clap::Args;

use super::{Session, statement, transfer};
use crate::output::Stop;

/// Publishes an immutable bundle from a zip file, or from a folder, which is zipped on the fly.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane publish site.zip localhost:repo:site:1.0.0
  starlane publish ./site localhost:repo:site:1.0.0
  starlane publish '^[ site.zip ]-> localhost:repo:site:1.0.0'")]
pub(super) struct PublishArgs {
    /// The zip file or folder, and the point of the bundle: its last segment is the version
    #[arg(required = true, num_args = 1.., value_name = "SOURCE POINT")]
    words: Vec<String>,
}

pub(super) async fn run(session: &Session, args: PublishArgs) -> Result<(), Stop> {
    if let [source, point] = args.words.as_slice()
        && !source.starts_with("^[")
    {
        let point = statement::parse_point(point)?;
        let outcome = transfer::publish(session, Path::new(source), &point).await?;
        return session.out.show(&outcome);
    }
    statement::run_one(session, &format!("publish {}", args.words.join(" "))).await
}
