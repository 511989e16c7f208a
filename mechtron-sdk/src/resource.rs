//! What `Cx::select` answers.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A resource of the mesh, as far as a mechtron sees it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Resource {
    /// Its address.
    pub point: String,
    /// What it is.
    pub kind: String,
    /// Its properties, as JSON has them.
    #[serde(default)]
    pub properties: BTreeMap<String, serde_json::Value>,
    /// Everything else that the host says of it.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}
