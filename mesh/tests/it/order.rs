//! Signals between two points arrive in order and at most once; what is missing was reported.

use std::time::Duration;

use crate::net::Weather;
use crate::world::{Fake, World, after, body_of, id, linked, signal_between, until};

#[tokio::test(start_paused = true)]
async fn pairs_stay_in_order_over_bad_networks_and_every_gap_is_reported() {
    for seed in [1, 2] {
        stays_in_order(seed, 100, 100, 10).await;
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "the full form takes minutes: cargo test -p mesh --release -- --ignored"]
async fn pairs_stay_in_order_over_fifty_reconnects() {
    for seed in 10..20 {
        stays_in_order(seed, 100, 1_000, 50).await;
    }
}

async fn stays_in_order(seed: u64, pairs: usize, rounds: usize, cuts: usize) {
    let world = World::new(seed);
    let receiver = Fake::echo();
    let (a, b) = world.pair(receiver.clone()).await;
    world.net.set_weather(Weather { lost: 10, late: 25, doubled: 5, ..Weather::default() });
    let (mut taken, mut refused) = (0, 0);
    for round in 0..rounds {
        for pair in 0..pairs {
            let (from, to) = (format!("shop:from-{pair}"), format!("shop:to-{pair}"));
            let body = format!("{pair} {round}");
            match a.send(id("b"), signal_between((round * pairs + pair) as u128, &from, &to, body)) {
                Ok(()) => taken += 1,
                Err(_) => refused += 1,
            }
        }
        if round % (rounds / cuts) == 5 {
            // In the middle of it, before the next round is through.
            world.net.cut_both(a.address(), b.address());
        }
        if round % (rounds / cuts) == 8 {
            linked(&a, &[]).await;
            world.net.heal();
            linked(&a, &["b"]).await;
        }
        after(Duration::from_millis(20)).await;
    }
    let arrived = || receiver.signals.lock().unwrap().len() as u64;
    until("each signal arrived or was reported lost", || arrived() + a.counted().signals_lost == taken).await;
    after(Duration::from_secs(30)).await;
    let lost = a.counted().signals_lost;
    assert_eq!(arrived() + lost, taken, "nothing arrives twice, and nothing is reported that arrived");
    assert_eq!(a.counted().signals_unsure, 0);

    let mut last = vec![None; pairs];
    for signal in receiver.signals.lock().unwrap().iter() {
        let body = String::from_utf8(body_of(signal).to_vec()).unwrap();
        let (pair, round) = body.split_once(' ').unwrap();
        let (pair, round): (usize, usize) = (pair.parse().unwrap(), round.parse().unwrap());
        assert!(last[pair].replace(round).is_none_or(|before| before < round), "an inversion in pair {pair}");
    }
    let faults = world.net.faults();
    println!("seed {seed}: taken {taken}, refused {refused}, lost and reported {lost}, faults {faults}");
    assert_eq!(a.counted().reconnects, cuts as u64);
    assert!(arrived() >= 5_000 && lost >= 100 && faults >= 500, "a run that did little proves nothing");
}

#[tokio::test(start_paused = true)]
async fn what_a_relay_cannot_pass_on_is_reported_to_the_sender() {
    let world = World::new(3);
    let receiver = Fake::echo();
    let (a, r, b) = world.line(Fake::echo(), receiver.clone()).await;
    a.send(id("b"), signal_between(1, "shop:a", "shop:b", "x")).unwrap();
    receiver.wait_for(1).await;
    b.stop().await;
    linked(&r, &["a"]).await;
    a.send(id("b"), signal_between(2, "shop:a", "shop:b", "x")).unwrap();
    until("it is reported", || a.counted().signals_lost == 1).await;
    assert_eq!((receiver.signals.lock().unwrap().len(), r.counted().signals_lost), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_began_on_one_side_only_leaves_no_doubt() {
    let mut one_sided = 0;
    for packets in 0..12 {
        let world = World::new(packets as u64);
        let receiver = Fake::echo();
        let (a, b) = world.pair(receiver.clone()).await;
        for n in 0..10 {
            a.send(id("b"), signal_between(n, "shop:a", "shop:b", "x")).unwrap();
        }
        receiver.wait_for(10).await;
        world.net.cut_both(a.address(), b.address());
        linked(&a, &[]).await;
        linked(&b, &[]).await;
        world.net.heal();
        // In the middle of a handshake, or a little later.
        world.net.cut_after(packets, b.address(), a.address());
        after(Duration::from_secs(5)).await;
        one_sided += usize::from(b.counted().links_begun > a.counted().links_begun);
        after(Duration::from_secs(20)).await;
        world.net.heal();
        linked(&a, &["b"]).await;
        linked(&b, &["a"]).await;
        let counted = |node: &mesh::Handle| (node.counted().signals_lost, node.counted().signals_unsure);
        assert_eq!((counted(&a), counted(&b)), ((0, 0), (0, 0)), "after {packets} packets");
    }
    assert!(one_sided >= 1, "a run that did little proves nothing");
}
