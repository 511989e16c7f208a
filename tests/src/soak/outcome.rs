//! Promise 8: a request has exactly one outcome, by its deadline, whatever is lost and whoever is killed.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::Report;
use crate::Api;
use crate::mesh::{Mesh, Plan, mark, record, wait};
use crate::net::Lab;

/// How much later than its deadline an outcome may be.
const GRACE: Duration = Duration::from_millis(100);
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node that was killed has to be back.
const PATIENCE: Duration = Duration::from_secs(60);
const EDGES: [&str; 3] = ["edge-1", "edge-2", "edge-3"];
/// How many witnesses each edge has; each has a client of its own.
const WITNESSES: usize = 4;

/// What the clients counted.
#[derive(Debug, Default)]
struct Counts {
    ok: AtomicUsize,
    rejected: AtomicUsize,
    failed: AtomicUsize,
    unknown: AtomicUsize,
    hung: AtomicUsize,
    late: AtomicUsize,
}

/// What one client knows of its witness.
struct Known {
    point: String,
    ok: u64,
    /// Those that may have run, or not.
    open: u64,
}

/// Asks witnesses on three nodes, while packets are lost and the nodes are killed one after the other. Each number is
/// asked once, so that a witness that was told it twice was asked by the mesh again.
pub fn requests_under_kills(lab: Lab, requests: u32, kills: u32, loss_percent: u8) -> Report {
    let plans: Vec<Plan<'_>> = std::iter::once(Plan::relay("cloud")).chain(EDGES.map(Plan::leaf)).collect();
    let mut mesh = Mesh::in_lab(lab, &plans);
    mesh.wait_ready(plans.len(), PATIENCE);
    mesh.publish_witness();
    let points: Vec<String> = EDGES
        .iter()
        .flat_map(|edge| (0..WITNESSES).map(move |number| (edge, number)))
        .map(|(edge, number)| mesh.witness(&format!("{edge}-{number}"), &format!("[at = \"{edge}\"]")))
        .collect();
    let api = Api::of(mesh.first());
    for point in &points {
        wait(PATIENCE, "the witness answers", || record(&api, point).is_some());
    }
    mesh.lab().lose(loss_percent);

    let counts = Counts::default();
    let (asked, progress) = (Mutex::new(0_u32), Condvar::new());
    let share = AtomicU32::new(0);
    let known: Vec<Known> = std::thread::scope(|scope| {
        let clients: Vec<_> = points
            .iter()
            .map(|point| {
                let (api, counts, asked, progress, share) = (&api, &counts, &asked, &progress, &share);
                scope.spawn(move || {
                    let mut known = Known { point: point.clone(), ok: 0, open: 0 };
                    for number in 0.. {
                        if share.fetch_add(1, Ordering::Relaxed) >= requests {
                            break;
                        }
                        ask(api, number, counts, &mut known);
                        *asked.lock().expect("nobody panics with it") += 1;
                        progress.notify_all();
                    }
                    known
                })
            })
            .collect();
        for kill in 0..kills {
            let due = requests / (kills + 1) * (kill + 1);
            let guard = asked.lock().expect("nobody panics with it");
            drop(progress.wait_while(guard, |asked| *asked < due).expect("nobody panics with it"));
            let node = mesh.node_mut(EDGES[kill as usize % EDGES.len()]);
            node.kill();
            node.restart();
        }
        clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
    });

    mesh.lab().heal();
    let (mut again, mut lost, mut invented) = (0, 0, 0);
    for Known { point, ok, open } in known {
        let mut noted = None;
        wait(PATIENCE, "each witness answers at the end", || {
            noted = record(&api, &point);
            noted.is_some()
        });
        let noted = noted.expect("it answered");
        let told = noted.end - noted.missing;
        again += noted.again as usize;
        lost += ok.saturating_sub(told) as usize;
        invented += told.saturating_sub(ok + open) as usize;
    }
    let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let mut report = Report::of("P08");
    report.figure("requests", requests);
    report.at_least("ok", count(&counts.ok), requests as usize / 4);
    report.figure("rejected", count(&counts.rejected));
    report.figure("failed", count(&counts.failed));
    report.figure("unknown", count(&counts.unknown));
    report.none("hung", count(&counts.hung));
    report.none("ran_twice", again);
    report.none("ok_and_did_not_run", lost);
    report.none("rejected_and_ran", invented);
    report.figure("later_than_allowed", count(&counts.late));
    report.at_least("kills", kills as usize, 1);
    report.at_least("packets_lost", mesh.lab().dropped() as usize, usize::from(loss_percent > 0));
    report
}

fn ask(api: &Api, number: u32, counts: &Counts, known: &mut Known) {
    let begun = Instant::now();
    let asked = mark(api, &known.point, number, TIMEOUT);
    let late = begun.elapsed() > TIMEOUT + GRACE;
    counts.late.fetch_add(usize::from(late), Ordering::Relaxed);
    let (count, ok, open) = match asked.as_ref().map(|asked| asked.outcome.as_str()) {
        Some("ok") => (&counts.ok, 1, 0),
        Some("rejected") => (&counts.rejected, 0, 0),
        Some("failed") => (&counts.failed, 0, 1),
        Some("unknown") => (&counts.unknown, 0, 1),
        _ => (&counts.hung, 0, 1),
    };
    count.fetch_add(1, Ordering::Relaxed);
    known.ok += ok;
    known.open += open;
}
