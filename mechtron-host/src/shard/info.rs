//! What is told of a mechtron.

use std::sync::Arc;

use starlane_core::Point;

use super::Shard;
use super::slot::{Slot, Step};
use crate::changes::Place;
use crate::instance::Instance;

/// What is known of a mechtron.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// What it does.
    pub state: State,
    /// Which shard runs it.
    pub shard: usize,
    /// Messages that wait, and messages that are being handled.
    pub queue: usize,
    /// Those of them that are being handled.
    pub handling: usize,
    /// Messages that were handled in this process.
    pub handled: u64,
    /// Restarts in this process.
    pub restarts: u64,
    /// Its linear memory while it is live.
    pub memory_bytes: u64,
    /// The state that the host keeps in memory.
    pub state_bytes: u64,
    /// Why it is not live, when it failed.
    pub reason: Option<String>,
    /// What it watches, in the order of its contract.
    pub watches: Vec<Watched>,
}

/// A watch of a mechtron.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// The name of its handler.
    pub name: Arc<str>,
    /// What is watched, in its canonical form.
    pub selector: Arc<str>,
    /// How far it was told; `None` when it was told nothing yet, or that is not loaded.
    pub place: Option<Place>,
    /// How many times in a row the next change failed.
    pub failures: u32,
}

/// What a mechtron does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being started.
    Starting,
    /// It has an instance.
    Live,
    /// It is known and has none.
    Sleeping,
    /// It failed too often and is not tried for a while.
    Failed,
    /// This host let go of it: it lives on another node, or on none.
    Elsewhere,
}

impl Shard {
    /// How much waits for each mechtron that something waits for, or is handled by it.
    pub(super) fn waiting(&self) -> Vec<(Point, u64)> {
        let waits = |slot: &Slot| {
            let given = slot.live.as_deref().map_or(0, |live| live.conversation.given_len());
            let count = (slot.mailbox.len() + given) as u64;
            (count > 0).then(|| (slot.point.clone(), count))
        };
        self.slots.iter().filter_map(|slot| slot.as_deref().and_then(waits)).collect()
    }

    pub(super) fn info(&mut self, point: &Point) -> Option<Info> {
        let at = *self.points.get(point)?;
        let shard = self.index as usize;
        let slot = self.slot(at)?;
        let state = match slot.phase {
            Step::Asking | Step::Loading => State::Starting,
            Step::Asleep | Step::Keeping => State::Sleeping,
            Step::Live => State::Live,
            Step::Failed => State::Failed,
            Step::Elsewhere => State::Elsewhere,
        };
        let live = slot.live.as_deref_mut();
        let given = live.as_ref().map_or(0, |live| live.conversation.given_len());
        let memory = live.and_then(|live| live.instance.as_mut()).map_or(0, Instance::memory_bytes);
        Some(Info {
            state,
            shard,
            queue: slot.mailbox.len() + given,
            handling: given,
            handled: slot.handled,
            restarts: slot.restarts_all,
            memory_bytes: memory,
            state_bytes: slot.state.as_ref().map_or(0, |state| state.len() as u64),
            reason: slot.reason.as_ref().map(ToString::to_string),
            watches: slot.watches.watched(),
        })
    }
}
