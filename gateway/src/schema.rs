//! The schemas of core types for the OpenAPI document. They describe and are never made.

#![expect(dead_code, reason = "only the derived schemas are used")]

use std::collections::BTreeMap;

use utoipa::ToSchema;

/// The address of a resource.
#[derive(ToSchema)]
#[schema(example = "shop:orders:o-17", min_length = 1, max_length = 4096)]
pub(crate) struct Point(String);

/// The name of a node: the last segment of `mesh:nodes:NAME`.
#[derive(ToSchema)]
#[schema(example = "edge-1", pattern = "^[a-z][a-z0-9-]{0,62}$")]
pub(crate) struct NodeName(String);

/// What a node does for others.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Role {
    /// It can be dialled, and carries others' traffic.
    Relay,
    /// It only dials out, and carries nobody's traffic but its own.
    Leaf,
    /// It is a relay, and serves the registry beside the first node of the mesh.
    Registry,
}

/// What a resource is.
#[derive(ToSchema)]
#[schema(example = "Mechtron")]
pub(crate) struct Kind(String);

/// The value of a property: any JSON.
#[derive(ToSchema)]
#[schema(example = json!("blue"))]
pub(crate) struct Value(serde_json::Value);

/// A value and whether it is locked.
#[derive(ToSchema)]
pub(crate) struct Property {
    /// What it is set to.
    value: Value,
    /// Whether it can never change again.
    #[schema(required = false)]
    locked: bool,
}

/// The phase of a resource and why it is in it.
#[derive(ToSchema)]
pub(crate) struct Status {
    /// Where it is in its life.
    phase: Phase,
    /// Why; absent when `Ready`.
    #[schema(required = false)]
    reason: String,
}

/// Where a resource is in its life.
#[derive(ToSchema)]
pub(crate) enum Phase {
    Unknown,
    Pending,
    Init,
    Ready,
    Paused,
    Panic,
    Fatal,
    Done,
}

/// A resource as it was at the revision `modified`.
#[derive(ToSchema)]
pub(crate) struct Resource {
    /// Where it lives.
    point: Point,
    /// What it is.
    kind: Kind,
    /// Its named values.
    properties: BTreeMap<String, Property>,
    /// Where it is in its life.
    status: Status,
    /// The revision that made it.
    created: u64,
    /// The revision that changed it last.
    modified: u64,
    /// How many times it was written; 1 when new.
    version: u64,
}

/// One thing wrong inside a JSON document.
#[derive(ToSchema)]
pub(crate) struct PointerError {
    /// Where (RFC 6901).
    pointer: String,
    /// What.
    detail: String,
}

/// A stretch of a text, in bytes.
#[derive(ToSchema)]
pub(crate) struct Span {
    /// The first byte.
    start: usize,
    /// The first byte after it.
    end: usize,
}
