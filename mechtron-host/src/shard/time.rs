//! When a shard looks after a mechtron, and what is due then.

use std::cmp::Reverse;

use starlane_core::Outcome;

use super::slot::Step;
use super::{NEVER, Shard};
use crate::clock::Moment;
use crate::turn;

impl Shard {
    /// Makes the shard look after a mechtron no later than at a moment.
    pub(super) fn want(&mut self, at: u32, moment: Moment) {
        if let Some(slot) = self.slot(at)
            && moment < slot.wake
        {
            slot.wake = moment;
            self.wakes.push(Reverse((moment, at)));
        }
    }

    pub(super) fn fire(&mut self) {
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
    pub(super) fn look_after(&mut self, at: u32) {
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
                && !slot.watches.is_due(now)
                && slot.last_used + idle <= now;
        }
        for mail in expired {
            self.refuse(mail, turn::expired());
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

    pub(super) fn schedule(&mut self, at: u32) {
        let idle = self.config.idle.as_millis() as u64;
        let keep = self.config.keep_place.as_millis() as u64;
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
        if matches!(slot.phase, Step::Asleep | Step::Live | Step::Elsewhere) {
            moment = moment.min(slot.watches.earliest(now, slot.is_durable().then_some(keep)));
        }
        // What is due now was just looked at; it goes on with an event.
        self.want(at, moment.max(self.now + 1));
    }
}
