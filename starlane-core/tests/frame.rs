//! The wire, byte for byte: what is written reads as the same however it is cut, the frames of version 1 stay readable
//! for ever, and what is out of bounds is refused.

#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use starlane_core::frame::{
    self, BODY_BYTES_MAX, Control, Ending, Error, FRAME_BYTES_MAX, Frame, HEAD_BYTES_MAX, Head, Header,
    Heads, Hello, Hop, INLINE_BYTES_MAX, Kind, LANES, Life, Place, Service, Slicer, Taken,
};
use starlane_core::routing::{self, Advert, Carried, Cost, Edition, Link, Packet, Seen};
use starlane_core::{
    Agent, Blob, Body, CallChain, Code, Digest, Generation, Headers, Message, MessageId, Method, NodeId,
    Outcome, Payload, Point, Priority, Refusal, Reply, Request, Role, Trace,
};

const CLOUD: NodeId = NodeId(0x9ebb_5c95_13ba_c4fe);
const EDGE: NodeId = NodeId(0x0123_4567_89ab_cdef);
const ID: MessageId = MessageId(0x0198_0000_0000_7000_8000_0000_0000_0001);

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn message(body: Body) -> Message {
    let (from, to) = (point("shop:cart"), point("shop:orders:o-17"));
    let mut header =
        starlane_core::Header::new(ID, from.clone(), to, Agent(from), Duration::from_millis(2_500));
    header.hops_left = 7;
    let request = Request {
        method: Method::ext("AddItem").unwrap(),
        path: "/items?n=2".into(),
        headers: [("content-type", "application/json")].into_iter().collect(),
        body,
    };
    Message { header, payload: Payload::Request(request) }
}

fn full_message() -> Message {
    let mut message = message(Body::Blob(Blob { digest: Digest([7; 32]), bytes: 1 << 40 }));
    let header = &mut message.header;
    header.agent = Agent(point("mesh:users:anonymous"));
    header.chain = CallChain::default().with(point("shop:a")).with(point("shop:b"));
    header.trace = Trace { trace_id: 5 << 100, span_id: 9, sampled: true };
    header.priority = Priority::High;
    message
}

fn write(header: &Header, head: Head<'_>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::begin(&mut out, 1, header, head, Place::Inline(body.len())).unwrap();
    out.extend_from_slice(body);
    out
}

fn write_message(message: &Message) -> Vec<u8> {
    let (kind, request) = match &message.payload {
        Payload::Request(request) => (Kind::Request, request),
        Payload::Signal(request) => (Kind::Signal, request),
        Payload::Reply(_) => panic!("a reply is no message on the wire"),
    };
    let header = Header::of_message(&message.header, kind, EDGE, CLOUD);
    write(&header, Head::Message(&message.header, request), &frame::body_of(&request.body))
}

fn header(kind: Kind) -> Header {
    Header::new(kind, CLOUD, EDGE, ID, 0)
}

/// The frames that a stream brings, each as `read` sees it.
fn read<T>(chunks: &[&[u8]], mut read: impl FnMut(&Frame<'_>) -> T) -> Result<Vec<T>, Error> {
    let mut slicer = Slicer::frames();
    let mut found = Vec::new();
    for chunk in chunks {
        slicer.push(Bytes::copy_from_slice(chunk));
        while let Some(piece) = slicer.next()? {
            found.push(read(&Frame::read(piece)?));
        }
    }
    Ok(found)
}

fn read_message(bytes: &[u8]) -> Result<Message, Error> {
    read(&[bytes], |frame| Heads::default().message(&frame.header, frame.head(), frame.body()))?.remove(0)
}

fn read_outcome(bytes: &[u8]) -> Result<Outcome, Error> {
    read(&[bytes], |frame| Heads::default().outcome(&frame.header, frame.head(), frame.body()))?.remove(0)
}

fn controls(bytes: &[u8]) -> Result<Vec<Control>, Error> {
    let mut slicer = Slicer::controls();
    let mut found = Vec::new();
    slicer.push(Bytes::copy_from_slice(bytes));
    while let Some(piece) = slicer.next()? {
        found.push(Control::read(piece)?);
    }
    Ok(found)
}

fn hello() -> Hello {
    let mut lanes = [0; LANES];
    lanes[3] = 300;
    let life = Life { generation: Generation(9), process: 1 << 100 | 7 };
    Hello {
        versions: (1, 1),
        features: 6,
        link: 42,
        life,
        last: [Some(Taken { link: 41, lanes }), None, None],
    }
}

/// What nodes tell their neighbours that they know of the mesh.
fn digest() -> routing::Digest {
    let edition = Edition { generation: Generation(300), sequence: 1 << 40 };
    routing::Digest { first: NodeId(0), last: NodeId(u64::MAX), seen: vec![Seen { node: CLOUD, edition }] }
}

/// What a node tells all others of itself.
fn carried() -> Carried {
    let advert = Advert {
        name: "edge-1".parse().unwrap(),
        edition: Edition { generation: Generation(9), sequence: 77 },
        role: Role::Leaf,
        registry: false,
        draining: true,
        labels: [("tier".to_owned(), "edge".to_owned())].into(),
        links: vec![Link { to: CLOUD, cost: Cost::from_rtt(Duration::from_millis(20)) }],
        more: Bytes::from_static(b"later"),
        chain: Bytes::from_static(b"chain"),
        signature: Bytes::from_static(b"signature"),
    };
    Carried { age_ms: 1_500, advert: Arc::new(advert) }
}

fn written(control: &Control) -> Vec<u8> {
    let mut out = Vec::new();
    control.write(&mut out).unwrap();
    out
}

/// One of each thing that version 1 can say, by the name of its golden file.
fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let mut signal = message(Body::Bytes(Bytes::new()));
    let Payload::Request(request) = signal.payload else { unreachable!() };
    signal.payload = Payload::Signal(request);
    let reply = Reply::new(200, "application/json", "{}");
    let mut refusal = Refusal::new(Code::Busy, "too much is waiting");
    refusal.retry_after = Some(Duration::from_millis(1_500));
    let mut hops = Vec::new();
    Hop { node: CLOUD, rtt: Duration::from_micros(1_200) }.write(&mut hops);
    Hop { node: EDGE, rtt: Duration::from_micros(35_000) }.write(&mut hops);
    let mut detached = Vec::new();
    let large = Place::Detached { bytes: 1_000_000, ticket: 3 };
    frame::begin(&mut detached, 1, &header(Kind::Reply), Head::Reply(&reply), large).unwrap();
    vec![
        ("request", write_message(&message(Body::Bytes(Bytes::from_static(b"{\"sku\":7}"))))),
        ("request-full", write_message(&full_message())),
        ("signal", write_message(&signal)),
        ("reply", write(&header(Kind::Reply), Head::Reply(&reply), b"{}")),
        ("reply-detached", detached),
        ("refusal", write(&header(Kind::Refusal), Head::Refusal(Ending::Rejected, &refusal), b"")),
        ("lost", write(&header(Kind::Lost), Head::Refusal(Ending::Rejected, &refusal), b"")),
        ("cancel", write(&header(Kind::Cancel), Head::None, b"")),
        ("call", write(&header(Kind::Call), Head::Call(Service(300)), b"since 7")),
        ("answer", write(&header(Kind::Answer), Head::None, b"revision 9")),
        ("trace", write(&header(Kind::Trace), Head::None, &hops)),
        ("hello", written(&Control::Hello(Box::new(hello())))),
        ("packet-digest", frame::pack(1, &Packet::Digest(digest()))),
        ("packet-adverts", frame::pack(1, &Packet::Adverts(vec![carried()]))),
        ("routing", written(&Control::Routing(Bytes::from_static(b"advert")))),
    ]
}

fn golden_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("bin")
}

fn golden_bytes(name: &str) -> Vec<u8> {
    std::fs::read(golden_file(name)).unwrap()
}

#[test]
#[ignore = "writes the golden files: only for something that version 1 could not say before"]
fn write_golden_files() {
    for (name, bytes) in golden() {
        if !golden_file(name).exists() {
            std::fs::write(golden_file(name), bytes).unwrap();
        }
    }
}

#[test]
fn version_1_is_written_as_it_always_was() {
    for (name, bytes) in golden() {
        assert_eq!(golden_bytes(name), bytes, "{name}");
    }
}

#[test]
fn version_1_is_read_as_it_always_was() {
    assert_eq!(
        read_message(&golden_bytes("request")),
        Ok(message(Body::Bytes(Bytes::from_static(b"{\"sku\":7}"))))
    );
    assert_eq!(read_message(&golden_bytes("request-full")), Ok(full_message()));
    let signal = read_message(&golden_bytes("signal")).unwrap();
    assert!(matches!(signal.payload, Payload::Signal(signal) if signal.body.is_empty()));
    assert_eq!(
        read_outcome(&golden_bytes("reply")),
        Ok(Outcome::Ok(Reply::new(200, "application/json", "{}")))
    );
    let place = read(&[&golden_bytes("reply-detached")], |frame| (frame.detached(), frame.body_bytes()));
    assert_eq!(place, Ok(vec![(Some((1_000_000, 3)), 1_000_000)]));
    let Ok(Outcome::Rejected(refusal)) = read_outcome(&golden_bytes("refusal")) else { panic!() };
    assert_eq!((refusal.code, refusal.retry_after), (Code::Busy, Some(Duration::from_millis(1_500))));
    let call = read(&[&golden_bytes("call")], |frame| (frame::read_call(frame.head()), frame.body()));
    assert_eq!(call, Ok(vec![(Ok(Service(300)), Bytes::from_static(b"since 7"))]));
    let hops =
        read(&[&golden_bytes("trace")], |frame| Hop::read_all(&frame.body())).unwrap().remove(0).unwrap();
    assert_eq!(hops.iter().map(|hop| hop.node).collect::<Vec<_>>(), [CLOUD, EDGE]);
    assert_eq!(controls(&golden_bytes("hello")), Ok(vec![Control::Hello(Box::new(hello()))]));
    let packet = |name| frame::unpack::<Packet>(1, &golden_bytes(name), 4_096);
    assert_eq!(packet("packet-digest"), Ok(Packet::Digest(digest())));
    assert_eq!(packet("packet-adverts"), Ok(Packet::Adverts(vec![carried()])));
    assert_eq!(controls(&golden_bytes("routing")), Ok(vec![Control::Routing(Bytes::from_static(b"advert"))]));
}

#[test]
fn what_a_newer_node_adds_to_version_1_is_ignored() {
    // A kind that is not known, a flag that is not known, and a field more at the end of a head.
    let mut bytes = golden_bytes("cancel");
    bytes[5] = 200;
    assert_eq!(read(&[&bytes], |frame| frame.header.kind), Ok(vec![Kind::Other(200)]));
    // From 128 on it wants an answer, and its time runs out as that of a request does.
    assert!(Kind::Other(128).is_asking() && !Kind::Other(127).is_asking());
    bytes[40] = 9;
    assert!(frame::age(&mut bytes, 9));

    let mut bytes = golden_bytes("request");
    bytes[7] |= 0b1000_0000;
    assert_eq!(read_message(&bytes), read_message(&golden_bytes("request")));

    let mut bytes = golden_bytes("refusal");
    bytes.extend_from_slice(b"more");
    for (at, more) in [(0, 4), (44, 4)] {
        bytes[at] += more;
    }
    assert_eq!(read_outcome(&bytes), read_outcome(&golden_bytes("refusal")));

    let mut bytes = golden_bytes("hello");
    bytes.extend_from_slice(b"more");
    bytes[0] += 4;
    assert_eq!(controls(&bytes), Ok(vec![Control::Hello(Box::new(hello()))]));
    bytes[5] = 200;
    assert_eq!(controls(&bytes), Ok(vec![Control::Other(200)]));
}

#[test]
fn frames_are_written_in_the_version_of_their_link() {
    let request = message(Body::Bytes(Bytes::from_static(b"{\"sku\":7}")));
    let Payload::Request(asked) = &request.payload else { unreachable!() };
    let fixed = Header::of_message(&request.header, Kind::Request, EDGE, CLOUD);
    let mut written = Vec::new();
    let place = Place::Inline(9);
    frame::begin(&mut written, 9, &fixed, Head::Message(&request.header, asked), place).unwrap();
    assert_eq!(written[4], 9);
    // A relay between two links translates: nothing of the frame is of the version that it came in.
    let mut passed = Vec::new();
    frame::pass_on(&mut passed, 1, &written, fixed.hops_left, fixed.remaining_ms, place).unwrap();
    assert_eq!(passed[..], golden_bytes("request")[..written.len()]);
}

#[test]
fn a_version_that_is_not_known_is_refused() {
    for name in ["request", "reply", "cancel"] {
        for version in [0, 2, 255] {
            let mut bytes = golden_bytes(name);
            bytes[4] = version;
            assert_eq!(read(&[&bytes], |_| ()), Err(Error::Version(version)));
        }
    }
    let mut bytes = golden_bytes("hello");
    bytes[4] = 2;
    assert_eq!(controls(&bytes), Err(Error::Version(2)));
}

#[test]
fn both_sides_settle_on_the_newest_common_version() {
    let speaks = |oldest, newest| Hello { versions: (oldest, newest), ..hello() };
    for (one, other, common) in [
        ((1, 1), (1, 1), Some(1)),
        ((1, 2), (1, 1), Some(1)),
        ((2, 3), (1, 2), Some(2)),
        ((3, 4), (1, 2), None),
    ] {
        assert_eq!(speaks(one.0, one.1).common_version(other.0..=other.1).ok(), common);
        assert_eq!(speaks(other.0, other.1).common_version(one.0..=one.1).ok(), common);
    }
}

#[test]
fn lengths_are_refused_before_anything_is_kept_for_them() {
    let mut bytes = golden_bytes("request");
    for length in [0, 1, FRAME_BYTES_MAX as u32 - 3, u32::MAX] {
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(read(&[&bytes], |_| ()), Err(Error::Length(length.into())));
    }
    // Too short for a header; a head that is longer than its frame, and one that is longer than it may be.
    let mut bytes = golden_bytes("cancel");
    bytes[0] -= 1;
    assert!(matches!(read(&[&bytes], |_| ()), Err(Error::Length(_))));
    let mut bytes = golden_bytes("request");
    bytes[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(read(&[&bytes], |_| ()), Err(Error::Length(_))));
    let mut bytes = vec![0; 48 + HEAD_BYTES_MAX + 1];
    bytes[..4].copy_from_slice(&(44 + HEAD_BYTES_MAX as u32 + 1).to_le_bytes());
    bytes[4] = 1;
    bytes[44..48].copy_from_slice(&(HEAD_BYTES_MAX as u32 + 1).to_le_bytes());
    assert!(matches!(read(&[&bytes], |_| ()), Err(Error::Length(_))));
    // A body on its own stream that is larger than any may be.
    let mut bytes = golden_bytes("reply-detached");
    let place = bytes.len() - 16;
    bytes[place..place + 8].copy_from_slice(&(BODY_BYTES_MAX as u64 + 1).to_le_bytes());
    assert_eq!(read(&[&bytes], |_| ()), Err(Error::Length(BODY_BYTES_MAX as u64 + 1)));
}

#[test]
fn what_is_too_large_is_not_written() {
    let mut out = b"before".to_vec();
    let mut large = message(Body::default());
    let Payload::Request(request) = &mut large.payload else { unreachable!() };
    request.headers.set("note", &"x".repeat(HEAD_BYTES_MAX));
    let head = Head::Message(&large.header, request);
    let written = frame::begin(&mut out, 1, &header(Kind::Request), head, Place::Inline(0));
    assert!(matches!(written, Err(Error::HeadTooLarge(_))));
    let inline = Place::Inline(INLINE_BYTES_MAX + 1);
    let detached = Place::Detached { bytes: BODY_BYTES_MAX as u64 + 1, ticket: 0 };
    for place in [inline, detached] {
        let written = frame::begin(&mut out, 1, &header(Kind::Answer), Head::None, place);
        assert!(matches!(written, Err(Error::BodyTooLarge(_))));
    }
    assert_eq!(out, b"before");
    let refusal = Refusal::new(Code::Internal, "é".repeat(HEAD_BYTES_MAX));
    let bytes = write(&header(Kind::Refusal), Head::Refusal(Ending::Failed, &refusal), b"");
    assert!(matches!(read_outcome(&bytes), Ok(Outcome::Failed(cut)) if cut.detail.len() == 4_096));
}

#[test]
fn a_relay_changes_hops_time_and_place_alone() {
    let bytes = golden_bytes("request");
    let front = read(&[&bytes], |frame| frame.front().to_vec()).unwrap().remove(0);
    let body = &bytes[front.len()..];
    let mut passed = Vec::new();
    frame::pass_on(&mut passed, 1, &front, 6, 2_400, Place::Inline(body.len())).unwrap();
    passed.extend_from_slice(body);
    let mut expected = message(Body::Bytes(Bytes::from_static(b"{\"sku\":7}")));
    expected.header.hops_left = 6;
    expected.header.remaining = Duration::from_millis(2_400);
    assert_eq!(read_message(&passed), Ok(expected));
    // All the rest is the same, even what is not known here.
    let changed: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != passed[*at]).collect();
    assert!(changed.iter().all(|at| *at == 6 || (40..44).contains(at)), "{changed:?}");

    // From a stream of its own into the frame and back, with another ticket.
    let bytes = golden_bytes("reply-detached");
    let front = read(&[&bytes], |frame| frame.front().to_vec()).unwrap().remove(0);
    let mut passed = Vec::new();
    frame::pass_on(&mut passed, 1, &front, 3, 0, Place::Detached { bytes: 1_000_000, ticket: 9 }).unwrap();
    assert_eq!(read(&[&passed], |frame| frame.detached()), Ok(vec![Some((1_000_000, 9))]));
    let mut inline = Vec::new();
    frame::pass_on(&mut inline, 1, &front, 3, 0, Place::Inline(2)).unwrap();
    inline.extend_from_slice(b"{}");
    assert_eq!(read_outcome(&inline), read_outcome(&golden_bytes("reply")));
}

#[test]
fn waiting_takes_from_the_time_left() {
    let remaining = |bytes: &[u8]| frame::peek(bytes).unwrap().remaining_ms;
    let mut request = golden_bytes("request");
    assert!(!frame::age(&mut request, 2_499));
    assert_eq!(remaining(&request), 1);
    assert!(frame::age(&mut request, 5));
    assert_eq!(remaining(&request), 0);
    // What goes back is not for anybody's time, and a body that is on its way is not left alone.
    for name in ["reply", "refusal", "answer", "cancel"] {
        assert!(!frame::age(&mut golden_bytes(name), 9_999), "{name}");
    }
    let mut detached = Vec::new();
    let place = Place::Detached { bytes: 1_000_000, ticket: 0 };
    frame::begin(&mut detached, 1, &header(Kind::Call), Head::Call(Service(1)), place).unwrap();
    assert!(!frame::age(&mut detached, 9_999));
}

#[test]
fn a_head_must_be_what_its_kind_wants() {
    let bytes = golden_bytes("request");
    let at = |text: &[u8]| bytes.windows(text.len()).position(|window| window == text).unwrap();
    // A point, a method, a path and a header's name that are none.
    for (text, wrong) in [("shop:cart", b':'), ("AddItem", b'a'), ("/items", b'i'), ("content-type", b'C')] {
        let mut bytes = bytes.clone();
        bytes[at(text.as_bytes())] = wrong;
        assert!(matches!(read_message(&bytes), Err(Error::Head(_))), "{text}");
    }
    let whole = Frame::read;
    let mut slicer = Slicer::frames();
    slicer.push(Bytes::from(bytes.clone()));
    let frame = whole(slicer.next().unwrap().unwrap()).unwrap();
    for end in 0..frame.head().len() {
        let cut = Heads::default().message(&frame.header, &frame.head()[..end], Bytes::new());
        assert!(matches!(cut, Err(Error::Head(_))), "cut at {end}");
    }
}

#[test]
fn a_body_is_shared_when_it_is_large_and_copied_when_it_is_small() {
    for (length, shared) in [(100, false), (4_096, true)] {
        let bytes = Bytes::from(write(&header(Kind::Answer), Head::None, &vec![1; length]));
        let mut slicer = Slicer::frames();
        slicer.push(bytes.clone());
        let body = Frame::read(slicer.next().unwrap().unwrap()).unwrap().body();
        assert_eq!(bytes.as_ptr_range().contains(&body.as_ptr()), shared, "{length}");
    }
}

#[test]
fn packed_structs_are_bounded_and_of_their_version() {
    let packed = frame::pack(3, &hello());
    assert_eq!(frame::unpack::<Hello>(3, &packed, 4_096), Ok(hello()));
    assert_eq!(frame::unpack::<Hello>(2, &packed, 4_096), Err(Error::Version(3)));
    assert_eq!(frame::unpack::<Hello>(3, &packed, 8), Err(Error::Length(packed.len() as u64)));
    assert_eq!(frame::unpack::<Hello>(3, &packed[..4], 4_096), Err(Error::Head("value")));
    assert_eq!(frame::unpack::<Hello>(3, &[], 4_096), Err(Error::Length(0)));
}

proptest! {
    #[test]
    fn a_stream_brings_the_same_however_it_is_cut(
        bodies in prop::collection::vec(prop_oneof![0..40usize, 4_000..4_200usize, 60_000..70_000usize], 1..8),
        cuts in prop::collection::vec(1..9_000usize, 1..40),
    ) {
        let mut stream = Vec::new();
        for (at, length) in bodies.iter().enumerate() {
            let body: Vec<u8> = (0..*length).map(|byte| (byte + at) as u8).collect();
            stream.extend(write_message(&message(Body::Bytes(body.into()))));
        }
        let whole = read(&[&stream], |frame| (frame.header, frame.head().to_vec(), frame.body())).unwrap();
        let mut chunks = Vec::new();
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, more) = rest.split_at(rest.len().min(*cut));
            chunks.push(chunk);
            rest = more;
        }
        let cut = read(&chunks, |frame| (frame.header, frame.head().to_vec(), frame.body())).unwrap();
        prop_assert_eq!(whole.len(), bodies.len());
        prop_assert!(whole == cut);
    }

    #[test]
    fn pairs_keep_their_lane_and_spread_over_all(seed in any::<u32>()) {
        let mut used = [0; LANES];
        for n in 0..640 {
            let (from, to) = (point(&format!("shop:a-{seed}")), point(&format!("shop:b-{n}")));
            let lane = frame::lane(&from, &to);
            prop_assert_eq!(lane, frame::lane(&from.clone(), &to.clone()));
            used[lane] += 1;
        }
        prop_assert!(used.iter().all(|count| (10..100).contains(count)), "{:?}", used);
    }

    #[test]
    fn headers_of_any_text_come_back(list in prop::collection::vec(("[a-z-]{1,12}", ".{0,40}"), 0..6)) {
        let mut message = message(Body::default());
        let Payload::Request(request) = &mut message.payload else { unreachable!() };
        request.headers = list.iter().cloned().collect::<Headers>();
        prop_assert_eq!(read_message(&write_message(&message)), Ok(message));
    }
}
