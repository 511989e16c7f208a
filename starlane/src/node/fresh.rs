//! Reads on whichever node that hold what was acknowledged before on any other.

use std::sync::Arc;

use resource_registry::Registry;
use starlane_core::{Code, Point, Problem, Resource};

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

/// What is known here; when that is nothing, it is looked for again once all is known that was acknowledged before.
pub(super) async fn find_by<T>(registry: &Registry, look: impl Fn() -> Option<T>) -> Option<T> {
    if let Some(known) = look() {
        return Some(known);
    }
    // When the registry is out of reach, what is known here has to do.
    registry.fresh().await.ok()?;
    look()
}
