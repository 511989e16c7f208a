//! A thread that owns mechtrons and runs their turns.

mod moving;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use mechtron_abi::{StartHead, Writer};
use parking_lot::{Condvar, Mutex};
use starlane_core::{
    Agent, Body, Code, Epoch, Header, Message, MessageId, Outcome, Payload, Phase, Point, Refusal, Reply,
    Request, Status,
};
use tokio::sync::oneshot;

use crate::clock::Moment;
use crate::engine::Entry;
use crate::imports::Env;
use crate::instance::{Ended, Instance, clamp};
use crate::limits::{Config, Limits, effective};
use crate::logs::Logs;
use crate::mailbox::{Address, Answer, Gauge, Mail, Mailbox, ReplyTo, Waiter};
use crate::names::Names;
use crate::outside::{Activation, Durability, Outside, Runs};
use crate::turn::{self, Action, Conversation, Pending, Waits};
use crate::wasi::Command as Wasi;

use self::moving::Leaving;
pub use self::moving::{Asker, Released, Returned, Waiting};

/// Turns between two looks into the queue.
const TURNS: usize = 64;
/// What a caller is told to wait when a mailbox is full.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// No moment.
const NEVER: Moment = Moment::MAX;

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

    fn tell_all(&self, batch: &mut Vec<Event>) {
        self.events.lock().append(batch);
        self.wake.notify_one();
    }

    pub(crate) fn nudge(&self) {
        let _events = self.events.lock();
        self.nudged.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Takes what there is; waits for it when asked to, at most for a time.
    fn take(&self, into: &mut Vec<Event>, wait: Option<Option<Duration>>) {
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

struct Slot {
    point: Point,
    phase: Step,
    activation: Option<Arc<Activation>>,
    /// What it goes back to when the activation does not start.
    previous: Option<Arc<Activation>>,
    /// What it changes to at the next turn.
    next: Option<Arc<Activation>>,
    limits: Arc<Limits>,
    mailbox: Mailbox,
    live: Option<Box<Live>>,
    state: Option<Bytes>,
    state_known: bool,
    /// Which life it is in.
    serial: u64,
    /// The last question for what runs here.
    asked: u64,
    queued: bool,
    /// The earliest moment that the shard looks after it.
    wake: Moment,
    last_used: Moment,
    /// Messages to give alone.
    singly: usize,
    restarts: VecDeque<Moment>,
    /// How many times in a row a run ended it, without an answer in between.
    crashes: u32,
    not_before: Moment,
    reason: Option<Arc<str>>,
    handled: u64,
    restarts_all: u64,
    ready_told: bool,
    /// It is on its way to another node.
    leaving: Option<Leaving>,
    /// The last epoch under which this host let go of it, or was refused as not the one that acts for it: only under a
    /// newer one it runs here again. The first of all stands for one that was not known.
    over: Option<Epoch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is asked what runs here.
    Asking,
    /// Its state is being loaded.
    Loading,
    Asleep,
    Live,
    /// Until `not_before`.
    Failed,
    /// It does not live here, until it is asked again what runs here.
    Elsewhere,
}

struct Live {
    /// `None` for a WASI command, which has one for each message.
    instance: Option<Instance>,
    conversation: Conversation,
    /// What waits for its state to be durable.
    held: Option<Held>,
}

struct Held {
    actions: Vec<Action>,
    state: Bytes,
    /// What comes after.
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Sleep,
}

impl Slot {
    fn is_durable(&self) -> bool {
        self.activation.as_ref().is_some_and(|activation| activation.durability != Durability::Memory)
    }

    /// Runs by another activation from its next start on; goes back to this one when that does not start, if it may.
    fn change_to(&mut self, activation: Arc<Activation>, goes_back: bool, host_limits: &Arc<Limits>) {
        let epoch = activation.epoch;
        self.limits = effective(activation.limits.as_ref(), host_limits);
        let before = self.activation.replace(activation);
        // Somebody else may have acted for it in between.
        if before.as_ref().is_some_and(|before| before.epoch != epoch) {
            self.state_known = false;
            if self.is_durable() {
                self.state = None;
            }
        }
        // Whatever runs does so under the newest epoch.
        self.previous = before.filter(|_| goes_back).map(|before| match before.epoch == epoch {
            true => before,
            false => Arc::new(Activation { epoch, ..(*before).clone() }),
        });
    }
}

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
            self.flush();
            let wait = if self.ready.is_empty() { Some(self.until_next()) } else { None };
            queue.take(&mut events, wait);
            self.now = self.config.clock.now();
            self.wall_ms = self.config.clock.wall_ms();
            for event in events.drain(..) {
                self.guarded(None, |shard| shard.handle(event));
            }
            self.fire();
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

    fn flush(&mut self) {
        self.counters().queue.store(self.gauge.get(), Ordering::Relaxed);
        for (queue, batch) in self.queues.iter().zip(&mut self.outgoing) {
            if !batch.is_empty() {
                queue.tell_all(batch);
            }
        }
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
            Event::Saved(point, serial, saved) => self.saved(&point, serial, saved),
            Event::Swap(point) => {
                if let Some(at) = self.points.get(&point).copied()
                    && !self.swaps_after_leaving(at)
                {
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
            Event::Drain(done) => self.draining = Some(done),
            Event::Stop => self.stopped = true,
        }
    }

    fn slot(&mut self, at: u32) -> Option<&mut Slot> {
        self.slots.get_mut(at as usize)?.as_deref_mut()
    }

    // ---- messages in ----

    /// Takes a message for the mechtron's own code.
    fn deliver(&mut self, mail: Mail) {
        let known = self.points.get(&mail.message.header.to).copied();
        if known.and_then(|at| self.slot(at)).is_some_and(|slot| slot.phase == Step::Elsewhere) {
            return self.send_away(mail);
        }
        if self.draining.is_some() {
            let refusal = Refusal::new(Code::Draining, "the node is stopping");
            return self.reply(mail.reply, Outcome::Rejected(refusal));
        }
        let at = match known {
            Some(at) => at,
            None => match self.make_slot(mail.message.header.to.clone()) {
                Ok(at) => at,
                Err(refusal) => return self.reply(mail.reply, Outcome::Rejected(refusal)),
            },
        };
        self.accept(at, mail);
    }

    /// Takes a message of a mechtron if its target is one of this shard, and not bound; else gives it back.
    fn route_here(&mut self, mail: Mail) -> Option<Mail> {
        let Some(at) = self.points.get(&mail.message.header.to).copied() else { return Some(mail) };
        let slot = self.slot(at)?;
        match &slot.activation {
            Some(activation) if !activation.bound => {
                self.accept(at, mail);
                None
            }
            _ => Some(mail),
        }
    }

    fn make_slot(&mut self, point: Point) -> Result<u32, Refusal> {
        let at = self.new_slot(point)?;
        self.ask_activation(at);
        Ok(at)
    }

    /// Remembers a point that was not known.
    fn new_slot(&mut self, point: Point) -> Result<u32, Refusal> {
        if self.points.len() >= self.config.known_max.div_ceil(self.queues.len()) {
            let mut refusal = Refusal::new(Code::Busy, "this node knows as many mechtrons as it can");
            refusal.retry_after = Some(RETRY_AFTER);
            return Err(refusal);
        }
        self.serial += 1;
        let slot = Box::new(Slot {
            point: point.clone(),
            phase: Step::Asking,
            activation: None,
            previous: None,
            next: None,
            limits: Arc::clone(&self.host_limits),
            mailbox: Mailbox::new(self.gauge.clone()),
            live: None,
            state: None,
            state_known: false,
            serial: self.serial,
            asked: 0,
            queued: false,
            wake: NEVER,
            last_used: self.now,
            singly: 0,
            restarts: VecDeque::new(),
            crashes: 0,
            not_before: 0,
            reason: None,
            handled: 0,
            restarts_all: 0,
            ready_told: false,
            leaving: None,
            over: None,
        });
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = Some(slot);
                at
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() as u32 - 1
            }
        };
        self.points.insert(point, at);
        self.counters().known.store(self.points.len() as u64, Ordering::Relaxed);
        Ok(at)
    }

    fn ask_activation(&mut self, at: u32) {
        self.serial += 1;
        let number = self.serial;
        let Some(slot) = self.slot(at) else { return };
        slot.asked = number;
        let point = slot.point.clone();
        let asked = self.outside.activation(point.clone());
        let queue = Arc::clone(&self.queues[self.index as usize]);
        self.config.runtime.spawn(async move {
            let activation = asked.await;
            queue.tell(Event::Activated(point, number, activation));
        });
    }

    fn accept(&mut self, at: u32, mail: Mail) {
        let now = self.now;
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        if let Some(refusal) = refuse(slot, &mail, now) {
            self.counters().refused.fetch_add(1, Ordering::Relaxed);
            return self.reply(mail.reply, Outcome::Rejected(refusal));
        }
        let deadline = mail.deadline;
        let limits = Arc::clone(&slot.limits);
        if let Err(mail) = slot.mailbox.push(mail, &limits) {
            let detail = format!("{} has {} messages waiting", slot.point, slot.mailbox.len());
            let mut refusal = Refusal::new(Code::Busy, detail);
            refusal.retry_after = Some(RETRY_AFTER);
            self.counters().refused.fetch_add(1, Ordering::Relaxed);
            return self.reply(mail.reply, Outcome::Rejected(refusal));
        }
        self.want(at, deadline);
        self.make_ready(at);
    }

    fn make_ready(&mut self, at: u32) {
        if let Some(slot) = self.slot(at)
            && !slot.queued
        {
            slot.queued = true;
            self.ready.push_back(at);
        }
    }

    fn give_up(&mut self, point: &Point, waiter: &Waiter) {
        let Some(at) = self.points.get(point).copied() else { return };
        let Some(slot) = self.slot(at) else { return };
        let removed = slot.mailbox.take(|mail| mail.reply.is_of(waiter));
        if !removed.is_empty() {
            return;
        }
        if let Some(live) = &mut slot.live
            && !live.conversation.cancel(|mail| mail.reply.is_of(waiter)).is_empty()
        {
            self.make_ready(at);
        }
    }

    // ---- time ----

    /// Makes the shard look after a mechtron no later than at a moment.
    fn want(&mut self, at: u32, moment: Moment) {
        if let Some(slot) = self.slot(at)
            && moment < slot.wake
        {
            slot.wake = moment;
            self.wakes.push(Reverse((moment, at)));
        }
    }

    fn fire(&mut self) {
        while let Some(Reverse((moment, at))) = self.wakes.peek().copied() {
            if moment > self.now {
                break;
            }
            self.wakes.pop();
            if self.slot(at).is_some_and(|slot| slot.wake == moment) {
                self.guarded(Some(at), |shard| shard.look_after(at));
            }
        }
    }

    /// Does what is due for a mechtron, and finds out when to look again.
    fn look_after(&mut self, at: u32) {
        let now = self.now;
        let idle = self.config.idle.as_millis() as u64;
        let Some(slot) = self.slot(at) else { return };
        slot.wake = NEVER;
        let expired = turn::expire(&mut slot.mailbox, now);
        let mut timed_out = Vec::new();
        let mut pending = Vec::new();
        let mut sleeps = false;
        if let Some(live) = &mut slot.live {
            let conversation = &mut live.conversation;
            timed_out = conversation.cancel(|mail| mail.deadline <= now);
            pending = conversation.expire_requests(now, &slot.limits);
            sleeps = conversation.may_sleep()
                && live.held.is_none()
                && slot.mailbox.is_empty()
                && slot.last_used + idle <= now;
        }
        for mail in expired {
            self.reply(mail.reply, Outcome::Rejected(turn::expired()));
        }
        for reply in timed_out {
            self.reply(reply, Outcome::Unknown(turn::timed_out()));
        }
        for pending in pending {
            self.abandon(at, pending, None);
        }
        if sleeps {
            self.sleep(at);
        } else {
            self.make_ready(at);
        }
        self.schedule(at);
    }

    fn schedule(&mut self, at: u32) {
        let idle = self.config.idle.as_millis() as u64;
        let now = self.now;
        let Some(slot) = self.slot(at) else { return };
        let mut moment = slot.mailbox.earliest_deadline().unwrap_or(NEVER);
        if let Some(leaving) = &slot.leaving {
            moment = moment.min(leaving.deadline);
        }
        if let Some(live) = &slot.live {
            moment = moment.min(live.conversation.earliest().unwrap_or(NEVER));
            if live.conversation.may_sleep() {
                moment = moment.min(slot.last_used + idle);
            }
        } else if slot.not_before > now && matches!(slot.phase, Step::Asleep | Step::Failed) {
            moment = moment.min(slot.not_before);
        }
        // What is due now was just looked at; it goes on with an event.
        self.want(at, moment.max(self.now + 1));
    }

    // ---- activation ----

    fn activated(&mut self, point: &Point, number: u64, activation: Result<Runs, Refusal>) {
        let Some(at) = self.points.get(point).copied() else { return };
        let host_limits = Arc::clone(&self.host_limits);
        // Answers may overtake each other; only that to the last question counts.
        let Some(slot) = self.slot(at).filter(|slot| slot.asked == number) else { return };
        let activation = match activation {
            Ok(Runs::Elsewhere) => return self.yield_to_another(at),
            // Whoever said so did not hear yet what this host knows.
            Ok(Runs::Here(activation)) if slot.over.is_some_and(|over| activation.epoch <= over) => {
                return self.stay_away(at);
            }
            Ok(Runs::Here(activation)) => Arc::new(activation),
            Err(refusal) if refusal.code == Code::NotFound => return self.remove(at, &refusal),
            // That nobody can be asked does not bring it back.
            Err(_) if slot.over.is_some() => return self.stay_away(at),
            Err(refusal) if slot.activation.is_none() => return self.remove(at, &refusal),
            Err(refusal) => {
                // What ran before goes on.
                if slot.phase == Step::Asking {
                    slot.phase = Step::Asleep;
                }
                let status = Status::because(Phase::Ready, format!("the change was not taken: {refusal}"));
                self.outside.status(point, status);
                return self.make_ready(at);
            }
        };
        slot.over = None;
        match &slot.activation {
            Some(current) if current.runs_like(&activation) => slot.activation = Some(activation),
            Some(_) if slot.live.is_some() => slot.next = Some(activation),
            // Only what once started is worth going back to.
            _ => slot.change_to(activation, slot.ready_told, &host_limits),
        }
        if slot.phase == Step::Asking {
            slot.phase = Step::Asleep;
        }
        self.make_ready(at);
    }

    /// Goes on with a mechtron.
    fn step(&mut self, at: u32) {
        let now = self.now;
        let Some(slot) = self.slot(at) else { return };
        slot.queued = false;
        if slot.leaving.is_some() {
            return self.go_on_leaving(at);
        }
        match slot.phase {
            Step::Asking | Step::Loading | Step::Elsewhere => {}
            Step::Failed => {
                if now >= slot.not_before {
                    slot.phase = Step::Asleep;
                    slot.reason = None;
                    slot.restarts.clear();
                    self.make_ready(at);
                }
            }
            Step::Asleep if slot.mailbox.is_empty() => {}
            Step::Asleep if now < slot.not_before => {
                let moment = slot.not_before;
                self.want(at, moment);
            }
            Step::Asleep => self.wake_up(at),
            Step::Live => self.turn(at),
        }
    }

    fn wake_up(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else { return };
        let Some(activation) = slot.activation.clone() else { return };
        if !slot.state_known && !activation.module.is_command() {
            slot.phase = Step::Loading;
            let (point, serial) = (slot.point.clone(), slot.serial);
            let epoch = activation.epoch;
            let loading = self.outside.load_state(point.clone(), epoch, activation.durability);
            let queue = Arc::clone(&self.queues[self.index as usize]);
            self.config.runtime.spawn(async move {
                let state = loading.await;
                queue.tell(Event::Loaded(point, serial, epoch, state));
            });
            return;
        }
        slot.state_known = true;
        self.start(at, &activation);
    }

    fn loaded(&mut self, point: &Point, serial: u64, epoch: Epoch, state: Result<Option<Bytes>, Refusal>) {
        let Some(at) = self.points.get(point).copied() else { return };
        let Some(slot) = self.slot(at).filter(|slot| slot.serial == serial && slot.phase == Step::Loading)
        else {
            return;
        };
        slot.phase = Step::Asleep;
        if slot.activation.as_ref().is_some_and(|activation| activation.epoch != epoch) {
            // Somebody else may have acted for it since; it is loaded anew.
            return self.make_ready(at);
        }
        match state {
            Ok(state) => {
                // What is in memory alone stays unless it was handed over anew.
                let kept = slot.state.take().filter(|_| !slot.is_durable());
                slot.state = state.or(kept);
                slot.state_known = true;
                self.make_ready(at);
            }
            Err(refusal) => {
                let waiting = slot.mailbox.take(|_| true);
                for mail in waiting {
                    self.reply(mail.reply, Outcome::Rejected(refusal.clone()));
                }
            }
        }
    }

    fn start(&mut self, at: u32, activation: &Arc<Activation>) {
        if self.live >= self.config.live_max.div_ceil(self.queues.len()) && !self.make_room(at) {
            let mut refusal = Refusal::new(Code::Busy, "as many mechtrons are live as this node can hold");
            refusal.retry_after = Some(RETRY_AFTER);
            let waiting = self.slot(at).map(|slot| slot.mailbox.take(|_| true)).unwrap_or_default();
            for mail in waiting {
                self.reply(mail.reply, Outcome::Rejected(refusal.clone()));
            }
            return;
        }
        let clock = self.config.clock.clone();
        let line_bytes = self.config.logs.line_bytes;
        let wall_ms = clock.wall_ms();
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        let conversation = Conversation::new(self.gauge.clone());
        let mut live = Box::new(Live { instance: None, conversation, held: None });
        slot.last_used = self.now;
        if activation.module.is_command() {
            slot.live = Some(live);
            slot.phase = Step::Live;
            self.started(at);
            return self.make_ready(at);
        }
        let made = Instance::start(activation, &slot.limits, &clock, line_bytes, slot.state.as_ref());
        let mut instance = match made {
            Ok(instance) => instance,
            Err(ended) => return self.start_failed(at, &ended),
        };
        let head = StartHead { point: slot.point.as_str().into(), name: activation.name.as_str().into() };
        let state = slot.state.as_deref().filter(|_| !instance.loads());
        live.conversation.start(&mut self.writer, wall_ms, &head, state);
        let ran = instance.run(self.writer.bytes());
        live.instance = Some(instance);
        slot.live = Some(live);
        slot.phase = Step::Live;
        self.live += 1;
        self.count_live();
        let read = ran.and_then(|()| self.read(at));
        match read {
            Ok(output) if output.refused.is_some() => {
                let detail = output.refused.unwrap_or_default();
                self.start_failed(at, &Ended { code: Code::NotReady, detail });
            }
            Ok(output) => {
                self.started(at);
                self.commit(at, output);
                self.make_ready(at);
            }
            Err(ended) => self.start_failed(at, &ended),
        }
    }

    fn started(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else { return };
        slot.previous = None;
        slot.reason = None;
        if !std::mem::replace(&mut slot.ready_told, true) {
            let point = slot.point.clone();
            self.outside.status(&point, Status::ready());
        }
    }

    fn start_failed(&mut self, at: u32, ended: &Ended) {
        self.drop_live(at);
        let host_limits = Arc::clone(&self.host_limits);
        let Some(slot) = self.slot(at) else { return };
        slot.phase = Step::Asleep;
        let point = slot.point.clone();
        let detail = format!("it does not start: {}", ended.detail);
        tracing::debug!(%point, detail, "a mechtron does not start");
        if let Some(previous) = slot.previous.take() {
            slot.limits = effective(previous.limits.as_ref(), &host_limits);
            slot.activation = Some(Arc::clone(&previous));
            slot.ready_told = true;
            self.outside.rolled_back(&point, &previous, format!("rolled back: {detail}"));
            self.log_line(&point, 1, format!("rolled back: {detail}"));
            return self.make_ready(at);
        }
        self.log_line(&point, 1, detail.clone());
        self.count_restart(at, &detail);
    }

    /// Counts a start that failed; too many in the window are `Panic`.
    fn count_restart(&mut self, at: u32, reason: &str) {
        let now = self.now;
        let window = self.config.restart_window.as_millis() as u64;
        let (max, delay) = (self.config.restarts, self.config.restart_delay.as_millis() as u64);
        let Some(slot) = self.slot(at) else { return };
        slot.restarts.retain(|moment| moment + window > now);
        slot.restarts.push_back(now);
        slot.restarts_all += 1;
        let count = slot.restarts.len() as u32;
        if count < max {
            let doublings = count.saturating_sub(2).min(16);
            slot.not_before = if count >= 2 { now + (delay << doublings) } else { now };
            return self.make_ready(at);
        }
        slot.phase = Step::Failed;
        slot.not_before = now + window;
        slot.ready_told = false;
        slot.reason = Some(reason.into());
        let point = slot.point.clone();
        let waiting = slot.mailbox.take(|_| true);
        let until = slot.not_before;
        let refusal = Refusal::new(Code::NotReady, format!("{point} failed {count} times: {reason}"));
        for mail in waiting {
            self.reply(mail.reply, Outcome::Rejected(refusal.clone()));
        }
        self.want(at, until);
        self.outside.status(&point, Status::because(Phase::Panic, reason));
    }

    // ---- turns ----

    fn turn(&mut self, at: u32) {
        let now = self.now;
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        let Some(live) = slot.live.as_deref_mut().filter(|live| live.held.is_none()) else { return };
        if slot.next.is_some() && live.conversation.is_quiet() {
            return self.swap_now(at);
        }
        let Some(activation) = slot.activation.clone() else { return };
        let reentrant = activation.is_reentrant();
        let Some(instance) = live.instance.as_mut() else { return self.run_command(at, &activation) };
        let wall_ms = self.wall_ms;
        let mut any = live.conversation.inputs(&mut self.writer, wall_ms, now);
        let checks = activation.module.contract().checks(&activation.name);
        let mut refused = Vec::new();
        // A swap waits for a moment without any message.
        let open = slot.leaving.is_none() && (slot.next.is_none() || live.conversation.given_len() > 0);
        let batch = if slot.singly > 0 { 1 } else { slot.limits.batch };
        if open && live.conversation.takes_messages(reentrant, &slot.limits) && !(any && slot.singly > 0) {
            while live.conversation.in_run() < batch
                && let Some(mail) = slot.mailbox.peek()
            {
                if any && !Conversation::fits(&self.writer, mail) {
                    break;
                }
                let Some(mail) = slot.mailbox.pop() else { break };
                if let Some(outcome) = unfit(&mail, now, checks, &activation) {
                    refused.push((mail.reply, outcome));
                    continue;
                }
                slot.singly = slot.singly.saturating_sub(1);
                live.conversation.give(&mut self.writer, mail, now, &mut self.method);
                any = true;
            }
        }
        if any {
            slot.last_used = now;
            let ran = instance.run(self.writer.bytes());
            for (reply, outcome) in refused {
                self.reply(reply, outcome);
            }
            match ran.and_then(|()| self.read(at)) {
                Ok(output) => self.commit(at, output),
                Err(ended) => self.crashed(at, &ended, reentrant),
            }
        } else {
            for (reply, outcome) in refused {
                self.reply(reply, outcome);
            }
            self.schedule(at);
        }
    }

    /// Reads the output of the run that just ended, and the state of a guest that is asked for it.
    fn read(&mut self, at: u32) -> Result<turn::Output, Ended> {
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else {
            return Ok(turn::Output::default());
        };
        let Some(Live { instance: Some(instance), conversation, .. }) = slot.live.as_deref_mut() else {
            return Ok(turn::Output::default());
        };
        let mut output = conversation.read(instance.output(), &mut self.names, &slot.limits)?;
        if output.answered && output.state.is_none() && instance.saves() {
            output.state = Some(instance.save()?);
        }
        let lines = instance.lines();
        if !lines.kept.is_empty() || lines.left_out > 0 {
            let (kept, left_out) = (std::mem::take(&mut lines.kept), std::mem::take(&mut lines.left_out));
            self.logs.write(&slot.point, self.wall_ms, kept, left_out);
        }
        Ok(output)
    }

    /// Makes the state of a run durable, then lets its outbox go.
    fn commit(&mut self, at: u32, output: turn::Output) {
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        let durable = slot.is_durable();
        let Some(live) = slot.live.as_deref_mut() else { return };
        let changed = output.state.filter(|state| slot.state.as_ref() != Some(state));
        let Some(state) = changed else { return self.release(at, output.actions) };
        if !durable {
            if let Some(instance) = &mut live.instance {
                instance.set_state(state.clone());
            }
            slot.state = Some(state);
            return self.release(at, output.actions);
        }
        live.held = Some(Held { actions: output.actions, state: state.clone(), then: Then::GoOn });
        self.save(at, state);
    }

    fn save(&mut self, at: u32, state: Bytes) {
        let Some(slot) = self.slot(at) else { return };
        let (point, serial) = (slot.point.clone(), slot.serial);
        let Some(activation) = slot.activation.clone() else { return };
        let saving = self.outside.save_state(point.clone(), activation.epoch, activation.durability, state);
        let queue = Arc::clone(&self.queues[self.index as usize]);
        self.config.runtime.spawn(async move {
            let saved = saving.await;
            queue.tell(Event::Saved(point, serial, saved));
        });
    }

    fn saved(&mut self, point: &Point, serial: u64, saved: Result<(), Refusal>) {
        let Some(at) = self.points.get(point).copied() else { return };
        let Some(slot) = self.slot(at).filter(|slot| slot.serial == serial) else { return };
        let Some(live) = slot.live.as_deref_mut() else { return };
        let Some(held) = live.held.take() else { return };
        if let Err(refusal) = saved {
            return self.not_saved(at, held, refusal);
        }
        if let Some(instance) = &mut live.instance {
            instance.set_state(held.state.clone());
        }
        slot.state = Some(held.state);
        if held.then == Then::Sleep {
            return self.fall_asleep(at);
        }
        self.release(at, held.actions);
    }

    /// The state could not be saved: what the run did is not told, and the mechtron goes back to what was saved last.
    fn not_saved(&mut self, at: u32, held: Held, refusal: Refusal) {
        let stale = matches!(refusal.code, Code::EpochStale | Code::NotFound);
        self.answer_held(at, &held, &|| match stale {
            true => Outcome::Failed(refusal.clone()),
            false => Outcome::Unknown(refusal.clone()),
        });
        if refusal.code == Code::NotFound {
            return self.remove(at, &refusal);
        }
        if let Some(live) = self.slot(at).and_then(|slot| slot.live.as_deref_mut()) {
            live.conversation.settle();
        }
        if stale {
            return self.ask_who_acts(at);
        }
        let Some(slot) = self.slot(at) else { return };
        // It may have been saved after all.
        slot.state_known = false;
        slot.state = None;
        let detail = format!("its state could not be saved: {refusal}");
        self.crashed(at, &Ended { code: refusal.code, detail }, true);
    }

    /// Answers those who wait for a commit that is of no use any more, whatever the mechtron answered.
    fn answer_held(&mut self, at: u32, held: &Held, outcome: &dyn Fn() -> Outcome) {
        let Some(live) = self.slot(at).and_then(|slot| slot.live.as_deref_mut()) else { return };
        let answers = held.actions.iter().filter_map(|action| match action {
            Action::Answer { at, .. } => Some(live.conversation.take_reply(*at)),
            _ => None,
        });
        for reply in answers.collect::<Vec<_>>() {
            self.reply(reply, outcome());
        }
    }

    /// Does what a run asked for.
    fn release(&mut self, at: u32, actions: Vec<Action>) {
        let mut lines = Vec::new();
        for action in actions {
            self.act(at, action, &mut lines);
        }
        let (now, wall_ms) = (self.now, self.wall_ms);
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        if !lines.is_empty() {
            let left_out = lines.len().saturating_sub(slot.limits.run_lines);
            lines.truncate(slot.limits.run_lines);
            self.logs.write(&slot.point, wall_ms, lines, left_out as u64);
        }
        let Some(live) = slot.live.as_deref_mut() else { return };
        let settled = live.conversation.settle() as u64;
        slot.handled += settled;
        if settled > 0 {
            slot.crashes = 0;
        }
        let more = slot.leaving.is_some()
            || live.conversation.has_input(now)
            || slot.next.is_some() && live.conversation.is_quiet()
            || (!slot.mailbox.is_empty() && live.conversation.given_len() == 0)
            || (!slot.mailbox.is_empty() && slot.activation.as_ref().is_some_and(|a| a.is_reentrant()));
        let idle_at = live.conversation.may_sleep().then_some(slot.last_used);
        self.counters().handled.fetch_add(settled, Ordering::Relaxed);
        if let Some(last_used) = idle_at {
            self.want(at, last_used + self.config.idle.as_millis() as u64);
        }
        if more {
            self.make_ready(at);
        }
    }

    fn act(&mut self, at: u32, action: Action, lines: &mut Vec<(u8, String)>) {
        let now = self.now;
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        let Some(live) = slot.live.as_deref_mut() else { return };
        let conversation = &mut live.conversation;
        match action {
            Action::Answer { at: given, outcome } => {
                let reply = conversation.take_reply(given);
                self.reply(reply, outcome);
            }
            Action::Call { token, at: given, to, request, timeout_ms } => {
                self.call(at, token, given, to, request, timeout_ms);
            }
            Action::Refuse { token, refusal } => {
                conversation.push_outcome(token, Outcome::Rejected(refusal), &slot.limits);
            }
            Action::SetTimer { token, delay_ms } => {
                let due = now.saturating_add(delay_ms);
                conversation.set_timer(token, due);
                self.want(at, due);
            }
            Action::StateGet(token) => {
                let outcome = match &slot.state {
                    Some(state) => Outcome::Ok(Reply {
                        status: 200,
                        headers: starlane_core::Headers::default(),
                        body: Body::Bytes(state.clone()),
                    }),
                    None => Outcome::Rejected(Refusal::new(Code::NotFound, "no state was saved")),
                };
                conversation.push_outcome(token, outcome, &slot.limits);
            }
            Action::Select { token, selector } => self.select(at, token, selector),
            Action::Log { level, line } => lines.push((level, line)),
            Action::GiveUp(token) => {
                conversation.unset_timer(token);
                if let Some(pending) = conversation.requests.remove(&token) {
                    let address = Address { shard: self.index, slot: at, serial: slot.serial, token };
                    self.abandon(at, pending, Some(address));
                }
            }
        }
    }

    /// A message of a mechtron: to another of this shard without leaving it, else to its shard or outside.
    fn call(
        &mut self,
        at: u32,
        token: Option<u64>,
        given: Option<usize>,
        to: Point,
        request: Request,
        timeout_ms: u64,
    ) {
        let now = self.now;
        let id = self.next_id();
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        let reentrant = slot.activation.as_ref().is_some_and(|activation| activation.is_reentrant());
        let Some(live) = slot.live.as_deref_mut() else { return };
        // Of several messages being handled nobody knows which one asks.
        let handled = given.filter(|_| !reentrant).and_then(|given| live.conversation.mail(given));
        let remaining = turn::call_time(handled, timeout_ms, now);
        let from = slot.point.clone();
        let mut header = Header::new(id, from.clone(), to, Agent(from), remaining);
        if let Some(mail) = handled {
            header.trace.trace_id = mail.message.header.trace.trace_id;
            header.trace.sampled = mail.message.header.trace.sampled;
            header.priority = mail.message.header.priority;
            header.hops_left = mail.message.header.hops_left;
        }
        let deadline = now + remaining.as_millis() as u64;
        let Some(token) = token else {
            let mail = Mail {
                message: Message { header, payload: Payload::Signal(request) },
                reply: ReplyTo::Nobody,
                deadline,
            };
            return self.route(mail);
        };
        if !reentrant {
            let before = handled.map(|mail| mail.message.header.chain.clone());
            header.chain = before.unwrap_or_default().with(slot.point.clone());
        }
        let pending = Pending { to: Waits::Mechtron(header.to.clone()), deadline: None };
        live.conversation.requests.insert(token, pending);
        let address = Address { shard: self.index, slot: at, serial: slot.serial, token };
        let message = Message { header, payload: Payload::Request(request) };
        self.route(Mail { message, reply: ReplyTo::Mechtron(address), deadline });
    }

    fn route(&mut self, mail: Mail) {
        let target = place(&self.place, &mail.message.header.to, self.queues.len());
        if target != self.index as usize {
            if self.outgoing[target].len() >= self.config.shard_queue {
                return self.reply(
                    mail.reply,
                    Outcome::Rejected(Refusal::new(Code::Busy, "a shard has too much waiting")),
                );
            }
            return self.outgoing[target].push(Event::Route(mail));
        }
        if let Some(mail) = self.route_here(mail) {
            match mail.reply {
                ReplyTo::Mechtron(address) => self.ask_outside(address, mail.message, mail.deadline),
                _ => self.outside.send(mail.message),
            }
        }
    }

    /// Asks outside, unless the mechtron gave up meanwhile.
    fn ask_if_it_waits(&mut self, address: Address, message: Message, deadline: Moment) {
        if self.waits(address) {
            self.ask_outside(address, message, deadline);
        }
    }

    /// Whether a mechtron still waits for an answer.
    fn waits(&mut self, address: Address) -> bool {
        let slot = self.slot(address.slot).filter(|slot| slot.serial == address.serial);
        slot.and_then(|slot| slot.live.as_deref())
            .is_some_and(|live| live.conversation.requests.contains_key(&address.token))
    }

    /// Asks a point that is not a mechtron of this host, for one that is.
    fn ask_outside(&mut self, address: Address, mut message: Message, deadline: Moment) {
        if deadline <= self.now {
            return self.answer(address, Outcome::Rejected(turn::expired()));
        }
        message.header.remaining = Duration::from_millis(deadline - self.now);
        let asked = self.outside.request(message);
        self.task(address, deadline, asked);
    }

    fn select(&mut self, at: u32, token: u64, selector: String) {
        let Some(slot) = self.slot(at) else { return };
        let (point, serial) = (slot.point.clone(), slot.serial);
        let asked = self.outside.select(point, selector);
        let address = Address { shard: self.index, slot: at, serial, token };
        let deadline = self.now + turn::TIMEOUT_MS;
        self.task(address, deadline, async move {
            match asked.await {
                Ok((json, more)) => {
                    let mut reply = Reply::new(200, "application/json", json);
                    if more {
                        reply.headers.set("starlane-more", "true");
                    }
                    Outcome::Ok(reply)
                }
                Err(refusal) => Outcome::Rejected(refusal),
            }
        });
    }

    /// Lets the runtime find an outcome for a mechtron's token.
    fn task(
        &mut self,
        address: Address,
        deadline: Moment,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let queue = Arc::clone(&self.queues[self.index as usize]);
        let runtime = self.config.runtime.clone();
        let Some(slot) = self.slot(address.slot).filter(|slot| slot.serial == address.serial) else { return };
        let Some(live) = slot.live.as_deref_mut() else { return };
        let task = runtime.spawn(async move {
            let outcome = work.await;
            queue.tell(Event::Answer(address, outcome));
        });
        let pending = Pending { to: Waits::Task(task.abort_handle()), deadline: Some(deadline) };
        live.conversation.requests.insert(address.token, pending);
        self.want(address.slot, deadline);
    }

    /// Tells whoever works on a request that its answer is not wanted any more.
    fn abandon(&mut self, _at: u32, pending: Pending, address: Option<Address>) {
        match (pending.to, address) {
            (Waits::Task(task), _) => task.abort(),
            (Waits::Mechtron(point), Some(address)) => {
                let waiter = Waiter::Mechtron(address);
                let target = place(&self.place, &point, self.queues.len());
                if target == self.index as usize {
                    self.give_up(&point, &waiter);
                } else {
                    self.outgoing[target].push(Event::GiveUp(point, waiter));
                }
            }
            (Waits::Mechtron(_), None) => {}
        }
    }

    fn answer(&mut self, address: Address, outcome: Outcome) {
        let Some(slot) = self.slot(address.slot).filter(|slot| slot.serial == address.serial) else { return };
        let limits = Arc::clone(&slot.limits);
        if let Some(live) = slot.live.as_deref_mut()
            && live.conversation.answer(address.token, outcome, &limits)
        {
            self.make_ready(address.slot);
        }
    }

    /// Answers whoever waits.
    fn reply(&mut self, reply: ReplyTo, outcome: Outcome) {
        match reply {
            ReplyTo::Nobody => {
                if !matches!(outcome, Outcome::Ok(_)) {
                    self.counters().lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Who asked may have left.
            ReplyTo::Outside(_, sender) => {
                let _ = sender.send(Ok(outcome));
            }
            ReplyTo::Mechtron(address) if address.shard == self.index => self.answer(address, outcome),
            ReplyTo::Mechtron(address) => {
                self.outgoing[address.shard as usize].push(Event::Answer(address, outcome));
            }
        }
    }

    /// Runs a WASI command for the next message.
    fn run_command(&mut self, at: u32, activation: &Arc<Activation>) {
        let now = self.now;
        let (clock, line_bytes) = (self.config.clock.clone(), self.config.logs.line_bytes);
        let Some(slot) = self.slot(at) else { return };
        let Some(mail) = slot.mailbox.pop() else { return self.schedule(at) };
        slot.last_used = now;
        slot.handled += 1;
        let (limits, point) = (Arc::clone(&slot.limits), slot.point.clone());
        if !slot.mailbox.is_empty() {
            self.make_ready(at);
        }
        if let Some(outcome) = unfit(&mail, now, false, activation) {
            return self.reply(mail.reply, outcome);
        }
        let input = match mail.request().map(|request| &request.body) {
            Some(Body::Bytes(bytes)) => bytes.clone(),
            _ => Bytes::new(),
        };
        let mut env = Env::new(clock.clone(), limits.run_lines, line_bytes);
        env.calls_left = limits.host_calls;
        env.command = Some(Box::new(Wasi::of(&mail.message, input, limits.outbox_bytes as usize)));
        let outcome = match activation.module.code().instantiate(clamp(&limits), env) {
            Err(detail) => Outcome::Failed(Refusal::new(Code::NotReady, detail)),
            Ok(mut guest) => {
                guest.set_ticks(limits.ticks);
                let ended = guest.call(Entry::Start, 0).and_then(|_| guest.call(Entry::Command, 0));
                let env = guest.env();
                let command = *env.command.take().unwrap_or_default();
                let partial = std::mem::take(&mut env.partial);
                if !partial.is_empty() {
                    env.lines.push(2, &partial);
                }
                let (kept, left_out) = (std::mem::take(&mut env.lines.kept), env.lines.left_out);
                if !kept.is_empty() || left_out > 0 {
                    self.logs.write(&point, clock.wall_ms(), kept, left_out);
                }
                command_outcome(ended, command)
            }
        };
        if !matches!(outcome, Outcome::Ok(_)) {
            self.counters().traps.fetch_add(1, Ordering::Relaxed);
        }
        self.counters().handled.fetch_add(1, Ordering::Relaxed);
        self.reply(mail.reply, outcome);
        self.schedule(at);
    }

    // ---- ends ----

    /// The instance ended in a turn.
    fn crashed(&mut self, at: u32, ended: &Ended, reentrant: bool) {
        self.counters().traps.fetch_add(1, Ordering::Relaxed);
        let Some(slot) = self.slot(at) else { return };
        let Some(live) = slot.live.as_deref_mut() else { return };
        let remains = live.conversation.end(reentrant);
        let point = slot.point.clone();
        self.drop_live(at);
        let Some(slot) = self.slot(at) else { return };
        slot.phase = Step::Asleep;
        slot.singly = slot.singly.max(remains.again.len());
        for mail in remains.again.into_iter().rev() {
            slot.mailbox.push_front(mail);
        }
        let refusal = Refusal::new(ended.code, format!("{point} failed: {}", ended.detail));
        for mail in remains.failed {
            self.reply(mail.reply, Outcome::Failed(refusal.clone()));
        }
        if remains.is_search {
            return self.make_ready(at);
        }
        self.log_line(&point, 1, ended.detail.clone());
        self.start_again(at);
    }

    /// Lets the next message start it again. It did start, so a message that ends it takes it away from nobody: from the
    /// fifth in a row on it waits a little before, and never longer.
    fn start_again(&mut self, at: u32) {
        let now = self.now;
        let (max, delay) = (self.config.restarts, self.config.restart_delay.as_millis() as u64);
        let Some(slot) = self.slot(at) else { return };
        slot.restarts_all += 1;
        slot.crashes = slot.crashes.saturating_add(1);
        slot.not_before = if slot.crashes >= max { now + delay } else { now };
        self.make_ready(at);
    }

    /// Drops the instance and everything that it waits for.
    fn drop_live(&mut self, at: u32) {
        self.serial += 1;
        let serial = self.serial;
        let Some(slot) = self.slot(at) else { return };
        let old = std::mem::replace(&mut slot.serial, serial);
        let leaves = slot.leaving.is_some();
        let Some(mut live) = slot.live.take() else { return };
        if let Some(instance) = &mut live.instance {
            let point = slot.point.clone();
            let lines = instance.lines();
            let (kept, left_out) = (std::mem::take(&mut lines.kept), lines.left_out);
            self.live -= 1;
            if !kept.is_empty() || left_out > 0 {
                self.logs.write(&point, self.wall_ms, kept, left_out);
            }
        }
        for (token, pending) in live.conversation.requests.drain() {
            let address = Address { shard: self.index, slot: at, serial: old, token };
            self.abandon(at, pending, Some(address));
        }
        self.count_live();
        if leaves {
            self.make_ready(at);
        }
    }

    /// Puts a mechtron to sleep, unless a handler waits.
    fn sleep(&mut self, at: u32) {
        let wall_ms = self.wall_ms;
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        let Some(live) = slot.live.as_deref_mut() else { return };
        if !live.conversation.is_quiet() || live.held.is_some() {
            return;
        }
        let Some(instance) = &mut live.instance else { return self.fall_asleep(at) };
        live.conversation.stop(&mut self.writer, wall_ms);
        let ran = instance.run(self.writer.bytes());
        let state = match ran.and_then(|()| self.read(at)) {
            Ok(output) => output.state,
            Err(ended) => return self.crashed(at, &ended, false),
        };
        let Some(slot) = self.slot(at) else { return };
        let Some(state) = state.filter(|state| slot.state.as_ref() != Some(state)) else {
            return self.fall_asleep(at);
        };
        if !slot.is_durable() {
            slot.state = Some(state);
            return self.fall_asleep(at);
        }
        if let Some(live) = slot.live.as_deref_mut() {
            live.held = Some(Held { actions: Vec::new(), state: state.clone(), then: Then::Sleep });
        }
        self.save(at, state);
    }

    fn fall_asleep(&mut self, at: u32) {
        self.drop_live(at);
        let host_limits = Arc::clone(&self.host_limits);
        let Some(slot) = self.slot(at) else { return };
        slot.phase = Step::Asleep;
        // The state of one that leaves is as the activation has it that it ran by.
        if let Some(next) = slot.next.take().filter(|_| slot.leaving.is_none()) {
            slot.change_to(next, true, &host_limits);
        } else if slot.is_durable() {
            slot.state = None;
            slot.state_known = false;
        }
        slot.restarts.shrink_to_fit();
        self.make_ready(at);
        self.schedule(at);
    }

    /// Changes to the next activation: the old instance stops, the new one starts at once with its state.
    fn swap_now(&mut self, at: u32) {
        self.sleep(at);
        let Some(slot) = self.slot(at) else { return };
        if slot.live.is_none()
            && let Some(activation) = slot.activation.clone()
            && slot.state_known
        {
            self.start(at, &activation);
        }
    }

    /// Makes room for one more live mechtron: of some that may sleep, the one used longest ago.
    fn make_room(&mut self, but: u32) -> bool {
        let mut oldest: Option<(Moment, u32)> = None;
        let mut seen = 0;
        for _ in 0..self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len().max(1);
            let Some(slot) = self.slots[self.hand].as_deref() else { continue };
            let Some(live) = slot.live.as_deref() else { continue };
            let idle = live.conversation.may_sleep() && live.held.is_none() && slot.mailbox.is_empty();
            if idle && self.hand as u32 != but {
                oldest = Some(oldest.map_or((slot.last_used, self.hand as u32), |old| {
                    old.min((slot.last_used, self.hand as u32))
                }));
                seen += 1;
            }
            if seen >= 16 {
                break;
            }
        }
        let Some((_, at)) = oldest else { return false };
        self.sleep(at);
        // One that is still being saved counts until it is.
        true
    }

    /// Forgets a mechtron; all who wait are told.
    fn remove(&mut self, at: u32, refusal: &Refusal) {
        let Some(slot) = self.slot(at) else { return };
        let waiting = slot.mailbox.take(|_| true);
        let remains = slot.live.as_deref_mut().map(|live| {
            let replies = (0..live.conversation.given_len()).map(|given| live.conversation.take_reply(given));
            replies.collect::<Vec<_>>()
        });
        self.drop_live(at);
        if let Some(leaving) = self.slot(at).and_then(|slot| slot.leaving.take()) {
            leaving.end(Err(refusal.clone()));
        }
        self.forget(at);
        for mail in waiting {
            self.reply(mail.reply, Outcome::Rejected(refusal.clone()));
        }
        for reply in remains.into_iter().flatten() {
            self.reply(reply, Outcome::Failed(refusal.clone()));
        }
    }

    /// Frees the place of a mechtron that nothing is left of.
    fn forget(&mut self, at: u32) {
        if let Some(slot) = self.slots[at as usize].take() {
            self.points.remove(&slot.point);
            self.free.push(at);
        }
        self.counters().known.store(self.points.len() as u64, Ordering::Relaxed);
    }

    fn finish_drain(&mut self) {
        if self.draining.is_none() || !self.ready.is_empty() {
            return;
        }
        let mut busy = false;
        for at in 0..self.slots.len() as u32 {
            let Some(slot) = self.slot(at) else { continue };
            busy |= !slot.mailbox.is_empty();
            if let Some(live) = slot.live.as_deref() {
                let quiet = live.conversation.is_quiet() && live.held.is_none() && slot.mailbox.is_empty();
                if quiet {
                    self.sleep(at);
                }
            }
            busy |= self.slot(at).is_some_and(|slot| slot.live.is_some());
        }
        if !busy && let Some(done) = self.draining.take() {
            // Who asked may have left.
            let _ = done.send(());
            let (refused, _) = oneshot::channel();
            self.draining = Some(refused);
        }
    }

    fn info(&mut self, point: &Point) -> Option<Info> {
        let at = *self.points.get(point)?;
        let shard = self.index as usize;
        let slot = self.slot(at)?;
        let state = match slot.phase {
            Step::Asking | Step::Loading => State::Starting,
            Step::Asleep => State::Sleeping,
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
        })
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

/// Why a message is not even put into the mailbox.
fn refuse(slot: &Slot, mail: &Mail, now: Moment) -> Option<Refusal> {
    let header = &mail.message.header;
    let reentrant = slot.activation.as_ref().is_some_and(|activation| activation.is_reentrant());
    if header.chain.contains(&header.to) && !reentrant {
        let detail = format!("{} waits for the answer to this very request", header.to);
        return Some(Refusal::new(Code::CycleDetected, detail));
    }
    if slot.phase == Step::Failed && now < slot.not_before {
        let reason = slot.reason.as_deref().unwrap_or_default();
        let mut refusal = Refusal::new(Code::NotReady, format!("{} failed too often: {reason}", slot.point));
        refusal.retry_after = Some(Duration::from_millis(slot.not_before - now));
        return Some(refusal);
    }
    match &mail.request()?.body {
        Body::Bytes(bytes) if bytes.len() as u64 <= slot.limits.body_bytes => None,
        _ => {
            let detail = format!("a message to a mechtron may have {} bytes at most", slot.limits.body_bytes);
            Some(Refusal::new(Code::TooLarge, detail))
        }
    }
}

/// Why a message is not given to the mechtron.
fn unfit(mail: &Mail, now: Moment, checks: bool, activation: &Activation) -> Option<Outcome> {
    if mail.deadline <= now {
        return Some(Outcome::Rejected(turn::expired()));
    }
    let Some(request) = mail.request() else {
        return Some(Outcome::Rejected(Refusal::new(Code::Usage, "a reply is not a message to a mechtron")));
    };
    if !checks {
        return None;
    }
    let Body::Bytes(body) = &request.body else { return None };
    let method = request.method.to_string();
    activation.module.contract().check(&activation.name, &method, body).err().map(Outcome::Rejected)
}

fn command_outcome(ended: Result<i64, crate::engine::Trap>, command: Wasi) -> Outcome {
    let fail = |code: Code, detail: String| Outcome::Failed(Refusal::new(code, detail));
    match (ended, command.exit) {
        (Ok(_), _) | (Err(_), Some(0)) if command.overflow => {
            fail(Code::TooLarge, format!("it wrote more than {} bytes", command.output_max))
        }
        (Ok(_), _) | (Err(_), Some(0)) => Outcome::Ok(command.into_reply()),
        (Err(_), Some(exit)) => fail(Code::HandlerFailed, format!("it left with exit code {exit}")),
        (Err(crate::engine::Trap::Budget), None) => {
            fail(Code::TimeBudget, "it used up the time of its turn".into())
        }
        (Err(trap), None) => fail(Code::Trapped, trap.to_string()),
    }
}
