//! The node as its doors see it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use gateway::shapes::{
    Create, CreateMode, Created, Deleted, Description, ExecProblem, Graph, GraphNode, Info, LogLine, Moved,
    NodeInfo, NodePatch, Output, Page, Published, Route, Token, TokenInfo, Why,
};
use gateway::{
    Content, Expect, Freshness, Gathering, Mesh, Scatter, Selection, SpaceState, TokenTerms, Upload,
};
use mechtron_host::{Host, State};
use resource_registry::{BlobStore, Delete, Limits, Registry, bundle, files};
use starlane_core::{
    Agent, Blob, Code, Event, Generation, Message, MessageId, NodeName, Outcome, Point, Problem,
    PropertyChange, Resource, ResumeToken, Revision, Role, Selector, Target,
};

use super::commands::{Commands, told};
use super::ids::Ids;
use super::metrics;
use super::provision::Provision;
use super::router::{Router, has_code};

/// How many children a description lists.
const CHILDREN_MAX: usize = 100;

/// The node as its doors see it.
pub(super) struct NodeMesh {
    pub(super) registry: Registry,
    pub(super) blobs: BlobStore,
    pub(super) host: Host,
    pub(super) artifacts: super::artifacts::Artifacts,
    pub(super) provision: Provision,
    pub(super) router: Router,
    pub(super) commands: Commands,
    pub(super) ids: Arc<Ids>,
    pub(super) node: Point,
    pub(super) name: NodeName,
    pub(super) info: Info,
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

    async fn scatter(&self, _agent: Agent, _scatter: Scatter) -> Result<Gathering, Problem> {
        Err(no_links())
    }

    // One node alone keeps the registry: what it last heard is all there is.
    async fn get(&self, _agent: Agent, point: Point, _freshness: Freshness) -> Result<Resource, Problem> {
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
        _freshness: Freshness,
    ) -> Result<Page, Problem> {
        let selector: Selector = selection.selector.parse()?;
        let page = self.registry.select(&selector, selection.limit, selection.cursor.as_deref())?;
        Ok(Page { resources: page.resources, revision: page.revision, next: page.next })
    }

    async fn describe(
        &self,
        _agent: Agent,
        point: Point,
        _freshness: Freshness,
    ) -> Result<Description, Problem> {
        let resource = self.commands.get(&point)?;
        let mut children = self.registry.children(&point, CHILDREN_MAX + 1);
        let more = children.len() > CHILDREN_MAX;
        children.truncate(CHILDREN_MAX);
        let (mut contract, mut activation) = (None, None);
        if has_code(&resource) {
            if let Some(source) = resource.point_property("wasm.src") {
                contract = Some(self.artifacts.module(&source).await?.contract().json().clone());
            }
            activation = self.host.info(&point).await.map(activation_json);
        }
        Ok(Description { resource: (*resource).clone(), children, more, contract, activation })
    }

    async fn watch(
        &self,
        _agent: Agent,
        selector: String,
        since: Option<ResumeToken>,
        _freshness: Freshness,
    ) -> Result<BoxStream<'static, (Event, ResumeToken)>, Problem> {
        let selector: Selector = selector.parse()?;
        let watch = self.registry.watch(&selector, since)?;
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
        let resource = self.commands.get(&point)?;
        if !has_code(&resource) {
            return Err(
                Problem::new(Code::Usage, format!("`{resource}` has no code, so it logs nothing")).at(&point)
            );
        }
        let lines = self.host.logs(&point, tail, follow);
        Ok(stream::unfold(lines, |mut lines| async move {
            lines.next().await.map(|line| (log_line(line), lines))
        })
        .boxed())
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
            Some(resource) if resource.property("bind").is_none() && !has_code(&resource) => {
                SpaceState::NoBind
            }
            Some(resource) => match self.artifacts.bind_of(&resource).await {
                Ok(_) => SpaceState::Ready,
                Err(refusal) => SpaceState::BadBind { reason: refusal.detail.to_string() },
            },
        }
    }

    async fn nodes(&self, _agent: Agent) -> Result<Vec<NodeInfo>, Problem> {
        let stats = self.host.stats();
        let own = self.registry.get(&self.node).ok_or_else(no_links)?;
        let labels = own.properties.iter();
        let labels =
            labels.map(|(key, property)| (key.as_str().to_owned(), property.value.to_string())).collect();
        Ok(vec![NodeInfo {
            name: self.name.clone(),
            point: self.node.clone(),
            ready: true,
            status: own.status.clone(),
            role: Role::Relay,
            generation: Generation(0),
            version: self.info.version.clone(),
            mechtrons: stats.known,
            live: stats.live,
            hops: Some(0),
            draining: false,
            registry: true,
            addresses: Vec::new(),
            seen_ms: Some(0),
            labels,
        }])
    }

    async fn patch_node(
        &self,
        _agent: Agent,
        _name: NodeName,
        _patch: NodePatch,
    ) -> Result<NodeInfo, Problem> {
        Err(no_links())
    }

    async fn revoke(&self, _agent: Agent, _name: NodeName) -> Result<(), Problem> {
        Err(no_links())
    }

    async fn graph(&self, _agent: Agent) -> Result<Graph, Problem> {
        let own = GraphNode { name: self.name.clone(), role: Role::Relay, hops: Some(0), seen_ms: Some(0) };
        Ok(Graph { from: self.name.clone(), nodes: vec![own], links: Vec::new() })
    }

    async fn new_token(&self, _agent: Agent, _terms: TokenTerms) -> Result<Token, Problem> {
        Err(no_links())
    }

    async fn tokens(&self, _agent: Agent) -> Result<Vec<TokenInfo>, Problem> {
        Ok(Vec::new())
    }

    async fn delete_token(&self, _agent: Agent, _id: String) -> Result<(), Problem> {
        Err(no_links())
    }

    async fn trace(&self, _agent: Agent, _point: Point, _timeout: Duration) -> Result<Route, Problem> {
        Err(no_links())
    }

    async fn why(&self, _agent: Agent, _point: Point) -> Result<Why, Problem> {
        Err(no_links())
    }

    async fn move_to(
        &self,
        _agent: Agent,
        _point: Point,
        _to: NodeName,
        _timeout: Duration,
    ) -> Result<Moved, Problem> {
        Err(no_links())
    }

    fn info(&self) -> Info {
        self.info.clone()
    }

    fn ready(&self) -> Result<(), Problem> {
        self.registry.writable().map_err(Problem::from)
    }

    fn metrics(&self, text: &mut String) {
        metrics::write(text, &self.registry, &self.host);
    }
}

fn no_links() -> Problem {
    Problem::new(Code::Unsupported, "this node has no links yet")
}

fn log_line(line: mechtron_host::Line) -> LogLine {
    let level = match line.level {
        ..=1 => "error",
        2 => "warn",
        3 => "info",
        4 => "debug",
        _ => "trace",
    };
    LogLine { time: line.time, level: level.to_owned(), point: line.point, line: line.line, trace: None }
}

fn activation_json(info: mechtron_host::Info) -> serde_json::Value {
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
    json
}
