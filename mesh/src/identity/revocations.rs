//! Who was thrown out.

use std::collections::BTreeMap;

use starlane_core::{Generation, NodeName};

use super::name::Unreadable;
use crate::Peer;

/// Who was thrown out: of each node, up to which of its lives. A node that is let in again comes with a later one.
///
/// Its size is bounded by whoever revokes: one entry for each name that is revoked now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revocations(BTreeMap<NodeName, Generation>);

impl Revocations {
    /// Throws a node out, up to one of its lives: the latest that was certified, or a later one.
    pub fn revoke(&mut self, name: NodeName, up_to: Generation) {
        let known = self.0.entry(name).or_default();
        *known = up_to.max(*known);
    }

    /// Whether a member was thrown out.
    pub fn hold(&self, peer: &Peer) -> bool {
        self.0.get(&peer.name).is_some_and(|up_to| peer.generation <= *up_to)
    }

    /// Of each node that was thrown out, up to which of its lives.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, Generation)> {
        self.0.iter().map(|(name, up_to)| (name, *up_to))
    }

    /// A line for each: `NAME GENERATION`.
    pub(super) fn print(&self) -> String {
        self.iter().map(|(name, up_to)| format!("{name} {up_to}\n")).collect()
    }

    pub(super) fn read(text: &str) -> Result<Self, Unreadable> {
        let mut read = Self::default();
        for line in text.lines() {
            let (name, up_to) = line.split_once(' ').ok_or(Unreadable)?;
            let name = name.parse().map_err(|_| Unreadable)?;
            read.revoke(name, Generation(up_to.parse().map_err(|_| Unreadable)?));
        }
        Ok(read)
    }
}

impl FromIterator<(NodeName, Generation)> for Revocations {
    fn from_iter<I: IntoIterator<Item = (NodeName, Generation)>>(all: I) -> Self {
        let mut revocations = Self::default();
        for (name, up_to) in all {
            revocations.revoke(name, up_to);
        }
        revocations
    }
}

#[cfg(test)]
mod tests {
    use starlane_core::Role;

    use super::*;

    fn peer(name: &str, generation: u64) -> Peer {
        Peer { name: name.parse().unwrap(), generation: Generation(generation), role: Role::Leaf }
    }

    #[test]
    fn a_node_is_thrown_out_up_to_one_of_its_lives() {
        let mut revocations = Revocations::default();
        revocations.revoke("edge".parse().unwrap(), Generation(7));
        revocations.revoke("edge".parse().unwrap(), Generation(3));
        let held = [0, 7, 8].map(|generation| revocations.hold(&peer("edge", generation)));
        assert_eq!(held, [true, true, false], "what was revoked once stays so");
        assert!(!revocations.hold(&peer("cloud", 1)));
        assert_eq!(Revocations::read(&revocations.print()).unwrap(), revocations);
        for wrong in ["edge", "Edge 7", "edge 7 8", "edge x", " 7"] {
            assert!(Revocations::read(wrong).is_err(), "{wrong}");
        }
    }
}
