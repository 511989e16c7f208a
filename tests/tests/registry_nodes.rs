//! A registry in etcd that several nodes serve: one is lost, and the others go on.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tests::etcd::Etcd;
use tests::mesh::{mark, placed, publish_witness, ready, record, wait, witness};
use tests::registry::{joins, leader, serve};
use tests::{Answer, Api, Node, Serve, unstarted};

const PATIENCE: Duration = Duration::from_secs(90);
/// How long one request may take: what is on its way when a node dies is given up after that.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How much content is in a data folder.
fn contents(data: &Path) -> usize {
    let mut folders = vec![data.join("blobs/sha256")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => count += 1,
            }
        }
    }
    count
}

/// Makes resources one after the other until it is told to stop; answers those that were acknowledged.
fn make(api: &Api, stop: &AtomicBool) -> Vec<String> {
    let mut made = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("mesh-test:made:n-{number}");
        if let Some((201, _)) = api.post("/v1/resources", &json!({ "point": name, "kind": "Base" })) {
            made.push(name);
        }
    }
    made
}

/// Watches what is made until it is told to stop; answers each in the order in which it was told.
fn watch(api: &Api, begun: &AtomicBool, last: &str) -> Vec<String> {
    let events = api.events("/v1/watch?select=mesh-test:made:*").expect("the node answers");
    let mut told = Vec::new();
    for event in events {
        assert_ne!(event["event"], "gone", "the log is long enough");
        begun.store(true, Ordering::Relaxed);
        for change in event["changes"].as_array().into_iter().flatten() {
            assert_eq!(change["change"], "entered", "{event}");
            let point = change["resource"]["point"].as_str().expect("a resource has a point");
            if point == last {
                return told;
            }
            told.push(point.to_owned());
        }
    }
    panic!("the stream ended by itself");
}

#[test]
fn one_of_two_registry_nodes_is_lost_and_the_mesh_goes_on() {
    let Some(etcd) = Etcd::start(1) else { return };
    let address = etcd.address("mesh");
    let mut one = Node::serve(Serve { registry: Some(address.clone()), ..serve("one") });
    let mut two = joins(&one, "two", "registry", Some(&address));
    let edge = joins(&one, "edge", "leaf", None);
    let apis = [&one, &two, &edge].map(Api::of);
    for api in &apis {
        wait(PATIENCE, "each node sees all three ready", || ready(api).is_some_and(|ready| ready.len() == 3));
    }
    assert_eq!(leader(&apis[2]).as_deref(), Some("one"));
    let (_, nodes) = apis[2].get("/v1/nodes").expect("it answers");
    let serving: Vec<(&str, &str)> = nodes["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|node| node["registry"] == true)
        .map(|node| (node["name"].as_str().expect("a name"), node["role"].as_str().expect("a role")))
        .collect();
    assert_eq!(serving, [("one", "relay"), ("two", "registry")]);
    let authority = two.data().join("identity/authority.pem");
    let mode = std::fs::metadata(authority).expect("it has the authority").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // On the leaf, on whichever of the two, and where everything lives that says nothing.
    publish_witness(&one);
    let here = witness(&one, "here", ", +place=[at = \"edge\"]");
    let placed_there = witness(&one, "there", ", +place=[at = \"one\" or at = \"two\"], +durability=mesh");
    let home = witness(&one, "home", ", +durability=mesh");
    one.exec("create mesh-test:made<Base>").ok();
    for number in 0..5 {
        for point in [&here, &placed_there, &home] {
            let marked = || mark(&apis[2], point, number, TIMEOUT).is_some_and(|asked| asked.is_ok());
            wait(PATIENCE, "a witness takes what it is told", marked);
        }
    }
    let before = [&here, &placed_there, &home].map(|point| record(&apis[2], point).expect("it answers").end);
    assert_eq!(before, [5; 3]);
    wait(PATIENCE, "the other registry node has the content", || {
        contents(two.data()) > 0 && contents(two.data()) == contents(one.data())
    });

    let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let last = "mesh-test:made:last";
    let (made, told) = std::thread::scope(|scope| {
        let told = scope.spawn(|| watch(&Api::of(&edge), &begun, last));
        wait(PATIENCE, "the watch began", || begun.load(Ordering::Relaxed));
        let made = scope.spawn(|| make(&Api::of(&edge), &stop));
        wait(PATIENCE, "something was made", || apis[2].points("mesh-test:made:*").len() > 20);
        one.kill();
        let count = || apis[1].points("mesh-test:made:*").len();
        let (killed, lived) = (count(), mark(&apis[2], &here, 5, TIMEOUT));
        assert!(lived.is_some_and(|asked| asked.is_ok()), "what lives on the leaf goes on");
        wait(PATIENCE, "the leaf makes resources through the other", || count() > killed + 20);
        wait(PATIENCE, "the other leads", || leader(&apis[2]).as_deref() == Some("two"));
        stop.store(true, Ordering::Relaxed);
        let made = made.join().expect("it ends");
        two.exec(&format!("create {last}<Base>")).ok();
        (made, told.join().expect("it ends"))
    });
    let there: BTreeSet<String> =
        apis[1].points("mesh-test:made:*").into_iter().filter(|point| point != last).collect();
    let unique: BTreeSet<&String> = told.iter().collect();
    assert_eq!(unique.len(), told.len(), "the watch repeats nothing");
    assert_eq!(told.iter().cloned().collect::<BTreeSet<_>>(), there, "the watch misses nothing");
    assert!(made.iter().all(|made| there.contains(made)), "what was acknowledged is there");
    println!("{} acknowledged, {} made, {} told", made.len(), there.len(), told.len());

    // What lived on the lost node lives on at the other, with its state.
    for point in [&placed_there, &home] {
        wait(PATIENCE, "a mechtron of the lost node lives on the other", || {
            placed(&apis[2], point).is_some_and(|(node, _)| node == "two")
        });
        wait(PATIENCE, "it answers with its state", || {
            record(&apis[2], point).is_some_and(|record| record.end == 5 && record.missing == 0)
        });
    }
    // A node joins at the survivor, and has what it runs from there.
    let late = joins(&two, "late", "leaf", None);
    let new = witness(&late, "new", ", +place=[at = \"late\"]");
    let marked = || mark(&apis[2], &new, 0, TIMEOUT).is_some_and(|asked| asked.is_ok());
    wait(PATIENCE, "a mechtron on the new node answers", marked);

    // The first one returns, and leads when the other is stopped.
    one.restart();
    let again = Api::of(&one);
    wait(PATIENCE, "it sees all four ready", || ready(&again).is_some_and(|ready| ready.len() == 4));
    assert_eq!(leader(&again).as_deref(), Some("two"));
    assert_eq!(two.stop(), 0);
    wait(PATIENCE, "the first one leads", || leader(&apis[2]).as_deref() == Some("one"));
    edge.exec("create mesh-test:after<Base>").ok();
    wait(PATIENCE, "what lived on the other lives on the first", || {
        placed(&apis[2], &placed_there).is_some_and(|(node, _)| node == "one")
            && record(&apis[2], &placed_there).is_some_and(|record| record.end == 5)
    });
    two.restart();
    edge.exec("delete mesh-test:after").ok();

    // Shut out, a node serves nothing any more, though it has the authority: neither a later one nor the first.
    let is_out = |node: &mut Node| {
        node.kill();
        let error = unstarted(node.data(), &[]).fails(4);
        assert!(error.contains("shut out"), "{error}");
    };
    let revoked = || two.run(["node", "revoke", "one", "--yes"]).code == 0;
    wait(PATIENCE, "another shuts the first one out", revoked);
    is_out(&mut one);
    wait(PATIENCE, "the other leads again", || leader(&apis[2]).as_deref() == Some("two"));
    let third = joins(&two, "three", "registry", Some(&address));
    wait(PATIENCE, "a later one shuts out another", || {
        third.run(["node", "revoke", "two", "--yes"]).code == 0
    });
    is_out(&mut two);
}

#[test]
fn a_leaf_goes_on_while_members_of_etcd_are_killed_and_paused_in_turn() {
    let Some(mut etcd) = Etcd::start(3) else { return };
    let address = etcd.address("mesh");
    let one = Node::serve(Serve { registry: Some(address.clone()), ..serve("one") });
    let two = joins(&one, "two", "registry", Some(&address));
    let edge = joins(&one, "edge", "leaf", None);
    let [near, far] = [&edge, &two].map(Api::of);
    wait(PATIENCE, "all three are ready", || ready(&near).is_some_and(|ready| ready.len() == 3));
    one.exec("create mesh-test<Space>; create mesh-test:made<Base>").ok();
    let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let last = "mesh-test:made:last";
    let count = || far.points("mesh-test:made:*").len();
    let (made, told) = std::thread::scope(|scope| {
        let told = scope.spawn(|| watch(&Api::of(&edge), &begun, last));
        wait(PATIENCE, "the watch began", || begun.load(Ordering::Relaxed));
        let made = scope.spawn(|| make(&Api::of(&edge), &stop));
        let goes_on = |what: &str| {
            let before = count();
            wait(PATIENCE, what, || count() > before + 10);
        };
        for member in 0..3 {
            etcd.kill(member);
            goes_on("resources are made while a member is dead");
            etcd.restart(member);
            goes_on("resources are made when it is back");
            etcd.pause(member);
            goes_on("resources are made while a member hangs");
            etcd.resume(member);
            goes_on("resources are made when it goes on");
        }
        stop.store(true, Ordering::Relaxed);
        let made = made.join().expect("it ends");
        wait(PATIENCE, "the last is made", || edge.exec(&format!("create? {last}<Base>")).code == 0);
        (made, told.join().expect("it ends"))
    });
    let there: BTreeSet<String> =
        far.points("mesh-test:made:*").into_iter().filter(|point| point != last).collect();
    assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), told.len(), "the watch repeats nothing");
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), there, "the watch misses nothing");
    assert!(made.iter().all(|made| there.contains(made)), "what was acknowledged is there");
    println!("{} acknowledged, {} made", made.len(), there.len());
}

#[test]
fn the_states_of_the_mesh_move_along_with_a_registry() {
    let Some(etcd) = Etcd::start(1) else { return };
    let address = etcd.address("mesh");
    let mut node = Node::serve(serve("one"));
    publish_witness(&node);
    let kept = witness(&node, "kept", ", +durability=mesh");
    let file = node.data().join("registry.redb");
    let aside = node.data().join("aside.redb");
    let (file, aside) =
        (file.to_str().expect("a path").to_owned(), aside.to_str().expect("a path").to_owned());
    let moves = [("", "", None), (&*file, &*address, Some(&*address)), (&address, &file, Some("embedded"))];
    for (number, (from, to, place)) in (0..).zip(moves) {
        if !from.is_empty() {
            assert_eq!(node.stop(), 0);
            if to == file {
                std::fs::rename(&file, &aside).expect("the former file can be moved away");
            }
            let said = node.run(["registry", "migrate", "--from", from, "--to", to, "-o", "json"]).ok();
            let said: Value = serde_json::from_str(&said).expect("it is JSON");
            assert_eq!(said["states"], 1, "{said}");
            node.keep_registry(place);
            node.restart();
        }
        let api = Api::of(&node);
        wait(PATIENCE, "it has its state", || {
            record(&api, &kept).is_some_and(|record| (record.end, record.missing) == (number.into(), 0))
        });
        let marked = mark(&api, &kept, number, TIMEOUT).expect("it answers");
        assert!(marked.is_ok(), "{marked:?}");
    }
}

/// What a newcomer says that does not start.
fn refused(name: &str, (at, token): (&Node, &str), more: &[&str]) -> Answer {
    let data = tempfile::tempdir().expect("a temporary folder");
    let address = at.served().listen.expect("it accepts links").to_string();
    unstarted(data.path(), &[&["--name", name, "--join", &address, token], more].concat())
}

#[test]
fn a_registry_that_cannot_be_served_by_several_is_not() {
    let alone = Node::start();
    let error = alone.run(["token", "--role", "registry"]).fails(2);
    assert!(error.contains("a file of one node") && error.contains("migrate"), "{error}");

    let Some(etcd) = Etcd::start(1) else { return };
    let one = Node::serve(Serve { registry: Some(etcd.address("mesh")), ..serve("one") });
    let token = |role: &str| one.run(["token", "--role", role]).ok().trim().to_owned();
    // It joined, but does not know where the registry is; or names another.
    let error = refused("a", (&one, &token("registry")), &[]).fails(2);
    assert!(error.contains("--registry etcd://"), "{error}");
    let other = etcd.address("other");
    let named = ["--registry", other.as_str()];
    let error = refused("b", (&one, &token("registry")), &named).fails(3);
    assert!(error.contains("is not in") && error.contains(&other), "{error}");
    let error = refused("c", (&one, &token("leaf")), &named).fails(2);
    assert!(error.contains("token --role registry"), "{error}");
}
