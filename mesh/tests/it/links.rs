//! Links begin, end, and begin again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use mesh::{Action, Fixed, Malformed, Peer, Routing};
use starlane_core::{Code, NodeId, Role};
use tokio::time::Instant;

use crate::world::{Fake, World, after, body, code, id, linked, request, request_between, until};

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_over_a_link_whoever_dialled() {
    let world = World::new(1);
    let (a, b) = world.pair(Fake::echo()).await;
    assert_eq!(body(a.request(id("b"), request(1, "hello")).await), "hello");
    assert_eq!(body(b.request(id("a"), request(2, "there")).await), "there");
    assert_eq!(code(&a.request(id("c"), request(3, "nobody")).await), ("rejected", Some(Code::Unreachable)));
    let [link] = a.links().try_into().unwrap();
    assert_eq!((link.address, link.dialled, link.frames_out, link.frames_in), (b.address(), true, 2, 2));
    assert!(link.rtt >= Duration::from_millis(4), "{:?}", link.rtt);
    a.stop().await;
    linked(&b, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_asks_itself_without_a_link() {
    let world = World::new(1);
    let a = world.node("a", Fake::echo(), &[]);
    assert_eq!(body(a.request(id("a"), request(1, "me")).await), "me");
    assert_eq!(a.counted().frames_out, 0);
}

#[tokio::test(start_paused = true)]
async fn two_that_dial_each_other_have_one_link() {
    for seed in 0..20 {
        let world = World::new(seed);
        let addresses = [1, 2].map(|n| SocketAddr::from(([10, 0, 0, n], 1)));
        let a = world.node("a", Fake::echo(), &[addresses[1]]);
        // Sometimes at once, sometimes a little later.
        after(Duration::from_millis(seed % 10)).await;
        let b = world.node("b", Fake::echo(), &[addresses[0]]);
        linked(&a, &["b"]).await;
        linked(&b, &["a"]).await;
        after(Duration::from_secs(60)).await;
        let (of_a, of_b) = (a.links(), b.links());
        assert_eq!((of_a.len(), of_b.len()), (1, 1));
        assert_ne!(of_a[0].dialled, of_b[0].dialled, "both see the same link");
        assert_eq!((a.counted().links_begun, b.counted().links_begun), (1, 1), "seed {seed}");
        assert_eq!(body(a.request(id("b"), request(1, "x")).await), "x");
        assert_eq!(body(b.request(id("a"), request(2, "x")).await), "x");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_link_stays_and_a_cut_one_is_lost_and_begins_again() {
    let world = World::new(3);
    let (a, b) = world.pair(Fake::echo()).await;
    after(Duration::from_secs(300)).await;
    assert_eq!((a.counted().links_lost, b.counted().links_lost), (0, 0));

    world.net.cut_both(a.address(), b.address());
    let cut = Instant::now();
    linked(&a, &[]).await;
    linked(&b, &[]).await;
    let noticed = cut.elapsed();
    assert!(noticed <= Duration::from_secs(7), "{noticed:?}");
    assert_eq!(code(&a.request(id("b"), request(1, "x")).await), ("rejected", Some(Code::Unreachable)));

    // However long it lasts.
    after(Duration::from_secs(3_600)).await;
    world.net.heal();
    let healed = Instant::now();
    linked(&a, &["b"]).await;
    linked(&b, &["a"]).await;
    assert!(healed.elapsed() <= Duration::from_secs(8), "{:?}", healed.elapsed());
    assert_eq!((a.counted().reconnects, b.counted().reconnects), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_one_side_lost_is_replaced_at_once() {
    let world = World::new(4);
    let (a, b) = world.pair(Fake::echo()).await;
    // What a says still comes to b: only a notices.
    world.net.cut(b.address(), a.address());
    linked(&a, &[]).await;
    world.net.heal();
    linked(&a, &["b"]).await;
    linked(&b, &["a"]).await;
    assert_eq!(body(a.request(id("b"), request(1, "x")).await), "x");
    assert_eq!(body(b.request(id("a"), request(2, "x")).await), "x");
}

#[tokio::test(start_paused = true)]
async fn a_later_life_takes_the_place_of_an_earlier_one() {
    let world = World::new(5);
    let hub = world.node("hub", Fake::echo(), &[]);
    let dials = [hub.address()];
    let life = |generation| {
        let member = world.members.member("edge", Role::Leaf, generation);
        world.start(&member, Fake::echo(), &dials, Fixed::default())
    };
    let _first = life(1);
    linked(&hub, &["edge"]).await;
    let second = life(2);
    until("the second life is linked", || hub.links().iter().any(|link| link.peer.generation.0 == 2)).await;
    assert_eq!(body(second.request(id("hub"), request(1, "x")).await), "x");
    // The first tries for ever, and is refused for ever.
    after(Duration::from_secs(60)).await;
    assert_eq!(hub.links()[0].peer.generation.0, 2);
    assert_eq!(hub.counted().links_begun, 2);
}

/// A hub whose link to a node was dialled by the one or the other, and a request that waits on it; then the node is killed
/// and comes back at once, with the same certificate. What it takes until the hub has a link to the new life.
async fn comes_back(hub_dials: bool, elsewhere: bool) {
    let world = World::new(11);
    let hub_socket = world.net.socket();
    let edge_socket = world.net.socket();
    let (hub_at, edge_at) = (hub_socket.address, edge_socket.address);
    let hub_member = world.members.member("hub", Role::Relay, 1);
    let to_edge = [edge_at];
    let hub_dials = if hub_dials { &to_edge[..] } else { &[] };
    let hub = world.start_at(hub_socket, &hub_member, Fake::echo(), hub_dials, Fixed::default());
    let member = world.members.member("edge", Role::Relay, 1);
    let never = Fake::new(|_| futures::future::pending().boxed());
    let dials = if hub_dials.is_empty() { vec![hub_at] } else { Vec::new() };
    let _killed = world.start_at(edge_socket, &member, never.clone(), &dials, Fixed::default());
    linked(&hub, &["edge"]).await;
    assert_eq!(hub.links()[0].dialled, !hub_dials.is_empty());
    let waiting =
        hub.request(id("edge"), request_between(1, "shop:a", "shop:b", "x", Duration::from_secs(60)));
    never.wait_for(1).await;

    let killed = Instant::now();
    let socket = if elsewhere { world.net.socket() } else { world.net.socket_at(edge_at) };
    if elsewhere {
        world.net.cut_both(hub_at, edge_at);
    }
    let dials = if elsewhere { vec![hub_at] } else { dials };
    let back = world.start_at(socket, &member, Fake::echo(), &dials, Fixed::default());
    assert_eq!(code(&waiting.await), ("unknown", Some(Code::Timeout)));
    let unknown = killed.elapsed();
    linked(&hub, &["edge"]).await;
    until("the new life is linked", || hub.counted().links_begun == 2).await;
    assert_eq!(body(hub.request(id("edge"), request(2, "x")).await), "x");
    assert_eq!(body(back.request(id("hub"), request(3, "x")).await), "x");
    let linked = killed.elapsed();
    assert!(unknown < Duration::from_millis(1_500), "{unknown:?}, {linked:?}");
    assert!(linked < Duration::from_millis(2_500), "{unknown:?}, {linked:?}");
    assert_eq!(hub.counted().signals_unsure, 1, "nobody knows what the killed one took");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_killed_and_dials_again_is_known_at_once() {
    comes_back(false, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_killed_and_dials_who_dialled_it_is_known_at_once() {
    comes_back(true, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_killed_and_only_waits_to_be_dialled_is_missed_at_once() {
    comes_back(true, false).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_thrown_out_loses_its_links_at_once_and_stays_out() {
    let world = World::new(6);
    let (a, b) = world.pair(Fake::echo()).await;
    let c = world.node("c", Fake::echo(), &[a.address()]);
    linked(&a, &["b", "c"]).await;
    world.members.revoke("b");
    let revoked = Instant::now();
    linked(&a, &["c"]).await;
    linked(&b, &[]).await;
    assert!(revoked.elapsed() < Duration::from_millis(50), "{:?}", revoked.elapsed());
    b.set_addresses(vec![a.address().to_string()]);
    after(Duration::from_secs(120)).await;
    linked(&a, &["c"]).await;
    assert!(a.counted().strangers + b.counted().strangers >= 10, "it tried again and again");
    assert_eq!(body(c.request(id("a"), request(1, "x")).await), "x");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dials_itself_gives_up_and_one_that_has_enough_links_says_so() {
    let mut world = World::new(7);
    world.config.links_max = 1;
    let a = world.node("a", Fake::echo(), &[SocketAddr::from(([10, 0, 0, 1], 1))]);
    let b = world.node("b", Fake::echo(), &[a.address()]);
    linked(&a, &["b"]).await;
    let c = world.node("c", Fake::echo(), &[a.address()]);
    after(Duration::from_secs(20)).await;
    linked(&a, &["b"]).await;
    linked(&c, &[]).await;
    b.stop().await;
    linked(&a, &["c"]).await;
}

/// Says something to every neighbour, and remembers what it hears.
struct Chatty {
    says: &'static [u8],
    heard: Arc<Mutex<Vec<String>>>,
    actions: Vec<Action>,
}

impl Chatty {
    fn new(says: &'static [u8]) -> (Self, Arc<Mutex<Vec<String>>>) {
        let heard = Arc::<Mutex<Vec<String>>>::default();
        (Self { says, heard: heard.clone(), actions: Vec::new() }, heard)
    }

    fn note(&self, what: &str) {
        self.heard.lock().unwrap().push(what.to_owned());
    }
}

impl Routing for Chatty {
    fn handle_link_up(&mut self, peer: &Peer, rtt: Duration, _now: Duration) {
        assert!(rtt >= Duration::from_millis(4));
        self.note(&format!("up {}", peer.name));
        self.actions.push(Action::Send { to: peer.name.id(), packet: Bytes::from_static(self.says) });
    }

    fn handle_link_down(&mut self, _peer: NodeId, _now: Duration) {
        self.note("down");
    }

    fn handle_rtt(&mut self, _peer: NodeId, _rtt: Duration, _now: Duration) {}

    fn handle_sent(&mut self, _peer: NodeId, _now: Duration) {
        self.note("sent");
    }

    fn handle_packet(&mut self, _from: NodeId, packet: Bytes, _now: Duration) -> Result<(), Malformed> {
        self.note(&format!("packet {}", String::from_utf8_lossy(&packet)));
        if packet == "nonsense" { Err(Malformed) } else { Ok(()) }
    }

    fn handle_timeout(&mut self, _now: Duration) {}

    fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop()
    }
}

#[tokio::test(start_paused = true)]
async fn the_routing_hears_of_links_and_speaks_over_them() {
    let world = World::new(8);
    let (chatty, heard_by_a) = Chatty::new(b"hello from a");
    let a = world.start(&world.members.member("a", Role::Relay, 1), Fake::echo(), &[], chatty);
    let (chatty, heard_by_b) = Chatty::new(b"hello from b");
    let b = world.start(&world.members.member("b", Role::Relay, 1), Fake::echo(), &[a.address()], chatty);
    until("both have said hello", || {
        [&heard_by_a, &heard_by_b].iter().all(|heard| heard.lock().unwrap().len() == 3)
    })
    .await;
    b.stop().await;
    linked(&a, &[]).await;
    let mut heard = heard_by_a.lock().unwrap().clone();
    assert_eq!((heard.remove(0), heard.pop()), ("up b".to_owned(), Some("down".to_owned())));
    heard.sort();
    assert_eq!(heard, ["packet hello from b", "sent"]);
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_whose_routing_speaks_nonsense_is_cut_off() {
    let world = World::new(9);
    let (chatty, heard) = Chatty::new(b"hello");
    let a = world.start(&world.members.member("a", Role::Relay, 1), Fake::echo(), &[], chatty);
    let (chatty, _) = Chatty::new(b"nonsense");
    let b = world.start(&world.members.member("b", Role::Relay, 1), Fake::echo(), &[a.address()], chatty);
    until("it was heard", || heard.lock().unwrap().iter().any(|heard| heard == "down")).await;
    assert!(a.counted().malformed >= 1);
    b.stop().await;
}
