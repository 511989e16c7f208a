//! Resources: what lives at a point.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Kind, Point, Properties, Value};

/// The number of a commit. Grows by at least one with each, and never repeats in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// The number of an assignment: who acts for a point under an older one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Wall time in milliseconds since 1970-01-01T00:00:00Z. For people; nothing is decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a resource is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing is known.
    Unknown,
    /// It waits for something.
    Pending,
    /// It is being set up.
    Init,
    /// It does its work.
    Ready,
    /// Somebody stopped it for now.
    Paused,
    /// It failed and may be tried again.
    Panic,
    /// It failed for good.
    Fatal,
    /// It has nothing left to do.
    Done,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 8] = [
        Phase::Unknown,
        Phase::Pending,
        Phase::Init,
        Phase::Ready,
        Phase::Paused,
        Phase::Panic,
        Phase::Fatal,
        Phase::Done,
    ];

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Unknown => "Unknown",
            Phase::Pending => "Pending",
            Phase::Init => "Init",
            Phase::Ready => "Ready",
            Phase::Paused => "Paused",
            Phase::Panic => "Panic",
            Phase::Fatal => "Fatal",
            Phase::Done => "Done",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The phase of a resource and, unless it is `Ready`, the reason in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where it is in its life.
    pub phase: Phase,
    /// Why; empty when `Ready`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Status {
    /// Ready, which needs no reason.
    pub const fn ready() -> Self {
        Self { phase: Phase::Ready, reason: String::new() }
    }

    /// Another phase and why.
    pub fn because(phase: Phase, reason: impl Into<String>) -> Self {
        Self { phase, reason: reason.into() }
    }
}

/// A resource as it was at the revision `modified`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Where it lives.
    pub point: Point,
    /// What it is.
    pub kind: Kind,
    /// Its named values.
    #[serde(default)]
    pub properties: Properties,
    /// Where it is in its life.
    pub status: Status,
    /// The revision that made it.
    pub created: Revision,
    /// The revision that changed it last.
    pub modified: Revision,
    /// How many times it was written; 1 when new.
    pub version: u64,
}

impl Resource {
    /// The value of a property, by its key.
    pub fn property(&self, key: &str) -> Option<&Value> {
        self.properties.get(key).map(|property| &property.value)
    }

    /// The point that a property names.
    pub fn point_property(&self, key: &str) -> Option<Point> {
        self.property(key)?.as_point()
    }
}

impl fmt::Display for Resource {
    /// `point<Kind>`, as `select` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<{}>", self.point, self.kind)
    }
}
