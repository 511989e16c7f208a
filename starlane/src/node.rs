//! A node: the registry, the host of mechtrons, the router between them, and the doors, in one process.
//!
//! This is the only place where the parts meet. None of them knows another: each states what it needs, and the files
//! below give it that.
//!
//! | file | gives |
//! |---|---|
//! | `membership.rs` | who the node is: the first of a mesh, another of its registry, or a member |
//! | `links.rs` | the links to other nodes, and what arrives over them |
//! | `services.rs` | what nodes ask each other, and how it is written |
//! | `members.rs`, `tokens.rs` | who may join, by what the registry has |
//! | `leader.rs` | the loop that decides where mechtrons live, on a node of the registry |
//! | `leadership.rs`, `election.rs` | which node of the registry leads |
//! | `nearby.rs` | which node of the registry is asked |
//! | `copies.rs` | content that other nodes of the registry have |
//! | `installs.rs` | which installs nobody goes on with |
//! | `watching.rs` | what mechtrons watch, and what each is told next |
//! | `hosting.rs` | the mechtrons of this node, as the leader and other nodes ask for them |
//! | `homes.rs` | where mechtrons live, as this node knows it |
//! | `keeping.rs` | the states of mechtrons |
//! | `heart.rs` | what a member does for as long as it runs |
//! | `follow.rs`, `fresh.rs` | what a selector means, kept up with; reads that hold what others wrote |
//! | `serving.rs` | the points that are served, and the topics that are heard, over the portal |
//! | `router.rs` | the way of a message: bind, code or content, here or elsewhere |
//! | `signals.rs` | messages without an answer, in order |
//! | `artifacts.rs` | binds, configs and modules, read once |
//! | `dead_letters.rs` | signals that could not be delivered, by space |
//! | `sampled.rs` | selecting by what is measured when it is asked for |
//! | `provision.rs` | resources made, changed and deleted with what belongs to them |
//! | `commands.rs` | what statements do |
//! | `mesh.rs`, `reach.rs`, `views.rs`, `gather.rs` | the node as its doors see it |
//! | `outside.rs` | the node as its mechtrons see it |
//! | `genesis.rs` | the space `mesh` of the first start |

mod artifacts;
mod commands;
mod copies;
mod dead_letters;
mod election;
mod follow;
mod fresh;
mod gather;
mod genesis;
mod heart;
mod homes;
mod hosting;
mod ids;
mod installs;
mod keeping;
mod leader;
mod leadership;
mod links;
mod members;
mod membership;
mod mesh;
mod metrics;
mod nearby;
mod outside;
mod provision;
mod reach;
mod router;
mod sampled;
mod services;
mod serving;
mod signals;
mod tokens;
mod views;
mod watching;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use ::mesh::Credentials;
use ::mesh::join::{Config as DeskConfig, Enrolment};
use gateway::shapes::Info;
use gateway::{Addresses, BindError, Doors, Protection};
use mechtron_host::Host;
use resource_registry::store::{EtcdStore, RemoteConfig, RemoteStore};
use resource_registry::{
    Backing, BlobService, BlobStore, CacheConfig, Clock, MeshStates, Registry, RemoteStates, StateService,
    StateStore,
};
use starlane_core::{Agent, Code, Key, NodeName, Problem, Role, Status};
use tokio::sync::watch;

use crate::data::{DataFolder, FolderLock, Running};
use crate::registry_place::{self, Opened, Opener, Place};
use artifacts::Artifacts;
use commands::Commands;
use dead_letters::DeadLetters;
use homes::Homes;
use hosting::Hosting;
use ids::Ids;
use keeping::Keeping;
use leader::Leader;
use leadership::Leadership;
use links::{Arrivals, Links, Receivers, Services};
use members::Members;
use membership::Membership;
use mesh::NodeMesh;
use outside::{NodeOutside, Surroundings};
use provision::Provision;
use reach::Reach;
use router::Router;
use serving::Serving;
use signals::Signals;
use tokens::RegistryTokens;
use watching::Watching;

/// How long mechtrons may finish what they do when the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Content that nothing names is kept so long, since somebody may be about to name it.
const BLOB_GRACE: Duration = Duration::from_secs(3_600);

/// How long a member waits for its first link before it says what it waits for.
const FIRST_LINK: Duration = Duration::from_secs(3);

/// What a node is told once, at the start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps everything.
    pub data: DataFolder,
    /// What it is called in the mesh. When absent: what it was called before, or made from the name of this machine.
    pub name: Option<NodeName>,
    /// What it says of itself, for selectors.
    pub labels: BTreeMap<Key, String>,
    /// Where the users' web is served.
    pub web: SocketAddr,
    /// Where the API is served.
    pub api: SocketAddr,
    /// What keeps others from reading along.
    pub protection: Protection,
    /// Origins of pages, besides the API's own, that may use it.
    pub allowed_origins: Vec<String>,
    /// How it is linked to other nodes.
    pub links: LinksConfig,
    /// Where the registry is kept, on a node that has it. When absent: where it was told before, or in the folder.
    pub registry: Option<Place>,
    /// How many threads run mechtrons.
    pub shards: usize,
}

/// How a node is linked to others.
#[derive(Debug, Clone, Default)]
pub struct LinksConfig {
    /// Where links are accepted (UDP). When absent: [`LinksConfig::LISTEN`] for nodes of the registry, and nowhere for others.
    pub listen: Option<SocketAddr>,
    /// What others shall dial, as `HOST:PORT`; where it listens when absent.
    pub advertise: Option<String>,
    /// The mesh to join; needed at the first start only.
    pub join: Option<Join>,
    /// What it does for others. When absent: what its token says, and a relay for the first node of a mesh.
    pub role: Option<Role>,
}

impl LinksConfig {
    /// Where a node of the registry accepts links unless told otherwise.
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
    /// Where links of others are accepted.
    listen: Option<SocketAddr>,
    host: Host,
    links: Links,
    arrivals: Arc<Arrivals>,
    serving: Serving,
    /// On the nodes of a registry in etcd.
    leadership: Option<Leadership>,
    /// Why the node must stop, when it must.
    over: watch::Receiver<Option<Problem>>,
    _lock: FolderLock,
}

impl Node {
    /// Opens everything in the data folder and takes the addresses. A member of a mesh waits until its registry is in reach.
    ///
    /// # Errors
    /// When another node has the folder, something in it cannot be read, an address is taken, or the mesh cannot be joined.
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
        let Membership { identity, authority, contacts, known } =
            membership::open(&data.path().join("identity"), &config).await?;
        let me = identity.me();
        let name = me.name.clone();
        let node = genesis::mesh_point("nodes", name.as_str())?;
        let by = Agent(node.clone());
        let now: Clock = Arc::new(ids::now);
        let ids =
            Ids::new().map_err(|error| Problem::new(Code::Internal, format!("no randomness: {error}")))?;
        let ids = Arc::new(ids);

        let states = StateStore::open(data.path().join(registry_place::STATES))?;
        let listen = config.links.listen.or(authority.is_some().then_some(LinksConfig::LISTEN));
        let socket = links::bind(listen)?;
        let listen = listen.and(socket.local_addr().ok());
        let address = config.links.advertise.clone().or(listen.and_then(dialled_at));
        let own = match &authority {
            Some(authority) => {
                let mesh = identity.cluster().to_string();
                let opener = if me.role == Role::Registry { Opener::Later } else { Opener::First };
                let Opened { backing, etcd } =
                    registry_place::open(&data, config.registry.clone(), &mesh, opener).await?;
                let kept = resource_registry::Config::on(backing, now.clone());
                let registry = Registry::connect(kept).await?;
                match opener {
                    Opener::First => {
                        genesis::ensure(&registry, &by).await?;
                        members::check_welcome(&registry, &name)?;
                    }
                    Opener::Later => members::check_known(&registry, &name, identity.key()).await?,
                }
                if etcd.is_none() {
                    members::check_alone(&registry, &name)?;
                }
                let tokens = RegistryTokens::new(registry.clone(), by.clone(), authority.pin());
                let addresses = address.clone().into_iter().collect();
                let members = Members::new(registry.clone(), by.clone(), known.registry.clone(), addresses);
                let deciding = members.deciding();
                let desk = Enrolment::new(identity.clone(), authority.clone(), tokens.clone(), members);
                let desk = ::mesh::join::Service::new(DeskConfig::default(), identity.clone(), desk);
                tokio::spawn(heart::renew_own(identity.clone(), authority.clone()));
                Some(Own { registry, etcd, tokens, desk, deciding })
            }
            None if config.registry.is_some() => {
                let problem =
                    Problem::new(Code::Usage, "this node joined a mesh whose registry it does not serve");
                return Err(problem.help(
                    "start it without `--registry`; one that shall serve it joins with a token of \
                     `starlane token --role registry`",
                ));
            }
            None => None,
        };
        let led_here = own.as_ref().is_some_and(|own| own.etcd.is_none());
        let homes = Homes::new(name.clone(), known.registry.clone(), led_here);
        let arrivals = Arrivals::new();
        let start = links::Start {
            identity: identity.clone(),
            home: known.registry.clone(),
            socket,
            desk: own.as_ref().map(|own| own.desk.clone()),
            labels: config.labels.iter().map(|(key, value)| (key.to_string(), value.clone())).collect(),
            addresses: known.addresses.clone(),
            seed: ids.next().0 as u64,
        };
        let links = Links::start(start, &arrivals)?;
        arrivals.set_links(links.clone());

        let (end, over) = watch::channel(None);
        let end = Arc::new(end);
        let blobs = data.path().join("blobs");
        let (registry, blobs) = match &own {
            Some(own) if own.etcd.is_none() => (own.registry.clone(), BlobStore::open(blobs).await?),
            Some(own) => {
                end_when(&end, heart::shut_out(identity.clone()));
                let way = links.way(services::BLOBS);
                (own.registry.clone(), BlobStore::open_cache(blobs, way, CacheConfig::BESIDE).await?)
            }
            None => {
                end_when(&end, heart::renew(identity.clone(), links.clone()));
                let registry = tokio::select! {
                    registry = connect(&links, &now) => registry,
                    problem = is_over(over.clone()) => return Err(problem),
                };
                let way = links.way(services::BLOBS);
                (registry, BlobStore::open_cache(blobs, way, CacheConfig::default()).await?)
            }
        };
        let mut changes = members::told(Some(identity.key()), me.generation, me.role);
        changes.extend(members::label_changes(
            config.labels.iter().map(|(key, value)| (key, Some(value.as_str()))),
        )?);
        changes.extend(members::started(address.as_deref(), env!("CARGO_PKG_VERSION")));
        let mut attempt = 0;
        while let Err(error) =
            members::write(&registry, &by, node.clone(), changes.clone(), Status::ready()).await
        {
            if own.is_some() {
                return Err(error.into());
            }
            tracing::warn!("waits until the registry takes this node: {error}");
            tokio::time::sleep(heart::wait_before(attempt)).await;
            attempt += 1;
        }

        let mesh_states = match &own {
            Some(Own { etcd: Some(etcd), .. }) => MeshStates::Etcd(etcd.states()),
            Some(_) => MeshStates::Here(states.clone()),
            None => MeshStates::There(RemoteStates::new(links.way(services::STATES))),
        };
        let keeping = Keeping::new(states, mesh_states.clone());
        let dead = DeadLetters::new(registry.clone(), name.clone());
        let (surroundings, statuses) =
            Surroundings::new(registry.clone(), homes.clone(), keeping.clone(), dead.clone());
        let host_config = mechtron_host::Config {
            shards: config.shards,
            cache: Some(data.path().join("cache")),
            ..mechtron_host::Config::new(tokio::runtime::Handle::current())
        };
        let host = Host::start(host_config, Arc::new(NodeOutside(surroundings.clone())))?;
        let artifacts = Artifacts::new(registry.clone(), blobs.clone(), host.clone());
        registry.set_schemas(Arc::new(artifacts.clone()));
        let provision = Provision::new(registry.clone(), keeping.clone(), artifacts.clone(), host.clone());
        let serving = Serving::new(registry.clone(), by.clone(), name.clone(), links.clone());
        let sockets = gateway::Sockets::new(name.clone());
        let router = Router::new(router::Parts {
            registry: registry.clone(),
            blobs: blobs.clone(),
            artifacts: artifacts.clone(),
            host: host.clone(),
            homes: homes.clone(),
            links: links.clone(),
            ids: ids.clone(),
            serving: serving.clone(),
            me: name.clone(),
            sockets: sockets.clone(),
            runtime: tokio::runtime::Handle::current(),
        });
        let signals = Signals::start(&router, &homes, &dead);
        surroundings.complete(artifacts.clone(), provision.clone(), router.clone(), signals.clone());
        let hosting =
            Hosting::new(host.clone(), homes.clone(), registry.clone(), keeping.clone(), dead.clone());
        tokio::spawn(outside::write_statuses(surroundings.clone(), by.clone(), statuses));

        let mut leadership = None;
        let leader = match own {
            Some(Own { etcd, tokens, desk, deciding, .. }) => {
                let parts = leader::Parts {
                    shared: etcd.is_some(),
                    registry: registry.clone(),
                    by: by.clone(),
                    identity: identity.clone(),
                    tokens,
                    address: address.clone(),
                    deciding,
                };
                let leader = Leader::new(parts);
                arrivals.set_services(Services {
                    registry: registry.clone(),
                    store: registry.serve(),
                    blobs: BlobService::new(blobs.clone()),
                    blobs_beside: BlobService::beside(blobs.clone()),
                    states: StateService::new(mesh_states),
                    desk,
                    leader: leader.clone(),
                });
                log_end("dead services", serving.clone().forget_the_dead());
                blobs.sweep(resource_registry::named_blobs(&registry)?, BLOB_GRACE).await?;
                let (links, hosting) = (links.clone(), hosting.clone());
                let (leads, install) = (leader.clone(), provision.clone());
                let lead = move |provided, former| {
                    let (leader, install) = (leads.clone(), install.clone());
                    leader.lead(provided, former, links.clone(), hosting.clone(), install)
                };
                if etcd.is_none() {
                    provision.recover(&by).await?;
                    log_end("placement", lead(None, None));
                } else {
                    log_end("content", copies::keep_up(registry.clone(), blobs.clone()));
                    let lead = move |mandate, former| {
                        let term = lead(leadership::provided(mandate), former);
                        async move {
                            if let Err(problem) = term.await {
                                tracing::error!("placement is not followed any more: {problem}");
                            }
                        }
                    };
                    let elected = Leadership::begin(registry.clone(), by.clone(), name.clone(), lead)?;
                    leadership = Some(elected);
                }
                Some(leader)
            }
            None => None,
        };
        arrivals.set_receivers(Receivers {
            router: router.clone(),
            signals,
            hosting: hosting.clone(),
            serving: serving.clone(),
        });
        log_end("services", serving.clone().keep_up());
        let nodes = heart::Nodes {
            links: links.clone(),
            me: name.clone(),
            role: me.role,
            joined_at: known.addresses.first().cloned().into_iter().collect(),
            file: contacts,
        };
        log_end("the nodes", nodes.keep_up(registry.clone()));
        log_end("revocations", heart::heed_revocations(identity.clone(), registry.clone()));
        log_end("mechtrons", hosting.follow(provision.clone()));
        let watching = Watching {
            registry: registry.clone(),
            homes: homes.clone(),
            host: host.clone(),
            artifacts: artifacts.clone(),
        };
        log_end("the watches of mechtrons", watching.keep_up());
        let heart = heart::Heart {
            links: links.clone(),
            registry: registry.clone(),
            leader: leader.clone(),
            homes: homes.clone(),
            host: host.clone(),
            provision: provision.clone(),
            generation: me.generation,
        };
        tokio::spawn(heart.beat());
        tokio::spawn(heart::heed_lease(homes.clone(), host.clone(), registry.clone()));
        end_when(&end, heart::replaced(links.clone()));

        let reach = Reach {
            leader,
            registry: registry.clone(),
            links: links.clone(),
            homes,
            host: host.clone(),
            dead,
        };
        let commands = Commands::new(
            registry.clone(),
            blobs.clone(),
            provision.clone(),
            router.clone(),
            reach.clone(),
            ids.clone(),
        );
        let info = Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: name.to_string(),
            cluster: identity.cluster().to_string(),
            api: "v1".to_owned(),
        };
        let admin = Agent(genesis::mesh_point("users", "admin")?);
        let anonymous = Agent(genesis::mesh_point("users", "anonymous")?);
        let mesh = NodeMesh {
            registry,
            blobs,
            artifacts,
            provision,
            router,
            commands,
            ids,
            reach,
            serving: serving.clone(),
            sockets,
            info,
        };
        let certificate = match &config.protection {
            Protection::Tls(tls) => Some(tls.certificate()),
            Protection::LoopbackOnly | Protection::BehindProxy => None,
        };
        let doors = gateway::Config {
            web: config.web,
            api: config.api,
            protection: config.protection,
            api_origins: config.allowed_origins,
            ..gateway::Config::local(token, admin, anonymous, node)
        };
        let (doors, addresses) = Doors::bind(doors, Arc::new(mesh)).await.map_err(doors_closed)?;
        data.set_running(&Running {
            name: name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            api: addresses.api,
            http: addresses.web,
            links: listen,
            certificate,
        })
        .map_err(io("node.json"))?;
        Ok(Self {
            name,
            data,
            doors,
            addresses,
            listen,
            host,
            links,
            arrivals,
            serving,
            leadership,
            over,
            _lock: lock,
        })
    }

    /// What it is called in the mesh.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Where links of other nodes are accepted; `None` when it only dials out.
    pub fn links(&self) -> Option<SocketAddr> {
        self.listen
    }

    /// Where the doors are.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `shutdown` is done; then finishes what runs, and stops.
    ///
    /// # Errors
    /// Why it stopped by itself: it was shut out of its mesh, or another process runs as the same node.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Problem> {
        let over = self.over.clone();
        let stop = async move {
            tokio::select! {
                () = shutdown => {}
                _ = is_over(over) => {}
            }
        };
        self.doors.run(stop).await;
        self.serving.leave().await;
        self.host.drain(DRAIN_TIMEOUT).await;
        self.arrivals.settle(DRAIN_TIMEOUT).await;
        if let Some(leadership) = &self.leadership {
            leadership.resign().await;
        }
        self.links.handle.stop().await;
        self.arrivals.close();
        if let Err(error) = self.data.clear_running() {
            tracing::warn!("node.json cannot be removed: {error}");
        }
        self.over.borrow().clone().map_or(Ok(()), Err)
    }
}

/// Ends the node when something comes to its end, with what that says.
fn end_when(
    end: &Arc<watch::Sender<Option<Problem>>>,
    reason: impl Future<Output = Problem> + Send + 'static,
) {
    let end = end.clone();
    tokio::spawn(async move {
        let problem = reason.await;
        tracing::error!("{problem}");
        end.send_replace(Some(problem));
    });
}

/// Waits until the node must stop.
async fn is_over(mut over: watch::Receiver<Option<Problem>>) -> Problem {
    if let Ok(problem) = over.wait_for(Option::is_some).await
        && let Some(problem) = &*problem
    {
        return problem.clone();
    }
    std::future::pending().await
}

/// What a node of the registry has, and no other.
struct Own {
    registry: Registry,
    /// What the registry is kept in, when that is an etcd, so that several nodes can have it.
    etcd: Option<EtcdStore>,
    tokens: RegistryTokens,
    desk: links::RegistryDesk,
    deciding: Arc<tokio::sync::Mutex<()>>,
}

/// The registry of another node, when it is in reach.
async fn connect(links: &Links, now: &Clock) -> Registry {
    let mut attempt = 0;
    // The first link takes a moment; when it takes longer, whoever waits is told why.
    _ = tokio::time::timeout(FIRST_LINK, links.reach_registry()).await;
    loop {
        let store = RemoteStore::new(links.way(services::STORE), RemoteConfig::default());
        let config = resource_registry::Config::on(Backing::Store(Arc::new(store)), now.clone());
        match Registry::connect(config).await {
            Ok(registry) => return registry,
            Err(error) => tracing::warn!("waits for the registry: {error}"),
        }
        tokio::time::sleep(heart::wait_before(attempt)).await;
        attempt += 1;
    }
}

/// Where others can dial an address that is listened at; `None` when that cannot be told by it.
fn dialled_at(listen: SocketAddr) -> Option<String> {
    (!listen.ip().is_unspecified()).then(|| listen.to_string())
}

/// Runs what goes on for as long as the node does.
fn log_end(what: &'static str, task: impl Future<Output = Result<(), Problem>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(problem) = task.await {
            tracing::error!("{what} are not followed any more: {problem}");
        }
    });
}

fn doors_closed(error: BindError) -> Problem {
    let help = match &error {
        BindError::Listen { .. } => {
            "another program may listen there; port 0 takes a free one: `--http 127.0.0.1:0`"
        }
        BindError::Unprotected { .. } => {
            "let it speak TLS: `--tls-cert FILE --tls-key FILE`; or put a proxy that does in front and say \
             `--behind-proxy`; or listen on 127.0.0.1"
        }
        BindError::TokenEmpty => "see `starlane serve --help`",
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
