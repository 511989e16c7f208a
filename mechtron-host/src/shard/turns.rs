//! Turns: what a mechtron is given, and what it puts out.

use std::cmp::Reverse;

use starlane_core::{Body, Code, Refusal};

use super::slot::{Live, Step};
use super::{Shard, message_id};
use crate::clock::Moment;
use crate::instance::Ended;
use crate::mailbox::Mail;
use crate::outside::Activation;
use crate::turn;
use crate::turn::Conversation;

impl Shard {
    /// Goes on with a mechtron.
    pub(super) fn step(&mut self, at: u32) {
        let (now, drains) = (self.now, self.draining.is_some());
        let Some(slot) = self.slot(at) else { return };
        slot.queued = false;
        if slot.leaving.is_some() {
            return self.go_on_leaving(at);
        }
        match slot.phase {
            Step::Asking | Step::Loading | Step::Keeping => {}
            Step::Elsewhere => self.ask_elsewhere(at),
            Step::Failed => {
                if now >= slot.not_before {
                    slot.phase = Step::Asleep;
                    slot.reason = None;
                    slot.restarts.clear();
                    self.make_ready(at);
                }
            }
            Step::Asleep if slot.mailbox.is_empty() && (drains || !slot.watches.is_due(now)) => {
                self.watch_asleep(at);
            }
            Step::Asleep if now < slot.not_before => {
                let moment = slot.not_before;
                self.want(at, moment);
            }
            Step::Asleep => self.wake_up(at),
            Step::Live => self.turn(at),
        }
    }

    pub(super) fn turn(&mut self, at: u32) {
        let (now, drains) = (self.now, self.draining.is_some());
        let every = self.config.keep_place.as_millis() as u64;
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        let keeps = slot.is_durable() && slot.watches.keeps_now(now, every);
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
            // Each watch has one at most, so messages are never kept out by them.
            while !drains && live.conversation.in_run() < batch {
                self.message_id = self.message_id.wrapping_add(1);
                let id = message_id(self.wall_ms, self.id_base.wrapping_add(self.message_id));
                let Some(mail) = slot.watches.give(&slot.point, id, now, self.config.change_time) else {
                    break;
                };
                slot.singly = slot.singly.saturating_sub(1);
                if mail.deadline < slot.wake {
                    slot.wake = mail.deadline;
                    self.wakes.push(Reverse((mail.deadline, at)));
                }
                live.conversation.give(&mut self.writer, mail, now, &mut self.method);
                any = true;
            }
            while live.conversation.in_run() < batch
                && let Some(mail) = slot.mailbox.peek()
            {
                if any && !Conversation::fits(&self.writer, mail) {
                    break;
                }
                let Some(mail) = slot.mailbox.pop() else { break };
                if let Some(refusal) = unfit(&mail, now, checks, &activation) {
                    refused.push((mail, refusal));
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
            for (mail, refusal) in refused {
                self.refuse(mail, refusal);
            }
            match ran.and_then(|()| self.read(at)) {
                Ok(output) => self.commit(at, output),
                Err(ended) => self.crashed(at, &ended, reentrant),
            }
        } else {
            for (mail, refusal) in refused {
                self.refuse(mail, refusal);
            }
            if keeps {
                return self.commit(at, turn::Output::default());
            }
            self.schedule(at);
        }
    }

    /// Reads the output of the run that just ended, and the state of a guest that is asked for it.
    pub(super) fn read(&mut self, at: u32) -> Result<turn::Output, Ended> {
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
        let (kept, left_out) = instance.lines().take();
        if !kept.is_empty() || left_out > 0 {
            self.logs.write(&slot.point, self.wall_ms, kept, left_out);
        }
        Ok(output)
    }
}

/// Why a message is not given to the mechtron.
pub(super) fn unfit(mail: &Mail, now: Moment, checks: bool, activation: &Activation) -> Option<Refusal> {
    if mail.deadline <= now {
        return Some(turn::expired());
    }
    let Some(request) = mail.request() else {
        return Some(Refusal::new(Code::Usage, "a reply is not a message to a mechtron"));
    };
    if !checks {
        return None;
    }
    let Body::Bytes(body) = &request.body else { return None };
    let method = request.method.to_string();
    activation.module.contract().check(&activation.name, &method, body).err()
}
