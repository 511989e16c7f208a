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

/// The resource at a point, if one is there. That none is, is said only of what is surely so: what is merely not known here may
/// be new.
///
/// # Errors
/// `E-UNREACHABLE` when it is not known here, and cannot be asked for.
pub(super) async fn find(registry: &Registry, point: &Point) -> Result<Option<Arc<Resource>>, Problem> {
    find_by(registry, || registry.get(point)).await
}

/// The resource at a point.
///
/// # Errors
/// `E-NOT-FOUND` when nothing is there, `E-UNREACHABLE` when that cannot be asked.
pub(super) async fn there(registry: &Registry, point: &Point) -> Result<Arc<Resource>, Problem> {
    find(registry, point).await?.ok_or_else(|| not_found(registry, point))
}

/// What is known here; when that is nothing, it is looked for again once all is known that was acknowledged before.
///
/// # Errors
/// `E-UNREACHABLE` when it is not known here, and the registry is out of reach.
pub(super) async fn find_by<T>(
    registry: &Registry,
    look: impl Fn() -> Option<T>,
) -> Result<Option<T>, Problem> {
    if let Some(known) = look() {
        return Ok(Some(known));
    }
    latest(registry).await?;
    Ok(look())
}
