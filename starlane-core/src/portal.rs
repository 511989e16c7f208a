//! The portal: what a service without Wasm and its node say to each other over one WebSocket, at `/v1/ws`.
//!
//! The specification is `docs/portal.md`. Whoever asks chooses the numbers: those of a client name its operations, those of
//! the node name the requests that it hands to the client.

mod framing;

use serde::{Deserialize, Serialize};

use crate::{Agent, Kind, Point};

pub use framing::{Framed, Framing, Unread, decode_binary, decode_text, encode};

/// The version that is spoken here; a client says in its `hello` which one it speaks.
pub const VERSION: u32 = 1;

/// Headers of a message, in order; a name may repeat.
pub type HeaderPairs = Vec<(String, String)>;

/// What a client says. All but `hello`, `grant`, `cancel`, `reply` and `fail` are answered by their number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Ask {
    /// The first of all. The node goes on in the framing that it came in.
    Hello {
        /// The version that the client speaks.
        version: u32,
        /// The token of the API; needed when the WebSocket was opened without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// What the client calls itself, for logs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// To take the messages of a point, together with all others who serve it.
    Serve {
        /// Names the operation.
        id: u64,
        /// Which point.
        point: Point,
        /// As what it is made when it is not there; without it, it must be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<Kind>,
    },
    /// To take no more messages of a point; those that were handed over are still answered.
    Unserve {
        /// Names the operation.
        id: u64,
        /// Which point.
        point: Point,
    },
    /// To take so many more: messages of the points that are served or, with a number, steps of that watch or subscription.
    Grant {
        /// How many more.
        more: u32,
        /// Of which watch or subscription.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
    },
    /// To ask a point; the body is the message's.
    Request(Say),
    /// To tell a point something, without an answer; done when it is on its way.
    Send(Say),
    /// To tell all who subscribe to the topic `to` something; done when it is on its way.
    Publish(Say),
    /// To be told what is published to a topic.
    Subscribe {
        /// Names the operation, and what comes of it.
        id: u64,
        /// Which topic: a resource of any kind.
        topic: Point,
        /// How many events are taken before more is granted.
        grant: u32,
    },
    /// To be told what a selector means, and its changes.
    Watch {
        /// Names the operation, and what comes of it.
        id: u64,
        /// The selector.
        select: String,
        /// The token after which to go on, instead of beginning with the list.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        /// Whether what this node last heard is fresh enough for the list.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale: bool,
        /// How many steps are taken before more is granted.
        grant: u32,
    },
    /// A call of the `/v1` API, as HTTP has it; paths whose answer has no end are not asked in this way.
    Api {
        /// Names the operation.
        id: u64,
        /// `GET`, `POST` and so on.
        method: String,
        /// With its query: `/v1/resources?select=shop:**`.
        path: String,
        /// Such as `if-match`; `content-type` is `application/json` without one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: HeaderPairs,
    },
    /// To give an operation up, or end a watch or a subscription.
    Cancel {
        /// Which.
        id: u64,
    },
    /// The answer to a request of the node's; the body is the answer's.
    Reply(Answer),
    /// That a request of the node's has no answer.
    Fail {
        /// Which.
        id: u64,
        /// Why, in words.
        detail: String,
        /// Whether anything of it was done; only what surely was not is safe to ask again.
        #[serde(default = "yes")]
        ran: bool,
    },
}

/// A message of a client's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Say {
    /// Names the operation.
    pub id: u64,
    /// Whom it is for.
    pub to: Point,
    /// A point that the client serves, as whom it speaks; without it, it speaks as the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Point>,
    /// The request of the node's for whose sake it is asked: it belongs to the same trace, and is refused when it would come
    /// back to somebody who waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u64>,
    /// `Ext<AddItem>` or `AddItem`, `Http<Get>` or `GET`; without it `Http<Post>` when there is a body, else `Http<Get>`. A
    /// topic is told nothing with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Of what; `/` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// More about it; `content-type` among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: HeaderPairs,
    /// How long the answer is waited for, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// An answer, in either direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// To what.
    pub id: u64,
    /// As HTTP's.
    pub status: u16,
    /// More about it; `content-type` among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: HeaderPairs,
}

/// What the node says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Tell {
    /// The answer to `hello`.
    Welcome {
        /// The version that both speak.
        version: u32,
        /// The node's name.
        node: String,
        /// The name of its cluster.
        cluster: String,
        /// What a session is bounded by.
        limits: Bounds,
    },
    /// An operation was done.
    Done {
        /// Which.
        id: u64,
    },
    /// An operation was not done, or a frame could not be read.
    Error {
        /// Which; none when the frame did not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// Of a message: `rejected` when it surely did not run, `failed` when it ran and failed, `unknown` when it may have.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcome: Option<String>,
        /// As the API's (RFC 9457).
        problem: serde_json::Value,
    },
    /// The answer to `request` or `api`; the body is the answer's.
    Reply(Answer),
    /// A request to a point that the client serves; the body is the request's.
    Request {
        /// By which it is answered.
        id: u64,
        /// What it says.
        #[serde(flatten)]
        heard: Heard,
        /// How much time is left for the answer, in milliseconds.
        timeout_ms: u64,
    },
    /// A message without answer to a point that the client serves; the body is the message's.
    Signal {
        /// What it says.
        #[serde(flatten)]
        heard: Heard,
    },
    /// Nobody waits for the answer to a request any more.
    Cancel {
        /// Which.
        id: u64,
    },
    /// A step of a watch.
    Change {
        /// Of which.
        id: u64,
        /// As `/v1/watch` has it.
        event: serde_json::Value,
    },
    /// Something was published; the body is the event's.
    Event {
        /// To which subscription.
        id: u64,
        /// Who did.
        from: Point,
        /// `/`, unless it said otherwise.
        path: String,
        /// More about it; `content-type` among them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: HeaderPairs,
    },
    /// Events that a subscription missed, since it did not take them as fast as they came.
    Gap {
        /// Which subscription.
        id: u64,
        /// How many.
        missed: u64,
    },
    /// A watch or a subscription came to its end.
    End {
        /// Which.
        id: u64,
    },
    /// The node closes the session; who comes again finds this node later, or another now.
    Bye {
        /// Why, in words.
        reason: String,
    },
}

/// What a client hears of a message to a point that it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// Which point.
    pub point: Point,
    /// Who sent it.
    pub from: Point,
    /// On whose authority.
    pub agent: Agent,
    /// `Ext<AddItem>`, `Http<Get>`.
    pub method: String,
    /// Of what; may carry a query after `?`.
    pub path: String,
    /// More about it; `content-type` among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: HeaderPairs,
    /// The trace that it belongs to, as a `traceparent` (W3C Trace Context).
    pub trace: String,
}

/// What a session is bounded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bounds {
    /// The longest frame, in bytes.
    pub frame_bytes: u64,
    /// The most operations under way; one more is refused as busy.
    pub operations: u32,
    /// The most that counts of what is granted.
    pub granted: u32,
}

fn yes() -> bool {
    true
}
