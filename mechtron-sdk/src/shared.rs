//! What the running mechtron, its handlers and their waiting calls share.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use mechtron_abi::{Header, Kind, Writer};

use crate::error::ErrorKind;
use crate::http::Response;
use crate::{Error, Result};

/// How many answers and timers one mechtron may wait for.
pub(crate) const SLOTS_MAX: usize = 1_024;

/// One for each instance.
pub(crate) struct Shared {
    pub(crate) out: RefCell<Writer>,
    pub(crate) slots: RefCell<Slots>,
    pub(crate) now_ms: Cell<u64>,
    pub(crate) random: Cell<u64>,
    pub(crate) point: RefCell<Rc<str>>,
    pub(crate) config: RefCell<Rc<str>>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            out: RefCell::new(Writer::new()),
            slots: RefCell::default(),
            now_ms: Cell::new(0),
            random: Cell::new(0),
            point: RefCell::new("".into()),
            config: RefCell::new("".into()),
        }
    }

    /// The next random number: SplitMix64 (Steele, Lea, Flood 2014), from the seed that the host gave.
    pub(crate) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// What a token stands for.
enum Slot {
    Free,
    Waiting(Option<Waker>),
    Done(Result<Response>),
    Timer(Box<dyn Any>),
}

/// Tokens: a slot's number, and how often it was used before in the upper half, so that an answer that comes late
/// finds nobody.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<(u32, Slot)>,
    free: Vec<u32>,
}

impl Slots {
    fn take(&mut self, slot: Slot) -> Result<u64> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.slots.len() < SLOTS_MAX => {
                self.slots.push((0, Slot::Free));
                (self.slots.len() - 1) as u32
            }
            None => {
                let detail = format!("this mechtron waits for {SLOTS_MAX} answers and timers already");
                return Err(Error::new(ErrorKind::Rejected, "E-BUSY", detail));
            }
        };
        let entry = &mut self.slots[number as usize];
        entry.1 = slot;
        Ok(u64::from(entry.0) << 32 | u64::from(number))
    }

    fn get(&mut self, token: u64) -> Option<&mut Slot> {
        let (generation, slot) = self.slots.get_mut((token & 0xffff_ffff) as usize)?;
        (*generation == (token >> 32) as u32).then_some(slot)
    }

    fn release(&mut self, token: u64) -> Option<Slot> {
        let slot = std::mem::replace(self.get(token)?, Slot::Free);
        let number = (token & 0xffff_ffff) as u32;
        let generation = &mut self.slots[number as usize].0;
        *generation = generation.wrapping_add(1);
        self.free.push(number);
        Some(slot)
    }

    pub(crate) fn timer(&mut self, job: Box<dyn Any>) -> Result<u64> {
        self.take(Slot::Timer(job))
    }

    /// What a timer that is due should do; nothing when it was unset.
    pub(crate) fn due(&mut self, token: u64) -> Option<Box<dyn Any>> {
        match self.get(token)? {
            Slot::Timer(_) => match self.release(token)? {
                Slot::Timer(job) => Some(job),
                _ => None,
            },
            _ => None,
        }
    }

    /// Keeps an answer for whoever waits for it. Nobody does when it was given up.
    pub(crate) fn answer(&mut self, token: u64, answer: Result<Response>) {
        if let Some(slot @ Slot::Waiting(_)) = self.get(token)
            && let Slot::Waiting(Some(waker)) = std::mem::replace(slot, Slot::Done(answer))
        {
            waker.wake();
        }
    }
}

/// An answer that is waited for. Dropping it gives the call up; the callee may have run all the same.
#[must_use = "a call's answer comes by `.await`"]
pub struct Pending(State);

enum State {
    /// The call could not be made.
    Refused(Option<Error>),
    Asked {
        shared: Rc<Shared>,
        token: u64,
    },
    Over,
}

impl Pending {
    /// Asks, with the frame that `write` writes for the token it is given.
    pub(crate) fn ask(shared: &Rc<Shared>, write: impl FnOnce(&mut Writer, u64)) -> Self {
        match shared.slots.borrow_mut().take(Slot::Waiting(None)) {
            Ok(token) => {
                write(&mut shared.out.borrow_mut(), token);
                Self(State::Asked { shared: shared.clone(), token })
            }
            Err(error) => Self::refused(error),
        }
    }

    pub(crate) fn refused(error: Error) -> Self {
        Self(State::Refused(Some(error)))
    }
}

impl Future for Pending {
    type Output = Result<Response>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.0 {
            State::Refused(error) => error.take().map(Err),
            State::Asked { shared, token } => {
                let mut slots = shared.slots.borrow_mut();
                match slots.get(*token) {
                    Some(Slot::Waiting(waker)) => {
                        *waker = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                    Some(Slot::Done(_)) => match slots.release(*token) {
                        Some(Slot::Done(result)) => Some(result),
                        _ => None,
                    },
                    _ => None,
                }
            }
            State::Over => None,
        };
        self.0 = State::Over;
        // Only somebody who polls a future after its end gets here without a result.
        Poll::Ready(result.unwrap_or_else(|| Err(Error::fail("E-INTERNAL", "the answer was taken before"))))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let State::Asked { shared, token } = &self.0
            && let Some(Slot::Waiting(_)) = shared.slots.borrow_mut().release(*token)
        {
            shared.out.borrow_mut().frame(Header::new(Kind::GiveUp, *token), &[]);
        }
    }
}
