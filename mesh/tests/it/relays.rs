//! Frames cross nodes that they are not for: by their headers, and never for ever.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use mesh::Fixed;
use starlane_core::{Code, Outcome, Role};

use crate::world::{
    Fake, World, after, body, code, echo, id, linked, request, request_between, signal_between, until,
};

#[tokio::test(start_paused = true)]
async fn a_relay_passes_on_and_never_looks_inside() {
    let world = World::new(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let remembered = seen.clone();
    let server = Fake::new(move |message| {
        remembered.lock().unwrap().push((message.header.hops_left, message.header.remaining));
        async move { Outcome::Ok(echo(message)) }.boxed()
    });
    let relay = Fake::echo();
    let (a, r, b) = world.line(relay.clone(), server.clone()).await;
    for (n, length) in [0, 100, 5_000, 200_000, 300_000, 3_000_000].into_iter().enumerate() {
        let content = vec![n as u8; length];
        let message =
            request_between(n as u128, "shop:a", "shop:b", content.clone(), Duration::from_secs(30));
        assert!(body(a.request(id("b"), message).await) == content, "{length}");
    }
    assert_eq!(body(b.request(id("a"), request(100, "back")).await), "back");
    assert_eq!(r.counted().frames_relayed, 14);
    assert_eq!(relay.ran.lock().unwrap().len(), 0);
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|(hops_left, _)| *hops_left == 15), "{seen:?}");
    assert!(seen.iter().all(|(_, remaining)| *remaining <= Duration::from_secs(30)));
    // The large bodies waited for themselves to arrive, twice.
    assert!(seen.last().unwrap().1 < Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_trace_lists_the_way() {
    let world = World::new(2);
    let (a, r, b) = world.line(Fake::echo(), Fake::echo()).await;
    let way = a.trace(id("b"), Duration::from_secs(1)).await.unwrap();
    assert_eq!(way.iter().map(|hop| hop.node).collect::<Vec<_>>(), [id("r"), id("b")]);
    assert!(way.iter().all(|hop| hop.rtt >= Duration::from_millis(4)), "{way:?}");
    assert_eq!(a.trace(id("a"), Duration::from_secs(1)).await, Ok(Vec::new()));
    let lost = a.trace(id("nobody"), Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(lost.code, Code::Unreachable);
    b.stop().await;
    linked(&r, &["a"]).await;
    let lost = a.trace(id("b"), Duration::from_secs(1)).await.unwrap_err();
    assert_eq!((lost.code, &*lost.detail), (Code::Unreachable, "r knows no way to the node"));
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_goes_in_circles_is_refused_after_so_many_nodes() {
    let world = World::new(3);
    let ghost = id("ghost");
    let routed = |name: &str, next: &[(&str, &str)], dials: &[_]| {
        let next = next.iter().map(|(to, next)| (id(to), id(next)));
        world.start(&world.members.member(name, Role::Relay, 1), Fake::echo(), dials, Fixed::new(next))
    };
    let b = routed("b", &[("ghost", "c")], &[]);
    let c = routed("c", &[("ghost", "d"), ("a", "b")], &[b.address()]);
    let d = routed("d", &[("ghost", "b"), ("a", "b")], &[b.address(), c.address()]);
    let a = routed("a", &[("ghost", "b")], &[b.address()]);
    for (node, names) in [(&a, &["b"][..]), (&b, &["a", "c", "d"]), (&c, &["b", "d"]), (&d, &["b", "c"])] {
        linked(node, names).await;
    }
    let outcome = a.request(ghost, request(1, "x")).await;
    assert_eq!(code(&outcome), ("rejected", Some(Code::Unreachable)));
    assert!(
        matches!(&outcome, Outcome::Rejected(refusal) if refusal.detail.contains("too many")),
        "{outcome:?}"
    );
    let relayed: u64 = [&b, &c, &d].iter().map(|node| node.counted().frames_relayed).sum();
    // 16 times on its way, and the refusal on its way back: no node sent it on twice at once.
    assert!((16..=18).contains(&relayed), "{relayed}");
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_back_to_where_it_came_from() {
    let world = World::new(4);
    let routed = |name: &str, next: &str, dials: &[_]| {
        let fixed = Fixed::new([(id("ghost"), id(next))]);
        world.start(&world.members.member(name, Role::Relay, 1), Fake::echo(), dials, fixed)
    };
    let b = routed("b", "a", &[]);
    let a = routed("a", "b", &[b.address()]);
    linked(&a, &["b"]).await;
    let outcome = a.request(id("ghost"), request(1, "x")).await;
    assert!(
        matches!(&outcome, Outcome::Rejected(refusal) if refusal.detail.contains("leads back")),
        "{outcome:?}"
    );
    assert_eq!(b.counted().frames_relayed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_comes_home_in_a_circle_did_not_run() {
    let world = World::new(5);
    let routed = |name: &str, next: &str, dials: &[_]| {
        let fixed = Fixed::new([(id("ghost"), id(next))]);
        world.start(&world.members.member(name, Role::Relay, 1), Fake::echo(), dials, fixed)
    };
    let a = routed("a", "b", &[]);
    let b = routed("b", "c", &[a.address()]);
    let c = routed("c", "a", &[a.address(), b.address()]);
    for (node, names) in [(&a, ["b", "c"]), (&b, ["a", "c"]), (&c, ["a", "b"])] {
        linked(node, &names).await;
    }
    let outcome = a.request(id("ghost"), request(1, "x")).await;
    assert_eq!(code(&outcome), ("rejected", Some(Code::Unreachable)));
    assert_eq!(a.counted().frames_looped, 1);

    // A signal that comes home is one that is lost, however the link that it came over ends.
    a.send(id("ghost"), signal_between(2, "shop:a", "shop:b", "x")).unwrap();
    until("it is reported", || a.counted().signals_lost == 1).await;
    world.net.cut_both(a.address(), c.address());
    linked(&a, &["b"]).await;
    linked(&c, &["b"]).await;
    world.net.heal();
    linked(&a, &["b", "c"]).await;
    linked(&c, &["a", "b"]).await;
    let lost: u64 = [&a, &b, &c].iter().map(|node| node.counted().signals_lost).sum();
    let unsure: u64 = [&a, &b, &c].iter().map(|node| node.counted().signals_unsure).sum();
    assert_eq!((lost, unsure), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_leaf_carries_nothing_for_others() {
    let world = World::new(6);
    let leaf = |name: &str, next: &[(&str, &str)], dials: &[_]| {
        let next = next.iter().map(|(to, next)| (id(to), id(next)));
        world.start(&world.members.member(name, Role::Leaf, 1), Fake::echo(), dials, Fixed::new(next))
    };
    let r = world.start(
        &world.members.member("r", Role::Relay, 1),
        Fake::echo(),
        &[],
        Fixed::new([(id("b"), id("leaf"))]),
    );
    let b = world.node("b", Fake::echo(), &[]);
    let l = leaf("leaf", &[], &[r.address(), b.address()]);
    linked(&l, &["b", "r"]).await;
    linked(&r, &["leaf"]).await;
    let outcome = r.request(id("b"), request(1, "x")).await;
    assert!(matches!(&outcome, Outcome::Rejected(refusal) if refusal.detail.contains("leaf")), "{outcome:?}");
    assert_eq!(l.counted().frames_relayed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_on_the_way_ends_what_waits_there() {
    let world = World::new(7);
    let server = Fake::new(|message| {
        async move {
            after(Duration::from_secs(1)).await;
            Outcome::Ok(echo(message))
        }
        .boxed()
    });
    let (a, r, b) = world.line(Fake::echo(), server.clone()).await;
    // It was sent on: nobody can say whether it ran, and the deadline says so.
    let message = request_between(1, "shop:a", "shop:b", "x", Duration::from_secs(20));
    let sent_on = a.request(id("b"), message);
    server.wait_for(1).await;
    world.net.cut_both(r.address(), b.address());
    linked(&r, &["a"]).await;
    assert_eq!(code(&sent_on.await), ("unknown", Some(Code::Timeout)));
    // It was not: the relay says so at once.
    let outcome = a.request(id("b"), request(2, "x")).await;
    assert_eq!(code(&outcome), ("rejected", Some(Code::Unreachable)));
    world.net.heal();
    linked(&r, &["a", "b"]).await;
    assert_eq!(body(a.request(id("b"), request(3, "x")).await), "x");
    assert_eq!(server.ran.lock().unwrap().len(), 2);
}
