//! Link state in whole meshes: whatever was cut, lost, restarted or changed, once the mesh is left alone every node knows
//! all others and sends frames on the best ways there are.

#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

mod world;

use world::{Shape, Traffic, World};

const STREAMS: Traffic = Traffic::Streams { lost: 2 };

/// Five relays that are all linked with each other, and three with two leaves.
const FIVES: [(usize, usize); 2] = [(5, 0), (3, 2)];

/// A mesh that has come together.
fn mesh(seed: u64, relays: usize, leaves: usize, traffic: Traffic) -> World {
    let mut world = World::new(seed, Shape { relays, leaves, traffic });
    world.start_all(1_000);
    world.run(20_000);
    world.check();
    world
}

/// Heals all, and answers how long it took until nothing changed any more.
fn heal(world: &mut World, quiet_ms: u64) -> u64 {
    let since = world.now;
    world.heal();
    world.run(quiet_ms);
    world.check();
    world.changed_after(since)
}

fn report(what: &str, mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    let max = times.last().copied().unwrap();
    println!("{what}: p50 {} ms, max {max} ms of {}", times[times.len() / 2], times.len());
    max
}

#[test]
fn five_nodes_agree_within_ten_seconds_after_any_split() {
    for (relays, leaves) in FIVES {
        let mut times = Vec::new();
        for split in 1..16_u64 {
            // Shorter than links live, longer, and longer than adverts do.
            for held in [3_000, 9_000, 60_000] {
                let mut world = mesh(split, relays, leaves, STREAMS);
                world.split(|node| split >> node & 1 == 1);
                world.run(held);
                times.push(heal(&mut world, 30_000));
            }
        }
        let max = report(&format!("15 splits of {relays} relays and {leaves} leaves"), times);
        assert!(max <= 10_000, "{max} ms");
    }
}

#[test]
fn five_nodes_agree_within_ten_seconds_after_a_cut_in_one_direction() {
    let mut times = Vec::new();
    for link in 0..10 {
        for end in 0..2 {
            for held in [3_000, 9_000, 60_000] {
                let mut world = mesh(link as u64, 5, 0, STREAMS);
                world.cut(link, end);
                world.run(held);
                if held > 6_500 {
                    // The mesh went around it.
                    world.check();
                }
                times.push(heal(&mut world, 30_000));
            }
        }
    }
    let max = report("10 links cut one way, each in both directions", times);
    assert!(max <= 10_000, "{max} ms");
}

#[test]
fn five_nodes_that_all_restart_agree_within_fifteen_seconds() {
    for (relays, leaves) in FIVES {
        let mut times = Vec::new();
        let mut world = mesh(7, relays, leaves, STREAMS);
        for round in 0..20 {
            let since = world.now;
            for node in 0..5 {
                let (after, says_so) = (world.random.below(1_000), world.random.percent(50));
                world.stop(node, says_so);
                world.start(node, after, round % 4 == 3);
            }
            world.run(30_000);
            world.check();
            times.push(world.changed_after(since));
        }
        let max = report(&format!("20 restarts of {relays} relays and {leaves} leaves"), times);
        assert!(max <= 15_000, "{max} ms");
    }
}

/// A mesh in which something goes wrong every moment, and then nothing any more.
fn storm(seed: u64, relays: usize, leaves: usize, traffic: Traffic, steps: usize) -> World {
    let mut world = World::new(seed, Shape { relays, leaves, traffic });
    world.start_all(2_000);
    for _ in 0..steps {
        let pause = world.random.below(1_000);
        world.run(pause);
        world.chaos();
        world.walk_some(20);
    }
    heal(&mut world, 30_000);
    world
}

#[test]
fn meshes_agree_after_a_storm() {
    let mut walks = Vec::new();
    for seed in 0..60 {
        let (relays, leaves) = [(2, 3), (5, 0), (4, 8), (9, 20)][seed as usize % 4];
        let world = storm(seed, relays, leaves, Traffic::Streams { lost: 5 }, 150);
        assert!(world.nodes.iter().all(|node| !node.replaced));
        walks.push(world.walks);
    }
    let sum = |of: fn(&world::Walks) -> u64| walks.iter().map(of).sum::<u64>();
    println!(
        "frames in storms: {} arrived, {} had no route, {} would have gone back, {} had no hops left",
        sum(|walks| walks.arrived),
        sum(|walks| walks.without_route),
        sum(|walks| walks.sent_back),
        sum(|walks| walks.out_of_hops)
    );
}

#[test]
fn meshes_agree_although_packets_were_lost_doubled_and_out_of_order() {
    for seed in 100..160 {
        let (relays, leaves) = [(2, 3), (5, 0), (4, 8)][seed as usize % 3];
        storm(seed, relays, leaves, Traffic::Datagrams { lost: 20 }, 100);
    }
}

#[test]
fn the_same_seed_is_the_same_mesh() {
    let trace = |seed| storm(seed, 4, 6, Traffic::Datagrams { lost: 10 }, 100).trace();
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn larger_meshes_come_together_split_and_come_together_again() {
    for (relays, leaves) in [(8, 42), (14, 186)] {
        let nodes = relays + leaves;
        let mut world = World::new(3, Shape { relays, leaves, traffic: STREAMS });
        world.start_all(1_000);
        world.run(10_000);
        world.check();
        let joined = world.changed_after(0);
        let before = world.counters();
        world.split(|node| node % 2 == 0);
        world.run(8_000);
        let healed = heal(&mut world, 12_000);
        let after = world.counters();
        println!(
            "{nodes} nodes: together {joined} ms after the start, {healed} ms after a split; {} adverts made, {} carried",
            after.advertised - before.advertised,
            after.sent - before.sent
        );
        assert!(joined <= 5_000 && healed <= 10_000, "{joined} ms, {healed} ms");
    }
}
