//! What the mesh keeps of tokens.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;

use parking_lot::Mutex;
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
    fn find(&self, id: TokenId) -> impl Future<Output = Result<Option<Found>, TokensError>> + Send;

    /// Deletes a token that is still as it was found. Of all who try, one is told `true`, for ever: it is gone for good
    /// before that one is told.
    ///
    /// # Errors
    /// When it is not known whether it was deleted. Nobody is told `true` for it afterwards if it was.
    fn take(&self, id: TokenId, revision: u64) -> impl Future<Output = Result<bool, TokensError>> + Send;
}

/// The tokens are out of reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokensError(pub String);

impl fmt::Display for TokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the tokens are out of reach: {}", self.0)
    }
}

impl std::error::Error for TokensError {}

/// Tokens in memory, for tests.
#[derive(Debug, Default)]
pub struct MemoryTokens(Mutex<BTreeMap<TokenId, Found>>);

impl MemoryTokens {
    /// Keeps a token.
    pub fn keep(&self, id: TokenId, record: TokenRecord) {
        let mut all = self.0.lock();
        let revision = all.len() as u64 + 1;
        all.insert(id, Found { record, revision });
    }
}

impl Tokens for MemoryTokens {
    async fn find(&self, id: TokenId) -> Result<Option<Found>, TokensError> {
        Ok(self.0.lock().get(&id).cloned())
    }

    async fn take(&self, id: TokenId, revision: u64) -> Result<bool, TokensError> {
        let mut all = self.0.lock();
        let is_same = all.get(&id).is_some_and(|found| found.revision == revision);
        Ok(is_same && all.remove(&id).is_some())
    }
}
