//! Mechtrons that live elsewhere, or are on their way there.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use starlane_core::{Code, Message, Outcome, Point, Refusal};
use tokio::sync::oneshot;

use super::{Event, Shard, Step};
use crate::clock::Moment;
use crate::mailbox::{Address, Mail, ReplyTo};
use crate::turn;

/// What is left on a host of a mechtron that it let go of.
#[derive(Debug)]
pub struct Released {
    /// The state that only this host had: that of one with [`Durability::Memory`](crate::Durability::Memory). Any other is
    /// where [`Outside::save_state`](crate::Outside::save_state) put it.
    pub state: Option<Bytes>,
    /// The messages that wait, in the order in which they came.
    pub waiting: Vec<Returned>,
}

/// A message that surely did not run, and who waits for its answer.
#[derive(Debug)]
pub struct Returned {
    /// The message, with the time that it had left when it was given back.
    pub message: Message,
    /// Where its answer goes; `None` for one without. It is closed when nobody waits any more. To drop it says that
    /// nobody knows what became of the message.
    pub reply: Option<oneshot::Sender<Outcome>>,
}

/// Somebody waits for a mechtron to leave.
pub(super) struct Leaving {
    /// Until when its handlers may go on.
    pub(super) deadline: Moment,
    done: oneshot::Sender<Result<Released, Refusal>>,
    /// Whether it must be asked again what runs here, when it has left.
    swapped: bool,
}

impl Leaving {
    /// Tells who waits; gives back what nobody waits for any more.
    pub(super) fn end(self, result: Result<Released, Refusal>) -> Option<Released> {
        self.done.send(result).err()?.ok()
    }
}

impl Shard {
    /// Lets a mechtron leave: it takes no new messages, its handlers end, its state is saved, then it lives elsewhere.
    pub(super) fn leave(
        &mut self,
        point: Point,
        deadline: Moment,
        done: oneshot::Sender<Result<Released, Refusal>>,
    ) {
        let at = match self.points.get(&point).copied() {
            Some(at) => at,
            None => match self.new_slot(point) {
                Ok(at) => at,
                Err(refusal) => {
                    // Who asked may have left.
                    let _ = done.send(Err(refusal));
                    return;
                }
            },
        };
        self.serial += 1;
        let serial = self.serial;
        let Some(slot) = self.slot(at) else { return };
        // What is being asked about it does not matter any more.
        slot.asked = serial;
        if let Some(before) = slot.leaving.replace(Leaving { deadline, done, swapped: false }) {
            before.end(Err(Refusal::new(Code::Busy, "it was asked to leave once more")));
        }
        self.want(at, deadline);
        self.make_ready(at);
    }

    /// Goes on with a mechtron that leaves.
    pub(super) fn go_on_leaving(&mut self, at: u32) {
        let now = self.now;
        let Some(slot) = self.slot(at) else { return };
        let late = slot.leaving.as_ref().is_some_and(|leaving| leaving.deadline <= now);
        match slot.live.as_deref() {
            None => self.left(at),
            // What is being saved decides itself.
            Some(live) if live.held.is_some() => {}
            Some(live) if live.conversation.is_quiet() => self.sleep(at),
            Some(_) if late => {
                let detail =
                    "the mechtron left this node while it handled the message, which may have had an effect";
                self.cut(at, |refusal| Outcome::Unknown(refusal), detail);
                self.left(at);
            }
            Some(_) => self.turn(at),
        }
    }

    /// Whether a mechtron leaves, so that what runs at its point is asked for when it has left.
    pub(super) fn swaps_after_leaving(&mut self, at: u32) -> bool {
        let leaving = self.slot(at).and_then(|slot| slot.leaving.as_mut());
        leaving.map(|leaving| leaving.swapped = true).is_some()
    }

    /// A mechtron has left: gives back what there was of it.
    fn left(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else { return };
        let Some(leaving) = slot.leaving.take() else { return };
        let durable = slot.is_durable();
        let state = slot.state.take().filter(|_| !durable);
        let mails = slot.mailbox.take(|_| true);
        self.be_elsewhere(at, true);
        let waiting = mails.into_iter().filter_map(|mail| self.give_back(mail)).collect();
        let swapped = leaving.swapped;
        if let Some(released) = leaving.end(Ok(Released { state, waiting })) {
            for returned in released.waiting {
                self.route_back(returned);
            }
        }
        if swapped {
            if let Some(slot) = self.slot(at) {
                slot.phase = Step::Asking;
            }
            self.ask_activation(at);
        }
    }

    /// Another node acts for a mechtron: whatever runs of it here ends, and its messages go there.
    pub(super) fn yield_to_another(&mut self, at: u32) {
        self.cut(
            at,
            Outcome::Failed,
            "another node acts for the mechtron by now; what it did here is not kept",
        );
        let mails = self.slot(at).map(|slot| slot.mailbox.take(|_| true)).unwrap_or_default();
        self.be_elsewhere(at, false);
        for mail in mails {
            self.forward(mail);
        }
        self.schedule(at);
    }

    /// A state was refused as that of an older epoch: nothing runs until it is known who acts for the mechtron.
    pub(super) fn ask_who_acts(&mut self, at: u32) {
        self.cut(
            at,
            Outcome::Failed,
            "another node acts for the mechtron by now; what it did here is not kept",
        );
        let Some(slot) = self.slot(at) else { return };
        slot.stale = slot.activation.as_ref().map(|activation| activation.epoch);
        let stale = slot.stale;
        self.be_elsewhere(at, false);
        let Some(slot) = self.slot(at) else { return };
        slot.stale = stale;
        slot.phase = Step::Asking;
        if slot.leaving.is_some() {
            return self.make_ready(at);
        }
        self.ask_activation(at);
    }

    /// Ends what runs of a mechtron: handlers that began get an outcome, the other messages go back to the mailbox.
    fn cut(&mut self, at: u32, outcome: fn(Refusal) -> Outcome, detail: &str) {
        let Some(slot) = self.slot(at) else { return };
        let reentrant = slot.activation.as_ref().is_some_and(|activation| activation.is_reentrant());
        let Some(live) = slot.live.as_deref_mut() else { return };
        let remains = live.conversation.cut(reentrant);
        self.drop_live(at);
        let Some(slot) = self.slot(at) else { return };
        slot.phase = Step::Asleep;
        for mail in remains.again.into_iter().rev() {
            slot.mailbox.push_front(mail);
        }
        for mail in remains.failed {
            self.reply(mail.reply, outcome(Refusal::new(Code::EpochStale, detail)));
        }
    }

    /// Nothing of a mechtron is left here but that it lives elsewhere.
    fn be_elsewhere(&mut self, at: u32, let_go: bool) {
        self.serial += 1;
        let serial = self.serial;
        let now = self.now;
        let Some(slot) = self.slot(at) else { return };
        slot.phase = Step::Elsewhere { let_go };
        // Answers that are on their way are for nobody.
        (slot.serial, slot.asked) = (serial, serial);
        (slot.activation, slot.previous, slot.next) = (None, None, None);
        (slot.state, slot.state_known) = (None, false);
        (slot.singly, slot.not_before, slot.reason, slot.stale) = (0, 0, None, None);
        slot.restarts.clear();
        slot.ready_told = false;
        slot.last_used = now;
    }

    /// Sends a message to where its receiver lives.
    pub(super) fn forward(&mut self, mut mail: Mail) {
        if let ReplyTo::Mechtron(address) = mail.reply {
            // Who asks asks outside itself.
            if address.shard == self.index {
                return self.ask_if_it_waits(address, mail.message, mail.deadline);
            }
            let event = Event::Elsewhere(address, mail.message, mail.deadline);
            return self.outgoing[address.shard as usize].push(event);
        }
        if mail.deadline <= self.now {
            return self.reply(mail.reply, Outcome::Rejected(turn::expired()));
        }
        let header = &mut mail.message.header;
        header.remaining = Duration::from_millis(mail.deadline - self.now);
        // Whoever sends it back here does so only so often.
        let Some(hops_left) = header.hops_left.checked_sub(1) else {
            let detail = format!("no node is found that acts for {}", header.to);
            return self.reply(mail.reply, Outcome::Rejected(Refusal::new(Code::Unreachable, detail)));
        };
        header.hops_left = hops_left;
        match mail.reply {
            ReplyTo::Outside(_, sender) => self.ask_for(mail.message, sender),
            ReplyTo::Nobody | ReplyTo::Mechtron(_) => self.outside.send(mail.message),
        }
    }

    /// Asks outside for somebody, until nobody waits any more.
    fn ask_for(&mut self, message: Message, mut reply: oneshot::Sender<Outcome>) {
        let asked = self.outside.request(message);
        self.config.runtime.spawn(async move {
            let outcome = match select(asked, pin!(reply.closed())).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(_) => return,
            };
            // Who asked may have left.
            let _ = reply.send(outcome);
        });
    }

    /// Makes of a message that waits one that anybody can answer; `None` when its time is over.
    fn give_back(&mut self, mut mail: Mail) -> Option<Returned> {
        if mail.deadline <= self.now {
            self.reply(mail.reply, Outcome::Rejected(turn::expired()));
            return None;
        }
        mail.message.header.remaining = Duration::from_millis(mail.deadline - self.now);
        let reply = match mail.reply {
            ReplyTo::Nobody => None,
            ReplyTo::Outside(_, sender) => Some(sender),
            ReplyTo::Mechtron(address) => {
                let (sender, answer) = oneshot::channel();
                if address.shard == self.index {
                    self.bridge(address, answer, mail.deadline);
                } else {
                    let event = Event::Bridge(address, answer, mail.deadline);
                    self.outgoing[address.shard as usize].push(event);
                }
                Some(sender)
            }
        };
        Some(Returned { message: mail.message, reply })
    }

    /// A mechtron's request will be answered from outside of the shards.
    pub(super) fn bridge(&mut self, address: Address, answer: oneshot::Receiver<Outcome>, deadline: Moment) {
        if self.waits(address) {
            self.task(address, deadline, async move {
                answer.await.unwrap_or_else(|_| {
                    let detail = "the message was lost on its way; it may have run";
                    Outcome::Unknown(Refusal::new(Code::Internal, detail))
                })
            });
        }
    }

    /// Sends a message on that was given back to nobody.
    fn route_back(&mut self, returned: Returned) {
        match returned.reply {
            Some(reply) => self.ask_for(returned.message, reply),
            None => self.outside.send(returned.message),
        }
    }
}
