//! What a body must be to go on: `-[ Json ]->`.

use serde::de::IgnoredAny;

use crate::Body;

/// The forms of body that a rule can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Json,
    Text,
    Bin,
    Empty,
}

impl Check {
    pub(super) const ALL: [Check; 4] = [Check::Json, Check::Text, Check::Bin, Check::Empty];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Check::Json => "Json",
            Check::Text => "Text",
            Check::Bin => "Bin",
            Check::Empty => "Empty",
        }
    }

    /// Whether only the bytes of a body tell whether it holds.
    pub(super) fn reads(self) -> bool {
        matches!(self, Check::Json | Check::Text)
    }

    /// Checks a body, which is at hand where the check reads it.
    ///
    /// # Errors
    /// What it is not, in words.
    pub(super) fn holds(self, body: &Body) -> Result<(), String> {
        match (self, body) {
            (Check::Bin, _) => Ok(()),
            (Check::Empty, body) if body.is_empty() => Ok(()),
            (Check::Empty, body) => Err(format!("has {} bytes and should have none", body.len())),
            (Check::Json, Body::Bytes(bytes)) => match serde_json::from_slice::<IgnoredAny>(bytes) {
                Ok(_) => Ok(()),
                Err(_) if bytes.is_empty() => Err("is empty and should be JSON".to_owned()),
                Err(error) => Err(format!("is not JSON: {error}")),
            },
            (Check::Text, Body::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("is not text: byte {} is not UTF-8", error.valid_up_to())),
            },
            (Check::Json | Check::Text, Body::Blob(_)) => Err("was not read".to_owned()),
        }
    }
}
