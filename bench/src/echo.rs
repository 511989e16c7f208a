//! The mechtron that answers with what it was asked: written by hand, and without state to keep.

use std::fs;

use tests::Node;

const ECHO: &str = include_str!("../../mechtron-host/tests/guests/echo.wat");
const CONFIG: &str = "Mechtron(version=1.0.0) { Wasm { +bin=${bundle}:/wasm/echo.wasm } }\n";

/// Where the mechtron of a node is.
pub(crate) fn point(node: &str) -> String {
    format!("bench:on-{node}")
}

/// Publishes the mechtron.
pub(crate) fn publish(node: &Node) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["wasm", "config"] {
        fs::create_dir(at(name)).expect("a folder can be made");
    }
    fs::write(at("wasm/echo.wasm"), wat::parse_str(ECHO).expect("it is Wasm"))
        .expect("a file can be written");
    fs::write(at("config/echo.mechtron"), CONFIG).expect("a file can be written");
    let script = format!(
        "create bench<Space>; create bench:repo<Repo>; create bench:repo:echo<BundleSeries>; \
         publish ^[ {} ]-> bench:repo:echo:1.0.0",
        folder.path().display()
    );
    node.exec(&script).ok();
}

/// Makes a mechtron under the name of a node, with more properties when given: `, +place=[at = "edge"]`.
pub(crate) fn make(by: &Node, node: &str, more: &str) {
    let config = "bench:repo:echo:1.0.0:/config/echo.mechtron";
    let properties = format!("+config={config}, +durability=memory{more}");
    by.exec(&format!("create {}<Mechtron>{{ {properties} }}", point(node))).ok();
}
