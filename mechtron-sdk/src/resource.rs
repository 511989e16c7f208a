//! What `Cx::select` answers and watches tell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A resource of the mesh, as far as a mechtron sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Its address.
    pub point: String,
    /// What it is.
    pub kind: String,
    /// Its properties, as JSON has them: each an object with its `value`.
    #[serde(default)]
    pub properties: BTreeMap<String, serde_json::Value>,
    /// The commit that changed it last.
    #[serde(default, rename = "modified")]
    pub revision: u64,
    /// Everything else that the host says of it.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Resource {
    /// One without properties, for tests: `Resource::new("shop:orders:7", "Order").with("total", 120)`.
    pub fn new(point: impl Into<String>, kind: impl Into<String>) -> Self {
        let (properties, more) = (BTreeMap::new(), BTreeMap::new());
        Self { point: point.into(), kind: kind.into(), properties, revision: 0, more }
    }

    /// The same with a property.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.properties.insert(key.into(), serde_json::json!({ "value": value.into() }));
        self
    }

    /// The value of a property.
    pub fn value(&self, key: &str) -> Option<&serde_json::Value> {
        self.properties.get(key)?.get("value")
    }

    /// The value of a property as a number, also when it is one written as text, as commands write it for a kind without
    /// schema.
    pub fn number(&self, key: &str) -> Option<f64> {
        let value = self.value(key)?;
        value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|number| number.is_finite())
    }
}
