//! Selecting by what is measured when it is asked for: how many messages wait for a mechtron.

use std::str::FromStr;
use std::sync::Arc;

use resource_registry::{Registry, Selection};
use starlane_core::{Code, Key, Problem, Property, Resource, Selector, Value};

use super::reach::Reach;
use super::router::has_code;

/// The messages that wait for a mechtron, those included that it handles, as `describe` tells it.
const QUEUE: &str = "queue";

/// A page of a selector's answer, what it asks of `queue` included. A resource that has a property of that name means it;
/// of a mechtron whose node does not answer nothing is known, so that no comparison holds.
pub(super) async fn select(
    registry: &Registry,
    reach: &Reach,
    selector: &Selector,
    limit: usize,
    cursor: Option<&str>,
) -> Result<Selection, Problem> {
    if !selector.fields().any(|field| field == QUEUE) {
        return Ok(registry.select(selector, limit, cursor)?);
    }
    let key = Key::from_str(QUEUE).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let waiting = reach.waiting().await;
    let keep = |resource: &Arc<Resource>| {
        let is_measured = has_code(resource) && resource.property(QUEUE).is_none();
        match waiting.of(resource, &reach.homes).filter(|_| is_measured) {
            Some(count) => selector.matches(&measured(resource, &key, count)),
            None => selector.matches(resource),
        }
    };
    Ok(registry.select_where(&selector.without(QUEUE), limit, cursor, keep)?)
}

/// A mechtron as it is now.
fn measured(resource: &Resource, key: &Key, count: u64) -> Resource {
    let mut measured = resource.clone();
    let value = Value::Number(count.into());
    measured.properties.insert(key.clone(), Property { value, locked: false });
    measured
}
