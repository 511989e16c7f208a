//! What the host of mechtrons needs from its node.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use mechtron_host::{Activation, Durability, Outside, Runs};
use resource_registry::{Registry, StateStore};
use starlane_core::{
    Agent, Code, EnvValue, Epoch, Message, Outcome, Point, Problem, Refusal, Resource, Selector, Status,
    Value,
};
use tokio::sync::mpsc;

use super::artifacts::Artifacts;
use super::provision::Provision;
use super::router::Router;

/// How many resources a mechtron's query answers.
const SELECTED_MAX: usize = 1_000;
/// How many changes of status wait to be written; one more is dropped and logged, since a later one follows.
const STATUSES_MAX: usize = 1_024;
/// The properties that a mechtron is not told as its configuration.
const NOT_CONFIG: [&str; 10] = [
    "bind",
    "config",
    "wasm.src",
    "mechtron.name",
    "durability",
    "place",
    "replicas",
    "node",
    "nodes",
    "epoch",
];

/// The node as its mechtrons see it. The parts that need the host themselves are filled in when it stands.
pub(super) struct Surroundings {
    registry: Registry,
    states: StateStore,
    statuses: mpsc::Sender<(Point, Status)>,
    parts: OnceLock<Parts>,
}

struct Parts {
    artifacts: Artifacts,
    provision: Provision,
    router: Router,
}

impl Surroundings {
    /// The node, and the changes of status that its mechtrons tell.
    pub(super) fn new(
        registry: Registry,
        states: StateStore,
    ) -> (Arc<Self>, mpsc::Receiver<(Point, Status)>) {
        let (statuses, told) = mpsc::channel(STATUSES_MAX);
        (Arc::new(Self { registry, states, statuses, parts: OnceLock::new() }), told)
    }

    /// Fills in what needs the host.
    pub(super) fn complete(&self, artifacts: Artifacts, provision: Provision, router: Router) {
        // Only the first completion counts, and there is only one.
        _ = self.parts.set(Parts { artifacts, provision, router });
    }

    fn parts(&self) -> Result<&Parts, Refusal> {
        self.parts.get().ok_or_else(|| Refusal::new(Code::NotReady, "the node is starting"))
    }

    fn resource(&self, point: &Point) -> Result<Arc<Resource>, Refusal> {
        self.registry
            .get(point)
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("nothing is at `{point}`")))
    }
}

/// Outside is asked by a shard, which must not wait: what it asks runs as a task of its own.
pub(super) struct NodeOutside(pub(super) Arc<Surroundings>);

impl Outside for NodeOutside {
    fn activation(&self, point: Point) -> BoxFuture<'static, Result<Runs, Refusal>> {
        let node = self.0.clone();
        Box::pin(async move {
            let parts = node.parts()?;
            let resource = node.resource(&point)?;
            activation(parts, &resource).await.map(Runs::Here).map_err(super::router::refusal)
        })
    }

    fn load_state(
        &self,
        point: Point,
        epoch: Epoch,
        durability: Durability,
    ) -> BoxFuture<'static, Result<Option<Bytes>, Refusal>> {
        let node = self.0.clone();
        Box::pin(async move {
            // Nobody hands anything over to the only node.
            if durability == Durability::Memory {
                return Ok(None);
            }
            let state = node.states.get(&point).map_err(|error| super::router::refusal(error.into()))?;
            // What a resource that stood here before left behind is not this one's.
            Ok(state.filter(|(of, _)| *of == epoch).map(|(_, state)| state))
        })
    }

    fn save_state(
        &self,
        point: Point,
        epoch: Epoch,
        _durability: Durability,
        state: Bytes,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let states = self.0.states.clone();
        Box::pin(async move {
            states.commit(&point, epoch, state).await.map_err(|error| super::router::refusal(error.into()))
        })
    }

    fn request(&self, message: Message) -> BoxFuture<'static, Outcome> {
        match self.0.parts() {
            Ok(parts) => parts.router.request(message),
            Err(refusal) => Box::pin(async { Outcome::Rejected(refusal) }),
        }
    }

    fn send(&self, message: Message) {
        let node = self.0.clone();
        tokio::spawn(async move {
            let (from, to) = (message.header.from.clone(), message.header.to.clone());
            let sent = match node.parts() {
                Ok(parts) => parts.router.send(message).await,
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = sent {
                tracing::warn!(%from, %to, code = %refusal.code, "a message was not delivered: {refusal}");
            }
        });
    }

    fn select(&self, _by: Point, selector: String) -> BoxFuture<'static, Result<(Bytes, bool), Refusal>> {
        let registry = self.0.registry.clone();
        Box::pin(async move {
            let selector: Selector = selector.parse().map_err(super::router::refusal)?;
            let page = registry
                .select(&selector, SELECTED_MAX, None)
                .map_err(|error| super::router::refusal(error.into()))?;
            let json = serde_json::to_vec(&page.resources)
                .map_err(|error| Refusal::new(Code::Internal, format!("resources as JSON: {error}")))?;
            Ok((json.into(), page.next.is_some()))
        })
    }

    fn status(&self, point: &Point, status: Status) {
        if self.0.statuses.try_send((point.clone(), status)).is_err() {
            tracing::warn!(%point, "too many mechtrons change their status at once");
        }
    }
}

/// Writes the changes of status that mechtrons tell, until the host is gone.
pub(super) async fn write_statuses(registry: Registry, by: Agent, mut told: mpsc::Receiver<(Point, Status)>) {
    while let Some((point, status)) = told.recv().await {
        let known = registry.get(&point).is_none_or(|resource| resource.status == status);
        if !known && let Err(error) = registry.set_status(&by, &point, status).await {
            tracing::warn!(%point, "the status of a mechtron is not written: {error}");
        }
    }
}

async fn activation(parts: &Parts, resource: &Resource) -> Result<Activation, Problem> {
    let point = &resource.point;
    let Some(source) = resource.point_property("wasm.src") else {
        return Err(Problem::new(
            Code::NoRoute,
            format!("`{resource}` has no code: its property `wasm.src` is not set"),
        )
        .at(point)
        .help("set it by a config: `+config=BUNDLE:/config/NAME.mechtron`"));
    };
    let module = parts.artifacts.module(&source).await?;
    let name = resource.property("mechtron.name").map(Value::to_string).unwrap_or_default();
    Ok(Activation {
        module,
        name,
        epoch: epoch(resource),
        durability: durability(resource)?,
        config: config(parts, resource).await?,
        reentrant: None,
        limits: None,
        bound: resource.property("bind").is_some(),
    })
}

/// A point's first life and its second are told apart by the revision that made it.
fn epoch(resource: &Resource) -> Epoch {
    Epoch(resource.created.0)
}

fn durability(resource: &Resource) -> Result<Durability, Problem> {
    match resource.property("durability").map(Value::to_string).as_deref() {
        None | Some("node") => Ok(Durability::Node),
        Some("memory") => Ok(Durability::Memory),
        Some("mesh") => Err(Problem::new(Code::Unsupported, "the durability `mesh` needs more than one node")
            .at(&resource.point)
            .help("use `node`, which survives a crash of the node")),
        Some(other) => {
            Err(Problem::new(Code::PropertyValue, format!("`{other}` is not a durability")).at(&resource.point).help(
                "the durabilities are `memory` (lost with the process), `node` (the default: survives a crash) and `mesh`",
            ))
        }
    }
}

/// What a mechtron is told as its configuration: the `Env` of its config, then its own properties.
async fn config(parts: &Parts, resource: &Resource) -> Result<String, Problem> {
    let mut told = serde_json::Map::new();
    if let Some(config) = parts.provision.config(resource).await? {
        told.extend(config.env.into_iter().map(|(name, value)| match value {
            EnvValue::Point(point, _) => (name, point.as_str().into()),
            EnvValue::Json(json) => (name, (*json).clone()),
        }));
    }
    let own = resource.properties.iter().filter(|(key, _)| !NOT_CONFIG.contains(&key.as_str()));
    told.extend(own.map(|(key, property)| (key.as_str().to_owned(), property.value.to_json())));
    Ok(serde_json::Value::Object(told).to_string())
}
