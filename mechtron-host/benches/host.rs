//! What a turn, an activation and a sleeping mechtron cost. Prints a table, and JSON to the file after `--json`.

#![expect(clippy::unwrap_used, reason = "what is unexpected here fails the run")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use mechtron_abi::{Header, Kind, MessageHead, Writer};
use mechtron_host::{Clock, Durability, EngineKind};
use starlane_core::{Method, Outcome, Payload};
use support::*;

const PINGER: &str = include_str!("../tests/guests/pinger.wat");

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let results = runtime.block_on(measure());
    let mut json = serde_json::Map::new();
    for (name, value, unit) in results {
        println!("{name:<52} {value:>14.1} {unit}");
        json.insert(format!("{name} ({unit})"), value.into());
    }
    let arguments: Vec<_> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--json")
        && let Some(file) = arguments.get(at + 1)
    {
        std::fs::write(file, serde_json::Value::Object(json).to_string()).unwrap();
    }
}

type Row = (&'static str, f64, &'static str);

async fn measure() -> Vec<Row> {
    let mut rows = Vec::new();
    let crossing = bare_crossing();
    rows.push(("bare wasmer crossing, echo of one message", crossing, "ns"));
    local_requests(&mut rows, crossing).await;
    cold_activation(&mut rows).await;
    from_the_disk(&mut rows).await;
    memory(&mut rows, "text", wat::parse_str(ECHO).unwrap(), "").await;
    if let Some(counter) = sdk_guest() {
        memory(&mut rows, "SDK", counter, "counter").await;
    }
    rows
}

fn world(shards: usize) -> World {
    World::with(EngineKind::Wasmer, |config| {
        config.shards = shards;
        config.clock = Clock::system();
    })
}

/// The same guest on the engine alone, without ticks and without a host.
fn bare_crossing() -> f64 {
    let mut store = wasmer::Store::default();
    let module = wasmer::Module::new(&store, wat::parse_str(ECHO).unwrap()).unwrap();
    let instance = wasmer::Instance::new(&mut store, &module, &wasmer::imports! {}).unwrap();
    let inbox = instance.exports.get_typed_function::<i32, i32>(&store, "mechtron_inbox").unwrap();
    let run = instance.exports.get_typed_function::<i32, i64>(&store, "mechtron_run").unwrap();
    let at = inbox.call(&mut store, 2_048).unwrap();
    let mut writer = Writer::new();
    let head = MessageHead {
        from: "bench:a".into(),
        agent: "bench:a".into(),
        method: "Ext<Ask>".into(),
        path: "/".into(),
        headers: vec![],
        remaining_ms: 30_000,
    };
    writer.frame_with_head(Header::new(Kind::Message, 1), &head, b"");
    let memory = instance.exports.get_memory("memory").unwrap();
    memory.view(&store).write(at as u64, writer.bytes()).unwrap();
    let length = writer.bytes().len() as i32;
    best(15, || {
        let start = Instant::now();
        for _ in 0..100_000 {
            run.call(&mut store, length).unwrap();
        }
        start.elapsed().as_nanos() as f64 / 100_000.0
    })
}

fn best(times: usize, mut measure: impl FnMut() -> f64) -> f64 {
    (0..times).map(|_| measure()).fold(f64::INFINITY, f64::min)
}

fn script(all: u32, at_a_time: u32) -> Vec<u8> {
    [all.to_le_bytes(), at_a_time.to_le_bytes()].concat()
}

async fn local_requests(rows: &mut Vec<Row>, crossing: f64) {
    let world = world(1);
    let (pinger, echo) = (world.module(PINGER).await, world.module(ECHO).await);
    world.place("bench:echo", &echo, Durability::Memory);
    world.ask("bench:echo", "").await;
    world.place("bench:p-0", &pinger, Durability::Memory);
    world.ask("bench:p-0", script(1_000, 1)).await;
    let mut times = Vec::new();
    for _ in 0..500 {
        let start = Instant::now();
        world.ask("bench:p-0", script(1_000, 1)).await;
        times.push(start.elapsed().as_nanos() as f64 / 1_000.0);
    }
    let (p50, p99) = percentiles(&mut times);
    rows.push(("local request, one at a time, p50 of means of 1,000", p50, "ns"));
    rows.push(("local request, one at a time, p99 of means of 1,000", p99, "ns"));
    // A request is two crossings: of the one that is asked, and of the one that gets the answer.
    rows.push(("of it above the two crossings, p50 (goal: 2,000 at most)", p50 - 2.0 * crossing, "ns"));
    rows.push(("share of it that is the bare wasmer calls", 200.0 * crossing / p50, "%"));
    rows.push(("local requests a second, one at a time", 1e9 / p50, "/s"));
    for (name, pairs, at_a_time) in [
        ("hot guest messages on one shard, 1 pair, 16 at a time", 1, 16),
        ("hot guest messages on one shard, 8 askers, 16 at a time", 8, 16),
    ] {
        for number in 0..pairs {
            world.place(&format!("bench:p-{number}"), &pinger, Durability::Memory);
        }
        let mut fastest = 0.0_f64;
        for _ in 0..5 {
            let start = Instant::now();
            let asks = (0..pairs).map(|number| {
                world.request(message(&format!("bench:p-{number}"), script(100_000, at_a_time), LONG))
            });
            futures::future::join_all(asks).await;
            // Each request is a message to the echo and a reply to the asker.
            fastest = fastest.max(f64::from(pairs) * 200_000.0 / start.elapsed().as_secs_f64());
        }
        rows.push((name, fastest, "/s"));
    }
}

async fn cold_activation(rows: &mut Vec<Row>) {
    let world = world(1);
    let echo = world.module(ECHO).await;
    world.place("bench:cold", &echo, Durability::Memory);
    let mut times = Vec::new();
    for _ in 0..2_000 {
        world.ask("bench:cold", "x").await;
        world.host.sleep(&point("bench:cold"));
        world.host.info(&point("bench:cold")).await;
        let start = Instant::now();
        world.ask("bench:cold", "x").await;
        times.push(start.elapsed().as_nanos() as f64 / 1_000.0);
    }
    let (p50, p99) = percentiles(&mut times);
    rows.push(("cold activation and first answer, p50", p50, "us"));
    rows.push(("cold activation and first answer, p99 (goal: 1,000)", p99, "us"));
}

/// What a node pays for a module that it compiled in an earlier life: reading it from the cache on the disk, checking who
/// wrote it, loading it, and the first answer.
async fn from_the_disk(rows: &mut Vec<Row>) {
    let folder = tempfile::tempdir().unwrap();
    let world = || {
        World::with(EngineKind::Wasmer, |config| {
            config.shards = 1;
            config.clock = Clock::system();
            config.cache = Some(folder.path().to_owned());
        })
    };
    world().module(ECHO).await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let world = world();
        let start = Instant::now();
        let echo = world.module(ECHO).await;
        world.place("bench:cold", &echo, Durability::Memory);
        world.ask("bench:cold", "x").await;
        times.push(start.elapsed().as_nanos() as f64 / 1_000.0);
    }
    let (p50, p99) = percentiles(&mut times);
    rows.push(("cold activation, module from the disk's cache, p50", p50, "us"));
    rows.push(("cold activation, module from the disk's cache, p99", p99, "us"));
}

/// The counter of the examples, as `make wasm` built it.
fn sdk_guest() -> Option<Vec<u8>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bundles/counter/wasm/counter.wasm");
    std::fs::read(path).inspect_err(|error| eprintln!("no SDK guest ({error}): run `make wasm`")).ok()
}

/// What a mechtron takes, live and asleep; `of` says which guest it is.
async fn memory(rows: &mut Vec<Row>, of: &'static str, wasm: Vec<u8>, name: &str) {
    const LIVE: usize = 10_000;
    let world = world(2);
    let module = world.host.compile(wasm.into()).await.unwrap();
    let points: Vec<_> = (0..LIVE).map(|number| format!("bench:m-{number}")).collect();
    for at in &points {
        world.place_with(at, &module, Durability::Memory, |activation| activation.name = name.into());
    }
    let before = resident();
    for at in &points {
        let mut first = message(at, "", LONG);
        if let Payload::Request(request) = &mut first.payload {
            request.method =
                if name.is_empty() { Method::ext("Ask") } else { Method::ext("GetTotal") }.unwrap();
        }
        let Outcome::Ok(_) = world.request(first).await else { panic!("{at} does not answer") };
    }
    let live = resident() - before;
    for at in &points {
        world.host.sleep(&point(at));
    }
    world.host.drain(Duration::from_secs(60)).await;
    let asleep = resident() - before;
    let [live_row, each_row, asleep_row, gib_row] = match of {
        "SDK" => [
            "10,000 live mechtrons, SDK guest (goal: 300 at most)",
            "of it for each",
            "each sleeping mechtron, SDK guest",
            "sleeping mechtrons a GiB, SDK guest (goal: 20,000)",
        ],
        _ => [
            "10,000 live mechtrons, guest in text form",
            "of it for each",
            "each sleeping mechtron, guest in text form",
            "sleeping mechtrons a GiB, guest in text form",
        ],
    };
    rows.push((live_row, live / 1e6, "MB"));
    rows.push((each_row, live / 1e3 / LIVE as f64, "kB"));
    rows.push((asleep_row, asleep / 1e3 / LIVE as f64, "kB"));
    rows.push((gib_row, f64::from(1 << 30) / (asleep.max(1.0) / LIVE as f64), ""));
}

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or_default() * 4_096.0
}

fn percentiles(times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
