//! A change of where a mechtron lives, under way: who acts for it now lets go of it, who will is given its state, and only then
//! the assignment is written.

use std::collections::BTreeSet;

use super::{Handle, Ticket, Tickets};
use crate::{Epoch, NodeName};

/// How often a node may fail to take a mechtron over before another is tried.
const TRIES: u8 = 3;

/// A change under way.
#[derive(Debug)]
pub(super) struct Change {
    /// Where it will live.
    pub(super) nodes: Vec<NodeName>,
    /// Under which epoch it will.
    pub(super) epoch: Epoch,
    /// Who lets go of it.
    pub(super) legs: Vec<Leg>,
    /// Nodes that failed to take it over.
    pub(super) excluded: BTreeSet<NodeName>,
    /// What went wrong last.
    pub(super) trouble: Option<String>,
}

/// One node that lets go of a mechtron, and the one that takes its state over, if any does.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) from: NodeName,
    pub(super) to: Option<NodeName>,
    pub(super) step: Step,
    tries: u8,
}

/// How far a leg is. Once it was asked to let go, a node does nothing for the mechtron until it is assigned anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It must be asked to let go.
    ToRelease,
    /// It was asked.
    Releasing(Ticket),
    /// It let go; whoever is to take over must be asked.
    Released(Option<Handle>),
    /// That one was asked.
    Adopting(Option<Handle>, Ticket),
    /// That one has it, or nobody need have it.
    Adopted(Option<Handle>),
}

/// What comes next in a change.
pub(super) enum Next {
    /// These must be asked to let go.
    Release(Vec<(Ticket, NodeName)>),
    /// These take over from those.
    Adopt(Vec<(Ticket, NodeName, NodeName, Option<Handle>)>),
    /// Somebody must answer first.
    Wait,
    /// The assignment can be written.
    Assign,
}

impl Change {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { nodes: Vec::new(), epoch, legs: Vec::new(), excluded: BTreeSet::new(), trouble: None }
    }

    /// Makes the nodes those where it will live. `actors` act for it now; `answers` says which nodes can still be asked
    /// to let go.
    pub(super) fn aim(
        &mut self,
        nodes: Vec<NodeName>,
        actors: &[NodeName],
        held: &BTreeSet<NodeName>,
        answers: impl Fn(&NodeName) -> bool,
    ) {
        // Who cannot answer any more has nothing to give, unless it gave it before.
        self.legs
            .retain(|leg| !matches!(leg.step, Step::ToRelease | Step::Releasing(_)) || answers(&leg.from));
        for actor in actors {
            let leaves = !nodes.contains(actor) || held.contains(actor);
            if leaves && answers(actor) && self.legs.iter().all(|leg| leg.from != *actor) {
                self.legs.push(Leg { from: actor.clone(), to: None, step: Step::ToRelease, tries: 0 });
            }
        }
        let goes_on = |node: &NodeName| actors.contains(node);
        let mut new: Vec<&NodeName> = nodes.iter().filter(|node| !goes_on(node)).collect();
        new.retain(|node| self.legs.iter().all(|leg| leg.to.as_ref() != Some(node)));
        for leg in &mut self.legs {
            let to = if nodes.contains(&leg.from) {
                Some(leg.from.clone())
            } else if leg.to.as_ref().is_some_and(|to| nodes.contains(to) && *to != leg.from) {
                leg.to.clone()
            } else if new.is_empty() {
                None
            } else {
                Some(new.remove(0).clone())
            };
            if to == leg.to {
                continue;
            }
            leg.to = to;
            leg.tries = 0;
            if let Step::Adopting(handle, _) | Step::Adopted(handle) = leg.step {
                leg.step = Step::Released(handle);
            }
        }
        self.nodes = nodes;
    }

    /// What comes next. Whether somebody who is given nothing must be told depends on whether it can have anything.
    pub(super) fn next(&mut self, tell_nothing: bool, tickets: &mut Tickets) -> Next {
        for leg in &mut self.legs {
            if let Step::Released(handle) = leg.step
                && (leg.to.is_none() || handle.is_none() && !tell_nothing)
            {
                leg.step = Step::Adopted(handle);
            }
        }
        let mut asked = Vec::new();
        for leg in &mut self.legs {
            if leg.step == Step::ToRelease {
                let ticket = tickets.next();
                leg.step = Step::Releasing(ticket);
                asked.push((ticket, leg.from.clone()));
            }
        }
        if !asked.is_empty() {
            return Next::Release(asked);
        }
        if self.legs.iter().any(|leg| matches!(leg.step, Step::Releasing(_))) {
            return Next::Wait;
        }
        let mut given = Vec::new();
        for leg in &mut self.legs {
            if let (Step::Released(handle), Some(to)) = (leg.step, &leg.to) {
                let ticket = tickets.next();
                leg.step = Step::Adopting(handle, ticket);
                given.push((ticket, leg.from.clone(), to.clone(), handle));
            }
        }
        if !given.is_empty() {
            return Next::Adopt(given);
        }
        if self.legs.iter().any(|leg| matches!(leg.step, Step::Adopting(..))) {
            return Next::Wait;
        }
        Next::Assign
    }

    /// Takes the answer of who was asked to let go. `None` when nobody waits for it, else whether it did.
    pub(super) fn released(
        &mut self,
        ticket: Ticket,
        result: Result<Option<Handle>, String>,
    ) -> Option<bool> {
        let leg = self.legs.iter_mut().find(|leg| leg.step == Step::Releasing(ticket))?;
        let let_go = result.is_ok();
        match result {
            Ok(handle) => leg.step = Step::Released(handle),
            Err(detail) => {
                leg.step = Step::ToRelease;
                self.trouble = Some(format!("`{}` does not let go: {detail}", leg.from));
            }
        }
        Some(let_go)
    }

    /// Takes the answer of who was asked to take over. `None` when nobody waits for it, else whether it did.
    pub(super) fn adopted(&mut self, ticket: Ticket, result: Result<(), String>) -> Option<bool> {
        let waits = |leg: &&mut Leg| matches!(leg.step, Step::Adopting(_, waits) if waits == ticket);
        let leg = self.legs.iter_mut().find(waits)?;
        let (Step::Adopting(handle, _), Some(to)) = (leg.step, &leg.to) else { return None };
        let took = result.is_ok();
        match result {
            Ok(()) => leg.step = Step::Adopted(handle),
            Err(detail) => {
                leg.step = Step::Released(handle);
                leg.tries += 1;
                if leg.tries >= TRIES {
                    self.excluded.insert(to.clone());
                }
                self.trouble = Some(format!("`{to}` does not take it over: {detail}"));
            }
        }
        Some(took)
    }

    /// What a node held in memory is gone: it must be asked again for what it gave or took. Tells whether it matters.
    pub(super) fn restarted(&mut self, node: &NodeName) -> bool {
        let mut any = false;
        for leg in &mut self.legs {
            if leg.from == *node {
                leg.step = Step::ToRelease;
                any = true;
            } else if leg.to.as_ref() == Some(node)
                && let Step::Adopting(handle, _) | Step::Adopted(handle) = leg.step
            {
                leg.step = Step::Released(handle);
                any = true;
            }
        }
        any
    }
}
