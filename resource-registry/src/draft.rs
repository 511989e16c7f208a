//! What a command would change: the rules, checked against the view, without doing anything yet.
//!
//! A draft turns into the operations of one commit. Each says what it rests on, so that a commit which meets another's is
//! refused by the store, and drafted anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use starlane_core::{
    Assignment, Base, Code, CreateMode, Declared, Interest, Key, Kind, Names, Point, PointError, Problem,
    Properties, Property, PropertyChange, Resource, Revision, Sequence, Status,
    rules::{made_by_hand, may_be_at, may_stand_under},
};

use crate::error::Error;
use crate::packed::pack;
use crate::schema::{Compiled, Schema, Versions};
use crate::store::{Expect, LeaseId, Operation};
use crate::view::View;
use crate::{Create, Outcome, Provided};

/// The most properties of a resource.
const PROPERTIES_MAX: usize = 256;
/// The most bytes of a resource, as it is stored.
pub(crate) const RESOURCE_BYTES_MAX: usize = 32 * 1024;
/// The space that belongs to the mesh.
const MESH: &str = "mesh";
/// Keys of counters begin with this; those of resources are their points.
pub(crate) const SEQUENCE: u8 = 1;
/// How many sequences are remembered besides those in the view.
const COUNTERS_MAX: usize = 4_096;

/// The last numbers that this node gave out, which run ahead of those in the view.
#[derive(Default)]
pub(crate) struct Counters(HashMap<Point, u64>);

impl Counters {
    /// The resource that a sequence counted below is gone.
    pub(crate) fn forget(&mut self, parent: &Point) {
        self.0.remove(parent);
    }
}

/// Why a draft cannot go on.
pub(crate) enum Stop {
    Error(Error),
    /// The schema of this declaration must be loaded first.
    Load(Arc<Resource>),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(error.into())
    }
}

pub(crate) struct Draft<'a> {
    view: &'a View,
    compiled: &'a Compiled,
    /// Whether a user asks, who may not make everything.
    by_hand: bool,
    /// Whether nothing is going to be committed, so that a kind may be one that this draft declares.
    only_checks: bool,
    changed: BTreeMap<Point, Option<Body>>,
    /// What this draft wrote before it took it away again.
    gone: BTreeMap<Point, Body>,
    /// What was found there and left as it is.
    found: BTreeMap<Point, Arc<Resource>>,
    counters: &'a Mutex<Counters>,
    /// Held from the first number of this draft on, until it is queued.
    counting: Option<MutexGuard<'a, Counters>>,
    /// The last number that this draft took below a point.
    numbers: BTreeMap<Point, u64>,
    lease: Option<LeaseId>,
    /// What must have been made by which commit.
    provided: Option<(Point, Revision)>,
}

#[derive(Clone, PartialEq)]
struct Body {
    kind: Kind,
    properties: Properties,
    status: Status,
}

impl Body {
    fn of(resource: &Resource) -> Self {
        Self {
            kind: resource.kind.clone(),
            properties: resource.properties.clone(),
            status: resource.status.clone(),
        }
    }
}

impl<'a> Draft<'a> {
    pub(crate) fn new(
        view: &'a View,
        compiled: &'a Compiled,
        counters: &'a Mutex<Counters>,
        by_hand: bool,
    ) -> Self {
        Self {
            view,
            compiled,
            by_hand,
            only_checks: false,
            changed: BTreeMap::new(),
            gone: BTreeMap::new(),
            found: BTreeMap::new(),
            counters,
            counting: None,
            numbers: BTreeMap::new(),
            lease: None,
            provided: None,
        }
    }

    /// Stands for several commits that are made later, if at all.
    pub(crate) fn only_check(mut self) -> Self {
        self.only_checks = true;
        self
    }

    /// Checks what must hold, now and when it is committed.
    pub(crate) fn provide(&mut self, provided: &Provided) -> Result<(), Error> {
        let (Provided::Absent(point) | Provided::MadeBy(point, _) | Provided::At(point, _)) = provided;
        match (provided, self.view.get(point)) {
            // Changing it will expect so too.
            (Provided::At(_, expected), _) => self.expect(point, Some(*expected))?,
            // Making it will expect so too.
            (Provided::Absent(_), None) => {}
            (Provided::Absent(_), Some(there)) => {
                return Err(Error::Exists { point: point.clone(), kind: there.kind.clone() });
            }
            (Provided::MadeBy(_, revision), Some(there)) if there.created == *revision => {
                self.provided = Some((point.clone(), *revision));
            }
            (Provided::MadeBy(..), _) => return Err(Error::NotFound(point.clone())),
        }
        Ok(())
    }

    /// What is made hangs on a lease.
    pub(crate) fn hang_on(&mut self, lease: Option<LeaseId>) {
        self.lease = lease;
    }

    /// The next point of a sequence, where nothing is.
    pub(crate) fn next_of(&mut self, sequence: &Sequence) -> Result<Point, Error> {
        let (view, parent) = (self.view, &sequence.parent);
        let counters = self.counting.get_or_insert_with(|| self.counters.lock());
        if counters.0.len() >= COUNTERS_MAX {
            counters.0.retain(|parent, number| view.sequence(parent) < *number);
        }
        let last = self.numbers.get(parent).or(counters.0.get(parent)).copied().unwrap_or_default();
        let mut number = last.max(view.sequence(parent));
        loop {
            number += 1;
            let point = sequence
                .point(number)
                .map_err(|error: PointError| Problem::new(Code::PointSyntax, error.to_string()).at(parent))?;
            if view.get(&point).is_none() && !self.changed.contains_key(&point) {
                self.numbers.insert(parent.clone(), number);
                return Ok(point);
            }
        }
    }

    pub(crate) fn create(&mut self, point: &Point, create: &Create) -> Result<Outcome, Stop> {
        if let Some(existing) = self.current(point) {
            let mismatch = Error::KindMismatch {
                point: point.clone(),
                is: existing.kind.clone(),
                asked: Box::new(create.kind.clone()),
            };
            return match create.mode {
                CreateMode::New => {
                    Err(Error::Exists { point: point.clone(), kind: existing.kind.clone() }.into())
                }
                _ if *existing.kind != create.kind => Err(mismatch.into()),
                CreateMode::Ensure => {
                    self.find(point);
                    Ok(Outcome::Existed)
                }
                CreateMode::Override => {
                    self.check_owner(point, &create.kind)?;
                    let mut body = self.body(point)?;
                    let stays = |key: &Key, property: &Property| property.locked || is_set_by_mesh(key);
                    let kept = body.properties.iter().filter(|(key, property)| stays(key, property));
                    let kept = kept.map(|(key, property)| (key.clone(), property.clone())).collect();
                    body.properties = self.changed(point, kept, &create.changes)?;
                    body.status = create.status.clone();
                    self.write(point, body)?;
                    Ok(Outcome::Replaced)
                }
            };
        }
        self.check_owner(point, &create.kind)?;
        self.check_place(point, &create.kind)?;
        let properties = self.changed(point, Properties::new(), &create.changes)?;
        let body = Body { kind: create.kind.clone(), properties, status: create.status.clone() };
        self.write(point, body)?;
        Ok(Outcome::New)
    }

    /// Makes a resource, or brings one that is there to this state.
    pub(crate) fn put(&mut self, point: &Point, create: &Create) -> Result<Outcome, Stop> {
        if self.current(point).is_none() {
            return self.create(point, create);
        }
        let mut body = self.body(point)?;
        if body.kind != create.kind {
            return self.create(point, &Create { mode: CreateMode::Ensure, ..create.clone() });
        }
        let before = body.clone();
        body.properties = self.changed(point, body.properties, &create.changes)?;
        body.status = create.status.clone();
        if body == before {
            self.find(point);
            return Ok(Outcome::Existed);
        }
        self.write(point, body)?;
        Ok(Outcome::Replaced)
    }

    fn find(&mut self, point: &Point) {
        if let Some(found) = self.view.get(point) {
            self.found.insert(point.clone(), found.clone());
        }
    }

    pub(crate) fn set(&mut self, point: &Point, changes: &[PropertyChange]) -> Result<(), Stop> {
        let mut body = self.body(point)?;
        if self.by_hand && matches!(body.kind.base, Base::Bundle | Base::Artifact) {
            return Err(published(point, "changed", "publish the next version of the bundle").into());
        }
        body.properties = self.changed(point, body.properties, changes)?;
        self.write(point, body)
    }

    pub(crate) fn set_status(&mut self, point: &Point, status: &Status) -> Result<(), Stop> {
        let mut body = self.body(point)?;
        body.status = status.clone();
        self.write(point, body)
    }

    /// Takes a resource away; its children must be gone before, in this draft or for real.
    pub(crate) fn delete(&mut self, point: &Point) -> Result<Kind, Stop> {
        let kind = self.body(point)?.kind;
        self.check_deletable(point)?;
        let mut children = self.view.children(point).filter(|child| self.current(&child.point).is_some());
        let drafted = || {
            let mut drafted = self.changed.iter().filter(|(_, body)| body.is_some()).map(|(below, _)| below);
            drafted.find(|below| *below != point && point.contains(below)).cloned()
        };
        if let Some(child) = children.next().map(|child| child.point.clone()).or_else(drafted) {
            let more = children.next().is_some();
            return Err(Error::HasChildren { point: point.clone(), child, more }.into());
        }
        if let Some(Some(written)) = self.changed.insert(point.clone(), None) {
            self.gone.insert(point.clone(), written);
        }
        Ok(kind)
    }

    pub(crate) fn expect(&self, point: &Point, expected: Option<Revision>) -> Result<(), Error> {
        let Some(expected) = expected else { return Ok(()) };
        match self.view.get(point) {
            None => Err(Error::NotFound(point.clone())),
            Some(resource) if resource.modified != expected => {
                Err(Error::RevisionConflict { point: point.clone(), expected, found: resource.modified })
            }
            Some(_) => Ok(()),
        }
    }

    /// Whether users may take a resource away.
    pub(crate) fn check_deletable(&self, point: &Point) -> Result<(), Error> {
        let own = point.is_root() || (self.by_hand && is_the_meshs(point));
        if own { Err(Error::Reserved(point.clone())) } else { Ok(()) }
    }

    /// Whether users may take all of these away at once: what a bundle holds goes with the bundle alone.
    pub(crate) fn check_whole(&self, points: &[Point]) -> Result<(), Error> {
        if !self.by_hand {
            return Ok(());
        }
        let going: BTreeSet<&Point> = points.iter().collect();
        let torn = |point: &&Point| {
            let artifact = self.view.get(point).is_some_and(|resource| resource.kind.base == Base::Artifact);
            artifact && !going.contains(&point.holder())
        };
        match points.iter().find(torn) {
            None => Ok(()),
            Some(point) => {
                let help = format!("delete the whole bundle: `starlane delete -r {}`", point.holder());
                Err(published(point, "deleted", help))
            }
        }
    }

    /// Checks that a resource that was changed can be stored.
    pub(crate) fn check_size(&self, point: &Point) -> Result<(), Error> {
        match self.changed.get(point) {
            Some(Some(body)) => packed(point, body).map(drop),
            _ => Ok(()),
        }
    }

    /// What is to be committed.
    pub(crate) fn finish(self) -> Result<Finished<'a>, Error> {
        let mut operations = Vec::new();
        let mut guards = BTreeSet::new();
        for (point, body) in &self.changed {
            let before = self.view.get(point);
            let key = Bytes::copy_from_slice(point.as_str().as_bytes());
            match (before, body) {
                (None, None) => {}
                (Some(before), None) => {
                    operations.push(Operation::delete(key, Expect::At(before.modified)));
                    let above = point.parent().is_some_and(|above| self.is_deleted(&above));
                    if !above {
                        let below = Operation::guard(below(point), Expect::QuietBelow(self.view.revision));
                        operations.push(below);
                    }
                    if self.view.sequence(point) > 0 {
                        operations.push(Operation::delete(sequence_key(point), Expect::Any));
                    }
                }
                (before, Some(body)) => {
                    if before.is_some_and(|before| Body::of(before) == *body) {
                        continue;
                    }
                    let value = packed(point, body)?;
                    let expect = before.map_or(Expect::Absent, |before| Expect::At(before.modified));
                    let mut put = Operation::put(key, expect, value);
                    if let crate::store::Action::Put { lease, .. } = &mut put.action {
                        *lease = self.lease;
                    }
                    operations.push(put);
                    let parent = point.parent().filter(|parent| {
                        before.is_none() && !parent.is_root() && !self.changed.contains_key(parent)
                    });
                    guards.extend(parent);
                }
            }
        }
        for parent in guards {
            // The one that was looked at, which had the right kind, and not another that was made in its place.
            let expect =
                self.view.get(&parent).map_or(Expect::Present, |above| Expect::MadeBy(above.created));
            operations.push(Operation::guard(parent.as_str().to_owned(), expect));
        }
        if let Some((point, revision)) = &self.provided {
            operations.push(Operation::guard(point.as_str().to_owned(), Expect::MadeBy(*revision)));
        }
        for (parent, number) in &self.numbers {
            let number = number.to_le_bytes().to_vec();
            operations.push(Operation::put(sequence_key(parent), Expect::Grows, number));
        }
        let mut gone = self.gone;
        let mut results: BTreeMap<Point, Became> =
            self.found.into_iter().map(|(point, found)| (point, Became::Left(found))).collect();
        for (point, body) in self.changed {
            let before = self.view.get(&point);
            let Some(body) = body.or_else(|| gone.remove(&point)) else { continue };
            let became = match before {
                Some(before) if Body::of(before) == body => Became::Left(before.clone()),
                before => Became::Written {
                    body,
                    created: before.map(|before| before.created),
                    version: before.map_or(0, |before| before.version) + 1,
                },
            };
            results.insert(point, became);
        }
        let counting = self.counting.map(|counters| Counting { counters, numbers: self.numbers });
        Ok(Finished { operations, results: Results(results), counting })
    }

    fn is_deleted(&self, point: &Point) -> bool {
        matches!(self.changed.get(point), Some(None))
    }

    fn current(&self, point: &Point) -> Option<Current<'_>> {
        match self.changed.get(point) {
            Some(body) => body.as_ref().map(|body| Current { kind: &body.kind }),
            None => self.view.get(point).map(|resource| Current { kind: &resource.kind }),
        }
    }

    fn body(&self, point: &Point) -> Result<Body, Error> {
        if point.is_root() {
            return Err(Error::Reserved(point.clone()));
        }
        let body = match self.changed.get(point) {
            Some(body) => body.clone(),
            None => self.view.get(point).map(|resource| Body::of(resource)),
        };
        body.ok_or_else(|| Error::NotFound(point.clone()))
    }

    fn write(&mut self, point: &Point, mut body: Body) -> Result<(), Stop> {
        if body.properties.len() > PROPERTIES_MAX {
            return Err(Error::TooLarge(format!(
                "`{point}` would have {} properties; a resource has at most {PROPERTIES_MAX}",
                body.properties.len()
            ))
            .into());
        }
        if body.kind.base == Base::Kind
            && let Err(errors) = Declared::of(&body.properties)
        {
            return Err(Error::Invalid { point: point.clone(), kind: body.kind, errors }.into());
        }
        if let Some(schema) = self.schema(point, &body.kind)? {
            let assigned: Properties = body.properties.extract_if(.., |key, _| is_set_by_mesh(key)).collect();
            schema.fill(&mut body.properties);
            schema.type_values(&mut body.properties);
            let errors = schema.check(&body.properties);
            if !errors.is_empty() {
                return Err(Error::Invalid { point: point.clone(), kind: body.kind, errors }.into());
            }
            body.properties.extend(assigned);
        }
        self.changed.insert(point.clone(), Some(body));
        Ok(())
    }

    /// The properties after some changes.
    fn changed(
        &self,
        point: &Point,
        properties: Properties,
        changes: &[PropertyChange],
    ) -> Result<Properties, Error> {
        if self.by_hand
            && let Some(change) = changes.iter().find(|change| is_set_by_mesh(change.key()))
        {
            return Err(Error::Assigned { point: point.clone(), key: change.key().clone() });
        }
        changed(point, properties, changes)
    }

    /// Whether users may make something there.
    fn check_owner(&self, point: &Point, kind: &Kind) -> Result<(), Error> {
        if !self.by_hand {
            return Ok(());
        }
        made_by_hand(&kind.base).map_err(|problem| problem.at(point))?;
        if is_the_meshs(point) {
            return Err(Error::Reserved(point.clone()));
        }
        Ok(())
    }

    fn check_place(&self, point: &Point, kind: &Kind) -> Result<(), Stop> {
        if self.by_hand || point.as_str() != MESH {
            may_be_at(&kind.base, point)?;
        }
        // An unknown kind is the more useful thing to say than a missing parent.
        self.schema(point, kind)?;
        let Some(parent) = point.parent() else { return Err(Error::Reserved(point.clone()).into()) };
        let Some(above) = self.current(&parent) else {
            return Err(Error::ParentMissing { point: point.clone(), parent }.into());
        };
        let above = above.kind.base.clone();
        let declaration = self.declaration(point, kind)?;
        if declaration.is_none() && matches!(kind.base, Base::Custom(_)) {
            // It is only rehearsed, and what its declaration would say is not known yet.
            return Ok(());
        }
        // What was declared by an older version, and is wrong for this one, says nothing.
        let declared = declaration.and_then(|kind| Declared::of(&kind.properties).ok());
        match declared.and_then(|declared| declared.parents) {
            Some(parents) if parents.contains(&above) => {}
            Some(parents) => {
                let detail = format!(
                    "a resource of kind `{kind}` cannot stand under `{parent}`, a `{}`",
                    above.as_str()
                );
                let help = format!("its declaration says where it may: under {}", Names(&parents));
                return Err(Problem::new(Code::KindParent, detail).at(point).help(help).into());
            }
            None => {
                may_stand_under(&kind.base, &above, &parent).map_err(|problem: Problem| problem.at(point))?;
            }
        }
        Ok(())
    }

    /// The schema of a user's kind, when it has one.
    fn schema(&self, point: &Point, kind: &Kind) -> Result<Option<Arc<Schema>>, Stop> {
        let Some(declaration) = self.declaration(point, kind)? else { return Ok(None) };
        let Some(source) = declaration.property("schema") else { return Ok(None) };
        let source = source.as_point().and_then(|source| self.view.get(&source));
        match self.compiled.get(&declaration.point, Versions::of(declaration, source)) {
            Some(schema) => Ok(Some(schema)),
            None => Err(Stop::Load(declaration.clone())),
        }
    }

    /// What declares a user's kind at a point; `None` for a kind that is built in, and for one that a rehearsal itself declares.
    fn declaration(&self, point: &Point, kind: &Kind) -> Result<Option<&'a Arc<Resource>>, Error> {
        let Base::Custom(name) = &kind.base else { return Ok(None) };
        let mut declarations = [point.space().unwrap_or_default(), "mesh"]
            .into_iter()
            .filter_map(|space| format!("{space}:kinds:{}", name.to_kebab()).parse::<Point>().ok());
        let view: &'a View = self.view;
        let declared = declarations.clone().find_map(|declaration| {
            let declaration = view.get(&declaration)?;
            (declaration.kind.base == Base::Kind).then_some(declaration)
        });
        if declared.is_some() {
            return Ok(declared);
        }
        let drafted = |declaration: Point| {
            self.current(&declaration).is_some_and(|declared| declared.kind.base == Base::Kind)
        };
        if self.only_checks && declarations.any(drafted) {
            return Ok(None);
        }
        let declared = self.declared(point);
        Err(Error::KindUnknown { point: point.clone(), kind: kind.clone(), declared })
    }

    /// The names of the kinds that are declared for a space.
    fn declared(&self, point: &Point) -> Vec<String> {
        let spaces = [point.space().unwrap_or_default(), "mesh"];
        let kinds = spaces.iter().filter_map(|space| format!("{space}:kinds").parse::<Point>().ok());
        kinds
            .flat_map(|kinds| {
                let children = self.view.children(&kinds).take(PROPERTIES_MAX);
                children.map(|kind| kind.point.last().to_owned()).collect::<Vec<_>>()
            })
            .filter_map(|segment| starlane_core::Name::from_kebab(&segment))
            .map(|name| name.as_str().to_owned())
            .collect()
    }
}

struct Current<'a> {
    kind: &'a Kind,
}

/// A draft that is ready to be committed.
pub(crate) struct Finished<'a> {
    /// None that changes anything when nothing changes.
    pub(crate) operations: Vec<Operation>,
    pub(crate) results: Results,
    /// While this is held nobody else counts.
    pub(crate) counting: Option<Counting<'a>>,
}

/// The numbers that a draft took, while nobody else counts. They are given again unless it is queued.
pub(crate) struct Counting<'a> {
    counters: MutexGuard<'a, Counters>,
    numbers: BTreeMap<Point, u64>,
}

impl Counting<'_> {
    /// The draft is queued, so whoever counts next goes on from there.
    pub(crate) fn queued(mut self) {
        self.counters.0.extend(self.numbers);
    }
}

/// What the resources of a draft are after its commit, whatever others do after that.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<Point, Became>);

enum Became {
    Left(Arc<Resource>),
    Written { body: Body, created: Option<Revision>, version: u64 },
}

impl Results {
    /// The resource as the commit of a revision made or left it.
    pub(crate) fn resource(&self, point: &Point, revision: Revision) -> Result<Arc<Resource>, Error> {
        let became = self.0.get(point).ok_or_else(|| Error::NotFound(point.clone()))?;
        Ok(match became {
            Became::Left(resource) => resource.clone(),
            Became::Written { body, created, version } => Arc::new(Resource {
                point: point.clone(),
                kind: body.kind.clone(),
                properties: body.properties.clone(),
                status: body.status.clone(),
                created: created.unwrap_or(revision),
                modified: revision,
                version: *version,
            }),
        })
    }
}

/// A resource as it is stored.
fn packed(point: &Point, body: &Body) -> Result<Bytes, Error> {
    let value = pack(&body.kind, &body.properties, &body.status);
    if value.len() <= RESOURCE_BYTES_MAX {
        return Ok(value);
    }
    Err(Error::TooLarge(format!(
        "`{point}` would have {} bytes; a resource has at most {RESOURCE_BYTES_MAX}: keep what is larger in a file",
        value.len()
    )))
}

/// The properties after some changes.
fn changed(
    point: &Point,
    mut properties: Properties,
    changes: &[PropertyChange],
) -> Result<Properties, Error> {
    for change in changes {
        let key: &Key = change.key();
        let before = properties.get(key);
        let kept = match change {
            PropertyChange::Set { value, .. } => before.is_some_and(|before| before.value == *value),
            PropertyChange::Unset(_) => before.is_none(),
        };
        if before.is_some_and(|before| before.locked) && !kept {
            return Err(Error::PropertyLocked { point: point.clone(), key: key.clone() });
        }
        match change {
            PropertyChange::Set { key, value, lock } => {
                let locked = *lock || before.is_some_and(|before| before.locked);
                properties.insert(key.clone(), Property { value: value.clone(), locked });
            }
            PropertyChange::Unset(key) => {
                properties.remove(key);
            }
        }
    }
    Ok(properties)
}

/// A published bundle stays as it is.
fn published(point: &Point, what: &str, help: impl Into<String>) -> Error {
    let detail = format!("`{point}` cannot be {what}: a published bundle never changes");
    Problem::new(Code::KindReserved, detail).at(point).help(help).into()
}

/// Whether a point is in the space of the mesh and not where users declare kinds.
/// Whether only the mesh writes the property.
fn is_set_by_mesh(key: &Key) -> bool {
    Assignment::owns(key) || Interest::owns(key)
}

fn is_the_meshs(point: &Point) -> bool {
    let declares = || point.parent().is_some_and(|parent| parent.as_str() == "mesh:kinds");
    point.space() == Some(MESH) && !declares()
}

/// What the keys of all resources below a point begin with.
pub(crate) fn below(point: &Point) -> Bytes {
    if point.is_root() {
        return Bytes::new();
    }
    let text = point.as_str();
    if point.is_directory() { text.to_owned().into() } else { format!("{text}:").into() }
}

fn sequence_key(parent: &Point) -> Bytes {
    [&[SEQUENCE][..], parent.as_str().as_bytes()].concat().into()
}
