//! What a watch tells: a list, then changes, each with its revision.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Resource, Revision};

/// What happened to a resource, relative to the answer of the watched selector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// It matches now and did not before.
    Entered(Arc<Resource>),
    /// It matched before and after, and changed.
    Updated(Arc<Resource>),
    /// It matched before and does not now; carries the last value that did.
    Left(Arc<Resource>),
}

impl Change {
    /// The resource as far as the selector saw it.
    pub fn resource(&self) -> &Arc<Resource> {
        match self {
            Change::Entered(resource) | Change::Updated(resource) | Change::Left(resource) => resource,
        }
    }
}

/// One step of a watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A page of what matches at `revision`; `last` marks the end of the list.
    Listed {
        /// The page.
        resources: Vec<Arc<Resource>>,
        /// The same for all pages.
        revision: Revision,
        /// Whether changes follow.
        last: bool,
    },
    /// All that one commit changed in the selector's answer, never split and never merged with another.
    Changed {
        /// The commit.
        revision: Revision,
        /// In the order of the commit.
        changes: Vec<Change>,
    },
    /// How many match, at the beginning and after each commit that made it more or fewer; only for a [`Query::Count`].
    ///
    /// [`Query::Count`]: crate::Query::Count
    Counted {
        /// The commit, or where the watch began.
        revision: Revision,
        /// So many.
        count: u64,
    },
    /// The first in their order, at the beginning and after each commit that changed one of them or their order; only for a
    /// [`Query::First`].
    ///
    /// [`Query::First`]: crate::Query::First
    Ranked {
        /// The commit, or where the watch began.
        revision: Revision,
        /// All of them, in their order.
        resources: Vec<Arc<Resource>>,
    },
    /// Nothing changed up to here; resuming from here misses nothing.
    Bookmark {
        /// Up to where.
        revision: Revision,
    },
    /// The history after the resume token is no longer kept: list again.
    Gone {
        /// The oldest revision that can be resumed from.
        oldest: Revision,
    },
}

/// Where a watch goes on: a revision, and a hash of the selector so that it is not mixed up with another's.
/// Opaque to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeToken {
    /// Everything up to here was seen.
    pub revision: Revision,
    /// A hash of the selector's canonical text.
    pub selector: u32,
}

impl ResumeToken {
    /// The token for a selector, by its canonical text.
    pub fn new(revision: Revision, selector: &str) -> Self {
        // FNV-1a: stable across builds and machines, and only a guard against mistakes.
        let hash = selector
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self { revision, selector: hash }
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w1.{}.{:08x}", self.revision, self.selector)
    }
}

/// A text that is no resume token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a resume token of a watch")]
pub struct ResumeTokenError(String);

impl FromStr for ResumeToken {
    type Err = ResumeTokenError;

    fn from_str(text: &str) -> Result<Self, ResumeTokenError> {
        let read = || {
            let (revision, selector) = text.strip_prefix("w1.")?.split_once('.')?;
            let selector = u32::from_str_radix(selector, 16).ok()?;
            Some(Self { revision: Revision(revision.parse().ok()?), selector })
        };
        read().ok_or_else(|| ResumeTokenError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_as_it_prints() {
        let token = ResumeToken::new(Revision(17), "shop:**");
        assert_eq!(token.to_string().parse(), Ok(token));
        assert_ne!(token.selector, ResumeToken::new(Revision(17), "shop:*").selector);
        assert!("w2.1.0".parse::<ResumeToken>().is_err());
    }
}
