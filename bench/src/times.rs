//! How long a node takes to join, and a mechtron to answer again when its node was killed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::Api;
use tests::mesh::{Mesh, Plan, placed, record, wait};

/// How many nodes join.
const JOINS: usize = 10;
/// How often the node of a mechtron is killed.
const KILLS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures both, prints a line for each, and answers the figures in milliseconds.
pub(crate) fn run() -> Value {
    let mut mesh = Mesh::on_loopback(&[Plan::relay("cloud")]);
    let joins = (0..JOINS).map(|number| {
        let begun = Instant::now();
        mesh.add(Plan::leaf(&format!("leaf-{number}")));
        begun.elapsed()
    });
    let join = row("a token is made, and the node that joins with it is ready", joins.collect());
    mesh.wait_ready(1 + JOINS, PATIENCE);
    mesh.publish_witness();
    let point = mesh.witness("w", "[at in (\"leaf-0\", \"leaf-1\")]");
    let api = Api::of(mesh.first());
    wait(PATIENCE, "the mechtron answers", || record(&api, &point).is_some());
    let kills = (0..KILLS).map(|_| {
        let (victim, _) = placed(&api, &point).expect("it lives somewhere");
        mesh.node_mut(&victim).kill();
        let begun = Instant::now();
        wait(PATIENCE, "the mechtron answers elsewhere", || record(&api, &point).is_some());
        let took = begun.elapsed();
        mesh.node_mut(&victim).restart();
        mesh.wait_ready(1 + JOINS, PATIENCE);
        took
    });
    let replace = row("the node of a mechtron is killed, and it answers elsewhere", kills.collect());
    json!({ "join_ms": join, "replace_ms": replace })
}

fn row(what: &str, mut times: Vec<Duration>) -> Vec<u128> {
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: median {} ms, at most {} ms, of {}", median.as_millis(), most.as_millis(), times.len());
    times.iter().map(Duration::as_millis).collect()
}
