//! What the store keeps, read as resources.

use std::sync::Arc;

use bytes::Bytes;
use starlane_core::{Base, Kind, Point, Resource, Revision, Scope, Status};

use crate::draft::{SEQUENCE, below};
use crate::hub::Step;
use crate::packed::Unpacker;
use crate::store::{self, Batch};

/// The steps of a commit that was read from the log.
pub(crate) fn steps_of(unpacker: &mut Unpacker, batch: &Batch) -> Result<Vec<Step>, store::Error> {
    let mut steps = Vec::with_capacity(batch.changes.len());
    for change in &batch.changes {
        if sequence_parent(&change.key)?.is_some() {
            continue;
        }
        let point = point_of(&change.key)?;
        let mut unpack = |record: &Option<store::Record>| match record {
            Some(record) => {
                let resource = unpacker.unpack(point.clone(), record).map_err(|_| unreadable(&point))?;
                Ok(Some(Arc::new(resource)))
            }
            None => Ok(None),
        };
        steps.push(Step {
            before: unpack(&change.before)?,
            after: unpack(&change.after)?,
            bytes: bytes_of(change),
        });
    }
    Ok(steps)
}

/// What stands above everything; it is not stored.
pub(super) fn root() -> Resource {
    Resource {
        point: Point::root(),
        kind: Kind::of(Base::Root),
        properties: Default::default(),
        status: Status::ready(),
        created: Revision(0),
        modified: Revision(0),
        version: 1,
    }
}

pub(super) fn bytes_of(change: &store::Change) -> usize {
    let record =
        |record: &Option<store::Record>| record.as_ref().map_or(0, |record| record.value.len() + 256);
    change.key.len() + record(&change.before) + record(&change.after)
}

pub(super) fn point_of(key: &[u8]) -> Result<Point, store::Error> {
    std::str::from_utf8(key)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| corrupt(format!("a key is not a point: {}", String::from_utf8_lossy(key))))
}

pub(super) fn sequence_parent(key: &[u8]) -> Result<Option<Point>, store::Error> {
    key.strip_prefix(&[SEQUENCE]).map(point_of).transpose()
}

pub(super) fn sequence_number(value: &[u8]) -> Result<u64, store::Error> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| corrupt("a counter is no number".into()))
}

pub(super) fn unreadable(point: &Point) -> store::Error {
    corrupt(format!("what is stored of `{point}` cannot be read"))
}

pub(super) fn corrupt(reason: String) -> store::Error {
    store::Error::Corrupt { file: "the registry".into(), reason: reason.into() }
}

/// What the keys of all that a scope holds begin with; other keys may begin so too.
pub(crate) fn prefix_of(scope: &Scope) -> Bytes {
    if scope.base.is_root() {
        return Bytes::new();
    }
    // What is below a point begins with its text, and so does the point itself.
    if scope.inclusive { scope.base.as_str().to_owned().into() } else { below(&scope.base) }
}
