//! What neighbours say to each other about the mesh.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::advert::{Advert, Edition};
use crate::NodeId;

/// Adverts one packet may carry.
pub const ADVERTS_MAX: usize = 1_024;
/// Nodes one digest may list; a longer one comes in pages.
pub const SEEN_MAX: usize = 1_024;
/// Bytes of the longest packet on the wire: one advert with everything at its bound, or several that are shorter.
pub const PACKET_BYTES_MAX: usize = 80 * 1_024;
/// Adverts are put together into one packet up to this size.
pub(super) const BATCH_BYTES_MAX: usize = 64 * 1_024;
/// Bytes of an advert's age on the wire.
pub(super) const AGE_BYTES_MAX: usize = 5;

/// What neighbours say to each other about the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packet {
    /// What the sender knows; whoever knows more answers with adverts.
    Digest(Digest),
    /// What the receiver lacks, as far as the sender knows; at most [`ADVERTS_MAX`].
    Adverts(Vec<Carried>),
}

/// Which editions the sender knows of the nodes in a range of ids. Of a node in the range that is not listed it
/// knows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The first id of the range.
    pub first: NodeId,
    /// The last id of the range.
    pub last: NodeId,
    /// By rising id; at most [`SEEN_MAX`].
    pub seen: Vec<Seen>,
}

/// That a node is known, and how well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which node.
    pub node: NodeId,
    /// The newest known of its adverts.
    pub edition: Edition,
}

/// An advert on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// How long ago its node made it, in milliseconds, so that nodes that pass it on cannot keep it alive.
    pub age_ms: u32,
    /// The advert, the same on its whole way.
    pub advert: Arc<Advert>,
}

/// Which part of a packet no node of this mesh would have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// More than [`ADVERTS_MAX`].
    #[error("a packet carries too many adverts")]
    Adverts,
    /// More than [`SEEN_MAX`], out of order, or outside its range.
    #[error("a digest is too long, or not in the order of its range")]
    Digest,
    /// More or longer than a node may have.
    #[error("labels are too many or too long")]
    Labels,
    /// More than a node may have, out of order, to the node itself, or with an impossible cost.
    #[error("links are too many, not in order, or impossible")]
    Links,
    /// Longer than any extension.
    #[error("the extension is too long")]
    More,
    /// Longer than any chain.
    #[error("the certificates are too long")]
    Chain,
    /// Longer than any signature.
    #[error("the signature is too long")]
    Signature,
}

impl Packet {
    /// Refuses what no node of this mesh would have sent. Signatures are not looked at.
    ///
    /// # Errors
    /// Which part is beyond its bounds, or out of order.
    pub fn validate(&self) -> Result<(), Malformed> {
        match self {
            Packet::Digest(digest) => digest.validate(),
            Packet::Adverts(adverts) if adverts.len() > ADVERTS_MAX => Err(Malformed::Adverts),
            Packet::Adverts(adverts) => adverts.iter().try_for_each(|carried| carried.advert.validate()),
        }
    }
}

impl Digest {
    fn validate(&self) -> Result<(), Malformed> {
        let rising = self.seen.is_sorted_by(|one, next| one.node < next.node);
        let inside = self.seen.iter().all(|seen| (self.first..=self.last).contains(&seen.node));
        if self.seen.len() <= SEEN_MAX && rising && inside { Ok(()) } else { Err(Malformed::Digest) }
    }
}
