//! State before outbox: what a run did is told when its state is durable.

use std::sync::Arc;

use bytes::Bytes;
use starlane_core::{Code, Epoch, Outcome, Point, Refusal};

use super::Shard;
use super::queue::Event;
use super::slot::{Held, Step, Then};
use crate::instance::Ended;
use crate::outside::Activation;
use crate::turn;
use crate::turn::Action;

impl Shard {
    /// Makes the state of a run durable, then lets its outbox go.
    pub(super) fn commit(&mut self, at: u32, output: turn::Output) {
        let (now, every) = (self.now, self.config.keep_place.as_millis() as u64);
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_deref_mut) else { return };
        let durable = slot.is_durable();
        let Some(live) = slot.live.as_deref_mut() else { return };
        let state = output.state.filter(|state| slot.state.as_ref() != Some(state));
        let told = live.conversation.told(&output.actions);
        let keeps = durable && slot.watches.keeps_now(now, every);
        if state.is_none() && told.is_empty() && !keeps {
            return self.release(at, output.actions);
        }
        let held = Held { actions: output.actions, state, told, then: Then::GoOn };
        if !durable {
            return self.kept(at, held);
        }
        self.hold(at, held);
    }

    /// Makes a state durable, with how far the watches are told, and holds back what waits for that.
    pub(super) fn hold(&mut self, at: u32, held: Held) {
        let now = self.now;
        let Some(slot) = self.slot(at) else { return };
        let Some(activation) = slot.activation.clone() else { return };
        let state = held.state.as_ref().or(slot.state.as_ref());
        // With neither a state nor a place there is nothing to keep.
        let Some(kept) = slot.watches.pack(&held.told, state, now) else { return self.kept(at, held) };
        if let Some(live) = slot.live.as_deref_mut() {
            live.held = Some(held);
        }
        self.save(at, &activation, kept);
    }

    pub(super) fn save(&mut self, at: u32, activation: &Activation, state: Bytes) {
        let Some(slot) = self.slot(at) else { return };
        let (point, serial, epoch) = (slot.point.clone(), slot.serial, activation.epoch);
        let saving = self.outside.save_state(point.clone(), epoch, activation.durability, state);
        let queue = Arc::clone(&self.queues[self.index as usize]);
        self.config.runtime.spawn(async move {
            let saved = saving.await;
            queue.tell(Event::Saved(point, serial, epoch, saved));
        });
    }

    pub(super) fn saved(&mut self, point: &Point, serial: u64, epoch: Epoch, saved: Result<(), Refusal>) {
        let Some(at) = self.points.get(point).copied() else { return };
        let Some(slot) = self.slot(at).filter(|slot| slot.serial == serial) else { return };
        if slot.phase == Step::Keeping {
            return self.places_kept(at, epoch, saved);
        }
        let Some(live) = slot.live.as_deref_mut() else { return };
        let Some(held) = live.held.take() else { return };
        match saved {
            Ok(()) => self.kept(at, held),
            // Nothing was changed but how far the watches are, which is kept with what comes next.
            Err(refusal)
                if held.state.is_none()
                    && held.told.is_empty()
                    && !matches!(refusal.code, Code::EpochStale | Code::NotFound) =>
            {
                slot.watches.not_kept();
                self.kept(at, held);
            }
            Err(refusal) => self.not_saved(at, held, refusal),
        }
    }

    /// The state is what it is from now on; what waited for that goes on.
    fn kept(&mut self, at: u32, held: Held) {
        let Some(slot) = self.slot(at) else { return };
        if let Some(state) = held.state {
            if let Some(instance) = slot.live.as_deref_mut().and_then(|live| live.instance.as_mut()) {
                instance.set_state(state.clone());
            }
            slot.state = Some(state);
        }
        slot.watches.told(held.told);
        if held.then == Then::Sleep {
            return self.fall_asleep(at);
        }
        self.release(at, held.actions);
    }

    /// The state could not be saved: what the run did is not told, and the mechtron goes back to what was saved last.
    pub(super) fn not_saved(&mut self, at: u32, held: Held, refusal: Refusal) {
        let stale = matches!(refusal.code, Code::EpochStale | Code::NotFound);
        self.answer_held(at, &held, &|| match stale {
            true => Outcome::Failed(refusal.clone()),
            false => Outcome::Unknown(refusal.clone()),
        });
        if refusal.code == Code::NotFound {
            return self.remove(at, &refusal);
        }
        if let Some(live) = self.slot(at).and_then(|slot| slot.live.as_deref_mut()) {
            live.conversation.settle();
        }
        if stale {
            return self.ask_who_acts(at);
        }
        let Some(slot) = self.slot(at) else { return };
        // It may have been saved after all.
        slot.state_known = false;
        slot.state = None;
        slot.watches.reset();
        let detail = format!("its state could not be saved: {refusal}");
        self.crashed(at, &Ended { code: refusal.code, detail: detail.clone() }, true);
        for (selector, _) in &held.told {
            self.change_failed(at, selector, &detail);
        }
    }

    /// Answers those who wait for a commit that is of no use any more, whatever the mechtron answered.
    pub(super) fn answer_held(&mut self, at: u32, held: &Held, outcome: &dyn Fn() -> Outcome) {
        let Some(live) = self.slot(at).and_then(|slot| slot.live.as_deref_mut()) else { return };
        let answers = held.actions.iter().filter_map(|action| match action {
            Action::Answer { at, .. } if live.conversation.watch(*at).is_none() => {
                Some(live.conversation.take_reply(*at))
            }
            _ => None,
        });
        for reply in answers.collect::<Vec<_>>() {
            self.reply(reply, outcome());
        }
    }
}
