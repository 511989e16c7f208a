//! What runs at a point: asked, loaded, started; gone back from when it does not start.

use std::sync::Arc;

use bytes::Bytes;
use mechtron_abi::StartHead;
use starlane_core::{Code, Epoch, Phase, Point, Refusal, Status};

use super::queue::Event;
use super::slot::{Live, Step};
use super::{RETRY_AFTER, Shard};
use crate::instance::{Ended, Instance};
use crate::kept::unpack;
use crate::limits::effective;
use crate::outside::{Activation, Runs};
use crate::turn::Conversation;

impl Shard {
    pub(super) fn ask_activation(&mut self, at: u32) {
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

    pub(super) fn activated(&mut self, point: &Point, number: u64, activation: Result<Runs, Refusal>) {
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
            Err(refusal) if refusal.code == Code::NotFound => {
                self.logs.forget(point);
                return self.remove(at, &refusal);
            }
            // That nobody can be asked does not bring it back.
            Err(_) if slot.over.is_some() => {
                self.stay_away(at);
                return self.ask_later(at);
            }
            Err(refusal) if slot.activation.is_none() && slot.watches.attended => {
                slot.phase = Step::Asleep;
                let waiting = slot.mailbox.take(|_| true);
                for mail in waiting {
                    self.refuse(mail, refusal.clone());
                }
                return self.watch_later(at);
            }
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

    pub(super) fn wake_up(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else { return };
        let Some(activation) = slot.activation.clone() else {
            // It could not be had when a watch needed it.
            slot.phase = Step::Asking;
            return self.ask_activation(at);
        };
        if !slot.state_known && !activation.module.is_command() {
            return self.load(at, &activation);
        }
        slot.state_known = true;
        self.start(at, &activation);
    }

    /// Asks for the state of one that sleeps.
    pub(super) fn load(&mut self, at: u32, activation: &Activation) {
        let Some(slot) = self.slot(at) else { return };
        slot.phase = Step::Loading;
        let (point, serial) = (slot.point.clone(), slot.serial);
        let epoch = activation.epoch;
        let loading = self.outside.load_state(point.clone(), epoch, activation.durability);
        let queue = Arc::clone(&self.queues[self.index as usize]);
        self.config.runtime.spawn(async move {
            let state = loading.await;
            queue.tell(Event::Loaded(point, serial, epoch, state));
        });
    }

    pub(super) fn loaded(
        &mut self,
        point: &Point,
        serial: u64,
        epoch: Epoch,
        state: Result<Option<Bytes>, Refusal>,
    ) {
        let now = self.now;
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
        match state.and_then(unpack) {
            Ok((places, state)) => {
                // What is in memory alone stays unless it was handed over anew.
                if slot.is_durable() || state.is_some() || !places.is_empty() {
                    slot.state = state;
                    slot.watches.loaded(Some(places), now);
                } else {
                    slot.watches.loaded(None, now);
                }
                slot.state_known = true;
                self.make_ready(at);
            }
            Err(refusal) => {
                let waiting = slot.mailbox.take(|_| true);
                for mail in waiting {
                    self.refuse(mail, refusal.clone());
                }
                self.watch_later(at);
            }
        }
    }

    pub(super) fn start(&mut self, at: u32, activation: &Arc<Activation>) {
        if self.live >= self.config.live_max.div_ceil(self.queues.len()) && !self.make_room(at) {
            let mut refusal = Refusal::new(Code::Busy, "as many mechtrons are live as this node can hold");
            refusal.retry_after = Some(RETRY_AFTER);
            let waiting = self.slot(at).map(|slot| slot.mailbox.take(|_| true)).unwrap_or_default();
            for mail in waiting {
                self.refuse(mail, refusal.clone());
            }
            return self.watch_later(at);
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
        let made = Instance::new(activation.module.code(), &slot.limits, &clock, line_bytes);
        let mut instance = match made {
            Ok(instance) => instance,
            Err(ended) => return self.start_failed(at, &ended),
        };
        let ran = instance.start(activation, slot.state.as_ref()).and_then(|()| {
            let head = StartHead { point: slot.point.as_str().into(), name: activation.name.as_str().into() };
            let state = slot.state.as_deref().filter(|_| !instance.loads());
            live.conversation.start(&mut self.writer, wall_ms, &head, state);
            instance.run(self.writer.bytes())
        });
        // Also what does not start has logged.
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

    pub(super) fn started(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else { return };
        slot.previous = None;
        slot.reason = None;
        self.watch_live(at);
        let Some(slot) = self.slot(at) else { return };
        if !std::mem::replace(&mut slot.ready_told, true) {
            let point = slot.point.clone();
            self.outside.status(&point, Status::ready());
        }
    }

    pub(super) fn start_failed(&mut self, at: u32, ended: &Ended) {
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
            slot.watch_by_contract();
            slot.ready_told = true;
            self.outside.rolled_back(&point, &previous, format!("rolled back: {detail}"));
            self.log_line(&point, 1, format!("rolled back: {detail}"));
            return self.make_ready(at);
        }
        self.log_line(&point, 1, detail.clone());
        self.count_restart(at, &detail);
    }

    /// Counts a start that failed; too many in the window are `Panic`.
    pub(super) fn count_restart(&mut self, at: u32, reason: &str) {
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
            self.refuse(mail, refusal.clone());
        }
        self.want(at, until);
        self.outside.status(&point, Status::because(Phase::Panic, reason));
    }
}
