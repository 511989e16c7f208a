//! A registry in etcd: under faults, under a node, and moved there and back.
#![cfg(unix)]
#![expect(clippy::expect_used, reason = "helpers of tests end the test")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::etcd::Etcd;
use tests::{Node, Serve, soak, unstarted};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn no_member_that_is_killed_or_paused_loses_a_commit_or_a_step_of_a_watch() {
    let Some(report) = soak::members_killed_and_paused(2) else { return };
    println!("{report}");
    assert!(report.kept(), "{report}");
}

/// Everything below a space, with the revisions that made and changed it.
fn all(node: &Node) -> Value {
    let select = node.run(["select", "shop:**", "-o", "json"]).ok();
    let select: Value = serde_json::from_str(&select).expect("it is JSON");
    // Not the revision of the answer: the node itself writes when it starts.
    select["resources"].clone()
}

#[test]
fn a_node_keeps_its_registry_in_etcd_and_it_moves_there_and_back() {
    let Some(etcd) = Etcd::start(1) else { return };
    let address = etcd.address("mesh");
    let mut node = Node::serve(Serve { registry: Some(address.clone()), ..Serve::named("cloud") });
    node.exec("create shop<Space>").ok();
    for order in 0..20 {
        node.exec(&format!("create shop:order-{order}<Base>")).ok();
    }
    let before = all(&node);
    assert!(!node.data().join("registry.redb").exists());

    // It remembers where its registry is.
    node.kill();
    node.keep_registry(None);
    node.restart();
    assert_eq!(all(&node), before);

    etcd.pause(0);
    let answer = node.exec("create shop:late<Base>");
    assert!(matches!(answer.code, 6 | 7), "{answer:?}");
    etcd.resume(0);
    let begun = Instant::now();
    while node.exec("create? shop:late<Base>").code != 0 {
        assert!(begun.elapsed() < PATIENCE, "{}", node.log());
    }
    node.exec("delete shop:late").ok();

    // The registry of one mesh is none of another's.
    let other = tempfile::tempdir().expect("a temporary folder");
    let error = unstarted(other.path(), &["--registry", &address]).fails(1);
    assert!(error.contains("another mesh") && error.contains("PREFIX"), "{error}");

    // Back into a file.
    let before = all(&node);
    assert_eq!(node.stop(), 0);
    let file = node.data().join("registry.redb");
    let file = file.to_str().expect("a path");
    let error = unstarted(node.data(), &["--registry", "embedded"]).fails(2);
    assert!(error.contains("registry migrate --from etcd://"), "{error}");
    let said = node.run(["registry", "migrate", "--from", &address, "--to", file]).ok();
    assert!(said.starts_with("moved ") && said.contains(file), "{said}");
    node.keep_registry(Some("embedded"));
    node.restart();
    assert_eq!(all(&node), before);
    node.exec("create shop:in-a-file<Base>").ok();
    let before = all(&node);

    // A file that is in use is not moved, nor one that is there already overwritten.
    let new = etcd.address("new");
    let migrate =
        |node: &Node, from: &str, to: &str| node.run(["registry", "migrate", "--from", from, "--to", to]);
    assert!(migrate(&node, file, &new).fails(1).contains("stop the node"));
    assert_eq!(node.stop(), 0);
    assert!(migrate(&node, &address, file).fails(5).contains("already"));
    assert!(migrate(&node, file, &address).fails(5).contains("not empty"));
    assert!(migrate(&node, "none.redb", &new).fails(3).contains("none.redb"));

    // And forth, under another prefix, which must not be taken for an empty registry.
    let error = unstarted(node.data(), &["--registry", &new]).fails(2);
    assert!(error.contains("registry migrate --from"), "{error}");
    let moved = node.run(["registry", "migrate", "--from", file, "--to", &new, "-o", "json"]).ok();
    let moved: Value = serde_json::from_str(&moved).expect("it is JSON");
    assert!(moved["records"].as_u64() > Some(20) && moved["revision"].as_u64() > Some(20), "{moved}");
    node.keep_registry(Some(&new));
    node.restart();
    assert_eq!(all(&node), before);
    node.exec("create shop:in-etcd-again<Base>").ok();
}

#[test]
fn a_node_says_so_when_there_is_no_etcd() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let error = unstarted(data.path(), &["--registry", "etcd://127.0.0.1:1"]).fails(6);
    assert!(error.contains("127.0.0.1:1") && error.contains("start etcd"), "{error}");
    let error = unstarted(data.path(), &["--registry", "http://127.0.0.1:1"]).fails(2);
    assert!(error.contains("etcd://HOST:PORT"), "{error}");
}
