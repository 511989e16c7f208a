//! What a node tells of a mechtron that fails: a change of its code that does not work out, and a panic.

use std::fs;

use tests::{Node, root};

/// Does not start.
const TRAPS: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "mechtron_abi") (result i32) (i32.const 0x10000))
  (func (export "mechtron_inbox") (param i32) (result i32) (i32.const 1024))
  (func (export "mechtron_init") (param i32) (result i64) (i64.const 0))
  (func (export "mechtron_run") (param i32) (result i64) (unreachable)))"#;

#[test]
fn a_roll_back_survives_a_restart() {
    let mut node = Node::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let built = root().join("target/bundles/counter/wasm/counter.wasm");
    fs::copy(built, folder.path().join("counter.wasm")).expect("`make wasm` builds the examples");
    fs::write(folder.path().join("traps.wasm"), wat::parse_str(TRAPS).expect("it is WAT"))
        .expect("a file can be written");
    for (file, code) in [
        ("good", "+bin=${bundle}:/counter.wasm; +name=counter"),
        ("bad", "+bin=${bundle}:/traps.wasm; +name=traps"),
    ] {
        let config = format!("Mechtron(version=1.0.0) {{ Wasm {{ {code} }} }}");
        fs::write(folder.path().join(format!("{file}.mechtron")), config).expect("a file can be written");
    }
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:it<BundleSeries>").ok();
    node.run(["publish", &format!("^[ {} ]-> shop:repo:it:1.0.0", folder.path().display())]).ok();
    node.exec("create shop:count<Mechtron>{ +config=shop:repo:it:1.0.0:/good.mechtron, +title=mine }").ok();
    let add = |node: &Node| node.run(["request", "shop:count^Ext<Add>", r#"{"by": 2}"#]).ok();
    assert!(add(&node).contains(r#""total":2"#));
    node.exec("set shop:count{ +config=shop:repo:it:1.0.0:/bad.mechtron }").ok();
    let named = "select shop:count[config = \"shop:repo:it:1.0.0:/good.mechtron\" and title = mine and wasm.src = \"shop:repo:it:1.0.0:/counter.wasm\" and mechtron.name = counter]";
    let mut total = 2;
    // The change is taken between two messages, and told after it was tried.
    while !node.exec(named).ok().contains("shop:count") {
        total += 2;
        assert!(add(&node).contains(&format!(r#""total":{total}"#)));
        assert!(total < 20_000, "it is rolled back");
    }
    let reason = node.run(["get", "shop:count", "-o", "json"]).ok();
    assert!(reason.contains("rolled back"), "{reason}");
    node.kill();
    node.restart();
    assert!(add(&node).contains(&format!(r#""total":{}"#, total + 2)));
}

#[test]
fn what_a_panic_says_is_in_the_log() {
    let node = Node::start();
    let bundle = root().join("target/bundles/shop");
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:it<BundleSeries>").ok();
    node.run(["publish", &format!("^[ {} ]-> shop:repo:it:1.0.0", bundle.display())]).ok();
    node.exec(
        "create shop:cart<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/wasm/shop.wasm, +mechtron.name=cart }",
    )
    .ok();
    // Without its bind nobody stands before the cart, and it counts further than it can.
    let most = r#"{"article": "apple", "count": 4294967295}"#;
    node.run(["request", "shop:cart^Ext<AddItem>", most]).ok();
    let error = node.run(["request", "shop:cart^Ext<AddItem>", most]).fails(8);
    assert!(error.contains("E-TRAP"), "{error}");
    let log = node.run(["logs", "shop:cart"]).ok();
    assert!(log.contains("attempt to add with overflow") && log.contains("cart.rs"), "{log}");
}
