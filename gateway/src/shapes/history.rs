//! What was, what happened, and what is different between two moments.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use starlane_core::{Point, Resource, Revision, Timestamp};
use utoipa::ToSchema;

use crate::schema;

/// What happened to a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Which.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// The newest first.
    pub entries: Vec<HistoryEntry>,
    /// The oldest revision whose resources are still known; what happened before it is not.
    #[schema(value_type = u64)]
    pub oldest: Revision,
}

/// A commit, as far as it concerns one resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryEntry {
    /// Which commit.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// When, in milliseconds since 1970 by the clock of the node that asked for it.
    #[schema(value_type = u64)]
    pub time: Timestamp,
    /// On whose authority.
    #[schema(value_type = schema::Point)]
    pub agent: Point,
    /// What it did.
    #[serde(flatten)]
    pub difference: Difference,
}

/// A page of what is different between two moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// In the order of their points.
    pub differences: Vec<Difference>,
    /// The earlier moment.
    #[schema(value_type = u64)]
    pub from: Revision,
    /// The later one.
    #[schema(value_type = u64)]
    pub to: Revision,
    /// The cursor of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What is different of one resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Which.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// What became of it.
    pub change: DifferenceKind,
    /// The keys of the properties that differ, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<String>,
    /// What it was; absent when it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Resource>)]
    pub before: Option<Arc<Resource>>,
    /// What it became; absent when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Resource>)]
    pub after: Option<Arc<Resource>>,
}

/// What became of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DifferenceKind {
    /// It was not there, or was not meant.
    Added,
    /// It was there before and after.
    Changed,
    /// It is gone, or no longer meant.
    Removed,
}

impl Difference {
    /// What is different between a resource and what it became.
    pub fn new(point: Point, before: Option<Arc<Resource>>, after: Option<Arc<Resource>>) -> Self {
        let change = match (&before, &after) {
            (None, _) => DifferenceKind::Added,
            (Some(_), Some(_)) => DifferenceKind::Changed,
            (Some(_), None) => DifferenceKind::Removed,
        };
        let mut properties = Vec::new();
        if let (Some(before), Some(after)) = (&before, &after) {
            let mut keys: Vec<_> = before.properties.keys().chain(after.properties.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            keys.retain(|key| before.properties.get(*key) != after.properties.get(*key));
            properties = keys.into_iter().map(ToString::to_string).collect();
        }
        Self { point, change, properties, before, after }
    }
}
