//! Signals that could not be delivered.

use serde::{Deserialize, Serialize};
use starlane_core::{Code, NodeName, Point, Timestamp};
use utoipa::ToSchema;

use crate::schema;

/// The dead letters of a space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterList {
    /// How many there were since the nodes that tell of them started.
    pub count: u64,
    /// The last of them, the latest first.
    pub letters: Vec<DeadLetter>,
    /// The nodes that did not tell theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::NodeName>)]
    pub missing: Vec<NodeName>,
}

/// A signal that was taken and could not be delivered. What it said is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// When it was given up, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub time: Timestamp,
    /// The node that gave it up.
    #[schema(value_type = schema::NodeName)]
    pub node: NodeName,
    /// Its id.
    pub id: String,
    /// Who sent it.
    #[schema(value_type = schema::Point)]
    pub from: Point,
    /// To whom.
    #[schema(value_type = schema::Point)]
    pub to: Point,
    /// What it asked.
    #[schema(example = "Ext<AddItem>")]
    pub method: String,
    /// Of what.
    pub path: String,
    /// How many bytes it gave along.
    pub bytes: u64,
    /// The stable name of the reason.
    #[schema(value_type = String, example = "E-BUSY")]
    pub code: Code,
    /// The reason in words.
    pub reason: String,
}
