//! Mechtrons that are woken by what changes of what they watch: each change is in their state once, in order, whatever happens.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "what is not as expected ends the test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::mesh::{self, Mesh, Plan};
use tests::{Api, Node, root};

const PATIENCE: Duration = Duration::from_secs(120);
const BUNDLE: &str = "target/bundles/ledger";
/// What the ledger watches.
const SELECTOR: &str = "shop:orders:*<Order>[total >= 100 and not exists(paid)]";

/// Makes what the ledger reads.
fn furnish(node: &Node) {
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:ledger<BundleSeries>").ok();
    node.exec("create shop:kinds<Base>; create shop:kinds:order<Kind>; create shop:orders<Base>").ok();
    node.exec("create shop:orders:first<Order>{ +total=500 }").ok();
    publish(node, "1.0.0", &root().join(BUNDLE));
}

/// Makes a ledger; `more` are properties of its own, as `, +key=value`.
fn ledger(node: &Node, more: &str) {
    let config = "shop:repo:ledger:1.0.0:/config/ledger.mechtron";
    node.exec(&format!("create shop:ledger<Mechtron>{{ +config={config}{more} }}")).ok();
}

/// Makes a counter that the ledger tells of changes.
fn auditor(node: &Node) {
    node.exec("create shop:repo:counter<BundleSeries>").ok();
    let counter = root().join("target/bundles/counter");
    node.run(["publish", &format!("^[ {} ]-> shop:repo:counter:1.0.0", counter.display())]).ok();
    node.exec("create shop:auditor<Mechtron>{ +config=shop:repo:counter:1.0.0:/config/counter.mechtron }")
        .ok();
}

fn publish(node: &Node, version: &str, bundle: &Path) {
    node.run(["publish", &format!("^[ {} ]-> shop:repo:ledger:{version}", bundle.display())]).ok();
}

/// Makes orders and pays them, one after the other: two changes each.
fn script(numbers: std::ops::Range<u32>) -> String {
    let both = |number| {
        format!(
            "create? shop:orders:o-{number}<Order>{{ +total={} }}; set shop:orders:o-{number}{{ +paid=true }}",
            100 + number
        )
    };
    numbers.map(both).collect::<Vec<_>>().join("; ")
}

/// What the book says of them, after the order that was there before the ledger.
fn lines(numbers: std::ops::Range<u32>) -> Vec<String> {
    let both = |number| {
        let order = format!("shop:orders:o-{number}");
        [format!("{order} owes {}", 100 + number), format!("{order} owes nothing")]
    };
    std::iter::once("shop:orders:first owes 500".to_owned()).chain(numbers.flat_map(both)).collect()
}

/// The book; `None` while the ledger does not answer.
fn book(node: &Node) -> Option<Vec<String>> {
    let asked = Api::of(node).request("shop:ledger", "GetBook", &Value::Null, Duration::from_secs(5))?;
    let lines = asked.json["lines"].as_array()?.iter().map(|line| line.as_str().map(str::to_owned));
    if asked.is_ok() { lines.collect() } else { None }
}

/// Waits until the book has so many lines, and compares them.
#[track_caller]
fn expect_book(node: &Node, expected: &[String]) {
    mesh::wait(PATIENCE, "the book is as long as it should be", || {
        book(node).is_some_and(|lines| lines.len() >= expected.len())
    });
    assert_eq!(book(node).expect("the ledger answers"), expected);
}

#[test]
fn it_is_woken_by_a_change_and_told_first_what_is_there() {
    let node = Node::start();
    furnish(&node);
    auditor(&node);
    node.exec("create shop:orders:small<Order>{ +total=5 }").ok();
    ledger(&node, ", +auditor=shop:auditor");
    // Nobody asks the ledger anything; that it runs is heard from the auditor.
    let heard = |count: u64| {
        mesh::wait(PATIENCE, "the auditor has heard of all changes", || {
            let asked =
                Api::of(&node).request("shop:auditor", "GetTotal", &Value::Null, Duration::from_secs(5));
            asked.is_some_and(|asked| asked.json["total"] == count)
        });
    };
    heard(1);
    node.exec(&script(0..1)).ok();
    heard(3);
    expect_book(&node, &lines(0..1));
}

#[test]
fn a_node_that_is_killed_tells_on_where_it_was() {
    let mut node = Node::start();
    furnish(&node);
    ledger(&node, "");
    // From here on it watches.
    expect_book(&node, &lines(0..0));
    // Much of it is on its way when the node is lost.
    for (from, to) in [(0, 60), (60, 125)] {
        node.exec(&script(from..to)).ok();
        node.kill();
        node.restart();
    }
    for from in (125..250).step_by(25) {
        node.exec(&script(from..from + 25)).ok();
    }
    expect_book(&node, &lines(0..250));
    // Also what came while it was told of everything is not told again after one more.
    node.kill();
    node.restart();
    node.exec(&script(250..251)).ok();
    expect_book(&node, &lines(0..251));
}

#[test]
fn it_goes_on_where_it_was_on_another_node() {
    for durability in ["node", "mesh", "memory"] {
        let nodes = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::leaf("edge")]);
        nodes.wait_ready(2, PATIENCE);
        let first = nodes.first();
        furnish(first);
        ledger(first, &format!(", +durability={durability}, +place=[at in (\"cloud\", \"edge\")]"));
        expect_book(first, &lines(0..0));
        let to = |name: &str| first.run(["move", "shop:ledger", "--to", name]);
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                for from in (0..60).step_by(10) {
                    first.exec(&script(from..from + 10)).ok();
                }
            });
            for name in ["edge", "cloud", "edge"] {
                to(name).ok();
            }
            changes.join().expect("all orders are made");
        });
        to("cloud").ok();
        expect_book(first, &lines(0..60));
    }
}

#[test]
fn kept_in_the_mesh_it_goes_on_where_it_was_when_its_node_is_lost() {
    let mut nodes = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::leaf("edge")]);
    nodes.wait_ready(2, PATIENCE);
    furnish(nodes.first());
    ledger(nodes.first(), ", +durability=mesh, +place=[at in (\"cloud\", \"edge\")]");
    expect_book(nodes.first(), &lines(0..0));
    nodes.first().run(["move", "shop:ledger", "--to", "edge"]).ok();
    nodes.first().exec(&script(0..30)).ok();
    nodes.node_mut("edge").kill();
    nodes.first().exec(&script(30..60)).ok();
    expect_book(nodes.first(), &lines(0..60));
    let (lives, _) = mesh::placed(&Api::of(nodes.first()), "shop:ledger").expect("it lives somewhere");
    assert_eq!(lives, "cloud");
}

#[test]
fn what_fails_is_told_again_and_what_comes_after_waits() {
    let node = Node::start();
    furnish(&node);
    ledger(&node, ", +auditor=shop:auditor");
    node.exec(&script(0..2)).ok();
    mesh::wait(PATIENCE, "the log says that it is told again", || {
        node.run(["logs", "shop:ledger"]).ok().matches("is told again in").count() >= 3
    });
    // Other messages go on meanwhile.
    assert_eq!(book(&node), Some(Vec::new()));
    auditor(&node);
    expect_book(&node, &lines(0..2));
}

#[test]
fn another_version_goes_on_where_it_was() {
    let node = Node::start();
    furnish(&node);
    ledger(&node, "");
    // From here on it watches.
    expect_book(&node, &lines(0..0));
    node.exec(&script(0..10)).ok();
    expect_book(&node, &lines(0..10));
    // The same module with a section that means nothing is another one.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bundle = root().join(BUNDLE);
    let mut wasm = fs::read(bundle.join("wasm/ledger.wasm")).expect("`make wasm` builds the examples");
    wasm.extend_from_slice(&[0, 4, 3, b'n', b'e', b'w']);
    for file in ["wasm", "config"] {
        fs::create_dir(folder.path().join(file)).expect("a folder can be made");
    }
    fs::write(folder.path().join("wasm/ledger.wasm"), wasm).expect("a file can be written");
    fs::copy(bundle.join("config/ledger.mechtron"), folder.path().join("config/ledger.mechtron"))
        .expect("a file can be copied");
    publish(&node, "2.0.0", folder.path());
    node.exec("set shop:ledger{ +config=shop:repo:ledger:2.0.0:/config/ledger.mechtron }").ok();
    node.exec(&script(10..20)).ok();
    expect_book(&node, &lines(0..20));
}

#[test]
fn any_node_says_what_is_watched_and_how_far_it_was_told() {
    let nodes = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::leaf("edge")]);
    nodes.wait_ready(2, PATIENCE);
    let first = nodes.first();
    furnish(first);
    ledger(first, ", +place=[at in (\"edge\")]");
    // From here on it watches.
    expect_book(first, &lines(0..0));
    first.exec(&script(0..3)).ok();
    expect_book(first, &lines(0..3));
    let (_, last) = Api::of(first).get("/v1/resources/shop:orders:o-2").expect("the API answers");
    let last = last["modified"].as_u64().expect("a revision");
    for node in [first, nodes.node("edge")] {
        let described = node.run(["describe", "shop:ledger", "-o", "json"]).ok();
        let described: Value = serde_json::from_str(&described).expect("it is JSON");
        let watches = described["activation"]["watches"].as_array().expect("it says what it watches");
        assert_eq!(watches.len(), 1);
        assert_eq!(watches[0]["name"], "overdue");
        assert_eq!(watches[0]["selector"], SELECTOR);
        // Later commits that it does not watch may be passed over already.
        assert!(watches[0]["told"]["revision"].as_u64().is_some_and(|told| told >= last), "{described}");
        let described = node.run(["describe", "shop:ledger"]).ok();
        assert!(described.contains(&format!("  watch overdue {SELECTOR}\n")), "{described}");
        assert!(described.contains("\nwatches\n  overdue  told up to revision "), "{described}");
    }
}

#[test]
fn what_changes_before_it_first_lives_somewhere_is_in_its_first_list() {
    let node = Node::start();
    furnish(&node);
    ledger(&node, ", +place=[tier = \"edge\"]");
    node.exec(&script(0..1)).ok();
    node.exec("create shop:orders:later<Order>{ +total=700 }; set shop:orders:later{ +total=800 }").ok();
    node.exec("create shop:orders:gone<Order>{ +total=900 }; delete shop:orders:gone").ok();
    assert_eq!(mesh::placed(&Api::of(&node), "shop:ledger"), None);
    node.run(["node", "label", node.name(), "tier=edge"]).ok();
    expect_book(&node, &["shop:orders:first owes 500".into(), "shop:orders:later owes 800".into()]);
}

#[test]
fn a_selector_that_is_none_is_refused_when_it_is_named() {
    let node = Node::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut wasm = wat::parse_str(
        r#"(module
          (memory (export "memory") 1)
          (func (export "mechtron_abi") (result i32) (i32.const 0x10001))
          (func (export "mechtron_inbox") (param i32) (result i32) (i32.const 1024))
          (func (export "mechtron_init") (param i32) (result i64) (i64.const 0))
          (func (export "mechtron_run") (param i32) (result i64) (i64.const 0)))"#,
    )
    .expect("it is WAT");
    let contract =
        br#"{"mechtron":"A","handlers":[{"role":"watch","name":"seen","selector":"shop:*[total >"}]}"#;
    let name = b"mechtron.contract";
    wasm.extend_from_slice(&[0, u8::try_from(1 + name.len() + contract.len()).expect("it is short"), 17]);
    wasm.extend_from_slice(name);
    wasm.extend_from_slice(contract);
    fs::write(folder.path().join("a.wasm"), wasm).expect("a file can be written");
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:ledger<BundleSeries>").ok();
    publish(&node, "1.0.0", folder.path());
    let refused = node.exec("create shop:a<Mechtron>{ +wasm.src=shop:repo:ledger:1.0.0:/a.wasm }").fails(2);
    assert!(refused.contains("`seen`") && refused.contains("no selector"), "{refused}");
}
