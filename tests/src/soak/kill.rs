//! Promises 1 and 2 under kill -9: what was acknowledged is there, and a watch misses and repeats nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Api;
use crate::{Node, Serve};

/// By when a node that was killed is to be ready again, in all but a hundredth of the cases.
const RESTART: Duration = Duration::from_secs(2);

/// What a run saw.
#[derive(Debug)]
pub struct KillFigures {
    /// How often the node was killed while clients wrote.
    pub kills: usize,
    /// Creates that were acknowledged.
    pub acknowledged: usize,
    /// Creates whose answer was lost: they may be there or not.
    pub unknown: usize,
    /// Acknowledged creates that are not there.
    pub lost: usize,
    /// Resources that are there though nobody asked for them.
    pub invented: usize,
    /// Resources that the watch did not tell.
    pub missed: usize,
    /// Resources that the watch told more than once.
    pub repeated: usize,
    /// Changes that came with a revision not above the one before.
    pub reordered: usize,
    /// How often the watch was resumed by its token.
    pub resumed: usize,
    /// From the start of the process to its ready line, each.
    pub restarts: Vec<Duration>,
}

impl KillFigures {
    /// Whether both promises were kept, and the run did its work.
    pub fn kept(&self) -> bool {
        let broken = self.lost + self.invented + self.missed + self.repeated + self.reordered;
        broken == 0 && self.unknown == 0 && self.resumed >= self.kills.min(1)
    }

    /// Whether the node was ready again as soon as is promised. A test does not judge it, since its machine may be busy.
    pub fn in_time(&self) -> bool {
        self.restart(99) < RESTART
    }

    /// How long a share of the restarts took at most.
    fn restart(&self, percent: usize) -> Duration {
        let mut restarts = self.restarts.clone();
        restarts.sort_unstable();
        let last = restarts.len().saturating_sub(1);
        restarts.get((restarts.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }
}

impl fmt::Display for KillFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kills={} acknowledged={} unknown={} lost={} invented={} missed={} repeated={} reordered={} resumed={} \
             restart_p50={:?} restart_p99={:?}",
            self.kills,
            self.acknowledged,
            self.unknown,
            self.lost,
            self.invented,
            self.missed,
            self.repeated,
            self.reordered,
            self.resumed,
            self.restart(50),
            self.restart(99),
        )
    }
}

/// Tells clients how often the node was started, so that they wait for the next start instead of asking in a loop.
#[derive(Default)]
struct Lives {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Lives {
    fn now(&self) -> u64 {
        *self.count.lock().expect("nobody panics with it")
    }

    fn begin(&self) {
        *self.count.lock().expect("nobody panics with it") += 1;
        self.changed.notify_all();
    }

    fn wait_after(&self, life: u64) -> u64 {
        let count = self.count.lock().expect("nobody panics with it");
        *self.changed.wait_while(count, |count| *count <= life).expect("nobody panics with it")
    }
}

/// Kills the node `kills` times while `clients` create `creates` resources, and watches them all the time. The registry is
/// in a file of the node, or where `registry` says.
pub fn kill_during_creates(
    registry: Option<String>,
    kills: usize,
    creates: usize,
    clients: usize,
) -> KillFigures {
    let mut node = Node::serve(Serve { registry, ..Serve::named("node-1") });
    node.exec("create load<Space>").ok();
    let api = Api::of(&node);
    let lives = Lives::default();
    let next = AtomicU64::new(0);
    let acknowledged = Mutex::new(BTreeSet::new());
    let unknown = Mutex::new(BTreeSet::new());
    let progress = Condvar::new();
    let mut restarts = Vec::new();

    let (watched, resumed) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&api, &lives, creates as u64));
        for _ in 0..clients {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= creates as u64 {
                        break;
                    }
                    create(&api, &lives, number, &acknowledged, &unknown);
                    progress.notify_all();
                }
            });
        }
        for kill in 1..=kills {
            let due = creates * kill / (kills + 1);
            let done = acknowledged.lock().expect("nobody panics with it");
            drop(progress.wait_while(done, |done| done.len() < due).expect("nobody panics with it"));
            node.kill();
            let begun = Instant::now();
            node.restart();
            restarts.push(begun.elapsed());
            lives.begin();
        }
        watcher.join().expect("the watch ends")
    });

    let there = api.points("load:*");
    let acknowledged = acknowledged.into_inner().expect("nobody panics with it");
    let unknown = unknown.into_inner().expect("nobody panics with it");
    let told: BTreeMap<&str, usize> = watched.iter().fold(BTreeMap::new(), |mut told, (_, point)| {
        *told.entry(point.as_str()).or_default() += 1;
        told
    });
    KillFigures {
        kills,
        acknowledged: acknowledged.len(),
        unknown: unknown.len(),
        lost: acknowledged.iter().filter(|point| !there.contains(*point)).count(),
        invented: there
            .iter()
            .filter(|point| !acknowledged.contains(*point) && !unknown.contains(*point))
            .count(),
        missed: there.iter().filter(|point| !told.contains_key(point.as_str())).count(),
        repeated: told.values().filter(|times| **times > 1).count(),
        reordered: watched.windows(2).filter(|pair| pair[0].0 > pair[1].0).count(),
        resumed,
        restarts,
    }
}

/// Creates a resource until an answer comes; a create whose answer was lost counts as unknown until it is seen there.
fn create(
    api: &Api,
    lives: &Lives,
    number: u64,
    acknowledged: &Mutex<BTreeSet<String>>,
    unknown: &Mutex<BTreeSet<String>>,
) {
    let point = format!("load:n-{number}");
    let body = json!({ "point": point, "kind": "Base" });
    loop {
        let life = lives.now();
        match api.post("/v1/resources", &body) {
            Some((201, _)) => break,
            // The answer before was lost, and the write was not.
            Some((409, _)) if unknown.lock().expect("nobody panics with it").remove(&point) => break,
            Some((status, answer)) => panic!("creating {point} answered {status}: {answer}"),
            None => {
                unknown.lock().expect("nobody panics with it").insert(point.clone());
                lives.wait_after(life);
            }
        }
    }
    unknown.lock().expect("nobody panics with it").remove(&point);
    acknowledged.lock().expect("nobody panics with it").insert(point);
}

/// Watches until `count` resources entered; answers them with their revisions, and how often it resumed.
fn watch(api: &Api, lives: &Lives, count: u64) -> (Vec<(u64, String)>, usize) {
    let (mut entered, mut token, mut resumed) = (Vec::new(), String::new(), 0);
    loop {
        let life = lives.now();
        let since = if token.is_empty() { String::new() } else { format!("&since={token}") };
        if let Some(events) = api.events(&format!("/v1/watch?select=load:*{since}")) {
            resumed += usize::from(!token.is_empty());
            for event in events {
                take(&event, &mut entered);
                if let Some(next) = event["token"].as_str() {
                    token = next.to_owned();
                }
                if entered.len() as u64 >= count {
                    return (entered, resumed);
                }
            }
        }
        if entered.len() as u64 >= count {
            return (entered, resumed);
        }
        lives.wait_after(life);
    }
}

fn take(event: &Value, entered: &mut Vec<(u64, String)>) {
    let revision = event["revision"].as_u64().unwrap_or_default();
    let point = |resource: &Value| resource["point"].as_str().expect("a resource has a point").to_owned();
    match event["event"].as_str() {
        Some("listed") => {
            let listed = event["resources"].as_array().expect("a list");
            entered.extend(listed.iter().map(|resource| (revision, point(resource))));
        }
        Some("changed") => {
            for change in event["changes"].as_array().expect("changes") {
                assert_eq!(change["change"], "entered", "nobody changes or deletes: {change}");
                entered.push((revision, point(&change["resource"])));
            }
        }
        Some("bookmark") => {}
        _ => panic!("nothing else was to be told: {event}"),
    }
}
