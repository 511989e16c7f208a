//! Messages: what goes between points, and how it can end.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::kind::Name;
use crate::{Code, Point};

/// A message from one point to another.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What every node on the way needs.
    pub header: Header,
    /// What only the receiver needs.
    pub payload: Payload,
}

/// What every node on the way needs to know of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Names the message, and orders it in time.
    pub id: MessageId,
    /// Who sent it.
    pub from: Point,
    /// Whom it is for.
    pub to: Point,
    /// On whose authority; set by the edge that authenticated, never by the sender's word.
    pub agent: Agent,
    /// How much time is left. Shrinks on the way; at zero a request is dropped unhandled.
    pub remaining: Duration,
    /// How many more nodes it may cross.
    pub hops_left: u8,
    /// The activations that wait for its answer.
    pub chain: CallChain,
    /// Which trace it belongs to.
    pub trace: Trace,
    /// What goes first when not everything can.
    pub priority: Priority,
}

impl Header {
    /// How many nodes a message may cross.
    pub const HOPS_MAX: u8 = 16;

    /// A header with nothing unusual in it.
    pub fn new(id: MessageId, from: Point, to: Point, agent: Agent, remaining: Duration) -> Self {
        let trace = Trace::root(id);
        Self {
            id,
            from,
            to,
            agent,
            remaining,
            hops_left: Self::HOPS_MAX,
            chain: CallChain::default(),
            trace,
            priority: Priority::Normal,
        }
    }
}

/// What only the receiver needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Wants an answer.
    Request(Request),
    /// Is an answer.
    Reply(Reply),
    /// Wants none.
    Signal(Signal),
}

/// A message that wants an answer. HTTP-shaped, so that HTTP maps one to one.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What is asked.
    pub method: Method,
    /// Of what; begins with `/`, and may carry a query after `?`.
    pub path: Arc<str>,
    /// More about it.
    pub headers: Headers,
    /// What is given along; its content type is a header.
    pub body: Body,
}

/// A message that wants no answer.
pub type Signal = Request;

/// An answer. Its status is read as HTTP's is.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// 100 to 599.
    pub status: u16,
    /// More about it.
    pub headers: Headers,
    /// What is answered; its content type is a header.
    pub body: Body,
}

impl Reply {
    /// An answer with a body of a content type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut headers = Headers::default();
        headers.set("content-type", content_type);
        Self { status, headers, body: Body::Bytes(body.into()) }
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The bytes of a request or a reply: at hand, or in the blob store under their hash. Content is opaque and never
/// decoded where it only passes.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// At hand.
    Bytes(Bytes),
    /// To be read as a stream by whoever needs it.
    Blob(Blob),
}

impl Default for Body {
    fn default() -> Self {
        Body::Bytes(Bytes::new())
    }
}

impl Body {
    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Blob(blob) => blob.bytes,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Names content in the blob store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blob {
    /// What it hashes to.
    pub digest: Digest,
    /// How long it is.
    pub bytes: u64,
}

/// The SHA-256 of some content. Prints as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest: 64 hexadecimal digits")]
pub struct DigestError(String);

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let wrong = || DigestError(text.to_owned());
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut digest = [0; 32];
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(digest))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What is asked of a receiver: a family and a name, `Http<Get>` or `Ext<AddItem>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Method {
    /// Which family.
    pub family: MethodFamily,
    /// Which of the family.
    pub name: Name,
}

impl Method {
    /// An HTTP method by its usual name: `GET` is `Http<Get>`. `None` for what cannot be a method.
    pub fn http(name: &str) -> Option<Self> {
        let mut pascal = name.to_ascii_lowercase();
        pascal.get_mut(..1)?.make_ascii_uppercase();
        Some(Self { family: MethodFamily::Http, name: pascal.parse().ok()? })
    }

    /// A method of the user's own.
    ///
    /// # Errors
    /// When the name is not in Pascal case.
    pub fn ext(name: &str) -> Result<Self, crate::kind::KindError> {
        Ok(Self { family: MethodFamily::Ext, name: name.parse()? })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<{}>", self.family, self.name)
    }
}

impl FromStr for Method {
    type Err = crate::kind::KindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || crate::kind::KindError(text.to_owned());
        let (family, name) =
            text.strip_suffix('>').and_then(|text| text.split_once('<')).ok_or_else(wrong)?;
        let family = match family {
            "Http" => MethodFamily::Http,
            "Ext" | "Msg" => MethodFamily::Ext,
            "Cmd" => MethodFamily::Cmd,
            _ => return Err(wrong()),
        };
        Ok(Self { family, name: name.parse()? })
    }
}

/// The families of methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MethodFamily {
    /// HTTP's.
    Http,
    /// The user's own (older spelling: `Msg`).
    Ext,
    /// The mesh's.
    Cmd,
}

impl fmt::Display for MethodFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MethodFamily::Http => "Http",
            MethodFamily::Ext => "Ext",
            MethodFamily::Cmd => "Cmd",
        })
    }
}

/// Names and values, in order; names are lowercase and may repeat. An empty list costs no allocation, and a clone
/// of a full one none either.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Option<Arc<HeaderList>>);

type HeaderList = Vec<(Arc<str>, Arc<str>)>;

impl Headers {
    /// Those of a list whose names are lowercase.
    pub(crate) fn from_list(list: HeaderList) -> Self {
        Self((!list.is_empty()).then(|| Arc::new(list)))
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|list| list.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// Adds a value to those the name has.
    pub fn add(&mut self, name: &str, value: &str) {
        Arc::make_mut(self.0.get_or_insert_default()).push((name.to_ascii_lowercase().into(), value.into()));
    }

    /// Gives a name this value and no other.
    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.add(name, value);
    }

    /// Takes a name out.
    pub fn remove(&mut self, name: &str) {
        if self.get(name).is_some()
            && let Some(list) = &mut self.0
        {
            Arc::make_mut(list).retain(|(known, _)| &**known != name);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|list| list.is_empty())
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(iter: I) -> Self {
        let list = iter
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_ascii_lowercase().into(), value.as_ref().into()))
            .collect();
        Self::from_list(list)
    }
}

/// Names a message: a UUID version 7, so that ids order in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u128);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

/// On whose authority something is done: the point of a User, a Mechtron or a Node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Agent(pub Point);

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The activations that wait for the answer to a message, nearest first. A request to one of them would wait for
/// ever, so it is refused at once. Growing a chain does not copy it.
#[derive(Debug, Clone, Default)]
pub struct CallChain(Option<Arc<CallLink>>);

#[derive(Debug)]
struct CallLink {
    point: Point,
    before: CallChain,
}

impl CallChain {
    /// This chain with one more activation waiting.
    pub fn with(&self, point: Point) -> Self {
        Self(Some(Arc::new(CallLink { point, before: self.clone() })))
    }

    /// Who waits, nearest first.
    pub fn iter(&self) -> impl Iterator<Item = &Point> {
        std::iter::successors(self.0.as_deref(), |link| link.before.0.as_deref()).map(|link| &link.point)
    }

    /// Whether an activation waits in it.
    pub fn contains(&self, point: &Point) -> bool {
        self.iter().any(|waiting| waiting == point)
    }
}

impl PartialEq for CallChain {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// Which trace a message belongs to (W3C Trace Context): the trace, and the span that caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trace {
    /// Names the whole.
    pub trace_id: u128,
    /// Names the part that sent this.
    pub span_id: u64,
    /// Whether somebody records it.
    pub sampled: bool,
}

impl Trace {
    /// A trace that begins with a message.
    pub fn root(id: MessageId) -> Self {
        Self { trace_id: id.0, span_id: (id.0 as u64) | 1, sampled: false }
    }

    /// Reads a `traceparent` header; `None` when it is not one.
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lengths = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        if !lengths || version == "ff" || !text.is_ascii() {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        Some(Self { trace_id, span_id, sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1 })
    }

    /// The `traceparent` header.
    pub fn to_traceparent(self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// What goes first when not everything can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Whenever there is room.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// How a request ended. Exactly one of these comes back, by its deadline.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was handled, and this is the answer.
    Ok(Reply),
    /// It surely did not run.
    Rejected(Refusal),
    /// It ran and failed.
    Failed(Refusal),
    /// The deadline passed or a link was lost: it may have run.
    Unknown(Refusal),
}

/// Why a message was not answered, in a form that a program can act on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// Which of the known reasons.
    pub code: Code,
    /// The reason in words.
    pub detail: Arc<str>,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal without advice on when to try again.
    pub fn new(code: Code, detail: impl Into<Arc<str>>) -> Self {
        Self { code, detail: detail.into(), retry_after: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_methods_map_one_to_one() {
        assert_eq!(Method::http("GET").unwrap().to_string(), "Http<Get>");
        assert_eq!("Http<Get>".parse::<Method>().unwrap(), Method::http("get").unwrap());
        assert_eq!("Msg<AddItem>".parse::<Method>().unwrap(), Method::ext("AddItem").unwrap());
        assert_eq!(Method::http("é"), None);
        assert_eq!(Method::http(""), None);
    }

    #[test]
    fn a_trace_reads_as_it_prints() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(Trace::from_traceparent(text).unwrap().to_traceparent(), text);
        for wrong in ["", "00-0-0-0", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
            assert_eq!(Trace::from_traceparent(wrong), None);
        }
    }

    #[test]
    fn a_chain_knows_who_waits() {
        let [a, b] = ["shop:a", "shop:b"].map(|text| text.parse::<Point>().unwrap());
        let chain = CallChain::default().with(a.clone());
        assert!(chain.contains(&a) && !chain.contains(&b));
        assert_eq!(chain.with(b.clone()).iter().collect::<Vec<_>>(), [&b, &a]);
    }

    #[test]
    fn headers_keep_order_and_repeat() {
        let mut headers: Headers = [("Set-Cookie", "a"), ("set-cookie", "b")].into_iter().collect();
        headers.add("x", "y");
        assert_eq!(headers.iter().map(|(_, v)| v).collect::<Vec<_>>(), ["a", "b", "y"]);
        headers.set("SET-COOKIE".to_lowercase().as_str(), "c");
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("x", "y"), ("set-cookie", "c")]);
    }
}
