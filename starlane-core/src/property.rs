//! Properties: the named values of a resource.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Point;

/// The name of a property: dotted lowercase, `wasm.src`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no property key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a property key: dotted lowercase words, as `wasm.src`, of at most 255 bytes")]
pub struct KeyError(pub String);

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_lowercase())
                && word
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
        };
        if text.len() <= 255 && text.split('.').all(word) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(KeyError(text.to_owned()))
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The value of a property. A value typed in a command is text unless the kind's schema says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// Text; a point is text that reads as one.
    Text(Arc<str>),
    /// Any other JSON: null, an array or an object.
    Json(Arc<serde_json::Value>),
}

impl Value {
    /// A text value.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Value::Text(text.into())
    }

    /// The text, when it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The point that the text is, when it is one.
    pub fn as_point(&self) -> Option<Point> {
        self.as_text()?.parse().ok()
    }

    /// The number that the value is or reads as.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Number(number) => number.as_f64(),
            Value::Text(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
            Value::Bool(_) | Value::Json(_) => None,
        }
    }

    /// The value as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::Text(text) => serde_json::Value::String(text.to_string()),
            Value::Json(json) => (**json).clone(),
        }
    }

    /// How two values compare in a filter: as numbers when one is a number and the other is or reads as one, else
    /// as text when both are text, else only for equality.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        if matches!(self, Value::Number(_)) || matches!(other, Value::Number(_)) {
            return self.as_number()?.partial_cmp(&other.as_number()?);
        }
        match (self, other) {
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Text(b)) | (Value::Text(b), Value::Bool(a)) => {
                (b.as_ref() == if *a { "true" } else { "false" }).then_some(Ordering::Equal)
            }
            (a, b) => (a == b).then_some(Ordering::Equal),
        }
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => Value::Number(number),
            serde_json::Value::String(text) => Value::Text(text.into()),
            other => Value::Json(Arc::new(other)),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::text(text)
    }
}

impl From<&Point> for Value {
    fn from(point: &Point) -> Self {
        Value::text(point.as_str())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => value.fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::Text(text) => f.write_str(text),
            Value::Json(json) => json.fmt(f),
        }
    }
}

/// A value and whether it is locked: a locked property can never change again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Property {
    /// What it is set to.
    pub value: Value,
    /// Whether it can never change again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
}

/// The properties of a resource, by key.
pub type Properties = BTreeMap<Key, Property>;

/// One change to the properties of a resource, as a command asks for it.
#[derive(Debug, Clone, PartialEq)]
pub enum PropertyChange {
    /// `+key=value`, or `+@key=value` to lock it too.
    Set {
        /// Which property.
        key: Key,
        /// Its new value.
        value: Value,
        /// Whether it is locked from now on.
        lock: bool,
    },
    /// `!key`
    Unset(Key),
}

impl PropertyChange {
    /// The property that changes.
    pub fn key(&self) -> &Key {
        match self {
            PropertyChange::Set { key, .. } | PropertyChange::Unset(key) => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_reads_as_a_number_compares_as_one_with_a_number() {
        let number = |n: i64| Value::Number(n.into());
        assert_eq!(Value::from("9").compare(&number(10)), Some(Ordering::Less));
        assert_eq!(Value::from("9").compare(&Value::from("10")), Some(Ordering::Greater));
        assert_eq!(Value::from("nine").compare(&number(10)), None);
        assert_eq!(Value::from("true").compare(&Value::Bool(true)), Some(Ordering::Equal));
    }
}
