//! What every mesh has from its first start: the space `mesh` and what stands in it.

use resource_registry::{Registry, Reserved};
use starlane_core::{Agent, Base, Kind, Point, Problem, Status};

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

/// Makes what is missing of the mesh's own space, on the authority of its first node.
pub(super) async fn ensure(registry: &Registry, by: &Agent) -> Result<(), Problem> {
    let branches = [
        ("mesh", Base::Space),
        ("mesh:nodes", Base::Base),
        ("mesh:users", Base::Base),
        ("mesh:kinds", Base::Base),
        ("mesh:tokens", Base::Base),
        ("mesh:revoked", Base::Base),
    ];
    let users = [("mesh:users:admin", Base::User), ("mesh:users:anonymous", Base::User)];
    for (text, base) in branches.into_iter().chain(users) {
        let Ok(point) = text.parse() else { continue };
        registry.put_reserved(by, Reserved::new(point, Kind::of(base), Vec::new(), Status::ready())).await?;
    }
    Ok(())
}
