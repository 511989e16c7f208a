//! One WebSocket that was accepted: each message of its client is a request to whoever accepted it, one at a time, and what is
//! answered or pushed are frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use starlane_core::socket::{self, Close};
use starlane_core::{
    Body, Code, Header, Headers, Message, Method, Outcome, Payload, Point, Refusal, Request,
};
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Error};
use tokio_util::sync::CancellationToken;

use super::{BYTES_MAX, Push, Socket, frame};
use crate::api;
use crate::body::{Budget, Reserved};
use crate::config::Config;
use crate::doors::Counted;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::pace::Serving;

/// How often a client is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a client may be silent before it is taken for dead.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// How long the last words to a client may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How much of what a client sent that broke a rule is heard out, so that it reads why.
const REST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What is held of what was read, and of what is to be written, for each connection. Frames may be larger.
const BUFFER_BYTES: usize = 8 * 1024;

/// The code of a connection that was lost (RFC 6455, 7.1.5).
pub(crate) const LOST: u16 = 1006;
/// The client said no code.
const NO_CODE: u16 = 1005;
/// The node stops.
const GOING_AWAY: u16 = 1001;
/// What came is no WebSocket's.
const PROTOCOL: u16 = 1002;
/// What should be text is none.
const NOT_TEXT: u16 = 1007;
/// A message is too long.
const TOO_LONG: u16 = 1009;
/// Whoever accepted the socket did not handle a message.
const FAILED: u16 = 1011;
/// The node has no room now.
const AGAIN_LATER: u16 = 1013;

type Stream = WebSocketStream<TokioIo<Upgraded>>;

/// Who speaks for a socket to whoever accepted it.
pub(crate) struct Caller<M> {
    pub(crate) mesh: Arc<M>,
    pub(crate) config: Arc<Config>,
    /// The socket's point.
    pub(crate) from: Point,
    /// Who accepted it.
    pub(crate) to: Point,
}

impl<M: Mesh> Caller<M> {
    /// Tells whoever accepted the socket that it is closed.
    pub(crate) async fn closed(self, close: Close) {
        let Ok(body) = serde_json::to_vec(&close) else { return };
        let told = self.message(socket::CLOSED, "application/json", body.into(), Payload::Signal);
        let Some(told) = told else { return };
        if let Err(problem) = self.mesh.send(told).await {
            tracing::debug!(socket = %self.from, to = %self.to, "that it is closed cannot be told: {problem}");
        }
    }

    fn ask(&self, said: Said) -> BoxFuture<'static, Outcome> {
        let content_type = match said.is_text {
            true => "text/plain; charset=utf-8",
            false => "application/octet-stream",
        };
        let message = self.message(socket::MESSAGE, content_type, said.body, Payload::Request);
        let (mesh, reserved) = (self.mesh.clone(), said.reserved);
        async move {
            let Some(message) = message else {
                return Outcome::Rejected(Refusal::new(Code::Internal, "a method of ours is none"));
            };
            let outcome = mesh.request(message).await;
            drop(reserved);
            outcome
        }
        .boxed()
    }

    /// `None` never happens: the names are those of methods.
    fn message(
        &self,
        method: &str,
        content_type: &str,
        body: Bytes,
        payload: fn(Request) -> Payload,
    ) -> Option<Message> {
        let header = Header::new(
            self.mesh.new_message_id(),
            self.from.clone(),
            self.to.clone(),
            self.config.web_agent.clone(),
            self.config.limits.request_timeout,
        );
        let headers: Headers = [("content-type", content_type)].into_iter().collect();
        let method = Method::ext(method).ok()?;
        Some(Message {
            header,
            payload: payload(Request { method, path: "/".into(), headers, body: Body::Bytes(body) }),
        })
    }

    /// The frame that an outcome is; `None` when nothing is answered.
    ///
    /// # Errors
    /// How the connection ends when the message was not handled.
    async fn frame(&self, outcome: Outcome) -> Result<Option<tungstenite::Message>, Close> {
        let failed = |code: Code| Close::new(FAILED, &code.to_string());
        let reply = match outcome {
            Outcome::Ok(reply) => reply,
            Outcome::Rejected(refusal) | Outcome::Failed(refusal) | Outcome::Unknown(refusal) => {
                tracing::debug!(socket = %self.from, to = %self.to, "a message was not handled: {refusal}");
                return Err(failed(refusal.code));
            }
        };
        let body = match reply.body {
            Body::Bytes(bytes) => bytes,
            Body::Blob(blob) => {
                api::whole(&*self.mesh, blob, BYTES_MAX).await.map_err(|problem| failed(problem.code))?
            }
        };
        match body.len() {
            0 => Ok(None),
            1..=BYTES_MAX => frame(&reply.headers, body).map(Some).map_err(|refusal| failed(refusal.code)),
            _ => Err(failed(Code::TooLarge)),
        }
    }
}

/// A socket that was accepted.
pub(crate) struct Accepted<M> {
    pub(crate) caller: Caller<M>,
    pub(crate) socket: Socket,
    /// What whoever accepted it says first.
    pub(crate) first: Outcome,
    pub(crate) budget: Arc<Budget>,
    pub(crate) closing: CancellationToken,
    pub(crate) metrics: Arc<Metrics>,
    /// Its place among those that may be open.
    pub(crate) _place: OwnedSemaphorePermit,
    /// Keeps the connection from being taken for idle.
    pub(crate) _serving: Serving,
    /// Its place among the connections.
    pub(crate) _counted: Arc<Counted>,
}

/// A message of the client.
struct Said {
    is_text: bool,
    body: Bytes,
    reserved: Reserved,
}

/// How a connection ends.
enum End {
    /// The client closed it, or it was lost.
    Theirs(Close),
    /// This side closes it.
    Ours(Close),
    /// What came cannot be understood, and what follows neither.
    Broken(Close),
}

impl<M: Mesh> Accepted<M> {
    /// Talks with the client until one side ends it, and tells whoever accepted it.
    pub(crate) async fn run(self, upgraded: OnUpgrade) {
        self.metrics.sockets.inc();
        let Self { caller, socket, first, budget, closing, metrics, _place, _serving, _counted } = self;
        let limits = &caller.config.limits;
        let close = match timeout(limits.head_timeout, upgraded).await {
            Ok(Ok(upgraded)) => {
                let bytes_max = Some(limits.body_bytes_max);
                let config = WebSocketConfig::default()
                    .read_buffer_size(BUFFER_BYTES)
                    .write_buffer_size(BUFFER_BYTES)
                    .max_message_size(bytes_max)
                    .max_frame_size(bytes_max);
                let stream =
                    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config))
                        .await;
                Talk { caller: &caller, socket, budget, stream }.run(first, closing).await
            }
            _ => Close::new(LOST, "the client left before it was open"),
        };
        metrics.sockets.dec();
        caller.closed(close).await;
    }
}

struct Talk<'a, M> {
    caller: &'a Caller<M>,
    socket: Socket,
    budget: Arc<Budget>,
    stream: Stream,
}

impl<M: Mesh> Talk<'_, M> {
    /// Answers how it ended.
    async fn run(mut self, first: Outcome, closing: CancellationToken) -> Close {
        let mut asked: Option<BoxFuture<'static, Outcome>> = None;
        let end = match self.answer(first).await {
            Ok(()) => self.talk(&mut asked, closing).await,
            Err(end) => end,
        };
        // Nothing more is pushed to who leaves. What was asked is heard to its end, so that it runs whole and comes before the
        // news that the client left.
        let Self { caller, socket, stream, .. } = self;
        drop(socket);
        match end {
            End::Theirs(close) => {
                leave(stream, None).await;
                if let Some(asked) = asked {
                    asked.await;
                }
                close
            }
            End::Ours(close) => {
                let mut stream = stream;
                if let Some(asked) = asked
                    && let Ok(outcome) = timeout(caller.config.limits.drain_timeout, asked).await
                    && let Ok(Some(frame)) = caller.frame(outcome).await
                {
                    // When it cannot be written, neither can what comes next.
                    _ = stream.send(frame).await;
                }
                leave(stream, Some(&close)).await;
                close
            }
            End::Broken(close) => {
                break_off(stream, &close).await;
                if let Some(asked) = asked {
                    asked.await;
                }
                close
            }
        }
    }

    async fn talk(
        &mut self,
        asked: &mut Option<BoxFuture<'static, Outcome>>,
        closing: CancellationToken,
    ) -> End {
        let mut held: Option<Said> = None;
        let mut heard = Instant::now();
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let answered = async {
                match asked {
                    Some(asked) => asked.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = closing.cancelled() => return End::Ours(Close::new(GOING_AWAY, "the node is stopping")),
                // While one message is handled, one more is read and no other.
                said = self.stream.next(), if held.is_none() => {
                    heard = Instant::now();
                    match self.hear(said) {
                        Ok(None) => {}
                        Ok(Some(said)) if asked.is_none() => *asked = Some(self.caller.ask(said)),
                        Ok(Some(said)) => held = Some(said),
                        Err(end) => return end,
                    }
                }
                outcome = answered => {
                    *asked = held.take().map(|said| self.caller.ask(said));
                    heard = Instant::now();
                    if let Err(end) = self.answer(outcome).await {
                        return end;
                    }
                }
                push = self.socket.pushes.recv() => {
                    let Some(push) = push else {
                        let close = self.socket.close.get().cloned().unwrap_or_default();
                        return End::Ours(close);
                    };
                    if let Err(end) = self.push(push).await {
                        return end;
                    }
                }
                _ = pings.tick() => {
                    if held.is_none() && heard.elapsed() > SILENT_MAX {
                        return End::Theirs(Close::new(LOST, "the client was silent"));
                    }
                    if let Err(error) = self.stream.send(tungstenite::Message::Ping(Bytes::new())).await {
                        return lost(&error);
                    }
                }
            }
        }
    }

    /// Reads what came: a message, or nothing that matters.
    fn hear(&self, said: Option<Result<tungstenite::Message, Error>>) -> Result<Option<Said>, End> {
        let (is_text, body) = match said {
            Some(Ok(tungstenite::Message::Text(text))) => (true, Bytes::from(text)),
            Some(Ok(tungstenite::Message::Binary(bytes))) => (false, bytes),
            Some(Ok(tungstenite::Message::Close(frame))) => {
                let close = frame.map_or_else(
                    || Close::new(NO_CODE, ""),
                    |frame| Close::new(frame.code.into(), &frame.reason),
                );
                return Err(End::Theirs(close));
            }
            Some(Ok(_)) => return Ok(None),
            Some(Err(error)) => return Err(self.broken(&error)),
            None => return Err(End::Theirs(Close::new(LOST, ""))),
        };
        match self.budget.reserve(body.len()) {
            Ok(reserved) => Ok(Some(Said { is_text, body, reserved })),
            Err(problem) => Err(End::Ours(Close::new(AGAIN_LATER, &problem.code.to_string()))),
        }
    }

    async fn answer(&mut self, outcome: Outcome) -> Result<(), End> {
        match self.caller.frame(outcome).await {
            Ok(None) => Ok(()),
            Ok(Some(frame)) => self.stream.send(frame).await.map_err(|error| lost(&error)),
            Err(close) => Err(End::Ours(close)),
        }
    }

    /// Writes what was pushed, and whatever was meanwhile in the same write.
    async fn push(&mut self, first: Push) -> Result<(), End> {
        let mut written = vec![first];
        while let Ok(push) = self.socket.pushes.try_recv() {
            written.push(push);
        }
        for push in &mut written {
            let frame = std::mem::replace(&mut push.frame, tungstenite::Message::Pong(Bytes::new()));
            self.stream.feed(frame).await.map_err(|error| lost(&error))?;
        }
        self.stream.flush().await.map_err(|error| lost(&error))
    }

    fn broken(&self, error: &Error) -> End {
        match error {
            Error::Capacity(_) => {
                let most = self.caller.config.limits.body_bytes_max;
                End::Broken(Close::new(TOO_LONG, &format!("a message has at most {most} bytes")))
            }
            Error::Utf8(_) => End::Broken(Close::new(NOT_TEXT, "a text is not UTF-8")),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => lost(error),
            Error::Protocol(_) => End::Broken(Close::new(PROTOCOL, "")),
            error => lost(error),
        }
    }
}

fn lost(error: &Error) -> End {
    End::Theirs(Close::new(LOST, &error.to_string()))
}

/// Says the last words, and waits a moment for the client's.
async fn leave(mut stream: Stream, close: Option<&Close>) {
    let farewell = async {
        if stream.close(close.map(close_frame)).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    // A client that does not listen has nothing to lose.
    _ = timeout(LAST_WORDS, farewell).await;
}

/// Says why to a client whose words cannot be understood any more, and hears it out for a while.
async fn break_off(mut stream: Stream, close: &Close) {
    let farewell = async {
        if stream.close(Some(close_frame(close))).await.is_ok() {
            let mut rest = stream.get_mut().take(REST_BYTES_MAX);
            _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
        }
    };
    _ = timeout(LAST_WORDS, farewell).await;
}

fn close_frame(close: &Close) -> CloseFrame {
    CloseFrame { code: close.code.into(), reason: close.reason.as_str().into() }
}
