//! The newest revision of a store that must be asked for it: many who want to know at the same time share a call.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use starlane_core::Revision;

use super::Error;

#[derive(Default)]
pub(super) struct Newest {
    /// How many asked.
    asked: AtomicU64,
    /// The last answer, and how many of those who asked it is good for.
    last: tokio::sync::Mutex<Option<(u64, Result<Revision, Error>)>>,
}

impl Newest {
    /// An answer to a call that was sent after this one was made.
    pub(super) async fn get<F>(&self, ask: impl Fn() -> F + Send) -> Result<Revision, Error>
    where
        F: Future<Output = Result<Revision, Error>> + Send,
    {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.last.lock().await;
        match &*last {
            Some((good_for, result)) if *good_for >= mine => return result.clone(),
            _ => {}
        }
        // Whoever asked before this call is sent may take its answer.
        let good_for = self.asked.load(Ordering::SeqCst);
        let result = ask().await;
        *last = Some((good_for, result.clone()));
        result
    }
}
