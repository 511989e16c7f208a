//! What every mesh has from its first start: the space `mesh` and what stands in it.

use std::collections::BTreeMap;

use resource_registry::{Registry, Reserved};
use starlane_core::{Agent, Base, Kind, Point, Problem, PropertyChange, Status, Value};

/// The point of a name in the mesh's own space, as `mesh:users:admin`.
pub(super) fn mesh_point(branch: &str, name: &str) -> Result<Point, Problem> {
    let text = format!("mesh:{branch}:{name}");
    text.parse().map_err(|error: starlane_core::PointError| {
        Problem::new(
            starlane_core::Code::PointSyntax,
            format!("`{name}` cannot be a name in `mesh:{branch}`: {error}"),
        )
        .help("a name is lowercase: a-z, 0-9 and `-`")
    })
}

/// Makes what is missing of the mesh's own space, and this node's resource in it.
pub(super) async fn ensure(
    registry: &Registry,
    node: &Point,
    labels: &BTreeMap<String, String>,
) -> Result<(), Problem> {
    let by = Agent(node.clone());
    let branches = [
        ("mesh", Base::Space),
        ("mesh:nodes", Base::Base),
        ("mesh:users", Base::Base),
        ("mesh:kinds", Base::Base),
    ];
    let users = [("mesh:users:admin", Base::User), ("mesh:users:anonymous", Base::User)];
    for (text, base) in branches.into_iter().chain(users) {
        let Ok(point) = text.parse() else { continue };
        registry.put_reserved(&by, Reserved::new(point, Kind::of(base), Vec::new(), Status::ready())).await?;
    }
    let labels = labels.iter().map(|(key, value)| {
        let key = key.parse().map_err(|error: starlane_core::KeyError| {
            Problem::new(starlane_core::Code::PropertyKey, format!("a label is a property: {error}"))
        })?;
        Ok(PropertyChange::Set { key, value: Value::text(value.as_str()), lock: false })
    });
    let changes = labels.collect::<Result<Vec<_>, Problem>>()?;
    registry
        .put_reserved(&by, Reserved::new(node.clone(), Kind::of(Base::Node), changes, Status::ready()))
        .await?;
    Ok(())
}
