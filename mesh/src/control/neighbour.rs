//! What a node knows of another that it has, had or is about to have a link to; and which of two connections between
//! the same two nodes becomes the link.

use std::collections::VecDeque;
use std::sync::Arc;

use quinn::Connection;
use starlane_core::frame::{Close, Hello, LANES, LAST_MAX, Taken};

use super::Proposed;
use crate::Peer;
use crate::link::{Link, close};

/// Another node, as far as links are concerned.
#[derive(Default)]
pub(super) struct Neighbour {
    /// The link.
    pub(super) link: Option<Arc<Link>>,
    /// A connection that becomes the link when both sides have said hello.
    pub(super) greeting: Option<Greeting>,
    /// A connection that takes the place of the link when nothing of that is left.
    pub(super) next: Option<Box<Proposed>>,
    /// The links before, newest first.
    last: VecDeque<Last>,
}

/// A connection whose other side has not said hello yet, or is still to open its streams.
pub(super) struct Greeting {
    pub(super) connection: Connection,
    /// Whether this node dialled.
    pub(super) dialled: bool,
}

/// What is known of a link that ended.
struct Last {
    taken: Taken,
    /// Until the other node has said what it took.
    sent: Option<[u64; LANES]>,
}

/// What was lost with the links before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Whether there was one.
    pub(super) any: bool,
    /// Signals that surely did not arrive.
    pub(super) signals: u64,
    /// Links of which nobody knows.
    pub(super) unsure: u64,
}

/// What becomes of a connection that the other node dialled.
pub(super) enum Decision {
    /// It is closed.
    Refuse(Close),
    /// It becomes the link.
    Take,
    /// It becomes the link when this one has ended.
    TakeAfter(Arc<Link>),
}

impl Greeting {
    /// Whether it is this connection, by its stable id.
    pub(super) fn is(&self, connection: usize) -> bool {
        self.connection.stable_id() == connection
    }
}

impl Neighbour {
    /// Whether there is a link, or is about to be.
    pub(super) fn is_busy(&self) -> bool {
        self.link.is_some() || self.greeting.is_some() || self.next.is_some()
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_blank(&self) -> bool {
        !self.is_busy() && self.last.is_empty()
    }

    /// Remembers a link that ended.
    pub(super) fn remember(&mut self, link: &Link) {
        self.last.push_front(Last { taken: link.taken(), sent: Some(link.sent()) });
        self.last.truncate(LAST_MAX);
    }

    /// What this node took from the links before.
    pub(super) fn taken(&self) -> [Option<Taken>; LAST_MAX] {
        std::array::from_fn(|nth| self.last.get(nth).map(|last| last.taken))
    }

    /// What was lost with the links before, by what the other node says it took. It is told once.
    pub(super) fn settle(&mut self, hello: &Hello) -> Losses {
        let mut losses = Losses::default();
        for last in &mut self.last {
            let Some(sent) = last.sent.take() else { continue };
            losses.any = true;
            match hello.taken(last.taken.link) {
                Some(theirs) => {
                    let lost = |(sent, taken): (&u64, &u64)| sent.saturating_sub(*taken);
                    losses.signals += sent.iter().zip(&theirs.lanes).map(lost).sum::<u64>();
                }
                // It remembers others: this one never began there.
                None if hello.remembers() => losses.signals += sent.iter().sum::<u64>(),
                None => losses.unsure += 1,
            }
        }
        losses
    }

    /// Begins to greet over a connection; whatever was begun before is given up.
    pub(super) fn begin(&mut self, greeting: Greeting) {
        if let Some(earlier) = self.greeting.replace(greeting) {
            close(&earlier.connection, Close::Duplicate);
        }
    }

    /// Decides on a connection that the other node dialled. Both nodes come to the same end: when each dialled the other
    /// at once, the one whose name comes first keeps its own. A node that crashed and came back is another life, which takes
    /// the place of the one before at once.
    pub(super) fn accept(&self, me: &Peer, peer: &Peer, hello: &Hello) -> Decision {
        if let Some(link) = &self.link {
            // It lost the link that this node still believes in.
            let lost_there = hello.taken(link.tag).is_some();
            return if hello.life.is_before(&link.life) {
                Decision::Refuse(Close::Replaced)
            } else if hello.life.is_same(&link.life) && link.dialled && !lost_there {
                Decision::Refuse(Close::Duplicate)
            } else {
                Decision::TakeAfter(link.clone())
            };
        }
        match &self.greeting {
            Some(greeting) if greeting.dialled && me.name < peer.name => Decision::Refuse(Close::Duplicate),
            _ => Decision::Take,
        }
    }
}
