//! What the registry costs: `cargo bench -p resource-registry --bench registry -- [--quick] [--json FILE] [PART…]`.
//!
//! Every figure comes from this run on this machine. `--quick` loads 100,000 resources in place of 1,000,000; the parts are
//! `creates`, `watches`, `memory` (of a watch), `large` and `ranges`, all of them when none is named.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing to say")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use resource_registry::{Config, Create, RESERVED_BATCH_MAX, Registry, Reserved};
use starlane_core::{Agent, Event, Kind, Point, PropertyChange, Selector, Status, Timestamp, Value};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let json =
        arguments.iter().position(|argument| argument == "--json").and_then(|at| arguments.get(at + 1));
    let resources = if arguments.iter().any(|argument| argument == "--quick") { 100_000 } else { 1_000_000 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let named = |part: &str| arguments.iter().any(|argument| argument == part);
    let all = !["creates", "watches", "memory", "large", "ranges"].into_iter().any(named);
    let figures = runtime.block_on(async {
        let mut figures = Vec::new();
        if all || named("memory") {
            // First, while nothing that was freed is there to be used again.
            watch_memory(&mut figures, 100_000).await;
        }
        if all || named("creates") {
            creates(&mut figures).await;
        }
        if all || named("watches") {
            watches(&mut figures).await;
        }
        if all || named("large") {
            large(&mut figures, resources).await;
        }
        if all || named("ranges") {
            ranges(&mut figures, resources).await;
        }
        figures
    });
    println!("\n{:<58} {:>14}  goal", "figure", "value");
    for figure in &figures {
        println!(
            "{:<58} {:>14}  {}",
            figure.name,
            format!("{:.1} {}", figure.value, figure.unit),
            figure.goal
        );
    }
    if let Some(path) = json {
        let list: Vec<_> = figures
            .iter()
            .map(|f| serde_json::json!({ "name": f.name, "value": f.value, "unit": f.unit, "goal": f.goal }))
            .collect();
        std::fs::write(path, serde_json::to_string_pretty(&list).unwrap()).unwrap();
    }
}

struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    goal: &'static str,
}

fn figure(
    list: &mut Vec<Figure>,
    name: impl Into<String>,
    value: f64,
    unit: &'static str,
    goal: &'static str,
) {
    let figure = Figure { name: name.into(), value, unit, goal };
    println!("  {}: {:.1} {}", figure.name, figure.value, figure.unit);
    list.push(figure);
}

fn config(path: &Path) -> Config {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_millis() as u64)
    };
    Config::at(path.join("registry.redb"), Arc::new(now))
}

fn by() -> Agent {
    Agent("mesh:users:ann".parse().unwrap())
}

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

fn set(key: &str, value: &str) -> PropertyChange {
    PropertyChange::Set { key: key.parse().unwrap(), value: Value::text(value), lock: false }
}

/// About 300 bytes with its point: three properties, one of them long.
fn changes(n: usize) -> Vec<PropertyChange> {
    vec![
        set("region", ["eu", "us", "asia", "africa"][n % 4]),
        set("customer", &format!("customer-{:05}", n % 50_000)),
        set("note", &format!("{n:08}{}", "x".repeat(180))),
    ]
}

async fn base(registry: &Registry, point: &str, kind: &str) {
    let create = Create::new(point.parse().unwrap(), kind.parse().unwrap());
    registry.create(&by(), create).await.unwrap();
}

async fn creates(figures: &mut Vec<Figure>) {
    for (clients, goal) in [(1, ""), (8, ""), (64, ">= 15,000")] {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(config(folder.path())).unwrap();
        base(&registry, "shop", "Space").await;
        let time = Duration::from_secs(4);
        let start = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|client| {
                let registry = registry.clone();
                tokio::spawn(async move {
                    let mut done = 0;
                    while start.elapsed() < time {
                        let mut create = Create::new(
                            point(&format!("shop:c{client}-n{done}")),
                            Kind::of(starlane_core::Base::Base),
                        );
                        create.changes = changes(done);
                        registry.create(&by(), create).await.unwrap();
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await.unwrap();
        }
        let rate = done as f64 / start.elapsed().as_secs_f64();
        figure(figures, format!("durable creates a second, {clients} clients"), rate, "/s", goal);
    }
}

async fn watches(figures: &mut Vec<Figure>) {
    for registered in [1, 1_000, 10_000, 100_000] {
        let mut matching = vec![1, 10, 100, registered];
        matching.retain(|matching| *matching <= registered);
        matching.dedup();
        for matching in matching {
            watch_lag(figures, registered, matching).await;
        }
    }
}

/// How much watches need that are told nothing, each of a selector of its own.
async fn watch_memory(figures: &mut Vec<Figure>, registered: usize) {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(config(folder.path())).unwrap();
    base(&registry, "shop", "Space").await;
    let before = resident();
    let mut open = Vec::new();
    for n in 0..registered {
        let text = format!("shop:**[owner = \"owner-{n}\" and not exists(w{n})]");
        let mut watch = registry.watch(&selector(&text), None).unwrap();
        watch.next().await.unwrap();
        open.push(watch);
    }
    let bytes = resident().saturating_sub(before) as f64 / registered as f64;
    figure(figures, format!("memory a watch, {registered} registered"), bytes, "B", "<= 1,024");
}

/// Changes one resource that some of the watches want; the others want the same place with other owners.
async fn watch_lag(figures: &mut Vec<Figure>, registered: usize, matching: usize) {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(config(folder.path())).unwrap();
    base(&registry, "shop", "Space").await;
    base(&registry, "shop:item", "Base").await;
    registry.set(&by(), &point("shop:item"), vec![set("owner", "ann")], None).await.unwrap();
    let (told, mut lags) = tokio::sync::mpsc::channel::<Duration>(100_000);
    let epoch = Instant::now();
    for n in 0..registered {
        // Each is a selector of its own.
        let owner = if n < matching { "ann".to_owned() } else { format!("owner-{n}") };
        let text = format!("shop:**[owner = \"{owner}\" and not exists(w{n})]");
        let mut watch = registry.watch(&selector(&text), None).unwrap();
        watch.next().await.unwrap();
        let told = told.clone();
        tokio::spawn(async move {
            while let Some(event) = watch.next().await {
                if let Event::Changed { changes, .. } = event {
                    let at = changes[0].resource().property("at").unwrap().as_number().unwrap();
                    let lag = epoch.elapsed().saturating_sub(Duration::from_micros(at as u64));
                    told.send(lag).await.unwrap();
                }
            }
        });
    }
    let rounds = (200_000 / matching).clamp(5, 500);
    let (mut all, mut sets) = (Vec::with_capacity(rounds * matching), Vec::with_capacity(rounds));
    for _ in 0..rounds {
        let begun = epoch.elapsed();
        let at = begun.as_micros().to_string();
        registry.set(&by(), &point("shop:item"), vec![set("at", &at)], None).await.unwrap();
        sets.push(epoch.elapsed() - begun);
        for _ in 0..matching {
            all.push(lags.recv().await.unwrap());
        }
    }
    all.sort_unstable();
    sets.sort_unstable();
    let of =
        |list: &[Duration], share: f64| list[((list.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let millis = |share| of(&all, share);
    let name = |what: &str| format!("watch lag {what}, call of set to event, {matching} of {registered}");
    // What the disk takes is in both.
    figure(
        figures,
        format!("  the durable set itself p50, {matching} of {registered}"),
        of(&sets, 0.5),
        "ms",
        "",
    );
    figure(
        figures,
        format!("  the durable set itself p99, {matching} of {registered}"),
        of(&sets, 0.99),
        "ms",
        "",
    );
    let goal = match (registered, matching) {
        (10_000, 100) => "<= 5",
        (100_000, 10) => "<= 10",
        _ => "",
    };
    figure(figures, name("p50"), millis(0.5), "ms", "");
    figure(figures, name("p99"), millis(0.99), "ms", goal);
}

async fn large(figures: &mut Vec<Figure>, resources: usize) {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(config(folder.path())).unwrap();
    base(&registry, "shop", "Space").await;
    for n in 0..100 {
        base(&registry, &format!("shop:b{n:02}"), "Base").await;
    }
    let start = Instant::now();
    load(&registry, resources, |n| (if n % 10 == 0 { "App" } else { "Base" }, changes(n))).await;
    let rate = resources as f64 / start.elapsed().as_secs_f64();
    figure(figures, format!("load of {resources} in batches, durable"), rate, "/s", "");
    drop(registry);

    let before = resident();
    let start = Instant::now();
    let registry = Registry::open(config(folder.path())).unwrap();
    figure(figures, format!("open with {resources}"), start.elapsed().as_secs_f64() * 1e3, "ms", "");
    let file = std::fs::metadata(folder.path().join("registry.redb")).unwrap().len();
    figure(figures, "file a resource, with its history", file as f64 / resources as f64, "B", "");
    let bytes = resident().saturating_sub(before) as f64 / resources as f64;
    figure(figures, "memory a resource, with the engine's page cache", bytes, "B", "");

    for (name, text) in [
        ("by prefix", "shop:b42:*"),
        ("by prefix on all levels", "shop:b42:**"),
        ("by kind", "shop:**<App>"),
        ("by property, 25 % match", "shop:**[region = \"eu\"]"),
        ("by property, 20 match", "shop:**[customer = \"customer-01234\"]"),
    ] {
        selects(figures, &registry, name, text, 2_000, "<= 1,000");
    }
    let start = Instant::now();
    let none = registry.select(&selector("shop:**[note like \"*nothing*\"]"), 100, None).unwrap();
    assert!(none.resources.is_empty());
    figure(figures, "select that must look at everything", start.elapsed().as_secs_f64() * 1e3, "ms", "");
}

/// Makes resources below a hundred others, whose kind and properties are a question of their number.
async fn load(
    registry: &Registry,
    resources: usize,
    what: impl Fn(usize) -> (&'static str, Vec<PropertyChange>) + Copy + Send + 'static,
) {
    let mut tasks = Vec::new();
    for loader in 0..32 {
        let registry = registry.clone();
        tasks.push(tokio::spawn(async move {
            let mut n = loader * RESERVED_BATCH_MAX;
            while n < resources {
                let list = (n..(n + RESERVED_BATCH_MAX).min(resources))
                    .map(|n| {
                        let point = point(&format!("shop:b{:02}:o-{n}", n / RESERVED_BATCH_MAX % 100));
                        let (kind, changes) = what(n);
                        Reserved::new(point, kind.parse().unwrap(), changes, Status::ready())
                    })
                    .collect();
                registry.put_all_reserved(&by(), list).await.unwrap();
                n += 32 * RESERVED_BATCH_MAX;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// Selects 100 of what a selector means, again and again.
fn selects(
    figures: &mut Vec<Figure>,
    registry: &Registry,
    name: &str,
    text: &str,
    times: usize,
    goal: &'static str,
) {
    let selector = selector(text);
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        let found = registry.select(&selector, 100, None).unwrap();
        taken.push(start.elapsed());
        assert!(!found.resources.is_empty());
    }
    taken.sort_unstable();
    let micros = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    figure(figures, format!("select of 100 {name}, p50"), micros(0.5), "µs", "");
    figure(figures, format!("select of 100 {name}, p99"), micros(0.99), "µs", goal);
}

/// Ranges of a property of a kind, before its declaration says that it is indexed and after.
async fn ranges(figures: &mut Vec<Figure>, resources: usize) {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(config(folder.path())).unwrap();
    let reserved = |point: &str, kind: &str, changes| {
        Reserved::new(point.parse().unwrap(), kind.parse().unwrap(), changes, Status::ready())
    };
    base(&registry, "shop", "Space").await;
    base(&registry, "shop:kinds", "Base").await;
    registry.put_reserved(&by(), reserved("shop:kinds:order", "Kind", vec![])).await.unwrap();
    for n in 0..100 {
        base(&registry, &format!("shop:b{n:02}"), "Base").await;
    }
    load(&registry, resources, |n| {
        // All different, and in no order.
        let total = Value::Number((n as u64 * 7_919 % 1_000_003).into());
        ("Order", vec![PropertyChange::Set { key: "total".parse().unwrap(), value: total, lock: false }])
    })
    .await;
    let some = "shop:**<Order>[total >= 500000 and total < 500200]";
    selects(figures, &registry, "by range, without an index", some, 10, "");
    let before = resident();
    let start = Instant::now();
    let declaration = reserved("shop:kinds:order", "Kind", vec![set("indexed", "total")]);
    registry.put_reserved(&by(), declaration).await.unwrap();
    // Without a schema only the mesh may declare it, which does not wait; whoever writes such a property does.
    let waits = Create {
        changes: vec![set("indexed", "x")],
        ..Create::new("shop:waits".parse().unwrap(), "Base".parse().unwrap())
    };
    registry.create(&by(), waits).await.unwrap();
    figure(
        figures,
        format!("declare an index of {resources}"),
        start.elapsed().as_secs_f64() * 1e3,
        "ms",
        "",
    );
    let bytes = resident().saturating_sub(before) as f64 / resources as f64;
    figure(figures, "memory of an index a resource", bytes, "B", "");
    selects(figures, &registry, "by range of an indexed property, 200 match", some, 2_000, "<= 1,000");
    selects(
        figures,
        &registry,
        "by range of an indexed property, 1 % match",
        "shop:**<Order>[total < 10000]",
        500,
        "",
    );
    selects(
        figures,
        &registry,
        "by range of an indexed property, half match",
        "shop:**<Order>[total < 500000]",
        500,
        "",
    );
}

/// Resident memory of this process in bytes, where the system tells it.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize =
        text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}
