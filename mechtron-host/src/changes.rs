//! What a watch of a mechtron tells, from whatever keeps it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use mechtron_abi::ChangeKind;

/// How far a watch was told. Only whoever tells reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(
    /// In whatever form.
    pub Arc<str>,
);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A step of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How far the watch is told with it.
    pub place: Place,
    /// What changed; `None` when nothing did that the watch tells.
    pub change: Option<Change>,
}

/// What happened to a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative to what the selector selects.
    pub what: ChangeKind,
    /// The commit that it came with.
    pub revision: u64,
    /// The resource as JSON; empty for [`ChangeKind::Again`].
    pub resource: Bytes,
}

/// A watch that is kept for a mechtron.
pub trait Changes: Send + 'static {
    /// The next step; waits for it as long as it takes. The next is asked for when the mechtron's state knows of this one.
    fn next(&mut self) -> BoxFuture<'_, Step>;
}
