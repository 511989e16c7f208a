//! Making, changing and deleting resources that come with artifacts: what they name is checked before anything is
//! set, a config's properties are set along, and its `Install` runs when the resource is made.

use std::sync::Arc;

use futures::future::BoxFuture;
use gateway::shapes::Deleted;
use mechtron_host::Host;
use resource_registry::{CONTENT_KEYS, Create, Created, Delete, Outcome, Registry, StateStore};
use starlane_core::{
    Agent, Base, Code, Command, CreateMode, Key, Kind, Phase, Point, Problem, PropertyChange, ResolvedConfig,
    Resource, Revision, Status, Target,
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
        let mut made = Vec::new();
        let created = self.create_at_depth(by, mode, target, kind, changes, 0, &mut made).await;
        if created.is_err() {
            // What an install made before it failed, wherever it stands; a parent takes its children along.
            while let Some(point) = made.pop() {
                if self.registry.get(&point).is_some() {
                    self.delete(by, Delete::point(point, true)).await?;
                }
            }
        }
        created
    }

    /// Makes a resource; adds to `made` what is new, its installs included.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one part of a creation, and an install has them apart"
    )]
    fn create_at_depth<'a>(
        &'a self,
        by: &'a Agent,
        mode: CreateMode,
        target: Target,
        kind: Kind,
        changes: Vec<PropertyChange>,
        depth: usize,
        made: &'a mut Vec<Point>,
    ) -> BoxFuture<'a, Result<Created, Problem>> {
        Box::pin(async move {
            self.check(target_point(&target), &kind, &changes).await?;
            let config = changes.iter().find_map(|change| set_point(change, "config"));
            if let (Some(artifact), Target::Point(point)) = (&config, &target) {
                // Before anything is changed, so that a config that cannot be applied changes nothing.
                let set = self.resolve(artifact, point).await?.set;
                self.check(point, &kind, &set).await?;
            }
            let status = if config.is_some() {
                Status::because(Phase::Init, "its config is being installed")
            } else {
                Status::ready()
            };
            let create = Create { mode, target, kind, changes: changes.clone(), status };
            let created = self.registry.create(by, create).await?;
            if created.outcome == Outcome::New {
                made.push(created.resource.point.clone());
            }
            if created.outcome == Outcome::Existed || config.is_none() {
                if created.outcome == Outcome::Replaced {
                    self.host.swap(&created.resource.point);
                }
                return Ok(created);
            }
            let explicit: Vec<_> = changes.iter().map(|change| change.key().clone()).collect();
            let outcome = created.outcome;
            let resource = self.install(by, &created, &explicit, depth, made).await?;
            Ok(Created { resource, outcome })
        })
    }

    /// Sets what the config says besides the properties that were given explicitly, runs its `Install` when the
    /// resource is new, and marks the resource ready.
    async fn install(
        &self,
        by: &Agent,
        created: &Created,
        explicit: &[Key],
        depth: usize,
        made: &mut Vec<Point>,
    ) -> Result<Arc<Resource>, Problem> {
        let point = &created.resource.point;
        if let Some(config) = self.config(&created.resource).await? {
            let set = beneath(config.set, explicit);
            if !set.is_empty() {
                self.check(point, &created.resource.kind, &set).await?;
                self.registry.set(by, point, set, None).await?;
            }
            let install = if created.outcome == Outcome::New { config.install } else { Vec::new() };
            for command in install {
                let installed = self.install_one(by, command, depth, made).await;
                installed.map_err(|problem| installing(problem, point))?;
            }
        }
        let resource = self.registry.set_status(by, point, Status::ready()).await?;
        self.host.swap(point);
        Ok(resource)
    }

    async fn install_one(
        &self,
        by: &Agent,
        command: Command,
        depth: usize,
        made: &mut Vec<Point>,
    ) -> Result<(), Problem> {
        match command {
            Command::Create { mode, target, kind, changes } if depth < INSTALL_DEPTH_MAX => {
                self.create_at_depth(by, mode, target, kind, changes, depth + 1, made).await.map(drop)
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
            let explicit: Vec<_> = changes.iter().map(|change| change.key().clone()).collect();
            let set = beneath(config.set, &explicit);
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
        for (point, _) in &removed {
            // Code may have run at any of them.
            self.host.remove(point);
            if self.states.get(point)?.is_some() {
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

    /// Goes on with installs that a crash interrupted: what they made already stays as it is.
    pub(super) async fn recover(&self, by: &Agent) -> Result<(), Problem> {
        let interrupted = "**[status = Init and exists(config)]".parse()?;
        for resource in self.registry.select(&interrupted, usize::MAX, None)?.resources {
            if let Err(problem) = self.install_again(by, &resource).await {
                let status = Status::because(Phase::Fatal, format!("its install failed: {problem}"));
                self.registry.set_status(by, &resource.point, status).await?;
            }
        }
        Ok(())
    }

    async fn install_again(&self, by: &Agent, resource: &Arc<Resource>) -> Result<(), Problem> {
        let point = &resource.point;
        if let Some(config) = self.config(resource).await? {
            // What it has was given explicitly, or was set by the config before the crash.
            let has: Vec<_> = resource.properties.iter().map(|(key, _)| key.clone()).collect();
            let set = beneath(config.set, &has);
            self.check(point, &resource.kind, &set).await?;
            self.registry.set(by, point, set, None).await?;
            for command in config.install {
                let command = match command {
                    Command::Create { mode: CreateMode::New, target, kind, changes } => {
                        Command::Create { mode: CreateMode::Ensure, target, kind, changes }
                    }
                    other => other,
                };
                let installed = self.install_one(by, command, 0, &mut Vec::new()).await;
                installed.map_err(|problem| installing(problem, point))?;
            }
        }
        self.registry.set_status(by, point, Status::ready()).await?;
        self.host.swap(point);
        Ok(())
    }

    /// Checks that artifacts which properties name exist and are what they should be.
    async fn check(&self, here: &Point, kind: &Kind, changes: &[PropertyChange]) -> Result<(), Problem> {
        if kind.base == Base::File
            && let Some(change) = changes.iter().find(|change| CONTENT_KEYS.contains(&change.key().as_str()))
        {
            let detail =
                format!("`{}` of `{here}` tells its content, so only a write changes it", change.key());
            let help = format!("write the content: `starlane cp FILE {here}`");
            return Err(Problem::new(Code::PropertyValue, detail).at(here).help(help));
        }
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

fn set_point(change: &PropertyChange, name: &str) -> Option<Point> {
    match change {
        PropertyChange::Set { key, value, .. } if key.as_str() == name => value.as_point(),
        _ => None,
    }
}

/// What a config sets, without what was said explicitly.
fn beneath(set: Vec<PropertyChange>, explicit: &[Key]) -> Vec<PropertyChange> {
    set.into_iter().filter(|change| !explicit.contains(change.key())).collect()
}

fn installing(mut problem: Problem, point: &Point) -> Problem {
    problem.detail = format!("installing `{point}`: {}", problem.detail);
    problem
}
