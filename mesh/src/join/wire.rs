//! What is said when a node joins: one request, one answer; each a byte for the version and postcard.
//!
//! New variants and versions come at the end, so that a node one version older reads what it knows and says of the rest
//! that it cannot read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use starlane_core::{Generation, Key, NodeName, Role};

use crate::identity::{Fingerprint, fingerprint, requested};
use crate::token::{Secret, TokenId};

const VERSION: u8 = 1;

/// The most bytes of a request.
pub(crate) const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// The most bytes of an answer.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The most labels of one node.
pub(crate) const LABELS_MAX: usize = 64;
/// The most bytes of one label's value.
pub(crate) const LABEL_BYTES_MAX: usize = 255;

/// What a node asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// To become a member.
    Join(Join),
    /// To stay one.
    Renew(Renew),
    /// To be told the mesh's authority, so as to certify others too: answered on a connection of its own alone, to a member
    /// whose certificate says that it serves the registry.
    Authority,
}

/// To become a member.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub(crate) token: [u8; 8],
    pub(crate) secret: [u8; 32],
    /// The name that it wants.
    pub name: NodeName,
    /// The role that it wants; `None` takes the token's.
    pub role: Option<Role>,
    /// What it says of itself.
    pub labels: BTreeMap<Key, String>,
    /// The generation of this start.
    pub generation: Generation,
    /// The request to certify its key.
    pub(crate) request: Vec<u8>,
}

/// To stay a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// The certificate until now.
    pub(crate) certificate: Vec<u8>,
    /// The generation of this start.
    pub generation: Generation,
    /// The request to certify the same key.
    pub(crate) request: Vec<u8>,
}

/// What a node is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is a member.
    Member {
        /// Its certificate.
        certificate: Vec<u8>,
        /// The authorities of the mesh.
        trust: Vec<Vec<u8>>,
        /// Where to go from here.
        contacts: Vec<Contact>,
    },
    /// It is not.
    Refused(Refusal),
    /// It may know the authority.
    Authority(Handover),
}

/// The authority of a mesh on its way to another node that serves the registry: its private key is in it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover(pub(crate) String);

impl std::fmt::Debug for Handover {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handover")
    }
}

/// A node, and where it can be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Its name.
    pub name: NodeName,
    /// Its addresses, as they are typed: `host:port`.
    pub addresses: Vec<String>,
}

/// Why a node does not become a member, or does not stay one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The request cannot be read, breaks a limit, or asks for a key that it did not sign for.
    Malformed,
    /// There is no such token.
    TokenUnknown,
    /// The token's time is over.
    TokenExpired,
    /// The token is for another role.
    WrongRole {
        /// The token's.
        token: Role,
    },
    /// The token is for another name.
    WrongName {
        /// The token's.
        token: NodeName,
    },
    /// The name is another node's.
    NameTaken,
    /// The name's hash is another node's.
    HashTaken {
        /// Whose.
        by: NodeName,
    },
    /// The node was thrown out.
    Revoked,
    /// The certificate makes nobody a member, or it ended too long ago, or is for another key.
    CertificateRefused,
    /// Too many ask at once.
    Busy {
        /// When to try again, in milliseconds.
        retry_after_ms: u32,
    },
    /// Nobody can decide now.
    OutOfReach,
}

/// Bytes that are no request or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be read: it is of another version, or breaks a limit")]
pub struct Malformed;

impl Join {
    pub(crate) fn token(&self) -> TokenId {
        TokenId::from_bytes(self.token)
    }

    pub(crate) fn secret(&self) -> Secret {
        Secret::from_bytes(self.secret)
    }

    pub(crate) fn key(&self) -> Option<(rcgen::PublicKey, Fingerprint)> {
        key(&self.request)
    }
}

impl Renew {
    pub(crate) fn key(&self) -> Option<(rcgen::PublicKey, Fingerprint)> {
        key(&self.request)
    }
}

fn key(request: &[u8]) -> Option<(rcgen::PublicKey, Fingerprint)> {
    let key = requested(request)?;
    let fingerprint = fingerprint(&key);
    Some((key, fingerprint))
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the secret.
        f.debug_struct("Join").field("token", &self.token().to_string()).field("name", &self.name).finish()
    }
}

impl Request {
    /// The bytes.
    ///
    /// # Errors
    /// `Malformed` when they would be too many.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        encode(self, REQUEST_BYTES_MAX)
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// `Malformed`
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let request: Self = decode(bytes, REQUEST_BYTES_MAX)?;
        match &request {
            Request::Join(join) if !fit(&join.labels) => Err(Malformed),
            _ => Ok(request),
        }
    }
}

impl Answer {
    /// The bytes.
    ///
    /// # Errors
    /// `Malformed` when they would be too many.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        encode(self, ANSWER_BYTES_MAX)
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// `Malformed`
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode(bytes, ANSWER_BYTES_MAX)
    }
}

/// Whether a node may have these labels.
pub(crate) fn fit(labels: &BTreeMap<Key, String>) -> bool {
    labels.len() <= LABELS_MAX && labels.values().all(|value| value.len() <= LABEL_BYTES_MAX)
}

fn encode(what: &impl Serialize, bytes_max: usize) -> Result<Vec<u8>, Malformed> {
    let bytes = postcard::to_extend(what, vec![VERSION]).map_err(|_| Malformed)?;
    if bytes.len() > bytes_max { Err(Malformed) } else { Ok(bytes) }
}

fn decode<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, Malformed> {
    match bytes.split_first() {
        Some((&VERSION, rest)) if bytes.len() <= bytes_max => match postcard::take_from_bytes(rest) {
            Ok((read, [])) => Ok(read),
            _ => Err(Malformed),
        },
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> Request {
        Request::Join(Join {
            token: [1; 8],
            secret: [2; 32],
            name: "edge".parse().unwrap(),
            role: Some(Role::Leaf),
            labels: BTreeMap::from([("tier".parse().unwrap(), "edge".to_owned())]),
            generation: Generation(3),
            request: vec![4, 5],
        })
    }

    fn answers() -> Vec<Answer> {
        let name: NodeName = "cloud".parse().unwrap();
        let contact = Contact { name: name.clone(), addresses: vec!["cloud:4343".to_owned()] };
        let member =
            Answer::Member { certificate: vec![1], trust: vec![vec![2], vec![3]], contacts: vec![contact] };
        let refusals = [
            Refusal::Malformed,
            Refusal::TokenUnknown,
            Refusal::TokenExpired,
            Refusal::WrongRole { token: Role::Relay },
            Refusal::WrongName { token: name.clone() },
            Refusal::NameTaken,
            Refusal::HashTaken { by: name },
            Refusal::Revoked,
            Refusal::CertificateRefused,
            Refusal::Busy { retry_after_ms: 1_000 },
            Refusal::OutOfReach,
        ];
        [member].into_iter().chain(refusals.map(Answer::Refused)).collect()
    }

    /// These bytes are what nodes of version 1 say to each other: they change only with the version.
    #[test]
    fn the_bytes_of_version_1() {
        let golden = "01".to_owned()
            + "00"
            + &"01".repeat(8)
            + &"02".repeat(32)
            + "0465646765"
            + "0101"
            + "01"
            + "0474696572"
            + "0465646765"
            + "03"
            + "020405";
        assert_eq!(hex::encode(request().encode().unwrap()), golden);
        let renew = Renew { certificate: vec![1], generation: Generation(300), request: vec![2, 3] };
        assert_eq!(hex::encode(Request::Renew(renew).encode().unwrap()), "01010101ac02020203");
        assert_eq!(hex::encode(Request::Authority.encode().unwrap()), "0102");
        let handed = Answer::Authority(Handover("key".to_owned()));
        assert_eq!(hex::encode(handed.encode().unwrap()), "0102036b6579");
        assert!(!format!("{handed:?}").contains("key"));
        let golden = [
            "0100010102010201030105636c6f7564010a636c6f75643a34333433",
            "010100",
            "010101",
            "010102",
            "01010300",
            "01010405636c6f7564",
            "010105",
            "01010605636c6f7564",
            "010107",
            "010108",
            "010109e807",
            "01010a",
        ];
        let encoded: Vec<_> = answers().iter().map(|answer| hex::encode(answer.encode().unwrap())).collect();
        assert_eq!(encoded, golden);
        for (answer, bytes) in answers().into_iter().zip(golden) {
            assert_eq!(Answer::decode(&hex::decode(bytes).unwrap()), Ok(answer));
        }
    }

    /// What a newer node asks is answered as malformed, and what it answers is said not to be understood.
    #[test]
    fn what_is_not_known_yet_is_malformed() {
        for unknown in [&[VERSION, 3][..], &[VERSION, 3, 0, 0], &[VERSION, 200, 1]] {
            assert_eq!(Request::decode(unknown), Err(Malformed));
            assert_eq!(Answer::decode(unknown), Err(Malformed));
        }
        assert_eq!(Answer::decode(&[VERSION, 1, 11]), Err(Malformed), "another refusal");
    }

    #[test]
    fn what_is_said_is_read_again_and_limits_hold() {
        assert_eq!(Request::decode(&request().encode().unwrap()), Ok(request()));
        for answer in answers() {
            assert_eq!(Answer::decode(&answer.encode().unwrap()), Ok(answer));
        }
        let bytes = request().encode().unwrap();
        for at in 0..bytes.len() {
            assert_eq!(Request::decode(&bytes[..at]), Err(Malformed), "cut at {at}");
        }
        for version in [0, 2, 255] {
            assert_eq!(Request::decode(&[&[version], &bytes[1..]].concat()), Err(Malformed));
        }
        assert_eq!(Request::decode(&[&bytes[..], &[0]].concat()), Err(Malformed), "more than one request");
        let Request::Join(join) = request() else { panic!() };
        let many = (0..=LABELS_MAX).map(|at| (format!("l{at}").parse().unwrap(), String::new())).collect();
        let long = BTreeMap::from([("tier".parse().unwrap(), "x".repeat(LABEL_BYTES_MAX + 1))]);
        for labels in [many, long] {
            let bytes = Request::Join(Join { labels, ..join.clone() }).encode().unwrap();
            assert_eq!(Request::decode(&bytes), Err(Malformed));
        }
        let request = vec![0; REQUEST_BYTES_MAX];
        assert_eq!(Request::Join(Join { request, ..join }).encode(), Err(Malformed));
    }

    #[test]
    fn the_secret_is_not_printed() {
        let Request::Join(join) = request() else { panic!() };
        assert_eq!(format!("{join:?}"), r#"Join { token: "t0101010101010101", name: NodeName("edge") }"#);
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let versioned = [&[VERSION], &bytes[..]].concat();
            let _ = (Request::decode(&versioned), Answer::decode(&versioned), requested(&bytes));
        }
    }
}
