//! The WebSockets of the users' web: the point that each has while its client is connected, and what is pushed there.
//!
//! What waits for a client that reads slowly is bounded, for each and for all together: one more is `Busy`.

mod session;
mod upgrade;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use starlane_core::socket::{self, Close};
use starlane_core::{
    Body, Code, Headers, Message, MethodFamily, NodeName, Outcome, Payload, Point, Refusal, Reply, Request,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_tungstenite::tungstenite;

pub(crate) use session::{Accepted, Caller, LOST};
pub(crate) use upgrade::{Handshake, is_wanted};

/// How many frames may wait for one client.
const FRAMES_MAX: usize = 256;
/// How many bytes they may have together, and so each of them.
const BYTES_MAX: usize = 1024 * 1024;
/// How many bytes may wait for all clients of a node together.
const ALL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The WebSockets of a node. Clones are the same.
#[derive(Clone)]
pub struct Sockets(Arc<Inner>);

struct Inner {
    node: NodeName,
    open: Mutex<HashMap<Point, Queue>>,
    room: Arc<Semaphore>,
}

/// What waits for one client.
#[derive(Clone)]
struct Queue {
    frames: mpsc::Sender<Push>,
    room: Arc<Semaphore>,
    close: Arc<OnceLock<Close>>,
}

/// A frame on its way to a client.
pub(crate) struct Push {
    frame: tungstenite::Message,
    /// Its place in the queue, given back when it is written.
    _room: [Option<OwnedSemaphorePermit>; 2],
}

/// A point for one client, and what is pushed there. Nobody finds it any more when this is dropped.
pub struct Socket {
    sockets: Weak<Inner>,
    point: Point,
    pushes: mpsc::Receiver<Push>,
    /// Why it is to be closed, when somebody asked for that.
    close: Arc<OnceLock<Close>>,
}

impl Sockets {
    /// None yet.
    pub fn new(node: NodeName) -> Self {
        let room = Arc::new(Semaphore::new(ALL_BYTES_MAX));
        Self(Arc::new(Inner { node, open: Mutex::default(), room }))
    }

    /// A point for one client more. `id` is random, and nobody else learns it.
    ///
    /// # Errors
    /// `Internal` when there is such a point, which does not happen with random ids.
    pub fn open(&self, id: u128) -> Result<Socket, Refusal> {
        let taken = || Refusal::new(Code::Internal, "a WebSocket has no point of its own");
        let point = socket::point(&self.0.node, id).ok_or_else(taken)?;
        let (frames, pushes) = mpsc::channel(FRAMES_MAX);
        let close = Arc::new(OnceLock::new());
        let queue = Queue { frames, room: Arc::new(Semaphore::new(BYTES_MAX)), close: close.clone() };
        let mut open = self.0.open.lock();
        if open.contains_key(&point) {
            return Err(taken());
        }
        open.insert(point.clone(), queue);
        Ok(Socket { sockets: Arc::downgrade(&self.0), point, pushes, close })
    }

    /// Takes a request to a socket; answered as soon as its frame has a place in the queue of the connection.
    pub fn request(&self, message: Message) -> Outcome {
        match self.send(message) {
            Ok(()) => Outcome::Ok(Reply {
                status: 204,
                headers: Headers::default(),
                body: Body::Bytes(Bytes::new()),
            }),
            Err(refusal) => Outcome::Rejected(refusal),
        }
    }

    /// Takes a message to a socket.
    ///
    /// # Errors
    /// `NotFound` when it is closed or never was, `Busy` when its client reads too slowly, `TooLarge`, `MessageInvalid` or
    /// `NoRoute` when it cannot be a frame.
    pub fn send(&self, message: Message) -> Result<(), Refusal> {
        let to = message.header.to;
        let (Payload::Request(said) | Payload::Signal(said)) = message.payload else {
            return Err(Refusal::new(Code::Usage, "a reply finds its own way"));
        };
        let queue = self.0.open.lock().get(&to).cloned();
        let queue =
            queue.ok_or_else(|| Refusal::new(Code::NotFound, format!("no WebSocket is open at `{to}`")))?;
        match (said.method.family, said.method.name.as_str()) {
            (MethodFamily::Ext, socket::MESSAGE) => self.0.push(&queue, said),
            (MethodFamily::Ext, socket::CLOSE) => {
                let close = read_close(&said)?;
                // What was pushed before goes first; nothing can be pushed after.
                _ = queue.close.set(close);
                self.0.open.lock().remove(&to);
                Ok(())
            }
            _ => Err(Refusal::new(
                Code::NoRoute,
                format!(
                    "a WebSocket takes `Ext<{}>` and `Ext<{}>`, not {}",
                    socket::MESSAGE,
                    socket::CLOSE,
                    said.method
                ),
            )),
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.0.open.lock().len()
    }
}

impl Inner {
    fn push(&self, queue: &Queue, said: Request) -> Result<(), Refusal> {
        let Body::Bytes(body) = said.body else {
            return Err(Refusal::new(Code::TooLarge, "a frame has its bytes at hand"));
        };
        if body.len() > BYTES_MAX {
            let detail = format!("a message to a WebSocket has at most {BYTES_MAX} bytes");
            return Err(Refusal::new(Code::TooLarge, detail));
        }
        let busy = || Refusal::new(Code::Busy, "the client of the WebSocket reads too slowly");
        // At most a mebibyte.
        let bytes = body.len() as u32;
        let own = queue.room.clone().try_acquire_many_owned(bytes).map_err(|_| busy())?;
        let all = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| busy())?;
        let frame = frame(&said.headers, body)?;
        queue.frames.try_send(Push { frame, _room: [Some(own), Some(all)] }).map_err(|_| busy())
    }
}

impl Socket {
    /// Its point.
    pub fn point(&self) -> &Point {
        &self.point
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(sockets) = self.sockets.upgrade() {
            sockets.open.lock().remove(&self.point);
        }
    }
}

/// A body as a frame: text when its content type is text or JSON, or when it has none; else bytes.
///
/// # Errors
/// `MessageInvalid` when what should be text is none.
fn frame(headers: &Headers, body: Bytes) -> Result<tungstenite::Message, Refusal> {
    if !is_text(headers.get("content-type").unwrap_or("text/plain")) {
        return Ok(tungstenite::Message::Binary(body));
    }
    let text = tungstenite::Utf8Bytes::try_from(body).map_err(|_| {
        Refusal::new(
            Code::MessageInvalid,
            "the message is not UTF-8 text; bytes are sent as `application/octet-stream`",
        )
    })?;
    Ok(tungstenite::Message::Text(text))
}

fn is_text(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.starts_with("text/") || kind == "application/json" || kind.ends_with("+json")
}

fn read_close(said: &Request) -> Result<Close, Refusal> {
    let close = match &said.body {
        Body::Bytes(body) if body.is_empty() => Some(Close::default()),
        Body::Bytes(body) => serde_json::from_slice(body).ok(),
        Body::Blob(_) => None,
    };
    close.filter(Close::may_be_sent).ok_or_else(|| {
        let detail = format!(
            "`Ext<{}>` is like `{{\"code\": 1000, \"reason\": \"…\"}}`, with a code that RFC 6455 lets be sent and at \
             most {} bytes of reason",
            socket::CLOSE,
            Close::REASON_BYTES_MAX
        );
        Refusal::new(Code::MessageInvalid, detail)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use starlane_core::{Agent, Header, MessageId, Method};

    use super::*;

    fn message(to: &Point, method: &str, content_type: &str, body: impl Into<Bytes>) -> Message {
        let from: Point = "shop:chat".parse().unwrap();
        let agent = Agent(from.clone());
        let header = Header::new(MessageId(1), from, to.clone(), agent, Duration::from_secs(1));
        let headers = [("content-type", content_type)].into_iter().collect();
        let method = Method::ext(method).unwrap();
        let request = Request { method, path: "/".into(), headers, body: Body::Bytes(body.into()) };
        Message { header, payload: Payload::Request(request) }
    }

    fn code(outcome: Outcome) -> Option<Code> {
        match outcome {
            Outcome::Ok(_) => None,
            Outcome::Rejected(refusal) => Some(refusal.code),
            other => panic!("{other:?}"),
        }
    }

    fn sockets() -> Sockets {
        Sockets::new("edge".parse().unwrap())
    }

    #[test]
    fn what_is_pushed_comes_in_order_as_text_or_bytes() {
        let sockets = sockets();
        let mut socket = sockets.open(7).unwrap();
        let to = socket.point().clone();
        for (content_type, body) in [
            ("text/plain; charset=utf-8", "one"),
            ("application/json", "2"),
            ("application/problem+json", "{}"),
            ("application/octet-stream", "four"),
        ] {
            assert_eq!(code(sockets.request(message(&to, "SocketMessage", content_type, body))), None);
        }
        let wrong = message(&to, "SocketMessage", "text/plain", vec![0xff]);
        assert_eq!(code(sockets.request(wrong)), Some(Code::MessageInvalid));
        let frames: Vec<_> = std::iter::from_fn(|| Some(socket.pushes.try_recv().ok()?.frame)).collect();
        let is_text: Vec<_> = frames.iter().map(tungstenite::Message::is_text).collect();
        assert_eq!(is_text, [true, true, true, false]);
        assert_eq!(frames[0].to_text().unwrap(), "one");
    }

    #[test]
    fn no_more_waits_than_there_is_room_for_by_count_and_by_bytes() {
        let sockets = sockets();
        let mut socket = sockets.open(7).unwrap();
        let to = socket.point().clone();
        let push = |bytes: usize| {
            let body = vec![b'a'; bytes];
            code(sockets.request(message(&to, "SocketMessage", "text/plain", body)))
        };
        for _ in 0..FRAMES_MAX {
            assert_eq!(push(1), None);
        }
        assert_eq!(push(1), Some(Code::Busy));
        while socket.pushes.try_recv().is_ok() {}
        assert_eq!(push(BYTES_MAX + 1), Some(Code::TooLarge));
        assert_eq!((push(BYTES_MAX), push(1)), (None, Some(Code::Busy)));
        drop(socket.pushes.try_recv());
        assert_eq!(push(BYTES_MAX), None);
        // All together.
        let others: Vec<_> = (0..256).map(|id| sockets.open(100 + id).unwrap()).collect();
        let body = vec![b'a'; BYTES_MAX];
        let full = others.iter().filter(|other| {
            let message = message(other.point(), "SocketMessage", "text/plain", body.clone());
            code(sockets.request(message)) == Some(Code::Busy)
        });
        assert_eq!(full.count(), 1);
    }

    #[test]
    fn who_is_gone_or_was_asked_to_close_is_not_found() {
        let sockets = sockets();
        let mut socket = sockets.open(7).unwrap();
        let to = socket.point().clone();
        let push = |to: &Point| code(sockets.request(message(to, "SocketMessage", "text/plain", "a")));
        let close =
            |body: &'static str| code(sockets.request(message(&to, "SocketClose", "application/json", body)));
        assert_eq!(code(sockets.request(message(&to, "Dance", "text/plain", ""))), Some(Code::NoRoute));
        assert_eq!(push(&to), None);
        assert_eq!(close(r#"{"code":1006}"#), Some(Code::MessageInvalid));
        assert_eq!(close(r#"{"code":4001,"reason":"enough"}"#), None);
        assert_eq!((push(&to), close("")), (Some(Code::NotFound), Some(Code::NotFound)));
        assert!(socket.pushes.try_recv().is_ok(), "what was pushed before goes first");
        assert!(matches!(socket.pushes.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        assert_eq!(socket.close.get(), Some(&Close::new(4001, "enough")));
        let other = sockets.open(8).unwrap();
        let to = other.point().clone();
        assert_eq!((push(&to), sockets.count()), (None, 1));
        drop(other);
        assert_eq!((push(&to), sockets.count()), (Some(Code::NotFound), 0));
    }
}
