//! Messages: types that name themselves and describe themselves.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, INVALID_MESSAGE, Result};

/// A type that mechtrons send to each other. Derived: `#[derive(Message)]` writes the serialization (JSON, by
/// serde's rules), the name and the schema.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "write `#[derive(Message)]` on it"
)]
pub trait Message: Serialize + DeserializeOwned + 'static {
    /// What its method is called: `Ext<NAME>`.
    const NAME: &'static str;
    /// Its JSON Schema (2020-12); other messages in it are references to `#/$defs/NAME`.
    const SCHEMA: &'static str;
}

/// Reads a body. An empty one stands for a message without fields.
#[doc(hidden)]
pub fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    if body.is_empty() {
        return serde_json::from_str("null").or_else(|_| serde_json::from_str("{}")).map_err(invalid);
    }
    serde_json::from_slice(body).map_err(invalid)
}

fn invalid(error: serde_json::Error) -> Error {
    Error::status(400, INVALID_MESSAGE, error.to_string())
}
