//! Promise 13: what lived on a node that died lives on elsewhere; and no node is taken for dead that is not.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Report;
use crate::Api;
use crate::mesh::{Mesh, Plan, hold, mark, placed, ready, wait};
use crate::net::Lab;

const PATIENCE: Duration = Duration::from_secs(60);
/// By when a mechtron of a dead node answers elsewhere.
const PROMISED: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(1);
/// How many mechtrons can live on either of two nodes.
const WITNESSES: u32 = 8;

/// Kills the node of a mechtron, again and again, and asks until it answers from another one.
pub fn mechtrons_of_killed_nodes(kills: u32) -> Report {
    let names = ["cloud", "edge-1", "edge-2"];
    let mut mesh = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::leaf("edge-1"), Plan::leaf("edge-2")]);
    mesh.wait_ready(names.len(), PATIENCE);
    mesh.publish_witness();
    let place = "[at in (\"edge-1\", \"edge-2\")]";
    let points: Vec<String> =
        (0..WITNESSES).map(|number| mesh.witness(&format!("w-{number}"), place)).collect();
    let api = Api::of(mesh.first());
    for point in &points {
        wait(PATIENCE, "the witness answers", || answers(&api, point, 0));
    }
    let (mut slowest, mut stayed, mut moved, mut old_epochs) = (Duration::ZERO, 0, 0, 0);
    for kill in 1..=kills {
        let (victim, _) = placed(&api, &points[0]).expect("it lives somewhere");
        let before: Vec<(String, u64)> =
            points.iter().map(|point| placed(&api, point).expect("it lives somewhere")).collect();
        mesh.node_mut(&victim).kill();
        let begun = Instant::now();
        for (point, (node, epoch)) in points.iter().zip(before) {
            wait(PATIENCE, "the mechtron answers elsewhere", || answers(&api, point, kill));
            let (now, next) = placed(&api, point).expect("it answered");
            if node == victim {
                moved += 1;
                stayed += usize::from(now == victim);
                old_epochs += usize::from(next <= epoch);
            }
        }
        slowest = slowest.max(begun.elapsed());
        mesh.node_mut(&victim).restart();
        mesh.wait_ready(names.len(), PATIENCE);
    }
    let mut report = Report::of("P13");
    report.at_least("kills", kills as usize, 1);
    report.at_least("mechtrons_moved", moved, kills as usize);
    report.none("still_placed_on_the_dead", stayed);
    report.none("epochs_not_newer", old_epochs);
    report.within("slowest", slowest, PROMISED);
    report
}

/// Loses packets and lets others use the processors for a while; every node must stay what it is.
pub fn no_false_deaths(lab: Lab, loss_percent: u8, hogs: usize, duration: Duration) -> Report {
    let names = ["cloud", "edge-1", "edge-2"];
    let mesh = Mesh::in_lab(lab, &[Plan::relay("cloud"), Plan::leaf("edge-1"), Plan::leaf("edge-2")]);
    mesh.wait_ready(names.len(), PATIENCE);
    mesh.publish_witness();
    let points = ["edge-1", "edge-2"].map(|name| {
        mesh.witness(name, &format!("[at in (\"edge-1\", \"edge-2\") and at != \"none-{name}\"]"))
    });
    let api = Api::of(mesh.first());
    for point in &points {
        wait(PATIENCE, "the witness answers", || answers(&api, point, 0));
    }
    let before = points.each_ref().map(|point| placed(&api, point));
    let all: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();

    mesh.lab().lose(loss_percent);
    let _hogs: Vec<Hog> = (0..hogs).map(|_| Hog::start()).collect();
    let (begun, mut looks, mut deaths) = (Instant::now(), 0, 0);
    while begun.elapsed() < duration {
        let seen = ready(&api).expect("the first node answers");
        looks += 1;
        deaths += usize::from(seen != all);
        deaths += usize::from(points.each_ref().map(|point| placed(&api, point)) != before);
        hold(Duration::from_millis(100));
    }
    let mut report = Report::of("P13");
    report.figure("for", duration);
    report.figure("hogs", hogs);
    report.at_least("packets_lost", mesh.lab().dropped() as usize, 1);
    report.at_least("looks", looks, 10);
    report.none("false_deaths", deaths);
    report
}

fn answers(api: &Api, point: &str, number: u32) -> bool {
    mark(api, point, number, TIMEOUT).is_some_and(|asked| asked.is_ok())
}

/// A process that uses a processor as much as it is let.
struct Hog(Child);

impl Hog {
    fn start() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
        Self(command.spawn().expect("a shell runs"))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
