//! Reads on whichever node that hold what was acknowledged before on any other.

use std::sync::Arc;

use resource_registry::Registry;
use starlane_core::{Code, Point, Problem, Resource};

use super::commands::not_found;

/// Waits until what is read here holds all that was acknowledged before.
///
/// # Errors
/// `E-UNREACHABLE` when the registry is out of reach.
pub(super) async fn latest(registry: &Registry) -> Result<(), Problem> {
    registry.fresh().await.map_err(|error| {
        let problem = Problem::from(error);
        match problem.code {
            Code::Unreachable => problem.help(
                "`get`, `select`, `describe` and `watch` show what this node knows with `--stale-ok` (in the API `?stale=ok`)",
            ),
            _ => problem,
        }
    })
}

/// The resource at a point; one that is not known here is asked for once, since it may be new.
pub(super) async fn find(registry: &Registry, point: &Point) -> Option<Arc<Resource>> {
    find_by(registry, || registry.get(point)).await
}

/// The resource at a point. That nothing is there is said only of what is surely so: what is merely not known here may be new.
///
/// # Errors
/// `E-NOT-FOUND` when nothing is there, `E-UNREACHABLE` when that cannot be asked.
pub(super) async fn there(registry: &Registry, point: &Point) -> Result<Arc<Resource>, Problem> {
    if let Some(known) = registry.get(point) {
        return Ok(known);
    }
    latest(registry).await?;
    registry.get(point).ok_or_else(|| not_found(registry, point))
}

/// What is known here; when that is nothing, it is looked for again once all is known that was acknowledged before.
pub(super) async fn find_by<T>(registry: &Registry, look: impl Fn() -> Option<T>) -> Option<T> {
    if let Some(known) = look() {
        return Some(known);
    }
    // When the registry is out of reach, what is known here has to do.
    registry.fresh().await.ok()?;
    look()
}
