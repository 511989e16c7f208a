//! Making, changing and deleting resources that come with artifacts: what they name is checked before anything is
//! set, a config's properties are set along, and its `Install` runs when the resource is made.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use gateway::shapes::Deleted;
use mechtron_host::Host;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use resource_registry::{CONTENT_KEYS, Create, Created, Delete, Op, Outcome, Registry};
use starlane_core::{
    Agent, Base, Code, Command, Config, CreateMode, Key, Kind, Phase, Point, PointError, Problem,
    PropertyChange, ResolvedConfig, Resource, Revision, Status, Target, Value, placement,
};

use super::artifacts::Artifacts;
use super::commands::{deleted, not_found};
use super::fresh::{find, there};
use super::keeping::Keeping;
use super::outside::durability;
use super::router::has_code;

/// Resources whose install is not over.
pub(super) const INSTALLING: &str = "**[status = Init and exists(config)]";
/// How deep installs may install resources that install others.
const INSTALL_DEPTH_MAX: usize = 8;
/// How many resources one creation may make or set, with all that its installs install.
const INSTALL_STEPS_MAX: usize = 10_000;
/// Of how many mechtrons it is remembered what they were before they were changed.
const REPLACED_MAX: usize = 4_096;
/// How many changes of one are remembered.
const CHANGES_MAX: usize = 8;
/// The properties that say what code runs, and how.
const CODE_KEYS: [&str; 4] = ["config", "wasm.src", "mechtron.name", "durability"];
/// The properties that name artifacts.
const ARTIFACT_KEYS: [&str; 3] = ["bind", "config", "wasm.src"];

/// Makes, changes and deletes resources with all that belongs to them.
#[derive(Clone)]
pub(super) struct Provision {
    registry: Registry,
    keeping: Keeping,
    artifacts: Artifacts,
    host: Host,
    /// What mechtrons were before they were changed, the latest first.
    replaced: Arc<Cache<Point, Vec<Arc<Resource>>>>,
    /// What is being installed here, and how often.
    installing: Arc<Mutex<HashMap<Point, usize>>>,
}

/// A resource is being installed here, until this is dropped.
struct Installing {
    all: Arc<Mutex<HashMap<Point, usize>>>,
    point: Point,
}

impl Drop for Installing {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(count) = all.get_mut(&self.point) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.point);
            }
        }
    }
}

impl Provision {
    pub(super) fn new(registry: Registry, keeping: Keeping, artifacts: Artifacts, host: Host) -> Self {
        let replaced = Arc::new(Cache::new(REPLACED_MAX));
        Self { registry, keeping, artifacts, host, replaced, installing: Arc::default() }
    }

    /// What is being installed here.
    pub(super) fn installing(&self) -> Vec<Point> {
        self.installing.lock().keys().cloned().collect()
    }

    fn begin_install(&self, point: &Point) -> Installing {
        *self.installing.lock().entry(point.clone()).or_default() += 1;
        Installing { all: self.installing.clone(), point: point.clone() }
    }

    /// Makes a resource, and all that its config installs. All of it is checked before anything is made; when something
    /// fails all the same, nothing of it stays.
    pub(super) async fn create(
        &self,
        by: &Agent,
        mode: CreateMode,
        target: Target,
        kind: Kind,
        changes: Vec<PropertyChange>,
    ) -> Result<Created, Problem> {
        let mut plan = Plan::default();
        self.plan_create(&mut plan, None, (mode, &target, &kind, &changes), 0).await?;
        if changes.iter().any(|change| set_point(change, "config").is_some()) {
            self.rehearse(plan).await?;
        }
        let mut made = Vec::new();
        let created = self.create_at_depth(by, mode, target, kind, changes, 0, &mut made).await;
        match created {
            Ok(created) => Ok(created),
            Err(problem) => Err(self.take_back(by, made, problem).await),
        }
    }

    /// Takes back what an install made before it failed, wherever it stands; a parent takes its children along. Tells the
    /// problem, or that something stays when the registry is out of reach: the leader goes on with that.
    async fn take_back(&self, by: &Agent, mut made: Vec<Point>, problem: Problem) -> Problem {
        while let Some(point) = made.pop() {
            if self.registry.get(&point).is_none() {
                continue;
            }
            if let Err(stays) = self.delete(by, Delete::point(point.clone(), true)).await {
                let detail = format!("{problem}; and `{point}`, which was made before, stays: {stays}");
                return Problem::new(Code::Timeout, detail).at(&point).help(format!(
                    "the registry's node goes on with it in a while: see what becomes of it, `starlane get {point}`"
                ));
            }
        }
        problem
    }

    /// Plans a creation: checks the artifacts that it names, its config to the end, and what that installs.
    fn plan_create<'a>(
        &'a self,
        plan: &'a mut Plan,
        asked: Option<&'a Arc<Asked>>,
        (mode, target, kind, changes): (CreateMode, &'a Target, &'a Kind, &'a [PropertyChange]),
        depth: usize,
    ) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async move {
            // Of what gets its number only when it is made, the first stands for all.
            let (point, is_new) = match target {
                Target::Point(point) => {
                    let known = plan.made.contains_key(point);
                    let is_there =
                        known || mode != CreateMode::New && find(&self.registry, point).await?.is_some();
                    (point.clone(), !is_there)
                }
                Target::Sequence(sequence) => {
                    let first = sequence.point(1);
                    let wrong = |error: PointError| Problem::new(Code::PointSyntax, error.to_string());
                    (first.map_err(|error| wrong(error).at(&sequence.parent))?, true)
                }
            };
            self.check(&point, kind, changes).await?;
            let mut all = changes.to_vec();
            let mut installs = None;
            if let Some(artifact) = changes.iter().find_map(|change| set_point(change, "config")) {
                let config = self.artifacts.config(&artifact).await?;
                let resolved = config.resolve(&artifact.holder(), &point)?;
                let explicit: Vec<_> = changes.iter().map(|change| change.key().clone()).collect();
                let set = beneath(resolved.set, &explicit);
                self.check(&point, kind, &set).await?;
                all.splice(..0, set);
                installs = is_new.then_some((config, resolved.install));
            }
            self.check_code(&point, None, &all).await?;
            let create = Create {
                mode,
                target: target.clone(),
                kind: kind.clone(),
                changes: all.clone(),
                status: Status::ready(),
            };
            plan.step(Op::Create(create), asked)?;
            if is_new && matches!(target, Target::Point(_)) {
                plan.made.insert(point.clone(), (kind.clone(), all));
            }
            for (number, command) in installs.iter().flat_map(|(_, install)| install).enumerate() {
                let Some((config, _)) = &installs else { break };
                let (config, installs) = (config.clone(), point.clone());
                let asked = Arc::new(Asked { config, number, installs, by: asked.cloned() });
                let planned = self.plan_installed(plan, &asked, command, depth).await;
                planned.map_err(|problem| asked.tell(problem))?;
            }
            Ok(())
        })
    }

    async fn plan_installed(
        &self,
        plan: &mut Plan,
        asked: &Arc<Asked>,
        command: &Command,
        depth: usize,
    ) -> Result<(), Problem> {
        match command {
            Command::Create { mode, target, kind, changes } => {
                check_depth(depth)?;
                self.plan_create(plan, Some(asked), (*mode, target, kind, changes), depth + 1).await
            }
            Command::Set { point, changes } => {
                let mut changes = changes.clone();
                let there = self.registry.get(point);
                let made = plan.made.get(point).cloned();
                let kind = made.as_ref().map(|(kind, _)| kind).or(there.as_ref().map(|there| &there.kind));
                // What is nowhere yet may get its number meanwhile; whether it does, the rehearsal tells.
                if let Some(kind) = kind {
                    changes = self.complete(point, kind, changes).await?;
                    let mut all = made.as_ref().map(|(_, set)| set.clone()).unwrap_or_default();
                    all.extend(changes.iter().cloned());
                    self.check_code(point, there.as_deref(), &all).await?;
                    if let Some((_, set)) = plan.made.get_mut(point) {
                        *set = all;
                    }
                }
                plan.step(Op::Set { point: point.clone(), changes, expect: None }, Some(asked))
            }
            _ => Err(not_installed()),
        }
    }

    /// Checks that all of a plan can be done, one step after the other.
    async fn rehearse(&self, plan: Plan) -> Result<(), Problem> {
        let Err((number, error)) = self.registry.rehearse(&plan.steps).await else { return Ok(()) };
        let asked = plan.asked.get(number).and_then(Option::as_ref);
        let chain = std::iter::successors(asked, |asked| asked.by.as_ref());
        Err(chain.fold(error.into(), |problem, asked| asked.tell(problem)))
    }

    /// Makes a resource as planned; adds to `made` what is new, its installs included.
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
            let has_config = changes.iter().any(|change| set_point(change, "config").is_some());
            let status = if has_config {
                Status::because(Phase::Init, "its config is being installed")
            } else {
                Status::ready()
            };
            let before = match (&target, mode) {
                (Target::Point(point), CreateMode::Override) => self.registry.get(point),
                _ => None,
            };
            let create = Create { mode, target, kind, changes: changes.clone(), status };
            let created = self.registry.create(by, create).await?;
            if created.outcome == Outcome::New {
                made.push(created.resource.point.clone());
            }
            if let Some(before) = before.filter(|before| has_code(before)) {
                self.remember(before);
            }
            if created.outcome == Outcome::Existed || !has_config {
                if created.outcome == Outcome::Replaced {
                    self.host.swap(&created.resource.point);
                }
                return Ok(created);
            }
            let _installing = self.begin_install(&created.resource.point);
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
        if let Some(artifact) = created.resource.point_property("config") {
            let config = self.artifacts.config(&artifact).await?;
            let resolved = config.resolve(&artifact.holder(), point)?;
            let set = beneath(resolved.set, explicit);
            if !set.is_empty() {
                self.registry.set(by, point, set, None).await?;
            }
            let install = if created.outcome == Outcome::New { resolved.install } else { Vec::new() };
            for (number, command) in install.into_iter().enumerate() {
                let asked = Asked { config: config.clone(), number, installs: point.clone(), by: None };
                let installed = self.install_one(by, command, depth, made).await;
                installed.map_err(|problem| asked.tell(problem))?;
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
            Command::Create { mode, target, kind, changes } => {
                check_depth(depth)?;
                self.create_at_depth(by, mode, target, kind, changes, depth + 1, made).await.map(drop)
            }
            Command::Set { point, changes } => self.set(by, &point, changes, None).await.map(drop),
            _ => Err(not_installed()),
        }
    }

    /// Changes properties, all or none. A new config brings its properties along.
    pub(super) async fn set(
        &self,
        by: &Agent,
        point: &Point,
        changes: Vec<PropertyChange>,
        expect: Option<Revision>,
    ) -> Result<Arc<Resource>, Problem> {
        let before = there(&self.registry, point).await?;
        let changes = self.complete(point, &before.kind, changes).await?;
        self.check_code(point, Some(&before), &changes).await?;
        let resource = self.registry.set(by, point, changes, expect).await?;
        if has_code(&before) || has_code(&resource) {
            self.remember(before);
            self.host.swap(point);
        }
        Ok(resource)
    }

    /// Checks changes, and adds what a config among them sets.
    async fn complete(
        &self,
        point: &Point,
        kind: &Kind,
        mut changes: Vec<PropertyChange>,
    ) -> Result<Vec<PropertyChange>, Problem> {
        self.check(point, kind, &changes).await?;
        if let Some(artifact) = changes.iter().find_map(|change| set_point(change, "config")) {
            let config = self.resolve(&artifact, point).await?;
            let explicit: Vec<_> = changes.iter().map(|change| change.key().clone()).collect();
            let set = beneath(config.set, &explicit);
            self.check(point, kind, &set).await?;
            changes.extend(set);
        }
        Ok(changes)
    }

    /// Keeps what a mechtron was before it was changed, so that it can be put back.
    pub(super) fn remember(&self, before: Arc<Resource>) {
        let mut all = vec![before.clone()];
        let older = self.replaced.get(&before.point).unwrap_or_default();
        if older.iter().any(|older| older.modified == before.modified) {
            return;
        }
        all.extend(older.into_iter().filter(|older| older.created == before.created).take(CHANGES_MAX - 1));
        self.replaced.insert(before.point.clone(), all);
    }

    /// What a resource was before it was changed, the latest first; the last [`CHANGES_MAX`] changes of this process.
    pub(super) fn replaced(&self, point: &Point) -> Vec<Arc<Resource>> {
        self.replaced.get(point).unwrap_or_default()
    }

    /// Lets a resource name the code again that it had, with what the configs of both set.
    pub(super) async fn put_back(
        &self,
        by: &Agent,
        before: &Resource,
        status: Status,
    ) -> Result<(), Problem> {
        let point = &before.point;
        let now = self.registry.get(point).ok_or_else(|| not_found(&self.registry, point))?;
        let mut keys: Vec<Key> = Vec::new();
        for resource in [before, &*now] {
            let code = resource.properties.keys().filter(|key| CODE_KEYS.contains(&key.as_str()));
            keys.extend(code.cloned());
            let config = self.config(resource).await.ok().flatten();
            keys.extend(config.into_iter().flat_map(|config| config.set).map(|change| change.key().clone()));
        }
        keys.retain(|key| now.properties.get(key).is_none_or(|property| !property.locked));
        let changes = keys.into_iter().map(|key| match before.properties.get(&key) {
            Some(property) => {
                PropertyChange::Set { key, value: property.value.clone(), lock: property.locked }
            }
            None => PropertyChange::Unset(key),
        });
        let set = Op::Set { point: point.clone(), changes: changes.collect(), expect: Some(now.modified) };
        self.registry.batch(by, vec![set, Op::SetStatus { point: point.clone(), status }]).await?;
        Ok(())
    }

    /// Deletes resources with their activations and their state.
    pub(super) async fn delete(&self, by: &Agent, delete: Delete) -> Result<Vec<Deleted>, Problem> {
        let removed = self.registry.delete(by, delete).await?;
        for (point, _) in &removed {
            // Another may stand there by now: it is told apart by its epoch.
            if self.registry.get(point).is_some() {
                self.host.swap(point);
                continue;
            }
            // Code may have run at any of them.
            self.host.remove(point);
            self.keeping.forget(point, None).await?;
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
        for resource in self.registry.select(&INSTALLING.parse()?, usize::MAX, None)?.resources {
            self.finish(by, &resource.point).await?;
        }
        Ok(())
    }

    /// Goes on with an install that nobody goes on with; one that cannot be finished says why, and is over.
    pub(super) async fn finish(&self, by: &Agent, point: &Point) -> Result<(), Problem> {
        let Some(resource) = self.registry.get(point) else { return Ok(()) };
        if resource.status.phase != Phase::Init {
            return Ok(());
        }
        let _installing = self.begin_install(point);
        if let Err(problem) = self.install_again(by, &resource).await {
            let status = Status::because(Phase::Fatal, format!("its install failed: {problem}"));
            self.registry.set_status(by, point, status).await?;
        }
        Ok(())
    }

    async fn install_again(&self, by: &Agent, resource: &Arc<Resource>) -> Result<(), Problem> {
        let point = &resource.point;
        if let Some(artifact) = resource.point_property("config") {
            let config = self.artifacts.config(&artifact).await?;
            let resolved = config.resolve(&artifact.holder(), point)?;
            // What it has was given explicitly, or was set by the config before the crash.
            let has: Vec<_> = resource.properties.keys().cloned().collect();
            let set = beneath(resolved.set, &has);
            self.check(point, &resource.kind, &set).await?;
            self.registry.set(by, point, set, None).await?;
            for (number, command) in resolved.install.into_iter().enumerate() {
                let asked =
                    Arc::new(Asked { config: config.clone(), number, installs: point.clone(), by: None });
                let installed = self.install_one_again(by, command, &asked).await;
                installed.map_err(|problem| asked.tell(problem))?;
            }
        }
        self.registry.set_status(by, point, Status::ready()).await?;
        self.host.swap(point);
        Ok(())
    }

    async fn install_one_again(
        &self,
        by: &Agent,
        command: Command,
        asked: &Arc<Asked>,
    ) -> Result<(), Problem> {
        let command = match command {
            Command::Create { mode: CreateMode::New, target, kind, changes } => {
                Command::Create { mode: CreateMode::Ensure, target, kind, changes }
            }
            other => other,
        };
        self.plan_installed(&mut Plan::default(), asked, &command, 0).await?;
        self.install_one(by, command, 0, &mut Vec::new()).await
    }

    /// Checks that what is to run can run: the module has the mechtron, and its durability is one.
    async fn check_code(
        &self,
        point: &Point,
        before: Option<&Resource>,
        changes: &[PropertyChange],
    ) -> Result<(), Problem> {
        let value = |name: &str| match changes.iter().rev().find(|change| change.key().as_str() == name) {
            Some(PropertyChange::Set { value, .. }) => Some(value),
            Some(PropertyChange::Unset(_)) => None,
            None => before.and_then(|before| before.property(name)),
        };
        if !changes.iter().any(|change| CODE_KEYS.contains(&change.key().as_str())) {
            return Ok(());
        }
        durability(point, value("durability"))?;
        let Some(source) = value("wasm.src").and_then(Value::as_point) else { return Ok(()) };
        let module = self.artifacts.module(&source).await?;
        let known: Vec<&str> = module.mechtrons().collect();
        let name = value("mechtron.name").map(Value::to_string).unwrap_or_default();
        // A module without a contract tells no names; it takes the name at its start, or does not.
        let fits = match (name.as_str(), known.len()) {
            (_, 0) | ("", 1) => true,
            _ => known.iter().any(|known| known.eq_ignore_ascii_case(&name)),
        };
        for watch in module.contract().watches(&name) {
            let checked = watch.selector.parse().and_then(|selector| Ok(Registry::check_watch(&selector)?));
            checked.map_err(|mut problem| {
                problem.detail = format!("the watch `{}` of `{source}`: {}", watch.name, problem.detail);
                problem.at(point)
            })?;
        }
        if fits {
            return Ok(());
        }
        let detail = if name.is_empty() {
            format!("`{source}` holds several mechtrons, and nothing says which one `{point}` is")
        } else {
            format!("`{source}` holds no mechtron `{name}`")
        };
        let names: Vec<_> =
            known.iter().map(|known| format!("`+mechtron.name={}`", known.to_lowercase())).collect();
        Err(Problem::new(Code::PropertyValue, detail).at(point).help(format!("set {}", names.join(" or "))))
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

/// What a creation is going to do.
#[derive(Default)]
struct Plan {
    steps: Vec<Op>,
    /// What asks for each of the steps; nothing for what was asked for itself.
    asked: Vec<Option<Arc<Asked>>>,
    /// What the steps make, and all that they set there.
    made: HashMap<Point, (Kind, Vec<PropertyChange>)>,
}

impl Plan {
    fn step(&mut self, op: Op, asked: Option<&Arc<Asked>>) -> Result<(), Problem> {
        if self.steps.len() == INSTALL_STEPS_MAX {
            let detail =
                format!("installs make and set {INSTALL_STEPS_MAX} resources at most, and these more");
            return Err(Problem::new(Code::TooLarge, detail).help("install fewer, and make the others apart"));
        }
        self.steps.push(op);
        self.asked.push(asked.cloned());
        Ok(())
    }
}

/// A statement of an `Install` that asks for something.
struct Asked {
    config: Arc<Config>,
    /// Counted from 0.
    number: usize,
    /// The resource that has the config.
    installs: Point,
    /// What asked for that resource, if a statement did.
    by: Option<Arc<Asked>>,
}

impl Asked {
    /// Says of a problem where it was met.
    fn tell(&self, mut problem: Problem) -> Problem {
        problem.detail = format!("installing `{}`: {}", self.installs, problem.detail);
        self.config.locate_installed(self.number, problem)
    }
}

fn check_depth(depth: usize) -> Result<(), Problem> {
    if depth < INSTALL_DEPTH_MAX {
        return Ok(());
    }
    let detail = format!("installs go {INSTALL_DEPTH_MAX} deep at most, and this one goes deeper");
    Err(Problem::new(Code::ConfigSyntax, detail).help("let no config install what installs it again"))
}

fn not_installed() -> Problem {
    Problem::new(Code::ConfigSyntax, "an Install holds `create` and `set` statements only")
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
