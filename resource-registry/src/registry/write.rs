//! Making and changing resources: a draft becomes a commit, again when somebody else was faster.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use starlane_core::{
    Agent, Assignment, CreateMode, Kind, Point, PropertyChange, Resource, Revision, Status, Target,
};

use super::{
    BATCH_MAX, Create, Created, Done, Inner, Op, Outcome, Provided, RESERVED_BATCH_MAX, Registry, Reserved,
};
use crate::draft::{Draft, Results, Stop};
use crate::error::Error;
use crate::locks::Claim;
use crate::packed::pack_meta;
use crate::store::{self, Action, Commit, OPERATIONS_MAX};

/// How often a commit that met another's is drafted anew.
pub(super) const ATTEMPTS_MAX: usize = 16;

impl Registry {
    /// Makes a resource.
    ///
    /// # Errors
    /// When it is there already and must not be, or a rule refuses it.
    pub async fn create(&self, by: &Agent, create: Create) -> Result<Created, Error> {
        match self.batch(by, vec![Op::Create(create)]).await?.pop() {
            Some(Done::Created(created)) => Ok(created),
            _ => Err(store::Error::Closed.into()),
        }
    }

    /// Changes properties, all or none. What changes nothing makes no commit.
    ///
    /// # Errors
    /// When the resource is missing or at another revision than `expect`, or a rule refuses it.
    pub async fn set(
        &self,
        by: &Agent,
        point: &Point,
        changes: Vec<PropertyChange>,
        expect: Option<Revision>,
    ) -> Result<Arc<Resource>, Error> {
        self.change(by, Op::Set { point: point.clone(), changes, expect }).await
    }

    /// Changes the status.
    ///
    /// # Errors
    /// When the resource is missing.
    pub async fn set_status(
        &self,
        by: &Agent,
        point: &Point,
        status: Status,
    ) -> Result<Arc<Resource>, Error> {
        self.change(by, Op::SetStatus { point: point.clone(), status }).await
    }

    async fn change(&self, by: &Agent, op: Op) -> Result<Arc<Resource>, Error> {
        match self.batch(by, vec![op]).await?.pop() {
            Some(Done::Changed(resource)) => Ok(resource),
            _ => Err(store::Error::Closed.into()),
        }
    }

    /// Does several things at once or not at all; later ones see the earlier. When a kind's properties are to be indexed, it answers
    /// when they are.
    ///
    /// # Errors
    /// That of the first part that fails; more than [`BATCH_MAX`] parts are too many.
    pub async fn batch(&self, by: &Agent, ops: Vec<Op>) -> Result<Vec<Done>, Error> {
        if ops.len() > BATCH_MAX {
            return Err(Error::TooLarge(format!(
                "a batch has at most {BATCH_MAX} parts, this one {}",
                ops.len()
            )));
        }
        self.inner.check_declarations(&ops).await.map_err(|(_, error)| error)?;
        let done = self.inner.batch(by, &ops).await?;
        if ops.iter().any(may_index) {
            self.inner.filled().await;
        }
        Ok(done)
    }

    /// Says which nodes act for a resource, and how it is, each if it is given: for the leader of the registry's nodes alone,
    /// who says by `provided` that it still is. A later assignment has a greater epoch; `expect` is what must have changed the
    /// resource last, if that matters.
    ///
    /// # Errors
    /// When the resource is missing or at another revision than `expect`, or what must hold does not.
    pub async fn assign(
        &self,
        by: &Agent,
        point: &Point,
        assignment: Option<&Assignment>,
        status: Option<&Status>,
        expect: Option<Revision>,
        provided: Option<&Provided>,
    ) -> Result<Arc<Resource>, Error> {
        let changes = assignment.map(Assignment::changes).unwrap_or_default();
        self.write_note(by, point, &changes, status, expect, provided).await
    }

    /// Writes what the mesh alone knows of a resource of whomever: properties that users cannot set, and how it is if that is
    /// given. `expect` is what must have changed it last.
    ///
    /// # Errors
    /// When the resource is missing or at another revision than `expect`.
    pub async fn note(
        &self,
        by: &Agent,
        point: &Point,
        changes: &[PropertyChange],
        status: Option<&Status>,
        expect: Revision,
    ) -> Result<Arc<Resource>, Error> {
        self.write_note(by, point, changes, status, Some(expect), None).await
    }

    async fn write_note(
        &self,
        by: &Agent,
        point: &Point,
        changes: &[PropertyChange],
        status: Option<&Status>,
        expect: Option<Revision>,
        provided: Option<&Provided>,
    ) -> Result<Arc<Resource>, Error> {
        let claim = Claim { here: vec![point.clone()], ..Claim::default() };
        let _held = self.inner.locks.take(claim).await;
        let committed = self
            .inner
            .commit(by, false, |draft| {
                if let Some(provided) = provided {
                    draft.provide(provided)?;
                }
                draft.expect(point, expect)?;
                draft.set(point, changes)?;
                status.map_or(Ok(()), |status| draft.set_status(point, status))
            })
            .await?;
        committed.resource(point)
    }

    /// Makes a resource of any kind, or brings it to this state: for what the mesh makes itself.
    ///
    /// # Errors
    /// As [`Registry::create`].
    pub async fn put_reserved(&self, by: &Agent, reserved: Reserved) -> Result<Created, Error> {
        match self.put_all_reserved(by, vec![reserved]).await?.pop() {
            Some(created) => Ok(created),
            None => Err(store::Error::Closed.into()),
        }
    }

    /// Makes several resources at once or none, as [`Registry::put_reserved`]; parents before children.
    ///
    /// # Errors
    /// That of the first that fails; more than [`RESERVED_BATCH_MAX`] are too many.
    pub async fn put_all_reserved(&self, by: &Agent, reserved: Vec<Reserved>) -> Result<Vec<Created>, Error> {
        self.put_all_reserved_if(by, reserved, None).await
    }

    /// As [`Registry::put_all_reserved`], when something holds.
    ///
    /// # Errors
    /// [`Error::Exists`] when something is there that must not be, [`Error::NotFound`] when what must be there is gone,
    /// [`Error::RevisionConflict`] when it was changed.
    pub async fn put_all_reserved_if(
        &self,
        by: &Agent,
        reserved: Vec<Reserved>,
        provided: Option<&Provided>,
    ) -> Result<Vec<Created>, Error> {
        if reserved.len() > RESERVED_BATCH_MAX {
            return Err(Error::TooLarge(format!(
                "a batch has at most {RESERVED_BATCH_MAX} parts, this one {}",
                reserved.len()
            )));
        }
        let here = reserved.iter().map(|reserved| reserved.point.clone()).collect();
        let claim = Claim { here, ..Claim::default() };
        let _held = self.inner.locks.take(claim).await;
        let committed = self
            .inner
            .commit(by, false, |draft| {
                if let Some(provided) = provided {
                    draft.provide(provided)?;
                }
                let put = |reserved: &Reserved| {
                    draft.hang_on(reserved.lease);
                    let create = Create {
                        mode: CreateMode::New,
                        target: Target::Point(reserved.point.clone()),
                        kind: reserved.kind.clone(),
                        changes: reserved.changes.clone(),
                        status: reserved.status.clone(),
                    };
                    draft.put(&reserved.point, &create)
                };
                reserved.iter().map(put).collect::<Result<Vec<_>, Stop>>()
            })
            .await?;
        let created = |(reserved, outcome): (&Reserved, &Outcome)| {
            Ok(Created { resource: committed.resource(&reserved.point)?, outcome: *outcome })
        };
        reserved.iter().zip(&committed.value).map(created).collect()
    }
}

impl Inner {
    pub(super) fn meta(&self, by: &Agent) -> Bytes {
        pack_meta((self.config.now)(), by)
    }

    /// Drafts and commits, again when somebody else was faster. The caller holds what it changes.
    ///
    /// What a draft finds in the way, or finds done already, may be the past: others commit too. It is believed when the
    /// view shows all that was acknowledged before the call.
    pub(super) async fn commit<T>(
        &self,
        by: &Agent,
        by_hand: bool,
        mut plan: impl FnMut(&mut Draft<'_>) -> Result<T, Stop>,
    ) -> Result<Committed<T>, Error> {
        let mut fresh = false;
        for _ in 0..ATTEMPTS_MAX {
            let turn = self.commits.acquire().await.map_err(|_| store::Error::Closed)?;
            let (seen, planned) = {
                let view = self.view.read();
                let mut draft = Draft::new(&view, &self.compiled, &self.counters, by_hand);
                let planned = match plan(&mut draft) {
                    Ok(value) => self.send(by, draft, value),
                    Err(Stop::Error(error)) => Planned::Settled(Err(error)),
                    Err(Stop::Load(declaration)) => Planned::Load(declaration),
                };
                (view.revision, planned)
            };
            match planned {
                Planned::Sent(value, results, sent) => match sent.await {
                    Ok(revision) => {
                        self.reach(revision).await.map_err(|error| unseen(revision, error))?;
                        return Ok(Committed { value, results, revision });
                    }
                    Err(store::Error::Conflict { revision, .. }) => self.reach(revision).await?,
                    Err(error) => return Err(error.into()),
                },
                Planned::Settled(result) => {
                    drop(turn);
                    if fresh || self.fresh().await? <= seen {
                        return result;
                    }
                    fresh = true;
                }
                Planned::Load(declaration) => {
                    drop(turn);
                    self.load_schema(&declaration).await?;
                }
            }
        }
        Err(Error::Busy("others keep changing the same resources"))
    }

    /// Queues the commit of a draft.
    fn send<T>(&self, by: &Agent, draft: Draft<'_>, value: T) -> Planned<T> {
        let finished = match draft.finish() {
            Ok(finished) => finished,
            Err(error) => return Planned::Settled(Err(error)),
        };
        let (operations, results) = (finished.operations, finished.results);
        if operations.len() > OPERATIONS_MAX {
            return Planned::Settled(Err(Error::TooLarge(format!(
                "the batch needs {} operations; a commit has at most {OPERATIONS_MAX}: split it",
                operations.len()
            ))));
        }
        if operations.iter().all(|operation| operation.action == Action::Keep) {
            return Planned::Settled(Ok(Committed { value, results, revision: Revision(0) }));
        }
        let sent = self.store.commit(Commit { fence: None, meta: self.meta(by), operations });
        // Numbers are queued in the order in which they grow: whoever counts next waited until here.
        if let Some(counting) = finished.counting {
            counting.queued();
        }
        Planned::Sent(value, results, sent)
    }

    async fn batch(&self, by: &Agent, ops: &[Op]) -> Result<Vec<Done>, Error> {
        let mut claim = Claim::default();
        for op in ops {
            match op {
                Op::Create(Create { target: Target::Sequence(sequence), .. }) => {
                    claim.under.push(sequence.parent.clone());
                }
                Op::Create(Create { target: Target::Point(point), .. })
                | Op::Set { point, .. }
                | Op::SetStatus { point, .. } => claim.here.push(point.clone()),
                Op::Delete { point, .. } => claim.trees.push(point.clone()),
            }
        }
        let _held = self.locks.take(claim).await;
        let committed = self
            .commit(by, true, |draft| {
                for op in ops {
                    if let Op::Set { point, expect, .. } | Op::Delete { point, expect } = op {
                        draft.expect(point, *expect)?;
                    }
                }
                ops.iter().map(|op| part(draft, op)).collect::<Result<Vec<_>, Stop>>()
            })
            .await?;
        let done = |part: &Part| match part {
            Part::Created(point, outcome) => {
                Ok(Done::Created(Created { resource: committed.resource(point)?, outcome: *outcome }))
            }
            Part::Changed(point) => committed.resource(point).map(Done::Changed),
            Part::Deleted(point, kind) => {
                self.counters.lock().forget(point);
                Ok(Done::Deleted(point.clone(), kind.clone()))
            }
        };
        committed.value.iter().map(done).collect()
    }
}

/// Whether a part of a batch may say what is to be indexed.
fn may_index(op: &Op) -> bool {
    let changes = match op {
        Op::Create(create) => &create.changes,
        Op::Set { changes, .. } => changes,
        Op::SetStatus { .. } | Op::Delete { .. } => return false,
    };
    changes.iter().any(|change| change.key().as_str() == "indexed")
}

/// What a draft made of one part of a batch.
pub(super) enum Part {
    Created(Point, Outcome),
    Changed(Point),
    Deleted(Point, Kind),
}

impl Part {
    pub(super) fn point(&self) -> &Point {
        match self {
            Part::Created(point, _) | Part::Changed(point) | Part::Deleted(point, _) => point,
        }
    }
}

/// Drafts one part of a batch.
pub(super) fn part(draft: &mut Draft<'_>, op: &Op) -> Result<Part, Stop> {
    Ok(match op {
        Op::Create(create) => {
            let point = match &create.target {
                Target::Point(point) => point.clone(),
                Target::Sequence(sequence) => draft.next_of(sequence)?,
            };
            let outcome = draft.create(&point, create)?;
            Part::Created(point, outcome)
        }
        Op::Set { point, changes, .. } => {
            draft.set(point, changes)?;
            Part::Changed(point.clone())
        }
        Op::SetStatus { point, status } => {
            draft.set_status(point, status)?;
            Part::Changed(point.clone())
        }
        Op::Delete { point, .. } => Part::Deleted(point.clone(), draft.delete(point)?),
    })
}

/// What became of a draft.
enum Planned<T> {
    /// Its commit is queued.
    Sent(T, Results, BoxFuture<'static, Result<Revision, store::Error>>),
    /// It is refused, or changes nothing.
    Settled(Result<Committed<T>, Error>),
    /// The schema of this declaration must be loaded first.
    Load(Arc<Resource>),
}

/// A draft that was committed.
pub(super) struct Committed<T> {
    pub(super) value: T,
    results: Results,
    revision: Revision,
}

impl<T> Committed<T> {
    /// A resource as the commit made or left it; others may have changed it since.
    fn resource(&self, point: &Point) -> Result<Arc<Resource>, Error> {
        self.results.resource(point, self.revision)
    }
}

/// Something was written, and this node lost sight of it.
pub(super) fn unseen(revision: Revision, error: store::Error) -> store::Error {
    match error {
        store::Error::Unreachable { .. } => {
            let reason = format!("it was acknowledged as revision {revision}, then the registry was lost");
            store::Error::Unknown { reason: reason.into() }
        }
        error => error,
    }
}
