//! Durable puts, reads and watches: on the embedded store, on etcd through ours, on that etcd alone, and on a NATS server's
//! key-value buckets, in turn in one run.

mod bare;
#[cfg(target_os = "linux")]
mod nats;
mod ours;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::BoxStream;
use resource_registry::store::{EtcdConfig, EtcdStore, RedbConfig, RedbStore};
use serde_json::{Value, json};
use tests::etcd::Etcd;
use tokio::runtime::Runtime;

/// How many put or read at the same time.
const CLIENTS: [usize; 3] = [1, 8, 64];
/// How many watch everything, and how many puts they hear of.
const WATCHERS: [usize; 2] = [1, 64];
const HEARD: u64 = 300;
/// How large a value is.
const BYTES: usize = 300;
const PATIENCE: Duration = Duration::from_secs(60);

/// Does something with the key of a number, and is done when it is: durable, or read.
type Act = Box<dyn Fn(u64) -> BoxFuture<'static, ()> + Send + Sync>;
/// Watches all keys from now on; tells the numbers of those that were put.
type Watch = Box<dyn Fn() -> BoxFuture<'static, BoxStream<'static, u64>> + Send + Sync>;

/// What is measured.
struct Subject {
    name: String,
    put: Act,
    get: Act,
    watch: Watch,
}

/// Prints the rows, and writes them where `json` says.
pub(crate) fn run(rounds: usize, seconds: f64, nats: Option<&Path>, json: Option<&Path>) {
    let Some(etcd) = Etcd::start(1) else { std::process::exit(1) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let redb = RedbStore::open(&folder.path().join("store"), &RedbConfig::default()).expect("a store");
    let config = EtcdConfig::at(&etcd.address("bench")).expect("an address");
    let store = EtcdStore::open(config).expect("etcd answers");
    let mut subjects = vec![
        ours::subject("redb", Arc::new(redb)),
        ours::subject("etcd", Arc::new(store)),
        runtime.block_on(async { bare::subject(etcd.member(0)) }),
    ];
    #[cfg(target_os = "linux")]
    let _server = nats.map(|program| {
        let server = nats::Server::start(program);
        subjects.push(runtime.block_on(server.subject()));
        server
    });
    let mut rows = Vec::new();
    let mut row = |what: &str, count: usize, name: &str, figures: Value, text: String| {
        println!("{what:<7}{count:>4}  {name:<30}{text}");
        rows.push(json!({ "what": what, "count": count, "store": name, "figures": figures }));
    };
    let last = AtomicU64::new(0);
    println!(
        "values of {BYTES} B; puts are done when the store says that they are kept; × is beside the bare etcd"
    );
    for (what, acts) in [("put", true), ("get", false)] {
        for clients in CLIENTS {
            let mut best = vec![0.0f64; subjects.len()];
            for _ in 0..rounds {
                for (subject, best) in subjects.iter().zip(&mut best) {
                    let measured = match acts {
                        true => rate(&runtime, &subject.put, clients, seconds, || {
                            last.fetch_add(1, Ordering::Relaxed)
                        }),
                        false => {
                            // Each has some keys that it surely put.
                            let first = last.fetch_add(64, Ordering::Relaxed);
                            runtime
                                .block_on(join_all((first..first + 64).map(|number| (subject.put)(number))));
                            let next = AtomicU64::new(0);
                            rate(&runtime, &subject.get, clients, seconds, || {
                                first + next.fetch_add(1, Ordering::Relaxed) % 64
                            })
                        }
                    };
                    *best = best.max(measured);
                }
            }
            for (subject, per_second) in subjects.iter().zip(&best) {
                let beside = per_second / best[2];
                let figures = json!({ "per_second": per_second, "beside_bare": beside });
                let text = format!("{per_second:>10.0}/s  {beside:>5.2} ×");
                row(what, clients, &subject.name, figures, text);
            }
        }
    }
    println!("watch: from the begin of a put until each of so many who watch heard of it");
    for watchers in WATCHERS {
        for subject in &subjects {
            let mut lags = lags(&runtime, subject, watchers, last.fetch_add(HEARD, Ordering::Relaxed));
            lags.sort_unstable();
            let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
            let (p50, p99) = (at(0.5), at(0.99));
            let text = format!("p50 {p50:>7.2} ms  p99 {p99:>7.2} ms");
            row("watch", watchers, &subject.name, json!({ "p50_ms": p50, "p99_ms": p99 }), text);
        }
    }
    if let Some(path) = json {
        std::fs::write(path, Value::from(rows).to_string()).expect("the figures are written");
    }
}

fn rate(runtime: &Runtime, act: &Act, clients: usize, seconds: f64, next: impl Fn() -> u64) -> f64 {
    let (begun, time) = (Instant::now(), Duration::from_secs_f64(seconds));
    let client = || async {
        let mut count = 0u64;
        while begun.elapsed() < time {
            act(next()).await;
            count += 1;
        }
        count
    };
    let counts = runtime.block_on(join_all((0..clients).map(|_| client())));
    counts.into_iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64()
}

/// Puts one key after another, and answers how long each watcher waited to hear of each.
fn lags(runtime: &Runtime, subject: &Subject, watchers: usize, first: u64) -> Vec<Duration> {
    runtime.block_on(async {
        let mut hearing = Vec::with_capacity(watchers);
        for _ in 0..watchers {
            let mut told = (subject.watch)().await;
            hearing.push(tokio::spawn(async move {
                let mut heard = Vec::with_capacity(HEARD as usize);
                while let Some(number) = told.next().await {
                    if number >= first {
                        heard.push((number, Instant::now()));
                    }
                    if heard.len() as u64 == HEARD {
                        break;
                    }
                }
                heard
            }));
        }
        let mut begun = Vec::with_capacity(HEARD as usize);
        for number in first..first + HEARD {
            begun.push(Instant::now());
            (subject.put)(number).await;
        }
        let heard = tokio::time::timeout(PATIENCE, join_all(hearing)).await.expect("all is heard");
        let heard = heard.into_iter().flat_map(|heard| heard.expect("it watches"));
        heard.map(|(number, at)| at - begun[(number - first) as usize]).collect()
    })
}

fn value() -> Bytes {
    Bytes::from(vec![7; BYTES])
}

/// The number that a key ends with.
fn number_of(key: &[u8]) -> Option<u64> {
    let digits = key.get(key.len().checked_sub(12)?..)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
