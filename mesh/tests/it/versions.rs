//! Nodes of neighbouring builds talk with each other in the version that both know, and hear at once what the other does
//! not know.

use std::time::Duration;

use bytes::Bytes;
use mesh::{Fixed, Handle};
use starlane_core::frame::{
    self, Close, Control, Ending, Head, Header, Heads, Hello, Kind, Place, lane, read_refusal,
};
use starlane_core::{Code, MessageId, NodeId, Outcome, Role};

use crate::hostile::member;
use crate::raw::{Raw, RawLink, VERSION, code, hello, written};
use crate::world::{Fake, World, after, body, id, linked, message_id, point, request};

/// Frames as builds of version 1 write them for ever.
const REQUEST: &[u8] = include_bytes!("../../../starlane-core/tests/golden/request.bin");
const SIGNAL: &[u8] = include_bytes!("../../../starlane-core/tests/golden/signal.bin");
const CALL: &[u8] = include_bytes!("../../../starlane-core/tests/golden/call.bin");
const REPLY: &[u8] = include_bytes!("../../../starlane-core/tests/golden/reply.bin");
const REFUSAL: &[u8] = include_bytes!("../../../starlane-core/tests/golden/refusal.bin");

/// A golden frame from `x` to another node.
fn addressed(golden: &[u8], to: NodeId, message: MessageId) -> Vec<u8> {
    let mut bytes = golden.to_vec();
    bytes[8..16].copy_from_slice(&to.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&id("x").0.to_le_bytes());
    bytes[24..40].copy_from_slice(&message.0.to_le_bytes());
    // The call has no time left; here it needs some.
    bytes[40..44].copy_from_slice(&60_000_u32.to_le_bytes());
    bytes
}

/// A frame without a head that `x` sends to another node.
fn bare(kind: Kind, to: &str, n: u128) -> Vec<u8> {
    let header = Header::new(kind, id("x"), id(to), message_id(n), 5_000);
    let mut out = Vec::new();
    frame::begin(&mut out, VERSION, &header, Head::None, Place::Inline(3)).unwrap();
    out.extend_from_slice(b"new");
    out
}

async fn link(world: &World, to: &Handle, name: &str, versions: (u8, u8)) -> RawLink {
    let client = member(world, name, Role::Relay);
    Raw::new(&world.net).link_as(to.address(), &client, Hello { versions, ..hello() }).await
}

#[tokio::test(start_paused = true)]
async fn versions_that_have_none_in_common_part() {
    let world = World::new(3);
    let a = world.node("a", Fake::echo(), &[]);
    let raw = Raw::new(&world.net);
    for versions in [(2, 9), (0, 0)] {
        let connection = raw.connect(a.address(), &member(&world, "x", Role::Relay)).await.unwrap();
        let (mut control, _heard) = connection.open_bi().await.unwrap();
        let says = Hello { versions, ..hello() };
        control.write_all(&written(&Control::Hello(Box::new(says)))).await.unwrap();
        assert_eq!(code(&connection.closed().await), Some(Close::Version.code()));
    }
    assert_eq!(a.links(), []);
}

/// All that two nodes say to each other, with a neighbour of the build before, of the build after, and of a far later
/// one. What that neighbour writes are the golden files, byte for byte; `b` is reached through `a`.
#[tokio::test(start_paused = true)]
async fn a_neighbour_that_knows_other_versions_too_is_talked_with_in_the_common_one() {
    let world = World::new(4);
    let server = Fake::echo();
    let a = world.node("a", server.clone(), &[]);
    let by_relay = Fixed::new([(id("x"), id("a"))]);
    let b = world.start(&world.members.member("b", Role::Relay, 1), Fake::echo(), &[a.address()], by_relay);
    let mut n = 0;
    for versions in [(1, 1), (0, 1), (1, 2), (1, 255)] {
        let mut x = link(&world, &a, "x", versions).await;
        linked(&a, &["b", "x"]).await;
        assert!(a.links().iter().all(|link| link.version == VERSION));
        for to in ["a", "b"] {
            n += 1;
            x.lanes[3].0.write_all(&addressed(REQUEST, id(to), message_id(n))).await.unwrap();
            let (header, head, answer) = x.next_whole(3).await;
            assert_eq!((header.kind, header.from, header.id), (Kind::Reply, id(to), message_id(n)));
            assert_eq!(body(Heads::default().outcome(&header, &head, answer).unwrap()), "{\"sku\":7}");
            n += 1;
            x.lanes[4].0.write_all(&addressed(CALL, id(to), message_id(n))).await.unwrap();
            let (header, head, answer) = x.next_whole(4).await;
            let told = (header.kind, header.from, answer);
            assert_eq!(told, (Kind::Answer, id(to), "since 7".into()), "{}", String::from_utf8_lossy(&head));
        }
        let heard = *server.heard.borrow();
        x.lanes[5].0.write_all(&addressed(SIGNAL, id("a"), message_id(n))).await.unwrap();
        server.wait_for(heard + 1).await;

        let between = lane(&point("shop:a"), &point("shop:b"));
        for (node, name) in [(&a, "a"), (&b, "b")] {
            for (golden, answered) in [(REPLY, true), (REFUSAL, false)] {
                n += 1;
                let asked = node.request(id("x"), request(n, "what"));
                let (header, head, content) = x.next_whole(between).await;
                assert_eq!((header.kind, header.from), (Kind::Request, id(name)));
                let message = Heads::default().message(&header, &head, content).unwrap();
                assert_eq!(message.payload, request(n, "what").payload);
                x.lanes[between].0.write_all(&addressed(golden, id(name), header.id)).await.unwrap();
                match asked.await {
                    Outcome::Ok(reply) if answered => assert_eq!(reply.status, 200),
                    Outcome::Rejected(refusal) if !answered => assert_eq!(refusal.code, Code::Busy),
                    other => panic!("{other:?}"),
                }
            }
        }
        x.connection.close(0u32.into(), b"");
        linked(&a, &["b"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_a_version_that_was_not_agreed_on_ends_its_link_alone() {
    let world = World::new(5);
    let a = world.node("a", Fake::echo(), &[]);
    let b = world.node("b", Fake::echo(), &[a.address()]);
    let mut x = link(&world, &a, "x", (1, 2)).await;
    linked(&a, &["b", "x"]).await;
    let asked = a.request(id("x"), request(1, "what"));
    let mut newer = addressed(REQUEST, id("a"), message_id(2));
    newer[4] = 2;
    x.lanes[3].0.write_all(&newer).await.unwrap();
    assert_eq!(x.closed().await, Some(Close::Version.code()));
    assert!(matches!(asked.await, Outcome::Unknown(_)));
    assert_eq!(body(b.request(id("a"), request(3, "still there")).await), "still there");
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_node_tells_is_skipped_here_and_passed_on_to_others() {
    let world = World::new(6);
    let a = world.node("a", Fake::echo(), &[]);
    let mut x = link(&world, &a, "x", (1, 2)).await;
    let mut y = link(&world, &a, "y", (1, 1)).await;
    linked(&a, &["x", "y"]).await;
    x.control.write_all(&written(&Control::Other(77))).await.unwrap();
    x.lanes[3].0.write_all(&bare(Kind::Other(99), "a", 1)).await.unwrap();
    x.lanes[3].0.write_all(&bare(Kind::Other(99), "y", 1)).await.unwrap();
    let (passed, _, content) = y.next_whole(3).await;
    assert_eq!((passed.kind, passed.from, passed.hops_left), (Kind::Other(99), id("x"), 15));
    assert_eq!(content, Bytes::from_static(b"new"));
    after(Duration::from_secs(10)).await;
    assert_eq!((a.counted().kinds_unknown, a.counted().frames_out), (2, 1), "nothing is said to it");
    // A second hello is none.
    x.control.write_all(&written(&Control::Hello(Box::new(hello())))).await.unwrap();
    assert_eq!(x.closed().await, Some(Close::Malformed.code()));
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_node_asks_is_refused_at_once_where_it_is_not_known() {
    let world = World::new(7);
    let a = world.node("a", Fake::echo(), &[]);
    let b = world.start(
        &world.members.member("b", Role::Relay, 1),
        Fake::echo(),
        &[a.address()],
        Fixed::new([(id("x"), id("a"))]),
    );
    let mut x = link(&world, &a, "x", (1, 2)).await;
    linked(&a, &["b", "x"]).await;
    for (to, wanted) in [("a", Code::Unsupported), ("b", Code::Unsupported), ("nobody", Code::Unreachable)] {
        x.lanes[3].0.write_all(&bare(Kind::Other(200), to, 1)).await.unwrap();
        let (header, head) = x.next_frame(3).await;
        let (ending, refusal) = read_refusal(&head).unwrap();
        assert_eq!((header.kind, header.id), (Kind::Refusal, message_id(1)), "{to}");
        assert_eq!((ending, refusal.code), (Ending::Rejected, wanted), "{to}: {refusal:?}");
    }
    assert_eq!((a.counted().kinds_unknown, b.counted().kinds_unknown), (1, 1));
    assert_eq!(body(a.request(id("b"), request(2, "goes on")).await), "goes on");
}
