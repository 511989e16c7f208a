//! The cable is pulled in the middle of a transfer, of a watch and of many requests.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use serde_json::json;

use super::Report;
use crate::Api;
use crate::mesh::{Mesh, Plan, hold, mark, record, wait};
use crate::net::Lab;
use crate::seeded::Random;

const PATIENCE: Duration = Duration::from_secs(300);
const TIMEOUT: Duration = Duration::from_secs(5);
const CLIENTS: u32 = 20;
/// How many resources are made before the cable is pulled, while it is, and after.
const MADE: usize = 100;

/// What happened so far; whoever waits for something is told of each change.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of the content that arrived.
    read: u64,
    /// Requests that have their outcome.
    ended: u32,
    /// Changes that the watch told.
    told: usize,
    /// Whether the cable was pulled, once.
    pulled: bool,
}

impl Progress {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("nobody panics with it"));
        self.changed.notify_all();
    }

    /// Waits until something holds.
    fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let state = self.state.lock().expect("nobody panics with it");
        let (state, waited) = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !holds(state))
            .expect("nobody panics with it");
        assert!(!waited.timed_out(), "after {PATIENCE:?} it still does not hold that {what}: {state:?}");
    }
}

/// Reads a bundle of `bytes`, watches, and asks `requests` times, all over one cable that is pulled for `held`.
pub fn pulled_in_the_middle(lab: Lab, bytes: u64, requests: u32, held: Duration) -> Report {
    let mesh = Mesh::in_lab(lab, &[Plan::relay("cloud"), Plan::leaf("edge")]);
    mesh.wait_ready(2, PATIENCE);
    mesh.publish_witness();
    let bundle = tempfile::tempdir().expect("a temporary folder");
    write(&bundle.path().join("large.bin"), bytes);
    mesh.publish("large", bundle.path());
    mesh.first().exec("create mesh-test:watched<Base>").ok();
    let witness = mesh.witness("on-cloud", "[at = \"cloud\"]");
    let [cloud, edge] = ["cloud", "edge"].map(|name| Api::of(mesh.node(name)));
    wait(PATIENCE, "the witness answers over the cable", || record(&edge, &witness).is_some());

    let progress = Progress::default();
    let outcomes = Mutex::new(BTreeMap::<String, u32>::new());
    let next = AtomicUsize::new(0);
    let (wrong, reopened, told) = std::thread::scope(|scope| {
        let transfer = scope.spawn(|| transfer(&edge, bytes, &progress));
        let watch = scope.spawn(|| watch(&edge, &progress));
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as u32;
                    if number >= requests {
                        return;
                    }
                    let asked = mark(&edge, &witness, number, TIMEOUT);
                    let outcome = asked.map_or("hung".to_owned(), |asked| asked.outcome);
                    *outcomes.lock().expect("nobody panics with it").entry(outcome).or_default() += 1;
                    progress.change(|state| state.ended += 1);
                }
            });
        }
        make(&cloud, 0);
        progress.until("all three are in their middle", |state| {
            state.read >= bytes / 4 && state.ended >= requests / 4 && state.told >= MADE / 2
        });
        mesh.lab().unplug(&mesh.space("edge"));
        progress.change(|state| state.pulled = true);
        make(&cloud, MADE);
        hold(held);
        mesh.lab().plug(&mesh.space("edge"));
        make(&cloud, MADE * 2);
        progress.until("each request has its outcome", |state| state.ended == requests);
        let (wrong, reopened) = transfer.join().expect("the transfer ends");
        (wrong, reopened, watch.join().expect("the watch ends"))
    });

    let mut noted = None;
    wait(PATIENCE, "the witness answers at the end", || {
        noted = record(&edge, &witness);
        noted.is_some()
    });
    let noted = noted.expect("it answered");
    let outcomes = outcomes.into_inner().expect("nobody panics with it");
    let count = |outcome: &str| outcomes.get(outcome).copied().unwrap_or_default() as usize;
    let ran = (noted.end - noted.missing) as usize;
    let open = count("failed") + count("unknown");
    let mut report = Report::of("cable");
    report.figure("bytes", bytes);
    report.none("bytes_wrong", wrong);
    report.figure("transfer_reopened", reopened);
    report.figure("requests", requests);
    report.at_least("ok", count("ok"), requests as usize / 4);
    report.figure("rejected", count("rejected"));
    report.figure("failed_or_unknown", open);
    report.none("hung", count("hung"));
    report.none("ran_twice", noted.again as usize);
    report.none("ok_and_did_not_run", count("ok").saturating_sub(ran));
    report.none("rejected_and_ran", ran.saturating_sub(count("ok") + open));
    report.none("watch_missed", MADE * 3 - told.len().min(MADE * 3));
    report.none("watch_repeated", told.values().filter(|times| **times > 1).count());
    report
}

/// Makes resources that the watch is to tell.
fn make(api: &Api, first: usize) {
    for number in first..first + MADE {
        let point = format!("mesh-test:watched:n-{number}");
        let (status, answer) = api
            .post("/v1/resources", &json!({ "point": point, "kind": "Base" }))
            .expect("the registry's node answers");
        assert_eq!(status, 201, "{answer}");
    }
}

/// Reads the content to its end, and waits after a quarter until the cable is pulled. Answers how many bytes are wrong, and
/// how often the stream had to be opened again where it ended.
fn transfer(api: &Api, bytes: u64, progress: &Progress) -> (usize, usize) {
    let mut expected = content(bytes);
    let (mut at, mut wrong, mut opened, mut pulled) = (0, 0, 0, false);
    let (mut buffer, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    wait(PATIENCE, "the whole content arrives", || {
        let Some(mut stream) = api.content("mesh-test:repo:large:1.0.0:/large.bin", at) else { return false };
        opened += 1;
        while at < bytes {
            let Ok(length @ 1..) = stream.read(&mut buffer) else { return false };
            expected.read_exact(&mut right[..length]).expect("it has as many bytes");
            wrong += buffer[..length].iter().zip(&right).filter(|(one, other)| one != other).count();
            at += length as u64;
            progress.change(|state| state.read = at);
            if !pulled && at >= bytes / 4 {
                progress.until("the cable was pulled", |state| state.pulled);
                pulled = true;
            }
        }
        true
    });
    (wrong, opened - 1)
}

/// Watches until all was told; answers how often each was.
fn watch(api: &Api, progress: &Progress) -> BTreeMap<String, usize> {
    let (mut told, mut token) = (BTreeMap::new(), String::new());
    wait(PATIENCE, "the watch tells all", || {
        let since = if token.is_empty() { String::new() } else { format!("&since={token}") };
        let Some(events) = api.events(&format!("/v1/watch?select=mesh-test:watched:*{since}")) else {
            return false;
        };
        for event in events {
            assert_ne!(event["event"], "gone", "the log is long enough");
            let listed = event["resources"].as_array().into_iter().flatten();
            let changed = event["changes"].as_array().into_iter().flatten();
            for resource in listed.chain(changed.map(|change| &change["resource"])) {
                let point = resource["point"].as_str().expect("a resource has a point");
                *told.entry(point.to_owned()).or_insert(0) += 1;
            }
            token = event["token"].as_str().expect("each event has a token").to_owned();
            progress.change(|state| state.told = told.len());
            if told.len() >= MADE * 3 {
                return true;
            }
        }
        false
    });
    told
}

fn write(path: &Path, bytes: u64) {
    let mut file = BufWriter::new(fs::File::create(path).expect("a file can be made"));
    std::io::copy(&mut content(bytes), &mut file).expect("it can be written");
    file.flush().expect("it can be written");
}

/// Bytes that nothing makes smaller, always the same.
fn content(bytes: u64) -> impl Read {
    struct Content(Random, Vec<u8>);
    impl Read for Content {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.1.is_empty() {
                self.1 = (0..1_024).flat_map(|_| self.0.number().to_le_bytes()).collect();
            }
            let length = buffer.len().min(self.1.len());
            buffer[..length].copy_from_slice(&self.1[..length]);
            self.1.drain(..length);
            Ok(length)
        }
    }
    Content(Random::new(7), Vec::new()).take(bytes)
}
