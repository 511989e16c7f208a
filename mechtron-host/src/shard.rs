//! A thread that owns mechtrons and runs their turns. Each file below has one part of that.

mod activation;
mod command;
mod commit;
mod ends;
mod inbox;
mod info;
mod moving;
mod outbox;
mod queue;
mod slot;
mod time;
mod turns;
mod watches;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foldhash::fast::RandomState;
use mechtron_abi::Writer;
use starlane_core::{Code, MessageId, Point, Refusal};
use tokio::sync::oneshot;

use self::slot::{Slot, Step};
use crate::clock::Moment;
use crate::limits::{Config, Limits};
use crate::logs::Logs;
use crate::mailbox::{Gauge, ReplyTo};
use crate::names::Names;
use crate::outside::Outside;

pub use self::info::{Info, State, Watched};
pub use self::moving::{Released, Returned, Waiting};
pub(crate) use self::queue::{Counters, Event, Queue};

/// Turns between two looks into the queue.
const TURNS: usize = 64;

/// What a caller is told to wait when a mailbox is full.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How long a shard that has nothing else to do waits for room at another.
const OTHERS_FULL: Duration = Duration::from_millis(1);

/// No moment.
const NEVER: Moment = Moment::MAX;

pub(crate) struct Shard {
    index: u32,
    config: Config,
    host_limits: Arc<Limits>,
    outside: Arc<dyn Outside>,
    queues: Arc<[Arc<Queue>]>,
    place: RandomState,
    logs: Arc<Logs>,
    slots: Vec<Option<Box<Slot>>>,
    free: Vec<u32>,
    points: HashMap<Point, u32, RandomState>,
    ready: VecDeque<u32>,
    wakes: BinaryHeap<Reverse<(Moment, u32)>>,
    /// What goes to the other shards after this round.
    outgoing: Vec<Vec<Event>>,
    names: Names,
    writer: Writer,
    method: String,
    now: Moment,
    /// Milliseconds since 1970, read with `now` once a round.
    wall_ms: u64,
    live: usize,
    hand: usize,
    serial: u64,
    message_id: u64,
    id_base: u64,
    draining: Option<oneshot::Sender<()>>,
    /// The next slot to look at, while all are looked at again.
    looking: Option<u32>,
    stopped: bool,
    gauge: Gauge,
}

/// Which shard a point lives on.
pub(crate) fn place(state: &RandomState, point: &Point, shards: usize) -> usize {
    use std::hash::BuildHasher as _;
    (state.hash_one(point) >> 32) as usize % shards
}

impl Shard {
    pub(crate) fn new(
        index: u32,
        config: Config,
        outside: Arc<dyn Outside>,
        queues: Arc<[Arc<Queue>]>,
        place: RandomState,
        logs: Arc<Logs>,
    ) -> Self {
        let outgoing = queues.iter().map(|_| Vec::new()).collect();
        let host_limits = Arc::new(config.limits.clone());
        let mut base = [0; 8];
        // Without randomness ids still differ by time and count.
        let _ = getrandom::fill(&mut base);
        Self {
            index,
            host_limits,
            outside,
            queues,
            place,
            logs,
            slots: Vec::new(),
            free: Vec::new(),
            points: HashMap::default(),
            ready: VecDeque::new(),
            wakes: BinaryHeap::new(),
            outgoing,
            names: Names::new(),
            writer: Writer::new(),
            method: String::new(),
            now: config.clock.now(),
            wall_ms: config.clock.wall_ms(),
            live: 0,
            hand: 0,
            serial: 0,
            message_id: 0,
            id_base: u64::from_le_bytes(base),
            draining: None,
            looking: None,
            stopped: false,
            gauge: Gauge::default(),
            config,
        }
    }

    /// Runs until the host is gone.
    pub(crate) fn run(mut self) {
        let queue = Arc::clone(&self.queues[self.index as usize]);
        let mut events = Vec::new();
        while !self.stopped {
            let all_left = self.flush();
            let idle = self.ready.is_empty() && self.looking.is_none();
            let wait = match all_left {
                _ if !idle => None,
                true => Some(self.until_next()),
                false => Some(Some(OTHERS_FULL)),
            };
            if queue.take(&mut events, wait) {
                self.looking = Some(0);
            }
            self.now = self.config.clock.now();
            self.wall_ms = self.config.clock.wall_ms();
            for event in events.drain(..) {
                self.guarded(None, |shard| shard.handle(event));
            }
            self.fire();
            self.look_on();
            for _ in 0..TURNS {
                let Some(at) = self.ready.pop_front() else { break };
                self.guarded(Some(at), |shard| shard.step(at));
            }
            self.finish_drain();
        }
    }

    /// A bug of ours costs the mechtron that it shows at, not the shard.
    fn guarded(&mut self, at: Option<u32>, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            tracing::error!(shard = self.index, "a bug in the host was met; the mechtron is dropped");
            if let Some(slot) = at.and_then(|at| self.slots.get_mut(at as usize)).and_then(Option::take) {
                self.points.remove(&slot.point);
                self.free.extend(at);
            }
        }
    }

    /// `None` waits for an event alone.
    fn until_next(&mut self) -> Option<Duration> {
        let next = self.wakes.peek().map(|Reverse((moment, _))| *moment)?;
        if next <= self.config.clock.now() {
            return Some(Duration::ZERO);
        }
        self.config.clock.until(next)
    }

    /// Hands on what the other shards are to do. Tells whether they took all of it.
    fn flush(&mut self) -> bool {
        self.counters().queue.store(self.gauge.get(), Ordering::Relaxed);
        for (queue, batch) in self.queues.iter().zip(&mut self.outgoing) {
            if !batch.is_empty() {
                queue.take_over(batch);
            }
        }
        self.outgoing.iter().all(Vec::is_empty)
    }

    fn counters(&self) -> &Counters {
        &self.queues[self.index as usize].counters
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver(mail) => self.deliver(mail),
            Event::Route(mail) => {
                if let Some(mail) = self.route_here(mail) {
                    match mail.reply {
                        ReplyTo::Mechtron(address) => {
                            self.outgoing[address.shard as usize].push(Event::Elsewhere(
                                address,
                                mail.message,
                                mail.deadline,
                            ));
                        }
                        _ => self.outside.send(mail.message),
                    }
                }
            }
            Event::Elsewhere(address, message, deadline) => {
                self.ask_if_it_waits(address, message, deadline);
            }
            Event::Answer(address, outcome) => self.answer(address, outcome),
            Event::GiveUp(point, waiter) => self.give_up(&point, &waiter),
            Event::Activated(point, number, activation) => self.activated(&point, number, activation),
            Event::Loaded(point, serial, epoch, state) => self.loaded(&point, serial, epoch, state),
            Event::Saved(point, serial, epoch, saved) => self.saved(&point, serial, epoch, saved),
            Event::Attend(point, done) => {
                // Who asked may have left.
                let _ = done.send(self.attend(point));
            }
            Event::Told(point, number, step) => self.told(&point, number, step),
            Event::Swap(point) => {
                if let Some(at) = self.points.get(&point).copied() {
                    self.changed(at);
                }
            }
            Event::Remove(point) => {
                if let Some(at) = self.points.get(&point).copied() {
                    let refusal = Refusal::new(Code::NotFound, format!("{point} was removed"));
                    self.remove(at, &refusal);
                    self.logs.forget(&point);
                }
            }
            Event::Leave(point, deadline, done) => self.leave(point, deadline, done),
            Event::Bridge(address, answer, deadline) => self.bridge(address, answer, deadline),
            Event::Sleep(point) => {
                if let Some(at) = self.points.get(&point).copied() {
                    self.sleep(at);
                }
            }
            Event::Info(point, reply) => {
                let info = self.info(&point);
                // Who asked may have left.
                let _ = reply.send(info);
            }
            Event::Queues(reply) => {
                // Who asked may have left.
                let _ = reply.send(self.waiting());
            }
            Event::Drain(done) => self.draining = Some(done),
            Event::Stop => self.stopped = true,
        }
    }

    /// What runs at a point changed, or where.
    fn changed(&mut self, at: u32) {
        if self.swaps_after_leaving(at) {
            return;
        }
        // Who does not run waits for the change, and begins with a clean slate.
        if let Some(slot) = self.slot(at)
            && matches!(slot.phase, Step::Asleep | Step::Failed | Step::Elsewhere)
        {
            slot.phase = Step::Asking;
            slot.not_before = 0;
            slot.restarts.clear();
            slot.reason = None;
        }
        self.ask_activation(at);
    }

    /// Goes on looking at all mechtrons again, some at a time.
    fn look_on(&mut self) {
        let Some(from) = self.looking else { return };
        let to = from.saturating_add(TURNS as u32).min(self.slots.len() as u32);
        for at in from..to {
            if self.slot(at).is_some() {
                self.guarded(Some(at), |shard| shard.changed(at));
            }
        }
        self.looking = (to < self.slots.len() as u32).then_some(to);
    }

    fn slot(&mut self, at: u32) -> Option<&mut Slot> {
        self.slots.get_mut(at as usize)?.as_deref_mut()
    }

    fn make_ready(&mut self, at: u32) {
        if let Some(slot) = self.slot(at)
            && !slot.queued
        {
            slot.queued = true;
            self.ready.push_back(at);
        }
    }

    fn count_live(&self) {
        self.counters().live.store(self.live as u64, Ordering::Relaxed);
    }

    fn log_line(&self, point: &Point, level: u8, line: String) {
        self.logs.write(point, self.wall_ms, vec![(level, line)], 0);
    }

    /// A UUID of version 7: time, then a count of this shard from a random start.
    fn next_id(&mut self) -> MessageId {
        self.message_id = self.message_id.wrapping_add(1);
        message_id(self.wall_ms, self.id_base.wrapping_add(self.message_id))
    }
}

pub(crate) fn message_id(wall_ms: u64, count: u64) -> MessageId {
    let time = u128::from(wall_ms & 0xffff_ffff_ffff) << 80;
    let high = u128::from((count >> 50) & 0xfff) << 64;
    let low = u128::from(count & 0x3fff_ffff_ffff_ffff);
    MessageId(time | 0x7 << 76 | high | 0b10 << 62 | low)
}
