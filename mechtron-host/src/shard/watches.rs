//! The watches of a mechtron: how far each was told, and what it is told next. A place is kept in one piece with the state that
//! knows of it, so that a change has its effect on the state once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starlane_core::{
    Agent, Body, Code, Epoch, Header, Headers, Message, MessageId, Method, Outcome, Payload, Point, Refusal,
    Request,
};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::info::Watched;
use super::queue::Event;
use super::slot::{Slot, Step};
use super::{NEVER, Shard};
use crate::changes::{self, Change, Place};
use crate::clock::Moment;
use crate::contract::Watch;
use crate::kept::{Places, pack};
use crate::mailbox::{Mail, ReplyTo, Telling};
use crate::outside::Activation;
use crate::turn;

/// How long a mechtron whose code or state could not be had waits until it is asked for again, when nothing but a watch needs it.
const ASK_AGAIN_MS: u64 = 1_000;
/// The method of what a watch tells, as far as the handler's own calls show it.
const METHOD: &str = "Change";

/// What a mechtron watches.
#[derive(Default)]
pub(super) struct Watches {
    list: Vec<Watching>,
    places: Places,
    /// Whether the places are those of the state.
    known: bool,
    /// Whether a watch is further than the places that are kept, without a change.
    unkept: bool,
    /// When places were kept last.
    kept_at: Option<Moment>,
    /// Not before this moment is it tried again to have code or state.
    again: Moment,
    /// The node said that something is watched.
    pub(super) attended: bool,
}

struct Watching {
    watch: Watch,
    task: Option<Task>,
    /// The change that is told next, or is being told.
    next: Option<Arc<changes::Step>>,
    given: bool,
    /// How many times it failed.
    failures: u32,
    not_before: Moment,
}

/// Keeps a watch of the outside. Ends with this.
struct Task {
    number: u64,
    abort: AbortHandle,
    /// The state knows of the change that was told last.
    go_on: mpsc::Sender<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// Places that are kept with the next state, by the selectors of their watches.
pub(super) type Told = Vec<(Arc<str>, Place)>;

impl Watches {
    /// Watches this from now on; what was watched before goes on where it is.
    pub(super) fn change_to(&mut self, wanted: &[Watch]) {
        let mut before = std::mem::take(&mut self.list);
        let mut keep = |watch: &Watch| {
            let same = before.iter().position(|known| known.watch.selector == watch.selector)?;
            Some(Watching { watch: watch.clone(), ..before.swap_remove(same) })
        };
        self.list = wanted.iter().map(|watch| keep(watch).unwrap_or_else(|| Watching::new(watch))).collect();
        self.unkept &= !self.list.is_empty();
    }

    /// Forgets the places of what is watched no more.
    fn forget_others(&mut self) {
        let list = &self.list;
        self.places.retain(|selector, _| list.iter().any(|known| known.watch.selector == *selector));
    }

    /// Nothing is told until the places are those of a state again.
    pub(super) fn pause(&mut self) {
        for known in &mut self.list {
            // What failed does so again as soon as it is told again.
            let Watching { failures, not_before, .. } = *known;
            *known = Watching { failures, not_before, ..Watching::new(&known.watch) };
        }
        self.known = false;
        self.unkept = false;
    }

    /// The same, and the places are nobody's.
    pub(super) fn reset(&mut self) {
        self.pause();
        self.places.clear();
    }

    /// A state was loaded that has these places; `None` when the ones that are known are still its own.
    pub(super) fn loaded(&mut self, places: Option<Places>, now: Moment) {
        if self.known {
            return;
        }
        if let Some(places) = places {
            self.places = places;
        }
        self.known = true;
        self.kept_at = (!self.places.is_empty()).then_some(now);
    }

    /// How far it was told.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// What is watched, and how far each was told.
    pub(super) fn watched(&self) -> Vec<Watched> {
        let watched = |known: &Watching| Watched {
            name: Arc::clone(&known.watch.name),
            selector: Arc::clone(&known.watch.selector),
            place: self.places.get(&known.watch.selector).cloned(),
            failures: known.failures,
        };
        self.list.iter().map(watched).collect()
    }

    /// Takes places back that belong to a state.
    pub(super) fn put_back(&mut self, places: Places) {
        self.places = places;
    }

    /// A state as it is kept: with the places as they are, further by what its run was told.
    pub(super) fn pack(&mut self, told: &Told, state: Option<&Bytes>, now: Moment) -> Option<Bytes> {
        let mut places = self.places.clone();
        places.extend(told.iter().cloned());
        self.unkept = false;
        self.kept_at = Some(now);
        pack(&places, state)
    }

    /// The state knows of these.
    pub(super) fn told(&mut self, told: Told) {
        for (selector, place) in told {
            let Some(known) = self.list.iter_mut().find(|known| known.watch.selector == selector) else {
                continue;
            };
            self.places.insert(selector, place);
            (known.next, known.given) = (None, false);
            (known.failures, known.not_before) = (0, 0);
            if let Some(task) = &known.task {
                // It has room, since one change is told at a time; or the task is gone.
                let _ = task.go_on.try_send(());
            }
        }
    }

    /// A change was given and surely not run.
    pub(super) fn not_run(&mut self, selector: &str) {
        if let Some(known) = self.list.iter_mut().find(|known| *known.watch.selector == *selector) {
            known.given = false;
        }
    }

    /// Whether a change waits to be told now.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.list.iter().any(|known| known.is_due(now))
    }

    /// Whether it is time to keep how far the watches are.
    pub(super) fn keeps_now(&self, now: Moment, every: Moment) -> bool {
        self.unkept && self.kept_at.is_none_or(|kept| kept.saturating_add(every) <= now)
    }

    /// The places that were to be kept are not.
    pub(super) fn not_kept(&mut self) {
        self.unkept = true;
    }

    /// Whether a watch is further than what is kept.
    pub(super) fn is_unkept(&self) -> bool {
        self.unkept
    }

    /// The next moment at which something is due of itself.
    pub(super) fn earliest(&self, now: Moment, keep_every: Option<Moment>) -> Moment {
        let told = self.list.iter().filter(|known| known.next.is_some() && !known.given);
        let told = told.map(|known| known.not_before).filter(|moment| *moment > now).min().unwrap_or(NEVER);
        let kept = match (self.unkept, keep_every, self.kept_at) {
            (true, Some(every), Some(kept)) => kept.saturating_add(every).max(self.again),
            _ => NEVER,
        };
        let again = if self.again > now { self.again } else { NEVER };
        told.min(kept).min(again)
    }

    /// The next change to tell, as a message of nobody.
    pub(super) fn give(&mut self, point: &Point, id: MessageId, now: Moment, time: Duration) -> Option<Mail> {
        let known = self.list.iter_mut().find(|known| known.is_due(now))?;
        let step = known.next.as_ref()?;
        let Change { what, revision, resource } = step.change.clone()?;
        known.given = true;
        let header = Header::new(id, point.clone(), point.clone(), Agent(point.clone()), time);
        let request = Request {
            method: Method::ext(METHOD).ok()?,
            path: "/".into(),
            headers: Headers::default(),
            body: Body::Bytes(resource),
        };
        let telling = Telling { watch: known.watch.clone(), place: step.place.clone(), what, revision };
        Some(Mail {
            message: Message { header, payload: Payload::Signal(request) },
            reply: ReplyTo::Nobody,
            deadline: now.saturating_add(time.as_millis() as u64),
            change: Some(Box::new(telling)),
        })
    }
}

impl Watching {
    fn new(watch: &Watch) -> Self {
        Self { watch: watch.clone(), task: None, next: None, given: false, failures: 0, not_before: 0 }
    }

    fn is_due(&self, now: Moment) -> bool {
        self.next.is_some() && !self.given && self.not_before <= now
    }
}

impl Shard {
    /// A mechtron that lives here watches something.
    pub(super) fn attend(&mut self, point: Point) -> Result<(), Refusal> {
        let at = match self.points.get(&point).copied() {
            Some(at) => at,
            None => self.new_slot(point)?,
        };
        let Some(slot) = self.slot(at) else { return Ok(()) };
        slot.watches.attended = true;
        if matches!(slot.phase, Step::Asking | Step::Elsewhere) && slot.leaving.is_none() {
            // What was asked before this was said may be answered as it was then.
            slot.phase = Step::Asking;
            self.ask_activation(at);
        }
        self.make_ready(at);
        Ok(())
    }

    /// What a mechtron watches is kept up with while it sleeps.
    pub(super) fn watch_asleep(&mut self, at: u32) {
        let now = self.now;
        let every = self.config.keep_place.as_millis() as u64;
        let Some(slot) = self.slot(at) else { return };
        let watches = &slot.watches;
        let is_late = watches.again <= now;
        let Some(activation) = slot.activation.clone() else {
            if watches.attended && is_late {
                slot.phase = Step::Asking;
                self.ask_activation(at);
            }
            return self.schedule(at);
        };
        if watches.list.is_empty() {
            return;
        }
        let durable = slot.is_durable();
        let keeps = durable && slot.watches.keeps_now(now, every);
        if !slot.watches.known || keeps && !slot.state_known {
            if is_late {
                return self.load(at, &activation);
            }
            return self.schedule(at);
        }
        if keeps {
            return self.keep_places(at, &activation);
        }
        if durable {
            slot.state = None;
            slot.state_known = false;
        }
        self.begin_watches(at);
        self.schedule(at);
    }

    /// Keeps how far the watches of one that sleeps are.
    fn keep_places(&mut self, at: u32, activation: &Arc<Activation>) {
        let now = self.now;
        let Some(slot) = self.slot(at) else { return };
        let Some(kept) = slot.watches.pack(&Told::new(), slot.state.as_ref(), now) else { return };
        slot.phase = Step::Keeping;
        self.save(at, activation, kept);
    }

    /// The places of one that sleeps are kept, or not.
    pub(super) fn places_kept(&mut self, at: u32, epoch: Epoch, kept: Result<(), Refusal>) {
        let Some(slot) = self.slot(at) else { return };
        slot.phase = Step::Asleep;
        if slot.activation.as_ref().is_some_and(|activation| activation.epoch != epoch) {
            // It says nothing of the epoch that this host acts under by now, whose places are loaded.
            return self.make_ready(at);
        }
        match kept {
            Ok(()) => {}
            Err(refusal) if refusal.code == Code::NotFound => return self.remove(at, &refusal),
            Err(refusal) if refusal.code == Code::EpochStale => return self.ask_who_acts(at),
            // They are tried again with the next that come.
            Err(refusal) => {
                tracing::debug!(point = %slot.point, "how far its watches are is not kept: {refusal}");
                slot.watches.not_kept();
            }
        }
        self.make_ready(at);
    }

    /// One whose code or state cannot be had is tried again for the sake of its watches.
    pub(super) fn watch_later(&mut self, at: u32) {
        let watches = |slot: &mut Slot| slot.watches.attended || !slot.watches.list.is_empty();
        if self.slot(at).is_some_and(watches) {
            self.ask_later(at);
        }
    }

    /// Asks again after a while what could not be had.
    pub(super) fn ask_later(&mut self, at: u32) {
        let moment = self.now + ASK_AGAIN_MS;
        if let Some(slot) = self.slot(at) {
            slot.watches.again = moment;
            self.want(at, moment);
        }
    }

    /// One that nobody could be asked about is asked about again.
    pub(super) fn ask_elsewhere(&mut self, at: u32) {
        let now = self.now;
        let Some(slot) = self.slot(at) else { return };
        if slot.watches.again == 0 || slot.watches.again > now {
            return self.schedule(at);
        }
        slot.watches.again = 0;
        slot.phase = Step::Asking;
        self.ask_activation(at);
    }

    /// One that runs watches what its contract says, and nothing else any more.
    pub(super) fn watch_live(&mut self, at: u32) {
        if let Some(slot) = self.slot(at) {
            slot.watches.forget_others();
        }
        self.begin_watches(at);
    }

    /// Begins the watches that are not under way, each where it was told up to.
    fn begin_watches(&mut self, at: u32) {
        let queue = Arc::clone(&self.queues[self.index as usize]);
        let (outside, runtime) = (Arc::clone(&self.outside), self.config.runtime.clone());
        let mut number = self.serial;
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        if !slot.watches.known {
            return;
        }
        let Watches { list, places, .. } = &mut slot.watches;
        for known in list.iter_mut().filter(|known| known.task.is_none()) {
            number += 1;
            let selector = Arc::clone(&known.watch.selector);
            let after = places.get(&selector).cloned();
            let mut changes = outside.watch(slot.point.clone(), selector, after);
            let (go_on, mut may) = mpsc::channel(1);
            let (queue, point, mine) = (Arc::clone(&queue), slot.point.clone(), number);
            let task = runtime.spawn(async move {
                loop {
                    let step = changes.next().await;
                    let waits = step.change.is_some();
                    queue.tell(Event::Told(point.clone(), mine, step));
                    if waits && may.recv().await.is_none() {
                        return;
                    }
                }
            });
            known.task = Some(Task { number, abort: task.abort_handle(), go_on });
        }
        self.serial = number;
    }

    /// A watch tells something.
    pub(super) fn told(&mut self, point: &Point, number: u64, step: changes::Step) {
        let now = self.now;
        let every = self.config.keep_place.as_millis() as u64;
        let Some(at) = self.points.get(point).copied() else { return };
        let Some(slot) = self.slot(at) else { return };
        let durable = slot.is_durable();
        let watches = &mut slot.watches;
        let is_it = |known: &&mut Watching| known.task.as_ref().is_some_and(|task| task.number == number);
        let Some(known) = watches.list.iter_mut().find(is_it) else { return };
        if step.change.is_some() {
            known.next = Some(Arc::new(step));
            return self.make_ready(at);
        }
        let before = watches.places.insert(Arc::clone(&known.watch.selector), step.place.clone());
        watches.unkept |= before != Some(step.place);
        match durable && watches.keeps_now(now, every) {
            true => self.make_ready(at),
            false => self.schedule(at),
        }
    }

    /// How the handler of a change ended, which the state knows of by now if it ended well.
    pub(super) fn change_ended(&mut self, at: u32, selector: &str, outcome: &Outcome) {
        match outcome {
            _ if turn::is_told(outcome) => {}
            Outcome::Ok(reply) => {
                self.change_failed(at, selector, &format!("it answered with status {}", reply.status));
            }
            Outcome::Rejected(refusal) | Outcome::Failed(refusal) | Outcome::Unknown(refusal) => {
                self.change_failed(at, selector, &refusal.to_string());
            }
        }
    }

    /// A change had no effect on the state: it is told again, later each time, and those after it wait.
    pub(super) fn change_failed(&mut self, at: u32, selector: &str, reason: &str) {
        let now = self.now;
        let (first, max) = (self.config.tell_again, self.config.tell_again_max);
        let Some(slot) = self.slot(at) else { return };
        let point = slot.point.clone();
        let Some(known) = slot.watches.list.iter_mut().find(|known| *known.watch.selector == *selector)
        else {
            return;
        };
        known.given = false;
        let wait = first.saturating_mul(1 << known.failures.min(16)).min(max);
        known.failures += 1;
        known.not_before = now.saturating_add(wait.as_millis() as u64);
        let (moment, watch) = (known.not_before, known.watch.clone());
        self.log_line(
            &point,
            1,
            format!(
                "the watch `{}` failed and is told again in {} ms: {reason}",
                watch.name,
                wait.as_millis()
            ),
        );
        self.want(at, moment);
    }
}
