//! Signals on their way to their receivers: those of this node's mechtrons, and those that came from other nodes. In order
//! between two points, and never more than fit.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use starlane_core::{Code, Message, Point, Refusal};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::dead_letters::{DeadLetters, Letter};
use super::homes::{Homes, Room};
use super::router::Router;

/// Signals between the same two points go one after the other; those of others need not wait for them.
const LANES: usize = 16;
/// How many signals of one lane may wait; one more is a dead letter.
const WAITING_MAX: usize = 1_024;
/// How many signals may be asked through binds and files at a time, and for how many receivers some may wait until they are
/// placed; one more is a dead letter.
const ASKED_MAX: usize = 1_024;

/// Brings signals to their receivers. Clones share their lanes.
#[derive(Clone)]
pub(super) struct Signals {
    lanes: Arc<[mpsc::Sender<Signal>]>,
    place: RandomState,
    dead: DeadLetters,
}

struct Signal {
    message: Message,
    comes: Comes,
    /// While it waits behind others until its receiver is placed.
    room: Option<Room>,
}

/// Where a signal comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// From a mechtron of this node: it goes through its receiver's bind.
    Here,
    /// From another node, where that was done.
    Links,
    /// From the host, where its receiver does not live.
    Host,
}

impl Signals {
    /// Starts the lanes, on the runtime that it is called on. They end when the last clone is dropped.
    pub(super) fn start(router: &Router, homes: &Homes, dead: &DeadLetters) -> Self {
        let asked = Arc::new(Semaphore::new(ASKED_MAX));
        let lanes = (0..LANES).map(|_| {
            let (sender, signals) = mpsc::channel(WAITING_MAX);
            let (router, homes, dead) = (router.clone(), homes.clone(), dead.clone());
            let lane = Lane { router, homes, dead, asked: asked.clone(), waiting: HashMap::new() };
            tokio::spawn(lane.carry(signals));
            sender
        });
        Self { lanes: lanes.collect(), place: RandomState::new(), dead: dead.clone() }
    }

    /// Takes a signal of a mechtron along. Never waits.
    pub(super) fn send(&self, message: Message) {
        self.put(Signal { message, comes: Comes::Here, room: None });
    }

    /// Takes a signal along that came from another node. Never waits.
    pub(super) fn arrived(&self, message: Message) {
        self.put(Signal { message, comes: Comes::Links, room: None });
    }

    /// Takes a signal along whose receiver does not live here. Never waits.
    pub(super) fn not_here(&self, message: Message) {
        self.put(Signal { message, comes: Comes::Host, room: None });
    }

    fn put(&self, signal: Signal) {
        let header = &signal.message.header;
        let lane = self.place.hash_one((&header.from, &header.to)) as usize % self.lanes.len();
        let Err(TrySendError::Full(signal) | TrySendError::Closed(signal)) =
            self.lanes[lane].try_send(signal)
        else {
            return;
        };
        let refusal = Refusal::new(Code::Busy, "too many signals wait between these points");
        self.dead.take(Letter::of(&signal.message), &refusal);
    }
}

struct Lane {
    router: Router,
    homes: Homes,
    dead: DeadLetters,
    asked: Arc<Semaphore>,
    /// Those that wait until their receiver is placed.
    waiting: HashMap<Point, Waiting>,
}

struct Waiting {
    signals: mpsc::Sender<Signal>,
    ended: JoinHandle<()>,
}

impl Lane {
    async fn carry(mut self, mut signals: mpsc::Receiver<Signal>) {
        while let Some(Signal { message, comes, .. }) = signals.recv().await {
            let letter = Letter::of(&message);
            let straight = match comes {
                Comes::Here => self.router.has_own_code(&message).await,
                Comes::Links | Comes::Host => Ok(true),
            };
            let sent = match straight {
                Ok(true) => self.straight(message, comes).await,
                Ok(false) => self.ask(message),
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = sent {
                self.dead.take(letter, &refusal);
            }
        }
    }

    /// Asks a bind or a file, which takes its time: the others do not wait for it.
    fn ask(&self, message: Message) -> Result<(), Refusal> {
        let room = self.asked.clone().try_acquire_owned();
        let room = room.map_err(|_| Refusal::new(Code::Busy, "too many signals are asked through binds"))?;
        let (router, dead) = (self.router.clone(), self.dead.clone());
        tokio::spawn(async move {
            let letter = Letter::of(&message);
            if let Err(refusal) = router.send(message).await {
                dead.take(letter, &refusal);
            }
            drop(room);
        });
        Ok(())
    }

    /// Brings a signal to code, or lets it wait behind those before it until its receiver is placed.
    async fn straight(&mut self, message: Message, comes: Comes) -> Result<(), Refusal> {
        let to = message.header.to.clone();
        let message = match self.behind(&to, Signal { message, comes, room: None }).await? {
            None => return Ok(()),
            Some(signal) => signal.message,
        };
        let at_once = match comes {
            Comes::Here => self.router.knows_home(&to),
            // What another node took for this node's and is not, goes on with one hop less.
            Comes::Links => self.router.is_home_of(&to),
            Comes::Host => false,
        };
        if at_once {
            return self.router.send_home(message).await;
        }
        let room = self.asked.clone().try_acquire_owned();
        let room = room.map_err(|_| Refusal::new(Code::Busy, "signals wait for too many receivers"))?;
        let (signals, more) = mpsc::channel(WAITING_MAX);
        let (router, dead) = (self.router.clone(), self.dead.clone());
        let ended = tokio::spawn(async move {
            wait(&router, &dead, Signal { message, comes, room: None }, more).await;
            drop(room);
        });
        self.waiting.retain(|_, waiting| !waiting.ended.is_finished());
        self.waiting.insert(to, Waiting { signals, ended });
        Ok(())
    }

    /// Puts a signal behind others that wait; gives it back when none do.
    async fn behind(&mut self, to: &Point, signal: Signal) -> Result<Option<Signal>, Refusal> {
        let Some(waiting) = self.waiting.get(to) else { return Ok(Some(signal)) };
        let room = Some(self.homes.park(&signal.message)?);
        match waiting.signals.try_send(Signal { room, ..signal }) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(_)) => {
                Err(Refusal::new(Code::Busy, "too many signals wait until their receiver is placed"))
            }
            Err(TrySendError::Closed(signal)) => {
                if let Some(waiting) = self.waiting.remove(to) {
                    // It sends its last; when it panics, it sends no more.
                    _ = waiting.ended.await;
                }
                Ok(Some(signal))
            }
        }
    }
}

/// Brings signals of one receiver to it, one after the other, until none is left.
async fn wait(router: &Router, dead: &DeadLetters, first: Signal, mut more: mpsc::Receiver<Signal>) {
    let mut next = Some(first);
    while let Some(Signal { message, comes, room }) = next {
        // From here on it takes room where it waits by itself.
        drop(room);
        let letter = Letter::of(&message);
        let sent = match comes {
            Comes::Links | Comes::Host => router.send_elsewhere(message).await,
            Comes::Here => router.send_home(message).await,
        };
        if let Err(refusal) = sent {
            dead.take(letter, &refusal);
        }
        if more.is_empty() {
            more.close();
        }
        next = more.recv().await;
    }
}
