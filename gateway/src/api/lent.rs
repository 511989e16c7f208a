//! A body that is lent to whoever reads it; what was not read of it comes back.
//!
//! Who sends a body reads the answer when it is sent. One that is refused before its end and cut off may meet the closed
//! connection first, and never see why (RFC 9112, 9.6). So what it still sends is heard out for a while.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use starlane_core::Problem;

use crate::mesh::Upload;

/// How much of a refused body is heard out.
const REST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// For how long it is.
const REST_TIME_MAX: Duration = Duration::from_secs(1);

/// Where a lent body comes back to.
pub(super) struct Rest(Arc<Mutex<Option<Upload>>>);

struct Lent {
    body: Option<Upload>,
    rest: Arc<Mutex<Option<Upload>>>,
}

/// Lends a body.
pub(super) fn lend(body: Upload) -> (Upload, Rest) {
    let rest = Arc::new(Mutex::new(None));
    let lent = Lent { body: Some(body), rest: rest.clone() };
    (lent.boxed(), Rest(rest))
}

impl Rest {
    /// Answers a refusal when the sender was heard out.
    pub(super) async fn after<T>(self, answered: Result<T, Problem>) -> Result<T, Problem> {
        let rest = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Err(_), Some(mut body)) = (&answered, rest) {
            let hear_out = async {
                let mut left = REST_BYTES_MAX;
                while let Some(Ok(chunk)) = body.next().await {
                    left = left.saturating_sub(chunk.len());
                    if left == 0 {
                        break;
                    }
                }
            };
            // Whoever still sends then is cut off.
            _ = tokio::time::timeout(REST_TIME_MAX, hear_out).await;
        }
        answered
    }
}

impl Stream for Lent {
    type Item = Result<Bytes, Problem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.body {
            Some(body) => body.poll_next_unpin(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}
