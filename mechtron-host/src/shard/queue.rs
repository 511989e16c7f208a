//! The way into a shard: events, and the queue that they wait in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use starlane_core::{Epoch, Message, Outcome, Point, Refusal};
use tokio::sync::oneshot;

use super::info::Info;
use super::moving::Released;
use crate::changes;
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
    /// A state of an epoch is durable, or not.
    Saved(Point, u64, Epoch, Result<(), Refusal>),
    /// What runs at a point changed, or where.
    Swap(Point),
    /// A mechtron that lives here watches something; refused when nothing can be known of it.
    Attend(Point, oneshot::Sender<Result<(), Refusal>>),
    /// What the watch with this number tells.
    Told(Point, u64, changes::Step),
    /// A mechtron is to leave this host; its handlers may go on until a moment.
    Leave(Point, Moment, oneshot::Sender<Result<Released, Refusal>>),
    /// Somebody outside of the shards has the message that a mechtron asked with, and will answer it by a moment.
    Bridge(Address, oneshot::Receiver<Answer>, Moment),
    Remove(Point),
    Sleep(Point),
    Info(Point, oneshot::Sender<Option<Info>>),
    /// How much waits for each mechtron that something waits for.
    Queues(oneshot::Sender<Vec<(Point, u64)>>),
    Drain(oneshot::Sender<()>),
    /// The host is gone.
    Stop,
}

/// The way into a shard.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Whether somebody should look again although there is no event.
    nudged: std::sync::atomic::AtomicBool,
    /// How many events may wait for a message or a command to be taken too.
    events_max: usize,
    pub(crate) counters: Counters,
}

/// What waits for a shard.
#[derive(Default)]
struct Waiting {
    events: Vec<Event>,
    /// Something changed, and there was no room to say about which mechtron.
    look_again: bool,
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
    pub(crate) fn new(events_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            nudged: std::sync::atomic::AtomicBool::new(false),
            events_max,
            counters: Counters::default(),
        }
    }

    /// Gives a message to the shard, or back when too much waits.
    #[expect(
        clippy::result_large_err,
        reason = "the mail goes back as it came; boxing it would cost every message"
    )]
    pub(crate) fn deliver(&self, mail: Mail) -> Result<(), Mail> {
        let mut waiting = self.waiting.lock();
        if waiting.events.len() >= self.events_max {
            return Err(mail);
        }
        waiting.events.push(Event::Deliver(mail));
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Gives a command to the shard; it is dropped when too much waits.
    pub(crate) fn command(&self, event: Event) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.events.len() >= self.events_max {
            return false;
        }
        waiting.events.push(event);
        drop(waiting);
        self.wake.notify_one();
        true
    }

    /// Tells the shard that something changed about a mechtron. When too much waits, it looks at all of them again instead:
    /// no change is missed.
    pub(crate) fn change(&self, event: Event) {
        if !self.command(event) {
            self.waiting.lock().look_again = true;
            self.wake.notify_one();
        }
    }

    /// Tells the shard what answers a question of its own, or ends what it was given: there are no more of these than it
    /// asked and took, each of which is bounded.
    pub(crate) fn tell(&self, event: Event) {
        self.waiting.lock().events.push(event);
        self.wake.notify_one();
    }

    /// Takes what another shard has for this one after a round, or leaves it there when too much waits.
    pub(super) fn take_over(&self, batch: &mut Vec<Event>) {
        let mut waiting = self.waiting.lock();
        if waiting.events.len() >= self.events_max {
            return;
        }
        waiting.events.append(batch);
        drop(waiting);
        self.wake.notify_one();
    }

    pub(crate) fn nudge(&self) {
        let _waiting = self.waiting.lock();
        self.nudged.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Takes what there is; waits for it when asked to, at most for a time. Tells whether to look at all mechtrons again.
    pub(super) fn take(&self, into: &mut Vec<Event>, wait: Option<Option<Duration>>) -> bool {
        let mut waiting = self.waiting.lock();
        if let Some(time) = wait
            && waiting.events.is_empty()
            && !waiting.look_again
            && !self.nudged.load(Ordering::Acquire)
        {
            match time {
                Some(time) => {
                    self.wake.wait_for(&mut waiting, time);
                }
                None => self.wake.wait(&mut waiting),
            }
        }
        self.nudged.store(false, Ordering::Release);
        std::mem::swap(&mut waiting.events, into);
        std::mem::take(&mut waiting.look_again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_commands_and_misses_no_change() {
        let queue = Queue::new(2);
        let swap = || Event::Swap("shop:a".parse().unwrap());
        let sleep = || Event::Sleep("shop:a".parse().unwrap());
        for _ in 0..100 {
            queue.change(swap());
        }
        assert!(!queue.command(sleep()));
        // What answers a question of the shard is never refused.
        queue.tell(Event::Stop);
        let mut events = Vec::new();
        assert!(queue.take(&mut events, Some(None)), "the changes that found no room");
        assert_eq!(events.len(), 3);
        events.clear();
        assert!(queue.command(sleep()), "there is room again");
        assert!(!queue.take(&mut events, Some(None)));
        assert_eq!(events.len(), 1);
        // What another shard has waits there until there is room, in its order.
        queue.change(swap());
        queue.change(swap());
        let mut batch = vec![sleep(), Event::Stop];
        queue.take_over(&mut batch);
        assert_eq!(batch.len(), 2);
        events.clear();
        queue.take(&mut events, None);
        queue.take_over(&mut batch);
        assert!(batch.is_empty());
        events.clear();
        queue.take(&mut events, None);
        assert!(matches!(events[..], [Event::Sleep(_), Event::Stop]));
    }
}
