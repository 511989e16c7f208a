//! Keeps what panics on the local side from ending a lane: whoever asked hears that nobody knows what was done.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures::FutureExt;
use starlane_core::{Code, Outcome, Refusal};

use crate::node::Node;

/// The local side panicked.
pub(crate) struct Panicked;

impl Panicked {
    /// What became of a request: as much of it as ran.
    pub(crate) fn outcome(&self) -> Outcome {
        let why = "the node broke while it handled this; it may have run in part";
        Outcome::Unknown(Refusal::new(Code::Internal, why))
    }
}

impl Node {
    /// Does something of the local side.
    // What a panic left half done is the local side's own; nothing of it is looked at here.
    pub(crate) fn guarded<T>(&self, what: impl FnOnce() -> T) -> Result<T, Panicked> {
        catch_unwind(AssertUnwindSafe(what)).map_err(|_| self.panicked())
    }

    /// The same for what takes its time.
    pub(crate) async fn guard<T>(&self, what: impl Future<Output = T>) -> Result<T, Panicked> {
        AssertUnwindSafe(what).catch_unwind().await.map_err(|_| self.panicked())
    }

    fn panicked(&self) -> Panicked {
        self.counters.panics.one();
        tracing::error!("the local side panicked; whoever asked is told so, and the links go on");
        Panicked
    }
}
