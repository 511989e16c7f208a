//! What the host of mechtrons needs from its node.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use mechtron_host::{Activation, Changes, Durability, Outside, Place, Runs};
use resource_registry::Registry;
use starlane_core::placement::epoch_of;
use starlane_core::{
    Agent, Code, EnvValue, Epoch, Message, Outcome, Phase, Point, Problem, Refusal, Resource, Selector,
    Status, Value,
};
use tokio::sync::mpsc;

use super::artifacts::Artifacts;
use super::dead_letters::{DeadLetters, Letter};
use super::homes::{Home, Homes};
use super::keeping::Keeping;
use super::provision::Provision;
use super::router::Router;
use super::signals::Signals;
use super::watching::Telling;

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
    homes: Homes,
    keeping: Keeping,
    dead: DeadLetters,
    statuses: mpsc::Sender<Told>,
    parts: OnceLock<Parts>,
}

/// What mechtrons tell of themselves.
pub(super) enum Told {
    /// How one is.
    Status(Point, Status),
    /// One runs again as it did before, for a reason in words.
    RolledBack(Point, Activation, String),
}

struct Parts {
    artifacts: Artifacts,
    provision: Provision,
    router: Router,
    signals: Signals,
}

impl Surroundings {
    /// The node, and what its mechtrons tell.
    pub(super) fn new(
        registry: Registry,
        homes: Homes,
        keeping: Keeping,
        dead: DeadLetters,
    ) -> (Arc<Self>, mpsc::Receiver<Told>) {
        let (statuses, told) = mpsc::channel(STATUSES_MAX);
        (Arc::new(Self { registry, homes, keeping, dead, statuses, parts: OnceLock::new() }), told)
    }

    /// Fills in what needs the host.
    pub(super) fn complete(
        &self,
        artifacts: Artifacts,
        provision: Provision,
        router: Router,
        signals: Signals,
    ) {
        // Only the first completion counts, and there is only one.
        _ = self.parts.set(Parts { artifacts, provision, router, signals });
    }

    fn tell(&self, point: &Point, told: Told) {
        if self.statuses.try_send(told).is_err() {
            tracing::warn!(%point, "too many mechtrons change their status at once");
        }
    }

    fn parts(&self) -> Result<&Parts, Refusal> {
        self.parts.get().ok_or_else(|| Refusal::new(Code::NotReady, "the node is starting"))
    }

    /// Writes that a mechtron runs as it did before: its properties name again what runs, also after a restart.
    async fn put_back(
        &self,
        by: &Agent,
        point: &Point,
        to: &Activation,
        reason: String,
    ) -> Result<(), Problem> {
        let parts = self.parts().map_err(Problem::from)?;
        let status = Status::because(Phase::Ready, reason);
        for before in parts.provision.replaced(point) {
            let ran = activation(parts, &before).await;
            if ran.is_ok_and(|ran| {
                ran.module.digest() == to.module.digest() && ran.name == to.name && ran.config == to.config
            }) {
                return parts.provision.put_back(by, &before, status).await;
            }
        }
        self.registry.set_status(by, point, status).await?;
        Ok(())
    }

    /// This node was given a state for a later assignment than the one that it acts under. When the registry knows of none
    /// either, that was never written: it is gone on with under this one.
    async fn go_back(&self, point: &Point, epoch: Epoch) -> Result<(), Refusal> {
        self.registry.fresh().await.map_err(|error| super::router::refusal(error.into()))?;
        if epoch_of(&*self.resource(point)?) != epoch {
            return Err(Refusal::new(Code::EpochStale, format!("`{point}` was assigned anew: try again")));
        }
        tracing::info!(%point, epoch = epoch.0, "goes on with a state that was given for an assignment that was never written");
        self.keeping.go_back(point, epoch).await.map_err(|error| super::router::refusal(error.into()))
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
            if node.homes.of(&resource) != Home::Here || !super::router::has_code(&resource) {
                return Ok(Runs::Elsewhere);
            }
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
            let resource = node.resource(&point)?;
            let refused = |error: resource_registry::Error| super::router::refusal(error.into());
            match node.keeping.load(&resource, epoch, durability).await {
                Err(error) if durability == Durability::Node && is_stale(&error) => {
                    node.go_back(&point, epoch).await?;
                    node.keeping.load(&resource, epoch, durability).await.map_err(refused)
                }
                loaded => loaded.map_err(refused),
            }
        })
    }

    fn save_state(
        &self,
        point: Point,
        epoch: Epoch,
        durability: Durability,
        state: Bytes,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let keeping = self.0.keeping.clone();
        Box::pin(async move {
            let saved = keeping.save(&point, epoch, durability, state).await;
            saved.map_err(|error| super::router::refusal(error.into()))
        })
    }

    fn request(&self, message: Message) -> BoxFuture<'static, Outcome> {
        let node = self.0.clone();
        // On its way before this returns, so that what a mechtron asks keeps its order.
        let asked = node.parts().map(|parts| parts.router.request(message));
        Box::pin(async move {
            let (asked, parts) = match (asked, node.parts()) {
                (Ok(asked), Ok(parts)) => (asked, parts),
                (Err(refusal), _) | (_, Err(refusal)) => return Outcome::Rejected(refusal),
            };
            match asked.await {
                Outcome::Ok(mut reply) => match parts.router.at_hand(reply.body).await {
                    Ok(body) => {
                        reply.body = body;
                        Outcome::Ok(reply)
                    }
                    Err(refusal) => Outcome::Failed(refusal),
                },
                other => other,
            }
        })
    }

    fn send(&self, message: Message) {
        match self.0.parts() {
            Ok(parts) => parts.signals.send(message),
            Err(refusal) => self.undelivered(message, refusal),
        }
    }

    fn not_here(&self, message: Message) {
        match self.0.parts() {
            Ok(parts) => parts.signals.not_here(message),
            Err(refusal) => self.undelivered(message, refusal),
        }
    }

    fn undelivered(&self, message: Message, refusal: Refusal) {
        self.0.dead.take(Letter::of(&message), &refusal);
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

    fn watch(&self, by: Point, selector: Arc<str>, after: Option<Place>) -> Box<dyn Changes> {
        Box::new(Telling::new(self.0.registry.clone(), by, &selector, after.as_ref()))
    }

    fn status(&self, point: &Point, status: Status) {
        self.0.tell(point, Told::Status(point.clone(), status));
    }

    fn rolled_back(&self, point: &Point, to: &Activation, reason: String) {
        self.0.tell(point, Told::RolledBack(point.clone(), to.clone(), reason));
    }
}

/// Writes what mechtrons tell, until the host is gone.
pub(super) async fn write_statuses(node: Arc<Surroundings>, by: Agent, mut told: mpsc::Receiver<Told>) {
    while let Some(told) = told.recv().await {
        let (point, written) = match told {
            Told::Status(point, status) => {
                let known = node.registry.get(&point).is_none_or(|resource| resource.status == status);
                let written = if known {
                    Ok(())
                } else {
                    node.registry.set_status(&by, &point, status).await.map(drop)
                };
                (point, written.map_err(Problem::from))
            }
            Told::RolledBack(point, to, reason) => {
                let written = node.put_back(&by, &point, &to, reason).await;
                (point, written)
            }
        };
        if let Err(error) = written {
            tracing::warn!(%point, "the status of a mechtron is not written: {error}");
        }
    }
}

fn is_stale(error: &resource_registry::Error) -> bool {
    matches!(error, resource_registry::Error::Store(resource_registry::store::Error::FenceStale { .. }))
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
        epoch: epoch_of(resource),
        since: Epoch(resource.created.0),
        durability: durability(point, resource.property("durability"))?,
        config: config(parts, resource).await?,
        reentrant: None,
        limits: None,
        bound: resource.property("bind").is_some(),
    })
}

/// Where the state of a mechtron is kept, as its property says.
///
/// # Errors
/// `E-PROPERTY-VALUE`
pub(super) fn durability(point: &Point, value: Option<&Value>) -> Result<Durability, Problem> {
    match value.map(Value::to_string).as_deref() {
        None | Some("node") => Ok(Durability::Node),
        Some("memory") => Ok(Durability::Memory),
        Some("mesh") => Ok(Durability::Mesh),
        Some(other) => {
            Err(Problem::new(Code::PropertyValue, format!("`{other}` is not a durability")).at(point).help(
                "the durabilities are `memory` (lost with the process), `node` (the default: survives a crash) and `mesh` (survives the loss of the node)",
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
