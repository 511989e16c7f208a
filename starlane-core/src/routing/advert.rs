//! What a node says of itself to all others.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::packet::Malformed;
use crate::{Generation, NodeId, NodeName, Role};

/// Labels one node may have.
pub const LABELS_MAX: usize = 64;
/// Bytes of a label's name; it has at least one.
pub const LABEL_NAME_BYTES_MAX: usize = 63;
/// Bytes of a label's value.
pub const LABEL_VALUE_BYTES_MAX: usize = 256;
/// Bytes of all names and values of one node's labels together.
pub const LABELS_BYTES_MAX: usize = 4_096;
/// Links one node may have.
pub const LINKS_MAX: usize = 4_096;
/// Bytes of the certificates that come with an advert.
pub const CHAIN_BYTES_MAX: usize = 4_096;
/// Bytes of a signature.
pub const SIGNATURE_BYTES_MAX: usize = 256;
/// Bytes of what later versions may add to an advert.
pub const MORE_BYTES_MAX: usize = 1_024;

/// What a link costs: its round trip in microseconds, between [`Cost::MIN`] and [`Cost::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cost(u32);

impl Cost {
    /// 100 µs: what a hop costs at least, so that a path over more nodes is never free.
    pub const MIN: Cost = Cost(100);
    /// 60 s: what a link costs at most.
    pub const MAX: Cost = Cost(60_000_000);
    /// Differences below this are noise on any network.
    const NOISE_US: u32 = 500;

    /// The cost of a link with this round trip.
    pub fn from_rtt(rtt: Duration) -> Self {
        let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        Cost(micros).clamp(Self::MIN, Self::MAX)
    }

    /// Microseconds.
    pub fn micros(self) -> u32 {
        self.0
    }

    /// Whether all nodes should hear that this is the cost now: it differs by a quarter, and by more than noise.
    pub(super) fn is_news_after(self, advertised: Cost) -> bool {
        let difference = self.0.abs_diff(advertised.0);
        difference >= Self::NOISE_US && difference >= advertised.0 / 4
    }

    pub(super) fn is_in_bounds(self) -> bool {
        (Self::MIN..=Self::MAX).contains(&self)
    }
}

/// Which of a node's adverts is meant. The next one is greater, over restarts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Edition {
    /// In which of the node's lives it was made.
    pub generation: Generation,
    /// Which one of that life.
    pub sequence: u64,
}

/// One end of a link, as the node at the other end says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Link {
    /// The neighbour.
    pub to: NodeId,
    /// What the way there costs.
    pub cost: Cost,
}

/// Who a node is, for one of its lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What it is called.
    pub name: NodeName,
    /// Which of its lives this is.
    pub generation: Generation,
    /// Whether it carries others' traffic.
    pub role: Role,
}

/// What a node says of itself beside its links. It may change at any time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Own {
    /// What placement selects by.
    pub labels: BTreeMap<String, String>,
    /// Whether it serves the registry.
    pub registry: bool,
    /// Whether it is about to leave: paths avoid it where there is another.
    pub draining: bool,
}

impl Own {
    /// Refuses labels beyond the bounds.
    ///
    /// # Errors
    /// [`Malformed::Labels`]
    pub fn validate(&self) -> Result<(), Malformed> {
        labels_in_bounds(&self.labels)
    }
}

/// What a node says of itself to all others: one edition, signed by the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Who says it.
    pub name: NodeName,
    /// Which one of its adverts this is.
    pub edition: Edition,
    /// Whether it carries others' traffic.
    pub role: Role,
    /// Whether it serves the registry.
    pub registry: bool,
    /// Whether it is about to leave.
    pub draining: bool,
    /// What placement selects by; at most [`LABELS_MAX`] and [`LABELS_BYTES_MAX`].
    pub labels: BTreeMap<String, String>,
    /// Its live links, by rising id; at most [`LINKS_MAX`].
    pub links: Vec<Link>,
    /// What later versions add: signed and passed on, not understood. At most [`MORE_BYTES_MAX`].
    pub more: Bytes,
    /// Its certificates, so that nodes without a link to it can verify; opaque here, at most [`CHAIN_BYTES_MAX`].
    pub chain: Bytes,
    /// Over [`Advert::signed_bytes`]; opaque here, at most [`SIGNATURE_BYTES_MAX`].
    pub signature: Bytes,
}

/// What signs a node's own adverts.
pub trait Sign: Send + Sync {
    /// The node's certificates, as [`Verify`] of other nodes reads them; at most [`CHAIN_BYTES_MAX`].
    fn chain(&self) -> Bytes;
    /// The signature over some bytes; at most [`SIGNATURE_BYTES_MAX`].
    fn sign(&self, bytes: &[u8]) -> Bytes;
}

/// What verifies others' adverts.
pub trait Verify: Send + Sync {
    /// Whether the advert is its node's own: the chain leads to an authority of the mesh, is not revoked, names this node,
    /// generation and role, and its key made the signature over [`Advert::signed_bytes`]. Called once for each
    /// edition that is new here.
    fn verify(&self, advert: &Advert) -> bool;
}

impl Advert {
    /// The node in tables.
    pub fn id(&self) -> NodeId {
        self.name.id()
    }

    /// What the link to a neighbour costs; `None` when this node has no link to it.
    pub fn cost_to(&self, node: NodeId) -> Option<Cost> {
        let at = self.links.binary_search_by_key(&node, |link| link.to).ok()?;
        self.links.get(at).map(|link| link.cost)
    }

    /// All that the signature covers, in one form: everything but the signature, each part after its length.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes_max());
        let part = |bytes: &mut Vec<u8>, part: &[u8]| {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        };
        part(&mut bytes, b"starlane advert 1");
        part(&mut bytes, self.name.as_str().as_bytes());
        bytes.extend_from_slice(&self.edition.generation.0.to_le_bytes());
        bytes.extend_from_slice(&self.edition.sequence.to_le_bytes());
        let role = match self.role {
            Role::Leaf => 0,
            Role::Relay => 1,
            Role::Registry => 2,
        };
        bytes.extend_from_slice(&[role, self.registry.into(), self.draining.into()]);
        bytes.extend_from_slice(&(self.labels.len() as u64).to_le_bytes());
        for (name, value) in &self.labels {
            part(&mut bytes, name.as_bytes());
            part(&mut bytes, value.as_bytes());
        }
        bytes.extend_from_slice(&(self.links.len() as u64).to_le_bytes());
        for link in &self.links {
            bytes.extend_from_slice(&link.to.0.to_le_bytes());
            bytes.extend_from_slice(&link.cost.micros().to_le_bytes());
        }
        part(&mut bytes, &self.more);
        part(&mut bytes, &self.chain);
        bytes
    }

    /// Refuses what no node of this mesh would have sent.
    ///
    /// # Errors
    /// Which part is beyond its bounds, or out of order.
    pub fn validate(&self) -> Result<(), Malformed> {
        labels_in_bounds(&self.labels)?;
        let own = self.id();
        let rising = self.links.is_sorted_by(|one, next| one.to < next.to);
        let right = |link: &Link| link.cost.is_in_bounds() && link.to != own;
        if self.links.len() > LINKS_MAX || !rising || !self.links.iter().all(right) {
            return Err(Malformed::Links);
        }
        if self.more.len() > MORE_BYTES_MAX {
            return Err(Malformed::More);
        }
        if self.chain.len() > CHAIN_BYTES_MAX {
            return Err(Malformed::Chain);
        }
        if self.signature.len() > SIGNATURE_BYTES_MAX {
            return Err(Malformed::Signature);
        }
        Ok(())
    }

    /// No fewer bytes than the advert takes on the wire.
    pub(super) fn bytes_max(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
        let opaque = self.more.len() + self.chain.len() + self.signature.len();
        128 + self.name.as_str().len() + labels + self.links.len() * LINK_BYTES_MAX + opaque
    }

    /// Whether this advert tells nothing that another edition of it did not.
    pub(super) fn says_the_same_as(&self, other: &Advert) -> bool {
        self.edition.generation == other.edition.generation
            && (self.role, self.registry, self.draining) == (other.role, other.registry, other.draining)
            && self.labels == other.labels
            && self.links == other.links
    }
}

/// Bytes of a link on the wire, where numbers are written with seven bits a byte.
const LINK_BYTES_MAX: usize = 10 + 5;

fn labels_in_bounds(labels: &BTreeMap<String, String>) -> Result<(), Malformed> {
    let right = |(name, value): (&String, &String)| {
        (1..=LABEL_NAME_BYTES_MAX).contains(&name.len()) && value.len() <= LABEL_VALUE_BYTES_MAX
    };
    let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    let fits = labels.len() <= LABELS_MAX && bytes <= LABELS_BYTES_MAX && labels.iter().all(right);
    if fits { Ok(()) } else { Err(Malformed::Labels) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_a_round_trip_within_bounds() {
        assert_eq!(Cost::from_rtt(Duration::ZERO), Cost::MIN);
        assert_eq!(Cost::from_rtt(Duration::from_millis(20)).micros(), 20_000);
        assert_eq!(Cost::from_rtt(Duration::MAX), Cost::MAX);
    }

    #[test]
    fn jitter_is_no_news() {
        let ms = |ms| Cost::from_rtt(Duration::from_millis(ms));
        let us = |us| Cost::from_rtt(Duration::from_micros(us));
        for (now, advertised, news) in [
            (ms(20), ms(20), false),
            (ms(24), ms(20), false),
            (ms(25), ms(20), true),
            (ms(16), ms(20), false),
            (ms(15), ms(20), true),
            (us(500), us(100), false),
            (us(700), us(100), true),
        ] {
            assert_eq!(now.is_news_after(advertised), news, "{now:?} after {advertised:?}");
        }
    }
}
