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
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway::shapes::Info;
use gateway::{Addresses, BindError, Doors, Protection};
use mechtron_host::Host;
use resource_registry::{BlobStore, Registry, StateStore};
use starlane_core::{Agent, Code, Problem};

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
    pub name: String,
    /// What it says of itself, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Where the users' web is served.
    pub web: SocketAddr,
    /// Where the API is served.
    pub api: SocketAddr,
    /// What keeps others from reading along.
    pub protection: Protection,
    /// How many threads run mechtrons.
    pub shards: usize,
}

/// A node that is ready to serve.
pub struct Node {
    name: String,
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

        let node = genesis::mesh_point("nodes", &config.name)?;
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
            node: config.name.clone(),
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
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            api: addresses.api,
            http: addresses.web,
        })
        .map_err(io("node.json"))?;
        Ok(Self { name: config.name, data, doors, addresses, host, _lock: lock })
    }

    /// What it is called in the mesh.
    pub fn name(&self) -> &str {
        &self.name
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

/// The name of this machine as a node's name.
pub fn default_name() -> String {
    let host = gethostname::gethostname().to_string_lossy().to_ascii_lowercase();
    let name: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    // The first label alone would name many machines of a domain alike; the whole name with dashes does not.
    if name.starts_with(|c: char| c.is_ascii_lowercase()) { name.to_owned() } else { "node-1".to_owned() }
}
