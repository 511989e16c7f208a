//! Promise 2: a watch misses nothing, repeats nothing and reorders nothing, and no commit is told in parts, while the
//! registry's node is killed, nodes are cut off from each other and, on etcd, the history is forgotten early.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use resource_registry::store::{EtcdConfig, EtcdStore, Store as _};
use serde_json::{Value, json};
use starlane_core::Revision;

use super::Report;
use super::linear::Store;
use super::told::{Commits, Told};
use crate::Api;
use crate::api::{Lost, Request};
use crate::etcd::Etcd;
use crate::mesh::{Mesh, Plan, hold, wait};
use crate::net::{Lab, Space};
use crate::seeded::Random;

const NODES: [&str; 2] = ["cloud", "edge"];
const WRITERS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(300);
/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);
/// How often the history is forgotten, and how many revisions of it are kept.
const FORGET: Duration = Duration::from_millis(200);
const KEPT: u64 = 200;
/// How often it is forgotten at least, whatever else is done by then.
const FORGOTTEN: usize = 5;
/// What is made last, so that each watch knows that it told all.
const END: &str = "watched:end";

/// What is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Watching {
    /// Where the registry is.
    pub store: Store,
    /// How many watches there are; half of them at each node.
    pub watches: usize,
    /// How many changes are acknowledged at least.
    pub changes: usize,
    /// How often the nodes are cut off from each other.
    pub cuts: usize,
    /// How often the registry's node is killed.
    pub kills: usize,
    /// Whether the history is forgotten all the time; only on etcd, where this is done from outside.
    pub forget: bool,
}

/// What clients were told of their writes.
#[derive(Default)]
struct Acknowledged {
    /// Which revision wrote what.
    written: Vec<(u64, String)>,
    /// What went at once.
    deleted: Vec<Vec<String>>,
    unheard: usize,
}

/// Watches from two nodes while clients change what is watched. `None` when there is no etcd and one is asked for.
///
/// # Panics
/// When nothing goes on any more.
pub fn watches_under_faults(lab: Lab, asked: Watching) -> Option<Report> {
    let forgets = usize::from(asked.forget && asked.store == Store::Etcd);
    let mut etcd = None;
    let mut mesh = Mesh::in_lab(lab, &[]);
    mesh.add_keeping(Plan::relay(NODES[0]), |serve| {
        if asked.store == Store::Etcd {
            etcd = serve.space.as_ref()?.inside(|| Etcd::start(3));
        }
        etcd.as_ref().map(|etcd| etcd.address("watch"))
    });
    if asked.store == Store::Etcd && etcd.is_none() {
        return None;
    }
    mesh.add(Plan::leaf(NODES[1]));
    mesh.wait_ready(2, PATIENCE);
    mesh.first().exec("create watched<Space>").ok();
    let [cloud, edge] = NODES.map(|name| mesh.space(name));
    let apis = |count: usize| -> Vec<Api> {
        (0..count).map(|number| Api::of(mesh.node(NODES[number % NODES.len()]))).collect()
    };
    let (watchers, writers) = (apis(asked.watches), apis(WRITERS));

    let (commits, done) = (Commits::default(), AtomicUsize::new(0));
    let (over, forgotten, resumed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let (told, acknowledged): (Vec<Told>, Vec<Acknowledged>) = std::thread::scope(|scope| {
        let watchers: Vec<_> = watchers
            .into_iter()
            .map(|api| {
                let (commits, resumed) = (&commits, &resumed);
                scope.spawn(move || watch(&api.entered(), commits, resumed))
            })
            .collect();
        if let Some(etcd) = etcd.as_ref().filter(|_| asked.forget) {
            let (address, cloud, over, forgotten) = (etcd.address("watch"), &cloud, &over, &forgotten);
            scope.spawn(move || forget(&address, cloud, over, forgotten));
        }
        let clients: Vec<_> = writers
            .into_iter()
            .enumerate()
            .map(|(by, api)| {
                let (over, done) = (&over, &done);
                scope.spawn(move || write(&api.entered(), by, over, done))
            })
            .collect();
        let faults = asked.cuts + asked.kills;
        let due = |part: usize| {
            let goal = asked.changes * part / (faults + 1);
            wait(PATIENCE, "changes go on", || done.load(Ordering::Relaxed) >= goal);
        };
        for fault in 0..faults {
            due(fault + 1);
            // They are mixed as evenly as their numbers permit.
            if (fault + 1) * asked.kills / faults > fault * asked.kills / faults {
                let node = mesh.node_mut(NODES[0]);
                node.kill();
                node.restart();
            } else {
                let before = done.load(Ordering::Relaxed);
                mesh.lab().cut(&cloud, &edge);
                // Every other one lasts longer than a link does.
                hold(Duration::from_secs(if fault % 2 == 0 { 2 } else { 8 }));
                if forgets > 0 {
                    // And than the history is kept.
                    wait(PATIENCE, "changes go on", || {
                        done.load(Ordering::Relaxed) > before + 2 * KEPT as usize
                    });
                    let forgot = forgotten.load(Ordering::Relaxed);
                    wait(PATIENCE, "it is forgotten", || forgotten.load(Ordering::Relaxed) > forgot + 1);
                }
                mesh.lab().heal();
            }
        }
        due(faults + 1);
        wait(PATIENCE, "the history is forgotten", || {
            forgotten.load(Ordering::Relaxed) >= forgets * FORGOTTEN
        });
        over.store(true, Ordering::Relaxed);
        let acknowledged = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        wait(PATIENCE, "the last is made", || {
            let made = mesh.first().exec(&format!("create? {END}<Base>"));
            made.code == 0
        });
        (watchers.into_iter().map(|watcher| watcher.join().expect("a watch")).collect(), acknowledged)
    });

    let there = there_at_the_end(&Api::of(mesh.first()));
    let all = commits.all();
    let has = |(revision, point): &(u64, String)| {
        let commit = all.get(revision);
        commit.is_some_and(|commit| {
            commit.iter().any(|(there, change, at)| there == point && *change != 'l' && at == revision)
        })
    };
    // Each of these points was made once, so it left in one commit.
    let mut left: BTreeMap<&str, u64> = BTreeMap::new();
    for (revision, commit) in &all {
        left.extend(commit.iter().filter(|change| change.1 == 'l').map(|change| (&*change.0, *revision)));
    }
    let together = |points: &Vec<String>| {
        let revisions: BTreeSet<Option<&u64>> = points.iter().map(|point| left.get(&**point)).collect();
        revisions.len() == 1 && !revisions.contains(&None)
    };
    let sum = |count: fn(&Told) -> usize| told.iter().map(count).sum::<usize>();
    let count = |count: fn(&Acknowledged) -> usize| acknowledged.iter().map(count).sum::<usize>();
    let mut report = Report::of("P02");
    report.figure("store", asked.store);
    report.figure("watches", told.len());
    report.at_least("changes", count(|told| told.written.len() + told.deleted.len()), asked.changes);
    report.figure("unheard", count(|told| told.unheard));
    report.at_least("several_at_once", count(|told| told.deleted.len()), asked.changes / 20);
    report.figure("commits", all.len());
    report.at_least("cuts", asked.cuts, 1);
    report.at_least("packets_cut", mesh.lab().dropped() as usize, asked.cuts);
    report.at_least("kills", asked.kills, 1);
    report.at_least("resumed", resumed.load(Ordering::Relaxed), asked.watches / 4);
    report.at_least("forgotten", forgotten.load(Ordering::Relaxed), forgets * FORGOTTEN);
    report.at_least("gone", sum(|told| told.gone), forgets);
    let lost = acknowledged.iter().flat_map(|told| &told.written).filter(|written| !has(written)).count();
    report.none("acknowledged_and_never_told", if forgets == 0 { lost } else { 0 });
    report.none("missed", told.iter().map(|told| told.missed(&all)).sum());
    report.none("repeated", sum(|told| told.repeated));
    report.none("reordered", sum(|told| told.reordered));
    let apart = acknowledged.iter().flat_map(|told| &told.deleted).filter(|points| !together(points)).count();
    report.none("split", sum(|told| told.split) + if forgets == 0 { apart } else { 0 });
    report.none("not_as_in_the_store", told.iter().filter(|told| told.there != there).count());
    Some(report)
}

/// Everything that is watched as it was when the last was made, each with the revision that wrote it. What nobody heard of may
/// be done later still.
fn there_at_the_end(api: &Api) -> BTreeMap<String, u64> {
    let (_, end) = api.get(&format!("/v1/resources/{END}")).expect("the node answers");
    let (mut there, mut cursor, (_, at)) = (BTreeMap::new(), String::new(), written(&end));
    loop {
        let page = api.get(&format!("/v1/resources?select=watched:**&limit=1000&at={at}{cursor}"));
        let (status, page) = page.expect("the node answers");
        assert_eq!(status, 200, "{page}");
        there.extend(page["resources"].as_array().into_iter().flatten().map(written));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return there,
        }
    }
}

/// The point of a resource, and the revision that wrote it.
fn written(resource: &Value) -> (String, u64) {
    let point = resource["point"].as_str().expect("a resource has a point").to_owned();
    (point, resource["modified"].as_u64().expect("and a revision"))
}

/// Watches until the last is made, and goes on with its token whenever its stream ends.
fn watch(api: &Api, commits: &Commits, resumed: &AtomicUsize) -> Told {
    let (mut told, mut token) = (Told::default(), String::new());
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE * 4, "the last is never told");
        let since = if token.is_empty() { String::new() } else { format!("&since={token}") };
        told.opened();
        let stream = match api.try_stream(&format!("/v1/watch?select=watched:**{since}")) {
            Ok(stream) => stream,
            Err(None | Some(503)) => {
                hold(AGAIN);
                continue;
            }
            Err(status) => panic!("a watch was answered {status:?}"),
        };
        resumed.fetch_add(usize::from(!token.is_empty()), Ordering::Relaxed);
        for line in BufReader::new(stream).lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
            // The last line of a node that was killed may be cut off.
            let Ok(event) = serde_json::from_str::<Value>(&line) else { break };
            take(&event, &mut told, commits);
            token = event["token"].as_str().unwrap_or_default().to_owned();
            if told.there.contains_key(END) {
                return told;
            }
        }
    }
}

fn take(event: &Value, told: &mut Told, commits: &Commits) {
    let revision = event["revision"].as_u64().unwrap_or_default();
    match event["event"].as_str() {
        Some("listed") => {
            let page = event["resources"].as_array().into_iter().flatten().map(written);
            told.listed(revision, page, event["last"] == true);
        }
        Some("changed") => {
            let change = |change: &Value| {
                let (point, written) = written(&change["resource"]);
                let kind = change["change"].as_str().and_then(|kind| kind.chars().next());
                (point, kind.expect("a change has a kind"), written)
            };
            let changes = event["changes"].as_array().into_iter().flatten().map(change).collect();
            told.changed(revision, changes, commits);
        }
        Some("gone") => told.gone(),
        _ => {}
    }
}

/// Lets the store forget all but the newest revisions, again and again.
fn forget(address: &str, cloud: &Space, over: &AtomicBool, forgotten: &AtomicUsize) {
    cloud.enter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = EtcdConfig::at(address).expect("an address");
    let store = EtcdStore::open(config).expect("etcd answers");
    while !over.load(Ordering::Relaxed) {
        hold(FORGET);
        let newest = runtime.block_on(store.newest()).map_or(0, |newest| newest.0);
        let before = newest.saturating_sub(KEPT);
        let forgot = before > 0 && runtime.block_on(store.compact(Revision(before))).is_ok();
        forgotten.fetch_add(usize::from(forgot), Ordering::Relaxed);
    }
}

/// Makes families of resources, changes them, and takes each away at once, until it is over.
fn write(api: &Api, by: usize, over: &AtomicBool, done: &AtomicUsize) -> Acknowledged {
    let mut told = Acknowledged::default();
    let mut random = Random::new(by as u64);
    for number in 0.. {
        let family = format!("watched:f{by}-{number}");
        let (one, other) = (format!("{family}:a"), format!("{family}:b"));
        let mut writes = [&family, &one, &other].map(|point| create(point)).to_vec();
        for step in 0..random.below(6) {
            let point = [&family, &one, &other][random.below(3) as usize];
            let body = Some(json!({ "set": { "step": step + 1 } }));
            let path = format!("/v1/resources/{point}");
            writes.push((point.clone(), Request { method: "PATCH", path, body, if_match: None }));
        }
        let all_heard = writes.into_iter().all(|(point, request)| {
            let answer = heard(api, &request, over);
            match &answer {
                Some((200 | 201, resource)) => {
                    told.written.push((written(resource).1, point));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Some((status, problem)) => panic!("{request:?} was answered {status} {problem}"),
                None => told.unheard += 1,
            }
            answer.is_some()
        });
        // Some stay, and those of which nobody knows what became of them.
        if all_heard && random.chance(0.7) {
            let path = format!("/v1/resources/{family}?recursive=true");
            let request = Request { method: "DELETE", path, body: None, if_match: None };
            match heard(api, &request, over) {
                Some((200, _)) => {
                    told.deleted.push(vec![family, one, other]);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Some((status, problem)) => panic!("{request:?} was answered {status} {problem}"),
                None => told.unheard += 1,
            }
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
    }
    told
}

fn create(point: &str) -> (String, Request) {
    let body = Some(json!({ "point": point, "kind": "Base", "properties": { "step": 0 } }));
    (point.to_owned(), Request { method: "POST", path: "/v1/resources".to_owned(), body, if_match: None })
}

/// Asks until it is surely done or refused; `None` when nobody heard what became of it, or it is over.
fn heard(api: &Api, request: &Request, over: &AtomicBool) -> Option<(u16, Value)> {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "nothing is answered any more");
        match api.ask(request, ANSWER) {
            Ok((_, problem)) if ["E-TIMEOUT", "E-STORE"].iter().any(|code| problem["code"] == *code) => {
                return None;
            }
            Ok((503, _)) | Err(Lost::Unsent) if over.load(Ordering::Relaxed) => return None,
            Ok((503, _)) | Err(Lost::Unsent) => hold(AGAIN),
            Ok(answer) => return Some(answer),
            Err(Lost::Unheard) => return None,
        }
    }
}
