//! What links need from the node they belong to, and no more.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use starlane_core::frame::Service;
use starlane_core::{Message, NodeId, Refusal};

use crate::Answer;

/// What links need from the node they belong to, and no more.
///
/// A panic in any of it ends what panicked, as `Unknown`, and nothing else.
///
/// All of it is called on the thread of the links: it hands work on, and computes elsewhere.
pub trait Local: Send + Sync + 'static {
    /// Brings a request to its receiver and the outcome to the answer, from whichever thread has it. What is left of its
    /// time is in its header. When whoever asked does not wait any more, what was given to [`Answer::end_by`] is called.
    fn request(&self, message: Message, answer: Answer);

    /// Brings a message that wants no answer to its receiver. What cannot be delivered is the node's to keep or to count.
    fn send(&self, message: Message);

    /// Answers a node. The future is polled on the runtime that the links were started from, and dropped when the node
    /// that asked does not wait any more.
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, Refusal>>;
}

/// A question from node to node. Users cannot make any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The node that asks.
    pub from: NodeId,
    /// What is asked.
    pub service: Service,
    /// How long the node that asks still waits.
    pub remaining: Duration,
    /// What is given along.
    pub body: Bytes,
}
