//! Which address is dialled when: each until there is a link to whoever is there, for ever.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use starlane_core::NodeId;

use super::random::Random;

/// Doublings after which the wait is the longest anyway.
const DOUBLINGS_MAX: u32 = 20;

/// A place where a node can be reached: `host:port`.
pub(crate) type Address = Arc<str>;

/// The addresses that are known, and what is to be done about each.
pub(crate) struct Dials {
    wait_min: Duration,
    wait_max: Duration,
    random: Random,
    known: BTreeMap<Address, Known>,
    due: VecDeque<Address>,
}

#[derive(Default)]
struct Known {
    /// Whoever answered there last.
    peer: Option<NodeId>,
    failures: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// It is dialled at this time.
    Waiting(Duration),
    /// It is being dialled.
    #[default]
    Dialling,
    /// There is a link to whoever is there.
    Linked,
}

impl Dials {
    pub(crate) fn new(wait_min: Duration, wait_max: Duration, random: Random) -> Self {
        Self { wait_min, wait_max, random, known: BTreeMap::new(), due: VecDeque::new() }
    }

    /// These are the addresses from now on. New ones are dialled at once.
    pub(crate) fn set_known(&mut self, addresses: &[String]) {
        self.known.retain(|address, _| addresses.iter().any(|known| **known == **address));
        for address in addresses {
            let address = Address::from(address.as_str());
            if !self.known.contains_key(&address) {
                self.known.insert(address.clone(), Known::default());
                self.due.push_back(address);
            }
        }
    }

    /// Somebody answered there.
    pub(crate) fn handle_reached(&mut self, address: &Address, peer: NodeId) {
        if let Some(known) = self.known.get_mut(address) {
            known.peer = Some(peer);
        }
    }

    /// Dialling led to no link. `linked` says whether there is one to whoever answered there.
    pub(crate) fn handle_failed(
        &mut self,
        address: &Address,
        linked: impl Fn(NodeId) -> bool,
        now: Duration,
    ) {
        let Some(known) = self.known.get_mut(address) else { return };
        if known.state != State::Dialling {
            return;
        }
        if known.peer.is_some_and(linked) {
            known.state = State::Linked;
            return;
        }
        let doubled = self.wait_min.saturating_mul(1 << known.failures.min(DOUBLINGS_MAX));
        known.failures = known.failures.saturating_add(1);
        known.state = State::Waiting(now + spread(&mut self.random, doubled.min(self.wait_max)));
    }

    /// There is a link to a node, whoever dialled.
    pub(crate) fn handle_link_up(&mut self, peer: NodeId) {
        for known in self.known.values_mut().filter(|known| known.peer == Some(peer)) {
            known.failures = 0;
            if known.state != State::Dialling {
                known.state = State::Linked;
            }
        }
    }

    /// There is a link because this address was dialled.
    pub(crate) fn handle_linked(&mut self, address: &Address, peer: NodeId) {
        if let Some(known) = self.known.get_mut(address) {
            (known.peer, known.state, known.failures) = (Some(peer), State::Linked, 0);
        }
    }

    /// The link to a node is gone: it is dialled again, soon but not by all at once.
    pub(crate) fn handle_link_down(&mut self, peer: NodeId, now: Duration) {
        for known in self.known.values_mut().filter(|known| known.peer == Some(peer)) {
            if known.state == State::Linked {
                known.state = State::Waiting(now + spread(&mut self.random, self.wait_min));
            }
        }
    }

    /// Dials what is due.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        for (address, known) in &mut self.known {
            if matches!(known.state, State::Waiting(at) if at <= now) {
                known.state = State::Dialling;
                self.due.push_back(address.clone());
            }
        }
    }

    /// When [`Dials::handle_timeout`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let waiting = |known: &Known| match known.state {
            State::Waiting(at) => Some(at),
            _ => None,
        };
        self.known.values().filter_map(waiting).min()
    }

    /// The next address to dial, until `None`.
    pub(crate) fn poll_dial(&mut self) -> Option<Address> {
        loop {
            let address = self.due.pop_front()?;
            // It may have been forgotten since.
            if self.known.contains_key(&address) {
                return Some(address);
            }
        }
    }
}

/// Between half of a wait and all of it.
fn spread(random: &mut Random, wait: Duration) -> Duration {
    let half = wait / 2;
    half + Duration::from_micros(random.below(half.as_micros() as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(200);
    const MAX: Duration = Duration::from_secs(30);
    const PEER: NodeId = NodeId(7);

    fn dials(seed: u64) -> (Dials, Address) {
        let mut dials = Dials::new(MIN, MAX, Random::new(seed));
        dials.set_known(&["there:1".to_owned()]);
        (dials, "there:1".into())
    }

    /// The waits between the first failures.
    fn waits(seed: u64, failures: usize) -> Vec<Duration> {
        let (mut dials, address) = dials(seed);
        let mut now = Duration::from_secs(1);
        let mut waits = Vec::new();
        for _ in 0..failures {
            assert_eq!(dials.poll_dial(), Some(address.clone()));
            assert_eq!(dials.poll_dial(), None);
            dials.handle_failed(&address, |_| false, now);
            let due = dials.poll_timeout().unwrap();
            waits.push(due - now);
            dials.handle_timeout(due - Duration::from_micros(1));
            assert_eq!(dials.poll_dial(), None);
            now = due;
            dials.handle_timeout(now);
        }
        waits
    }

    #[test]
    fn each_failure_doubles_the_wait_up_to_the_longest_and_no_two_nodes_wait_alike() {
        let first = waits(1, 40);
        for (nth, wait) in first.iter().enumerate() {
            let full = MIN.saturating_mul(1 << nth.min(20)).min(MAX);
            assert!((full / 2..=full).contains(wait), "{nth}: {wait:?}");
        }
        assert_eq!(first, waits(1, 40));
        assert_ne!(first, waits(2, 40));
    }

    #[test]
    fn a_link_stops_the_dialling_and_its_end_begins_it_anew() {
        let (mut dials, address) = dials(1);
        let now = Duration::from_secs(1);
        dials.poll_dial();
        for _ in 0..5 {
            dials.handle_failed(&address, |_| false, now);
            dials.handle_timeout(now + MAX);
            dials.poll_dial();
        }
        dials.handle_linked(&address, PEER);
        assert_eq!(dials.poll_timeout(), None);
        dials.handle_link_down(NodeId(8), now);
        assert_eq!(dials.poll_timeout(), None);
        dials.handle_link_down(PEER, now);
        let due = dials.poll_timeout().unwrap();
        assert!(due - now <= MIN, "{due:?}");
        // The peer was faster.
        dials.handle_link_up(PEER);
        assert_eq!(dials.poll_timeout(), None);
    }

    #[test]
    fn an_address_of_a_node_that_is_linked_already_rests() {
        let (mut dials, address) = dials(1);
        let now = Duration::from_secs(1);
        dials.poll_dial();
        dials.handle_reached(&address, PEER);
        dials.handle_failed(&address, |peer| peer == PEER, now);
        assert_eq!(dials.poll_timeout(), None);
        dials.handle_link_down(PEER, now);
        assert!(dials.poll_timeout().is_some());
    }

    #[test]
    fn a_forgotten_address_is_not_dialled() {
        let (mut dials, address) = dials(1);
        dials.set_known(&["here:2".to_owned()]);
        assert_eq!(dials.poll_dial(), Some("here:2".into()));
        assert_eq!(dials.poll_dial(), None);
        dials.handle_failed(&address, |_| false, MIN);
        assert_eq!(dials.poll_timeout(), None);
    }
}
