//! What a run asks for, once its state is durable; and the answers that come back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use starlane_core::{Agent, Body, Code, Header, Message, Outcome, Payload, Point, Refusal, Reply, Request};

use super::queue::Event;
use super::{Shard, place};
use crate::clock::Moment;
use crate::mailbox::{Address, Mail, ReplyTo, Waiter};
use crate::turn;
use crate::turn::{Action, Pending, Waits};

impl Shard {
    /// Does what a run asked for.
    pub(super) fn release(&mut self, at: u32, actions: Vec<Action>) {
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
        let reentrant = slot.activation.as_ref().is_some_and(|activation| activation.is_reentrant());
        let waits = slot.watches.is_due(now) || !slot.mailbox.is_empty();
        let more = slot.leaving.is_some()
            || live.conversation.has_input(now)
            || slot.next.is_some() && live.conversation.is_quiet()
            || waits && live.conversation.takes_messages(reentrant, &slot.limits);
        let idle_at = live.conversation.may_sleep().then_some(slot.last_used);
        self.counters().handled.fetch_add(settled, Ordering::Relaxed);
        if let Some(last_used) = idle_at {
            self.want(at, last_used + self.config.idle.as_millis() as u64);
        }
        if more {
            self.make_ready(at);
        }
    }

    pub(super) fn act(&mut self, at: u32, action: Action, lines: &mut Vec<(u8, String)>) {
        let now = self.now;
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        let Some(live) = slot.live.as_deref_mut() else { return };
        let conversation = &mut live.conversation;
        match action {
            Action::Answer { at: given, outcome } => {
                if let Some(watch) = conversation.watch(given) {
                    return self.change_ended(at, &watch, &outcome);
                }
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
    pub(super) fn call(
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
                change: None,
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
        self.route(Mail { message, reply: ReplyTo::Mechtron(address), deadline, change: None });
    }

    pub(super) fn route(&mut self, mail: Mail) {
        let target = place(&self.place, &mail.message.header.to, self.queues.len());
        if target != self.index as usize {
            if self.outgoing[target].len() >= self.config.shard_queue {
                return self.refuse(mail, Refusal::new(Code::Busy, "a shard has too much waiting"));
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
    pub(super) fn ask_if_it_waits(&mut self, address: Address, message: Message, deadline: Moment) {
        if self.waits(address) {
            self.ask_outside(address, message, deadline);
        }
    }

    /// Whether a mechtron still waits for an answer.
    pub(super) fn waits(&mut self, address: Address) -> bool {
        let slot = self.slot(address.slot).filter(|slot| slot.serial == address.serial);
        slot.and_then(|slot| slot.live.as_deref())
            .is_some_and(|live| live.conversation.requests.contains_key(&address.token))
    }

    /// Asks a point that is not a mechtron of this host, for one that is.
    pub(super) fn ask_outside(&mut self, address: Address, mut message: Message, deadline: Moment) {
        if deadline <= self.now {
            return self.answer(address, Outcome::Rejected(turn::expired()));
        }
        message.header.remaining = Duration::from_millis(deadline - self.now);
        let asked = self.outside.request(message);
        self.task(address, deadline, asked);
    }

    pub(super) fn select(&mut self, at: u32, token: u64, selector: String) {
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
    pub(super) fn task(
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
    pub(super) fn abandon(&mut self, _at: u32, pending: Pending, address: Option<Address>) {
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

    pub(super) fn answer(&mut self, address: Address, outcome: Outcome) {
        let Some(slot) = self.slot(address.slot).filter(|slot| slot.serial == address.serial) else { return };
        let limits = Arc::clone(&slot.limits);
        if let Some(live) = slot.live.as_deref_mut()
            && live.conversation.answer(address.token, outcome, &limits)
        {
            self.make_ready(address.slot);
        }
    }

    /// Ends a message that surely does not run. The node hears of one that nobody waits for.
    pub(super) fn refuse(&mut self, mail: Mail, refusal: Refusal) {
        if mail.reply.is_awaited() {
            return self.reply(mail.reply, Outcome::Rejected(refusal));
        }
        self.counters().lost.fetch_add(1, Ordering::Relaxed);
        self.outside.undelivered(mail.message, refusal);
    }

    /// Answers whoever waits.
    pub(super) fn reply(&mut self, reply: ReplyTo, outcome: Outcome) {
        match reply {
            ReplyTo::Nobody => {
                if !matches!(outcome, Outcome::Ok(_)) {
                    self.counters().lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            ReplyTo::Outside(_, asker) => asker.answer(outcome),
            ReplyTo::Mechtron(address) if address.shard == self.index => self.answer(address, outcome),
            ReplyTo::Mechtron(address) => {
                self.outgoing[address.shard as usize].push(Event::Answer(address, outcome));
            }
        }
    }
}
