//! The way into a shard: events, and the queue that they wait in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use starlane_core::{Epoch, Message, Outcome, Point, Refusal};
use tokio::sync::oneshot;

use super::info::Info;
use super::moving::Released;
use crate::clock::Moment;
use crate::mailbox::{Address, Answer, Mail, Waiter};
use crate::outside::Runs;

/// Everything that can happen to a shard.
pub(crate) enum Event {
    /// A message for a mechtron's own code.
    Deliver(Mail),
    /// A message of a mechtron on another shard.
    Route(Mail),
    /// The target is not on this host, or bound: the sender asks outside.
    Elsewhere(Address, Message, Moment),
    /// An answer for a mechtron of this shard.
    Answer(Address, Outcome),
    /// Nobody waits for this message any more.
    GiveUp(Point, Waiter),
    /// What runs at a point, as the answer to the question with this number.
    Activated(Point, u64, Result<Runs, Refusal>),
    /// The state that a mechtron begins with.
    Loaded(Point, u64, Epoch, Result<Option<Bytes>, Refusal>),
    /// A state is durable, or not.
    Saved(Point, u64, Result<(), Refusal>),
    /// What runs at a point changed, or where.
    Swap(Point),
    /// A mechtron is to leave this host; its handlers may go on until a moment.
    Leave(Point, Moment, oneshot::Sender<Result<Released, Refusal>>),
    /// Somebody outside of the shards has the message that a mechtron asked with, and will answer it by a moment.
    Bridge(Address, oneshot::Receiver<Answer>, Moment),
    Remove(Point),
    Sleep(Point),
    Info(Point, oneshot::Sender<Option<Info>>),
    Drain(oneshot::Sender<()>),
    /// The host is gone.
    Stop,
}

/// The way into a shard.
pub(crate) struct Queue {
    events: Mutex<Vec<Event>>,
    wake: Condvar,
    /// Whether somebody should look again although there is no event.
    nudged: std::sync::atomic::AtomicBool,
    messages_max: usize,
    pub(crate) counters: Counters,
}

/// What a shard counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) handled: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) live: AtomicU64,
    pub(crate) known: AtomicU64,
    pub(crate) traps: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) queue: AtomicU64,
}

impl Queue {
    pub(crate) fn new(messages_max: usize) -> Self {
        Self {
            events: Mutex::default(),
            wake: Condvar::new(),
            nudged: std::sync::atomic::AtomicBool::new(false),
            messages_max,
            counters: Counters::default(),
        }
    }

    /// Gives a message to the shard, or back when too many wait.
    #[expect(
        clippy::result_large_err,
        reason = "the mail goes back as it came; boxing it would cost every message"
    )]
    pub(crate) fn deliver(&self, mail: Mail) -> Result<(), Mail> {
        let mut events = self.events.lock();
        if events.len() >= self.messages_max {
            return Err(mail);
        }
        events.push(Event::Deliver(mail));
        drop(events);
        self.wake.notify_one();
        Ok(())
    }

    /// Tells the shard something that answers what it asked, or that is asked rarely.
    pub(crate) fn tell(&self, event: Event) {
        self.events.lock().push(event);
        self.wake.notify_one();
    }

    pub(super) fn tell_all(&self, batch: &mut Vec<Event>) {
        self.events.lock().append(batch);
        self.wake.notify_one();
    }

    pub(crate) fn nudge(&self) {
        let _events = self.events.lock();
        self.nudged.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Takes what there is; waits for it when asked to, at most for a time.
    pub(super) fn take(&self, into: &mut Vec<Event>, wait: Option<Option<Duration>>) {
        let mut events = self.events.lock();
        if let Some(time) = wait
            && events.is_empty()
            && !self.nudged.load(Ordering::Acquire)
        {
            match time {
                Some(time) => {
                    self.wake.wait_for(&mut events, time);
                }
                None => self.wake.wait(&mut events),
            }
        }
        self.nudged.store(false, Ordering::Release);
        std::mem::swap(&mut *events, into);
    }
}
