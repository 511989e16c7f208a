//! The witness of the tests is believed only after it noted what really happened.
#![cfg(target_os = "linux")]

use std::time::Duration;

use serde_json::json;
use tests::mesh::{Record, mark, publish_witness, record, wait, witness};
use tests::{Api, Node};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_witness_notes_requests_and_signals_and_remembers_over_a_crash() {
    let mut node = Node::start();
    publish_witness(&node);
    let [one, other] = ["one", "other"].map(|name| witness(&node, name, ""));
    let api = Api::of(&node);
    for number in [0, 1, 4, 2, 4] {
        assert!(mark(&api, &one, number, PATIENCE).expect("the node answers").is_ok());
    }
    let noted = Some(Record { end: 5, missing: 1, again: 1, late: 1 });
    assert_eq!(record(&api, &one), noted);

    let burst = json!({ "to": other, "first": 0, "count": 100 });
    assert!(api.request(&one, "Burst", &burst, PATIENCE).expect("the node answers").is_ok());
    wait(PATIENCE, "all signals arrive", || record(&api, &other).is_some_and(|noted| noted.end == 100));
    assert_eq!(record(&api, &other), Some(Record { end: 100, ..Record::default() }));

    node.kill();
    assert_eq!(record(&api, &one), None, "nobody answers for a dead node");
    node.restart();
    assert_eq!(record(&Api::of(&node), &one), noted);
    let nobody = mark(&Api::of(&node), "mesh-test:nobody", 0, PATIENCE).expect("the node answers");
    assert_eq!(nobody.outcome, "rejected");
}

#[test]
fn what_a_mechtron_logged_before_it_fell_is_shown() {
    let node = Node::start();
    publish_witness(&node);
    let point = witness(&node, "one", "");
    let told = node.run(["request", &format!("{point}^Ext<Stumble>"), "null"]).fails(8);
    assert!(told.contains("E-TRAP"), "{told}");
    let log = node.run(["logs", &point]).ok();
    let at = |line: &str| log.find(line).unwrap_or_else(|| panic!("no {line:?} in {log}"));
    assert!(at("about to fall") < at("fell\n"), "{log}");
}
