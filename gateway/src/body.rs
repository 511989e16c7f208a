//! Bodies: those that come in, within their bounds, and those that go out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http_body::{Body, Frame, SizeHint};
use starlane_core::{Code, Problem};

use crate::config::Limits;
use crate::mesh::Upload;
use crate::metrics::Watched;
use crate::pace::{SenderPace, Serving};

/// How many bytes of bodies are held in memory, of how many that may be.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// Takes a part of it.
    ///
    /// # Errors
    /// `Busy` when it is used up.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reserved, Problem> {
        let mut reserved = Reserved::none(self);
        reserved.grow(bytes)?;
        Ok(reserved)
    }
}

/// A part of a budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reserved {
    fn none(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before.saturating_add(bytes) > self.budget.max {
            let mut problem = Problem::new(Code::Busy, "too many bodies of requests are held in memory");
            problem.retry_after = Some(1);
            return Err(problem.help("try again, or send large content to `/v1/files/{point}`"));
        }
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body into memory. The second part of the answer holds its place in the budget.
///
/// # Errors
/// `TooLarge`, `Busy` when the budget is used up, `Timeout` when the sender is too slow, `Usage` when it is malformed.
pub(crate) async fn collect<B>(
    body: B,
    limits: &Limits,
    budget: &Arc<Budget>,
) -> Result<(Bytes, Option<Reserved>), Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok((Bytes::new(), None));
    }
    if body.size_hint().lower() > limits.body_bytes_max as u64 {
        return Err(too_large(limits.body_bytes_max as u64));
    }
    let mut reserved = Reserved::none(budget);
    let mut body =
        Sender { body, pace: SenderPace::new(limits), bytes: 0, bytes_max: limits.body_bytes_max as u64 };
    let Some(first) = body.next().await.transpose()? else { return Ok((Bytes::new(), None)) };
    reserved.grow(first.len())?;
    let Some(second) = body.next().await.transpose()? else { return Ok((first, Some(reserved))) };
    let mut whole = BytesMut::from(first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        reserved.grow(chunk.len())?;
        whole.extend_from_slice(&chunk);
        next = body.next().await.transpose()?;
    }
    Ok((whole.freeze(), Some(reserved)))
}

/// A body that is read as it comes.
///
/// # Errors
/// `TooLarge`, when it says so itself.
pub(crate) fn upload<B>(body: B, limits: &Limits) -> Result<Upload, Problem>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let bytes_max = limits.upload_bytes_max;
    if body.size_hint().lower() > bytes_max {
        return Err(too_large(bytes_max));
    }
    let sender = Sender { body, pace: SenderPace::new(limits), bytes: 0, bytes_max };
    let stream = futures::stream::unfold(Some(sender), |sender| async {
        let mut sender = sender?;
        let chunk = sender.next().await?;
        let rest = chunk.is_ok().then_some(sender);
        Some((chunk, rest))
    });
    Ok(stream.boxed())
}

fn too_large(bytes_max: u64) -> Problem {
    Problem::new(Code::TooLarge, format!("the body has more than {bytes_max} bytes"))
        .help("large content goes in through `PUT /v1/files/{point}` or `starlane cp`")
}

/// A body with somebody slow or hostile behind it.
struct Sender<B> {
    body: B,
    pace: SenderPace,
    bytes: u64,
    bytes_max: u64,
}

impl<B: Body<Data = Bytes> + Unpin> Sender<B> {
    async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        loop {
            let frame = std::future::poll_fn(|cx| match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Ok(frame)),
                Poll::Pending => self.pace.poll_stalled(cx).map(Err),
            });
            let frame = match frame.await {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => {
                    let problem =
                        Problem::new(Code::Usage, "the body of the request ended early or is malformed");
                    return Some(Err(problem.help("send as many bytes as the head announces")));
                }
                Err(()) => {
                    let problem = Problem::new(Code::Expired, "the body of the request came too slowly");
                    return Some(Err(problem.help("send it faster, or in parts")));
                }
            };
            // Trailers carry nothing for the mesh.
            let Ok(data) = frame.into_data() else { continue };
            self.pace.moved(data.len());
            self.bytes += data.len() as u64;
            if self.bytes > self.bytes_max {
                return Some(Err(too_large(self.bytes_max)));
            }
            if !data.is_empty() {
                return Some(Ok(data));
            }
        }
    }
}

/// A body on its way out, with what is to be told when it is through.
pub(crate) struct Answer {
    inner: Inner,
    guards: Option<Guards>,
}

/// What is dropped when an answer is through, or given up.
pub(crate) struct Guards {
    pub(crate) _serving: Serving,
    pub(crate) watched: Watched,
}

enum Inner {
    Whole(Bytes),
    Parts(BoxStream<'static, io::Result<Bytes>>),
    Other(axum::body::Body),
}

impl Answer {
    pub(crate) fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { inner: Inner::Whole(bytes.into()), guards: None }
    }

    pub(crate) fn parts(parts: BoxStream<'static, io::Result<Bytes>>) -> Self {
        Self { inner: Inner::Parts(parts), guards: None }
    }

    pub(crate) fn other(body: axum::body::Body) -> Self {
        Self { inner: Inner::Other(body), guards: None }
    }

    pub(crate) fn guard(&mut self, guards: Guards) {
        self.guards = Some(guards);
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.get_mut().inner {
            Inner::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Inner::Parts(parts) => {
                parts.poll_next_unpin(cx).map(|part| part.map(|part| part.map(Frame::data)))
            }
            Inner::Other(body) => Pin::new(body).poll_frame(cx).map_err(io::Error::other),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Whole(bytes) => bytes.is_empty(),
            Inner::Parts(_) => false,
            Inner::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Parts(_) => SizeHint::default(),
            Inner::Other(body) => body.size_hint(),
        }
    }
}
