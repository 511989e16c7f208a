//! The store of another node, over calls.
//!
//! A commit is sent once. When its answer is lost, the caller is told that it may or may not have happened; nothing is
//! tried again behind its back. A watch asks for what came after the last commit that it was told, so that whatever is
//! lost on the way it misses nothing and repeats nothing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use starlane_core::{Code, Revision, Timestamp};
use tokio::time::Instant;

use super::newest::Newest;
use super::wire::{self, Answer, Request, Response};
use super::{
    Commit, Contact, Error, Event, LeaseId, ReadAt, Reading, Record, Revisions, Snapshot, Store, Watch,
};
use crate::exchange::Caller;
use crate::upstream::{Unanswered, Upstream};

/// How long a store on another node is waited for.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// How long a poll waits for the next commit before it is asked again: at most 20 s. Also how long it may take to notice
    /// that a poll was lost.
    pub poll_wait: Duration,
    /// How much longer than that its answer may take.
    pub poll_grace: Duration,
    /// How long a read may take.
    pub read_timeout: Duration,
    /// How long a commit may take before its outcome is unknown.
    pub commit_timeout: Duration,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            poll_wait: Duration::from_secs(5),
            poll_grace: Duration::from_secs(2),
            read_timeout: Duration::from_secs(5),
            commit_timeout: Duration::from_secs(10),
        }
    }
}

/// A store that is on another node. Cloning is cheap.
#[derive(Clone)]
pub struct RemoteStore {
    shared: Arc<Shared>,
}

struct Shared {
    caller: Caller,
    config: RemoteConfig,
    state: Mutex<State>,
    newest: Newest,
}

struct State {
    revisions: Revisions,
    watched: Option<Instant>,
    lost: Option<Arc<str>>,
}

impl RemoteStore {
    /// A store behind calls to a [`super::StoreService`]. Nothing is asked yet.
    pub fn new(upstream: Arc<dyn Upstream>, config: RemoteConfig) -> Self {
        let revisions = Revisions { newest: Revision(0), oldest: Revision(1) };
        Self {
            shared: Arc::new(Shared {
                caller: Caller::new(upstream),
                config,
                state: Mutex::new(State { revisions, watched: None, lost: None }),
                newest: Newest::default(),
            }),
        }
    }

    fn ask<T: Send + 'static>(
        &self,
        request: &Request,
        timeout: Duration,
        take: impl FnOnce(Answer) -> Option<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        let answer = self.shared.ask(request, timeout);
        async move { take(answer.await?).ok_or_else(unexpected) }.boxed()
    }

    fn write<T: Send + 'static>(
        &self,
        request: &Request,
        take: impl FnOnce(Answer) -> Option<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        self.ask(request, self.shared.config.commit_timeout, take)
    }
}

impl Shared {
    /// Sends a request when called.
    fn ask(
        self: &Arc<Self>,
        request: &Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, Error>> {
        let (only_reads, polled) = (request.only_reads(), matches!(request, Request::Poll { .. }));
        let call = self.caller.call(wire::encode(request), timeout);
        let shared = self.clone();
        async move {
            let result = call.await;
            shared.note(&result, polled);
            let unknown = |reason: Arc<str>| match only_reads {
                true => Error::Unreachable { reason },
                false => Error::Unknown { reason },
            };
            let response = result.map_err(|unanswered| unanswered.into_store_error(only_reads))?;
            let Ok(Response { revisions, result }) = wire::decode(&response) else {
                return Err(unknown("its answer cannot be read".into()));
            };
            {
                let mut state = shared.state.lock();
                state.revisions.newest = state.revisions.newest.max(revisions.newest);
                state.revisions.oldest = state.revisions.oldest.max(revisions.oldest);
            }
            result.map_err(|error| match error {
                Error::Closed => unknown("the registry's node is stopping".into()),
                error => error,
            })
        }
        .boxed()
    }

    /// Remembers whether the other side can be reached.
    fn note(&self, result: &Result<Bytes, Unanswered>, polled: bool) {
        let mut state = self.state.lock();
        match result {
            // It was there to say so.
            Err(Unanswered::Rejected(refusal)) if matches!(refusal.code, Code::Busy | Code::Unsupported) => {}
            Err(unanswered) => {
                let reason = unanswered.refusal().detail.clone();
                if state.lost.is_none() {
                    tracing::warn!(%reason, "the registry is out of reach; what is here goes on");
                }
                state.lost = Some(reason);
            }
            Ok(_) => {
                if state.lost.take().is_some() {
                    tracing::info!("the registry is in reach again");
                }
                if polled {
                    state.watched = Some(Instant::now());
                }
            }
        }
    }
}

fn unexpected() -> Error {
    Error::Unknown { reason: "the registry's node answered something unexpected".into() }
}

impl Store for RemoteStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Revision, Error>> {
        if let Err(error) = commit.check() {
            return futures::future::ready(Err(error)).boxed();
        }
        self.write(&Request::Commit(commit), |answer| match answer {
            Answer::Committed(revision) => Some(revision),
            _ => None,
        })
    }

    fn read(&self, keys: Vec<Bytes>, at: ReadAt) -> BoxFuture<'_, Result<Reading, Error>> {
        let count = keys.len();
        self.ask(&Request::Read { keys, at }, self.shared.config.read_timeout, move |answer| match answer {
            Answer::Reading(reading) if reading.records.len() == count => Some(reading),
            _ => None,
        })
    }

    fn snapshot(&self, prefix: Bytes) -> BoxFuture<'_, Result<Box<dyn Snapshot>, Error>> {
        let opened =
            self.ask(&Request::Open { prefix }, self.shared.config.read_timeout, |answer| match answer {
                Answer::Opened { snapshot, revision } => Some((snapshot, revision)),
                _ => None,
            });
        async move {
            let (snapshot, revision) = opened.await?;
            let pages: Box<dyn Snapshot> = Box::new(Pages {
                store: self.clone(),
                snapshot,
                revision,
                number: 0,
                records: VecDeque::new(),
                ended: false,
            });
            Ok(pages)
        }
        .boxed()
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Box<dyn Watch> {
        let ready = VecDeque::new();
        Box::new(RemoteWatch { store: self.clone(), prefix, after, ready, asked: None })
    }

    fn compact(&self, keep_from: Revision) -> BoxFuture<'static, Result<(), Error>> {
        self.write(&Request::Compact { keep_from }, done)
    }

    fn grant(&self, ttl_ms: u64, _now: Timestamp) -> BoxFuture<'static, Result<LeaseId, Error>> {
        self.write(&Request::Grant { ttl_ms }, |answer| match answer {
            Answer::Granted(lease) => Some(lease),
            _ => None,
        })
    }

    fn keep_alive(&self, lease: LeaseId, _now: Timestamp) -> BoxFuture<'static, Result<(), Error>> {
        self.write(&Request::KeepAlive { lease }, done)
    }

    fn revoke(&self, lease: LeaseId, meta: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        self.write(&Request::Revoke { lease, meta }, done)
    }

    fn expire(&self, _now: Timestamp, _meta: Bytes) -> BoxFuture<'static, Result<Vec<LeaseId>, Error>> {
        futures::future::ready(Ok(Vec::new())).boxed()
    }

    fn revisions(&self) -> Revisions {
        self.shared.state.lock().revisions
    }

    fn newest(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        let ask = || async { self.read(Vec::new(), ReadAt::Latest).await.map(|reading| reading.revision) };
        self.shared.newest.get(ask).boxed()
    }

    fn writable(&self) -> Result<(), Error> {
        match &self.shared.state.lock().lost {
            Some(reason) => Err(Error::Unreachable { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    fn contact(&self) -> Option<Contact> {
        let state = self.shared.state.lock();
        Some(Contact { lost: state.lost.clone(), watched: state.watched.map(|at| at.elapsed()) })
    }
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStore").field("contact", &self.contact()).finish_non_exhaustive()
    }
}

fn done(answer: Answer) -> Option<()> {
    (answer == Answer::Done).then_some(())
}

struct Pages {
    store: RemoteStore,
    snapshot: u64,
    revision: Revision,
    /// The page that comes next.
    number: u64,
    records: VecDeque<(Bytes, Record)>,
    ended: bool,
}

impl Pages {
    async fn page(&mut self, limit: usize) -> Result<Vec<(Bytes, Record)>, Error> {
        while self.records.len() < limit && !self.ended {
            let request = Request::Page { snapshot: self.snapshot, number: self.number };
            let page =
                self.store.ask(&request, self.store.shared.config.read_timeout, |answer| match answer {
                    Answer::Page { records, last } => Some(Some((records, last))),
                    Answer::Unpinned => Some(None),
                    _ => None,
                });
            let Some((records, last)) = page.await? else {
                return Err(Error::Unreachable { reason: "the snapshot was let go of meanwhile".into() });
            };
            self.records.extend(records);
            self.ended = last;
            self.number += 1;
        }
        let count = limit.min(self.records.len());
        Ok(self.records.drain(..count).collect())
    }
}

impl Snapshot for Pages {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, Record)>, Error>> {
        self.page(limit).boxed()
    }
}

struct RemoteWatch {
    store: RemoteStore,
    prefix: Bytes,
    /// Everything up to here was received.
    after: Revision,
    /// What was received and not told yet.
    ready: VecDeque<Event>,
    /// A poll that is under way.
    asked: Option<BoxFuture<'static, Result<Answer, Error>>>,
}

impl RemoteWatch {
    async fn step(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let answer = self.asked.get_or_insert_with(|| {
                let RemoteConfig { poll_wait, poll_grace, .. } = self.store.shared.config;
                let wait_ms = u32::try_from(poll_wait.as_millis()).unwrap_or(u32::MAX);
                let request = Request::Poll { prefix: self.prefix.clone(), after: self.after, wait_ms };
                self.store.shared.ask(&request, poll_wait + poll_grace)
            });
            let answer = answer.await;
            self.asked = None;
            match answer? {
                Answer::Changes { batches, until } => self.take(batches, until)?,
                Answer::Compacted { oldest } => return Ok(Event::Compacted { oldest }),
                _ => return Err(unexpected()),
            }
        }
    }

    fn take(&mut self, batches: Vec<Arc<super::Batch>>, until: Revision) -> Result<(), Error> {
        let mut last = self.after;
        for batch in &batches {
            if batch.revision <= last {
                return Err(unexpected());
            }
            last = batch.revision;
        }
        self.ready.extend(batches.into_iter().map(Event::Batch));
        if until > last {
            self.ready.push_back(Event::Progress(until));
        }
        self.after = until.max(last);
        Ok(())
    }
}

impl Watch for RemoteWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Event, Error>> {
        self.step().boxed()
    }
}

#[cfg(test)]
pub(crate) mod away;
#[cfg(test)]
mod tests;
