//! Who waits for what: each request and call of this node, until its one outcome.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use starlane_core::frame::Kind;
use starlane_core::{Code, MessageId, NodeId, Outcome, Refusal};
use tokio::sync::{Notify, oneshot};

use crate::time::Clock;

/// More than there are threads that ask at once, so that they seldom wait for each other.
const SHARDS: usize = 64;
/// How late, at most, a deadline is noticed.
const TICK: Duration = Duration::from_millis(20);
/// After so many ticks with nobody waiting nobody looks any more.
const IDLE_TICKS: usize = 50;

/// All that is waited for.
pub(crate) struct Requests {
    shards: Box<[Mutex<HashMap<u128, Waiting, RandomState>>]>,
    count: AtomicUsize,
    count_max: usize,
    asleep: AtomicBool,
    wake: Notify,
}

/// Somebody who waits.
pub(crate) struct Waiting {
    /// What was sent.
    pub(crate) asked: Kind,
    /// To whom.
    pub(crate) to: NodeId,
    /// Over which link.
    pub(crate) link: u64,
    /// Until when.
    pub(crate) ends_ms: u64,
    /// Where the outcome goes.
    pub(crate) outcome: oneshot::Sender<Outcome>,
}

/// Why nobody can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotWaiting {
    /// As many wait as may.
    Full,
    /// Somebody waits under this id already.
    Twice,
}

impl Requests {
    pub(crate) fn new(count_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self {
            shards,
            count: AtomicUsize::new(0),
            count_max,
            asleep: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    fn shard(&self, id: MessageId) -> &Mutex<HashMap<u128, Waiting, RandomState>> {
        // The last bits of an id are random, or count.
        &self.shards[id.0 as usize % SHARDS]
    }

    pub(crate) fn insert(&self, id: MessageId, waiting: Waiting) -> Result<(), NotWaiting> {
        if self.count.fetch_add(1, Ordering::SeqCst) >= self.count_max {
            self.count.fetch_sub(1, Ordering::SeqCst);
            return Err(NotWaiting::Full);
        }
        let twice = {
            let mut shard = self.shard(id).lock();
            let twice = shard.contains_key(&id.0);
            if !twice {
                shard.insert(id.0, waiting);
            }
            twice
        };
        if twice {
            self.count.fetch_sub(1, Ordering::SeqCst);
            return Err(NotWaiting::Twice);
        }
        if self.asleep.load(Ordering::SeqCst) {
            self.asleep.store(false, Ordering::SeqCst);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Nobody waits under this id any more; whether somebody did.
    pub(crate) fn remove(&self, id: MessageId) -> bool {
        self.take(id, |_| true).is_some()
    }

    /// Ends the wait for an answer of a kind from a node. A refusal ends any wait, whoever sends it: it may come from a
    /// node on the way. Whether somebody waited.
    pub(crate) fn complete(&self, id: MessageId, kind: Kind, from: NodeId, outcome: Outcome) -> bool {
        let waited = self.take(id, |waiting| match kind {
            Kind::Reply => waiting.asked == Kind::Request && waiting.to == from,
            Kind::Answer => waiting.asked == Kind::Call && waiting.to == from,
            Kind::Traced => waiting.asked == Kind::Trace && waiting.to == from,
            _ => true,
        });
        // Whoever does not wait any more needs no answer.
        waited.is_some_and(|waiting| waiting.outcome.send(outcome).is_ok())
    }

    fn take(&self, id: MessageId, fits: impl FnOnce(&Waiting) -> bool) -> Option<Waiting> {
        let mut shard = self.shard(id).lock();
        if !fits(shard.get(&id.0)?) {
            return None;
        }
        let waiting = shard.remove(&id.0);
        drop(shard);
        self.count.fetch_sub(1, Ordering::SeqCst);
        waiting
    }

    /// A link was lost, and with it all that was sent over it: it may have run. How many waited.
    pub(crate) fn lose_link(&self, link: u64) -> usize {
        let lost =
            || Refusal::new(Code::Timeout, "the link was lost before an answer; the request may have run");
        self.end(|waiting| waiting.link == link, lost)
    }

    /// Ends the wait of those whose time is over. How many there were.
    pub(crate) fn expire(&self, now_ms: u64) -> usize {
        let late =
            || Refusal::new(Code::Timeout, "no answer came before the deadline; the request may have run");
        self.end(|waiting| waiting.ends_ms <= now_ms, late)
    }

    fn end(&self, over: impl Fn(&Waiting) -> bool, refusal: impl Fn() -> Refusal) -> usize {
        let mut ended = 0;
        for shard in &self.shards {
            let lost: Vec<_> = {
                let mut shard = shard.lock();
                if shard.is_empty() {
                    continue;
                }
                shard.extract_if(|_, waiting| over(waiting)).map(|(_, waiting)| waiting.outcome).collect()
            };
            self.count.fetch_sub(lost.len(), Ordering::SeqCst);
            ended += lost.len();
            for outcome in lost {
                // Whoever does not wait any more needs no outcome.
                let _ = outcome.send(Outcome::Unknown(refusal()));
            }
        }
        ended
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Looks after the deadlines, for ever. `ended` hears how many passed.
    pub(crate) async fn watch_deadlines(&self, clock: Clock, ended: impl Fn(usize)) {
        let mut idle = 0;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.expire(clock.now_ms()) {
                0 => {}
                passed => ended(passed),
            }
            idle = if self.waiting() == 0 { idle + 1 } else { 0 };
            if idle >= IDLE_TICKS {
                self.asleep.store(true, Ordering::SeqCst);
                // Whoever came before that is seen now; whoever comes after it wakes.
                if self.waiting() == 0 {
                    self.wake.notified().await;
                }
                idle = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use starlane_core::Reply;

    use super::*;

    const ID: MessageId = MessageId(7);

    fn wait(requests: &Requests, id: MessageId, ends_ms: u64) -> oneshot::Receiver<Outcome> {
        let (outcome, receiver) = oneshot::channel();
        let waiting = Waiting { asked: Kind::Request, to: NodeId(1), link: 5, ends_ms, outcome };
        requests.insert(id, waiting).unwrap();
        receiver
    }

    fn reply() -> Outcome {
        Outcome::Ok(Reply::new(200, "text/plain", "x"))
    }

    #[test]
    fn the_first_outcome_is_the_only_one() {
        let requests = Requests::new(10);
        let mut receiver = wait(&requests, ID, 100);
        // Of another kind, or from a node that was not asked.
        assert!(!requests.complete(ID, Kind::Answer, NodeId(1), reply()));
        assert!(!requests.complete(ID, Kind::Reply, NodeId(2), reply()));
        assert!(requests.complete(ID, Kind::Reply, NodeId(1), reply()));
        assert!(!requests.complete(ID, Kind::Reply, NodeId(1), reply()));
        assert_eq!((requests.expire(1_000), requests.lose_link(5), requests.waiting()), (0, 0, 0));
        assert_eq!(receiver.try_recv(), Ok(reply()));
    }

    #[test]
    fn a_deadline_and_a_lost_link_leave_it_unknown() {
        let requests = Requests::new(10);
        let mut late = wait(&requests, ID, 100);
        let mut lost = wait(&requests, MessageId(8), 900);
        assert_eq!(requests.expire(99), 0);
        assert_eq!(requests.expire(100), 1);
        assert_eq!(requests.lose_link(4), 0);
        assert_eq!(requests.lose_link(5), 1);
        for receiver in [&mut late, &mut lost] {
            assert!(
                matches!(receiver.try_recv(), Ok(Outcome::Unknown(refusal)) if refusal.code == Code::Timeout)
            );
        }
    }

    #[test]
    fn no_more_wait_than_may_and_none_under_the_same_id() {
        let requests = Requests::new(2);
        let _first = wait(&requests, ID, 100);
        let again = |id| {
            let outcome = oneshot::channel().0;
            let waiting = Waiting { asked: Kind::Call, to: NodeId(1), link: 5, ends_ms: 1, outcome };
            requests.insert(id, waiting)
        };
        assert_eq!(again(ID), Err(NotWaiting::Twice));
        assert_eq!(again(MessageId(8)), Ok(()));
        assert_eq!(again(MessageId(9)), Err(NotWaiting::Full));
        assert!(requests.remove(ID) && !requests.remove(ID));
        assert_eq!(again(MessageId(9)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_are_noticed_after_a_long_rest_too() {
        let requests = std::sync::Arc::new(Requests::new(10));
        let clock = Clock::start();
        let watched = requests.clone();
        tokio::spawn(async move { watched.watch_deadlines(clock, |_| ()).await });
        for rest_ms in [0, 60_000] {
            tokio::time::advance(Duration::from_millis(rest_ms)).await;
            let ends_ms = clock.now_ms() + 100;
            let outcome = wait(&requests, ID, ends_ms).await.unwrap();
            assert!(matches!(outcome, Outcome::Unknown(_)));
            let late_ms = clock.now_ms() - ends_ms;
            assert!(late_ms <= 21, "{late_ms} ms");
        }
    }
}
