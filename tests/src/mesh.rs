//! Several nodes that are one mesh: real processes, on this machine's loopback or in networks of their own.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::net::{Lab, Space};
use crate::{Api, Node, Serve, root};

/// The port that nodes are dialled at, where each has a network of its own.
const PORT: u16 = 4_343;

/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A node of a mesh that is to be.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Its name. It gets the label `at` with the name too, so that mechtrons can be placed on it.
    pub name: &'a str,
    /// Whether others can dial it. The first node of a mesh must be.
    pub dialled: bool,
    /// Whether it is behind a router that translates addresses, in a lab.
    pub nat: bool,
}

impl<'a> Plan<'a> {
    /// A node that others can dial.
    pub fn relay(name: &'a str) -> Self {
        Self { name, dialled: true, nat: false }
    }

    /// A node that only dials out, and could not be dialled in a lab.
    pub fn leaf(name: &'a str) -> Self {
        Self { name, dialled: false, nat: true }
    }
}

/// Nodes that joined the first of them.
#[derive(Debug)]
pub struct Mesh {
    // Before the lab, which ends what still runs in it.
    nodes: Vec<Node>,
    lab: Option<Lab>,
    /// Where the first is dialled, when not at its own address.
    through: Option<SocketAddr>,
}

impl Mesh {
    /// A mesh on this machine's loopback.
    pub fn on_loopback(plans: &[Plan<'_>]) -> Self {
        Self::start(None, plans)
    }

    /// A mesh with a network for each node.
    pub fn in_lab(lab: Lab, plans: &[Plan<'_>]) -> Self {
        Self::start(Some(lab), plans)
    }

    fn start(lab: Option<Lab>, plans: &[Plan<'_>]) -> Self {
        let mut mesh = Self { nodes: Vec::new(), lab, through: None };
        for plan in plans {
            mesh.add(*plan);
        }
        mesh
    }

    /// Lets all that join from now on dial the first node somewhere else: at a relay in front of it.
    pub fn join_through(&mut self, address: SocketAddr) {
        self.through = Some(address);
    }

    /// Starts one more node, and waits until it is ready. The first one makes the mesh; the others join it.
    pub fn add(&mut self, plan: Plan<'_>) -> &Node {
        self.add_keeping(plan, |_| None)
    }

    /// The same for a node that keeps its registry where `registry` says, which is asked when the node's network is there.
    pub fn add_keeping(&mut self, plan: Plan<'_>, registry: impl FnOnce(&Serve) -> Option<String>) -> &Node {
        let mut serve = Serve::named(plan.name);
        serve.labels.push(format!("at={}", plan.name));
        serve.space = self.lab.as_ref().map(|lab| match plan.nat {
            true => lab.add_behind_nat(plan.name),
            false => lab.add(plan.name),
        });
        if plan.dialled {
            serve.listen = Some(match &serve.space {
                Some(space) => (space.own_address(), PORT).into(),
                None => free_port(),
            });
        }
        if let Some(first) = self.nodes.first() {
            let address = self.through.or(first.served().listen).expect("the first node can be dialled");
            serve.join = Some((address, token(first, plan.dialled)));
        }
        serve.registry = registry(&serve);
        self.nodes.push(Node::serve(serve));
        self.nodes.last().expect("one was added")
    }

    /// The first node: it made the mesh, and keeps the registry.
    pub fn first(&self) -> &Node {
        self.nodes.first().expect("a mesh has nodes")
    }

    /// The node of a name.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name() == name).expect("the node was added")
    }

    /// The same, to be killed or started.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name() == name).expect("the node was added")
    }

    /// All nodes, in the order in which they were added.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All nodes, to be killed or started.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// The networks, when each node has one.
    pub fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("the mesh was started in a lab")
    }

    /// The network of a node, in a lab.
    pub fn space(&self, name: &str) -> Space {
        self.node(name).served().space.clone().expect("the mesh was started in a lab")
    }

    /// Waits until each living node sees so many nodes ready; answers how long that took.
    #[track_caller]
    pub fn wait_ready(&self, count: usize, patience: Duration) -> Duration {
        let apis: Vec<Api> = self.nodes.iter().filter(|node| node.runs()).map(Api::of).collect();
        wait(patience, "each node sees the others ready", || {
            apis.iter().all(|api| ready(api).is_some_and(|ready| ready.len() == count))
        })
    }

    /// Publishes the bundle of witnesses.
    pub fn publish_witness(&self) {
        publish_witness(self.first());
    }

    /// Publishes a bundle as `mesh-test:repo:NAME:1.0.0`.
    pub fn publish(&self, name: &str, bundle: &Path) {
        publish(self.first(), name, bundle);
    }

    /// Makes a witness that lives where `place` says, such as `[at = "edge"]`; answers its point.
    pub fn witness(&self, name: &str, place: &str) -> String {
        witness(self.first(), name, &format!(", +place={place}"))
    }
}

/// Publishes the bundle of witnesses.
pub fn publish_witness(node: &Node) {
    publish(node, "witness", &root().join("target/bundles/witness"));
}

/// Publishes a bundle as `mesh-test:repo:NAME:1.0.0`; the space is made when it is not there.
pub fn publish(node: &Node, name: &str, bundle: &Path) {
    let script = format!(
        "create? mesh-test<Space>; create? mesh-test:repo<Repo>; create? mesh-test:repo:{name}<BundleSeries>; \
         publish ^[ {} ]-> mesh-test:repo:{name}:1.0.0",
        bundle.display()
    );
    node.exec(&script).ok();
}

/// Makes a witness with more properties, when given as `, +key=value`; answers its point.
pub fn witness(node: &Node, name: &str, more: &str) -> String {
    let point = format!("mesh-test:{name}");
    let config = "mesh-test:repo:witness:1.0.0:/config/witness.mechtron";
    node.exec(&format!("create {point}<Mechtron>{{ +config={config}{more} }}")).ok();
    point
}

/// A token to join with, as who dials only or who can be dialled.
pub fn token(node: &Node, dialled: bool) -> String {
    let role = if dialled { "relay" } else { "leaf" };
    node.run(["token", "--role", role]).ok().trim().to_owned()
}

/// The names of the nodes that a node sees ready; `None` when it does not answer.
pub fn ready(api: &Api) -> Option<BTreeSet<String>> {
    let (200, answer) = api.get("/v1/nodes")? else { return None };
    let nodes = answer["nodes"].as_array()?;
    let ready = nodes.iter().filter(|node| node["ready"] == true);
    ready.map(|node| node["name"].as_str().map(str::to_owned)).collect()
}

/// On which node a mechtron lives, and under which epoch; `None` while it lives nowhere.
pub fn placed(api: &Api, point: &str) -> Option<(String, u64)> {
    let (200, resource) = api.get(&format!("/v1/resources/{point}"))? else { return None };
    let property = |key: &str| resource["properties"][key]["value"].clone();
    Some((property("node").as_str()?.to_owned(), property("epoch").as_u64()?))
}

/// Tells a witness a number.
pub fn mark(api: &Api, point: &str, number: u32, timeout: Duration) -> Option<crate::Asked> {
    api.request(point, "Mark", &json!({ "number": number }), timeout)
}

/// What a witness noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// One more than the highest number it was told.
    pub end: u64,
    /// Numbers below that it was never told.
    pub missing: u64,
    /// How often it was told a number again.
    pub again: u64,
    /// Numbers it was told after a higher one.
    pub late: u64,
}

/// Asks a witness what it noted; `None` while it does not answer.
pub fn record(api: &Api, point: &str) -> Option<Record> {
    let asked = api.request(point, "GetRecord", &Value::Null, Duration::from_secs(5))?;
    let number = |key: &str| asked.json[key].as_u64();
    asked.is_ok().then_some(Record {
        end: number("end")?,
        missing: number("missing")?,
        again: number("again")?,
        late: number("late")?,
    })
}

/// Waits until something holds; answers how long that took.
///
/// # Panics
/// When it does not hold in time.
#[track_caller]
pub fn wait(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < patience, "after {patience:?} it still does not hold that {what}");
        std::thread::park_timeout(LOOK);
    }
    begun.elapsed()
}

/// Leaves a fault in place for so long, whole: a thread that is parked may be woken before by what it did earlier.
pub fn hold(duration: Duration) {
    let until = Instant::now() + duration;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// An address on loopback that was free a moment ago.
pub fn free_port() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    socket.local_addr().expect("it has an address")
}
