//! What a shard knows of a mechtron.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use starlane_core::{Epoch, Point};

use super::moving::Leaving;
use super::watches::{Told, Watches};
use crate::clock::Moment;
use crate::instance::Instance;
use crate::limits::{Limits, effective};
use crate::mailbox::Mailbox;
use crate::outside::{Activation, Durability};
use crate::turn::{Action, Conversation};

pub(super) struct Slot {
    pub(super) point: Point,
    pub(super) phase: Step,
    pub(super) activation: Option<Arc<Activation>>,
    /// What it goes back to when the activation does not start.
    pub(super) previous: Option<Arc<Activation>>,
    /// What it changes to at the next turn.
    pub(super) next: Option<Arc<Activation>>,
    pub(super) limits: Arc<Limits>,
    pub(super) mailbox: Mailbox,
    pub(super) live: Option<Box<Live>>,
    pub(super) state: Option<Bytes>,
    pub(super) state_known: bool,
    /// Which life it is in.
    pub(super) serial: u64,
    /// The last question for what runs here.
    pub(super) asked: u64,
    pub(super) queued: bool,
    /// The earliest moment that the shard looks after it.
    pub(super) wake: Moment,
    pub(super) last_used: Moment,
    /// Messages to give alone.
    pub(super) singly: usize,
    pub(super) restarts: VecDeque<Moment>,
    /// How many times in a row a run ended it, without an answer in between.
    pub(super) crashes: u32,
    pub(super) not_before: Moment,
    pub(super) reason: Option<Arc<str>>,
    pub(super) handled: u64,
    pub(super) restarts_all: u64,
    pub(super) ready_told: bool,
    /// It is on its way to another node.
    pub(super) leaving: Option<Leaving>,
    /// What it watches.
    pub(super) watches: Watches,
    /// The last epoch under which this host let go of it, or was refused as not the one that acts for it: only under a
    /// newer one it runs here again. The first of all stands for one that was not known.
    pub(super) over: Option<Epoch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is asked what runs here.
    Asking,
    /// Its state is being loaded.
    Loading,
    Asleep,
    /// It sleeps, and how far its watches are is being saved.
    Keeping,
    Live,
    /// Until `not_before`.
    Failed,
    /// It does not live here, until it is asked again what runs here.
    Elsewhere,
}

pub(super) struct Live {
    /// `None` for a WASI command, which has one for each message.
    pub(super) instance: Option<Instance>,
    pub(super) conversation: Conversation,
    /// What waits for its state to be durable.
    pub(super) held: Option<Held>,
}

pub(super) struct Held {
    pub(super) actions: Vec<Action>,
    /// The state that is new; `None` when it stays what it was.
    pub(super) state: Option<Bytes>,
    /// How far watches are told with it.
    pub(super) told: Told,
    /// What comes after.
    pub(super) then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    Sleep,
}

impl Slot {
    pub(super) fn is_durable(&self) -> bool {
        self.activation.as_ref().is_some_and(|activation| activation.durability != Durability::Memory)
    }

    /// Watches what the contract of its activation says.
    pub(super) fn watch_by_contract(&mut self) {
        if let Some(activation) = &self.activation {
            self.watches.change_to(activation.module.contract().watches(&activation.name));
        }
    }

    /// Runs by another activation from its next start on; goes back to this one when that does not start, if it may.
    pub(super) fn change_to(
        &mut self,
        activation: Arc<Activation>,
        goes_back: bool,
        host_limits: &Arc<Limits>,
    ) {
        let (epoch, since) = (activation.epoch, activation.since);
        self.limits = effective(activation.limits.as_ref(), host_limits);
        let before = self.activation.replace(activation);
        // Somebody else may have acted for it in between.
        if let Some(before) = before.as_ref().filter(|before| before.epoch != epoch) {
            self.state_known = false;
            self.watches.pause();
            // Even what is in memory is not the state of another resource at the same point.
            if self.is_durable() || before.epoch < since {
                self.state = None;
                self.watches.reset();
            }
        }
        self.watch_by_contract();
        // Whatever runs does so under the newest epoch.
        self.previous = before.filter(|_| goes_back).map(|before| match before.epoch == epoch {
            true => before,
            false => Arc::new(Activation { epoch, ..(*before).clone() }),
        });
    }
}
