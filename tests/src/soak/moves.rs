//! A mechtron that moves under load keeps its state and its mailbox, and each request has one outcome.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use super::Report;
use crate::Api;
use crate::mesh::{Mesh, Plan, mark, placed, record, wait, witness};

const PATIENCE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(20);
const NAMES: [&str; 3] = ["cloud", "edge", "desktop"];
/// How many clients ask at the door of each node, so that there is always a mailbox to take along.
const CLIENTS: usize = 4;

/// Moves a mechtron of a durability to and fro between two nodes, while clients ask at all three.
pub fn moves_under_load(durability: &str, moves: usize) -> Report {
    let mesh = Mesh::on_loopback(&[Plan::relay(NAMES[0]), Plan::leaf(NAMES[1]), Plan::leaf(NAMES[2])]);
    mesh.wait_ready(NAMES.len(), PATIENCE);
    mesh.publish_witness();
    let place = "+place=[at in (\"edge\", \"desktop\")]";
    let point = witness(mesh.first(), "mover", &format!(", {place}, +durability={durability}"));
    let apis = NAMES.map(|name| Api::of(mesh.node(name)));
    wait(PATIENCE, "the witness answers", || record(&apis[0], &point).is_some());
    let (mut lives, mut epoch) = placed(&apis[0], &point).expect("it lives somewhere");

    let (next, ends) = (AtomicU32::new(0), AtomicBool::new(false));
    let (ok, other, during) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let first = Mutex::new(None);
    let (mut moved, mut epochs) = (0, 0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS * NAMES.len() {
            let (apis, point, next, ends) = (&apis, &point, &next, &ends);
            let (ok, other, first) = (&ok, &other, &first);
            scope.spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match mark(&apis[client % NAMES.len()], point, number, TIMEOUT) {
                        Some(asked) if asked.is_ok() => drop(ok.fetch_add(1, Ordering::Relaxed)),
                        ended => {
                            other.fetch_add(1, Ordering::Relaxed);
                            first.lock().expect("nobody panics").get_or_insert(format!("{ended:?}"));
                        }
                    }
                }
            });
        }
        for _ in 0..moves {
            let before = ok.load(Ordering::Relaxed);
            let to = if lives == NAMES[1] { NAMES[2] } else { NAMES[1] };
            let answer = mesh.first().run(["move", &point, "--to", to]);
            let now = placed(&apis[0], &point);
            moved += usize::from(answer.code == 0 && now.as_ref().is_some_and(|(node, _)| node == to));
            if let Some((node, later)) = now {
                epochs += usize::from(later > epoch);
                (lives, epoch) = (node, later);
            }
            // Some of those who ask meet the next move on its new node.
            wait(PATIENCE, "they are answered there", || ok.load(Ordering::Relaxed) > before);
            during.fetch_add(ok.load(Ordering::Relaxed) - before, Ordering::Relaxed);
        }
        ends.store(true, Ordering::Relaxed);
    });

    let noted = record(&apis[0], &point).expect("it answers at the end");
    let (ok, other) = (ok.into_inner(), other.into_inner());
    let told = (noted.end - noted.missing) as usize;
    let mut report = Report::of("moves");
    report.figure("durability", durability.to_owned());
    report.figure("ok", ok);
    report.at_least("moved", moved, moves);
    report.at_least("epochs", epochs, moves);
    report.at_least("ok_during_moves", during.into_inner(), moves);
    report.none("not_ok", other);
    report.none("ran_twice", noted.again as usize);
    report.none("ok_and_forgotten", ok.saturating_sub(told));
    report.none("ran_and_not_ok", told.saturating_sub(ok));
    if let Some(first) = first.into_inner().expect("nobody panics") {
        report.figure("the_first_that_was_not_ok", first);
    }
    report
}
