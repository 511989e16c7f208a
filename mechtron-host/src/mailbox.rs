//! Messages that wait for a mechtron, within bounds.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use mechtron_abi::ChangeKind;
use starlane_core::{Code, Message, Outcome, Payload, Refusal, Request};

use crate::asker::Asker;
use crate::changes::Place;
use crate::clock::Moment;
use crate::contract::Watch;
use crate::limits::Limits;

/// A message and who waits for its answer.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) message: Message,
    pub(crate) reply: ReplyTo,
    pub(crate) deadline: Moment,
    /// What a watch tells, when that is what it is: nobody sent it, and it waits in no mailbox.
    pub(crate) change: Option<Box<Telling>>,
}

/// A change that a mechtron is told.
#[derive(Debug)]
pub(crate) struct Telling {
    /// By which watch.
    pub(crate) watch: Watch,
    /// How far that one is told with it.
    pub(crate) place: Place,
    pub(crate) what: ChangeKind,
    pub(crate) revision: u64,
}

impl Mail {
    pub(crate) fn request(&self) -> Option<&Request> {
        match &self.message.payload {
            Payload::Request(request) | Payload::Signal(request) => Some(request),
            Payload::Reply(_) => None,
        }
    }

    fn bytes(&self) -> u64 {
        self.request().map_or(0, |request| request.body.len() + request.path.len() as u64)
    }
}

/// How a request ended, or that it must be asked elsewhere.
pub(crate) type Answer = Result<Outcome, NotHere>;

/// A request came to a host that its mechtron does not live on. It surely did not run.
#[derive(Debug, thiserror::Error)]
#[error("{} does not live on this node", .0.header.to)]
pub struct NotHere(
    /// The request, with the time that it has left.
    pub Box<Message>,
);

impl From<NotHere> for Refusal {
    fn from(error: NotHere) -> Self {
        Refusal::new(Code::EpochStale, error.to_string())
    }
}

/// Who waits for an answer.
#[derive(Debug)]
pub(crate) enum ReplyTo {
    Nobody,
    /// Somebody outside of the shards, under a number of their own.
    Outside(u64, Asker),
    /// A mechtron of this host.
    Mechtron(Address),
}

/// What a mechtron waits for: the token is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) shard: u32,
    pub(crate) slot: u32,
    /// Which life of the mechtron.
    pub(crate) serial: u64,
    pub(crate) token: u64,
}

/// Names who waits, to give up for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiter {
    Outside(u64),
    Mechtron(Address),
}

impl ReplyTo {
    pub(crate) fn is_of(&self, waiter: &Waiter) -> bool {
        match (self, waiter) {
            (ReplyTo::Outside(ticket, _), Waiter::Outside(other)) => ticket == other,
            (ReplyTo::Mechtron(address), Waiter::Mechtron(other)) => address == other,
            _ => false,
        }
    }

    pub(crate) fn is_awaited(&self) -> bool {
        !matches!(self, ReplyTo::Nobody)
    }
}

/// How many messages a shard has, waiting or being handled; all that hold some share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge(Rc<Cell<u64>>);

impl Gauge {
    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }

    pub(crate) fn add(&self, count: usize) {
        self.0.set(self.0.get() + count as u64);
    }

    pub(crate) fn take(&self, count: usize) {
        self.0.set(self.0.get() - count as u64);
    }
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: VecDeque<Mail>,
    bytes: u64,
    gauge: Gauge,
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.gauge.take(self.queue.len());
    }
}

impl Mailbox {
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, gauge }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes a mail in, or gives it back when there is no room.
    #[expect(
        clippy::result_large_err,
        reason = "the mail goes back as it came; boxing it would cost every message"
    )]
    pub(crate) fn push(&mut self, mail: Mail, limits: &Limits) -> Result<(), Mail> {
        let bytes = self.bytes + mail.bytes();
        if self.queue.len() >= limits.mailbox_messages
            || (bytes > limits.mailbox_bytes && !self.queue.is_empty())
        {
            return Err(mail);
        }
        self.bytes = bytes;
        self.gauge.add(1);
        self.queue.push_back(mail);
        Ok(())
    }

    /// Puts a mail back that was taken out before the others.
    pub(crate) fn push_front(&mut self, mail: Mail) {
        self.bytes += mail.bytes();
        self.gauge.add(1);
        self.queue.push_front(mail);
    }

    pub(crate) fn pop(&mut self) -> Option<Mail> {
        let mail = self.queue.pop_front()?;
        self.gauge.take(1);
        self.bytes -= mail.bytes();
        Some(mail)
    }

    pub(crate) fn peek(&self) -> Option<&Mail> {
        self.queue.front()
    }

    /// Takes out what fits, in order.
    pub(crate) fn take(&mut self, fits: impl Fn(&Mail) -> bool) -> Vec<Mail> {
        if !self.queue.iter().any(&fits) {
            return Vec::new();
        }
        let (out, stay): (Vec<_>, Vec<_>) = self.queue.drain(..).partition(fits);
        self.gauge.take(out.len());
        self.queue = stay.into();
        self.bytes = self.queue.iter().map(Mail::bytes).sum();
        out
    }

    pub(crate) fn earliest_deadline(&self) -> Option<Moment> {
        self.queue.iter().map(|mail| mail.deadline).min()
    }
}
