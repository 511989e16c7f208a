//! What mechtrons of several nodes ask each other: in circles, in rows, and for somebody who goes away.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use tests::mesh::{Mesh, Plan, mark, placed, record, wait, witness};
use tests::{Api, Node};

const PATIENCE: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long somebody wants to wait who does not.
const LONG_MS: u32 = 120_000;

/// Three nodes, a witness on each, and one that no node may have.
fn witnesses() -> (Mesh, [String; 4]) {
    let mesh = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::leaf("edge"), Plan::leaf("desktop")]);
    mesh.wait_ready(3, PATIENCE);
    mesh.publish_witness();
    let points =
        ["cloud", "edge", "desktop", "nowhere"].map(|name| mesh.witness(name, &format!("[at = \"{name}\"]")));
    let api = Api::of(mesh.first());
    for point in &points[..3] {
        wait(PATIENCE, "the witness answers", || record(&api, point).is_some());
    }
    (mesh, points)
}

#[test]
fn a_row_of_questions_crosses_nodes_and_a_circle_is_refused_at_once() {
    let (mesh, [cloud, edge, desktop, _]) = witnesses();
    let api = Api::of(mesh.node("edge"));
    let row = json!({ "through": [&desktop, &cloud] });
    let asked = api.request(&edge, "Relay", &row, TIMEOUT).expect("the node answers");
    assert!(asked.is_ok(), "{asked:?}");
    for circle in [json!([&desktop, &edge]), json!([&desktop, &cloud, &edge]), json!([&edge])] {
        let asked = api.request(&edge, "Relay", &json!({ "through": circle }), TIMEOUT);
        let asked = asked.expect("the node answers");
        assert!(asked.json.to_string().contains("E-CYCLE\""), "{circle}: {asked:?}");
    }
}

/// Asks as somebody who leaves before the answer.
fn ask_and_leave(node: &Node, api: &Api, busy: &str, to: &str, through: &[&String]) {
    let body = json!({ "through": through }).to_string();
    let token = std::fs::read_to_string(node.data().join("admin.token")).expect("the node made a token");
    let mut client = TcpStream::connect(node.api()).expect("the node listens");
    write!(
        client,
        "POST /v1/request/{to}?method=Relay&timeout={LONG_MS}ms HTTP/1.1\r\nhost: localhost\r\n\
         authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        token.trim(),
        body.len()
    )
    .expect("it is sent");
    // A witness does one thing after the other: while it waits for another's answer, it gives none.
    let is_busy = || {
        let asked = api.request(busy, "GetRecord", &json!(null), Duration::from_millis(300));
        !asked.is_some_and(|asked| asked.is_ok())
    };
    wait(PATIENCE, "the witness waits for another", is_busy);
    drop(client);
    wait(PATIENCE, "its handler ends when nobody waits", || !is_busy());
}

#[test]
fn whoever_leaves_ends_the_work_on_every_node() {
    let (mesh, [_, edge, desktop, nowhere]) = witnesses();
    let api = Api::of(mesh.first());
    // On the node behind the door, one hop away, and at the end of two.
    ask_and_leave(mesh.node("edge"), &api, &edge, &edge, &[&nowhere]);
    ask_and_leave(mesh.first(), &api, &edge, &edge, &[&nowhere]);
    ask_and_leave(mesh.node("edge"), &api, &desktop, &edge, &[&desktop, &nowhere]);
}

#[test]
fn what_is_acknowledged_on_one_node_is_there_on_the_others() {
    let (mesh, _) = witnesses();
    let (cloud, edge) = (mesh.first(), mesh.node("edge"));
    let api = Api::of(edge);
    for number in 0..20 {
        let point = format!("mesh-test:new-{number}");
        let config = "mesh-test:repo:witness:1.0.0:/config/witness.mechtron";
        cloud.exec(&format!("create {point}<Mechtron>{{ +config={config} }}")).ok();
        assert!(edge.run(["get", &point]).ok().contains("new-"));
        assert!(record(&api, &point).is_some(), "{point}");
    }
    let all = edge.run(["scatter", "mesh-test:*<Mechtron>[not exists(place)]^Ext<GetRecord>"]).ok();
    assert_eq!(all.lines().filter(|line| line.starts_with("mesh-test:new-")).count(), 20, "{all}");
}

#[test]
fn a_state_of_the_mesh_survives_its_node_and_replicas_live_on_several() {
    let (mut mesh, _) = witnesses();
    let api = Api::of(mesh.first());
    let place = "+place=[at in (\"edge\", \"desktop\")]";
    let kept = witness(mesh.first(), "kept", &format!(", {place}, +durability=mesh"));
    let both = witness(mesh.first(), "both", &format!(", {place}, +replicas=2"));
    wait(PATIENCE, "the witnesses answer", || record(&api, &kept).is_some() && record(&api, &both).is_some());
    for number in 0..3 {
        assert!(mark(&api, &kept, number, TIMEOUT).is_some_and(|asked| asked.is_ok()), "{number}");
    }
    // Each node asks its own, which has a state of its own.
    for node in ["edge", "desktop"] {
        let own = Api::of(mesh.node(node));
        assert!(mark(&own, &both, 0, TIMEOUT).is_some_and(|asked| asked.is_ok()), "{node}");
        assert!(record(&own, &both).is_some_and(|record| (record.end, record.again) == (1, 0)), "{node}");
    }
    let (victim, _) = placed(&api, &kept).expect("it lives somewhere");
    mesh.node_mut(&victim).kill();
    wait(PATIENCE, "it answers elsewhere", || record(&api, &kept).is_some());
    assert_eq!(record(&api, &kept).map(|record| record.end), Some(3));
    assert_ne!(placed(&api, &kept).map(|(node, _)| node), Some(victim));
}
