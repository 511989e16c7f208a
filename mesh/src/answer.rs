//! Where the one outcome of a request goes.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::FutureExt;
use starlane_core::frame::Header;
use starlane_core::{Code, Outcome, Refusal};
use tokio::sync::oneshot;

use crate::link::{Link, Owed};
use crate::node::{Node, Place};
use crate::room::Room;

/// Where the one outcome of a request goes: over the link that it came from, or to whoever asks on this node. It is given
/// from any thread and waits for nobody. One that is dropped says that nobody knows what became of the request.
pub struct Answer {
    node: Arc<Node>,
    /// `None` when it was given.
    way: Option<Way>,
    place: Place,
    _room: Option<Room>,
    /// The last to go, so that the link waits until the answer is in its lane.
    _owed: Option<Owed>,
}

pub(crate) enum Way {
    Link { link: Arc<Link>, lane: usize, asked: Header },
    Here(oneshot::Sender<Outcome>),
}

impl Answer {
    pub(crate) fn new(node: Arc<Node>, way: Way, place: Place, room: Option<Room>) -> Self {
        let owed = match &way {
            Way::Link { link, .. } => Some(link.owe()),
            Way::Here(_) => None,
        };
        Self { node, way: Some(way), place, _room: room, _owed: owed }
    }

    /// The outcome. Whoever does not wait any more hears nothing.
    pub fn give(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// What ends the work when whoever asked does not wait any more; at once, when that is so already. The last one counts.
    pub fn end_by(&self, end: Box<dyn FnOnce() + Send>) {
        self.place.end_by(end);
    }

    /// Gives the outcome of a future, which goes on where links run: it only waits. What is there at once needs no task. It
    /// is dropped when whoever asked does not wait any more.
    pub fn when(self, mut outcome: impl Future<Output = Outcome> + Send + Unpin + 'static) {
        let node = self.node.clone();
        match node.guarded(|| outcome.poll_unpin(&mut Context::from_waker(Waker::noop()))) {
            Ok(Poll::Ready(outcome)) => return self.give(outcome),
            Err(panicked) => return self.give(panicked.outcome()),
            Ok(Poll::Pending) => {}
        }
        self.on(node.transport(), outcome);
    }

    /// The same on another runtime, where it may compute.
    pub fn on(
        mut self,
        runtime: &tokio::runtime::Handle,
        outcome: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let node = self.node.clone();
        let (abort, aborted) = oneshot::channel::<()>();
        self.end_by(Box::new(move || drop(abort)));
        runtime.spawn(async move {
            // Before anything else, since who does not wait any more wants nothing begun.
            let work = node.guard(outcome);
            tokio::select! {
                biased;
                _ = aborted => {}
                outcome = work => self.end(outcome.unwrap_or_else(|panicked| panicked.outcome())),
            }
        });
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(way) = self.way.take() else { return };
        if !self.place.leave() {
            return;
        }
        match way {
            Way::Link { link, lane, asked } => self.node.reply(&link, lane, &asked, outcome),
            // Who asked may have left.
            Way::Here(sender) => drop(sender.send(outcome)),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let lost = || Refusal::new(Code::Internal, "the request was lost on this node; it may have run");
        if self.way.is_some() {
            self.end(Outcome::Unknown(lost()));
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("is_given", &self.way.is_none()).finish_non_exhaustive()
    }
}
