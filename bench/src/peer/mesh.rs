//! A mechtron on another node asked over links: who asks is a member of the mesh itself, in this process, and the nodes are
//! real ones. All of it is encrypted and certified hop by hop.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use mesh::identity::{Config as Folder, Newcomer, system_clock};
use mesh::join::{Wish, join_at};
use mesh::{About, Answer, Call, Config, Handle, LinkStateRouting, Local, Map, Parts, Place, Socket};
use starlane_core::{
    Agent, Body, Code, Header, Headers, Message, MessageId, Method, NodeName, Outcome, Payload, Point,
    Refusal, Request,
};
use tempfile::TempDir;
use tests::Node;

use super::{Client, Peer};
use crate::echo;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the first way to the mechtron's node is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The way to a mechtron.
pub(crate) struct Links {
    name: String,
    /// Where who asks joins, and with what.
    entry: SocketAddr,
    token: String,
    /// The node that the mechtron lives on.
    lives_on: NodeName,
    /// The nodes on the way, the mechtron's among them.
    processes: Vec<u32>,
    folder: TempDir,
}

/// Who asks: a member with a link to the node that it joined at.
pub(crate) struct Member {
    handle: Handle,
    /// Holds the routes.
    _map: Map,
    to: NodeName,
    from: Point,
    echo: Point,
    method: Method,
    ids: AtomicU64,
}

impl Links {
    /// The way through `entry` to the mechtron on `lives_on`, which may be the same node.
    pub(crate) fn to(name: &str, entry: &Node, lives_on: &Node) -> Self {
        let mut processes = vec![lives_on.pid()];
        if entry.name() != lives_on.name() {
            processes.push(entry.pid());
        }
        Self {
            name: name.to_owned(),
            entry: entry.served().listen.expect("the first node can be dialled"),
            token: tests::mesh::token(entry, false),
            lives_on: lives_on.name().parse().expect("a node's name"),
            processes,
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }
}

impl Peer for Links {
    type Client = Member;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.clone()
    }

    async fn connect(&self) -> Member {
        let name: NodeName = format!("asks-{}", self.lives_on).parse().expect("a node's name");
        let identity = enrol(self.folder.path(), self.entry, &self.token, &name).await;
        let (routing, map) = LinkStateRouting::new(&identity, About::default(), 1).expect("no labels");
        let any: IpAddr = if self.entry.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let parts = Parts {
            credentials: Arc::new(identity),
            local: Arc::new(Nobody),
            routing: Box::new(routing),
            on_join: None,
            socket: Socket::Bind((any, 0).into()),
            place: Place::Here,
            seed: 1,
        };
        let config = Config { addresses: vec![self.entry.to_string()], ..Config::default() };
        let handle = mesh::start(config, parts).expect("the links start");
        let mut routes = map.watch();
        let there = self.lives_on.id();
        let found = routes.wait_for(|routes| routes.next_hop(there).is_some());
        tokio::time::timeout(PATIENCE, found).await.expect("there is a way").expect("the links run");
        Member {
            handle,
            _map: map,
            to: self.lives_on.clone(),
            from: name.point().expect("a node has a point"),
            echo: echo::point(self.lives_on.as_str()).parse().expect("a point"),
            method: Method::ext("Echo").expect("a method"),
            ids: AtomicU64::new(1),
        }
    }
}

impl Client for Member {
    async fn request(&self, body: Bytes) -> Result<Bytes, String> {
        let id = MessageId(u128::from(self.ids.fetch_add(1, Ordering::Relaxed)));
        let agent = Agent(self.from.clone());
        let header = Header::new(id, self.from.clone(), self.echo.clone(), agent, TIMEOUT);
        let request = Request {
            method: self.method.clone(),
            path: "/".into(),
            headers: Headers::default(),
            body: Body::Bytes(body),
        };
        let message = Message { header, payload: Payload::Request(request) };
        match self.handle.request(self.to.id(), message).await {
            Outcome::Ok(reply) if reply.is_success() => match reply.body {
                Body::Bytes(body) => Ok(body),
                Body::Blob(_) => Err("the body was stored".into()),
            },
            other => Err(format!("{other:?}")),
        }
    }
}

async fn enrol(folder: &Path, entry: SocketAddr, token: &str, name: &NodeName) -> mesh::Identity {
    let token = token.parse().expect("a token");
    let newcomer =
        Newcomer::open(Folder { folder: folder.to_owned(), clock: system_clock() }).expect("a key");
    let wish = Wish { name: name.clone(), role: None, labels: BTreeMap::new() };
    let joined = join_at(&entry.to_string(), &token, &wish, &newcomer).await.expect("it joins");
    joined.identity(newcomer).expect("it is a member")
}

/// Who only asks has nothing to answer with.
struct Nobody;

impl Local for Nobody {
    fn request(&self, _: Message, answer: Answer) {
        answer.give(Outcome::Rejected(Refusal::new(Code::NotFound, "nothing lives here")));
    }

    fn send(&self, _: Message) {}

    fn call(&self, _: Call) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        std::future::ready(Err(Refusal::new(Code::Unsupported, "no service is here"))).boxed()
    }
}
