//! A registry in etcd: under faults, under a node, and moved there and back.
#![cfg(unix)]
#![expect(clippy::expect_used, reason = "helpers of tests end the test")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::etcd::Etcd;
use tests::{Node, Serve, certificates, soak, unstarted};

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

/// What a node has whose registry is in an etcd is there again when it starts with what it remembers of the address.
fn remembers(node: &mut Node) {
    node.exec("create shop<Space>").ok();
    let before = all(node);
    node.kill();
    node.keep_registry(None);
    node.restart();
    assert_eq!(all(node), before);
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

#[test]
fn a_registry_is_kept_in_an_etcd_that_speaks_tls() {
    let [right, other] = [0, 1].map(|_| tempfile::tempdir().expect("a temporary folder"));
    certificates::write(right.path(), "127.0.0.1");
    certificates::write(other.path(), "127.0.0.1");
    let Some(etcd) = Etcd::start_with_tls(1, right.path()) else { return };
    let address = etcd.address("mesh");
    let mut node = Node::serve(Serve { registry: Some(address.clone()), ..Serve::named("cloud") });
    remembers(&mut node);
    node.kill();

    // Whoever believes another authority, or shows no certificate, or one of another authority, is not connected.
    let (right, other) = (right.path().display().to_string(), other.path().display().to_string());
    let (at, files) = address.split_once('?').expect("files are named");
    let shows = |text: &str| format!("{at}?ca={right}/ca.pem{text}");
    let stranger = format!("&cert={other}/cert.pem&key={other}/key.pem");
    let plain = at.replace("etcds", "etcd");
    std::thread::scope(|scope| {
        for (address, code, parts) in [
            (
                format!("{at}?{}", files.replace(&right, &other)),
                6,
                ["invalid peer certificate", "`ca` names who"],
            ),
            (shows(""), 6, ["`cert` and `key`", at]),
            (shows(&stranger), 6, ["`cert` and `key`", at]),
            (plain, 6, ["one that speaks TLS is at `etcds://`", ""]),
            (format!("{at}?ca={right}/none.pem"), 1, ["none.pem: No such file", "look at the files"]),
            (format!("{at}?ca={right}/key.pem"), 1, ["key.pem has no certificate", "look at the files"]),
            (at.to_owned(), 2, ["`?ca=FILE`", "etcds://HOST:PORT/PREFIX?ca=FILE"]),
        ] {
            scope.spawn(move || {
                let data = tempfile::tempdir().expect("a temporary folder");
                let error = unstarted(data.path(), &["--registry", &address]).fails(code);
                assert!(parts.iter().all(|part| error.contains(part)), "{address}: {error}");
            });
        }
    });
}

#[test]
fn a_registry_is_kept_as_a_user_of_etcd_whose_password_nobody_is_told() {
    let Some(etcd) = Etcd::start(1) else { return };
    let (open, folder) = (etcd.address("mesh"), tempfile::tempdir().expect("a temporary folder"));
    // Which waits until etcd answers.
    let data = tempfile::tempdir().expect("a temporary folder");
    let none = data.path().join("none.redb");
    let none = none.to_str().expect("a path");
    let started = Node::start();
    started.run(["registry", "migrate", "--from", &open, "--to", none]);
    etcd.admit("mesh", "the-secret", "/mesh/");
    let file = folder.path().join("password");
    std::fs::write(&file, "the-secret\n").expect("a file can be written");
    let address = format!("{open}?user=mesh&password-file={}", file.display());
    let mut node = Node::serve(Serve { registry: Some(address.clone()), ..Serve::named("cloud") });
    remembers(&mut node);
    assert!(!node.log().contains("the-secret"), "{}", node.log());
    node.kill();

    let data = tempfile::tempdir().expect("a temporary folder");
    let refused = |registry: &str, code: i32| unstarted(data.path(), &["--registry", registry]).fails(code);
    let error = refused(&open, 1);
    assert!(
        error.contains("user name is empty") && error.contains("the user that `--registry` names"),
        "{error}"
    );
    std::fs::write(&file, "the-wrong-one").expect("a file can be written");
    let error = refused(&address, 1);
    assert!(error.contains("user `mesh`") && error.contains("invalid user ID or password"), "{error}");
    assert!(!error.contains("the-wrong-one"), "{error}");
    let error = refused(&open.replace("//", "//mesh:the-secret@"), 2);
    assert!(error.contains("password-file=FILE") && !error.contains("the-secret"), "{error}");
}
