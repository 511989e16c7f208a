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
use mesh::join::{self, Contact, Enrolment, MemoryMembers, MemoryTokens, Wish};
use mesh::proof::first_node;
use mesh::token::{TTL_SECONDS, Token, TokenRecord};
use mesh::{
    About, Call, Config, Credentials, Handle, Identity, LinkStateRouting, Local, Map, OnJoin, Parts, Place,
    Service, Socket,
};
use starlane_core::{
    Agent, Body, Code, Header, Headers, Message, MessageId, Method, NodeName, Outcome, Payload, Point,
    Refusal, Reply, Request, Role,
};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(20);
const NAME_SERVICE: Service = Service(7);

/// Answers with its own name, and what it was asked.
struct Echo(NodeName);

impl Local for Echo {
    fn request(&self, message: Message) -> BoxFuture<'static, Outcome> {
        let Payload::Request(request) = message.payload else { unreachable!("links bring requests") };
        let name = self.0.clone();
        std::future::ready(Outcome::Ok(Reply::new(
            200,
            "text/plain",
            format!("{name} heard {}", request.path),
        )))
        .boxed()
    }

    fn send(&self, _: Message) {}

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, Refusal>> {
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

fn start(identity: Identity, role: &str, addresses: Vec<String>, on_join: Option<OnJoin>) -> Member {
    let labels = BTreeMap::from([("tier".to_owned(), role.to_owned())]);
    let about = About { labels, registry: role == "cloud", draining: false };
    let (routing, map) = LinkStateRouting::new(&identity, about, 1).unwrap();
    let parts = Parts {
        credentials: Arc::new(identity.clone()),
        local: Arc::new(Echo(identity.me().name)),
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
    folder: &Path,
    cloud: SocketAddr,
    authority: &Authority,
    tokens: &MemoryTokens,
) -> Identity {
    let token = Token::draw(authority.pin()).unwrap();
    tokens.keep(token.id(), TokenRecord::new(&token, Role::Leaf, system_clock()(), TTL_SECONDS));
    let newcomer = Newcomer::open(Folder { folder: folder.join(name), clock: system_clock() }).unwrap();
    let wish = Wish { name: name.parse().unwrap(), role: None, labels: BTreeMap::new() };
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let joined = join::join(&endpoint, cloud, &token, &wish, &newcomer).await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_find_each_other_and_throw_one_out() {
    let folder = tempfile::tempdir().unwrap();
    let (identity, authority) = first_node(&folder.path().join("cloud"), "cloud").unwrap();
    let contact = Contact { name: "cloud".parse().unwrap(), addresses: Vec::new() };
    let desk = Enrolment::new(
        identity.clone(),
        authority.clone(),
        MemoryTokens::default(),
        MemoryMembers::new(vec![contact]),
    );
    let service = join::Service::new(join::Config::default(), identity.clone(), desk);
    let serving = service.clone();
    let runtime = tokio::runtime::Handle::current();
    let on_join: OnJoin = Arc::new(move |connection| {
        let serving = serving.clone();
        runtime.spawn(async move { serving.serve(connection).await });
    });
    let cloud = start(identity, "cloud", Vec::new(), Some(on_join));
    let address = cloud.links.address();

    let mut leaves = Vec::new();
    for name in ["edge-1", "desktop-1"] {
        let identity = join_as(name, folder.path(), address, &authority, service.desk().tokens()).await;
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
    assert_eq!(reply.body, Body::Bytes("desktop-1 heard /over/two/hops".into()));
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
