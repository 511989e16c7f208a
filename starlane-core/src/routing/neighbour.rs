//! One link of this node: what it costs, and what its other end is owed.

use std::collections::{BTreeMap, BTreeSet};

use super::advert::{Cost, Link};
use super::packet::{ADVERTS_MAX, AGE_BYTES_MAX, BATCH_BYTES_MAX, Carried, Digest, Packet, SEEN_MAX, Seen};
use super::state::Known;
use crate::{Moment, NodeId};

/// Packets that may be on their way into one link; the next one waits until the caller says that one was written.
pub const PACKETS_IN_FLIGHT_MAX: usize = 2;

/// One link of this node. What its other end is owed is bounded by the number of known nodes, however slow it is.
pub(super) struct Neighbour {
    /// As measured last.
    cost: Cost,
    /// As all nodes were told.
    advertised: Cost,
    /// Where the next page of the digest begins; `None` when all of it was sent.
    digest_from: Option<NodeId>,
    /// Whose newest advert is to be sent.
    owed: BTreeSet<NodeId>,
    /// Where the next packet begins, so that no node waits behind others that change often.
    turn: NodeId,
    in_flight: usize,
}

impl Neighbour {
    /// A link that came up just now: it begins with a digest.
    pub(super) fn new(cost: Cost) -> Self {
        Self {
            cost,
            advertised: cost,
            digest_from: Some(NodeId(0)),
            owed: BTreeSet::new(),
            turn: NodeId(0),
            in_flight: 0,
        }
    }

    /// Takes over a measurement, and says whether others should hear of it.
    pub(super) fn measure(&mut self, cost: Cost) -> bool {
        self.cost = cost;
        cost.is_news_after(self.advertised)
    }

    /// The link as the next advert says it.
    pub(super) fn advertise(&mut self, to: NodeId) -> Link {
        if self.cost.is_news_after(self.advertised) {
            self.advertised = self.cost;
        }
        self.link(to)
    }

    /// The link as all nodes were told, or will be with the next advert.
    pub(super) fn link(&self, to: NodeId) -> Link {
        Link { to, cost: self.advertised }
    }

    pub(super) fn owe(&mut self, node: NodeId) {
        self.owed.insert(node);
    }

    /// The other end has what was owed, or something newer.
    pub(super) fn has(&mut self, node: NodeId) {
        self.owed.remove(&node);
    }

    /// A packet left this node.
    pub(super) fn sent(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// What to send next; `None` when nothing is owed, or too much is on its way.
    pub(super) fn next_packet(
        &mut self,
        own: NodeId,
        known: &BTreeMap<NodeId, Known>,
        now: Moment,
    ) -> Option<Packet> {
        if self.in_flight >= PACKETS_IN_FLIGHT_MAX {
            return None;
        }
        let packet = match self.digest_from {
            Some(first) => Packet::Digest(self.digest(first, known)),
            None => Packet::Adverts(self.adverts(own, known, now)?),
        };
        self.in_flight += 1;
        Some(packet)
    }

    fn digest(&mut self, first: NodeId, known: &BTreeMap<NodeId, Known>) -> Digest {
        let mut rest = known.range(first..);
        let seen = |(node, known): (&NodeId, &Known)| Seen { node: *node, edition: known.advert.edition };
        let seen = rest.by_ref().take(SEEN_MAX).map(seen).collect();
        self.digest_from = rest.next().map(|(node, _)| *node);
        let last = self.digest_from.map_or(NodeId(u64::MAX), |next| NodeId(next.0.saturating_sub(1) & !0xffff_ffff));
        Digest { first, last, seen }
    }

    /// As many adverts as go into one packet, this node's own first; `None` when none is owed.
    fn adverts(&mut self, own: NodeId, known: &BTreeMap<NodeId, Known>, now: Moment) -> Option<Vec<Carried>> {
        let mut adverts = Vec::new();
        let mut bytes = 0;
        while let Some(node) = self.next_owed(own) {
            // What aged out meanwhile is owed no more.
            if let Some(known) = known.get(&node) {
                bytes += known.advert.bytes_max() + AGE_BYTES_MAX;
                if adverts.len() == ADVERTS_MAX || (bytes > BATCH_BYTES_MAX && !adverts.is_empty()) {
                    break;
                }
                adverts.push(Carried { age_ms: known.age_ms(now), advert: known.advert.clone() });
            }
            self.owed.remove(&node);
            if node != own {
                self.turn = NodeId(node.0.wrapping_add(1));
            }
        }
        (!adverts.is_empty()).then_some(adverts)
    }

    fn next_owed(&self, own: NodeId) -> Option<NodeId> {
        let own = self.owed.get(&own);
        own.or_else(|| self.owed.range(self.turn..).next()).or_else(|| self.owed.first()).copied()
    }
}
