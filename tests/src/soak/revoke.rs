//! Promise 7: who is revoked is out at once, and does not come back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Report;
use crate::Api;
use crate::mesh::{Mesh, Plan, mark, ready, record, wait};

const PATIENCE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(1);
/// By when a revoked node's links are closed.
const PROMISED: Duration = Duration::from_secs(5);
const NAMES: [&str; 5] = ["cloud", "edge-1", "edge-2", "edge-3", "edge-4"];
const VICTIM: &str = "edge-3";

/// Lets five nodes ask each other's mechtrons, revokes one of them, and starts its process again `returns` times.
pub fn a_revoked_node(returns: usize) -> Report {
    let plans: Vec<Plan<'_>> = std::iter::once(Plan::relay(NAMES[0]))
        .chain(NAMES[1..].iter().map(|name| Plan::leaf(name)))
        .collect();
    let mut mesh = Mesh::on_loopback(&plans);
    mesh.wait_ready(NAMES.len(), PATIENCE);
    mesh.publish_witness();
    let points = NAMES.map(|name| mesh.witness(&format!("on-{name}"), &format!("[at = \"{name}\"]")));
    let apis = NAMES.map(|name| Api::of(mesh.node(name)));
    for point in &points {
        wait(PATIENCE, "the witness answers", || record(&apis[0], point).is_some());
    }

    let (revoked, ends) = (AtomicBool::new(false), AtomicBool::new(false));
    let (before, others) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let at = NAMES.iter().position(|name| *name == VICTIM).expect("it is one of them");
    let closed = std::thread::scope(|scope| {
        for (node, api) in apis.iter().enumerate() {
            let (points, revoked, ends, before, others) = (&points, &revoked, &ends, &before, &others);
            scope.spawn(move || {
                for number in 0.. {
                    if ends.load(Ordering::Relaxed) {
                        return;
                    }
                    let to = (node + 1 + number as usize % 4) % 5;
                    let ok = mark(api, &points[to], number, TIMEOUT).is_some_and(|asked| asked.is_ok());
                    if !revoked.load(Ordering::Relaxed) {
                        before.fetch_add(usize::from(ok), Ordering::Relaxed);
                    } else if node != at && to != at {
                        others.fetch_add(usize::from(ok), Ordering::Relaxed);
                    }
                }
            });
        }
        wait(PATIENCE, "all exchange messages", || before.load(Ordering::Relaxed) > 200);
        mesh.first().run(["node", "revoke", VICTIM]).ok();
        let begun = Instant::now();
        revoked.store(true, Ordering::Relaxed);
        wait(PATIENCE, "the revoked node reaches nobody, and nobody it", || {
            NAMES.iter().enumerate().filter(|(node, _)| *node != at).all(|(node, _)| {
                record(&apis[at], &points[node]).is_none() && record(&apis[node], &points[at]).is_none()
            })
        });
        let closed = begun.elapsed();
        others.store(0, Ordering::Relaxed);
        wait(PATIENCE, "the others go on", || others.load(Ordering::Relaxed) > 50);
        ends.store(true, Ordering::Relaxed);
        closed
    });

    let mut came_back = 0;
    for _ in 0..returns {
        let victim = mesh.node_mut(VICTIM);
        victim.kill();
        victim.restart_unready();
        // For as long as it takes the others to exchange some messages.
        for number in 0..20 {
            assert!(mark(&apis[0], &points[1], number, PATIENCE).is_some_and(|asked| asked.is_ok()));
            came_back += usize::from(ready(&apis[0]).expect("the first node answers").contains(VICTIM));
            came_back += usize::from(record(&apis[0], &points[at]).is_some());
        }
    }
    let mut report = Report::of("P07");
    report.at_least("answers_before", before.into_inner(), 200);
    report.at_least("answers_of_others_after", others.into_inner(), 50);
    report.within("closed_after", closed, PROMISED);
    report.figure("returns", returns);
    report.none("came_back", came_back);
    report
}
