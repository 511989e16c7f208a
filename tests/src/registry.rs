//! Nodes of a mesh whose registry several nodes serve.

use crate::mesh::free_port;
use crate::{Api, Node, Serve};

/// A node with the label `at` that says its name.
pub fn serve(name: &str) -> Serve {
    Serve { labels: vec![format!("at={name}")], ..Serve::named(name) }
}

/// A node that joins at another with a token for a role.
///
/// # Panics
/// When it is given no token, or does not start.
pub fn joins(at: &Node, name: &str, role: &str, registry: Option<&str>) -> Node {
    let token = at.run(["token", "--role", role]).ok().trim().to_owned();
    let address = at.served().listen.expect("it accepts links");
    Node::serve(Serve {
        listen: (role != "leaf").then(free_port),
        join: Some((address, token)),
        registry: registry.map(str::to_owned),
        ..serve(name)
    })
}

/// Who leads, as a node knows.
pub fn leader(api: &Api) -> Option<String> {
    let (200, leader) = api.get("/v1/resources/mesh:leader")? else { return None };
    leader["properties"]["node"]["value"].as_str().map(str::to_owned)
}
