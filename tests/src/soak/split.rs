//! Promise 14: after a network was split, or all nodes were started anew, all know the same again and reach each other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Report;
use crate::Api;
use crate::mesh::{Mesh, Plan, hold, mark, placed, ready, record, wait};
use crate::net::{Lab, Space};

const PATIENCE: Duration = Duration::from_secs(120);
const TIMEOUT: Duration = Duration::from_secs(1);
const NAMES: [&str; 5] = ["n-1", "n-2", "n-3", "n-4", "n-5"];
/// By when all agree again after a split, and after a start of all.
const PROMISED: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(15)];

/// What to do to the five nodes.
#[derive(Debug, Clone, Copy)]
pub struct Splits {
    /// How many of the fifteen ways to split five nodes in two.
    pub two_way: usize,
    /// How many cuts of one node's words to another.
    pub one_way: usize,
    /// How long each is held.
    pub held: Duration,
    /// How often all nodes are killed and started at once.
    pub restarts: usize,
}

/// Splits five nodes, heals, and asks until all agree and each reaches a mechtron on each other.
pub fn partitions(lab: Lab, splits: Splits) -> Report {
    let mut mesh = Mesh::in_lab(lab, &NAMES.map(Plan::relay));
    mesh.wait_ready(NAMES.len(), PATIENCE);
    mesh.publish_witness();
    let points = NAMES.map(|name| mesh.witness(&format!("on-{name}"), &format!("[at = \"{name}\"]")));
    let spaces = NAMES.map(|name| mesh.space(name));
    agreed(&mesh, &points);

    let (mut slowest, mut inside) = ([Duration::ZERO; 2], 0);
    // A set of nodes without the first, as bits: with the others it is one of the fifteen splits.
    for set in (1_usize..16).take(splits.two_way) {
        let (others, some): (Vec<usize>, Vec<usize>) = (0..5).partition(|node| set << 1 >> node & 1 == 0);
        let side = |nodes: &[usize]| nodes.iter().map(|node| &spaces[*node]).collect::<Vec<&Space>>();
        mesh.lab().split(&side(&others), &side(&some));
        inside += works_inside(&mesh, &points, &others);
        hold(splits.held);
        mesh.lab().heal();
        slowest[0] = slowest[0].max(agreed(&mesh, &points));
    }
    for cut in 0..splits.one_way {
        let (from, to) = (cut % 5, (cut + 1 + cut / 5) % 5);
        mesh.lab().cut_one_way(&spaces[from], &spaces[to]);
        hold(splits.held);
        mesh.lab().heal();
        slowest[0] = slowest[0].max(agreed(&mesh, &points));
    }
    for _ in 0..splits.restarts {
        mesh.nodes_mut().iter_mut().for_each(crate::Node::kill);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for node in mesh.nodes_mut() {
                scope.spawn(|| node.restart());
            }
        });
        agreed(&mesh, &points);
        slowest[1] = slowest[1].max(begun.elapsed());
    }

    let mut report = Report::of("P14");
    report.figure("splits", splits.two_way);
    report.figure("one_way_cuts", splits.one_way);
    report.figure("restarts_of_all", splits.restarts);
    report.at_least("packets_cut", mesh.lab().dropped() as usize, splits.two_way);
    report.at_least("worked_on_the_registrys_side", inside, splits.two_way);
    report.within("agreed_after_a_split", slowest[0], PROMISED[0]);
    report.within("agreed_after_a_start", slowest[1], PROMISED[1]);
    report
}

/// Whether the nodes on the registry's side of a split go on reaching the mechtrons there: 1 or 0.
fn works_inside(mesh: &Mesh, points: &[String; 5], side: &[usize]) -> usize {
    let apis: Vec<Api> = side.iter().map(|node| Api::of(mesh.node(NAMES[*node]))).collect();
    wait(PATIENCE, "one side goes on with what it has", || {
        apis.iter().all(|api| side.iter().all(|node| record(api, &points[*node]).is_some()))
    });
    1
}

/// Waits until all nodes know the same and each reaches a mechtron on each; answers how long that took.
fn agreed(mesh: &Mesh, points: &[String; 5]) -> Duration {
    let apis: Vec<Api> = mesh.nodes().iter().map(Api::of).collect();
    wait(PATIENCE, "all nodes agree and reach each other", || {
        let same =
            |seen: Vec<Option<Value>>| seen[0].is_some() && seen.windows(2).all(|pair| pair[0] == pair[1]);
        apis.iter().all(|api| ready(api).is_some_and(|ready| ready.len() == NAMES.len()))
            && same(apis.iter().map(resources).collect())
            && same(mesh.nodes().iter().map(graph).collect())
            && apis.iter().all(|api| points.iter().all(|point| placed(api, point).is_some()))
            && apis.iter().all(|api| points.iter().all(|point| reached(api, point)))
    })
}

fn reached(api: &Api, point: &str) -> bool {
    mark(api, point, 0, TIMEOUT).is_some_and(|asked| asked.is_ok())
}

fn resources(api: &Api) -> Option<Value> {
    let (status, page) = api.get("/v1/resources?select=mesh-test:**&limit=1000")?;
    (status == 200).then(|| page["resources"].clone())
}

/// Who is reached and which links are up, without what every node measures for itself.
fn graph(node: &crate::Node) -> Option<Value> {
    let answer = node.run(["node", "graph", "-o", "json"]);
    let graph: Value = (answer.code == 0).then(|| serde_json::from_str(&answer.out).expect("JSON"))?;
    let nodes = graph["nodes"].as_array()?.iter().filter(|node| node["hops"].is_u64());
    let nodes: Vec<_> = nodes.map(|node| node["name"].clone()).collect();
    let links: Vec<_> =
        graph["links"].as_array()?.iter().map(|link| [link["a"].clone(), link["b"].clone()]).collect();
    Some(json!([nodes, links]))
}
