//! The bytes of a resource and of what is known about a commit, as the store keeps them.
//!
//! The first byte is a version. Point and revisions are not in the value: they are the key's and the record's.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use starlane_core::{
    Agent, Key, Kind, Phase, Point, Properties, Property, Resource, Status, Timestamp, Value,
};

use crate::store::Record;

const VERSION: u8 = 1;

/// Bytes that are no resource: damaged, or written by a newer version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

#[derive(Serialize, Deserialize)]
struct Packed<'a> {
    kind: &'a str,
    phase: u8,
    reason: &'a str,
    #[serde(borrow)]
    properties: Vec<(&'a str, bool, PackedValue<'a>)>,
}

/// A value as postcard can read it back; [`Value`] itself is read by looking at the text, which postcard has none of.
#[derive(Serialize, Deserialize)]
enum PackedValue<'a> {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
    Json(std::borrow::Cow<'a, str>),
}

pub(crate) fn pack(kind: &Kind, properties: &Properties, status: &Status) -> Bytes {
    let kind = kind.to_string();
    let packed = Packed {
        kind: &kind,
        phase: Phase::ALL.iter().position(|phase| *phase == status.phase).unwrap_or_default() as u8,
        reason: &status.reason,
        properties: properties
            .iter()
            .map(|(key, property)| (key.as_str(), property.locked, pack_value(&property.value)))
            .collect(),
    };
    #[expect(clippy::expect_used, reason = "strings, numbers and lists of known length always serialise")]
    postcard::to_extend(&packed, vec![VERSION]).expect("a resource serialises").into()
}

fn pack_value(value: &Value) -> PackedValue<'_> {
    match value {
        Value::Bool(value) => PackedValue::Bool(*value),
        Value::Text(text) => PackedValue::Text(text),
        Value::Json(json) => PackedValue::Json(json.to_string().into()),
        Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), ..) => PackedValue::Unsigned(number),
            (_, Some(number), _) => PackedValue::Signed(number),
            (.., Some(number)) => PackedValue::Float(number),
            _ => PackedValue::Json(number.to_string().into()),
        },
    }
}

/// Reads resources; what is the same in many of them is kept once.
#[derive(Default)]
pub(crate) struct Unpacker {
    kinds: BTreeMap<String, Kind>,
    keys: HashSet<Key>,
    texts: HashSet<Arc<str>>,
}

/// The most different kinds, keys and short texts that are kept to be shared.
const SHARED_MAX: usize = 4_096;
/// The longest text that is kept to be shared.
const SHARED_BYTES_MAX: usize = 16;

impl Unpacker {
    pub(crate) fn unpack(&mut self, point: Point, record: &Record) -> Result<Resource, Unreadable> {
        let (VERSION, bytes) = record.value.split_first().map(|(v, rest)| (*v, rest)).ok_or(Unreadable)?
        else {
            return Err(Unreadable);
        };
        let packed: Packed<'_> = postcard::from_bytes(bytes).map_err(|_| Unreadable)?;
        let mut properties = Properties::new();
        for (key, locked, value) in packed.properties {
            properties.insert(self.key(key)?, Property { value: self.value(value)?, locked });
        }
        Ok(Resource {
            point,
            kind: self.kind(packed.kind)?,
            properties,
            status: Status {
                phase: *Phase::ALL.get(usize::from(packed.phase)).ok_or(Unreadable)?,
                reason: packed.reason.to_owned(),
            },
            created: record.created,
            modified: record.modified,
            version: record.version,
        })
    }

    fn kind(&mut self, text: &str) -> Result<Kind, Unreadable> {
        if let Some(kind) = self.kinds.get(text) {
            return Ok(kind.clone());
        }
        let kind: Kind = text.parse().map_err(|_| Unreadable)?;
        if self.kinds.len() < SHARED_MAX {
            self.kinds.insert(text.to_owned(), kind.clone());
        }
        Ok(kind)
    }

    fn key(&mut self, text: &str) -> Result<Key, Unreadable> {
        if let Some(key) = self.keys.get(text) {
            return Ok(key.clone());
        }
        let key: Key = text.parse().map_err(|_| Unreadable)?;
        if self.keys.len() < SHARED_MAX {
            self.keys.insert(key.clone());
        }
        Ok(key)
    }

    fn value(&mut self, value: PackedValue<'_>) -> Result<Value, Unreadable> {
        Ok(match value {
            PackedValue::Bool(value) => Value::Bool(value),
            PackedValue::Unsigned(number) => Value::Number(number.into()),
            PackedValue::Signed(number) => Value::Number(number.into()),
            PackedValue::Float(number) => {
                Value::Number(serde_json::Number::from_f64(number).ok_or(Unreadable)?)
            }
            PackedValue::Text(text) => Value::Text(self.text(text)),
            PackedValue::Json(json) => serde_json::from_str::<serde_json::Value>(&json)
                .map(|json| Value::Json(Arc::new(json)))
                .map_err(|_| Unreadable)?,
        })
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if text.len() > SHARED_BYTES_MAX {
            return text.into();
        }
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        if self.texts.len() < SHARED_MAX {
            self.texts.insert(text.clone());
        }
        text
    }
}

/// What the log keeps of each commit besides its changes.
pub(crate) fn pack_meta(time: Timestamp, agent: &Agent) -> Bytes {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&time.0.to_le_bytes());
    bytes.extend_from_slice(agent.0.as_str().as_bytes());
    bytes.into()
}

pub(crate) fn unpack_meta(bytes: &[u8]) -> Result<(Timestamp, Agent), Unreadable> {
    let rest = bytes.strip_prefix(&[VERSION]).ok_or(Unreadable)?;
    let (time, agent) = rest.split_first_chunk::<8>().ok_or(Unreadable)?;
    let agent = std::str::from_utf8(agent).ok().and_then(|agent| agent.parse().ok()).ok_or(Unreadable)?;
    Ok((Timestamp(u64::from_le_bytes(*time)), Agent(agent)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use starlane_core::Revision;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<u64>().prop_map(|n| Value::Number(n.into())),
            any::<i64>().prop_map(|n| Value::Number(n.into())),
            any::<f64>().prop_filter_map("finite", serde_json::Number::from_f64).prop_map(Value::Number),
            ".{0,40}".prop_map(Value::text),
            prop::collection::vec(any::<i32>(), 0..4)
                .prop_map(|list| serde_json::json!({ "list": list }).into()),
            Just(Value::from(serde_json::Value::Null)),
        ]
    }

    proptest! {
        #[test]
        fn a_resource_reads_back_as_it_was(
            properties in prop::collection::btree_map("[a-z]{1,5}", (values(), any::<bool>()), 0..6),
            phase in prop::sample::select(&Phase::ALL[..]),
            reason in ".{0,20}",
        ) {
            let properties: Properties = properties
                .into_iter()
                .map(|(key, (value, locked))| (key.parse().unwrap(), Property { value, locked }))
                .collect();
            let kind: Kind = "Database<Relational>".parse().unwrap();
            let status = Status { phase, reason };
            let record = Record {
                value: pack(&kind, &properties, &status),
                created: Revision(3),
                modified: Revision(9),
                version: 4,
                lease: None,
            };
            let point: Point = "shop:db".parse().unwrap();
            let resource = Unpacker::default().unpack(point.clone(), &record).unwrap();
            prop_assert_eq!(resource, Resource {
                point, kind, properties, status, created: Revision(3), modified: Revision(9), version: 4,
            });
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let value: Bytes = [&[VERSION][..], &bytes].concat().into();
            let record =
                Record { value, created: Revision(1), modified: Revision(1), version: 1, lease: None };
            let _ = Unpacker::default().unpack(Point::root(), &record);
            let _ = unpack_meta(&record.value);
        }
    }

    #[test]
    fn meta_reads_back_as_it_was() {
        let agent = Agent("mesh:users:admin".parse().unwrap());
        assert_eq!(unpack_meta(&pack_meta(Timestamp(17), &agent)), Ok((Timestamp(17), agent)));
    }
}
