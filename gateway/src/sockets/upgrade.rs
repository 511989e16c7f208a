//! The handshake of RFC 6455: what a client must say, and how it is told that it was accepted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use starlane_core::socket::HEADER;
use starlane_core::{Code, Headers, Point, Problem};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::body::Answer;
use crate::problem::Failure;

const WEBSOCKET: &str = "websocket";

/// Whether a request asks for a WebSocket.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    lists(headers, &UPGRADE).any(|name| name.eq_ignore_ascii_case(WEBSOCKET))
}

/// A client that asks for a WebSocket as it must.
#[derive(Debug)]
pub(crate) struct Handshake {
    accept: HeaderValue,
    /// The protocols that it speaks.
    offered: Vec<String>,
}

impl Handshake {
    /// Reads what a client says.
    ///
    /// # Errors
    /// 426 for another version of the protocol, 400 for what else is missing.
    pub(crate) fn read(parts: &Parts) -> Result<Self, Failure> {
        let headers = &parts.headers;
        let wrong = |detail: &str| {
            let help = "open it with GET, `Connection: Upgrade`, `Upgrade: websocket`, `Sec-WebSocket-Version: 13` and a \
                        `Sec-WebSocket-Key`; a proxy in front must pass these on";
            Problem::new(Code::Usage, detail).help(help)
        };
        if parts.method != Method::GET || parts.version != Version::HTTP_11 {
            return Err(wrong("a WebSocket is opened with GET and HTTP/1.1").into());
        }
        if !lists(headers, &CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade")) {
            return Err(wrong("the request asks for a WebSocket without `Connection: Upgrade`").into());
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            let detail = "this door speaks version 13 of the WebSocket protocol";
            let help = "open it with `Sec-WebSocket-Version: 13`";
            return Err(Failure::usage(StatusCode::UPGRADE_REQUIRED, detail, help));
        }
        let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(wrong("the request has no `Sec-WebSocket-Key`, or several").into());
        };
        if STANDARD.decode(key).map_or(true, |bytes| bytes.len() != 16) {
            return Err(wrong("the `Sec-WebSocket-Key` is not 16 bytes in base64").into());
        }
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
            .map_err(|_| wrong("the `Sec-WebSocket-Key` cannot be answered"))?;
        let offered = lists(headers, &SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect();
        Ok(Self { accept, offered })
    }

    /// The headers of the message: without what is between client and door, and with the socket's point.
    pub(crate) fn told(mut headers: Headers, socket: &Point) -> Headers {
        for name in ["sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"] {
            headers.remove(name);
        }
        headers.set("upgrade", WEBSOCKET);
        headers.set(HEADER, socket.as_str());
        headers
    }

    /// The answer that opens the WebSocket, with the headers of whoever accepted it.
    ///
    /// # Errors
    /// `HandlerFailed` when a protocol was chosen that the client does not speak.
    pub(crate) fn answer(self, mut headers: HeaderMap) -> Result<Response<Answer>, Problem> {
        let chosen: Vec<&str> = lists(&headers, &SEC_WEBSOCKET_PROTOCOL).collect();
        let known = match chosen[..] {
            [] => true,
            [only] => self.offered.iter().any(|offered| offered == only),
            _ => false,
        };
        if !known {
            let detail =
                format!("the answer chose the protocol `{}`, which was not offered", chosen.join(", "));
            let help = "choose one of those in the request's `sec-websocket-protocol`, or none";
            return Err(Problem::new(Code::HandlerFailed, detail).help(help));
        }
        headers.remove(http::header::CONTENT_TYPE);
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        let mut response = Response::new(Answer::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// What the lines of a header list, separated by commas.
fn lists<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|part| !part.is_empty())
}
