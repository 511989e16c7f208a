//! Promise 4: who watches and does not read slows nobody, and costs little memory.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Report;
use super::linear::Store;
use crate::api::Request;
use crate::etcd::Etcd;
use crate::mesh::wait;
use crate::{Api, Node, Serve};

const PATIENCE: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(60);
/// How many write at a time.
const WRITERS: usize = 4;
/// How many resources there are, which are changed again and again.
const RESOURCES: usize = 100;
/// What is promised: of the writes' slowest hundredth, and of memory for each watcher in bytes.
const RATIO: f64 = 1.1;
const MEMORY: f64 = (1 << 20) as f64;

/// What is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Slow {
    /// Where the registry is.
    pub store: Store,
    /// How many watch and read.
    pub live: usize,
    /// How often writes are measured without and with one who does not read, in turn.
    pub pairs: usize,
    /// How many changes there are in all.
    pub changes: usize,
}

/// Writes while some watch, and measures what it makes of that when one of them does not read. `None` when there is no etcd
/// and one is asked for.
///
/// # Panics
/// When the node does not answer.
pub fn a_stopped_watcher(asked: Slow) -> Option<Report> {
    let etcd = match asked.store {
        Store::Embedded => None,
        Store::Etcd => Some(Etcd::start(3)?),
    };
    let registry = etcd.as_ref().map(|etcd| etcd.address("slow"));
    let node = Node::serve(Serve { registry, ..Serve::named("node-1") });
    node.exec("create slow<Space>").ok();
    let api = Api::of(&node);
    for number in 0..RESOURCES {
        let create = json!({ "point": point(number), "kind": "Base" });
        let made = api.post("/v1/resources", &create);
        assert!(matches!(made, Some((201, _))), "{made:?}");
    }
    let each = asked.changes / (asked.pairs * 2);
    let next = AtomicU64::new(1);
    let round = || {
        let slowest = write(&api, each, &next);
        // The slowest hundredth.
        slowest[(slowest.len() * 99 / 100).min(slowest.len() - 1)]
    };
    // Memory that writing takes is taken.
    round();
    let before = memory(&node);

    let reads: Vec<AtomicU64> = (0..asked.live).map(|_| AtomicU64::new(0)).collect();
    let (mut ratios, mut after, mut resumed) = (Vec::new(), before, 0);
    let ended = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for read in &reads {
            let (api, ended) = (&api, &ended);
            scope.spawn(move || {
                let stream = api.stream("/v1/watch?select=slow:*").expect("the node answers");
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if let Some(revision) = revision(&line) {
                        read.store(revision, Ordering::Relaxed);
                    }
                    if line.contains("slow:end") {
                        ended.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
        wait(PATIENCE, "all watch", || reads.iter().all(|read| read.load(Ordering::Relaxed) > 0));
        for _ in 0..asked.pairs {
            let without = round();
            let mut stopped =
                BufReader::new(api.stream("/v1/watch?select=slow:*").expect("the node answers"));
            let mut line = String::new();
            stopped.read_line(&mut line).expect("it lists");
            let with = round();
            after = after.max(memory(&node));
            ratios.push(with.as_secs_f64() / without.as_secs_f64());
            // Who reads again is told all, or goes on with the token when the node gave it up.
            resumed += usize::from(catches_up(&api, stopped, line));
        }
        let end = json!({ "point": "slow:end", "kind": "Base" });
        assert!(matches!(api.post("/v1/resources", &end), Some((201, _))));
    });
    ratios.sort_by(f64::total_cmp);
    let mut report = Report::of("P04");
    report.figure("store", asked.store);
    report.at_least("live_watchers_that_were_told_all", ended.load(Ordering::Relaxed), asked.live);
    report.at_least("changes", next.load(Ordering::Relaxed) as usize - 1, asked.changes);
    report.at_least("caught_up", resumed, asked.pairs);
    report.figure("ratios", &ratios);
    report.below("median_ratio_of_p99", ratios[ratios.len() / 2], RATIO);
    let each = after.saturating_sub(before) as f64 / (asked.live + 1) as f64;
    report.below("bytes_for_each_watcher", each, MEMORY);
    Some(report)
}

fn point(number: usize) -> String {
    format!("slow:r-{number}")
}

/// The revision that a line of a watch tells.
fn revision(line: &str) -> Option<u64> {
    let event: Value = serde_json::from_str(line).ok()?;
    event["revision"].as_u64()
}

/// Changes resources so many times; answers how long each took, the fastest first.
fn write(api: &Api, count: usize, next: &AtomicU64) -> Vec<Duration> {
    let left = AtomicUsize::new(0);
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut took = Vec::new();
                    while left.fetch_add(1, Ordering::Relaxed) < count {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let path = format!("/v1/resources/{}", point(number as usize % RESOURCES));
                        let body = Some(json!({ "set": { "number": number } }));
                        let request = Request { method: "PATCH", path, body, if_match: None };
                        let begun = Instant::now();
                        let answer = api.ask(&request, ANSWER);
                        took.push(begun.elapsed());
                        assert!(matches!(answer, Ok((200, _))), "{answer:?}");
                    }
                    took
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
    });
    took.sort_unstable();
    took
}

/// Reads a watch that was not read to the newest revision, over another stream when this one ended; whether each revision
/// came once, in order, and what was last told of each resource is so.
fn catches_up(api: &Api, stopped: impl BufRead, first: String) -> bool {
    let (_, page) = api.get("/v1/resources?select=slow:*&limit=1000").expect("the node answers");
    let newest =
        page["resources"].as_array().into_iter().flatten().filter_map(|r| r["modified"].as_u64()).max();
    let newest = newest.expect("something was written");
    let (mut seen, mut token, mut in_order) = (0, String::new(), true);
    let mut take = |line: &str, token: &mut String| {
        let Ok(event) = serde_json::from_str::<Value>(line) else { return false };
        let at = event["revision"].as_u64().unwrap_or_default();
        in_order &= event["event"] != "changed" || at > seen;
        seen = seen.max(at);
        *token = event["token"].as_str().unwrap_or_default().to_owned();
        seen >= newest
    };
    if take(&first, &mut token) {
        return in_order;
    }
    for line in stopped.lines().map_while(Result::ok) {
        if take(&line, &mut token) {
            return in_order;
        }
    }
    let since = if token.is_empty() { String::new() } else { format!("&since={token}") };
    let again = api.stream(&format!("/v1/watch?select=slow:*{since}")).expect("the node answers");
    for line in BufReader::new(again).lines().map_while(Result::ok) {
        if take(&line, &mut token) {
            return in_order;
        }
    }
    false
}

/// How much memory a node's process has, in bytes.
fn memory(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says so");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib << 10
}
