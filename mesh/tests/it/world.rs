//! Nodes for tests: each with a local side that remembers what it was asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use mesh::{Answer, Call, Config, Fixed, Handle, Local, Parts, Place, Routing, Socket};
use starlane_core::{
    Agent, Body, Code, Header, Headers, Message, MessageId, Method, NodeId, NodeName, Outcome, Payload,
    Point, Refusal, Reply, Request, Role,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::members::{Member, Members};
use crate::net::{Net, NetSocket};

type Handler = Box<dyn Fn(Message) -> BoxFuture<'static, Outcome> + Send + Sync>;
type Service = Box<dyn Fn(Call) -> BoxFuture<'static, Result<Bytes, Refusal>> + Send + Sync>;

/// The local side of a node in tests.
pub(crate) struct Fake {
    handler: Handler,
    service: Service,
    pub(crate) ran: Mutex<Vec<MessageId>>,
    pub(crate) signals: Mutex<Vec<Message>>,
    /// Grows with each signal and request.
    pub(crate) heard: watch::Sender<usize>,
}

impl Fake {
    /// Answers every request and call with what it was given.
    pub(crate) fn echo() -> Arc<Self> {
        Self::new(|message| async move { Outcome::Ok(echo(message)) }.boxed())
    }

    pub(crate) fn new(
        handler: impl Fn(Message) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with_service(handler, |call| async move { Ok(call.body) }.boxed())
    }

    pub(crate) fn with_service(
        handler: impl Fn(Message) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
        service: impl Fn(Call) -> BoxFuture<'static, Result<Bytes, Refusal>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            handler: Box::new(handler),
            service: Box::new(service),
            ran: Mutex::default(),
            signals: Mutex::default(),
            heard: watch::Sender::new(0),
        })
    }

    pub(crate) async fn wait_for(&self, heard: usize) {
        self.heard.subscribe().wait_for(|now| *now >= heard).await.unwrap();
    }
}

pub(crate) fn echo(message: Message) -> Reply {
    let Payload::Request(request) = message.payload else { panic!("not a request") };
    Reply { status: 200, headers: Headers::default(), body: request.body }
}

impl Local for Fake {
    fn request(&self, message: Message, answer: Answer) {
        self.ran.lock().unwrap().push(message.header.id);
        self.heard.send_modify(|heard| *heard += 1);
        answer.when((self.handler)(message));
    }

    fn send(&self, message: Message) {
        self.signals.lock().unwrap().push(message);
        self.heard.send_modify(|heard| *heard += 1);
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        (self.service)(call)
    }
}

/// A mesh in memory.
pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) members: Arc<Members>,
    pub(crate) config: Config,
    seed: AtomicU64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let config = Config { redial_max: Duration::from_secs(2), ..Config::default() };
        Self { net: Net::new(seed), members: Members::new(), config, seed: AtomicU64::new(seed) }
    }

    /// A relay that dials some others.
    pub(crate) fn node(&self, name: &str, local: Arc<Fake>, dials: &[SocketAddr]) -> Handle {
        self.start(&self.members.member(name, Role::Relay, 1), local, dials, Fixed::default())
    }

    pub(crate) fn start(
        &self,
        member: &Arc<Member>,
        local: Arc<Fake>,
        dials: &[SocketAddr],
        routing: impl Routing,
    ) -> Handle {
        self.start_at(self.net.socket(), member, local, dials, routing)
    }

    pub(crate) fn start_at(
        &self,
        socket: Arc<NetSocket>,
        member: &Arc<Member>,
        local: Arc<Fake>,
        dials: &[SocketAddr],
        routing: impl Routing,
    ) -> Handle {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let mut rng = [0; 32];
        rng[..8].copy_from_slice(&seed.to_le_bytes());
        let parts = Parts {
            credentials: member.clone(),
            local,
            routing: Box::new(routing),
            on_join: None,
            socket: Socket::Abstract(socket, rng),
            place: Place::Here,
            seed,
        };
        let addresses = dials.iter().map(SocketAddr::to_string).collect();
        mesh::start(Config { addresses, ..self.config.clone() }, parts).unwrap()
    }

    /// Two nodes with a link, the second of which answers.
    pub(crate) async fn pair(&self, local: Arc<Fake>) -> (Handle, Handle) {
        let b = self.node("b", local, &[]);
        let a = self.node("a", Fake::echo(), &[b.address()]);
        linked(&a, &["b"]).await;
        linked(&b, &["a"]).await;
        (a, b)
    }

    /// Two leaves `a` and `b` with a relay `r` between them.
    pub(crate) async fn line(&self, relay: Arc<Fake>, local: Arc<Fake>) -> (Handle, Handle, Handle) {
        let r = self.node("r", relay, &[]);
        let leaf = |name: &str, other: &str, local| {
            let by_relay = Fixed::new([(id(other), id("r")), (id("nobody"), id("r"))]);
            self.start(&self.members.member(name, Role::Leaf, 1), local, &[r.address()], by_relay)
        };
        let (a, b) = (leaf("a", "b", Fake::echo()), leaf("b", "a", local));
        linked(&r, &["a", "b"]).await;
        linked(&a, &["r"]).await;
        linked(&b, &["r"]).await;
        (a, r, b)
    }
}

/// Waits for so long.
pub(crate) async fn after(wait: Duration) {
    tokio::time::sleep_until(Instant::now() + wait).await;
}

pub(crate) fn id(name: &str) -> NodeId {
    name.parse::<NodeName>().unwrap().id()
}

pub(crate) fn point(text: &str) -> Point {
    text.parse().unwrap()
}

pub(crate) fn message_id(n: u128) -> MessageId {
    MessageId(0x0198 << 112 | n)
}

/// A request between two points.
pub(crate) fn request_between(
    n: u128,
    from: &str,
    to: &str,
    body: impl Into<Bytes>,
    remaining: Duration,
) -> Message {
    let from = point(from);
    let header = Header::new(message_id(n), from.clone(), point(to), Agent(from), remaining);
    let request = Request {
        method: Method::ext("Do").unwrap(),
        path: "/".into(),
        headers: Headers::default(),
        body: Body::Bytes(body.into()),
    };
    Message { header, payload: Payload::Request(request) }
}

pub(crate) fn request(n: u128, body: impl Into<Bytes>) -> Message {
    request_between(n, "shop:a", "shop:b", body, Duration::from_secs(5))
}

pub(crate) fn signal_between(n: u128, from: &str, to: &str, body: impl Into<Bytes>) -> Message {
    let Message { header, payload } = request_between(n, from, to, body, Duration::from_secs(60));
    let Payload::Request(signal) = payload else { unreachable!() };
    Message { header, payload: Payload::Signal(signal) }
}

pub(crate) fn body_of(message: &Message) -> Bytes {
    match &message.payload {
        Payload::Request(request) | Payload::Signal(request) => starlane_core::frame::body_of(&request.body),
        Payload::Reply(_) => panic!("a reply is no message here"),
    }
}

pub(crate) fn body(outcome: Outcome) -> Bytes {
    match outcome {
        Outcome::Ok(Reply { body: Body::Bytes(bytes), .. }) => bytes,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn code(outcome: &Outcome) -> (&'static str, Option<Code>) {
    match outcome {
        Outcome::Ok(_) => ("ok", None),
        Outcome::Rejected(refusal) => ("rejected", Some(refusal.code)),
        Outcome::Failed(refusal) => ("failed", Some(refusal.code)),
        Outcome::Unknown(refusal) => ("unknown", Some(refusal.code)),
    }
}

/// Waits until something holds. The waits are of tokio's own time, which costs none.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..200_000 {
        if holds() {
            return;
        }
        ticks.tick().await;
    }
    panic!("it never came to that {what}");
}

/// Waits until a node has links to these, and to no others.
pub(crate) async fn linked(node: &Handle, names: &[&str]) {
    let names = || names.iter().copied();
    until(&format!("{} has links to {:?}", node.me().name, names().collect::<Vec<_>>()), || {
        node.links().iter().map(|link| link.peer.name.as_str().to_owned()).eq(names())
    })
    .await;
}
