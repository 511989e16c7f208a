//! What happened: the commits that are still kept.

use std::ops::RangeInclusive;
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
            let (from, to) = (self.store.revisions().oldest.0, self.published().0);
            let all = self.log_range(key, from, to, usize::MAX).await?;
            let exactly = all.into_iter().rev().filter_map(|mut entry| {
                entry.changes.retain(|change| change.point == *point);
                (!entry.changes.is_empty()).then_some(entry)
            });
            return Ok(exactly.take(limit).collect());
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

    async fn log_range(
        &self,
        prefix: Bytes,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, Error> {
        let mut entries = Vec::new();
        if from > to || from == 0 {
            return Ok(entries);
        }
        let mut commits = self.store.watch(prefix, Revision(from - 1));
        let mut unpacker = Unpacker::default();
        while entries.len() < limit {
            match commits.next().await? {
                store::Event::Batch(batch) if batch.revision.0 > to => break,
                store::Event::Batch(batch) => {
                    let last = batch.revision.0 == to;
                    entries.push(log_entry(&mut unpacker, &batch)?);
                    if last {
                        break;
                    }
                }
                store::Event::Progress(revision) if revision.0 >= to => break,
                store::Event::Progress(_) => {}
                store::Event::Compacted { .. } => break,
            }
        }
        Ok(entries)
    }

    pub(super) async fn time_of(&self, revision: u64) -> Result<Option<Timestamp>, Error> {
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
