//! Requests to an echo in another process, over each peer in turn: the same sizes, the same number under way, one after
//! the other in the same seconds of the same run, so that what the machine does meets all alike.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tests::Api;
use tests::mesh::{Mesh, Plan, placed, wait};
use tests::net::Lab;

use crate::echo;
use crate::peer::http::Http;
use crate::peer::mesh::Links;
use crate::peer::nats::{Nats, Place};
use crate::peer::{Asker, Load, Sample};

/// How large bodies are, and how many requests are under way.
const CELLS: [(usize, usize); 9] = [
    (128, 1),
    (128, 64),
    (128, 256),
    (1 << 10, 1),
    (1 << 10, 64),
    (1 << 10, 256),
    (64 << 10, 1),
    (64 << 10, 64),
    (64 << 10, 256),
];
/// The same where packets are lost: there a row needs more time to say something.
const LOSSY_CELLS: [(usize, usize); 2] = [(128, 1), (128, 64)];
/// The node in the middle and the one that only it has a link to.
const NODES: [&str; 2] = ["middle", "answers"];
const PLANS: [Plan<'static>; 2] =
    [Plan { name: NODES[0], dialled: true, nat: false }, Plan { name: NODES[1], dialled: false, nat: false }];
const PATIENCE: Duration = Duration::from_secs(60);
const LOSS_PERCENT: u8 = 1;
const LOSSY_TIMES: f64 = 5.0;

/// What to compare, and how thoroughly.
#[derive(Debug)]
pub(crate) struct Config {
    /// The program of the NATS server; without it there is nothing beside ours.
    pub(crate) nats: Option<PathBuf>,
    /// How often each row is measured.
    pub(crate) rounds: usize,
    /// How long, each time, in seconds.
    pub(crate) seconds: f64,
    /// Where the figures are written as JSON.
    pub(crate) json: Option<PathBuf>,
}

/// Compares, prints tables, and writes the figures to a file when one is given.
pub(crate) fn run(config: &Config) {
    if config.nats.is_none() {
        eprintln!(
            "SKIPPED: no NATS server is given (see scripts/nats), so nothing stands beside our figures"
        );
    }
    let mesh = Mesh::on_loopback(&PLANS);
    let peers = local(config.nats.as_deref(), &mesh);
    let whole = table("on loopback", &peers, &CELLS, config.rounds, config.seconds);
    drop((peers, mesh));
    let lossy = Lab::new().map(|lab| {
        let mesh = Mesh::in_lab(lab, &PLANS);
        let peers = in_lab(config.nats.as_deref(), &mesh);
        mesh.lab().lose(LOSS_PERCENT);
        let title = format!("between three networks that lose {LOSS_PERCENT} % of the packets");
        let rows = table(&title, &peers, &LOSSY_CELLS, config.rounds, config.seconds * LOSSY_TIMES);
        println!("{} packets were really lost", mesh.lab().dropped());
        rows
    });
    println!();
    let times = crate::times::run();
    if let Some(file) = &config.json {
        let figures = json!({ "loopback": whole, "loss": lossy, "times": times });
        std::fs::write(file, figures.to_string()).expect("the file can be written");
    }
}

/// The peers on this machine's own network. The first is what the others are compared with.
fn local(nats: Option<&Path>, mesh: &Mesh) -> Vec<Asker> {
    let place = Place { address: IpAddr::V4(Ipv4Addr::LOCALHOST), spaces: None };
    let mut peers = Vec::new();
    if let Some(program) = nats {
        peers.extend([false, true].map(|secure| Asker::start(Nats::start(program, secure, place), None)));
    }
    peers.extend(links(mesh).map(|links| Asker::start(links, None)));
    peers.push(Asker::start(Http::start(), None));
    peers
}

/// The peers with who asks, who is in the middle and who answers in networks of their own.
fn in_lab(nats: Option<&Path>, mesh: &Mesh) -> Vec<Asker> {
    let asks = mesh.lab().add("asks");
    let [middle, answers] = NODES.map(|name| mesh.space(name));
    let place = Place { address: IpAddr::V4(middle.address()), spaces: Some([&middle, &answers]) };
    let mut peers = Vec::new();
    if let Some(program) = nats {
        peers.extend(
            [false, true].map(|secure| Asker::start(Nats::start(program, secure, place), Some(&asks))),
        );
    }
    peers.extend(links(mesh).map(|links| Asker::start(links, Some(&asks))));
    peers
}

/// The ways to a mechtron on the node that is asked, and to one on a node behind it.
fn links(mesh: &Mesh) -> [Links; 2] {
    mesh.wait_ready(NODES.len(), PATIENCE);
    echo::publish(mesh.first());
    for name in NODES {
        echo::make(mesh.first(), name, &format!(", +place=[at = \"{name}\"]"));
        let api = Api::of(mesh.first());
        let placed = || placed(&api, &echo::point(name)).is_some_and(|(node, _)| node == name);
        wait(PATIENCE, "the echo is placed", placed);
    }
    let [middle, far] = NODES.map(|name| mesh.node(name));
    [
        Links::to("Starlane, mechtron one hop away", middle, middle),
        Links::to("Starlane, one relay in between", middle, far),
    ]
}

fn table(title: &str, peers: &[Asker], cells: &[(usize, usize)], rounds: usize, seconds: f64) -> Value {
    println!("\nRequest and reply {title}, median of {rounds}; × is beside the first of each group");
    println!(
        "{:<34} {:>17} {:>17} {:>17} {:>20}",
        "", "per second", "p50 µs", "p99 µs", "CPU µs per message"
    );
    let mut rows = Vec::new();
    for &(bytes, in_flight) in cells {
        let load = Load { bytes, in_flight, duration: Duration::from_secs_f64(seconds) };
        // Peer after peer within each round.
        let mut samples: Vec<Vec<Sample>> = peers.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (peer, samples) in peers.iter().zip(&mut samples) {
                samples.push(peer.ask(load));
            }
        }
        println!("{} in flight of {}", in_flight, size(bytes));
        for (peer, own) in peers.iter().zip(&samples) {
            rows.push(row(peer.name(), load, own, &samples[0]));
        }
    }
    rows.into()
}

/// Prints and answers a peer's figures: medians, and medians of the ratios within each round.
fn row(name: &str, load: Load, own: &[Sample], first: &[Sample]) -> Value {
    let figure = |of: fn(&Sample) -> f64| {
        let ratios = own.iter().zip(first).map(|(own, first)| of(own) / of(first));
        (median(own.iter().map(of)), median(ratios))
    };
    let figures = [
        figure(|sample| sample.per_second),
        figure(|sample| sample.p50_us),
        figure(|sample| sample.p99_us),
        figure(|sample| sample.cpu_us),
    ];
    let failed: usize = own.iter().map(|sample| sample.failed).sum();
    let [per_second, p50, p99, cpu] = figures.map(|(value, ratio)| format!("{value:.1} {ratio:>5.2}×"));
    let note = if failed == 0 { String::new() } else { format!("  {failed} FAILED") };
    println!("  {name:<32} {per_second:>17} {p50:>17} {p99:>17} {cpu:>20}{note}");
    let told = |(value, ratio): (f64, f64)| json!({ "value": value, "ratio": ratio });
    json!({
        "peer": name, "bytes": load.bytes, "inFlight": load.in_flight, "failed": failed,
        "perSecond": told(figures[0]), "p50Us": told(figures[1]), "p99Us": told(figures[2]), "cpuUs": told(figures[3]),
    })
}

fn size(bytes: usize) -> String {
    if bytes < 1 << 10 { format!("{bytes} B") } else { format!("{} KiB", bytes >> 10) }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
