//! WebSockets: a client's connection that came through a bind to an `#[http]` handler, and was accepted there.

use mechtron_abi::MessageHead;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::http::{Request, Response};
use crate::message::from_json;
use crate::{Cx, Error, Reference, Reply, Result};

/// The method of a message, in either direction.
pub(crate) const MESSAGE: &str = "Ext<SocketMessage>";
/// The method by which a socket is asked to close.
pub(crate) const CLOSE: &str = "Ext<SocketClose>";
/// The method of the news that a socket was closed.
pub(crate) const CLOSED: &str = "Ext<SocketClosed>";
/// The header of a request that has the point of the socket.
pub(crate) const HEADER: &str = "starlane-socket";

pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const BYTES: &str = "application/octet-stream";

/// The address of a client's connection. It can be kept in fields and sent in messages; it is of use for as long as the client
/// is connected, and then whoever pushes there is told [`NOT_FOUND`](crate::NOT_FOUND).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Socket(Reference);

impl Socket {
    /// The WebSocket that a request asks for; `None` for a request that asks for none.
    pub fn of(request: &Request) -> Option<Self> {
        let wanted = request.header("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
        if wanted { Self::at(request.header(HEADER)?).ok() } else { None }
    }

    /// The one at a point.
    ///
    /// # Errors
    /// When the text cannot be a point.
    pub fn at(point: impl Into<String>) -> Result<Self> {
        Reference::new(point).map(Self)
    }

    /// The point's text.
    pub fn point(&self) -> &str {
        self.0.point()
    }

    /// The answer that accepts it. Any other answer refuses it, and goes to the client as it is.
    pub fn accept(&self) -> Response {
        Response::empty(101)
    }

    /// Sends the client something and does not wait. What is sent is in order, and so is what is pushed; one may overtake the
    /// other.
    ///
    /// # Errors
    /// Never, for now. Whether it arrives is not known: [`push`](Self::push) tells.
    pub fn send(&self, cx: &Cx, frame: impl Into<Frame>) -> Result<()> {
        let frame = frame.into();
        cx.tell(self.point(), MESSAGE, frame.content_type(), frame.bytes());
        Ok(())
    }

    /// Sends the client something; `.await` tells whether it is on its way: an error with code
    /// [`NOT_FOUND`](crate::NOT_FOUND) when the client is gone, `E-BUSY` when it reads too slowly.
    pub fn push(&self, cx: &Cx, frame: impl Into<Frame>) -> Reply<()> {
        let frame = frame.into();
        Reply::new(cx.ask(self.point(), MESSAGE, "/", Some(frame.content_type()), frame.bytes()))
    }

    /// Closes the connection, after what was sent before: 1000 when all is well, 4000 to 4999 for reasons of your own.
    ///
    /// # Errors
    /// When code and reason cannot be JSON, which does not happen.
    pub fn close(&self, cx: &Cx, code: u16, reason: &str) -> Result<()> {
        let body = serde_json::to_vec(&CloseBody { code, reason: reason.into() })?;
        cx.tell(self.point(), CLOSE, "application/json", &body);
        Ok(())
    }
}

/// What goes over a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Frame {
    /// A value as JSON, which is text.
    ///
    /// # Errors
    /// When the value cannot be JSON.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Ok(Self::Text(serde_json::to_string(value)?))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Frame::Text(text) => text.as_bytes(),
            Frame::Bytes(bytes) => bytes,
        }
    }

    /// It as text.
    ///
    /// # Errors
    /// A refusal with status 400 when it is bytes.
    pub fn text(&self) -> Result<&str> {
        match self {
            Frame::Text(text) => Ok(text),
            Frame::Bytes(_) => Err(invalid("the message is bytes, and text is expected")),
        }
    }

    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            Frame::Text(_) => TEXT,
            Frame::Bytes(_) => BYTES,
        }
    }

    /// A body: text when its content type says so.
    pub(crate) fn of(content_type: &str, body: &[u8]) -> Result<Self> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        if kind.starts_with("text/") || kind == "application/json" || kind.ends_with("+json") {
            let text = std::str::from_utf8(body).map_err(|_| invalid("the message is not UTF-8 text"))?;
            Ok(Self::Text(text.to_owned()))
        } else {
            Ok(Self::Bytes(body.to_vec()))
        }
    }
}

fn invalid(detail: &'static str) -> Error {
    Error::status(400, crate::INVALID_MESSAGE, detail)
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Frame {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for Frame {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

/// What a client said: what a `#[socket(message)]` handler gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketMessage {
    /// The client.
    pub socket: Socket,
    /// What it said.
    pub frame: Frame,
}

impl SocketMessage {
    /// What it said, as text.
    ///
    /// # Errors
    /// A refusal with status 400 when it is bytes.
    pub fn text(&self) -> Result<&str> {
        self.frame.text()
    }

    /// What it said, read as JSON.
    ///
    /// # Errors
    /// A refusal with status 400 that says where it is wrong.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        from_json(self.frame.bytes())
    }

    pub(crate) fn read(head: &MessageHead<'_>, body: &[u8]) -> Result<Self> {
        let content_type = head.headers.iter().find(|(name, _)| name == "content-type");
        let frame = Frame::of(content_type.map_or(TEXT, |(_, value)| value), body)?;
        Ok(Self { socket: Socket::at(head.from.as_ref())?, frame })
    }
}

/// That a client is gone: what a `#[socket(closed)]` handler gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketClosed {
    /// Which.
    pub socket: Socket,
    /// As RFC 6455 has it: 1000 when all is well, 1001 when the page or the node goes away, 1005 without a code, 1006 when the
    /// connection was lost.
    pub code: u16,
    /// In words; often empty.
    pub reason: String,
}

impl SocketClosed {
    pub(crate) fn read(head: &MessageHead<'_>, body: &[u8]) -> Result<Self> {
        let CloseBody { code, reason } = from_json(body)?;
        Ok(Self { socket: Socket::at(head.from.as_ref())?, code, reason })
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct CloseBody {
    #[serde(default = "normal")]
    pub(crate) code: u16,
    #[serde(default)]
    pub(crate) reason: String,
}

fn normal() -> u16 {
    1000
}
