//! What the mesh keeps of tokens.

use std::collections::BTreeMap;
use std::future::Future;

use serde::{Deserialize, Serialize};
use starlane_core::{Key, NodeName, Role};

use super::{Token, TokenId};
use crate::identity::{Fingerprint, UnixSeconds};

/// What the mesh keeps of a token. Nobody can make the token from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The secret's fingerprint.
    pub secret: Fingerprint,
    /// From when on it lets nobody join.
    pub expires: UnixSeconds,
    /// As what its node is enrolled.
    pub role: Role,
    /// The labels that its node gets, whatever it says of itself.
    #[serde(default)]
    pub labels: BTreeMap<Key, String>,
    /// The only name that its node may have; any when `None`.
    #[serde(default)]
    pub name: Option<NodeName>,
}

impl TokenRecord {
    /// What is kept of a token that can be used for so many seconds from now on.
    pub fn new(token: &Token, role: Role, now: UnixSeconds, ttl_seconds: u64) -> Self {
        let secret = token.secret().fingerprint();
        Self { secret, expires: now.plus(ttl_seconds), role, labels: BTreeMap::new(), name: None }
    }

    /// With labels that its node gets.
    pub fn labels(mut self, labels: BTreeMap<Key, String>) -> Self {
        self.labels = labels;
        self
    }

    /// For a node of this name only.
    pub fn only_for(mut self, name: NodeName) -> Self {
        self.name = Some(name);
        self
    }
}

/// A record, and what names this state of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The record.
    pub record: TokenRecord,
    /// What [`Tokens::take`] expects: the revision of the record.
    pub revision: u64,
}

/// Where tokens are kept.
pub trait Tokens: Send + Sync + 'static {
    /// The token of a name, as it is now: not from a view that may be old.
    ///
    /// # Errors
    /// When that cannot be told now.
    fn find(&self, id: TokenId) -> impl Future<Output = Result<Option<Found>, OutOfReach>> + Send;

    /// Deletes a token that is still as it was found. Of all who try, one is told `true`, for ever: it is gone for good
    /// before that one is told.
    ///
    /// # Errors
    /// When it is not known whether it was deleted. Nobody is told `true` for it afterwards if it was.
    fn take(&self, id: TokenId, revision: u64) -> impl Future<Output = Result<bool, OutOfReach>> + Send;
}

/// What decides is out of reach now; trying again later may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("out of reach")]
pub struct OutOfReach;
