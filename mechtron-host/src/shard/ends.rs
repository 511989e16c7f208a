//! How an instance ends: by a trap, by sleep, by a swap, for good.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use starlane_core::{Outcome, Refusal};
use tokio::sync::oneshot;

use super::Shard;
use super::slot::{Held, Step, Then};
use crate::clock::Moment;
use crate::instance::Ended;
use crate::mailbox::Address;

impl Shard {
    /// The instance ended in a turn.
    pub(super) fn crashed(&mut self, at: u32, ended: &Ended, reentrant: bool) {
        self.counters().traps.fetch_add(1, Ordering::Relaxed);
        let Some(slot) = self.slot(at) else { return };
        let Some(live) = slot.live.as_deref_mut() else { return };
        let remains = live.conversation.end(reentrant);
        let point = slot.point.clone();
        if remains.is_search
            && let Some(instance) = &mut live.instance
        {
            // All of its messages run again, each alone, and log their lines then.
            instance.lines().clear();
        }
        self.drop_live(at);
        let Some(slot) = self.slot(at) else { return };
        slot.phase = Step::Asleep;
        slot.singly = slot.singly.max(remains.again.len());
        for mail in remains.again.into_iter().rev() {
            match &mail.change {
                Some(change) => slot.watches.not_run(&change.watch.selector),
                None => slot.mailbox.push_front(mail),
            }
        }
        let refusal = Refusal::new(ended.code, format!("{point} failed: {}", ended.detail));
        for mail in remains.failed {
            match &mail.change {
                Some(change) => self.change_failed(at, &change.watch.selector, &ended.detail),
                None => self.reply(mail.reply, Outcome::Failed(refusal.clone())),
            }
        }
        if remains.is_search {
            return self.make_ready(at);
        }
        self.log_line(&point, 1, ended.detail.clone());
        self.start_again(at);
    }

    /// Lets the next message start it again. It did start, so a message that ends it takes it away from nobody: from the
    /// fifth in a row on it waits a little before, and never longer.
    pub(super) fn start_again(&mut self, at: u32) {
        let now = self.now;
        let (max, delay) = (self.config.restarts, self.config.restart_delay.as_millis() as u64);
        let Some(slot) = self.slot(at) else { return };
        slot.restarts_all += 1;
        slot.crashes = slot.crashes.saturating_add(1);
        slot.not_before = if slot.crashes >= max { now + delay } else { now };
        self.make_ready(at);
    }

    /// Drops the instance and everything that it waits for.
    pub(super) fn drop_live(&mut self, at: u32) {
        self.serial += 1;
        let serial = self.serial;
        let Some(slot) = self.slot(at) else { return };
        let old = std::mem::replace(&mut slot.serial, serial);
        let leaves = slot.leaving.is_some();
        let Some(mut live) = slot.live.take() else { return };
        if let Some(instance) = &mut live.instance {
            let point = slot.point.clone();
            let (kept, left_out) = instance.last_lines();
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
    pub(super) fn sleep(&mut self, at: u32) {
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
        let state = state.filter(|state| slot.state.as_ref() != Some(state));
        if state.is_none() && !(slot.is_durable() && slot.watches.is_unkept()) {
            return self.fall_asleep(at);
        }
        if !slot.is_durable() {
            slot.state = state;
            return self.fall_asleep(at);
        }
        self.hold(at, Held { actions: Vec::new(), state, told: Vec::new(), then: Then::Sleep });
    }

    pub(super) fn fall_asleep(&mut self, at: u32) {
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
    pub(super) fn swap_now(&mut self, at: u32) {
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
    pub(super) fn make_room(&mut self, but: u32) -> bool {
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
    pub(super) fn remove(&mut self, at: u32, refusal: &Refusal) {
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
            self.refuse(mail, refusal.clone());
        }
        for reply in remains.into_iter().flatten() {
            self.reply(reply, Outcome::Failed(refusal.clone()));
        }
    }

    /// Frees the place of a mechtron that nothing is left of.
    pub(super) fn forget(&mut self, at: u32) {
        if let Some(slot) = self.slots[at as usize].take() {
            self.points.remove(&slot.point);
            self.free.push(at);
        }
        self.counters().known.store(self.points.len() as u64, Ordering::Relaxed);
    }

    pub(super) fn finish_drain(&mut self) {
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
}
