//! What happened: the commits that are still kept.

use std::collections::VecDeque;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;
use starlane_core::{Agent, Point, Resource, Revision, Timestamp};

use super::records::{steps_of, unreadable};
use super::{Inner, Registry};
use crate::error::Error;
use crate::hub::Step;
use crate::packed::{Unpacker, unpack_meta};
use crate::store::{self, Batch};

/// Which part of the history is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum LogOf {
    /// What happened to a resource, newest first.
    Point(Point),
    /// What happened in some revisions, oldest first.
    Revisions(RangeInclusive<u64>),
}

/// One commit of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Which.
    pub revision: Revision,
    /// When, by the clock of the node that asked for it.
    pub time: Timestamp,
    /// On whose authority.
    pub agent: Agent,
    /// What it changed.
    pub changes: Vec<LogChange>,
}

/// What a commit changed of one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct LogChange {
    /// Which.
    pub point: Point,
    /// What it was; `None` when it was made.
    pub before: Option<Arc<Resource>>,
    /// What it became; `None` when it was deleted.
    pub after: Option<Arc<Resource>>,
}

impl Registry {
    /// A part of the history, at most `limit` commits of it. What happened to a resource that is there is found directly; for
    /// one that is gone the whole history is read.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn log(&self, of: LogOf, limit: usize) -> Result<Vec<LogEntry>, Error> {
        match of {
            LogOf::Point(point) => self.inner.log_of_point(&point, limit).await,
            LogOf::Revisions(range) => {
                let (from, to) = range.into_inner();
                let to = to.min(self.inner.published().0);
                let from = from.max(self.inner.store.revisions().oldest.0);
                self.inner.log_range(Bytes::new(), from, to, limit).await
            }
        }
    }
}

impl Inner {
    async fn log_of_point(&self, point: &Point, limit: usize) -> Result<Vec<LogEntry>, Error> {
        let key = Bytes::copy_from_slice(point.as_str().as_bytes());
        let Some(resource) = self.view.read().get(point).cloned() else {
            return self.log_of_gone(point, key, limit).await;
        };
        // Each change knows the one before it.
        let mut entries = Vec::new();
        let mut next = Some(resource.modified);
        while let Some(revision) = next.filter(|revision| *revision >= self.store.revisions().oldest) {
            if entries.len() >= limit {
                break;
            }
            let Some(mut entry) = self.log_range(key.clone(), revision.0, revision.0, 1).await?.pop() else {
                break;
            };
            entry.changes.retain(|change| change.point == *point);
            let Some(change) = entry.changes.first() else { break };
            next = change.before.as_ref().map(|before| before.modified);
            entries.push(entry);
        }
        Ok(entries)
    }

    /// What is still known of a resource that is no longer there.
    async fn log_of_gone(&self, point: &Point, key: Bytes, limit: usize) -> Result<Vec<LogEntry>, Error> {
        let (from, to) = (self.store.revisions().oldest.0, self.published().0);
        let mut newest: VecDeque<LogEntry> = VecDeque::new();
        let mut unpacker = Unpacker::default();
        self.replay(key, from, to, |batch| {
            let mut entry = log_entry(&mut unpacker, batch)?;
            entry.changes.retain(|change| change.point == *point);
            if !entry.changes.is_empty() {
                newest.push_front(entry);
                newest.truncate(limit);
            }
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        Ok(newest.into())
    }

    async fn log_range(
        &self,
        prefix: Bytes,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, Error> {
        let mut entries = Vec::new();
        if limit == 0 {
            return Ok(entries);
        }
        let mut unpacker = Unpacker::default();
        self.replay(prefix, from, to, |batch| {
            entries.push(log_entry(&mut unpacker, batch)?);
            Ok(if entries.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
        .await?;
        Ok(entries)
    }

    /// Goes through the commits from one revision to another that touch keys which begin with `prefix`, as long as `each`
    /// says. Tells the oldest commit that is kept when the log no longer reached back that far.
    pub(super) async fn replay(
        &self,
        prefix: Bytes,
        from: u64,
        to: u64,
        mut each: impl FnMut(&Batch) -> Result<ControlFlow<()>, Error>,
    ) -> Result<Option<Revision>, Error> {
        if from > to || from == 0 {
            return Ok(None);
        }
        let mut commits = self.store.watch(prefix, Revision(from - 1));
        loop {
            match commits.next().await? {
                store::Event::Batch(batch) if batch.revision.0 > to => return Ok(None),
                store::Event::Batch(batch) => {
                    if each(&batch)?.is_break() || batch.revision.0 == to {
                        return Ok(None);
                    }
                }
                store::Event::Progress(revision) if revision.0 >= to => return Ok(None),
                store::Event::Progress(_) => {}
                store::Event::Compacted { oldest } => return Ok(Some(oldest)),
            }
        }
    }

    /// The oldest kept commit that is later than a time, or the one that comes next when none is; by bisection, since times
    /// grow with revisions, or nearly.
    pub(super) async fn first_after(&self, time: Timestamp) -> Result<Revision, Error> {
        let revisions = self.store.revisions();
        let (mut from, mut to) = (revisions.oldest.0, revisions.newest.0 + 1);
        if self.time_of(from).await?.is_some_and(|at| at > time) {
            return Ok(revisions.oldest);
        }
        while from < to {
            let middle = from + (to - from) / 2;
            match self.time_of(middle).await? {
                Some(at) if at > time => to = middle,
                _ => from = middle + 1,
            }
        }
        Ok(Revision(from))
    }

    async fn time_of(&self, revision: u64) -> Result<Option<Timestamp>, Error> {
        Ok(self.log_range(Bytes::new(), revision, revision, 1).await?.pop().map(|entry| entry.time))
    }
}

fn log_entry(unpacker: &mut Unpacker, batch: &Batch) -> Result<LogEntry, Error> {
    let (time, agent) = unpack_meta(&batch.meta).map_err(|_| unreadable(&Point::root()))?;
    let change = |step: Step| {
        let point = step.after.as_ref().or(step.before.as_ref())?.point.clone();
        Some(LogChange { point, before: step.before, after: step.after })
    };
    let changes = steps_of(unpacker, batch)?.into_iter().filter_map(change).collect();
    Ok(LogEntry { revision: batch.revision, time, agent, changes })
}
