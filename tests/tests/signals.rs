//! Signals between mechtrons, wherever their shards are.
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::mesh::{mark, publish_witness, wait, witness};
use tests::{Api, Node, root};

const PATIENCE: Duration = Duration::from_secs(30);

/// Several receivers, so that some are on another shard than the sender, and none was ever woken before.
const RECEIVERS: usize = 6;

#[test]
fn signals_arrive_once_and_in_order_on_every_shard() {
    let node = Node::start();
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:witness<BundleSeries>").ok();
    let bundle = root().join("target/bundles/witness");
    node.run(["publish", &format!("^[ {} ]-> shop:repo:witness:1.0.0", bundle.display())]).ok();
    let witness = |name: &str| {
        let config = "shop:repo:witness:1.0.0:/config/witness.mechtron";
        node.exec(&format!("create shop:{name}<Mechtron>{{ +config={config} }}")).ok();
    };
    witness("sender");
    for number in 0..RECEIVERS {
        witness(&format!("receiver-{number}"));
        let burst = format!(r#"{{"to": "shop:receiver-{number}", "first": 0, "count": 100}}"#);
        node.run(["request", "shop:sender^Ext<Burst>", &burst]).ok();
    }
    for number in 0..RECEIVERS {
        let begun = Instant::now();
        let record = loop {
            let told = node.run(["request", &format!("shop:receiver-{number}^Ext<GetRecord>")]).ok();
            let record: Value = serde_json::from_str(&told).expect("a record is JSON");
            if record["end"] == 100 || begun.elapsed() > PATIENCE {
                break record;
            }
        };
        assert_eq!(
            record,
            serde_json::json!({ "end": 100, "missing": 0, "again": 0, "late": 0 }),
            "{number}"
        );
    }
}

#[test]
fn signals_that_cannot_be_delivered_are_shown_and_counted() {
    let node = Node::start();
    publish_witness(&node);
    let point = witness(&node, "one", "");
    let burst = |to: &str, count: u32| {
        let burst = json!({ "to": to, "first": 0, "count": count }).to_string();
        node.run(["request", &format!("{point}^Ext<Burst>"), &burst]).ok();
    };
    burst("mesh-test:nobody", 120);
    burst("nowhere:at-all", 1);
    let told = || -> Value {
        let told = node.run(["dead-letters", "mesh-test", "-o", "json"]).ok();
        serde_json::from_str(&told).expect("dead letters are JSON")
    };
    wait(PATIENCE, "all are given up", || told()["count"] == 121);
    let list = told();
    let letters = list["letters"].as_array().expect("a list");
    assert_eq!(letters.len(), 100, "the last of them");
    let of = |to: &str| letters.iter().filter(|letter| letter["to"] == to).count();
    assert_eq!((of("mesh-test:nobody"), of("nowhere:at-all")), (99, 1));
    let letter = &letters[letters.len() - 1];
    assert_eq!(
        (&letter["from"], &letter["method"], &letter["code"], &letter["node"]),
        (&json!(point), &json!("Ext<Note>"), &json!("E-NOT-FOUND"), &json!("node-1"))
    );
    let table = node.run(["dead-letters", "mesh-test"]);
    assert!(table.err.contains("121 there were, the last 100 are shown"), "{table:?}");
    assert!(table.ok().contains("E-NOT-FOUND"));
    let (_, _, metrics) = tests::http(
        node.api(),
        "GET",
        "localhost",
        "/metrics",
        &format!("authorization: Bearer {}\r\n", token(&node)),
        b"",
    );
    assert!(String::from_utf8_lossy(&metrics).contains("\nstarlane_dead_letters_total 121\n"));
    node.exec("create quiet<Space>").ok();
    assert!(node.run(["dead-letters", "quiet", "-o", "json"]).ok().contains("\"count\": 0"));
    assert!(node.run(["dead-letters", "mesh-test:one"]).fails(2).contains("starlane dead-letters mesh-test"));
    assert!(node.run(["dead-letters", "gone"]).fails(3).contains("E-NOT-FOUND"));
}

fn token(node: &Node) -> String {
    let token = std::fs::read_to_string(node.data().join("admin.token"));
    token.expect("a node has a token").trim().to_owned()
}

#[test]
fn mechtrons_are_selected_by_what_waits_for_them() {
    let node = Node::start();
    publish_witness(&node);
    let busy = witness(&node, "busy", "");
    witness(&node, "idle", "");
    let nowhere = witness(&node, "nowhere", ", +place=[tier = \"none\"]");
    node.exec("create mesh-test:own<Base>{ +queue=7 }").ok();
    let select = |filter: &str| node.run(["select", &format!("mesh-test:*[{filter}]")]);
    assert_eq!(select("queue > 0").ok(), "mesh-test:own<Base>\n", "a property of that name is one");
    let api = Api::of(&node);
    std::thread::scope(|scope| {
        // It waits for somebody who lives nowhere, and meanwhile everything else waits for it.
        let waits = json!({ "through": [nowhere] });
        let (asking, at) = (&api, &busy);
        let asked = scope.spawn(move || asking.request(at, "Relay", &waits, PATIENCE));
        wait(PATIENCE, "it handles the request", || select("queue = 1").ok() == "mesh-test:busy<Mechtron>\n");
        for number in 0..3 {
            node.run(["send", &format!("{busy}^Ext<Note>"), &json!({ "number": number }).to_string()]).ok();
        }
        wait(PATIENCE, "three more wait", || {
            select("queue >= 4 and queue < 7").ok() == "mesh-test:busy<Mechtron>\n"
        });
        assert_eq!(node.exec("select mesh-test:*<Mechtron>[queue = 4]").ok(), "mesh-test:busy<Mechtron>\n");
        let quiet = select("kind = Mechtron and not queue > 0").ok();
        assert!(quiet.contains("mesh-test:idle") && !quiet.contains("busy"), "{quiet}");
        // Of the one that lives nowhere nothing is known.
        assert_eq!(select("exists(queue)").ok().lines().count(), 3);
        let watched = node.run(["watch", "mesh-test:*[queue > 0]"]).fails(2);
        assert!(watched.contains("queue") && watched.contains("not watched"), "{watched}");
        // It goes on when the other is placed.
        node.exec(&format!("set {nowhere}{{ !place }}")).ok();
        assert!(asked.join().expect("it asked").expect("the node answers").is_ok());
    });
    wait(PATIENCE, "nothing waits any more", || select("queue > 0").ok() == "mesh-test:own<Base>\n");
    assert!(mark(&Api::of(&node), &busy, 9, PATIENCE).expect("the node answers").is_ok());
}
