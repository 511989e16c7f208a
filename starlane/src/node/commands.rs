//! What the statements of the language do on this node.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use gateway::shapes::{CreateOutcome, Created, Data, Deleted, ExecProblem, Output};
use resource_registry::{BlobStore, Delete, Registry, files};
use starlane_core::{
    Agent, Bindings, Body, Call, Code, Command, DeleteTarget, Header, Headers, Message, Outcome, Payload,
    Point, Problem, PropertyChange, Request, Resource, Revision, Script,
};

use super::fresh::latest;
use super::ids::Ids;
use super::provision::Provision;
use super::reach::Reach;
use super::router::Router;
use super::sampled;

/// How many resources a statement lists; who wants more pages through the API.
const LISTED_MAX: usize = 1_000;
/// The longest content that is shown as the answer of a statement.
const SHOWN_BYTES_MAX: u64 = 1024 * 1024;
/// How long `request` waits.
const REQUEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// Carries out statements, each on somebody's authority.
#[derive(Clone)]
pub(super) struct Commands {
    registry: Registry,
    blobs: BlobStore,
    provision: Provision,
    router: Router,
    reach: Reach,
    ids: Arc<Ids>,
}

impl Commands {
    pub(super) fn new(
        registry: Registry,
        blobs: BlobStore,
        provision: Provision,
        router: Router,
        reach: Reach,
        ids: Arc<Ids>,
    ) -> Self {
        Self { registry, blobs, provision, router, reach, ids }
    }

    /// Runs the statements of a script in order; the first that fails stops it.
    pub(super) async fn exec(&self, agent: &Agent, text: &str) -> Result<Vec<Output>, ExecProblem> {
        let script = Script::parse(text)?;
        let bindings = Bindings::default();
        let mut done = Vec::new();
        for statement in &script.statements {
            let ran = match statement.resolve(&bindings) {
                Ok(command) => self.run(agent, command).await,
                Err(problem) => Err(problem),
            };
            match ran {
                Ok(output) => done.push(output),
                Err(problem) => return Err(ExecProblem { problem: statement.locate(problem), done }),
            }
        }
        Ok(done)
    }

    async fn run(&self, agent: &Agent, command: Command) -> Result<Output, Problem> {
        if matches!(command, Command::Get { .. } | Command::Select(_) | Command::Read(_)) {
            latest(&self.registry).await?;
        }
        match command {
            Command::Create { mode, target, kind, changes } => {
                let created = self.provision.create(agent, mode, target, kind, changes).await?;
                let Created { resource, outcome } = told(&created);
                Ok(Output::Created { resource, outcome })
            }
            Command::Set { point, changes } => {
                let resource = self.set(agent, &point, changes, None).await?;
                Ok(Output::Resource { resource: (*resource).clone() })
            }
            Command::Get { point, keys } if keys.is_empty() => {
                Ok(Output::Resource { resource: (*self.get(&point)?).clone() })
            }
            Command::Get { point, keys } => {
                let resource = self.get(&point)?;
                let wanted = resource.properties.iter().filter(|(key, _)| keys.contains(key));
                let properties = wanted.map(|(key, property)| (key.clone(), property.clone())).collect();
                Ok(Output::Properties { point, properties })
            }
            Command::Select(selector) => {
                let page = sampled::select(&self.registry, &self.reach, &selector, LISTED_MAX, None).await?;
                Ok(Output::List { resources: page.resources, revision: page.revision, next: page.next })
            }
            Command::Delete { target, recursive } => {
                let deleted = match target {
                    DeleteTarget::Point(point) => {
                        self.provision.delete(agent, Delete::point(point, recursive)).await?
                    }
                    DeleteTarget::Selector(selector) => {
                        self.provision.delete(agent, Delete::selector(selector, recursive)).await?
                    }
                };
                Ok(Output::Deleted { deleted })
            }
            Command::Read(point) => self.read(point).await,
            Command::Write { point, content } => {
                let content = Bytes::from(content);
                let body = futures::stream::once(async { Ok(content) }).boxed();
                let resource =
                    files::write(&self.registry, &self.blobs, agent, &point, body, files::Expect::Any)
                        .await?;
                Ok(Output::Resource { resource: (*resource).clone() })
            }
            Command::Request(call) => {
                let message = self.message(agent, call, Payload::Request);
                reply(self.router.request(message).await, &self.blobs).await
            }
            Command::Send(call) => {
                let message = self.message(agent, call, Payload::Signal);
                let id = message.header.id;
                self.router.send(message).await?;
                Ok(Output::Sent { id: id.to_string() })
            }
            Command::Copy { .. } | Command::Publish { .. } => Err(Problem::new(
                Code::Usage,
                "local files are on the side of the command line, not of the node",
            )
            .help(
                "type the statement as a command, `starlane publish …`, or use PUT /v1/bundles and /v1/files",
            )),
            Command::Watch(_) => {
                Err(Problem::new(Code::Usage, "a watch does not end, so a script cannot hold one")
                    .help("type it as a command, `starlane watch SELECTOR`, or use GET /v1/watch"))
            }
            Command::Grant(_) | Command::Chown { .. } => Err(Problem::new(
                Code::Unsupported,
                "permissions are part of the language but not supported yet",
            )
            .help("until they are, the administrator's token is the only authority")),
        }
    }

    /// The resource at a point.
    pub(super) fn get(&self, point: &Point) -> Result<Arc<Resource>, Problem> {
        self.registry.get(point).ok_or_else(|| not_found(&self.registry, point))
    }

    /// Changes properties, all or none.
    pub(super) async fn set(
        &self,
        agent: &Agent,
        point: &Point,
        changes: Vec<PropertyChange>,
        expect: Option<Revision>,
    ) -> Result<Arc<Resource>, Problem> {
        self.provision.set(agent, point, changes, expect).await
    }

    async fn read(&self, point: Point) -> Result<Output, Problem> {
        let content = files::open(&self.registry, &point)?;
        let bytes = content.blob.bytes;
        if bytes > SHOWN_BYTES_MAX {
            return Err(Problem::new(
                Code::TooLarge,
                format!("`{point}` has {bytes} bytes, too many to show"),
            )
            .at(&point)
            .help(format!("copy it: `starlane cp {point} FILE`")));
        }
        let data = Data::of(&self.blobs.read(&content.blob, SHOWN_BYTES_MAX).await?);
        Ok(Output::Content { point, content_type: content.content_type, bytes, data })
    }

    fn message(&self, agent: &Agent, call: Call, payload: fn(Request) -> Payload) -> Message {
        let Call { to, method, path, body } = call;
        let header = Header::new(self.ids.next(), agent.0.clone(), to, agent.clone(), REQUEST_TIMEOUT);
        let content_type =
            if body.starts_with(['{', '[']) { "application/json" } else { "text/plain; charset=utf-8" };
        let headers: Headers = if body.is_empty() {
            Headers::default()
        } else {
            [("content-type", content_type)].into_iter().collect()
        };
        Message {
            header,
            payload: payload(Request { method, path, headers, body: Body::Bytes(body.into()) }),
        }
    }
}

/// The answer of a mechtron as a statement shows it.
async fn reply(outcome: Outcome, blobs: &BlobStore) -> Result<Output, Problem> {
    let reply = match outcome {
        Outcome::Ok(reply) => reply,
        Outcome::Rejected(refusal) | Outcome::Failed(refusal) | Outcome::Unknown(refusal) => {
            return Err(refusal.into());
        }
    };
    let body = match reply.body {
        Body::Bytes(bytes) => bytes,
        Body::Blob(blob) => blobs.read(&blob, SHOWN_BYTES_MAX).await?,
    };
    let headers = reply.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Output::Reply { status: reply.status, headers, data: Data::of(&body) })
}

/// That nothing is at a point, with the nearest thing above it that is there.
pub(super) fn not_found(registry: &Registry, point: &Point) -> Problem {
    let near = point.ancestors().find(|above| !above.is_root() && registry.get(above).is_some());
    let help = match near {
        Some(above) => format!("`starlane select '{above}:*'` shows what is below `{above}`"),
        None => "`starlane select '*'` shows the first level".to_owned(),
    };
    Problem::new(Code::NotFound, format!("nothing is at `{point}`")).at(point).help(help)
}

/// What a deletion removed, as the API tells it.
pub(super) fn deleted(removed: Vec<(Point, starlane_core::Kind)>) -> Vec<Deleted> {
    removed.into_iter().map(|(point, kind)| Deleted { point, kind }).collect()
}

/// What a creation made, as the API tells it.
pub(super) fn told(created: &resource_registry::Created) -> Created {
    let outcome = match created.outcome {
        resource_registry::Outcome::New => CreateOutcome::Created,
        resource_registry::Outcome::Existed => CreateOutcome::Existed,
        resource_registry::Outcome::Replaced => CreateOutcome::Replaced,
    };
    Created { resource: (*created.resource).clone(), outcome }
}
