//! Three nodes as they really are: one that keeps the authority, two that joined it with tokens and only dial out. All of
//! it together: certificates, links, adverts, routes, requests over two hops, and a node that is thrown out.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends when the machine does not play along"
)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use mesh::identity::{Authority, Config as Folder, Newcomer, Revocations, system_clock};
use mesh::join::{self, Carrier, Contact, Enrolment, JoinError, MemoryMembers, MemoryTokens, Wish};
use mesh::proof::first_node;
use mesh::token::{TTL_SECONDS, Token, TokenRecord};
use mesh::{
    About, Answer, Call, Config, Credentials, Handle, Identity, LinkStateRouting, Local, Map, OnJoin, Parts,
    Place, Service, Socket,
};
use starlane_core::{
    Agent, Body, Code, Header, Headers, Message, MessageId, Method, NodeName, Outcome, Payload, Point,
    Refusal, Reply, Request, Role,
};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(20);
const NAME_SERVICE: Service = Service(7);

const ENROL_SERVICE: Service = Service(8);

type Desk = Enrolment<MemoryTokens, MemoryMembers>;

/// Answers with its own name, and what it was asked; with a desk, it lets others join too.
struct Echo(NodeName, Option<join::Service<Desk>>);

impl Local for Echo {
    fn request(&self, message: Message, answer: Answer) {
        let Payload::Request(request) = message.payload else { unreachable!("links bring requests") };
        let (name, path, trace) = (&self.0, request.path, message.header.trace.trace_id);
        let heard = format!("{name} heard {path} in the trace {trace:x}");
        answer.give(Outcome::Ok(Reply::new(200, "text/plain", heard)));
    }

    fn send(&self, _: Message) {}

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        if let (ENROL_SERVICE, Some(desk)) = (call.service, self.1.clone()) {
            return async move { desk.answer(&call.body).await }.boxed();
        }
        let answer = if call.service == NAME_SERVICE {
            Ok(Bytes::from(format!("{} was asked by {}", self.0, call.from)))
        } else {
            Err(Refusal::new(Code::Unsupported, "no such service"))
        };
        std::future::ready(answer).boxed()
    }
}

struct Member {
    identity: Identity,
    links: Handle,
    map: Map,
}

fn start(
    identity: Identity,
    role: &str,
    addresses: Vec<String>,
    desk: Option<join::Service<Desk>>,
) -> Member {
    let on_join = desk.as_ref().map(join::Service::on_join);
    start_with(identity, role, addresses, desk, |_, _| on_join)
}

fn start_with(
    identity: Identity,
    role: &str,
    addresses: Vec<String>,
    desk: Option<join::Service<Desk>>,
    on_join: impl FnOnce(&Identity, &Map) -> Option<OnJoin>,
) -> Member {
    let labels = BTreeMap::from([("tier".to_owned(), role.to_owned())]);
    let about = About { labels, registry: role == "cloud", draining: false };
    let (routing, map) = LinkStateRouting::new(&identity, about, 1).unwrap();
    let on_join = on_join(&identity, &map);
    let parts = Parts {
        credentials: Arc::new(identity.clone()),
        local: Arc::new(Echo(identity.me().name, desk)),
        routing: Box::new(routing),
        on_join,
        socket: Socket::Bind((Ipv4Addr::LOCALHOST, 0).into()),
        place: Place::OwnThread,
        seed: 1,
    };
    let links = mesh::start(Config { addresses, ..Config::default() }, parts).unwrap();
    Member { identity, links, map }
}

/// Joins as a user's node does, with a token that is made for it.
async fn join_as(
    name: &str,
    role: Role,
    folder: &Path,
    cloud: SocketAddr,
    authority: &Authority,
    tokens: &MemoryTokens,
) -> Identity {
    let token = Token::draw(authority.pin()).unwrap();
    tokens.keep(token.id(), TokenRecord::new(&token, role, system_clock()(), TTL_SECONDS));
    let newcomer = Newcomer::open(Folder { folder: folder.join(name), clock: system_clock() }).unwrap();
    let wish = Wish { name: name.parse().unwrap(), role: None, labels: BTreeMap::new() };
    let joined = join::join_at(&cloud.to_string(), &token, &wish, &newcomer).await.unwrap();
    joined.identity(newcomer).unwrap()
}

/// Waits until a node has a way to so many others, or none.
async fn reaches(member: &Member, count: usize) {
    let mut routes = member.map.watch();
    let reached = routes.wait_for(|routes| {
        routes.members().iter().filter(|member| member.is_reachable()).count() == count + 1
    });
    tokio::time::timeout(PATIENCE, reached).await.expect("the routes settle").unwrap();
}

fn message(id: u128, path: &str) -> Message {
    let [from, to] = ["mesh:nodes:edge-1", "shop:cart"].map(|text| text.parse::<Point>().unwrap());
    let header = Header::new(MessageId(id), from.clone(), to, Agent(from), Duration::from_secs(5));
    let request = Request {
        method: Method::http("GET").unwrap(),
        path: path.into(),
        headers: Headers::default(),
        body: Body::default(),
    };
    Message { header, payload: Payload::Request(request) }
}

/// The node that keeps the authority, and its desk.
fn first(folder: &Path) -> (Identity, Authority, join::Service<Desk>) {
    let (identity, authority) = first_node(&folder.join("cloud"), "cloud").unwrap();
    let contact = Contact { name: "cloud".parse().unwrap(), addresses: Vec::new() };
    let (tokens, members) = (MemoryTokens::default(), MemoryMembers::new(vec![contact]));
    let desk = Enrolment::new(identity.clone(), authority.clone(), tokens, members);
    let service = join::Service::new(join::Config::default(), identity.clone(), desk);
    (identity, authority, service)
}

/// Keeps a node's certificate renewed until only a person can help.
fn keep(member: &Member) -> tokio::task::JoinHandle<JoinError> {
    let (links, map, identity) = (member.links.clone(), member.map.clone(), member.identity.clone());
    tokio::spawn(join::keep_renewed(links, map, identity, ENROL_SERVICE, |_| {}))
}

/// Waits until a node's certificate is that of its present life.
async fn renewed(identity: &Identity) {
    let mut changes = identity.changes();
    let renewed = changes.wait_for(|_| !identity.is_behind());
    tokio::time::timeout(PATIENCE, renewed).await.expect("the certificate is renewed").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_at_a_relay_and_renews_over_links_and_without_any() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| Folder { folder: folder.path().join(name), clock: system_clock() };
    let (identity, authority, service) = first(folder.path());
    let tokens = service.desk().tokens();
    let cloud = start(identity, "cloud", Vec::new(), Some(service.clone()));
    let cloud_at = cloud.links.address();
    let identity = join_as("relay", Role::Relay, folder.path(), cloud_at, &authority, tokens).await;
    let mut carrier = None;
    let relay = start_with(identity, "relay", vec![cloud_at.to_string()], None, |identity, map| {
        let desk = carrier.insert(Carrier::new(map.clone(), ENROL_SERVICE)).clone();
        Some(join::Service::new(join::Config::default(), identity.clone(), desk).on_join())
    });
    carrier.unwrap().set_links(relay.links.clone());
    reaches(&relay, 1).await;

    // It knows nobody but the relay, which keeps no authority.
    let relay_at = relay.links.address();
    let identity = join_as("edge-1", Role::Leaf, folder.path(), relay_at, &authority, tokens).await;
    assert!(!identity.is_behind());
    drop(identity);
    let issued = authority.issued();
    let identity = Identity::open(at("edge-1")).unwrap().unwrap();
    assert!(identity.is_behind(), "it was started again");
    let edge = start(identity, "edge-1", vec![relay_at.to_string()], None);
    reaches(&edge, 2).await;
    // By links alone: there is no address to ask at.
    edge.links.set_addresses(Vec::new());
    let keeping = keep(&edge);
    renewed(&edge.identity).await;
    assert_eq!(authority.issued(), issued + 1);
    assert!(!keeping.is_finished(), "there will be a next time");
    keeping.abort();
    edge.links.stop().await;

    // Without links, by a connection to whoever it would dial.
    let identity = Identity::open(at("edge-1")).unwrap().unwrap();
    let edge = start(identity, "edge-1", vec![cloud_at.to_string()], None);
    edge.links.stop().await;
    let keeping = keep(&edge);
    renewed(&edge.identity).await;
    assert_eq!(authority.issued(), issued + 2);
    keeping.abort();

    // Who was thrown out hears that only a person can help.
    let identity = Identity::open(at("edge-1")).unwrap().unwrap();
    let mut revocations = Revocations::default();
    revocations.revoke(identity.me().name, identity.me().generation);
    cloud.identity.set_revoked(revocations).unwrap();
    let edge = start(identity, "edge-1", vec![cloud_at.to_string()], None);
    let ended = tokio::time::timeout(PATIENCE, keep(&edge)).await.expect("it gives up").unwrap();
    assert!(matches!(ended, JoinError::Revoked), "{ended}");
    for member in [cloud, relay, edge] {
        member.links.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_find_each_other_and_throw_one_out() {
    let folder = tempfile::tempdir().unwrap();
    let (identity, authority, service) = first(folder.path());
    let cloud = start(identity, "cloud", Vec::new(), Some(service.clone()));
    let address = cloud.links.address();

    let mut leaves = Vec::new();
    for name in ["edge-1", "desktop-1"] {
        let identity =
            join_as(name, Role::Leaf, folder.path(), address, &authority, service.desk().tokens()).await;
        leaves.push(start(identity, name, vec![address.to_string()], None));
    }
    let [edge, desktop] = <[Member; 2]>::try_from(leaves).ok().expect("two joined");
    for member in [&cloud, &edge, &desktop] {
        reaches(member, 2).await;
    }

    let there = desktop.identity.me().name.id();
    let reply = match edge.links.request(there, message(1, "/over/two/hops")).await {
        Outcome::Ok(reply) => reply,
        other => panic!("no answer: {other:?}"),
    };
    assert_eq!(reply.body, Body::Bytes("desktop-1 heard /over/two/hops in the trace 1".into()));
    let asked = edge.links.call(there, NAME_SERVICE, Bytes::new(), PATIENCE).await.unwrap();
    assert_eq!(asked, format!("desktop-1 was asked by {}", edge.identity.me().name.id()));
    let way: Vec<_> = edge.links.trace(there, PATIENCE).await.unwrap().iter().map(|hop| hop.node).collect();
    assert_eq!(way.last(), Some(&there));
    assert!(way.contains(&cloud.identity.me().name.id()), "leaves have no link to each other: {way:?}");
    let routes = edge.map.routes();
    let seen = &routes.member(there).unwrap().advert;
    assert_eq!((seen.role, seen.labels.get("tier").map(String::as_str)), (Role::Leaf, Some("desktop-1")));

    let mut revocations = Revocations::default();
    let out = desktop.identity.me();
    revocations.revoke(out.name, out.generation);
    cloud.identity.set_revoked(revocations).unwrap();
    reaches(&cloud, 1).await;
    reaches(&edge, 1).await;
    let refused = edge.links.request(there, message(2, "/")).await;
    assert!(
        matches!(&refused, Outcome::Rejected(refusal) if refusal.code == Code::Unreachable),
        "{refused:?}"
    );
    for member in [cloud, edge, desktop] {
        member.links.stop().await;
    }
}
