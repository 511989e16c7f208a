//! Making, changing and deleting resources that come with artifacts: what they name is checked before anything is
//! set, a config's properties are set along, and its `Install` runs when the resource is made.

use std::sync::Arc;

use futures::future::BoxFuture;
use gateway::shapes::Deleted;
use mechtron_host::Host;
use resource_registry::{Create, Created, Delete, Outcome, Registry, StateStore};
use starlane_core::{
    Agent, Base, Code, Command, CreateMode, Kind, Phase, Point, Problem, PropertyChange, ResolvedConfig,
    Resource, Revision, Status, Target, placement,
};

use super::artifacts::Artifacts;
use super::commands::{deleted, not_found};
use super::router::has_code;

/// How deep installs may install resources that install others.
const INSTALL_DEPTH_MAX: usize = 8;
/// The properties that name artifacts.
const ARTIFACT_KEYS: [&str; 3] = ["bind", "config", "wasm.src"];

/// Makes, changes and deletes resources with all that belongs to them.
#[derive(Clone)]
pub(super) struct Provision {
    registry: Registry,
    states: StateStore,
    artifacts: Artifacts,
    host: Host,
}

impl Provision {
    pub(super) fn new(registry: Registry, states: StateStore, artifacts: Artifacts, host: Host) -> Self {
        Self { registry, states, artifacts, host }
    }

    /// Makes a resource, and all that its config installs; when that fails, nothing of it stays.
    pub(super) async fn create(
        &self,
        by: &Agent,
        mode: CreateMode,
        target: Target,
        kind: Kind,
        changes: Vec<PropertyChange>,
    ) -> Result<Created, Problem> {
        self.create_at_depth(by, mode, target, kind, changes, 0).await
    }

    fn create_at_depth<'a>(
        &'a self,
        by: &'a Agent,
        mode: CreateMode,
        target: Target,
        kind: Kind,
        changes: Vec<PropertyChange>,
        depth: usize,
    ) -> BoxFuture<'a, Result<Created, Problem>> {
        Box::pin(async move {
            self.check(target_point(&target), &kind, &changes).await?;
            let configured = changes.iter().any(|change| sets(change, "config"));
            let status = if configured {
                Status::because(Phase::Init, "its config is being installed")
            } else {
                Status::ready()
            };
            let create = Create { mode, target, kind, changes: changes.clone(), status };
            let created = self.registry.create(by, create).await?;
            if created.outcome == Outcome::Existed || !configured {
                if created.outcome == Outcome::Replaced {
                    self.host.swap(&created.resource.point);
                }
                return Ok(created);
            }
            match self.install(by, &created, &changes, depth).await {
                Ok(resource) => Ok(Created { resource, outcome: created.outcome }),
                Err(problem) => {
                    if created.outcome == Outcome::New {
                        self.delete(by, Delete::point(created.resource.point.clone(), true)).await?;
                    }
                    Err(problem)
                }
            }
        })
    }

    /// Sets what the config says, runs its `Install` when the resource is new, and marks the resource ready.
    async fn install(
        &self,
        by: &Agent,
        created: &Created,
        changes: &[PropertyChange],
        depth: usize,
    ) -> Result<Arc<Resource>, Problem> {
        let point = &created.resource.point;
        if let Some(config) = self.config(&created.resource).await? {
            let set = beneath(config.set, changes);
            if !set.is_empty() {
                self.check(point, &created.resource.kind, &set).await?;
                self.registry.set(by, point, set, None).await?;
            }
            let install = if created.outcome == Outcome::New { config.install } else { Vec::new() };
            for command in install {
                self.install_one(by, command, depth).await.map_err(|problem| installing(problem, point))?;
            }
        }
        let resource = self.registry.set_status(by, point, Status::ready()).await?;
        self.host.swap(point);
        Ok(resource)
    }

    async fn install_one(&self, by: &Agent, command: Command, depth: usize) -> Result<(), Problem> {
        match command {
            Command::Create { mode, target, kind, changes } if depth < INSTALL_DEPTH_MAX => {
                self.create_at_depth(by, mode, target, kind, changes, depth + 1).await.map(drop)
            }
            Command::Create { .. } => Err(Problem::new(
                Code::ConfigSyntax,
                format!("installs go {INSTALL_DEPTH_MAX} deep at most, and this one goes deeper"),
            )),
            Command::Set { point, changes } => self.set(by, &point, changes, None).await.map(drop),
            _ => Err(Problem::new(Code::ConfigSyntax, "an Install holds `create` and `set` statements only")),
        }
    }

    /// Changes properties, all or none. A new config brings its properties along.
    pub(super) async fn set(
        &self,
        by: &Agent,
        point: &Point,
        mut changes: Vec<PropertyChange>,
        expect: Option<Revision>,
    ) -> Result<Arc<Resource>, Problem> {
        let before = self.registry.get(point).ok_or_else(|| not_found(&self.registry, point))?;
        self.check(point, &before.kind, &changes).await?;
        if let Some(artifact) = changes.iter().find_map(|change| set_point(change, "config")) {
            let config = self.resolve(&artifact, point).await?;
            let set = beneath(config.set, &changes);
            self.check(point, &before.kind, &set).await?;
            changes.extend(set);
        }
        let resource = self.registry.set(by, point, changes, expect).await?;
        if has_code(&before) || has_code(&resource) {
            self.host.swap(point);
        }
        Ok(resource)
    }

    /// Deletes resources with their activations and their state.
    pub(super) async fn delete(&self, by: &Agent, delete: Delete) -> Result<Vec<Deleted>, Problem> {
        let removed = self.registry.delete(by, delete).await?;
        for (point, kind) in &removed {
            if matches!(kind.base, Base::App | Base::Mechtron) {
                self.host.remove(point);
                self.states.delete(point).await?;
            }
        }
        Ok(deleted(removed))
    }

    /// The config of a resource, as it applies to it.
    pub(super) async fn config(&self, resource: &Resource) -> Result<Option<ResolvedConfig>, Problem> {
        match resource.point_property("config") {
            Some(artifact) => self.resolve(&artifact, &resource.point).await.map(Some),
            None => Ok(None),
        }
    }

    async fn resolve(&self, artifact: &Point, here: &Point) -> Result<ResolvedConfig, Problem> {
        self.artifacts.config(artifact).await?.resolve(&artifact.holder(), here)
    }

    /// Goes on with installs that a crash interrupted.
    pub(super) async fn recover(&self, by: &Agent) -> Result<(), Problem> {
        let interrupted = "**[status = Init and exists(config)]".parse()?;
        for resource in self.registry.select(&interrupted, usize::MAX, None)?.resources {
            let created = Created { resource: resource.clone(), outcome: Outcome::New };
            if let Err(problem) = self.install(by, &created, &[], 0).await {
                let status = Status::because(Phase::Fatal, format!("its install failed: {problem}"));
                self.registry.set_status(by, &resource.point, status).await?;
            }
        }
        Ok(())
    }

    /// Checks that artifacts which properties name exist and are what they should be, and that a mechtron says where it
    /// may live in a way that can be read.
    async fn check(&self, here: &Point, kind: &Kind, changes: &[PropertyChange]) -> Result<(), Problem> {
        placement::check(kind, changes)?;
        for change in changes {
            let PropertyChange::Set { key, value, .. } = change else { continue };
            let key = key.as_str();
            if !ARTIFACT_KEYS.contains(&key) {
                continue;
            }
            let Some(point) = value.as_point() else {
                return Err(Problem::new(
                    Code::ArtifactInvalid,
                    format!("`{key}` names an artifact; `{value}` is not a point"),
                )
                .help("write the artifact's whole point: `shop:repo:site:1.0.0:/bind/site.bind`"));
            };
            match key {
                "bind" => self.artifacts.bind(&point, here).await.map(drop)?,
                "wasm.src" => self.artifacts.module(&point).await.map(drop)?,
                _ => {
                    let config = self.artifacts.config(&point).await?;
                    if *config.kind() != kind.base {
                        let (is, wanted) = (config.kind(), &kind.base);
                        return Err(Problem::new(Code::ArtifactInvalid, format!("`{point}` configures a resource of kind {is}, not {wanted}"))
                            .at(&point)
                            .help(format!("create the resource with `--kind {is}`, or name a config that begins with `{wanted}`")));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where it is made, or, while the number is not known, below what.
fn target_point(target: &Target) -> &Point {
    match target {
        Target::Point(point) => point,
        Target::Sequence(sequence) => &sequence.parent,
    }
}

fn sets(change: &PropertyChange, name: &str) -> bool {
    matches!(change, PropertyChange::Set { key, .. } if key.as_str() == name)
}

fn set_point(change: &PropertyChange, name: &str) -> Option<Point> {
    match change {
        PropertyChange::Set { key, value, .. } if key.as_str() == name => value.as_point(),
        _ => None,
    }
}

/// What a config sets, without what was said explicitly.
fn beneath(set: Vec<PropertyChange>, explicit: &[PropertyChange]) -> Vec<PropertyChange> {
    set.into_iter().filter(|change| !explicit.iter().any(|said| said.key() == change.key())).collect()
}

fn installing(mut problem: Problem, point: &Point) -> Problem {
    problem.detail = format!("installing `{point}`: {}", problem.detail);
    problem
}
