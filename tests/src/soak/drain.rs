//! Promise 25: a node that is drained, stopped and started again fails no request.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Report;
use crate::Api;
use crate::mesh::{Mesh, Plan, hold, mark, record, wait};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a request may take, all its tries together.
const TIMEOUT: Duration = Duration::from_secs(10);
const NAMES: [&str; 3] = ["cloud", "edge-1", "edge-2"];
/// How many mechtrons there are; they can live on all nodes.
const WITNESSES: usize = 6;

/// Drains, stops and starts each of three nodes in turn, `rounds` times, while clients ask `per_second` times a second in
/// all. They ask at the doors of the nodes that stay.
pub fn rolling_restarts(rounds: usize, per_second: u32) -> Report {
    let mut mesh = Mesh::on_loopback(&NAMES.map(Plan::relay));
    mesh.wait_ready(NAMES.len(), PATIENCE);
    mesh.publish_witness();
    let points: Vec<String> = (0..WITNESSES)
        .map(|number| {
            mesh.witness(&format!("w-{number}"), &format!("[at in (\"{}\")]", NAMES.join("\", \"")))
        })
        .collect();
    let apis = NAMES.map(|name| Api::of(mesh.node(name)));
    for point in &points {
        wait(PATIENCE, "the witness answers", || record(&apis[0], point).is_some());
    }

    let (ends, leaving) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (ok, again, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let first = Mutex::new(None);
    std::thread::scope(|scope| {
        for (client, point) in points.iter().enumerate() {
            let (apis, ends, leaving, ok, again, failed) = (&apis, &ends, &leaving, &ok, &again, &failed);
            let first = &first;
            let pace = Duration::from_secs(1) * WITNESSES as u32 / per_second.max(1);
            scope.spawn(move || {
                let mut due = Instant::now();
                for number in 0.. {
                    if ends.load(Ordering::Relaxed) {
                        return;
                    }
                    hold(due.saturating_duration_since(Instant::now()));
                    due += pace;
                    let begun = Instant::now();
                    let answered = loop {
                        // A door that does not close meanwhile: not that of the node that leaves.
                        let door = (leaving.load(Ordering::Relaxed) + 1 + client % 2) % NAMES.len();
                        match mark(&apis[door], point, number, TIMEOUT) {
                            Some(asked) if asked.is_ok() => break true,
                            Some(asked) if asked.outcome == "rejected" && begun.elapsed() < TIMEOUT => {
                                again.fetch_add(1, Ordering::Relaxed);
                            }
                            other => {
                                first.lock().expect("nobody panics").get_or_insert(format!("{other:?}"));
                                break false;
                            }
                        }
                    };
                    let count = if answered { ok } else { failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for turn in 0..rounds * NAMES.len() {
            let name = NAMES[turn % NAMES.len()];
            leaving.store(turn % NAMES.len(), Ordering::Relaxed);
            let other = NAMES[(turn + 1) % NAMES.len()];
            mesh.node(other).run(["node", "drain", name]).ok();
            let node = mesh.node_mut(name);
            assert_eq!(node.stop(), 0, "{name} stops in order");
            node.restart();
            mesh.wait_ready(NAMES.len(), PATIENCE);
        }
        let so_far = ok.load(Ordering::Relaxed);
        wait(PATIENCE, "requests go on at the end", || ok.load(Ordering::Relaxed) > so_far);
        ends.store(true, Ordering::Relaxed);
    });
    let mut report = Report::of("P25");
    report.figure("restarts", rounds * NAMES.len());
    report.at_least("ok", ok.into_inner(), rounds * NAMES.len() * 10);
    report.figure("tried_again", again.into_inner());
    report.none("failed", failed.into_inner());
    report.figure("first_failure", first.into_inner().expect("nobody panics").unwrap_or_default());
    report
}
