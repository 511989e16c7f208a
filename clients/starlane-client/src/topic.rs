//! Topics: what is published to a point.

use bytes::Bytes;
use starlane_core::Point;
use starlane_core::portal::HeaderPairs;
use tokio::sync::mpsc;

use crate::link::Command;
use crate::watch::STEPS_MAX;

/// What one who subscribes hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Something was published.
    Event {
        /// Who did.
        from: Point,
        /// What it is about; `/` unless it was said.
        path: String,
        /// More about it.
        headers: HeaderPairs,
        /// What it says.
        body: Bytes,
    },
    /// Events were missed, since they were not taken as fast as they came.
    Gap {
        /// How many.
        missed: u64,
    },
    /// The connection broke and is there again: nobody knows what was published meanwhile.
    Reconnected,
}

/// What is published to a topic. Goes on over connections that break; dropping it ends it.
#[derive(Debug)]
pub struct Topic {
    pub(crate) id: u64,
    pub(crate) events: mpsc::Receiver<Heard>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) taken: u32,
}

impl Topic {
    /// The next of it; `None` when the client is closed, or the topic is gone.
    pub async fn next(&mut self) -> Option<Heard> {
        let heard = self.events.recv().await?;
        if matches!(heard, Heard::Event { .. }) {
            self.taken += 1;
        }
        if self.taken >= STEPS_MAX / 2 {
            // When the client is closed, nothing more comes.
            _ = self.commands.send(Command::Grant { id: self.id, more: self.taken }).await;
            self.taken = 0;
        }
        Some(heard)
    }
}
