//! What the registry is asked to change, and what became of it.

use std::sync::Arc;

use starlane_core::{
    CreateMode, DeleteTarget, Kind, Point, PropertyChange, Resource, Revision, Selector, Status, Target,
};

use crate::store::LeaseId;

/// The most resources of one atomic batch.
pub const BATCH_MAX: usize = 32;

/// The most resources that the mesh makes in one atomic batch.
pub const RESERVED_BATCH_MAX: usize = 64;

/// What `create` is to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// What happens when it is there already.
    pub mode: CreateMode,
    /// Where.
    pub target: Target,
    /// As what.
    pub kind: Kind,
    /// With which properties.
    pub changes: Vec<PropertyChange>,
    /// In which state.
    pub status: Status,
}

impl Create {
    /// A new resource, ready, without properties.
    pub fn new(point: Point, kind: Kind) -> Self {
        Self {
            mode: CreateMode::New,
            target: Target::Point(point),
            kind,
            changes: Vec::new(),
            status: Status::ready(),
        }
    }
}

/// What became of a `create`.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    /// The resource as it is now.
    pub resource: Arc<Resource>,
    /// Whether it is new.
    pub outcome: Outcome,
}

/// Whether a resource was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    New,
    /// It was there, and is as it was.
    Existed,
    /// It was there, and was changed.
    Replaced,
}

/// What `delete` is to take away.
#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    /// Which resources.
    pub target: DeleteTarget,
    /// Whether all below them goes too.
    pub recursive: bool,
    /// What must have changed the resource last; only for a point.
    pub expect: Option<Revision>,
}

impl Delete {
    /// One resource.
    pub fn point(point: Point, recursive: bool) -> Self {
        Self { target: DeleteTarget::Point(point), recursive, expect: None }
    }

    /// Whatever matches.
    pub fn selector(selector: Selector, recursive: bool) -> Self {
        Self { target: DeleteTarget::Selector(selector), recursive, expect: None }
    }
}

/// A resource that the mesh makes for itself, of whatever kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Reserved {
    /// Where.
    pub point: Point,
    /// As what.
    pub kind: Kind,
    /// With which properties, besides those that it has.
    pub changes: Vec<PropertyChange>,
    /// In which state.
    pub status: Status,
    /// What it hangs on.
    pub lease: Option<LeaseId>,
}

impl Reserved {
    /// A resource that hangs on nothing.
    pub fn new(point: Point, kind: Kind, changes: Vec<PropertyChange>, status: Status) -> Self {
        Self { point, kind, changes, status, lease: None }
    }
}

/// What must hold for what the mesh writes by itself, while another node may try the same or something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provided {
    /// Nothing is there yet.
    Absent(Point),
    /// What is there was made by this commit, and not deleted since.
    MadeBy(Point, Revision),
    /// What is there, and is brought to another state, was changed last by this commit.
    At(Point, Revision),
}

/// One part of an atomic batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Makes a resource.
    Create(Create),
    /// Changes properties.
    Set {
        /// Of which resource.
        point: Point,
        /// How.
        changes: Vec<PropertyChange>,
        /// What must have changed it last before the batch.
        expect: Option<Revision>,
    },
    /// Changes the status.
    SetStatus {
        /// Of which resource.
        point: Point,
        /// To what.
        status: Status,
    },
    /// Takes a resource without children away.
    Delete {
        /// Which.
        point: Point,
        /// What must have changed it last before the batch.
        expect: Option<Revision>,
    },
}

/// What became of one part of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// It was made, or was there.
    Created(Created),
    /// It was changed.
    Changed(Arc<Resource>),
    /// It is gone.
    Deleted(Point, Kind),
}
