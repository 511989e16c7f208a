//! The node as its doors see it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use gateway::portal::{Order, Seat, Subscription};
use gateway::shapes::{
    Create, CreateMode, Created, DeadLetterList, Deleted, Description, Diff, ExecProblem, Graph, History,
    Info, LogLine, Moved, NodeInfo, NodePatch, Output, Page, Published, Route, Token, TokenInfo, Why,
    WhyState,
};
use gateway::{
    Comparison, Content, Expect, Freshness, Gathering, Mesh, Scatter, Selection, Socket, Sockets, SpaceState,
    TokenTerms, Upload,
};
use mechtron_host::{State, Watched};
use resource_registry::{BlobStore, Delete, Limits, LogOf, Registry, bundle, files};
use starlane_core::{
    Agent, Blob, Code, Event, Kind, Message, MessageId, NodeName, Outcome, Point, Problem, PropertyChange,
    Query, Resource, ResumeToken, Revision, Selector, Target,
};
use tokio::sync::mpsc;

use super::commands::{Commands, not_found, told};
use super::fresh::{latest, there};
use super::genesis::mesh_point;
use super::homes::Home;
use super::ids::{self, Ids};
use super::members::{self, NODES};
use super::provision::Provision;
use super::reach::Reach;
use super::router::{Router, has_code};
use super::services::{MadeToken, NodeLife, Placed};
use super::serving::{Serving, is_served};
use super::watching::how_far;
use super::{gather, metrics, sampled, views};

/// How many children a description lists.
const CHILDREN_MAX: usize = 100;

/// The node as its doors see it.
pub(super) struct NodeMesh {
    pub(super) registry: Registry,
    pub(super) blobs: BlobStore,
    pub(super) artifacts: super::artifacts::Artifacts,
    pub(super) provision: Provision,
    pub(super) router: Router,
    pub(super) commands: Commands,
    pub(super) ids: Arc<Ids>,
    pub(super) reach: Reach,
    pub(super) serving: Serving,
    pub(super) sockets: Sockets,
    pub(super) info: Info,
}

impl NodeMesh {
    /// Waits until what is read holds all that it must.
    async fn fresh(&self, freshness: Freshness) -> Result<(), Problem> {
        match freshness {
            Freshness::Stale => Ok(()),
            Freshness::Latest => latest(&self.registry).await,
        }
    }

    /// The resource at a point, by what is known here or can be asked.
    async fn find(&self, point: &Point) -> Result<Arc<Resource>, Problem> {
        there(&self.registry, point).await
    }

    /// How the nodes are, as far as the leader can be asked now.
    async fn lives(&self) -> Vec<NodeLife> {
        self.reach.nodes().await.unwrap_or_default()
    }
}

impl Mesh for NodeMesh {
    fn new_message_id(&self) -> MessageId {
        self.ids.next()
    }

    async fn request(&self, message: Message) -> Outcome {
        self.router.request(message).await
    }

    async fn send(&self, message: Message) -> Result<MessageId, Problem> {
        let id = message.header.id;
        self.router.send(message).await?;
        Ok(id)
    }

    fn socket(&self) -> Result<Socket, Problem> {
        let id =
            ids::random().map_err(|error| Problem::new(Code::Internal, format!("no randomness: {error}")))?;
        Ok(self.sockets.open(id)?)
    }

    async fn upgrade(&self, message: Message) -> (Outcome, Point) {
        self.router.upgrade(message).await
    }

    fn seat(&self) -> (Seat, mpsc::Receiver<Order>) {
        self.serving.pools().seat()
    }

    async fn serve(&self, agent: Agent, point: Point, kind: Option<Kind>, seat: Seat) -> Result<(), Problem> {
        if let Some(kind) = kind {
            let (mode, target) = (starlane_core::CreateMode::Ensure, Target::Point(point.clone()));
            self.provision.create(&agent, mode, target, kind, Vec::new()).await?;
        }
        let resource = self.find(&point).await?;
        if has_code(&resource) {
            let detail = format!("`{resource}` has code of its own, which its messages go to");
            return Err(Problem::new(Code::Usage, detail).at(&point).help("serve a point of your own"));
        }
        seat.join(&point)?;
        let written = self.serving.settle(&point).await;
        if written.is_err() {
            seat.leave(&point);
        }
        written
    }

    async fn publish_event(&self, message: Message) -> Result<(), Problem> {
        let topic = self.find(&message.header.to).await?;
        self.serving.publish(&topic, message);
        Ok(())
    }

    async fn subscribe(&self, _agent: Agent, topic: Point) -> Result<Subscription, Problem> {
        self.find(&topic).await?;
        let subscription = self.serving.topics().subscribe(&topic)?;
        self.serving.settle(&topic).await?;
        Ok(subscription)
    }

    async fn exec(&self, agent: Agent, script: String) -> Result<Vec<Output>, ExecProblem> {
        self.commands.exec(&agent, &script).await
    }

    async fn create(&self, agent: Agent, create: Create) -> Result<Created, Problem> {
        let target = Target::read(&create.point)?;
        let changes = create.properties.into_iter().map(|(key, value)| {
            let lock = create.locked.contains(&key);
            PropertyChange::Set { key, value, lock }
        });
        let mode = match create.mode {
            CreateMode::New => starlane_core::CreateMode::New,
            CreateMode::Ensure => starlane_core::CreateMode::Ensure,
            CreateMode::Override => starlane_core::CreateMode::Override,
        };
        let created = self.provision.create(&agent, mode, target, create.kind, changes.collect()).await?;
        Ok(told(&created))
    }

    async fn scatter(&self, agent: Agent, scatter: Scatter) -> Result<Gathering, Problem> {
        // When the registry is out of reach, those are asked that are known here.
        _ = self.registry.fresh().await;
        gather::scatter(&self.registry, &self.router, &self.reach.homes, &self.ids, &agent, scatter)
    }

    async fn get(&self, _agent: Agent, point: Point, freshness: Freshness) -> Result<Resource, Problem> {
        self.fresh(freshness).await?;
        self.commands.get(&point).map(|resource| (*resource).clone())
    }

    async fn patch(
        &self,
        agent: Agent,
        point: Point,
        changes: Vec<PropertyChange>,
        expect: Option<Revision>,
    ) -> Result<Resource, Problem> {
        self.provision.set(&agent, &point, changes, expect).await.map(|resource| (*resource).clone())
    }

    async fn delete(
        &self,
        agent: Agent,
        point: Point,
        recursive: bool,
        expect: Option<Revision>,
    ) -> Result<Vec<Deleted>, Problem> {
        self.provision.delete(&agent, Delete { expect, ..Delete::point(point, recursive) }).await
    }

    async fn select(
        &self,
        _agent: Agent,
        selection: Selection,
        freshness: Freshness,
    ) -> Result<Page, Problem> {
        self.fresh(freshness).await?;
        let selector: Selector = selection.selector.parse()?;
        let (limit, cursor) = (selection.limit, selection.cursor.as_deref());
        let page = match selection.at {
            // What is measured now was not measured then.
            None => sampled::select(&self.registry, &self.reach, &selector, limit, cursor).await?,
            Some(when) => {
                let at = self.registry.revision_at(when).await?;
                self.registry.select_at(&selector, at, limit, cursor).await?
            }
        };
        Ok(Page { resources: page.resources, revision: page.revision, next: page.next })
    }

    async fn history(&self, _agent: Agent, point: Point, limit: usize) -> Result<History, Problem> {
        latest(&self.registry).await?;
        let log = self.registry.log(LogOf::Point(point.clone()), limit).await?;
        if log.is_empty() && self.registry.get(&point).is_none() {
            return Err(not_found(&self.registry, &point));
        }
        let oldest = Revision(self.registry.revisions().oldest.0.saturating_sub(1));
        Ok(History { point, entries: log.into_iter().filter_map(views::history_entry).collect(), oldest })
    }

    async fn backup(&self, _agent: Agent) -> Result<Upload, Problem> {
        let bytes = self.registry.backup().await?;
        Ok(bytes.map(|chunk| chunk.map_err(Problem::from)).boxed())
    }

    async fn diff(&self, _agent: Agent, comparison: Comparison) -> Result<Diff, Problem> {
        latest(&self.registry).await?;
        let selector: Selector = comparison.selector.parse()?;
        let from = self.registry.revision_at(comparison.from).await?;
        let to = match comparison.to {
            Some(when) => self.registry.revision_at(when).await?,
            None => self.registry.revision(),
        };
        let cursor = comparison.cursor.as_deref();
        let diff = self.registry.diff(&selector, from, to, comparison.limit, cursor).await?;
        let differences = diff.changes.into_iter().map(views::difference).collect();
        Ok(Diff { differences, from, to, next: diff.next })
    }

    async fn describe(
        &self,
        _agent: Agent,
        point: Point,
        freshness: Freshness,
    ) -> Result<Description, Problem> {
        self.fresh(freshness).await?;
        let resource = self.commands.get(&point)?;
        let mut children = self.registry.children(&point, CHILDREN_MAX + 1);
        let more = children.len() > CHILDREN_MAX;
        children.truncate(CHILDREN_MAX);
        let (mut contract, mut activation) = (None, None);
        if has_code(&resource) {
            if let Some(source) = resource.point_property("wasm.src") {
                contract = Some(self.artifacts.module(&source).await?.contract().json().clone());
            }
            // What its node does not tell is left out.
            activation = self.reach.info(&resource).await.unwrap_or_default();
        }
        Ok(Description { resource: (*resource).clone(), children, more, contract, activation })
    }

    async fn watch(
        &self,
        _agent: Agent,
        query: String,
        since: Option<ResumeToken>,
        freshness: Freshness,
    ) -> Result<BoxStream<'static, (Event, ResumeToken)>, Problem> {
        let query: Query = query.parse()?;
        self.fresh(freshness).await?;
        let watch = self.registry.watch_query(&query, since).await?;
        Ok(stream::unfold(watch, |mut watch| async move {
            let event = watch.next().await?;
            let token = watch.token();
            Some(((event, token), watch))
        })
        .boxed())
    }

    async fn logs(
        &self,
        _agent: Agent,
        point: Point,
        tail: usize,
        follow: bool,
    ) -> Result<BoxStream<'static, LogLine>, Problem> {
        let resource = self.find(&point).await?;
        if !has_code(&resource) {
            return Err(
                Problem::new(Code::Usage, format!("`{resource}` has no code, so it logs nothing")).at(&point)
            );
        }
        self.reach.logs(&resource, tail, follow).await
    }

    async fn publish(&self, agent: Agent, point: Point, body: Upload) -> Result<Published, Problem> {
        let published =
            bundle::publish(&self.registry, &self.blobs, &agent, &point, body, &Limits::default()).await?;
        Ok(Published {
            bundle: (*published.bundle).clone(),
            artifacts: published.artifacts,
            bytes: published.bytes,
        })
    }

    async fn write_file(
        &self,
        agent: Agent,
        point: Point,
        body: Upload,
        expect: Expect,
    ) -> Result<Content, Problem> {
        let expect = match expect {
            Expect::Any => files::Expect::Any,
            Expect::Absent => files::Expect::Absent,
            Expect::Present(tags) => files::Expect::Present(tags),
        };
        files::write(&self.registry, &self.blobs, &agent, &point, body, expect).await?;
        self.content(agent, point).await
    }

    async fn content(&self, _agent: Agent, point: Point) -> Result<Content, Problem> {
        latest(&self.registry).await?;
        let content = files::open(&self.registry, &point)?;
        Ok(Content {
            blob: content.blob,
            content_type: content.content_type,
            etag: content.etag,
            modified: content.modified,
        })
    }

    async fn blob(
        &self,
        blob: Blob,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Problem>>, Problem> {
        let (stream, _) = self.blobs.get(&blob, Some(range)).await?;
        Ok(stream)
    }

    async fn space(&self, space: Point) -> SpaceState {
        match self.registry.get(&space) {
            None => SpaceState::Missing,
            Some(resource)
                if resource.property("bind").is_none() && !has_code(&resource) && !is_served(&resource) =>
            {
                SpaceState::NoBind
            }
            Some(resource) => match self.artifacts.bind_of(&resource).await {
                Ok(_) => SpaceState::Ready,
                Err(refusal) => SpaceState::BadBind { reason: refusal.detail.to_string() },
            },
        }
    }

    async fn nodes(&self, _agent: Agent) -> Result<Vec<NodeInfo>, Problem> {
        let lives = self.lives().await;
        let routes = self.reach.links.map.routes();
        let nodes = self.registry.select(&NODES.parse()?, usize::MAX, None)?.resources;
        let infos = nodes.iter().filter_map(|node| {
            let life = lives.iter().find(|life| node.point.last() == life.name.as_str());
            views::node(node, &routes, life, &self.reach.links.home)
        });
        Ok(infos.collect())
    }

    async fn patch_node(&self, agent: Agent, name: NodeName, patch: NodePatch) -> Result<NodeInfo, Problem> {
        let point = mesh_point("nodes", name.as_str())?;
        let node = self
            .find(&point)
            .await
            .map_err(|problem| problem.help("see which there are: `starlane node list`"))?;
        let NodePatch { labels, draining } = patch;
        let labels = labels.iter().map(|(key, value)| (key, value.as_deref()));
        let mut changes = members::label_changes(labels)?;
        changes.extend(draining.and_then(members::draining));
        members::write(&self.registry, &agent, point.clone(), changes, node.status.clone()).await?;
        let nodes = self.nodes(agent).await?;
        nodes
            .into_iter()
            .find(|node| node.name == name)
            .ok_or_else(|| Problem::new(Code::NotFound, format!("no node is called `{name}`")))
    }

    async fn revoke(&self, agent: Agent, name: NodeName) -> Result<(), Problem> {
        self.reach.revoke(agent, name).await
    }

    async fn graph(&self, _agent: Agent) -> Result<Graph, Problem> {
        let lives = self.lives().await;
        Ok(views::graph(self.reach.homes.me(), &self.reach.links.map.routes(), &lives))
    }

    async fn new_token(&self, agent: Agent, terms: TokenTerms) -> Result<Token, Problem> {
        let MadeToken { token, address, info } = self.reach.make_token(agent, terms).await?;
        Ok(Token { token, address, info })
    }

    async fn tokens(&self, _agent: Agent) -> Result<Vec<TokenInfo>, Problem> {
        self.reach.tokens().await
    }

    async fn delete_token(&self, agent: Agent, id: String) -> Result<(), Problem> {
        self.reach.delete_token(agent, id).await
    }

    async fn trace(&self, _agent: Agent, point: Point, timeout: Duration) -> Result<Route, Problem> {
        let resource = self.find(&point).await?;
        let (links, me) = (&self.reach.links, self.reach.homes.me());
        let home = match is_served(&resource) && !has_code(&resource) {
            true => self.serving.home(&resource).unwrap_or(Home::Nowhere),
            false => self.reach.homes.of(&resource),
        };
        let node = match home {
            _ if !has_code(&resource) && !is_served(&resource) => {
                // Content is read on the node that is asked, and a bind is walked there.
                return Ok(views::route(&point, me, &[], |_| None));
            }
            Home::Here => return Ok(views::route(&point, me, &[], |_| None)),
            Home::There(node) => node,
            Home::Nowhere => {
                let reason = format!("it lives on no node: `starlane why {point}` says why");
                return Ok(views::route_broken(&point, me, &[], reason));
            }
        };
        match links.handle.trace(node.id(), timeout).await {
            Ok(hops) => Ok(views::route(&point, me, &hops, |id| links.name_of(id))),
            Err(refusal) => {
                let path = links.map.routes().path(node.id()).unwrap_or_default();
                let known: Vec<_> = path.into_iter().filter_map(|id| links.name_of(id)).collect();
                Ok(views::route_broken(&point, me, &known, format!("`{node}` is not reached: {refusal}")))
            }
        }
    }

    async fn dead_letters(&self, _agent: Agent, space: Point) -> Result<DeadLetterList, Problem> {
        let resource = self.find(&space).await?;
        if space.parent().is_none_or(|above| !above.is_root()) {
            let detail = format!("`{resource}` is inside a space, and dead letters are kept by space");
            let own = space.space().unwrap_or_default();
            return Err(Problem::new(Code::Usage, detail)
                .at(&space)
                .help(format!("`starlane dead-letters {own}` shows those of `{own}`")));
        }
        Ok(self.reach.dead_letters(space.as_str()).await)
    }

    async fn why(&self, _agent: Agent, point: Point) -> Result<Why, Problem> {
        let mut why = self.reach.why(point.clone()).await?;
        if why.state != WhyState::Placed {
            return Ok(why);
        }
        let Some(resource) = self.registry.get(&point) else { return Ok(why) };
        match self.reach.info(&resource).await {
            Ok(info) => {
                let state = info.as_ref().and_then(|info| info["state"].as_str()).unwrap_or("sleeping");
                why.state = match state {
                    "live" | "starting" => WhyState::Running,
                    "failed" => WhyState::Failed,
                    _ => WhyState::Sleeping,
                };
            }
            Err(problem) => {
                why.reason = format!("{}; but its node does not answer: {}", why.reason, problem.detail);
                why.help.get_or_insert_with(|| format!("see where the way ends: `starlane trace {point}`"));
            }
        }
        Ok(why)
    }

    async fn move_to(
        &self,
        _agent: Agent,
        point: Point,
        to: NodeName,
        timeout: Duration,
    ) -> Result<Moved, Problem> {
        let Placed { from, epoch } = self.reach.move_to(point.clone(), to.clone(), timeout).await?;
        Ok(Moved { point, node: to, from, epoch })
    }

    fn info(&self) -> Info {
        self.info.clone()
    }

    fn ready(&self) -> Result<(), Problem> {
        self.registry.writable().map_err(Problem::from)
    }

    fn metrics(&self, text: &mut String) {
        metrics::write(text, &self.registry, &self.reach);
    }
}

pub(super) fn log_line(line: mechtron_host::Line) -> LogLine {
    let level = match line.level {
        ..=1 => "error",
        2 => "warn",
        3 => "info",
        4 => "debug",
        _ => "trace",
    };
    LogLine { time: line.time, level: level.to_owned(), point: line.point, line: line.line, trace: None }
}

pub(super) fn activation_json(info: mechtron_host::Info) -> serde_json::Value {
    let state = match info.state {
        State::Starting => "starting",
        State::Live => "live",
        State::Sleeping => "sleeping",
        State::Failed => "failed",
        State::Elsewhere => "elsewhere",
    };
    let mut json = serde_json::json!({
        "state": state,
        "shard": info.shard,
        "queue": info.queue,
        "handled": info.handled,
        "restarts": info.restarts,
        "memoryBytes": info.memory_bytes,
        "stateBytes": info.state_bytes,
    });
    if let Some(reason) = info.reason {
        json["reason"] = reason.into();
    }
    if !info.watches.is_empty() {
        json["watches"] = info.watches.iter().map(watched_json).collect();
    }
    json
}

fn watched_json(watched: &Watched) -> serde_json::Value {
    let mut json = serde_json::json!({ "name": *watched.name, "selector": *watched.selector });
    if let Some(place) = &watched.place {
        json["told"] = how_far(place);
    }
    if watched.failures > 0 {
        json["failures"] = watched.failures.into();
    }
    json
}
