//! The links of a node to others, and what arrives over them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gateway::portal::is_event;
use mesh::join::{self, Carrier, Enrolment};
use mesh::{About, Answer, Call, Credentials, LinkStateRouting, Local, Map, Parts, Place, Service, Socket};
use parking_lot::{Mutex, RwLock};
use resource_registry::store::StoreService;
use resource_registry::{BlobService, Registry, StateService, Unanswered, Upstream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use starlane_core::{Body, Code, Message, NodeId, NodeName, Outcome, Problem, Refusal, Role};

use super::hosting::Hosting;
use super::leader::Leader;
use super::members::Members;
use super::nearby::{Candidate, Nearby};
use super::router::Router;
use super::services::{self, BLOBS, DESK, HOST, LEADER, STATES, STORE};
use super::serving::Serving;
use super::signals::Signals;
use super::tokens::RegistryTokens;
use super::{ids, services::HostAsk};

/// How long a question to the leader or to a host may take.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether all requests of others are answered, when the node stops.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a node that asks may be unknown.
const WHO_MAX: Duration = Duration::from_secs(2);

/// The links of a node. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Links {
    pub(super) handle: mesh::Handle,
    pub(super) map: Map,
    /// The first node of the registry.
    pub(super) home: NodeName,
    registries: Arc<Registries>,
}

/// The desk of a node of the registry.
pub(super) type RegistryDesk = join::Service<Enrolment<RegistryTokens, Members>>;

/// What links are started from.
pub(super) struct Start {
    pub(super) identity: mesh::Identity,
    /// The first node of the registry.
    pub(super) home: NodeName,
    /// What they send and receive over.
    pub(super) socket: UdpSocket,
    /// Where nodes are enrolled, on the registry's node; any other carries requests there.
    pub(super) desk: Option<RegistryDesk>,
    pub(super) labels: BTreeMap<String, String>,
    /// Where others are dialled.
    pub(super) addresses: Vec<String>,
    pub(super) seed: u64,
}

impl Links {
    /// Starts the links. What arrives is answered when `arrivals` are completed.
    ///
    /// # Errors
    /// When the labels are more than can be told, or the system does not play along.
    pub(super) fn start(start: Start, arrivals: &Arc<Arrivals>) -> Result<Self, Problem> {
        let Start { identity, home, socket, desk, labels, addresses, seed } = start;
        let me = identity.me();
        let about = About { labels, registry: serves(&me.name, me.role, &home), draining: false };
        let sequence = ids::now().0;
        let (routing, map) = LinkStateRouting::new(&identity, about, sequence).map_err(|error| {
            Problem::new(Code::Usage, format!("the labels of this node cannot be told to others: {error}"))
                .help("at most 64 labels with 4 KiB together")
        })?;
        let carrier = Carrier::new(map.clone(), DESK);
        let on_join = match desk {
            Some(desk) => desk.on_join(),
            None => {
                let config = join::Config::default();
                join::Service::new(config, identity.clone(), carrier.clone()).on_join()
            }
        };
        let parts = Parts {
            credentials: Arc::new(identity.clone()),
            local: arrivals.clone(),
            routing: Box::new(routing),
            on_join: Some(on_join),
            socket: Socket::Bound(socket),
            place: Place::OwnThread,
            seed,
        };
        let config = mesh::Config { addresses, ..mesh::Config::default() };
        let handle = mesh::start(config, parts).map_err(|error| {
            Problem::new(Code::Internal, format!("the links of this node cannot be started: {error}"))
        })?;
        carrier.set_links(handle.clone());
        let registries =
            Registries { map: map.clone(), me: me.name.id(), home: home.clone(), nearby: Mutex::default() };
        Ok(Self { handle, map, home, registries: Arc::new(registries) })
    }

    /// What this node is called.
    pub(super) fn me(&self) -> &NodeName {
        &self.handle.me().name
    }

    /// The way to a service of whichever other node of the registry answers.
    pub(super) fn way(&self, service: Service) -> Arc<dyn Upstream> {
        Arc::new(Way {
            links: self.handle.clone(),
            registries: self.registries.clone(),
            service,
            turned: Mutex::default(),
        })
    }

    /// Waits until a way leads to a node of the registry.
    pub(super) async fn reach_registry(&self) {
        let mut routes = self.map.watch();
        while self.registries.choose(&[]).is_none() {
            if routes.changed().await.is_err() {
                // The links end with the node.
                return;
            }
        }
    }

    /// Asks whichever other node of the registry answers: what any of them can do.
    ///
    /// # Errors
    /// What it answers in place of an answer, and `E-UNREACHABLE` or `E-TIMEOUT`.
    pub(super) async fn ask_registry<T: DeserializeOwned>(
        &self,
        service: Service,
        ask: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, Problem> {
        let body = services::ask(ask, &[]).map_err(Problem::from)?;
        let answer = self.way(service).call(body, timeout).await;
        let answer = answer.map_err(|unanswered| {
            let (Unanswered::Rejected(refusal) | Unanswered::Unknown(refusal)) = unanswered;
            unanswered_by(refusal, &self.home)
        })?;
        Ok(services::answered(answer)?.0)
    }

    /// Who asks; a node that has just joined may ask before it was heard of.
    async fn who(&self, id: NodeId, patience: Duration) -> Result<NodeName, Refusal> {
        let mut routes = self.map.watch();
        let known = routes.wait_for(|routes| routes.member(id).is_some());
        // It is told that nobody knows it when it is not heard of in time.
        _ = tokio::time::timeout(patience, known).await;
        self.name_of(id).ok_or_else(|| Refusal::new(Code::NotReady, "this node does not know yet who asks"))
    }

    /// The name of a node that was heard of.
    pub(super) fn name_of(&self, id: NodeId) -> Option<NodeName> {
        self.map.routes().member(id).map(|member| member.advert.name.clone())
    }

    /// Asks a service of another node.
    ///
    /// # Errors
    /// What it answers in place of an answer, and `E-UNREACHABLE` or `E-TIMEOUT`.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        to: &NodeName,
        service: Service,
        ask: &impl Serialize,
        rest: &[u8],
        timeout: Duration,
    ) -> Result<(T, Bytes), Problem> {
        let body = services::ask(ask, rest).map_err(Problem::from)?;
        let answer = self.handle.call(to.id(), service, body, timeout).await;
        services::answered(answer.map_err(|refusal| unanswered_by(refusal, to))?)
    }
}

fn unanswered_by(refusal: Refusal, to: &NodeName) -> Problem {
    let mut problem = Problem::from(refusal);
    if matches!(problem.code, Code::Unreachable | Code::Timeout) {
        problem.detail = format!("the node `{to}` does not answer: {}", problem.detail);
        problem.help.get_or_insert_with(|| "see how it is: `starlane node list`".to_owned());
    } else if problem.code == Code::Unsupported {
        problem.detail = format!("the node `{to}` does not know what it is asked: {}", problem.detail);
        let help = "it may run an older version: `starlane node list` shows which version each runs";
        problem.help.get_or_insert_with(|| help.to_owned());
    }
    problem
}

/// Binds where links are accepted; any port when the node only dials out, for both families where the system has them, so
/// that it reaches everybody.
///
/// # Errors
/// `E-USAGE` when the address is taken.
pub(super) fn bind(listen: Option<SocketAddr>) -> Result<UdpSocket, Problem> {
    let bound = match listen {
        Some(address) => UdpSocket::bind(address),
        None => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
            .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))),
    };
    bound.map_err(|error| {
        let at = listen.map_or("any address".to_owned(), |address| address.to_string());
        Problem::new(Code::Usage, format!("links cannot be accepted at {at} (UDP): {error}"))
            .help("another program may listen there; port 0 takes a free one: `--listen 127.0.0.1:0`")
    })
}

/// Whether a node has the registry: the first of the mesh, and those whose certificate says so.
pub(super) fn serves(name: &NodeName, role: Role, home: &NodeName) -> bool {
    name == home || role == Role::Registry
}

/// The other nodes of the registry, as the routes show them, and which of them is asked.
struct Registries {
    map: Map,
    me: NodeId,
    home: NodeName,
    nearby: Mutex<Nearby>,
}

impl Registries {
    /// The one to ask; `except` were asked already.
    fn choose(&self, except: &[NodeId]) -> Option<NodeId> {
        let routes = self.map.routes();
        let others = routes.members().iter().filter(|member| member.id != self.me);
        let serve = others.filter(|member| serves(&member.advert.name, member.advert.role, &self.home));
        let candidates: Vec<Candidate> = serve
            .map(|member| Candidate { node: member.id, cost: member.route.map(|route| route.cost) })
            .collect();
        self.nearby.lock().choose(&candidates, except, Instant::now())
    }

    /// Whether another node can be asked in place of one that refused: it cannot do what those of the registry do.
    fn note(&self, node: NodeId, answer: &Result<Bytes, Unanswered>) -> bool {
        let mut nearby = self.nearby.lock();
        match answer {
            Ok(_) => nearby.answered(node),
            Err(Unanswered::Unknown(_)) => nearby.failed(node, Instant::now()),
            Err(Unanswered::Rejected(refusal)) => {
                let is_out =
                    [Code::Unreachable, Code::NoRoute, Code::NotReady, Code::Draining, Code::Unsupported];
                if is_out.contains(&refusal.code) {
                    nearby.failed(node, Instant::now());
                    return true;
                }
            }
        }
        false
    }
}

/// A way to a service of the nodes of the registry. What surely did not run at one of them is asked of the next.
struct Way {
    links: mesh::Handle,
    registries: Arc<Registries>,
    service: Service,
    /// Those that do not have what was asked for.
    turned: Mutex<Vec<NodeId>>,
}

impl Upstream for Way {
    fn call(&self, request: Bytes, timeout: Duration) -> BoxFuture<'static, Result<Bytes, Unanswered>> {
        let mut asked = self.turned.lock().clone();
        let first = self.registries.choose(&asked).unwrap_or_else(|| self.registries.home.id());
        // Sent when called.
        let outcome = self.links.call_outcome(first, self.service, request.clone(), timeout);
        let (links, registries, service) = (self.links.clone(), self.registries.clone(), self.service);
        async move {
            let ends = Instant::now() + timeout;
            let (mut node, mut answer) = (first, bytes_of(outcome.await));
            loop {
                if !registries.note(node, &answer) {
                    return answer;
                }
                asked.push(node);
                let left = ends.saturating_duration_since(Instant::now());
                let Some(next) = registries.choose(&asked).filter(|_| !left.is_zero()) else { return answer };
                node = next;
                answer = bytes_of(links.call_outcome(next, service, request.clone(), left).await);
            }
        }
        .boxed()
    }

    fn turn(&self) -> bool {
        let mut turned = self.turned.lock();
        if let Some(node) = self.registries.choose(&turned) {
            turned.push(node);
        }
        if self.registries.choose(&turned).is_some() {
            return true;
        }
        turned.clear();
        false
    }
}

fn bytes_of(outcome: Outcome) -> Result<Bytes, Unanswered> {
    match outcome {
        Outcome::Ok(reply) => match reply.body {
            Body::Bytes(bytes) => Ok(bytes),
            Body::Blob(_) => {
                let refusal = Refusal::new(Code::Internal, "the answer is no bytes");
                Err(Unanswered::Unknown(refusal))
            }
        },
        // A service refuses before it does anything.
        Outcome::Rejected(refusal) | Outcome::Failed(refusal) => Err(Unanswered::Rejected(refusal)),
        Outcome::Unknown(refusal) => Err(Unanswered::Unknown(refusal)),
    }
}

/// What arrives over the links. The node answers when its parts are there, and until it is closed.
pub(super) struct Arrivals {
    me: Weak<Self>,
    links: OnceLock<Links>,
    services: RwLock<Option<Arc<Services>>>,
    receivers: RwLock<Option<Arc<Receivers>>>,
    /// Requests of others that are not answered yet.
    asked: Arc<AtomicUsize>,
    /// No more of them are taken.
    stops: AtomicBool,
}

/// A request of another node that is not answered yet.
pub(super) struct Arrival {
    answer: Answer,
    counted: Counted,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arrival {
    /// The outcome.
    pub(super) fn give(self, outcome: Outcome) {
        self.answer.give(outcome);
    }

    /// What to call when nobody waits for the outcome any more.
    pub(super) fn end_by(&self, end: Box<dyn FnOnce() + Send>) {
        self.answer.end_by(end);
    }

    /// Gives the outcome of a future that only waits.
    pub(super) fn when(self, outcome: BoxFuture<'static, Outcome>) {
        let Self { answer, counted } = self;
        answer.when(async move { (outcome.await, counted).0 }.boxed());
    }

    /// Gives the outcome of a future that may compute.
    pub(super) fn on(
        self,
        runtime: &tokio::runtime::Handle,
        outcome: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let Self { answer, counted } = self;
        answer.on(runtime, async move { (outcome.await, counted).0 });
    }
}

/// What a node of the registry does for all others.
pub(super) struct Services {
    pub(super) registry: Registry,
    pub(super) store: StoreService,
    pub(super) blobs: BlobService,
    /// For other nodes of the registry.
    pub(super) blobs_beside: BlobService,
    pub(super) states: StateService,
    pub(super) desk: RegistryDesk,
    pub(super) leader: Leader,
}

/// Who takes messages.
pub(super) struct Receivers {
    pub(super) router: Router,
    pub(super) signals: Signals,
    pub(super) hosting: Hosting,
    pub(super) serving: Serving,
}

impl Arrivals {
    /// Nothing is answered yet.
    pub(super) fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            links: OnceLock::new(),
            services: RwLock::default(),
            receivers: RwLock::default(),
            asked: Arc::default(),
            stops: AtomicBool::new(false),
        })
    }

    /// The links that all of it arrives over. Only the first counts, and there is only one.
    pub(super) fn set_links(&self, links: Links) {
        _ = self.links.set(links);
    }

    /// Answers what only a node of the registry can.
    pub(super) fn set_services(&self, services: Services) {
        *self.services.write() = Some(Arc::new(services));
    }

    /// Answers messages, and questions about mechtrons.
    pub(super) fn set_receivers(&self, receivers: Receivers) {
        *self.receivers.write() = Some(Arc::new(receivers));
    }

    /// Takes no more requests, and waits until those that were taken are answered, for a time at most. That the answers arrive is
    /// seen to when the links are stopped.
    pub(super) async fn settle(&self, within: Duration) {
        self.stops.store(true, Ordering::Relaxed);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let begun = tokio::time::Instant::now();
        while self.asked.load(Ordering::Relaxed) > 0 && begun.elapsed() < within {
            looks.tick().await;
        }
    }

    /// Answers nothing any more, and lets go of the node's parts.
    pub(super) fn close(&self) {
        self.services.write().take();
        self.receivers.write().take();
    }

    fn receivers(&self) -> Result<Arc<Receivers>, Refusal> {
        self.receivers.read().clone().ok_or_else(starting)
    }

    fn answer(
        &self,
        name: NodeName,
        call: Call,
    ) -> Result<BoxFuture<'static, Result<Bytes, Refusal>>, Refusal> {
        if call.service == HOST {
            let ask = asked::<HostAsk>(call.body)?;
            return Ok(self.receivers()?.hosting.answer(name, ask));
        }
        if ![STORE, BLOBS, STATES, LEADER, DESK].contains(&call.service) {
            return Err(unknown());
        }
        let services = self.services.read().clone().ok_or_else(|| match self.links.get() {
            Some(links) if !serves(links.me(), links.handle.me().role, &links.home) => {
                Refusal::new(Code::Unsupported, "this node does not keep the registry")
            }
            _ => starting(),
        })?;
        // Another node of the registry may still reach its etcd.
        if [STORE, STATES, DESK].contains(&call.service)
            && let Some(lost) = services.registry.contact().and_then(|contact| contact.lost)
        {
            return Err(Refusal::new(Code::NotReady, format!("the registry cannot be reached: {lost}")));
        }
        let role = |name: &NodeName| {
            let routes = self.links.get()?.map.routes();
            routes.member(name.id()).map(|member| member.advert.role)
        };
        let home = self.links.get().map(|links| &links.home);
        let is_beside = home == Some(&name) || role(&name) == Some(Role::Registry);
        Ok(match call.service {
            STORE => services.store.handle(name, call.body),
            BLOBS if is_beside => services.blobs_beside.handle(name, call.body),
            BLOBS => services.blobs.handle(name, call.body),
            STATES => services.states.handle(name, call.body),
            LEADER => services.leader.answer(name, asked(call.body)?.0),
            DESK => {
                let desk = services.desk.clone();
                async move { desk.answer(&call.body).await }.boxed()
            }
            _ => return Err(unknown()),
        })
    }
}

fn asked<T: DeserializeOwned>(body: Bytes) -> Result<(T, Bytes), Refusal> {
    services::asked(body)
}

fn unknown() -> Refusal {
    Refusal::new(Code::Unsupported, "this node does not know the service")
}

fn starting() -> Refusal {
    Refusal::new(Code::NotReady, "the node is starting")
}

impl Local for Arrivals {
    fn request(&self, message: Message, answer: Answer) {
        if self.stops.load(Ordering::Relaxed) {
            let refusal = Refusal::new(Code::Draining, "the node is stopping");
            return answer.give(Outcome::Rejected(refusal));
        }
        match self.receivers() {
            Ok(receivers) => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                let counted = Counted(self.asked.clone());
                receivers.router.arrived(message, Arrival { answer, counted });
            }
            Err(refusal) => answer.give(Outcome::Rejected(refusal)),
        }
    }

    fn send(&self, message: Message) {
        match self.receivers() {
            Ok(receivers) if is_event(&message) => receivers.serving.topics().tell(message),
            Ok(receivers) => receivers.signals.arrived(message),
            Err(refusal) => {
                let (from, to) = (&message.header.from, &message.header.to);
                tracing::warn!(%from, %to, "a signal was not delivered: {refusal}");
            }
        }
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let Some(arrivals) = self.me.upgrade() else { return std::future::ready(Err(starting())).boxed() };
        async move {
            let links = arrivals.links.get().ok_or_else(starting)?;
            let name = links.who(call.from, call.remaining.min(WHO_MAX)).await?;
            arrivals.answer(name, call)?.await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_not_known_is_refused_at_once_and_one_that_is_not_there_yet_too() {
        let ask = |service| {
            let call =
                Call { from: NodeId(7), service, remaining: Duration::from_secs(5), body: Bytes::new() };
            Arrivals::new().answer("edge".parse().unwrap(), call).err().map(|refusal| refusal.code)
        };
        assert_eq!(ask(Service(99)), Some(Code::Unsupported));
        assert_eq!(ask(STORE), Some(Code::NotReady));
        assert_eq!(ask(HOST), Some(Code::Unsupported), "no question");
    }
}
