//! Each request has exactly one outcome, by its deadline, and it is the true one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::pending;
use mesh::{Fixed, Service};
use starlane_core::{Blob, Body, Code, Digest, Outcome, Payload, Refusal, Reply, Role};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::net::Weather;
use crate::world::{
    Fake, World, after, body, body_of, code, echo, id, linked, message_id, request, request_between,
    signal_between, until,
};

#[tokio::test(start_paused = true)]
async fn under_cuts_each_request_ends_once_in_time_and_as_it_says() {
    each_request_ends_once(1, 4_000).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "the full form takes minutes: cargo test -p mesh --release -- --ignored"]
async fn under_cuts_a_million_requests_end_once_in_time_and_as_they_say() {
    for seed in 0..25 {
        each_request_ends_once(seed, 40_000).await;
    }
}

async fn each_request_ends_once(seed: u64, requests: u128) {
    const SLACK: Duration = Duration::from_millis(100);
    let world = World::new(seed);
    let server = Fake::new(|message| {
        let wait = Duration::from_millis(message.header.id.0 as u64 % 50);
        async move {
            after(wait).await;
            Outcome::Ok(echo(message))
        }
        .boxed()
    });
    let (a, b) = world.pair(server.clone()).await;
    world.net.set_weather(Weather { lost: 3, ..Weather::default() });
    let mut asking = JoinSet::new();
    for n in 0..requests {
        let (from, remaining) =
            (format!("shop:a-{}", n % 50), Duration::from_millis(2_000 + (n as u64 % 7) * 1_500));
        let due = Instant::now() + remaining;
        let asked = a.request(id("b"), request_between(n, &from, "shop:b", "x", remaining));
        asking.spawn(async move { (n, asked.await, Instant::now().saturating_duration_since(due)) });
        after(Duration::from_millis(7)).await;
        match n % 4_000 {
            // Short enough for the link to live on, and so long that it is lost.
            500 | 1_200 | 3_300 => world.net.cut_both(a.address(), b.address()),
            700 | 2_600 | 3_350 => world.net.heal(),
            _ => {}
        }
    }
    let mut counts = HashMap::new();
    let mut outcomes = HashMap::new();
    while let Some(ended) = asking.join_next().await {
        let (n, outcome, late) = ended.unwrap();
        assert!(late <= SLACK, "{n} ended {late:?} after its deadline");
        *counts.entry(code(&outcome)).or_insert(0) += 1;
        outcomes.insert(message_id(n), outcome);
    }
    after(Duration::from_secs(20)).await;
    let ran = server.ran.lock().unwrap().clone();
    let once: HashSet<_> = ran.iter().copied().collect();
    assert_eq!(once.len(), ran.len(), "executed twice");
    for (n, outcome) in &outcomes {
        match outcome {
            Outcome::Ok(_) => assert!(once.contains(n)),
            Outcome::Rejected(_) => assert!(!once.contains(n), "{n} was rejected and ran"),
            Outcome::Failed(_) => panic!("nothing fails here"),
            Outcome::Unknown(refusal) => assert_eq!(refusal.code, Code::Timeout),
        }
    }
    println!("seed {seed}: {counts:?}, of which {} ran", ran.len());
    let many = |what| counts.get(&what).copied().unwrap_or(0) >= 50;
    assert!(
        many(("ok", None))
            && many(("unknown", Some(Code::Timeout)))
            && many(("rejected", Some(Code::Unreachable)))
    );
    assert_eq!(a.under_way(), (0, 0));
    assert_eq!(b.under_way(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_killed_again_and_again_runs_nothing_twice() {
    const LIVES: u64 = 6;
    let mut world = World::new(11);
    world.config.redial_max = Duration::from_millis(500);
    let a = world.node("a", Fake::echo(), &[]);
    let mut lives: Vec<(Arc<Fake>, mesh::Handle)> = Vec::new();
    let mut asking = JoinSet::new();
    let mut n = 0;
    for life in 1..=LIVES {
        if let Some((_, killed)) = lives.last() {
            // Without a word, and for ever.
            world.net.cut_both(a.address(), killed.address());
        }
        let server = Fake::new(|message| {
            async move {
                after(Duration::from_millis(30)).await;
                Outcome::Ok(echo(message))
            }
            .boxed()
        });
        let member = world.members.member("b", Role::Leaf, life);
        let b = world.start(&member, server.clone(), &[a.address()], Fixed::default());
        lives.push((server, b));
        for _ in 0..200 {
            n += 1;
            let from = format!("shop:a-{}", n % 20);
            let asked = a.request(id("b"), request_between(n, &from, "shop:b", "x", Duration::from_secs(4)));
            asking.spawn(async move { (message_id(n), asked.await) });
            after(Duration::from_millis(5)).await;
        }
    }
    let mut ran = HashSet::new();
    for (server, _) in &lives {
        let mine = server.ran.lock().unwrap();
        assert!(mine.len() >= 50, "a life that did little proves nothing");
        assert!(mine.iter().all(|message| ran.insert(*message)), "executed twice");
    }
    let mut counts = HashMap::new();
    while let Some(ended) = asking.join_next().await {
        let (message, outcome) = ended.unwrap();
        *counts.entry(code(&outcome)).or_insert(0) += 1;
        match outcome {
            Outcome::Ok(_) => assert!(ran.contains(&message)),
            Outcome::Rejected(_) => assert!(!ran.contains(&message)),
            Outcome::Failed(_) | Outcome::Unknown(_) => {}
        }
    }
    println!("{LIVES} lives: {counts:?}, of which {} ran", ran.len());
    assert!(counts[&("unknown", Some(Code::Timeout))] >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_answers_leaves_it_unknown_at_the_deadline() {
    let world = World::new(2);
    let (a, _b) = world.pair(Fake::new(|_| pending().boxed())).await;
    for remaining_ms in [10, 300, 5_000] {
        let remaining = Duration::from_millis(remaining_ms);
        let begun = Instant::now();
        let message = request_between(remaining_ms.into(), "shop:a", "shop:b", "x", remaining);
        let outcome = a.request(id("b"), message).await;
        assert_eq!(code(&outcome), ("unknown", Some(Code::Timeout)));
        let took = begun.elapsed();
        assert!((remaining..remaining + Duration::from_millis(100)).contains(&took), "{took:?}");
    }
    let none = request_between(9, "shop:a", "shop:b", "x", Duration::ZERO);
    assert_eq!(code(&a.request(id("b"), none).await), ("rejected", Some(Code::Expired)));
}

#[tokio::test(start_paused = true)]
async fn what_expires_on_the_way_never_runs() {
    let world = World::new(3);
    let server = Fake::echo();
    let (a, b) = world.pair(server.clone()).await;
    // Held up on the wire, and gone through before the link is lost.
    world.net.cut(a.address(), b.address());
    let message = request_between(1, "shop:a", "shop:b", "x", Duration::from_millis(500));
    let asked = a.request(id("b"), message);
    assert_eq!(code(&asked.await), ("unknown", Some(Code::Timeout)));
    // This one waits in the lane: its time runs out before it is written.
    let mut small = World::new(3);
    small.config.window_bytes = 2_000;
    let server = Fake::echo();
    let (a, b) = small.pair(server.clone()).await;
    small.net.cut(a.address(), b.address());
    a.send(id("b"), signal_between(1, "shop:a", "shop:b", vec![0; 3_000])).unwrap();
    after(Duration::from_millis(1)).await;
    let message = request_between(2, "shop:a", "shop:b", "x", Duration::from_millis(500));
    let asked = a.request(id("b"), message);
    assert_eq!(code(&asked.await), ("unknown", Some(Code::Timeout)));
    small.net.heal();
    server.wait_for(1).await;
    after(Duration::from_secs(5)).await;
    assert_eq!(server.ran.lock().unwrap().len(), 0);
}

/// Tells when it is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_request_or_a_call_ends_the_work_there() {
    let world = World::new(4);
    let dropped = Arc::new(Notify::new());
    let (of_requests, of_calls) = (dropped.clone(), dropped.clone());
    let server = Fake::with_service(
        move |_| {
            let guard = Dropped(of_requests.clone());
            async move {
                let _guard = guard;
                pending().await
            }
            .boxed()
        },
        move |_| {
            let guard = Dropped(of_calls.clone());
            async move {
                let _guard = guard;
                pending().await
            }
            .boxed()
        },
    );
    let (a, r, b) = world.line(Fake::echo(), server.clone()).await;
    let asked = a.request(id("b"), request(1, "x"));
    server.wait_for(1).await;
    assert_eq!((a.under_way(), b.under_way()), ((1, 0), (0, 1)));
    drop(asked);
    dropped.notified().await;
    until("nothing is under way", || a.under_way() == (0, 0) && b.under_way() == (0, 0)).await;

    let call = a.call(id("b"), Service(7), Bytes::new(), Duration::from_secs(5));
    until("it runs", || b.under_way() == (0, 1)).await;
    drop(call);
    dropped.notified().await;
    until("nothing is under way", || a.under_way() == (0, 0) && b.under_way() == (0, 0)).await;
    assert_eq!(r.under_way(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn every_outcome_comes_back_as_it_was_said() {
    let said = |n: u128| {
        let busy =
            Refusal { retry_after: Some(Duration::from_millis(700)), ..Refusal::new(Code::Busy, "full") };
        let mut reply = Reply::new(418, "text/plain", "short and stout");
        reply.headers.add("set-cookie", "a=1");
        reply.headers.add("set-cookie", "b=2");
        let blob = Blob { digest: Digest([9; 32]), bytes: 1 << 33 };
        let large = Reply { body: Body::Blob(blob), ..reply.clone() };
        match n {
            0 => Outcome::Ok(reply),
            1 => Outcome::Ok(large),
            2 => Outcome::Rejected(busy),
            3 => Outcome::Failed(Refusal::new(Code::Trapped, "unreachable executed")),
            _ => Outcome::Unknown(Refusal::new(Code::Timeout, "not in time")),
        }
    };
    let world = World::new(5);
    let (a, _b) = world
        .pair(Fake::new(move |message| {
            let outcome = said(message.header.id.0 & 0xff);
            async move { outcome }.boxed()
        }))
        .await;
    for n in 0..5 {
        assert_eq!(a.request(id("b"), request(n, "x")).await, said(n));
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_answered_refused_and_too_slow() {
    let world = World::new(6);
    let service = |call: mesh::Call| {
        async move {
            assert!(call.remaining <= Duration::from_secs(1) && call.remaining > Duration::from_millis(900));
            match call.service {
                Service(1) => Ok(call.body),
                Service(2) => Err(Refusal::new(Code::NotFound, format!("{} asks for nothing", call.from))),
                _ => pending().await,
            }
        }
        .boxed()
    };
    let (a, b) = world.pair(Fake::with_service(|_| pending().boxed(), service)).await;
    let call = |service, body: Bytes| a.call(id("b"), Service(service), body, Duration::from_secs(1));
    assert_eq!(call(1, Bytes::from_static(b"rev 7")).await, Ok(Bytes::from_static(b"rev 7")));
    let large = Bytes::from(vec![3; 1_000_000]);
    assert_eq!(call(1, large.clone()).await, Ok(large));
    let refused = call(2, Bytes::new()).await.unwrap_err();
    assert_eq!((refused.code, &*refused.detail), (Code::NotFound, &*format!("{} asks for nothing", id("a"))));
    assert_eq!(call(3, Bytes::new()).await.unwrap_err().code, Code::Timeout);
    until("nothing runs on for who gave up", || b.under_way() == (0, 0)).await;
    // A node's own service is asked without a link.
    let own = b.call(id("b"), Service(1), Bytes::from_static(b"own"), Duration::from_secs(1));
    assert_eq!(own.await, Ok(Bytes::from_static(b"own")));
    let own = b.call(id("b"), Service(3), Bytes::new(), Duration::from_secs(1));
    assert_eq!(own.await.unwrap_err().code, Code::Timeout);
}

#[tokio::test(start_paused = true)]
async fn what_is_full_says_busy_at_once() {
    let mut world = World::new(7);
    world.config.running_max = 4;
    world.config.requests_max = 8;
    world.config.lane_frames_max = 16;
    world.config.window_bytes = 10_000;
    let (a, b) = world.pair(Fake::new(|_| pending().boxed())).await;
    // Too much runs there.
    let running: Vec<_> = (0..4).map(|n| a.request(id("b"), request(n, "x"))).collect();
    until("they run", || b.under_way() == (0, 4)).await;
    assert_eq!(code(&a.request(id("b"), request(4, "x")).await), ("rejected", Some(Code::Busy)));
    // Too much waits here.
    let waiting: Vec<_> = (10..14).map(|n| b.request(id("a"), request(n, "x"))).collect();
    drop(waiting);
    let more: Vec<_> = (20..24).map(|n| a.request(id("b"), request(n, "x"))).collect();
    let outcome = a.request(id("b"), request(30, "x")).now_or_never().unwrap();
    assert_eq!(code(&outcome), ("rejected", Some(Code::Busy)));
    drop((running, more));
    // Too much waits for a link that takes nothing, of signals and of what is asked.
    after(Duration::from_secs(1)).await;
    world.net.cut_both(a.address(), b.address());
    let mut taken = 0;
    let refusal = loop {
        match a.send(id("b"), signal_between(100 + taken, "shop:a", "shop:b", vec![0; 1_000])) {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal,
        }
        // The lane gives to the connection what that takes.
        after(Duration::from_millis(1)).await;
        assert!(taken < 100, "a queue without end");
    };
    assert_eq!(refusal.code, Code::Busy);
    assert!(refusal.retry_after.is_some());
    let message = request_between(40, "shop:a", "shop:b", "x", Duration::from_secs(3));
    let outcome = a.request(id("b"), message).now_or_never().unwrap();
    assert_eq!(code(&outcome), ("rejected", Some(Code::Busy)));
    assert!(a.counted().refused_busy >= 2 && b.counted().refused_busy >= 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_or_no_request_is_refused_before_it_is_sent() {
    let world = World::new(8);
    let (a, _b) = world.pair(Fake::echo()).await;
    let too_large = request(1, vec![0; starlane_core::frame::BODY_BYTES_MAX + 1]);
    assert_eq!(code(&a.request(id("b"), too_large).await), ("rejected", Some(Code::TooLarge)));
    let mut headers = request(2, "x");
    let Payload::Request(request_with) = &mut headers.payload else { unreachable!() };
    request_with.headers.set("note", &"x".repeat(70_000));
    assert_eq!(code(&a.request(id("b"), headers).await), ("rejected", Some(Code::TooLarge)));
    let signal = signal_between(3, "shop:a", "shop:b", "x");
    assert_eq!(code(&a.request(id("b"), signal).await), ("rejected", Some(Code::Usage)));
    assert_eq!(a.send(id("b"), request(4, "x")).unwrap_err().code, Code::Usage);
    assert_eq!(a.under_way(), (0, 0));
    assert_eq!(body(a.request(id("b"), request(5, "x")).await), "x");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_large_is_a_failure_of_who_ran() {
    let world = World::new(9);
    let (a, _b) = world
        .pair(Fake::new(|_| {
            let mut reply = Reply::new(200, "text/plain", "x");
            reply.headers.set("note", &"x".repeat(70_000));
            async move { Outcome::Ok(reply) }.boxed()
        }))
        .await;
    assert_eq!(code(&a.request(id("b"), request(1, "x")).await), ("failed", Some(Code::TooLarge)));
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_every_wait() {
    let world = World::new(10);
    let (a, b) = world.pair(Fake::new(|_| pending().boxed())).await;
    let waiting: Vec<_> = (0..10).map(|n| a.request(id("b"), request(n, "x"))).collect();
    until("they run", || b.under_way() == (0, 10)).await;
    a.stop().await;
    for waiting in waiting {
        assert_eq!(code(&waiting.now_or_never().unwrap()), ("unknown", Some(Code::Timeout)));
    }
    assert_eq!(code(&a.request(id("b"), request(20, "x")).await), ("rejected", Some(Code::Unreachable)));
    linked(&b, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_there_is_answered_at_once_and_harms_nothing_else() {
    let world = World::new(21);
    let breaks = Fake::with_service(
        |message| match &body_of(&message)[..] {
            b"now" => panic!("at once"),
            b"later" => async {
                after(Duration::from_millis(1)).await;
                panic!("later")
            }
            .boxed(),
            _ => async { Outcome::Ok(echo(message)) }.boxed(),
        },
        |call| {
            assert_ne!(call.body, "now");
            async move {
                assert_ne!(call.body, "later");
                Ok(call.body)
            }
            .boxed()
        },
    );
    let (a, b) = world.pair(breaks.clone()).await;
    let minute = Duration::from_secs(60);
    let asked = Instant::now();
    // All on one lane, and by the node itself too.
    for (n, from) in [&a, &b].into_iter().enumerate() {
        for (m, body) in ["now", "later"].into_iter().enumerate() {
            let message = request_between((10 * n + m) as u128, "shop:a", "shop:b", body, minute);
            let outcome = from.request(id("b"), message).await;
            assert_eq!(code(&outcome), ("unknown", Some(Code::Internal)), "{body}");
            let outcome = from.call_outcome(id("b"), Service(1), body.into(), minute).await;
            assert_eq!(code(&outcome), ("unknown", Some(Code::Internal)), "{body}");
        }
        let message = request_between(n as u128 + 50, "shop:a", "shop:b", "fine", minute);
        assert_eq!(body(from.request(id("b"), message).await), "fine");
        let called = from.call(id("b"), Service(1), "fine".into(), minute).await;
        assert_eq!(called.as_deref(), Ok(&b"fine"[..]));
    }
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!((b.counted().panics, b.under_way()), (8, (0, 0)));
    assert_eq!((a.counted().links_begun, b.counted().links_lost), (1, 0));
}
