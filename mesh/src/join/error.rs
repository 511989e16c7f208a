//! Why a node did not join, or did not stay.

use std::net::SocketAddr;
use std::time::Duration;

use starlane_core::{NodeName, Role};

use super::Refusal;
use crate::identity::{self, Final, Refused};

/// Why a node did not become a member, or did not get its next certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The other end is not certified by the authority that the token pins.
    #[error(
        "the node at {address} belongs to another mesh: nothing was sent; check the address, or ask for a token of its mesh"
    )]
    OtherMesh {
        /// Who was asked.
        address: SocketAddr,
    },
    /// The other end is certified by the right authority, but its certificate is not right.
    #[error(
        "the node at {address} is not trusted ({why}): nothing was sent; check the clocks of both machines"
    )]
    NotTrusted {
        /// Who was asked.
        address: SocketAddr,
        /// What is not right.
        why: Refused,
    },
    /// There is no such host.
    #[error(
        "`{name}` has no address: check how it is written, as `host:port`, and that its name is known here"
    )]
    NoAddress {
        /// What was to be dialled.
        name: String,
    },
    /// Nobody answers.
    #[error("nobody answers at {address}: check the address, and that UDP gets through to it")]
    Unreachable {
        /// Who was asked.
        address: SocketAddr,
    },
    /// Somebody answers who lets nobody join.
    #[error(
        "at {address} nobody lets nodes join: check the address, and that both run the same version of starlane"
    )]
    NoJoining {
        /// Who was asked.
        address: SocketAddr,
    },
    /// The connection broke after the request was sent.
    #[error(
        "the connection to {address} broke before the answer came: a token may be used up; make another with `starlane token`"
    )]
    Lost {
        /// Who was asked.
        address: SocketAddr,
    },
    /// There is no such token.
    #[error(
        "the token is not known: it was used already, or has expired; make another with `starlane token`"
    )]
    TokenUnknown,
    /// The token's time is over.
    #[error("the token has expired; make another with `starlane token`")]
    TokenExpired,
    /// The token is for another role.
    #[error("the token is for a {token}; leave `--role` out, or make another with `starlane token --role`")]
    WrongRole {
        /// The token's.
        token: Role,
    },
    /// The token is for another name.
    #[error("the token is for a node called `{token}`; join with `--name {token}`, or make another token")]
    WrongName {
        /// The token's.
        token: NodeName,
    },
    /// The name is another node's.
    #[error("the name `{name}` is another node's: choose another with `--name`; the token may still be used")]
    NameTaken {
        /// The name.
        name: NodeName,
    },
    /// The name's hash is another node's.
    #[error(
        "the name `{name}` cannot stand beside `{by}`, whose hash is the same: choose another with `--name`"
    )]
    HashTaken {
        /// The name.
        name: NodeName,
        /// Whose it is.
        by: NodeName,
    },
    /// The node was thrown out.
    #[error(
        "this node was revoked; to let it in again, join with an empty data folder and a new token from `starlane token`"
    )]
    Revoked,
    /// The node's certificate is not renewed.
    #[error(
        "this node's certificate is not renewed: it ended more than 30 days ago, or the node was removed; join with an empty data folder and a new token from `starlane token`"
    )]
    CertificateRefused,
    /// Too many ask at once.
    #[error("too many ask at {address}; try again in {} s", retry_after.as_secs().max(1))]
    Busy {
        /// Who was asked.
        address: SocketAddr,
        /// When to try again.
        retry_after: Duration,
    },
    /// The other end cannot decide now.
    #[error("the node at {address} cannot reach the registry now; try again when it can")]
    OutOfReach {
        /// Who was asked.
        address: SocketAddr,
    },
    /// The other end does not understand.
    #[error("the node at {address} does not understand: check that both run the same version of starlane")]
    NotUnderstood {
        /// Who was asked.
        address: SocketAddr,
    },
    /// The answer is not what was asked for.
    #[error("the answer of the node at {address} is not right ({why}): nothing was changed")]
    WrongAnswer {
        /// Who was asked.
        address: SocketAddr,
        /// What is not right.
        why: Refused,
    },
    /// This node fails by itself.
    #[error(transparent)]
    Here(#[from] identity::Error),
}

impl JoinError {
    /// What a refusal means to who asked under a name.
    pub(super) fn of_refusal(refusal: Refusal, address: SocketAddr, name: &NodeName) -> Self {
        let name = name.clone();
        match refusal {
            Refusal::Malformed => JoinError::NotUnderstood { address },
            Refusal::TokenUnknown => JoinError::TokenUnknown,
            Refusal::TokenExpired => JoinError::TokenExpired,
            Refusal::WrongRole { token } => JoinError::WrongRole { token },
            Refusal::WrongName { token } => JoinError::WrongName { token },
            Refusal::NameTaken => JoinError::NameTaken { name },
            Refusal::HashTaken { by } => JoinError::HashTaken { name, by },
            Refusal::Revoked => JoinError::Revoked,
            Refusal::CertificateRefused => JoinError::CertificateRefused,
            Refusal::Busy { retry_after_ms } => {
                JoinError::Busy { address, retry_after: Duration::from_millis(retry_after_ms.into()) }
            }
            Refusal::OutOfReach => JoinError::OutOfReach { address },
        }
    }
}

impl Final for JoinError {
    /// Whether only a person can help: with a new token, or another name.
    fn is_final(&self) -> bool {
        match self {
            JoinError::TokenUnknown
            | JoinError::TokenExpired
            | JoinError::WrongRole { .. }
            | JoinError::WrongName { .. }
            | JoinError::NameTaken { .. }
            | JoinError::HashTaken { .. }
            | JoinError::Revoked
            | JoinError::CertificateRefused => true,
            JoinError::OtherMesh { .. }
            | JoinError::NotTrusted { .. }
            | JoinError::NoAddress { .. }
            | JoinError::Unreachable { .. }
            | JoinError::NoJoining { .. }
            | JoinError::Lost { .. }
            | JoinError::Busy { .. }
            | JoinError::OutOfReach { .. }
            | JoinError::NotUnderstood { .. }
            | JoinError::WrongAnswer { .. } => false,
            JoinError::Here(error) => error.is_final(),
        }
    }
}
