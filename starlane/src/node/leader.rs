//! The leader: one loop on a node of the registry around [`Placement`], which decides who is alive and where mechtrons live. It
//! tells the loop what happens, and carries out what it asks for. Where several nodes have the registry, one of them leads at a
//! time (`leadership.rs`); tokens are made and nodes shut out by any of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use mesh::identity::Revocations;
use parking_lot::RwLock;
use resource_registry::{Provided, Registry, Reserved};
use starlane_core::placement::{
    Action, Config, Handle, Life, Load as Room, MoveError, Placement, Ticket, epoch_of,
};
use starlane_core::{
    Agent, Assignment, Base, Code, Epoch, Generation, Kind, NodeName, Point, Problem, PropertyChange,
    Refusal, Resource, Role, Status, Value,
};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use super::follow::{Follow, News};
use super::genesis::mesh_point;
use super::hosting::{Hosting, MECHTRONS};
use super::installs::Installs;
use super::links::Links;
use super::members::{self, NODES};
use super::provision::{INSTALLING, Provision};
use super::services::{self, HOST, Heard, HostAsk, LeaderAsk, Load, MadeToken, NodeLife, Placed, Terms};
use super::tokens::RegistryTokens;
use super::views;

/// How much may wait to be told to the leader; whoever tells more waits.
const TOLD_MAX: usize = 4_096;
/// How long a node is waited for that is to let go of a mechtron, beside what its handlers may take, or to take one over.
const HAND_OVER: Duration = Duration::from_secs(10);

/// The leader, for all who ask it. Clones ask the same.
#[derive(Clone)]
pub(super) struct Leader(Arc<Office>);

struct Office {
    /// To the loop, while this node leads.
    told: RwLock<Option<mpsc::Sender<Told>>>,
    /// Whether several nodes can have the registry.
    shared: bool,
    registry: Registry,
    by: Agent,
    identity: mesh::Identity,
    tokens: RegistryTokens,
    /// Where nodes join.
    address: Option<String>,
    /// Held by whoever decides about one member; shared with the desk.
    deciding: Arc<Mutex<()>>,
}

/// What the leader is made from.
pub(super) struct Parts {
    /// Whether several nodes can have the registry.
    pub(super) shared: bool,
    pub(super) registry: Registry,
    pub(super) by: Agent,
    pub(super) identity: mesh::Identity,
    pub(super) tokens: RegistryTokens,
    pub(super) address: Option<String>,
    /// Held by whoever decides about one member.
    pub(super) deciding: Arc<Mutex<()>>,
}

/// What is told to the loop.
enum Told {
    Heard(NodeName, Heard),
    Node(News),
    Mechtron(News),
    Install(News),
    Unreachable(NodeName),
    Move(Point, NodeName, oneshot::Sender<Result<Placed, Problem>>),
    Why(Point, oneshot::Sender<Option<starlane_core::placement::Why>>),
    Nodes(oneshot::Sender<Vec<NodeLife>>),
    Released(Point, Ticket, Epoch, Result<Option<Bytes>, String>),
    Adopted(Point, Ticket, Result<(), String>),
    Written(Point, Ticket, Option<Arc<Resource>>),
    NodeNotWritten(NodeName),
}

impl Leader {
    /// One that does not lead yet.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { shared, registry, by, identity, tokens, address, deciding } = parts;
        let told = RwLock::new(None);
        Self(Arc::new(Office { told, shared, registry, by, identity, tokens, address, deciding }))
    }

    /// Answers another node.
    pub(super) fn answer(
        &self,
        from: NodeName,
        ask: LeaderAsk,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let leader = self.clone();
        async move {
            match ask {
                LeaderAsk::Heard(heard) => services::answer(leader.heard(from, heard).await),
                LeaderAsk::Move { point, to } => services::answer(leader.move_to(point, to).await),
                LeaderAsk::Why { point } => services::answer(leader.why(point).await),
                LeaderAsk::Nodes => services::answer(leader.nodes().await),
                LeaderAsk::Revoke { agent, name } => services::answer(leader.revoke(&agent, &name).await),
                LeaderAsk::MakeToken { agent, terms } => {
                    services::answer(leader.make_token(&agent, terms).await)
                }
                LeaderAsk::Tokens => services::answer(leader.0.tokens.list()),
                LeaderAsk::DeleteToken { agent, id } => {
                    services::answer(leader.0.tokens.delete(&agent, &id).await)
                }
            }
        }
        .boxed()
    }

    /// A node tells that it is alive.
    pub(super) async fn heard(&self, from: NodeName, heard: Heard) -> Result<(), Problem> {
        self.tell(Told::Heard(from, heard)).await
    }

    /// Moves a mechtron; done when it lives there.
    pub(super) async fn move_to(&self, point: Point, to: NodeName) -> Result<Placed, Problem> {
        self.ask(|reply| Told::Move(point, to, reply)).await?
    }

    /// Why a mechtron lives where it does.
    pub(super) async fn why(&self, point: Point) -> Result<gateway::shapes::Why, Problem> {
        let Some(resource) = self.0.registry.get(&point) else { return Ok(views::why_missing(&point)) };
        let known = self.ask(|reply| Told::Why(point, reply)).await?;
        Ok(views::why(&resource, known))
    }

    /// How the nodes are.
    pub(super) async fn nodes(&self) -> Result<Vec<NodeLife>, Problem> {
        self.ask(Told::Nodes).await
    }

    /// Makes a token.
    pub(super) async fn make_token(&self, agent: &Agent, terms: Terms) -> Result<MadeToken, Problem> {
        let Terms { role, ttl_seconds, labels, name } = terms;
        let ttl = Duration::from_secs(ttl_seconds);
        if role == Role::Registry && !self.0.shared {
            let detail = "the registry of this mesh is a file of one node, so no other can serve it";
            return Err(Problem::new(Code::Usage, detail)
                .help("move it into etcd first, as `starlane registry migrate --help` says"));
        }
        let (token, info) =
            self.0.tokens.make(agent, gateway::TokenTerms { role, ttl, labels, name }).await?;
        Ok(MadeToken { token: token.reveal(), address: self.0.address.clone(), info })
    }

    /// The tokens that can still be used.
    pub(super) fn tokens(&self) -> Result<Vec<gateway::shapes::TokenInfo>, Problem> {
        self.0.tokens.list()
    }

    /// Takes a token back.
    pub(super) async fn delete_token(&self, agent: &Agent, id: &str) -> Result<(), Problem> {
        self.0.tokens.delete(agent, id).await
    }

    /// Shuts a node out, in all of its lives so far.
    pub(super) async fn revoke(&self, agent: &Agent, name: &NodeName) -> Result<(), Problem> {
        let Office { registry, by, identity, deciding, .. } = &*self.0;
        // Nobody is admitted here meanwhile; elsewhere nobody can be, since what was decided by is expected.
        let _one = deciding.lock().await;
        let point = mesh_point("nodes", name.as_str())?;
        registry.fresh().await?;
        let node = registry.get(&point).ok_or_else(|| {
            Problem::new(Code::NotFound, format!("no node is called `{name}`"))
                .help("see which there are: `starlane node list`")
        })?;
        if by.0 == point {
            let detail = format!("`{name}` keeps the registry and the authority of this mesh");
            let help = "it cannot shut itself out; only others can be";
            return Err(Problem::new(Code::Forbidden, detail).help(help));
        }
        let Generation(generation) = members::Record::of(&node).generation;
        let key = "generation"
            .parse()
            .map_err(|error: starlane_core::KeyError| Problem::new(Code::Internal, error.to_string()))?;
        let changes = vec![PropertyChange::Set { key, value: Value::Number(generation.into()), lock: false }];
        let revoked = Reserved::new(
            mesh_point("revoked", name.as_str())?,
            Kind::of(Base::Base),
            changes,
            Status::ready(),
        );
        let unchanged = Provided::At(point.clone(), node.modified);
        let marked = Reserved::new(
            point,
            Kind::of(Base::Node),
            members::revoked().into_iter().collect(),
            node.status.clone(),
        );
        registry.put_all_reserved_if(agent, vec![revoked, marked], Some(&unchanged)).await?;
        // This node does not wait to be told.
        let mut all: Revocations = (*identity.revocations()).clone();
        all.revoke(name.clone(), Generation(generation));
        let identity = identity.clone();
        let kept = tokio::task::spawn_blocking(move || identity.set_revoked(all)).await;
        match kept {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(super::membership::broken(error)),
            Err(error) => Err(Problem::new(Code::Internal, error.to_string())),
        }
    }

    async fn tell(&self, told: Told) -> Result<(), Problem> {
        let loop_ = self.0.told.read().clone().ok_or_else(not_leading)?;
        loop_.send(told).await.map_err(|_| not_leading())
    }

    async fn ask<T>(&self, told: impl FnOnce(oneshot::Sender<T>) -> Told) -> Result<T, Problem> {
        let (sender, answer) = oneshot::channel();
        self.tell(told(sender)).await?;
        answer.await.map_err(|_| not_leading())
    }

    /// Leads, until it is dropped or the registry is closed. `links` reach the other nodes, `hosting` this one; `provision`
    /// finishes installs that nobody goes on with. `provided` holds for as long as this node leads, and is expected of all that
    /// it writes. `former` is the node that led before.
    pub(super) async fn lead(
        self,
        provided: Option<Provided>,
        former: Option<NodeName>,
        links: Links,
        hosting: Hosting,
        provision: Provision,
    ) -> Result<(), Problem> {
        let (sender, mut told) = mpsc::channel(TOLD_MAX);
        let _seat = Seat::take(&self.0, sender.clone());
        let (me, home) = (links.me().clone(), links.home.clone());
        let now = Instant::now();
        let placement = Placement::new(Config::default(), home.clone(), now).led_by(me.clone(), former);
        // They end with this.
        let mut followers = JoinSet::new();
        let followed = [
            (NODES, Told::Node as fn(News) -> Told),
            (MECHTRONS, Told::Mechtron),
            (INSTALLING, Told::Install),
        ];
        for (selector, told) in followed {
            let mut follow = Follow::new(self.0.registry.clone(), selector)?;
            let sender = sender.clone();
            followers.spawn(async move {
                while let Some(news) = follow.next().await {
                    if sender.send(told(news)).await.is_err() {
                        return;
                    }
                }
            });
        }
        followers.spawn(watch_routes(links.clone(), sender.clone()));
        let mut term = Term {
            office: self.0.clone(),
            told: sender,
            provided,
            home,
            links,
            hosting,
            provision,
            installs: Installs::default(),
            me,
            placement,
            states: HashMap::new(),
            last_state: 0,
            moves: HashMap::new(),
            heard: HashMap::new(),
            listed: (false, false),
        };
        loop {
            let timeouts = [term.placement.poll_timeout(), term.installs.poll_timeout()];
            let timeout = timeouts.into_iter().flatten().min();
            let due = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = told.recv() => match told {
                    Some(told) => term.handle(told, Instant::now()),
                    None => return Ok(()),
                },
                () = due => term.look(Instant::now()),
            }
            while let Some(action) = term.placement.poll_action() {
                term.act(action);
            }
        }
    }
}

/// The loop can be told something while this is held.
struct Seat(Arc<Office>);

impl Seat {
    fn take(office: &Arc<Office>, told: mpsc::Sender<Told>) -> Self {
        *office.told.write() = Some(told);
        Self(office.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        *self.0.told.write() = None;
    }
}

fn not_leading() -> Problem {
    let mut problem = Problem::new(Code::NotReady, "the node that was asked does not lead the mesh")
        .help("another one does within seconds: try again");
    problem.retry_after = Some(2);
    problem
}

/// Tells of nodes that no way leads to any more.
async fn watch_routes(links: Links, told: mpsc::Sender<Told>) {
    let mut routes = links.map.watch();
    let mut reached: Vec<NodeName> = Vec::new();
    while routes.changed().await.is_ok() {
        let table = routes.borrow_and_update().clone();
        let reachable = table.members().iter().filter(|member| member.is_reachable());
        let now: Vec<NodeName> = reachable.map(|member| member.advert.name.clone()).collect();
        for name in reached.iter().filter(|name| !now.contains(name)) {
            if told.send(Told::Unreachable(name.clone())).await.is_err() {
                return;
            }
        }
        reached = now;
    }
}

/// Who waits until a mechtron lives elsewhere.
struct Asker {
    /// Where it lived.
    from: Option<NodeName>,
    reply: oneshot::Sender<Result<Placed, Problem>>,
}

/// The time in which a node leads.
struct Term {
    office: Arc<Office>,
    told: mpsc::Sender<Told>,
    /// What must hold for what is written.
    provided: Option<Provided>,
    home: NodeName,
    links: Links,
    hosting: Hosting,
    provision: Provision,
    installs: Installs,
    me: NodeName,
    placement: Placement,
    /// The states of mechtrons on their way, each until its resource has a newer epoch.
    states: HashMap<Handle, (Point, Epoch, Bytes)>,
    last_state: u64,
    /// Who waits until a mechtron lives on a node.
    moves: HashMap<(Point, NodeName), Vec<Asker>>,
    heard: HashMap<NodeName, (Instant, Load)>,
    /// Whether all nodes, and all mechtrons, were told.
    listed: (bool, bool),
}

impl Term {
    /// Some time has passed.
    fn look(&mut self, now: Instant) {
        self.placement.handle_timeout(now);
        for point in self.installs.handle_timeout(now) {
            let (provision, by) = (self.provision.clone(), self.office.by.clone());
            tokio::spawn(async move {
                tracing::info!(%point, "nobody goes on with its install: it is finished here");
                if let Err(problem) = provision.finish(&by, &point).await {
                    tracing::warn!(%point, "an install is not finished: {problem}");
                }
            });
        }
    }

    fn handle(&mut self, told: Told, now: Instant) {
        match told {
            Told::Heard(name, heard) => self.hear(&name, heard, now),
            Told::Node(News::Is { now: node, .. }) => self.placement.handle_node(&node, now),
            Told::Node(News::Gone(node)) => {
                if let Some(name) = NodeName::of_point(&node.point) {
                    self.heard.remove(&name);
                    self.placement.handle_node_removed(&name, now);
                }
            }
            Told::Mechtron(News::Is { now: resource, .. }) => {
                self.placement.handle_mechtron(&resource, now);
                let epoch = epoch_of(&resource);
                self.states.retain(|_, (point, of, _)| *point != resource.point || *of >= epoch);
            }
            Told::Mechtron(News::Gone(resource)) => {
                self.placement.handle_removed(&resource.point, now);
                self.states.retain(|_, (point, ..)| *point != resource.point);
            }
            Told::Node(News::Complete) => {
                self.listed.0 = true;
                self.check_listed(now);
            }
            Told::Mechtron(News::Complete) => {
                self.listed.1 = true;
                self.check_listed(now);
            }
            Told::Install(News::Is { now: resource, .. }) => self.installs.handle_open(&resource.point, now),
            Told::Install(News::Gone(resource)) => self.installs.handle_over(&resource.point),
            Told::Install(News::Complete) => {}
            Told::Unreachable(name) => self.placement.handle_unreachable(&name, now),
            Told::Move(point, to, reply) => self.begin_move(point, to, reply, now),
            // Who asked may have left.
            Told::Why(point, reply) => drop(reply.send(self.placement.why(&point, now))),
            Told::Nodes(reply) => drop(reply.send(self.nodes(now))),
            Told::Released(point, ticket, epoch, result) => {
                let handle = result.map(|state| state.map(|state| self.keep(&point, epoch, state)));
                self.placement.handle_released(&point, ticket, handle, now);
            }
            Told::Adopted(point, ticket, result) => {
                self.placement.handle_adopted(&point, ticket, result, now);
            }
            Told::Written(point, ticket, resource) => {
                self.placement.handle_written(&point, ticket, resource.as_deref(), now);
            }
            Told::NodeNotWritten(name) => self.placement.handle_node_not_written(&name, now),
        }
    }

    fn check_listed(&mut self, now: Instant) {
        if self.listed == (true, true) {
            self.placement.handle_listed(now);
        }
    }

    fn hear(&mut self, name: &NodeName, heard: Heard, now: Instant) {
        let Heard { generation, load, held, installing } = heard;
        let room = Room { live: load.live, queue: load.queue, ..Room::default() };
        if self.placement.handle_heard(name, generation, room, now) {
            self.heard.insert(name.clone(), (now, load));
            self.installs.handle_claimed(&installing, now);
            for (point, epoch) in held {
                // It may have been assigned anew since the node said so.
                let current = self.office.registry.get(&point);
                if current.is_some_and(|resource| epoch_of(&resource) <= epoch) {
                    self.placement.handle_held(name, &point, now);
                }
            }
        }
    }

    fn nodes(&self, now: Instant) -> Vec<NodeLife> {
        let Ok(nodes) = NODES.parse() else { return Vec::new() };
        let Ok(nodes) = self.office.registry.select(&nodes, usize::MAX, None) else { return Vec::new() };
        let names = nodes.resources.iter().filter_map(|node| NodeName::of_point(&node.point));
        names
            .map(|name| {
                let heard = self.heard.get(&name);
                let seen = heard.map(|(at, _)| now.saturating_duration_since(*at).as_millis());
                NodeLife {
                    alive: self.placement.life(&name) == Some(Life::Alive),
                    assigned: self.placement.assigned(&name) as u64,
                    load: heard.map(|(_, load)| *load).unwrap_or_default(),
                    seen_ms: seen.map(|seen| u64::try_from(seen).unwrap_or(u64::MAX)),
                    name,
                }
            })
            .collect()
    }

    fn keep(&mut self, point: &Point, epoch: Epoch, state: Bytes) -> Handle {
        self.last_state += 1;
        let handle = Handle(self.last_state);
        self.states.insert(handle, (point.clone(), epoch, state));
        handle
    }

    fn begin_move(
        &mut self,
        point: Point,
        to: NodeName,
        reply: oneshot::Sender<Result<Placed, Problem>>,
        now: Instant,
    ) {
        let lives =
            self.office.registry.get(&point).and_then(|resource| views::lives_on(&resource, &self.home));
        match self.placement.move_to(&point, &to, now) {
            Ok(()) => {
                let waiting = self.moves.entry((point, to)).or_default();
                waiting.retain(|asker| !asker.reply.is_closed());
                waiting.push(Asker { from: lives, reply });
            }
            // Who asked may have left.
            Err(error) => drop(reply.send(Err(not_moved(&error, &point, &to)))),
        }
    }

    fn end_move(&mut self, point: Point, to: NodeName, result: Result<(), MoveError>) {
        let epoch = self.office.registry.get(&point).map(|resource| epoch_of(&resource)).unwrap_or_default();
        for Asker { from, reply } in self.moves.remove(&(point.clone(), to.clone())).unwrap_or_default() {
            let answer = match &result {
                Ok(()) => Ok(Placed { from, epoch }),
                Err(error) => Err(not_moved(error, &point, &to)),
            };
            // Who asked may have left.
            _ = reply.send(answer);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::SetNodeStatus { node, status } => self.set_node_status(node, status),
            Action::Release { ticket, point, from, epoch, within } => {
                self.release(ticket, point, from, epoch, within);
            }
            Action::Adopt { ticket, point, to, epoch, handle, .. } => {
                let state =
                    handle.and_then(|handle| self.states.get(&handle)).map(|(_, _, state)| state.clone());
                self.adopt(ticket, point, to, epoch, state);
            }
            Action::Assign { ticket, point, nodes, epoch, expect, status } => {
                let assignment = Assignment { nodes, epoch };
                self.write(ticket, point, Some(assignment), status, expect);
            }
            Action::SetStatus { ticket, point, status, expect } => {
                self.write(ticket, point, None, Some(status), expect);
            }
            Action::MoveDone { point, to, result } => self.end_move(point, to, result),
            Action::DrainDone(name) => tracing::info!(%name, "nothing lives on the draining node any more"),
        }
    }

    fn set_node_status(&self, node: NodeName, status: Status) {
        let (office, told, provided) = (self.office.clone(), self.told.clone(), self.provided.clone());
        tokio::spawn(async move {
            let Some(point) = node.point() else { return };
            let written =
                office.registry.assign(&office.by, &point, None, Some(&status), None, provided.as_ref());
            if let Err(error) = written.await {
                tracing::warn!(%node, "the status of a node is not written: {error}");
                // The loop ends with the node, or with its time.
                _ = told.send(Told::NodeNotWritten(node)).await;
            }
        });
    }

    fn release(&self, ticket: Ticket, point: Point, from: NodeName, epoch: Epoch, within: Duration) {
        let (told, links, hosting) = (self.told.clone(), self.links.clone(), self.hosting.clone());
        let is_here = from == self.me;
        tokio::spawn(async move {
            let released = if is_here {
                hosting.release(&point, epoch, within).await
            } else {
                let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                let ask = HostAsk::Release { point: point.clone(), epoch, within_ms };
                let answer = links.ask::<bool>(&from, HOST, &ask, &[], within + HAND_OVER).await;
                answer.map(|(is_there, state)| is_there.then_some(state))
            };
            let result = released.map_err(|problem| problem.detail);
            if let Err(why) = &result {
                tracing::warn!(%point, %from, "a mechtron does not leave its node: {why}");
            }
            // The loop ends with the node, or with its time.
            _ = told.send(Told::Released(point, ticket, epoch, result)).await;
        });
    }

    fn adopt(&self, ticket: Ticket, point: Point, to: NodeName, epoch: Epoch, state: Option<Bytes>) {
        let (told, links, hosting) = (self.told.clone(), self.links.clone(), self.hosting.clone());
        let is_here = to == self.me;
        tokio::spawn(async move {
            let adopted = if is_here {
                hosting.adopt(&point, epoch, state).await
            } else {
                let ask = HostAsk::Adopt { point: point.clone(), epoch, state: state.is_some() };
                let state = state.unwrap_or_default();
                links.ask::<()>(&to, HOST, &ask, &state, HAND_OVER).await.map(drop)
            };
            let result = adopted.map_err(|problem| problem.detail);
            if let Err(why) = &result {
                tracing::warn!(%point, %to, "a node does not take a mechtron over: {why}");
            }
            // The loop ends with the node, or with its time.
            _ = told.send(Told::Adopted(point, ticket, result)).await;
        });
    }

    fn write(
        &self,
        ticket: Ticket,
        point: Point,
        assignment: Option<Assignment>,
        status: Option<Status>,
        expect: starlane_core::Revision,
    ) {
        let (office, told, provided) = (self.office.clone(), self.told.clone(), self.provided.clone());
        tokio::spawn(async move {
            let (assignment, status) = (assignment.as_ref(), status.as_ref());
            let written = office.registry.assign(
                &office.by,
                &point,
                assignment,
                status,
                Some(expect),
                provided.as_ref(),
            );
            let resource = written.await.inspect_err(|error| {
                tracing::debug!(%point, "where a mechtron lives is not written: {error}");
            });
            // The loop ends with the node, or with its time.
            _ = told.send(Told::Written(point, ticket, resource.ok())).await;
        });
    }
}

fn not_moved(error: &MoveError, point: &Point, to: &NodeName) -> Problem {
    let code = match error {
        MoveError::NoMechtron | MoveError::NoNode => Code::NotFound,
        MoveError::Replicated | MoveError::Refused(_) => Code::Usage,
    };
    Problem::new(code, format!("`{point}` does not move to `{to}`: {error}"))
        .at(point)
        .help(format!("`starlane why {point}` says what may be where"))
}
