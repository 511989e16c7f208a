//! How a File or an Artifact names its content: the properties `digest`, `size`, `content-type` and `written`.

use std::collections::HashSet;

use starlane_core::{Base, Blob, Digest, Point, PropertyChange, Resource, Selector, Timestamp, Value};

use crate::Error;
use crate::content_type;
use crate::registry::Registry;

/// How many resources are looked at together.
const PAGE: usize = 10_000;

/// The properties of a File that tell its content, which change when it is written and not otherwise.
pub const CONTENT_KEYS: [&str; 4] = ["digest", "size", "content-type", "written"];

/// The properties that describe content; locked when it never changes.
pub(crate) fn properties(point: &Point, blob: &Blob, lock: bool) -> impl Iterator<Item = PropertyChange> {
    let content_type = content_type::of_name(point.last());
    let described = [
        ("digest", Value::text(blob.digest.to_string())),
        ("size", number(blob.bytes)),
        ("content-type", Value::text(content_type)),
    ];
    changes(described, lock)
}

/// Sets properties that can never change again.
pub(crate) fn locked<const N: usize>(
    properties: [(&'static str, Value); N],
) -> impl Iterator<Item = PropertyChange> {
    changes(properties, true)
}

/// Sets properties.
pub(crate) fn changes<const N: usize>(
    properties: [(&'static str, Value); N],
    lock: bool,
) -> impl Iterator<Item = PropertyChange> {
    // Our own keys are keys.
    properties
        .into_iter()
        .filter_map(move |(key, value)| Some(PropertyChange::Set { key: key.parse().ok()?, value, lock }))
}

pub(crate) fn number(number: u64) -> Value {
    Value::Number(number.into())
}

pub(crate) fn written(time: Timestamp) -> Value {
    number(time.0)
}

/// The content that a resource names; `None` when it names none, as a directory.
pub fn blob_of(resource: &Resource) -> Option<Blob> {
    let digest = resource.property("digest")?.as_text()?.parse().ok()?;
    Some(Blob { digest, bytes: whole_number(resource, "size")? })
}

/// When the content was written, as far as the resource tells.
pub(crate) fn time_of(resource: &Resource) -> Option<Timestamp> {
    whole_number(resource, "written").map(Timestamp)
}

fn whole_number(resource: &Resource, key: &str) -> Option<u64> {
    match resource.property(key)? {
        Value::Number(number) => number.as_u64(),
        _ => None,
    }
}

/// Tells of any content whether a File or an Artifact names it now: what [`crate::blob::BlobStore::sweep`] keeps.
///
/// # Errors
/// When the registry cannot be read to its end: then nothing may be swept.
pub fn named_blobs(registry: &Registry) -> Result<impl Fn(&Digest) -> bool + use<>, Error> {
    let mut named = HashSet::new();
    for base in [Base::File, Base::Artifact] {
        let selector: Selector =
            format!("**<{base}>").parse().map_err(|problem| Error::Rule(Box::new(problem)))?;
        let mut after = None;
        loop {
            let page = registry.select(&selector, PAGE, after.as_deref())?;
            named.extend(page.resources.iter().filter_map(|resource| Some(blob_of(resource)?.digest)));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    Ok(move |digest: &Digest| named.contains(digest))
}
