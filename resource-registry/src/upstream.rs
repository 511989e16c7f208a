//! What the registry asks of the mesh: calls to the registry's node, each with exactly one outcome.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use starlane_core::{Code, Refusal};

use crate::store;

/// The way to one service of a node of the registry.
pub trait Upstream: Send + Sync + 'static {
    /// Sends a request of at most [`crate::CALL_BYTES_MAX`] bytes, when called and not when polled, and tells its one
    /// outcome after `timeout` at the latest. Never runs a request twice. Dropping the future may cancel the request.
    ///
    /// # Errors
    /// At once when the node is out of reach.
    fn call(&self, request: Bytes, timeout: Duration) -> BoxFuture<'static, Result<Bytes, Unanswered>>;

    /// Asks another node from the next call on, since the one that was asked does not have what it was asked for. `false`
    /// when there is none that was not turned to since a call was answered by what it was asked for.
    fn turn(&self) -> bool {
        false
    }
}

/// How a call ends without an answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unanswered {
    /// It surely did not run.
    #[error("{0}")]
    Rejected(Refusal),
    /// It may have run, or may still run.
    #[error("{0}")]
    Unknown(Refusal),
}

impl Unanswered {
    /// Why.
    pub fn refusal(&self) -> &Refusal {
        match self {
            Unanswered::Rejected(refusal) | Unanswered::Unknown(refusal) => refusal,
        }
    }

    /// The same to whoever asks a store or the states. `only_reads`: what was asked changes nothing, so that it does not
    /// matter whether it ran.
    pub(crate) fn into_store_error(self, only_reads: bool) -> store::Error {
        match self {
            Unanswered::Rejected(Refusal { code: Code::Busy, .. }) => store::Error::Busy,
            Unanswered::Rejected(Refusal { code: Code::TooLarge, detail, .. }) => {
                store::Error::TooLarge(detail)
            }
            Unanswered::Rejected(Refusal { code: Code::Unsupported, detail, .. }) => {
                store::Error::Unsupported { reason: detail }
            }
            Unanswered::Unknown(refusal) if !only_reads => store::Error::Unknown { reason: refusal.detail },
            Unanswered::Unknown(refusal) | Unanswered::Rejected(refusal) => {
                store::Error::Unreachable { reason: refusal.detail }
            }
        }
    }
}

impl From<Refusal> for Unanswered {
    /// For a mesh that tells outcomes by their codes: only what surely did not run is taken as rejected.
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            Code::Unreachable
            | Code::Busy
            | Code::Expired
            | Code::Draining
            | Code::NotReady
            | Code::NotFound
            | Code::NoRoute
            | Code::Usage
            | Code::Unsupported
            | Code::TooLarge
            | Code::Unauthorized
            | Code::Forbidden
            | Code::CycleDetected => Unanswered::Rejected(refusal),
            _ => Unanswered::Unknown(refusal),
        }
    }
}
