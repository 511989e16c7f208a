//! A watch goes on with its token wherever it is resumed.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tests::Api;
use tests::mesh::{Mesh, Plan, publish_witness};

const PATIENCE: Duration = Duration::from_secs(30);
/// How many resources are made while the watch goes from node to node.
const MADE: usize = 200;
/// After how many changes it goes to the next.
const TURN: usize = 15;

fn name(number: usize) -> String {
    format!("mesh-test:watched:n-{number}")
}

#[test]
fn a_watch_that_goes_from_node_to_node_misses_nothing_and_repeats_nothing() {
    let mesh = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::leaf("edge"), Plan::leaf("desktop")]);
    mesh.wait_ready(3, PATIENCE);
    publish_witness(mesh.first());
    mesh.first().exec("create mesh-test:watched<Base>").ok();
    let apis = ["edge", "desktop", "cloud"].map(|name| Api::of(mesh.node(name)));
    let begun = AtomicBool::new(false);
    let told = std::thread::scope(|scope| {
        // Made at a node that the watch comes to as well, and fast enough that the others are behind now and then.
        scope.spawn(|| {
            while !begun.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            for number in 0..MADE {
                let made = json!({ "point": name(number), "kind": "Base" });
                let (status, answer) = apis[2].post("/v1/resources", &made).expect("the node answers");
                assert_eq!(status, 201, "{answer}");
            }
        });
        let (mut told, mut token) = (Vec::new(), None);
        for turn in 0.. {
            if told.len() >= MADE {
                break;
            }
            let api = &apis[turn % apis.len()];
            watch(api, &mut told, &mut token, || begun.store(true, Ordering::Relaxed));
        }
        told
    });
    assert_eq!(told, (0..MADE).map(name).collect::<Vec<_>>());
}

/// Watches at one node for a turn; `token` is where it ends.
fn watch(api: &Api, told: &mut Vec<String>, token: &mut Option<String>, listed: impl Fn()) {
    let since = token.as_ref().map(|token| format!("&since={token}")).unwrap_or_default();
    let events = api.events(&format!("/v1/watch?select=mesh-test:watched:*{since}"));
    let before = told.len();
    for event in events.expect("the node answers") {
        assert_ne!(event["event"], "gone", "the log is long enough");
        if event["event"] == "listed" {
            assert!(token.is_none(), "a watch that is resumed begins with no list: {event}");
            assert_eq!(event["resources"], json!([]));
            listed();
        }
        for change in event["changes"].as_array().into_iter().flatten() {
            assert_eq!(change["change"], "entered", "{event}");
            told.push(change["resource"]["point"].as_str().expect("a resource has a point").to_owned());
        }
        *token = Some(event["token"].as_str().expect("each event has a token").to_owned());
        if told.len() >= before + TURN || told.len() >= MADE {
            return;
        }
    }
    panic!("the stream ended by itself");
}
