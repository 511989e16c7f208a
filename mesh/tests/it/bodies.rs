//! Large bodies travel on streams of their own, and keep the place of their header.

use std::time::Duration;

use crate::net::Weather;
use crate::world::{Fake, World, body_of, id, signal_between};

#[tokio::test(start_paused = true)]
async fn large_bodies_keep_their_place_and_hold_up_nobody_else() {
    for seed in 0..5 {
        let world = World::new(seed);
        let receiver = Fake::echo();
        let (a, _b) = world.pair(receiver.clone()).await;
        world.net.set_weather(Weather { lost: 2, late: 5, ..Weather::default() });
        let lengths = [10, 2_000_000, 0, 300_000, 7, 262_144, 262_145, 5_000, 900_000, 1];
        for (n, length) in lengths.into_iter().enumerate() {
            let body = vec![n as u8; length];
            a.send(id("b"), signal_between(n as u128, "shop:a", "shop:b", body)).unwrap();
        }
        for n in 0..20 {
            a.send(id("b"), signal_between(100 + n, "shop:a", &format!("shop:c-{n}"), "small")).unwrap();
        }
        receiver.wait_for(30).await;
        let signals = receiver.signals.lock().unwrap();
        let large: Vec<_> = signals.iter().filter(|signal| signal.header.to.as_str() == "shop:b").collect();
        let came: Vec<_> = large.iter().map(|signal| body_of(signal)).collect();
        assert_eq!(came.iter().map(|body| body.len()).collect::<Vec<_>>(), lengths);
        for (n, body) in came.iter().enumerate() {
            assert!(body.iter().all(|byte| usize::from(*byte) == n), "body {n}");
        }
        // Of those to other receivers most were there long before the last of the large ones.
        let small = |signal: &starlane_core::Message| signal.header.to.as_str() != "shop:b";
        let early = signals.iter().take(22).filter(|signal| small(signal)).count();
        assert!(early >= 15, "seed {seed}: {early}");
        assert_eq!(a.counted().signals_lost, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_large_bodies_are_under_way_than_may() {
    let mut world = World::new(1);
    world.config.large_bytes_max = 1_000_000;
    let receiver = Fake::echo();
    let (a, b) = world.pair(receiver.clone()).await;
    world.net.cut_both(a.address(), b.address());
    let body = vec![0; 400_000];
    let send = |n| a.send(id("b"), signal_between(n, "shop:a", "shop:b", body.clone()));
    assert_eq!([send(1), send(2)], [Ok(()), Ok(())]);
    assert_eq!(send(3).unwrap_err().code, starlane_core::Code::Busy);
    world.net.heal();
    receiver.wait_for(2).await;
    tokio::time::advance(Duration::from_millis(50)).await;
    send(4).unwrap();
    receiver.wait_for(3).await;
}
