//! Messages on their way into the mailbox of their mechtron.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use starlane_core::{Body, Code, Point, Refusal};

use super::slot::{Slot, Step};
use super::watches::Watches;
use super::{NEVER, RETRY_AFTER, Shard};
use crate::clock::Moment;
use crate::mailbox::{Mail, Mailbox, Waiter};

impl Shard {
    /// Takes a message for the mechtron's own code.
    pub(super) fn deliver(&mut self, mail: Mail) {
        let known = self.points.get(&mail.message.header.to).copied();
        if known.and_then(|at| self.slot(at)).is_some_and(|slot| slot.phase == Step::Elsewhere) {
            return self.send_away(mail);
        }
        if self.draining.is_some() {
            let refusal = Refusal::new(Code::Draining, "the node is stopping");
            return self.refuse(mail, refusal);
        }
        let at = match known {
            Some(at) => at,
            None => match self.make_slot(mail.message.header.to.clone()) {
                Ok(at) => at,
                Err(refusal) => return self.refuse(mail, refusal),
            },
        };
        self.accept(at, mail);
    }

    /// Takes a message of a mechtron if its target is one of this shard, and not bound; else gives it back.
    pub(super) fn route_here(&mut self, mail: Mail) -> Option<Mail> {
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

    pub(super) fn make_slot(&mut self, point: Point) -> Result<u32, Refusal> {
        let at = self.new_slot(point)?;
        self.ask_activation(at);
        Ok(at)
    }

    /// Remembers a point that was not known.
    pub(super) fn new_slot(&mut self, point: Point) -> Result<u32, Refusal> {
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
            watches: Watches::default(),
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

    pub(super) fn accept(&mut self, at: u32, mail: Mail) {
        let now = self.now;
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        if let Some(refusal) = refuse(slot, &mail, now) {
            self.counters().refused.fetch_add(1, Ordering::Relaxed);
            return self.refuse(mail, refusal);
        }
        let deadline = mail.deadline;
        let limits = Arc::clone(&slot.limits);
        if let Err(mail) = slot.mailbox.push(mail, &limits) {
            let detail = format!("{} has {} messages waiting", slot.point, slot.mailbox.len());
            let mut refusal = Refusal::new(Code::Busy, detail);
            refusal.retry_after = Some(RETRY_AFTER);
            self.counters().refused.fetch_add(1, Ordering::Relaxed);
            return self.refuse(mail, refusal);
        }
        self.want(at, deadline);
        self.make_ready(at);
    }

    pub(super) fn give_up(&mut self, point: &Point, waiter: &Waiter) {
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
