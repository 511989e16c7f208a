//! The mechtron that answers with what it was asked: written by hand, and without state to keep.

use std::fs;

use tests::Node;

const ECHO: &str = include_str!("../../mechtron-host/tests/guests/echo.wat");
const CONFIG: &str = "Mechtron(version=1.0.0) { Wasm { +bin=${bundle}:/wasm/echo.wasm } }\n";

/// Where the mechtron lives.
pub(crate) const POINT: &str = "bench:echo";

/// Publishes the mechtron and makes one, with more properties when given: `, +place=[at = "edge"]`.
pub(crate) fn make(node: &Node, more: &str) {
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
         publish ^[ {} ]-> bench:repo:echo:1.0.0; \
         create {POINT}<Mechtron>{{ +config=bench:repo:echo:1.0.0:/config/echo.mechtron, +durability=memory{more} }}",
        folder.path().display()
    );
    node.exec(&script).ok();
}
