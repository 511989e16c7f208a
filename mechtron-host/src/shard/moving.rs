//! Mechtrons that live elsewhere, or are on their way there.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starlane_core::{Code, Message, Outcome, Point, Refusal};
use tokio::sync::oneshot;

use super::Shard;
use super::queue::Event;
use super::slot::Step;
use super::watches::Watches;
use crate::asker::Asker;
use crate::clock::Moment;
use crate::kept::pack;
use crate::mailbox::{Address, Answer, Mail, NotHere, ReplyTo};
use crate::outside::Outside;
use crate::turn;

/// Why a mechtron that another node acts for ends here.
const ANOTHER_ACTS: &str = "another node acts for the mechtron by now; what it did here is not kept";

/// What is left on a host of a mechtron that it let go of.
#[derive(Debug)]
pub struct Released {
    /// The state that only this host had: that of one with [`Durability::Memory`](crate::Durability::Memory), which is
    /// `None` when it never ran here. Any other is where [`Outside::save_state`](crate::Outside::save_state) put it.
    pub state: Option<Bytes>,
    /// The messages that wait.
    pub waiting: Waiting,
}

/// Messages that surely did not run, in the order in which they came. Those that are not taken are given back when this is
/// dropped: a request to whoever asked, as [`NotHere`](crate::NotHere) or, for a mechtron, by
/// [`Outside::request`](crate::Outside::request); one without an answer to
/// [`Outside::not_here`](crate::Outside::not_here).
pub struct Waiting {
    messages: VecDeque<Returned>,
    outside: Arc<dyn Outside>,
}

/// A message that surely did not run.
#[derive(Debug)]
pub struct Returned {
    /// The message, with the time that it had left when it was given back.
    pub message: Message,
    /// Who waits for its answer; `None` for one without.
    pub asker: Option<Asker>,
}

impl Iterator for Waiting {
    type Item = Returned;

    fn next(&mut self) -> Option<Returned> {
        self.messages.pop_front()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.messages.iter().size_hint()
    }
}

impl ExactSizeIterator for Waiting {}

impl Drop for Waiting {
    fn drop(&mut self) {
        for returned in self.messages.drain(..) {
            returned.give_back(&*self.outside);
        }
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(&self.messages).finish()
    }
}

impl Returned {
    fn give_back(self, outside: &dyn Outside) {
        match self.asker {
            Some(asker) => asker.give_back(self.message),
            None => outside.not_here(self.message),
        }
    }
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
    /// Tells who waits. When nobody does any more, the messages go back, and the state is left.
    pub(super) fn end(self, result: Result<Released, Refusal>) -> Option<Bytes> {
        self.done.send(result).err()?.ok()?.state
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
                self.cut(at, Outcome::Unknown, detail);
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
        let (state, places) = (slot.state.take().filter(|_| !durable), slot.watches.places().clone());
        let kept = if durable { None } else { pack(&places, state.as_ref()) };
        let mails = slot.mailbox.take(|_| true);
        self.be_elsewhere(at);
        let messages = mails.into_iter().filter_map(|mail| self.give_back(mail)).collect();
        let waiting = Waiting { messages, outside: Arc::clone(&self.outside) };
        let swapped = leaving.swapped;
        let left = leaving.end(Ok(Released { state: kept, waiting }));
        let Some(slot) = self.slot(at) else { return };
        // Whoever asks once more gets it, or this host when it acts for the mechtron again.
        if left.is_some() {
            slot.state = state;
            slot.watches.put_back(places);
        }
        if swapped {
            slot.phase = Step::Asking;
            self.ask_activation(at);
        }
    }

    /// Another node acts for a mechtron: whatever runs of it here ends, and its messages go there.
    pub(super) fn yield_to_another(&mut self, at: u32) {
        let held = self.slot(at).and_then(|slot| slot.live.as_deref_mut()).and_then(|live| live.held.take());
        if let Some(held) = held {
            let detail = "another node acts for the mechtron by now; what it did here may have been kept";
            self.answer_held(at, &held, &|| Outcome::Unknown(Refusal::new(Code::EpochStale, detail)));
        }
        self.cut(at, Outcome::Failed, ANOTHER_ACTS);
        self.send_all_away(at);
        self.forget(at);
    }

    /// What this host let go of, or was refused, it does nothing for under the same epoch.
    pub(super) fn stay_away(&mut self, at: u32) {
        if let Some(slot) = self.slot(at) {
            slot.phase = Step::Elsewhere;
        }
        self.send_all_away(at);
    }

    /// A state was refused as that of an older epoch: nothing runs until it is known who acts for the mechtron.
    pub(super) fn ask_who_acts(&mut self, at: u32) {
        self.cut(at, Outcome::Failed, ANOTHER_ACTS);
        self.be_elsewhere(at);
        let Some(slot) = self.slot(at) else { return };
        if slot.leaving.is_some() {
            return self.make_ready(at);
        }
        slot.phase = Step::Asking;
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
        // Changes are told by whoever acts for it next.
        for mail in remains.again.into_iter().rev().filter(|mail| mail.change.is_none()) {
            slot.mailbox.push_front(mail);
        }
        for mail in remains.failed.into_iter().filter(|mail| mail.change.is_none()) {
            self.reply(mail.reply, outcome(Refusal::new(Code::EpochStale, detail)));
        }
    }

    /// Nothing of a mechtron is left here but its messages, and under which epoch it was here last.
    fn be_elsewhere(&mut self, at: u32) {
        self.serial += 1;
        let serial = self.serial;
        let Some(slot) = self.slot(at) else { return };
        slot.phase = Step::Elsewhere;
        // Answers that are on their way are for nobody.
        (slot.serial, slot.asked) = (serial, serial);
        let epoch = slot.activation.as_ref().map(|activation| activation.epoch).unwrap_or_default();
        slot.over = slot.over.max(Some(epoch));
        (slot.activation, slot.previous, slot.next) = (None, None, None);
        (slot.state, slot.state_known) = (None, false);
        slot.watches = Watches::default();
        (slot.singly, slot.crashes, slot.not_before, slot.reason) = (0, 0, 0, None);
        slot.restarts.clear();
        slot.ready_told = false;
    }

    fn send_all_away(&mut self, at: u32) {
        let mails = self.slot(at).map(|slot| slot.mailbox.take(|_| true)).unwrap_or_default();
        for mail in mails {
            self.send_away(mail);
        }
    }

    /// Gives a message back whose receiver does not live here.
    pub(super) fn send_away(&mut self, mail: Mail) {
        if let ReplyTo::Mechtron(address) = mail.reply {
            // Who asks asks outside itself.
            if address.shard == self.index {
                return self.ask_if_it_waits(address, mail.message, mail.deadline);
            }
            let event = Event::Elsewhere(address, mail.message, mail.deadline);
            return self.outgoing[address.shard as usize].push(event);
        }
        if let Some(returned) = self.give_back(mail) {
            returned.give_back(&*self.outside);
        }
    }

    /// Makes of a message that waits one that anybody can answer; `None` when its time or its way is over.
    fn give_back(&mut self, mut mail: Mail) -> Option<Returned> {
        if mail.deadline <= self.now {
            self.refuse(mail, turn::expired());
            return None;
        }
        let header = &mut mail.message.header;
        header.remaining = Duration::from_millis(mail.deadline - self.now);
        let asker = match mail.reply {
            ReplyTo::Nobody => {
                let Some(hops_left) = header.hops_left.checked_sub(1) else {
                    let detail = format!("no node is found that acts for {}", header.to);
                    let refusal = Refusal::new(Code::Unreachable, detail);
                    self.refuse(mail, refusal);
                    return None;
                };
                header.hops_left = hops_left;
                None
            }
            ReplyTo::Outside(_, asker) => Some(asker),
            ReplyTo::Mechtron(address) => {
                let (asker, answer) = Asker::future();
                if address.shard == self.index {
                    self.bridge(address, answer, mail.deadline);
                } else {
                    let event = Event::Bridge(address, answer, mail.deadline);
                    self.outgoing[address.shard as usize].push(event);
                }
                Some(asker)
            }
        };
        Some(Returned { message: mail.message, asker })
    }

    /// A mechtron's request will be answered from outside of the shards.
    pub(super) fn bridge(&mut self, address: Address, answer: oneshot::Receiver<Answer>, deadline: Moment) {
        if !self.waits(address) {
            return;
        }
        let outside = Arc::clone(&self.outside);
        self.task(address, deadline, async move {
            match answer.await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(NotHere(message))) => outside.request(*message).await,
                Err(_) => {
                    let detail = "the message was lost on its way; it may have run";
                    Outcome::Unknown(Refusal::new(Code::Internal, detail))
                }
            }
        });
    }
}
