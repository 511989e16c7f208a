//! A node that stops leaves in order.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use mesh::{Action, Fixed, Malformed, Peer, Routing};
use starlane_core::frame::{self, Head, Header, Kind, Place};
use starlane_core::{Code, NodeId, Outcome, Reply, Role};
use tokio::time::Instant;

use crate::hostile::member;
use crate::net::Weather;
use crate::raw::{Raw, VERSION};
use crate::world::{Fake, World, after, body, code, echo, id, linked, message_id, request, request_between};

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn what_was_answered_before_a_node_stops_arrives_however_long_packets_take() {
    for bytes in [1, 300_000] {
        let world = World::new(1);
        let local = Fake::echo();
        let (a, b) = world.pair(local.clone()).await;
        world.net.set_weather(Weather { delay: 100 * MS, ..Weather::default() });
        let asked = a.request(id("b"), request(1, vec![7; bytes]));
        local.wait_for(1).await;
        b.stop().await;
        assert_eq!(body(asked.await).len(), bytes);
        assert_eq!(b.counted().answers_lost, 0);
    }
}

/// What is answered late has to be waited for: 20 ms are less than a packet takes.
fn slow() -> std::sync::Arc<Fake> {
    Fake::new(|message| after(20 * MS).map(|()| Outcome::Ok(echo(message))).boxed())
}

/// Requests, one a millisecond, while the node that they go to stops: how many were answered. Whatever was not is refused.
async fn ask_while_it_stops(from: &mesh::Handle, to: &mesh::Handle) -> usize {
    let begun = Instant::now();
    let mut asked = Vec::new();
    let stop = tokio::spawn({
        let to = to.clone();
        async move {
            after(100 * MS).await;
            to.stop().await;
        }
    });
    for n in 0..300 {
        let points = format!("shop:a-{}", n % 5);
        let message = request_between(n, &points, "shop:b", "x", Duration::from_secs(30));
        asked.push(from.request(id("b"), message));
        tokio::time::sleep_until(begun + u32::try_from(n).unwrap() * MS).await;
    }
    stop.await.unwrap();
    let mut answered = 0;
    for (n, asked) in asked.into_iter().enumerate() {
        match code(&asked.await) {
            ("ok", _) => answered += 1,
            ("rejected", Some(Code::Unreachable)) => {}
            other => panic!("request {n}: {other:?}"),
        }
    }
    answered
}

#[tokio::test(start_paused = true)]
async fn no_request_to_a_node_that_stops_is_unknown() {
    for seed in 0..10 {
        let world = World::new(seed);
        let (a, b) = world.pair(slow()).await;
        world.net.set_weather(Weather { delay: 30 * MS, lost: 2, doubled: 1, late: 5 });
        let answered = ask_while_it_stops(&a, &b).await;
        // All that was sent before it was heard that the node leaves.
        assert!((100..250).contains(&answered), "seed {seed}: {answered}");
        linked(&a, &[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_request_over_a_relay_to_a_node_that_stops_is_unknown() {
    for seed in 0..10 {
        let world = World::new(seed);
        let (a, r, b) = world.line(Fake::echo(), slow()).await;
        world.net.set_weather(Weather { delay: 30 * MS, ..Weather::default() });
        let answered = ask_while_it_stops(&a, &b).await;
        assert!((70..250).contains(&answered), "seed {seed}: {answered}");
        assert_eq!(r.counted().answers_lost, 0);
    }
}

/// The routes of a node that stops stay as they were, also over links that ended before others did.
#[tokio::test(start_paused = true)]
async fn what_comes_over_a_relay_is_answered_though_the_link_to_whoever_asks_has_ended() {
    let world = World::new(1);
    let (a, r) = (world.node("a", Fake::echo(), &[]), world.node("r", Fake::echo(), &[]));
    let b = world.members.member("b", Role::Relay, 1);
    let by_relay = Fixed::new([(id("a"), id("r"))]);
    let b = world.start(&b, Fake::echo(), &[a.address(), r.address()], by_relay);
    r.add_address(a.address().to_string());
    linked(&r, &["a", "b"]).await;
    linked(&b, &["a", "r"]).await;
    let stop = tokio::spawn({
        let a = a.clone();
        async move { a.stop().await }
    });
    // What it says to the relay, that it leaves for one, is under way for longer.
    world.net.cut(a.address(), r.address());
    linked(&b, &["r"]).await;
    let begun = Instant::now();
    let asked = b.request(id("a"), request(1, "x"));
    after(100 * MS).await;
    world.net.heal();
    assert_eq!(body(asked.await), "x");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    stop.await.unwrap();
    assert_eq!(a.counted().answers_lost, 0);
}

#[tokio::test(start_paused = true)]
async fn that_a_node_leaves_is_heard_while_a_long_answer_is_under_way() {
    const BYTES: usize = 8_000_000;
    let world = World::new(1);
    let long = Fake::new(|_| async { Outcome::Ok(Reply::new(200, "text/plain", vec![7; BYTES])) }.boxed());
    let (a, b) = world.pair(long.clone()).await;
    world.net.set_weather(Weather { delay: 20 * MS, ..Weather::default() });
    let asked = a.request(id("b"), request(1, "x"));
    long.wait_for(1).await;
    let stop = tokio::spawn(async move { b.stop().await });
    after(100 * MS).await;
    assert!(!stop.is_finished());
    assert_eq!(code(&a.request(id("b"), request(2, "x")).await), ("rejected", Some(Code::Unreachable)));
    assert_eq!(body(asked.await).len(), BYTES);
    stop.await.unwrap();
}

/// So does a node of an earlier version.
#[tokio::test(start_paused = true)]
async fn a_neighbour_that_goes_as_soon_as_it_hears_of_it_is_answered_before() {
    let world = World::new(1);
    let a = world.node("a", Fake::echo(), &[]);
    let raw = Raw::new(&world.net);
    let mut link = raw.link(a.address(), &member(&world, "b", Role::Relay)).await;
    linked(&a, &["b"]).await;
    let stop = tokio::spawn(async move { a.stop().await });
    let mut trace = Vec::new();
    let header = Header::new(Kind::Trace, id("b"), id("a"), message_id(1), 5_000);
    frame::begin(&mut trace, VERSION, &header, Head::None, Place::Inline(0)).unwrap();
    link.lanes[0].0.write_all(&trace).await.unwrap();
    assert_eq!(link.next_before_it_leaves(0).await.map(|header| header.kind), Some(Kind::Traced));
    assert_eq!(link.next_before_it_leaves(0).await, None);
    link.connection.close(0_u32.into(), b"");
    stop.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_that_stop_at_once_do_not_wait_for_each_other() {
    let world = World::new(1);
    let (a, b) = world.pair(Fake::echo()).await;
    let begun = Instant::now();
    tokio::join!(a.stop(), b.stop());
    assert!(begun.elapsed() < 500 * MS, "{:?}", begun.elapsed());
}

/// A routing that tells every neighbour something whenever it is asked to.
#[derive(Default)]
struct Talks {
    peers: Vec<NodeId>,
    due: usize,
}

impl Routing for Talks {
    fn handle_link_up(&mut self, peer: &Peer, _rtt: Duration, _now: Duration) {
        self.peers.push(peer.name.id());
    }
    fn handle_link_down(&mut self, _peer: NodeId, _now: Duration) {}
    fn handle_rtt(&mut self, _peer: NodeId, _rtt: Duration, _now: Duration) {}
    fn handle_sent(&mut self, _peer: NodeId, _now: Duration) {}
    fn handle_packet(&mut self, _from: NodeId, _packet: Bytes, _now: Duration) -> Result<(), Malformed> {
        Ok(())
    }
    fn handle_timeout(&mut self, _now: Duration) {
        self.due = self.peers.len();
    }
    fn poll_timeout(&self) -> Option<Duration> {
        None
    }
    fn poll_action(&mut self) -> Option<Action> {
        self.due = self.due.checked_sub(1)?;
        Some(Action::Send { to: self.peers[self.due], packet: "x".into() })
    }
}

#[tokio::test(start_paused = true)]
async fn two_that_stop_at_once_hear_of_each_other_behind_what_their_routings_said() {
    let world = World::new(1);
    let start = |name: &str, dials: &[SocketAddr]| {
        world.start(&world.members.member(name, Role::Relay, 1), Fake::echo(), dials, Talks::default())
    };
    let a = start("a", &[]);
    let b = start("b", &[a.address()]);
    linked(&a, &["b"]).await;
    linked(&b, &["a"]).await;
    world.net.set_weather(Weather { delay: 100 * MS, ..Weather::default() });
    a.poke_routing();
    b.poke_routing();
    after(MS).await;
    let begun = Instant::now();
    tokio::join!(a.stop(), b.stop());
    // Who does not hear of the other waits for two seconds, and one more.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_stops_though_its_neighbour_is_cut_off_or_does_not_answer() {
    let world = World::new(1);
    let never = Fake::new(|_| futures::future::pending().boxed());
    let (a, b) = world.pair(never.clone()).await;
    let asked = a.request(id("b"), request(1, "x"));
    never.wait_for(1).await;
    let begun = Instant::now();
    b.stop().await;
    assert_eq!(code(&asked.await), ("unknown", Some(Code::Timeout)));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());

    let c = world.node("c", Fake::echo(), &[a.address()]);
    linked(&a, &["c"]).await;
    world.net.cut_both(a.address(), c.address());
    let begun = Instant::now();
    c.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_that_says_it_leaves_is_asked_nothing_and_has_to_leave() {
    let world = World::new(1);
    let a = world.node("a", Fake::echo(), &[]);
    let raw = Raw::new(&world.net);
    let mut link = raw.link(a.address(), &member(&world, "b", Role::Relay)).await;
    linked(&a, &["b"]).await;
    let waits = a.request(id("b"), request(1, "x"));
    link.next_frame(frame::lane(&"shop:a".parse().unwrap(), &"shop:b".parse().unwrap())).await;
    link.control.finish().unwrap();
    let begun = Instant::now();
    after(50 * MS).await;
    assert_eq!(code(&a.request(id("b"), request(2, "x")).await), ("rejected", Some(Code::Unreachable)));
    assert_eq!(link.closed().await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(code(&waits.await), ("unknown", Some(Code::Timeout)));
}
