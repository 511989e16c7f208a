//! How fresh what a command reads must be.

use clap::Args;
use gateway::Freshness;

/// How fresh what a command reads must be.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Fresh {
    /// Read what the node last heard, also when the registry is out of reach
    #[arg(long)]
    pub(super) stale_ok: bool,
}

impl From<Fresh> for Freshness {
    fn from(fresh: Fresh) -> Self {
        if fresh.stale_ok { Freshness::Stale } else { Freshness::Latest }
    }
}
