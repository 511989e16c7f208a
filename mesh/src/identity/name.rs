//! What a certificate calls its node.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use starlane_core::Generation;

use crate::Peer;

/// The scheme of the names in certificates.
const SCHEME: &str = "starlane://";

/// Which mesh is meant: 128 random bits, drawn when its authority was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 16]);

/// SHA-256 of something that is to be recognised again; 64 digits of lowercase hex as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// That of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// The one URI in a member's certificate:
/// `starlane://CLUSTER/node/NAME/GENERATION/ROLE?trust=FINGERPRINT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberName {
    /// Of which mesh.
    pub(crate) cluster: ClusterId,
    /// Who it is.
    pub(crate) peer: Peer,
    /// Which authorities its authority trusted when it signed. So nobody who passes a certificate on can slip in another
    /// authority beside it.
    pub(crate) trust: Fingerprint,
}

/// The one URI in an authority's certificate: `starlane://CLUSTER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AuthorityName(pub(crate) ClusterId);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, peer: Peer { name, generation, role }, trust } = self;
        write!(f, "{SCHEME}{cluster}/node/{name}/{generation}/{role}?trust={trust}")
    }
}

impl fmt::Display for AuthorityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

/// A text that is not what it is read as; which, the caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not written as it would be printed")]
pub struct Unreadable;

/// The bytes of a text in lowercase hex, of which there is one for all bytes.
fn bytes<const N: usize>(text: &str) -> Result<[u8; N], Unreadable> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| Unreadable)?;
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) { Err(Unreadable) } else { Ok(bytes) }
}

impl FromStr for ClusterId {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        bytes(text).map(Self)
    }
}

impl FromStr for Fingerprint {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        bytes(text).map(Self)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = Unreadable;

    fn try_from(text: String) -> Result<Self, Unreadable> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl FromStr for MemberName {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let (path, trust) = text.split_once("?trust=").ok_or(Unreadable)?;
        let parts: Vec<_> = path.strip_prefix(SCHEME).ok_or(Unreadable)?.split('/').collect();
        let [cluster, "node", name, generation, role] = parts[..] else {
            return Err(Unreadable);
        };
        let read = Self {
            cluster: cluster.parse()?,
            peer: Peer {
                name: name.parse().map_err(|_| Unreadable)?,
                generation: Generation(generation.parse().map_err(|_| Unreadable)?),
                role: role.parse().map_err(|_| Unreadable)?,
            },
            trust: trust.parse()?,
        };
        // One text for one name: no `+1`, no `01`.
        if read.to_string() == text { Ok(read) } else { Err(Unreadable) }
    }
}

impl FromStr for AuthorityName {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        text.strip_prefix(SCHEME).ok_or(Unreadable)?.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "starlane://000102030405060708090a0b0c0d0e0f/node/edge-1/7/leaf?trust=\
                        abababababababababababababababababababababababababababababababab";

    #[test]
    fn one_text_for_one_name() {
        let name: MemberName = NAME.parse().unwrap();
        assert_eq!(name.to_string(), NAME);
        assert_eq!(name.peer.generation, Generation(7));
        for (right, wrong) in [
            ("starlane://", "spiffe://"),
            ("starlane://", "STARLANE://"),
            ("0a0b", "0A0B"),
            ("0a0b", "0a"),
            ("/node/", "/user/"),
            ("edge-1", "Edge"),
            ("edge-1", ""),
            ("/7/", "/+7/"),
            ("/7/", "/07/"),
            ("/7/", "/18446744073709551616/"),
            ("/7/", "/"),
            ("/leaf", "/root"),
            ("/leaf", "/leaf/"),
            ("?trust=", "#trust="),
            ("?trust=ab", "?trust="),
            ("?trust=ab", "?trust=zz"),
            ("?trust=", "?trust=ab&trust="),
        ] {
            let text = NAME.replacen(right, wrong, 1);
            assert_ne!(text, NAME);
            assert_eq!(text.parse::<MemberName>(), Err(Unreadable), "{text}");
        }
        assert_eq!(NAME.parse::<AuthorityName>(), Err(Unreadable));
    }
}
