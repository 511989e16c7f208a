//! A node: the registry, the host of mechtrons, the router between them, and the doors, in one process.
//!
//! This is the only place where the parts meet. None of them knows another: each states what it needs, and the files
//! below give it that.
//!
//! | file | gives |
//! |---|---|
//! | `router.rs` | the way of a message: bind, code or content |
//! | `artifacts.rs` | binds, configs and modules, read once |
//! | `provision.rs` | resources made, changed and deleted with what belongs to them |
//! | `commands.rs` | what statements do |
//! | `mesh.rs` | the node as its doors see it |
//! | `outside.rs` | the node as its mechtrons see it |
//! | `signals.rs` | the signals of mechtrons, in order |
//! | `genesis.rs` | the space `mesh` of the first start |

mod artifacts;
mod commands;
mod genesis;
mod ids;
mod mesh;
mod metrics;
mod outside;
mod provision;
mod router;
mod signals;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use gateway::shapes::Info;
use gateway::{Addresses, BindError, Doors, Protection};
use mechtron_host::Host;
use resource_registry::{BlobStore, Registry, StateStore};
use starlane_core::{Agent, Code, NodeName, Problem, Role};

use crate::data::{DataFolder, FolderLock, Running};
use artifacts::Artifacts;
use commands::Commands;
use ids::Ids;
use mesh::NodeMesh;
use outside::{NodeOutside, Surroundings};
use provision::Provision;
use router::Router;

/// How long mechtrons may finish what they do when the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Content that nothing names is kept so long, since somebody may be about to name it.
const BLOB_GRACE: Duration = Duration::from_secs(3_600);

/// What a node is told once, at the start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps everything.
    pub data: DataFolder,
    /// What it is called in the mesh.
    pub name: NodeName,
    /// What it says of itself, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Where the users' web is served.
    pub web: SocketAddr,
    /// Where the API is served.
    pub api: SocketAddr,
    /// What keeps others from reading along.
    pub protection: Protection,
    /// How it is linked to other nodes.
    pub links: LinksConfig,
    /// How many threads run mechtrons.
    pub shards: usize,
}

/// How a node is linked to others.
#[derive(Debug, Clone, Default)]
pub struct LinksConfig {
    /// Where links are accepted (UDP). When absent: [`LinksConfig::LISTEN`] for the first node of a mesh, and nowhere for
    /// one that joined.
    pub listen: Option<SocketAddr>,
    /// What others shall dial, as `HOST:PORT`; where it listens when absent.
    pub advertise: Option<String>,
    /// The mesh to join; needed at the first start only.
    pub join: Option<Join>,
    /// What it does for others. When absent: what its token says, and a relay for the first node of a mesh.
    pub role: Option<Role>,
}

impl LinksConfig {
    /// Where the first node of a mesh accepts links unless told otherwise.
    pub const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4343));
}

/// Which mesh to join, and what for a proof.
#[derive(Clone)]
pub struct Join {
    /// A node of the mesh, as `HOST:PORT`.
    pub address: String,
    /// The token that it made.
    pub token: String,
}

impl fmt::Debug for Join {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A node that is ready to serve.
pub struct Node {
    name: NodeName,
    data: DataFolder,
    doors: Doors<NodeMesh>,
    addresses: Addresses,
    host: Host,
    _lock: FolderLock,
}

impl Node {
    /// Opens everything in the data folder and takes the addresses.
    ///
    /// # Errors
    /// When another node has the folder, something in it cannot be read, or an address is taken.
    pub async fn start(config: Config) -> Result<Self, Problem> {
        no_links_yet(&config.links)?;
        let data = config.data.clone();
        let folder = data.path().display().to_string();
        let io = |what: &str| {
            let what = format!("{what} in {folder}");
            move |error: std::io::Error| Problem::new(Code::StoreUnavailable, format!("{what}: {error}"))
        };
        data.create().map_err(io("the data folder"))?;
        let Some(lock) = data.lock().map_err(io("the lock"))? else {
            return Err(Problem::new(Code::StoreUnavailable, format!("another node runs in {folder}"))
                .help("stop it, or give this one a folder of its own: `starlane serve --data FOLDER`"));
        };
        let token = data.ensure_token().map_err(io("the administrator's token"))?;

        let node = genesis::mesh_point("nodes", config.name.as_str())?;
        let by = Agent(node.clone());
        let now: Arc<dyn Fn() -> starlane_core::Timestamp + Send + Sync> = Arc::new(ids::now);
        let registry =
            Registry::open(resource_registry::Config::at(data.path().join("registry.redb"), now.clone()))?;
        let states = StateStore::open(data.path().join("state.redb"))?;
        let blobs = BlobStore::open(data.path().join("blobs")).await?;
        genesis::ensure(&registry, &node, &config.labels).await?;

        let (surroundings, told) = Surroundings::new(registry.clone(), states.clone());
        let host_config = mechtron_host::Config {
            shards: config.shards,
            cache: Some(data.path().join("cache")),
            ..mechtron_host::Config::new(tokio::runtime::Handle::current())
        };
        let host = Host::start(host_config, Arc::new(NodeOutside(surroundings.clone())))?;
        let artifacts = Artifacts::new(registry.clone(), blobs.clone(), host.clone());
        registry.set_schemas(Arc::new(artifacts.clone()));
        let provision = Provision::new(registry.clone(), states.clone(), artifacts.clone(), host.clone());
        let router = Router::new(registry.clone(), blobs.clone(), artifacts.clone(), host.clone());
        surroundings.complete(artifacts.clone(), provision.clone(), router.clone());
        tokio::spawn(outside::write_statuses(surroundings.clone(), by.clone(), told));
        provision.recover(&by).await?;
        blobs.sweep(resource_registry::named_blobs(&registry)?, BLOB_GRACE).await?;

        let ids = Arc::new(
            Ids::new().map_err(|error| Problem::new(Code::Internal, format!("no randomness: {error}")))?,
        );
        let commands =
            Commands::new(registry.clone(), blobs.clone(), provision.clone(), router.clone(), ids.clone());
        let info = Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: config.name.to_string(),
            cluster: "local".to_owned(),
            api: "v1".to_owned(),
        };
        let admin = Agent(genesis::mesh_point("users", "admin")?);
        let anonymous = Agent(genesis::mesh_point("users", "anonymous")?);
        let mesh = NodeMesh {
            registry,
            blobs,
            host: host.clone(),
            artifacts,
            provision,
            router,
            commands,
            ids,
            node: node.clone(),
            name: config.name.clone(),
            info,
        };
        let doors = gateway::Config {
            web: config.web,
            api: config.api,
            protection: config.protection,
            ..gateway::Config::local(token, admin, anonymous, node)
        };
        let (doors, addresses) = Doors::bind(doors, Arc::new(mesh)).await.map_err(doors_closed)?;
        data.set_running(&Running {
            name: config.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            api: addresses.api,
            http: addresses.web,
            links: None,
        })
        .map_err(io("node.json"))?;
        Ok(Self { name: config.name, data, doors, addresses, host, _lock: lock })
    }

    /// What it is called in the mesh.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Where links of other nodes are accepted; `None` when it only dials out.
    pub fn links(&self) -> Option<SocketAddr> {
        None
    }

    /// Where the doors are.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `shutdown` is done; then finishes what runs, and stops.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        self.doors.run(shutdown).await;
        self.host.drain(DRAIN_TIMEOUT).await;
        if let Err(error) = self.data.clear_running() {
            tracing::warn!("node.json cannot be removed: {error}");
        }
    }
}

/// Refuses what a node without links cannot do.
fn no_links_yet(links: &LinksConfig) -> Result<(), Problem> {
    if links.listen.is_none() && links.advertise.is_none() && links.join.is_none() {
        return Ok(());
    }
    Err(Problem::new(Code::Unsupported, "this node has no links yet")
        .help("start it without `--listen`, `--advertise` and `--join`"))
}

fn doors_closed(error: BindError) -> Problem {
    let help = match &error {
        BindError::Listen { .. } => {
            "another program may listen there; port 0 takes a free one: `--http 127.0.0.1:0`"
        }
        BindError::Unprotected { .. } => {
            "put a proxy that speaks TLS in front and say `--behind-proxy`, or listen on 127.0.0.1"
        }
        BindError::TlsUnsupported | BindError::TokenEmpty => "see `starlane serve --help`",
    };
    Problem::new(Code::Usage, error.to_string()).help(help)
}

/// The name of this machine as a node's name; `None` never happens.
pub fn default_name() -> Option<NodeName> {
    name_of(&gethostname::gethostname().to_string_lossy())
}

/// A node's name made from that of its machine: the whole of it with dashes, since the first label alone would name many
/// machines of a domain alike.
fn name_of(host: &str) -> Option<NodeName> {
    let dashes = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = host.chars().map(dashes).collect();
    let name = name.trim_matches('-');
    let name = if name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.to_owned()
    } else {
        format!("node-{name}")
    };
    name[..name.len().min(NodeName::BYTES_MAX)].trim_end_matches('-').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_machine_gives_its_node_a_name() {
        let long = format!("a.{}", "b".repeat(100));
        for (host, name) in [
            ("Cloud", "cloud"),
            ("web-1.example.com", "web-1-example-com"),
            (".x_y.", "x-y"),
            ("10-0-0-7", "node-10-0-0-7"),
            ("", "node"),
            ("é", "node"),
            (long.as_str(), &format!("a-{}", "b".repeat(61))),
        ] {
            assert_eq!(name_of(host).unwrap().as_str(), name, "{host}");
        }
    }
}
