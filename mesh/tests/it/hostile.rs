//! Strangers get nowhere, and members that break the protocol harm nobody but their own link.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh::{ALPN_JOIN, ALPN_LINK, Credentials, Handle, Parts, Place, Socket};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config as ProptestConfig, RngAlgorithm, TestRng, TestRunner};
use starlane_core::frame::{
    self, Close, Control, Head, Header, Kind, Place as BodyPlace, Service, read_refusal,
};
use starlane_core::{Code, Payload, Reply, Role};
use tokio::sync::mpsc;

use crate::members::Members;
use crate::raw::{Raw, RawLink, VERSION, code, hello, written};
use crate::world::{Fake, World, after, body, id, linked, message_id, request};

pub(crate) fn member(world: &World, name: &str, role: Role) -> rustls::ClientConfig {
    rustls::ClientConfig::clone(&world.members.member(name, role, 1).client())
}

#[tokio::test(start_paused = true)]
async fn strangers_are_refused_before_a_byte_of_theirs_is_read() {
    let world = World::new(1);
    let a = world.node("a", Fake::echo(), &[]);
    let others = Members::new();
    let shown = |name: &str| Some(world.members.certify(name));
    let elsewhere = Members::new();
    let cases = [
        ("no certificate", world.members.client(None, ALPN_LINK)),
        // It trusts this mesh, and shows a certificate of another.
        ("another authority", world.members.client(Some(others.certify("mesh://test/x/1/relay")), ALPN_LINK)),
        ("no name of a node", world.members.client(shown("mesh://test/"), ALPN_LINK)),
        ("another scheme", world.members.client(shown("https://example.org/x/1/relay"), ALPN_LINK)),
        ("a join that nobody takes", world.members.client(None, ALPN_JOIN)),
        ("another protocol", world.members.client(shown("mesh://test/x/1/relay"), b"h3")),
        ("a revoked node", world.members.client(shown("mesh://test/gone/1/relay"), ALPN_LINK)),
    ];
    world.members.revoke("gone");
    for (what, client) in cases {
        let raw = Raw::new(&world.net);
        if let Ok(connection) = raw.connect(a.address(), &client).await {
            // TLS lets a client go on before the server has seen who it is.
            if let Ok((mut send, _receive)) = connection.open_bi().await {
                let _ = send.write_all(&written(&Control::Hello(Box::new(hello())))).await;
            }
            let closed = connection.closed().await;
            println!("{what}: {closed}");
        }
        after(Duration::from_secs(1)).await;
        assert_eq!(a.links(), [], "{what}");
    }
    let counted = a.counted();
    assert_eq!((counted.frames_in, counted.bytes_in, counted.links_begun), (0, 0, 0));
    assert!(counted.strangers >= 4, "{counted:?}");

    // And nobody is dialled who is not of this mesh.
    let mut foreign = World::new(2);
    (foreign.members, foreign.net) = (elsewhere, world.net.clone());
    let b = foreign.node("b", Fake::echo(), &[a.address()]);
    after(Duration::from_secs(5)).await;
    assert_eq!((b.links(), a.links()), (Vec::new(), Vec::new()));
    assert!(b.counted().dials_failed >= 2);
}

#[tokio::test(start_paused = true)]
async fn handshakes_that_never_end_keep_nobody_out() {
    let mut world = World::new(9);
    world.config.handshakes_max = 4;
    let a = world.node("a", Fake::echo(), &[]);
    let client = member(&world, "x", Role::Relay);
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let raw = Raw::new(&world.net);
        // They ask, and never hear an answer.
        world.net.cut(a.address(), raw.address());
        let (client, to) = (client.clone(), a.address());
        stalled.push(tokio::spawn(async move { raw.connect(to, &client).await.is_ok() }));
    }
    after(Duration::from_millis(100)).await;
    let b = world.node("b", Fake::echo(), &[a.address()]);
    after(Duration::from_millis(200)).await;
    assert_eq!(a.links().len(), 1);
    assert_eq!(body(b.request(id("a"), request(1, "x")).await), "x");
    for stalled in stalled {
        assert!(!stalled.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn who_joins_is_handed_on() {
    let world = World::new(2);
    let (sender, mut joining) = mpsc::channel(1);
    let parts = Parts {
        credentials: world.members.member("a", Role::Relay, 1),
        local: Fake::echo(),
        routing: Box::new(mesh::Fixed::default()),
        on_join: Some(Arc::new(move |connection| sender.try_send(connection).unwrap())),
        socket: Socket::Abstract(world.net.socket(), [1; 32]),
        place: Place::Here,
        seed: 1,
    };
    let a = mesh::start(world.config.clone(), parts).unwrap();
    let raw = Raw::new(&world.net);
    let joins = raw.connect(a.address(), &world.members.client(None, ALPN_JOIN)).await.unwrap();
    let taken = joining.recv().await.unwrap();
    let mut stream = joins.open_uni().await.unwrap();
    stream.write_all(b"let me in").await.unwrap();
    let mut heard = [0; 9];
    taken.accept_uni().await.unwrap().read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"let me in");
}

fn header(kind: Kind, n: u128) -> Header {
    Header::new(kind, id("x"), id("a"), message_id(n), 5_000)
}

fn whole(header: &Header, head: Head<'_>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::begin(&mut out, VERSION, header, head, BodyPlace::Inline(body.len())).unwrap();
    out.extend_from_slice(body);
    out
}

/// One frame of each kind.
fn samples() -> Vec<Vec<u8>> {
    let message = request(1, "hello");
    let Payload::Request(asked) = &message.payload else { unreachable!() };
    let ask = Head::Message(&message.header, asked);
    let reply = Reply::new(200, "text/plain", "x");
    let refusal = starlane_core::Refusal::new(Code::Busy, "full");
    let refused = Head::Refusal(frame::Ending::Rejected, &refusal);
    let mut detached = Vec::new();
    let place = BodyPlace::Detached { bytes: 300_000, ticket: 0 };
    frame::begin(&mut detached, VERSION, &header(Kind::Request, 9), ask, place).unwrap();
    vec![
        whole(&header(Kind::Request, 1), ask, b"hello"),
        whole(&header(Kind::Signal, 2), ask, b"hello"),
        whole(&header(Kind::Reply, 3), Head::Reply(&reply), b"x"),
        whole(&header(Kind::Refusal, 4), refused, b""),
        whole(&header(Kind::Cancel, 5), Head::None, b""),
        whole(&header(Kind::Call, 6), Head::Call(Service(3)), b"x"),
        whole(&header(Kind::Trace, 7), Head::None, b""),
        whole(&header(Kind::Lost, 8), refused, b""),
        detached,
        whole(&Header { to: id("b"), ..header(Kind::Request, 10) }, ask, b"hello"),
    ]
}

#[derive(Debug, Clone)]
enum Harm {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Put(prop::sample::Index, Vec<u8>),
    Twice,
}

fn harm() -> impl Strategy<Value = Vec<Harm>> {
    let one = prop_oneof![
        6 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        1 => any::<prop::sample::Index>().prop_map(Harm::Cut),
        1 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Harm::Put(at, bytes)),
        1 => Just(Harm::Twice),
    ];
    prop::collection::vec(one, 1..4)
}

fn mutate(mut bytes: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        match harm {
            Harm::Set(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Harm::Cut(at) if !bytes.is_empty() => bytes.truncate(at.index(bytes.len())),
            Harm::Put(at, more) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, more.iter().copied());
            }
            Harm::Twice => bytes.extend_from_within(..),
            Harm::Set(..) | Harm::Cut(_) => {}
        }
    }
    bytes
}

#[tokio::test(start_paused = true)]
async fn broken_frames_close_the_link_with_a_code_and_harm_nobody() {
    broken_frames_harm_nobody(4, 3_000).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "the full form takes minutes: cargo test -p mesh --release -- --ignored"]
async fn a_million_broken_frames_harm_nobody() {
    for seed in 0..100 {
        broken_frames_harm_nobody(seed, 10_000).await;
    }
}

async fn broken_frames_harm_nobody(seed: u8, frames: usize) {
    let mut world = World::new(4);
    // So that frames which claim to be long are not waited for.
    world.config.idle = Duration::from_secs(2);
    let a = world.node("a", Fake::echo(), &[]);
    let b = world.node("b", Fake::echo(), &[a.address()]);
    linked(&b, &["a"]).await;
    let client = member(&world, "x", Role::Relay);
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), seed);
    let samples = samples();
    let raw = Raw::new(&world.net);
    let mut link: Option<RawLink> = None;
    let (mut closed, mut codes) = (0, std::collections::BTreeMap::new());
    for nth in 0..frames {
        if link.as_ref().is_none_or(|link| !link.is_open()) {
            link = Some(raw.link(a.address(), &client).await);
        }
        let Some(open) = &mut link else { unreachable!() };
        let harms = harm().new_tree(&mut runner).unwrap().current();
        let bytes = mutate(samples[nth % samples.len()].clone(), &harms);
        let written = match nth % 20 {
            // On the control stream, and as a body on its own stream.
            18 => open.control.write_all(&bytes).await.is_ok(),
            19 => match open.connection.open_uni().await {
                Ok(mut stream) => stream.write_all(&bytes).await.is_ok(),
                Err(_) => false,
            },
            lane => open.lanes[lane % 16].0.write_all(&bytes).await.is_ok(),
        };
        // Long enough for it to be read; some wait for more, and end when the next one is no end for them.
        after(Duration::from_millis(20)).await;
        if !written || !open.is_open() {
            closed += 1;
            let why = code(&open.connection.closed().await);
            *codes.entry(why).or_insert(0) += 1;
            link = None;
        }
    }
    println!("{frames} broken frames closed {closed} links: {codes:?}");
    let known = [Close::Malformed, Close::Version, Close::Replaced].map(|close| Some(close.code()));
    assert!(codes.keys().all(|code| known.contains(code)), "{codes:?}");
    assert!(closed >= 100, "a run that did little proves nothing");
    let counted = a.counted();
    assert!(counted.malformed >= 100 && counted.refused_malformed >= 50, "{counted:?}");
    assert_eq!(body(b.request(id("a"), request(1_000, "still there")).await), "still there");
    assert_eq!((a.counted().links_lost, b.counted().links_lost), (closed, 0));
}

async fn raw_link(world: &World, to: &Handle, role: Role) -> RawLink {
    Raw::new(&world.net).link(to.address(), &member(world, "x", role)).await
}

#[tokio::test(start_paused = true)]
async fn a_leaf_may_not_speak_for_others() {
    let world = World::new(6);
    let a = world.node("a", Fake::echo(), &[]);
    let mut x = raw_link(&world, &a, Role::Leaf).await;
    let trace = |from: &str| whole(&Header { from: id(from), ..header(Kind::Trace, 1) }, Head::None, b"");
    x.lanes[0].0.write_all(&trace("x")).await.unwrap();
    assert_eq!(x.next_frame(0).await.0.kind, Kind::Traced);
    x.lanes[0].0.write_all(&trace("y")).await.unwrap();
    assert_eq!(x.closed().await, Some(Close::Malformed.code()));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_none_is_refused_and_the_link_stays() {
    let world = World::new(7);
    let server = Fake::echo();
    let a = world.node("a", server.clone(), &[]);
    let mut x = raw_link(&world, &a, Role::Relay).await;
    x.lanes[5].0.write_all(&whole(&header(Kind::Request, 7), Head::None, b"no head")).await.unwrap();
    let (refused, head) = x.next_frame(5).await;
    assert_eq!((refused.kind, refused.id), (Kind::Refusal, message_id(7)));
    assert_eq!(read_refusal(&head).unwrap().1.code, Code::MessageInvalid);
    // The same for one whose time is over.
    let late = Header { remaining_ms: 0, ..header(Kind::Call, 8) };
    x.lanes[6].0.write_all(&whole(&late, Head::Call(Service(1)), b"")).await.unwrap();
    let (refused, head) = x.next_frame(6).await;
    assert_eq!((refused.id, read_refusal(&head).unwrap().1.code), (message_id(8), Code::Expired));
    assert!(x.is_open() && server.ran.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_as_announced_closes_the_link() {
    let world = World::new(8);
    let a = world.node("a", Fake::echo(), &[]);
    for (announced, sent) in [(300_000u64, 299_999), (300_000, 300_001), (300_000, 0)] {
        let mut x = raw_link(&world, &a, Role::Relay).await;
        let mut front = Vec::new();
        let place = BodyPlace::Detached { bytes: announced, ticket: 4 };
        frame::begin(&mut front, VERSION, &header(Kind::Call, 1), Head::Call(Service(1)), place).unwrap();
        x.lanes[0].0.write_all(&front).await.unwrap();
        let mut stream = x.connection.open_uni().await.unwrap();
        let mut chunks = [Bytes::copy_from_slice(&frame::write_ticket(4)), Bytes::from(vec![0; sent])];
        stream.write_all_chunks(&mut chunks).await.unwrap();
        let _ = stream.finish();
        assert_eq!(x.closed().await, Some(Close::Malformed.code()), "{announced} {sent}");
        linked(&a, &[]).await;
    }
    // A body whose frame never comes waits, and nothing with it.
    let x = raw_link(&world, &a, Role::Relay).await;
    let mut stream = x.connection.open_uni().await.unwrap();
    stream.write_all(&frame::write_ticket(9)).await.unwrap();
    after(Duration::from_secs(30)).await;
    assert!(x.is_open());
}
