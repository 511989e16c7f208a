//! What answers the messages of a point.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::{Incoming, Reply};

/// Why a message has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failed {
    /// In words.
    pub detail: String,
    /// Whether anything of it was done; only what surely was not is safe to ask again.
    pub ran: bool,
}

impl Failed {
    /// It was begun, and failed.
    pub fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ran: true }
    }

    /// Nothing of it was done.
    pub fn refused(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ran: false }
    }
}

impl From<crate::Error> for Failed {
    fn from(error: crate::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<serde_json::Error> for Failed {
    /// A body that is not what it should be: nothing was done.
    fn from(error: serde_json::Error) -> Self {
        Self::refused(format!("the body is wrong: {error}"))
    }
}

pub(crate) type Handler = Arc<dyn Fn(Incoming) -> BoxFuture<'static, Result<Reply, Failed>> + Send + Sync>;
