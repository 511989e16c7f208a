//! Promise 13 for the node that leads: of several that serve a registry in etcd, the leader is killed.

use std::time::{Duration, Instant};

use super::Report;
use crate::etcd::Etcd;
use crate::mesh::{mark, placed, publish_witness, ready, wait, witness};
use crate::registry::{joins, leader, serve};
use crate::{Api, Node, Serve};

const PATIENCE: Duration = Duration::from_secs(90);
/// By when a mechtron of a dead node answers elsewhere.
const PROMISED: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(1);
/// How many mechtrons can live on either node of the registry.
const WITNESSES: u32 = 4;

/// Kills the node that leads, again and again, and asks at a leaf until what lived there answers from the other one.
///
/// # Panics
/// When nothing goes on any more.
pub fn mechtrons_of_killed_leaders(kills: u32) -> Option<Report> {
    let etcd = Etcd::start(1)?;
    let address = etcd.address("mesh");
    let one = Node::serve(Serve { registry: Some(address.clone()), ..serve("one") });
    let two = joins(&one, "two", "registry", Some(&address));
    let edge = joins(&one, "edge", "leaf", None);
    let api = Api::of(&edge);
    let mut nodes = [one, two];
    let all_ready = || ready(&api).is_some_and(|ready| ready.len() == 3);
    wait(PATIENCE, "all nodes are ready", all_ready);
    publish_witness(&nodes[0]);
    let place = ", +place=[at = \"one\" or at = \"two\"], +durability=mesh";
    let points: Vec<String> =
        (0..WITNESSES).map(|number| witness(&nodes[0], &format!("w-{number}"), place)).collect();
    let (mut slowest, mut moved, mut stayed) = (Duration::ZERO, 0, 0);
    for kill in 1..=kills {
        for point in &points {
            wait(PATIENCE, "the witness answers", || answers(&api, point, kill));
        }
        let victim = leader(&api).expect("a node leads");
        let there: Vec<&String> = points
            .iter()
            .filter(|point| placed(&api, point).is_some_and(|(node, _)| node == victim))
            .collect();
        let node = nodes.iter_mut().find(|node| node.name() == victim).expect("it is one of them");
        node.kill();
        let begun = Instant::now();
        for point in there {
            wait(PATIENCE, "it answers elsewhere", || answers(&api, point, kill));
            moved += 1;
            stayed += usize::from(placed(&api, point).is_some_and(|(node, _)| node == victim));
        }
        slowest = slowest.max(begun.elapsed());
        node.restart();
        wait(PATIENCE, "all nodes are ready", all_ready);
        // What the next kill is to find there.
        for (point, name) in points.iter().zip(["one", "two"].into_iter().cycle()) {
            wait(PATIENCE, "it moves", || edge.run(["move", point, "--to", name]).code == 0);
        }
    }
    let mut report = Report::of("P13");
    report.at_least("leaders_killed", kills as usize, 1);
    report.at_least("mechtrons_moved", moved, kills as usize);
    report.none("still_placed_on_the_dead", stayed);
    report.within("slowest", slowest, PROMISED);
    Some(report)
}

fn answers(api: &Api, point: &str, number: u32) -> bool {
    mark(api, point, number, TIMEOUT).is_some_and(|asked| asked.is_ok())
}
