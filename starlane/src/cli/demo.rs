//! `starlane demo`: the whole story in front of the reader's eyes.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Session;
use crate::output::Stop;

/// Starts a node in a folder of its own, shows what the mesh does step by step with the commands that you would type,
/// and checks every answer.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  starlane demo
  starlane demo --keep --http 127.0.0.1:8080

Exit code 1 when an answer is not what it should be.")]
pub struct DemoArgs {
    /// Stay up afterwards and print the addresses
    #[arg(long)]
    pub keep: bool,
    /// The folder with the bundles of the examples, as `make demo` builds them
    #[arg(long, value_name = "DIR")]
    pub bundles: Option<PathBuf>,
    /// Where spaces are served as web sites [default: a free port]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", hide_default_value = true)]
    pub http: SocketAddr,
    /// Where the /v1 API is served [default: a free port]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", hide_default_value = true)]
    pub api: SocketAddr,
}

/// Tells the story.
pub(super) async fn run(_session: &Session, args: DemoArgs) -> Result<(), Stop> {
    crate::demo::run(args).await
}
