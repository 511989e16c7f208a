//! Patience and its end: a connection that is silent, sends slowly or reads slowly is closed.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::config::Limits;

/// How many ticks the head's timeout has. A connection is closed at most one tick late, and no clock is read for
/// each request.
const TICKS: u32 = 4;

/// What a connection is at: even while it waits for the head of a request, odd while it serves one; grows with
/// every change.
#[derive(Debug, Default)]
pub(crate) struct Phase(AtomicU32);

impl Phase {
    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Says that a request is being served, until the guard is dropped.
    pub(crate) fn serving(self: &Arc<Self>) -> Serving {
        self.0.fetch_add(1, Ordering::Relaxed);
        Serving(Arc::clone(self))
    }
}

/// A request is being served.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Phase>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream that ends with an error when its other side is too slow: to send the head of a request, or to read an
/// answer. Bodies of requests are watched where they are read.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    phase: Arc<Phase>,
    head: HeadClock,
    write: Option<Window>,
    window: Duration,
    window_bytes_min: usize,
}

/// How long the head of a request has been waited for.
#[derive(Debug)]
struct HeadClock {
    sleep: Pin<Box<Sleep>>,
    tick: Duration,
    /// The phase that is being waited in.
    phase: u32,
    ticks: u32,
    /// Whether anything of the head has come, or is due because the connection is new.
    begun: bool,
    head_ticks: u32,
    idle_ticks: u32,
}

impl HeadClock {
    fn new(limits: &Limits) -> Self {
        let tick = limits.head_timeout / TICKS;
        let idle_ticks = limits.idle_timeout.as_nanos().div_ceil(tick.as_nanos().max(1));
        Self {
            sleep: Box::pin(sleep(tick)),
            tick,
            phase: 0,
            ticks: 0,
            begun: true,
            head_ticks: TICKS,
            idle_ticks: u32::try_from(idle_ticks).unwrap_or(u32::MAX),
        }
    }

    fn enter(&mut self, phase: u32) {
        if phase != self.phase {
            (self.phase, self.ticks, self.begun) = (phase, 0, false);
        }
    }

    /// Something of the head came.
    fn begin(&mut self, phase: u32) {
        self.enter(phase);
        if !self.begun {
            (self.ticks, self.begun) = (0, true);
        }
    }

    /// Whether the patience for a head in this phase is over; else wakes the task at the next tick.
    fn poll_expired(&mut self, phase: u32, cx: &mut Context<'_>) -> Poll<()> {
        self.enter(phase);
        while self.sleep.as_mut().poll(cx).is_ready() {
            self.ticks += 1;
            self.sleep.as_mut().reset(Instant::now() + self.tick);
            let serving = phase % 2 == 1;
            let patience = if self.begun { self.head_ticks } else { self.idle_ticks };
            if !serving && self.ticks > patience {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

/// A stretch of time in which something must move.
#[derive(Debug)]
struct Window {
    sleep: Pin<Box<Sleep>>,
    moved: usize,
}

impl Window {
    fn new(length: Duration) -> Self {
        Self { sleep: Box::pin(sleep(length)), moved: 0 }
    }

    /// Ready when a window passed in which too little moved; else wakes the task at the end of this one.
    fn poll_stalled(&mut self, length: Duration, bytes_min: usize, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.moved < bytes_min {
                return Poll::Ready(());
            }
            self.moved = 0;
            self.sleep.as_mut().reset(Instant::now() + length);
        }
        Poll::Pending
    }
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, phase: Arc<Phase>, limits: &Limits) -> Self {
        Self {
            stream,
            phase,
            head: HeadClock::new(limits),
            write: None,
            window: limits.pace_window,
            window_bytes_min: limits.pace_bytes_min,
        }
    }

    /// Watches the outcome of a write of `offered` bytes.
    fn watch_write(
        &mut self,
        written: Poll<io::Result<usize>>,
        offered: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) if count >= offered => {
                self.write = None;
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Ok(count)) => {
                if let Some(window) = &mut self.write {
                    window.moved = window.moved.saturating_add(count);
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let window = self.write.get_or_insert_with(|| Window::new(self.window));
                ready!(window.poll_stalled(self.window, self.window_bytes_min, cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl Paced<TcpStream> {
    /// The first byte that the other side says, which stays to be read; `None` when it ends without a word.
    pub(crate) async fn peek(&mut self) -> io::Result<Option<u8>> {
        std::future::poll_fn(|cx| {
            let mut byte = [0];
            let mut buffer = ReadBuf::new(&mut byte);
            match self.stream.poll_peek(cx, &mut buffer) {
                Poll::Ready(peeked) => Poll::Ready(peeked.map(|_| buffer.filled().first().copied())),
                Poll::Pending => {
                    ready!(self.head.poll_expired(self.phase.get(), cx));
                    Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
                }
            }
        })
        .await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                this.head.begin(this.phase.get());
                Poll::Ready(result)
            }
            Poll::Pending => {
                ready!(this.head.poll_expired(this.phase.get(), cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.watch_write(written, bytes.len(), cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let offered = parts.iter().map(|part| part.len()).sum();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.watch_write(written, offered, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Watches the sender of a body.
#[derive(Debug)]
pub(crate) struct SenderPace {
    window: Option<Window>,
    length: Duration,
    bytes_min: usize,
}

impl SenderPace {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { window: None, length: limits.pace_window, bytes_min: limits.pace_bytes_min }
    }

    /// Counts bytes that came.
    pub(crate) fn moved(&mut self, bytes: usize) {
        if let Some(window) = &mut self.window {
            window.moved = window.moved.saturating_add(bytes);
        }
    }

    /// Ready when the sender was waited for and sent too little.
    pub(crate) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let window = self.window.get_or_insert_with(|| Window::new(self.length));
        window.poll_stalled(self.length, self.bytes_min, cx)
    }
}
