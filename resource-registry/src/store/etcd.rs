//! The store on an etcd, for registries that must outlive any one machine.
//!
//! Each transaction appends commits to a log of our own, with what was before, and changes the records beside it. A head
//! says how far the log goes; every transaction compares it and changes it, so there is one order of commits whoever writes,
//! and a commit is judged by exactly what it was meant to be judged by. Watches are fed from the log: etcd's own watch
//! only rings a bell, so it may break, and etcd may forget its history, without anything being missed.

mod carry;
mod chores;
mod client;
mod config;
mod draft;
mod layout;
mod login;
mod rpc;
mod states;
mod writer;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use starlane_core::{Revision, Timestamp};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use self::client::{Client, Fault, Pager};
pub use self::config::{AddressError, EtcdConfig, EtcdTls, EtcdUser};
use self::draft::{Answer, Work};
use self::layout::{Head, Layout, MainRow, Unreadable, decode, end_of};
use self::rpc::{KeyValue, RangeRequest};
pub use self::states::{ETCD_STATE_BYTES_MAX, EtcdStates};
use self::writer::{Job, LOG_ROWS, Waiting, Writer, batches_after, damaged, read_rows, reading};
use super::feed::{Feed, Log};
use super::newest::Newest;
use super::{
    Batch, Commit, Contact, Error, LeaseId, ReadAt, Reading, Record, Revisions, Snapshot, Store, Watch,
};
use crate::backoff::{Backoff, jitter};

/// A store in an etcd. Cloning is cheap; it is closed with the last clone. Several processes may have the same one open.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

struct Inner {
    config: EtcdConfig,
    jobs: mpsc::Sender<Waiting>,
    bell: Arc<Notify>,
    reader: Arc<Reader>,
    newest: Newest,
}

impl EtcdStore {
    /// Opens the store that is under the prefix, or makes an empty one. Blocks until etcd answers.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::FormatNewer`], [`Error::Corrupt`], or [`Error::Unavailable`] when etcd refuses.
    pub fn open(config: EtcdConfig) -> Result<Self, Error> {
        let name: Arc<str> = config.place().into();
        let impossible = |error: std::io::Error| Error::Unavailable {
            file: name.clone(),
            reason: error.to_string().into(),
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(impossible)?;
        let client = {
            let _inside = runtime.enter();
            Arc::new(Client::new(name.clone(), &config)?)
        };
        let feed = Arc::new(Feed::new(Revisions { newest: Revision(0), oldest: Revision(1) }));
        let reader = Arc::new(Reader {
            client: client.clone(),
            layout: config.layout(),
            feed: feed.clone(),
            runtime: runtime.handle().clone(),
            timeout: config.read_timeout,
        });
        let (jobs, queue) = mpsc::channel(config.queue_max);
        let bell = Arc::new(Notify::new());
        let (opened, first) = std::sync::mpsc::sync_channel(1);
        let (start, rung) = (config.clone(), bell.clone());
        let writer = move || {
            runtime.block_on(async {
                let writer = Writer::start(client.clone(), start, feed.clone(), queue, rung.clone()).await;
                match writer {
                    Ok(writer) => {
                        drop(opened.send(Ok(())));
                        tokio::spawn(ring(client, writer.head_key(), rung));
                        writer.run().await;
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
                feed.close();
            });
        };
        std::thread::Builder::new().name("registry-etcd".into()).spawn(writer).map_err(impossible)?;
        first.recv().map_err(|_| Error::Closed)??;
        Ok(Self { inner: Arc::new(Inner { config, jobs, bell, reader, newest: Newest::default() }) })
    }

    /// How it was opened.
    pub fn config(&self) -> &EtcdConfig {
        &self.inner.config
    }

    /// Queues a job when called.
    fn ask<T: Send + 'static>(
        &self,
        job: Job,
        take: impl FnOnce(Answer) -> Option<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        let (reply, answer) = oneshot::channel();
        let until = Instant::now() + self.inner.config.commit_timeout;
        let stopped = || Error::Unknown { reason: "the store stopped meanwhile".into() };
        match self.inner.jobs.try_send(Waiting { job, reply, until }) {
            Ok(()) => async move {
                let answer = answer.await.map_err(|_| stopped())??;
                take(answer).ok_or_else(stopped)
            }
            .boxed(),
            Err(mpsc::error::TrySendError::Full(_)) => refuse(Error::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => refuse(Error::Closed),
        }
    }

    /// Some keys at one revision.
    async fn read_once(&self, keys: &[Bytes], until: Instant) -> Result<Reading, Error> {
        let Reader { client, layout, .. } = &*self.inner.reader;
        let mut ranges = vec![RangeRequest::key(layout.head())];
        ranges.extend(keys.iter().map(|key| RangeRequest::key(layout.main(key))));
        let (found, at) = client.ranges(ranges, until).await.map_err(|fault| reading(client, fault))?;
        let mut rows = found.into_iter().map(|range| range.kvs.into_iter().next());
        let head = self.inner.reader.head(rows.next().flatten())?;
        if head.newest > self.inner.reader.feed.revisions().newest {
            self.inner.bell.notify_one();
        }
        let mut records = Vec::with_capacity(keys.len());
        for row in rows {
            records.push(match row {
                Some(row) => Some(self.inner.reader.record(&row, at, until).await?),
                None => None,
            });
        }
        Ok(Reading { revision: head.newest, records })
    }
}

fn refuse<T: Send + 'static>(error: Error) -> BoxFuture<'static, Result<T, Error>> {
    futures::future::ready(Err(error)).boxed()
}

/// Rings whenever somebody changed the head. That it may break and miss some is no matter: the writer also looks by itself.
async fn ring(client: Arc<Client>, head: Bytes, bell: Arc<Notify>) {
    let mut backoff = Backoff::default();
    for member in 0.. {
        let ended = client.watch(member, head.clone(), || {
            backoff.reset();
            bell.notify_one();
        });
        let fault = ended.await;
        tracing::debug!(?fault, "the watch of etcd begins anew");
        bell.notify_one();
        tokio::time::sleep(backoff.next(jitter())).await;
    }
}

impl Store for EtcdStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Revision, Error>> {
        if let Err(error) = commit.check() {
            return refuse(error);
        }
        self.ask(Job::Work(Work::Commit(commit)), |answer| match answer {
            Answer::Revision(revision) => Some(revision),
            _ => None,
        })
    }

    fn read(&self, keys: Vec<Bytes>, at: ReadAt) -> BoxFuture<'_, Result<Reading, Error>> {
        async move {
            let until = Instant::now() + self.inner.config.read_timeout;
            let least = match at {
                ReadAt::Latest => Revision(0),
                ReadAt::AtLeast(revision) => revision,
            };
            loop {
                let reading = self.read_once(&keys, until).await?;
                if reading.revision >= least {
                    return Ok(reading);
                }
                let reached = tokio::time::timeout_at(until, self.inner.reader.feed.reach(least)).await;
                reached.map_err(|_| Error::Unreachable {
                    reason: format!("there is no revision {least} yet").into(),
                })??;
            }
        }
        .boxed()
    }

    fn snapshot(&self, prefix: Bytes) -> BoxFuture<'_, Result<Box<dyn Snapshot>, Error>> {
        async move {
            let reader = self.inner.reader.clone();
            let until = Instant::now() + reader.timeout;
            let found = reader.client.get(reader.layout.head(), until).await;
            let (row, at) = found.map_err(|fault| reading(&reader.client, fault))?;
            let revision = reader.head(row)?.newest;
            let from = reader.layout.main(&prefix);
            let end = end_of(&from);
            let pages: Box<dyn Snapshot> = Box::new(Pages {
                pager: Pager::new(from, end, at),
                reader,
                revision,
                at,
                rows: VecDeque::new(),
                page: Vec::new(),
            });
            Ok(pages)
        }
        .boxed()
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Box<dyn Watch> {
        let reader = self.inner.reader.clone();
        Box::new(reader.feed.clone().watch(reader, prefix, after))
    }

    fn compact(&self, keep_from: Revision) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(Job::Work(Work::Trim(keep_from)), done)
    }

    fn grant(&self, ttl_ms: u64, now: Timestamp) -> BoxFuture<'static, Result<LeaseId, Error>> {
        let Ok(lease) = getrandom::u64() else {
            return refuse(Error::Unavailable {
                file: self.inner.reader.client.name.clone(),
                reason: "there is no randomness".into(),
            });
        };
        let work = Work::Grant { lease: LeaseId((lease >> 1).max(1)), ttl_ms, now };
        self.ask(Job::Work(work), |answer| match answer {
            Answer::Granted(lease) => Some(lease),
            _ => None,
        })
    }

    fn keep_alive(&self, lease: LeaseId, now: Timestamp) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(Job::Work(Work::KeepAlive { lease, now }), done)
    }

    fn revoke(&self, lease: LeaseId, meta: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(Job::Revoke { lease, meta }, done)
    }

    fn expire(&self, now: Timestamp, meta: Bytes) -> BoxFuture<'static, Result<Vec<LeaseId>, Error>> {
        self.ask(Job::Expire { now, meta }, |answer| match answer {
            Answer::Ended(leases) => Some(leases),
            _ => None,
        })
    }

    fn revisions(&self) -> Revisions {
        self.inner.reader.feed.revisions()
    }

    fn newest(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        let ask = || async { self.read(Vec::new(), ReadAt::Latest).await.map(|reading| reading.revision) };
        self.inner.newest.get(ask).boxed()
    }

    fn contact(&self) -> Option<Contact> {
        Some(self.inner.reader.client.contact())
    }

    fn is_tended(&self) -> bool {
        false
    }

    fn writable(&self) -> Result<(), Error> {
        match self.inner.reader.client.contact().lost {
            Some(reason) => Err(Error::Unreachable { reason }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("etcd", &self.inner.reader.client.name).finish_non_exhaustive()
    }
}

fn done(answer: Answer) -> Option<()> {
    (answer == Answer::Done).then_some(())
}

/// Reads beside the writer.
struct Reader {
    client: Arc<Client>,
    layout: Layout,
    feed: Arc<Feed>,
    /// Drives the connections.
    runtime: tokio::runtime::Handle,
    timeout: Duration,
}

impl Reader {
    fn head(&self, row: Option<KeyValue>) -> Result<Head, Error> {
        let row = row.ok_or_else(|| damaged(&self.client, "the registry in it is gone"))?;
        decode(&row.value).map_err(|Unreadable| damaged(&self.client, "its head is unreadable"))
    }

    /// A record with its value, as it was at a revision of etcd.
    async fn record(&self, row: &KeyValue, at: i64, until: Instant) -> Result<Record, Error> {
        let read = decode(&row.value);
        let MainRow { mut record, blob } =
            read.map_err(|Unreadable| damaged(&self.client, "a record is unreadable"))?;
        if let Some(blob) = blob {
            let range = RangeRequest::key(self.layout.blob(blob)).at(at);
            let found =
                self.client.range(range, until).await.map_err(|fault| reading(&self.client, fault))?;
            let found = found.kvs.into_iter().next();
            record.value = found.ok_or_else(|| damaged(&self.client, "a value is missing"))?.value;
        }
        Ok(record)
    }

    async fn log_after(&self, after: Revision) -> Result<Vec<Arc<Batch>>, Fault> {
        let until = Instant::now() + self.timeout;
        let rows = RangeRequest::range(self.layout.log(after.0 + 1), self.layout.log_end()).first(LOG_ROWS);
        let (found, at) =
            self.client.ranges(vec![RangeRequest::key(self.layout.head()), rows], until).await?;
        let mut found = found.into_iter();
        let head = found.next().and_then(|range| range.kvs.into_iter().next());
        let head = self.head(head).map_err(Fault::Refused)?;
        // Another process may have forgotten it.
        self.feed.forget_before(head.oldest);
        if after.0 + 1 < head.oldest.0 {
            return Ok(Vec::new());
        }
        let rows = read_rows(&self.client, &self.layout, found.next().unwrap_or_default(), at, until).await?;
        Ok(batches_after(rows, after))
    }
}

impl Log for Reader {
    /// More than `limit` when they were written together.
    fn read_after(&self, after: Revision, _limit: usize) -> Result<Vec<Arc<Batch>>, Error> {
        let read = self.runtime.block_on(self.log_after(after));
        read.map_err(|fault| reading(&self.client, fault))
    }
}

struct Pages {
    reader: Arc<Reader>,
    pager: Pager,
    revision: Revision,
    /// The revision of etcd that all pages show.
    at: i64,
    /// What was fetched and not read yet.
    rows: VecDeque<KeyValue>,
    /// What was read and not handed out yet.
    page: Vec<(Bytes, Record)>,
}

impl Pages {
    async fn fill(&mut self, limit: usize) -> Result<Vec<(Bytes, Record)>, Error> {
        let until = Instant::now() + self.reader.timeout;
        while self.page.len() < limit {
            let Some(row) = self.rows.front() else {
                let wanted = limit - self.page.len();
                let rows = self.pager.next(&self.reader.client, wanted, until).await;
                self.rows = rows.map_err(|fault| reading(&self.reader.client, fault))?.into();
                if self.rows.is_empty() {
                    break;
                }
                continue;
            };
            let record = self.reader.record(row, self.at, until).await?;
            self.page.push((self.reader.layout.key_of(&row.key), record));
            self.rows.pop_front();
        }
        Ok(std::mem::take(&mut self.page))
    }
}

impl Snapshot for Pages {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, Record)>, Error>> {
        self.fill(limit).boxed()
    }
}

#[cfg(test)]
#[path = "../../../tests/src/etcd.rs"]
#[expect(dead_code, unreachable_pub, reason = "it is shared with the tests of the whole system")]
mod server;
#[cfg(test)]
pub(super) mod tests;
