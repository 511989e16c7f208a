//! How fast meshes come together, and what routes cost: `cargo bench -p starlane-core --bench routing -- [--quick] [--json
//! FILE] [PART…]`.
//!
//! The parts are `meshes`, which are simulated in virtual time with up to 1,000 nodes, and `routes`, which are measured on
//! this machine; both when none is named. `--quick` takes one seed in place of several.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing to say")]

#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/world/mod.rs"]
mod world;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use starlane_core::routing::{
    Action, Advert, Carried, Config, Cost, Edition, Identity, Link, LinkState, Own, Packet, Sign, Verify,
};
use starlane_core::{Generation, Moment, NodeId, NodeName, Role};
use world::{Shape, Traffic, World};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let json =
        arguments.iter().position(|argument| argument == "--json").and_then(|at| arguments.get(at + 1));
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let named = |part: &str| arguments.iter().any(|argument| argument == part);
    let all = !["meshes", "routes"].into_iter().any(named);
    let mut figures = Vec::new();
    if all || named("meshes") {
        meshes(&mut figures, quick);
    }
    if all || named("routes") {
        routes(&mut figures);
    }
    println!("\n{:<64} {:>14}  goal", "figure", "value");
    for figure in &figures {
        println!(
            "{:<64} {:>14}  {}",
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

/// Relays, leaves, and from how many seeds.
const MESHES: [(usize, usize, u64); 4] = [(5, 0, 100), (8, 42, 20), (14, 186, 5), (60, 940, 1)];

fn meshes(figures: &mut Vec<Figure>, quick: bool) {
    for (relays, leaves, seeds) in MESHES {
        let nodes = relays + leaves;
        let (mut joined, mut died, mut healed, mut restarted) = (vec![], vec![], vec![], vec![]);
        let mut carried = 0;
        let seeds = if quick { 1 } else { seeds };
        for seed in 0..seeds {
            let mut world = World::new(seed, Shape { relays, leaves, traffic: Traffic::Streams { lost: 1 } });
            world.start_all(1_000);
            let settle = |world: &mut World, times: &mut Vec<f64>, since: u64| {
                world.run(12_000);
                world.check();
                times.push(world.changed_after(since) as f64 / 1_000.0);
            };
            settle(&mut world, &mut joined, 0);

            let since = world.now;
            world.stop(relays - 1, false);
            world.run(8_000);
            world.check();
            died.push(world.changed_after(since) as f64 / 1_000.0);
            world.heal();
            world.run(12_000);

            world.split(|node| node % 2 == 0);
            world.run(8_000);
            let (since, before) = (world.now, world.counters().sent);
            world.heal();
            settle(&mut world, &mut healed, since);
            carried += world.counters().sent - before;

            let since = world.now;
            for node in 0..nodes {
                let after = world.random.below(1_000);
                world.stop(node, false);
                world.start(node, after, false);
            }
            settle(&mut world, &mut restarted, since);
        }
        let goal = |goal: &'static str| if nodes == 5 { goal } else { "" };
        let mut told = |what: &str, mut times: Vec<f64>, goal: &'static str| {
            times.sort_by(f64::total_cmp);
            let name = |form: &str| format!("{nodes} nodes agree after {what}, {form}");
            figure(figures, name("p50"), times[times.len() / 2], "s", goal);
            figure(figures, name("longest"), times[times.len() - 1], "s", goal);
        };
        told("all start within 1 s", joined, "");
        told("a relay dies unheard", died, "");
        told("a split heals", healed, goal("<= 10"));
        told("all restart within 1 s", restarted, goal("<= 15"));
        let each = carried as f64 / seeds as f64 / nodes as f64;
        figure(
            figures,
            format!("{nodes} nodes: adverts sent a node in the 12 s after a split"),
            each,
            "",
            "",
        );
    }
}

/// Signs with nothing and believes all: what is measured is the rest.
struct Trusting;

impl Sign for Trusting {
    fn chain(&self) -> Bytes {
        Bytes::new()
    }

    fn sign(&self, _: &[u8]) -> Bytes {
        Bytes::new()
    }
}

impl Verify for Trusting {
    fn verify(&self, _: &Advert) -> bool {
        true
    }
}

fn id(node: usize) -> NodeId {
    name(node).id()
}

fn name(node: usize) -> NodeName {
    format!("node-{node}").parse().unwrap()
}

/// The links of a mesh like those above: relays in a ring with chords, each leaf at two relays.
fn links(relays: usize, leaves: usize) -> Vec<BTreeMap<NodeId, Cost>> {
    let mut random = 7_u64;
    let mut below = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    let mut links = vec![BTreeMap::new(); relays + leaves];
    let mut add = |one: usize, two: usize, ms: usize| {
        if one != two {
            let cost = Cost::from_rtt(Duration::from_millis(ms as u64 + 1));
            links[one].insert(id(two), cost);
            links[two].insert(id(one), cost);
        }
    };
    for relay in 0..relays {
        add(relay, (relay + 1) % relays, below(40));
        add(relay, below(relays), below(40));
        add(relay, below(relays), below(40));
    }
    for leaf in relays..relays + leaves {
        add(leaf, below(relays), below(40));
        add(leaf, below(relays), below(40));
    }
    links
}

fn advert(node: usize, relays: usize, sequence: u64, links: &BTreeMap<NodeId, Cost>) -> Carried {
    let advert = Advert {
        name: name(node),
        edition: Edition { generation: Generation(1), sequence },
        role: if node < relays { Role::Relay } else { Role::Leaf },
        registry: false,
        draining: false,
        labels: BTreeMap::from([("number".to_owned(), sequence.to_string())]),
        links: links.iter().map(|(to, cost)| Link { to: *to, cost: *cost }).collect(),
        more: Bytes::new(),
        chain: Bytes::new(),
        signature: Bytes::new(),
    };
    Carried { age_ms: 0, advert: Arc::new(advert) }
}

/// From an advert that changes something to the new routes, at a relay that knows all others.
fn routes(figures: &mut Vec<Figure>) {
    for (relays, leaves) in [(14, 186), (60, 940), (64, 9_936)] {
        let nodes = relays + leaves;
        let all = links(relays, leaves);
        let identity = Identity { name: name(0), generation: Generation(1), role: Role::Relay };
        let keys = Arc::new(Trusting);
        let (mut now, minute) = (Moment(0), Duration::from_secs(60));
        let config = Config { refresh: 1_000_000 * minute, ..Config::default() };
        let mut state = LinkState::new(config, identity, Own::default(), keys.clone(), keys, now).unwrap();
        for (peer, cost) in &all[0] {
            state.handle_link_up(*peer, *cost, now).unwrap();
        }
        let from = *all[0].keys().next().unwrap();
        for (node, links) in all.iter().enumerate().skip(1) {
            let packet = Packet::Adverts(vec![advert(node, relays, 1, links)]);
            state.handle_packet(from, packet, now).unwrap();
        }
        now = now + minute;
        state.handle_timeout(now);
        let reached = state.routes().members().iter().filter(|member| member.is_reachable()).count();
        assert_eq!(reached, nodes);

        let mut times: Vec<_> = (0..200)
            .map(|round| {
                let packet = Packet::Adverts(vec![advert(1, relays, 2 + round, &all[1])]);
                now = now + minute;
                let start = Instant::now();
                state.handle_packet(from, packet, now).unwrap();
                let time = start.elapsed();
                let told = std::iter::from_fn(|| state.poll_action())
                    .any(|action| matches!(action, Action::Routes(_)));
                assert!(told);
                time
            })
            .collect();
        times.sort_unstable();
        let micros = times[times.len() / 2].as_secs_f64() * 1e6;
        figure(
            figures,
            format!("{relays} relays, {leaves} leaves: new routes after a change, p50"),
            micros,
            "us",
            "",
        );

        let routes = state.routes().clone();
        let ids: Vec<_> = (0..nodes).map(id).collect();
        let rounds = 2_000_000 / nodes;
        let start = Instant::now();
        for _ in 0..rounds {
            for to in &ids {
                black_box(routes.next_hop(black_box(*to)));
            }
        }
        let nanos = start.elapsed().as_secs_f64() * 1e9 / (rounds * nodes) as f64;
        figure(
            figures,
            format!("{relays} relays, {leaves} leaves: a look-up of the next hop"),
            nanos,
            "ns",
            "",
        );
    }
}
