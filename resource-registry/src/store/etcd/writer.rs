//! The one task that writes: it takes all jobs that wait, judges them by what it knows, and writes them in one
//! transaction that holds only if nobody else wrote meanwhile.
//!
//! Every transaction compares the head and changes it. So when no answer comes, the head tells what became of it: as long
//! as the head is the same, the transaction may still happen, and it is sent anew; either of the two can, and only one.
//! When somebody else has changed the head, it never will. Only who waited until his time was over is told that nobody
//! knows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use starlane_core::{Epoch, Revision, Timestamp};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::client::{Client, Fault, Pager, RANGES_MAX};
use super::draft::{Answer, Draft, Known, Stored, Work, value_of};
use super::layout::{BlobId, Head, Layout, LeaseRow, LogRow, MainRow, Unreadable, decode, encode, end_of};
use super::rpc::{
    Compare, KeyValue, RangeRequest, RangeResponse, RequestOp, SortOrder, SortTarget, TxnRequest, revision,
};
use super::{EtcdConfig, chores};
use crate::backoff::jitter;
use crate::store::feed::Feed;
use crate::store::{
    Action, Batch, Commit, Error, Expect, LeaseId, OPERATIONS_MAX, Operation, Record, Revisions,
};

/// How long the head is not looked at when nobody tells that it changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many bytes of values one transaction takes from several callers.
const GROUP_BYTES_MAX: usize = 256 * 1024;
/// How many rows of the log are read at once.
pub(super) const LOG_ROWS: i64 = 16;
/// How many bytes of blobs are written at once.
const STAGE_BYTES: usize = 1024 * 1024;
/// How many fences, and leases, are remembered.
const ASIDE_MAX: usize = 10_000;
/// From so many lost races on, a writer waits a little before the next.
const RACES_FREE: u32 = 3;

/// What is asked of the writer.
#[derive(Debug)]
pub(super) enum Job {
    Work(Work),
    Revoke { lease: LeaseId, meta: Bytes },
    Expire { now: Timestamp, meta: Bytes },
}

/// A job with who waits for it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) reply: oneshot::Sender<Result<Answer, Error>>,
    /// How long.
    pub(super) until: Instant,
}

impl Waiting {
    /// Whoever asked may have gone away meanwhile, which is no matter.
    fn answer(self, answer: Result<Answer, Error>) {
        drop(self.reply.send(answer));
    }

    /// Whether it can share a transaction with others.
    fn joins(&self) -> bool {
        match &self.job {
            Job::Work(Work::Commit(commit)) => {
                commit.operations.iter().all(|op| !matches!(op.expect, Expect::QuietBelow(_)))
            }
            Job::Work(Work::Grant { .. } | Work::KeepAlive { .. }) => true,
            _ => false,
        }
    }

    /// Its operations, and the bytes of its values.
    fn weight(&self) -> (usize, usize) {
        let Job::Work(Work::Commit(commit)) = &self.job else { return (1, 0) };
        let bytes = commit.operations.iter().map(|operation| match &operation.action {
            Action::Put { value, .. } => value.len(),
            _ => 0,
        });
        (commit.operations.len().max(1), bytes.sum())
    }
}

/// Where the writer stands in the history.
#[derive(Debug, Clone, Copy)]
struct Basis {
    head: Head,
    /// The revision of etcd at which the head was changed last.
    head_at: i64,
    /// A revision of etcd at which it still was the newest.
    at: i64,
}

/// Transactions whose answers were lost, all under the same head: one of them may yet happen.
#[derive(Default)]
struct Sent {
    answers: HashMap<u128, Vec<Result<Answer, Error>>>,
    /// What the one answered that was found in the history.
    landed: Option<Vec<Result<Answer, Error>>>,
    /// Whether any was ever sent: who deletes a lease twice finds it gone.
    ever: bool,
    /// Whether one of them leaves no trace in the history, so that nobody can tell whether it happened.
    untraced: bool,
}

impl Sent {
    /// Whether something may have happened that nobody was told of.
    fn is_open(&self) -> bool {
        self.untraced || self.landed.is_some() || !self.answers.is_empty()
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Bytes, Option<Stored>> for ByBytes {
    fn weight(&self, key: &Bytes, stored: &Option<Stored>) -> u64 {
        let value = stored.as_ref().map_or(0, |stored| stored.record.value.len());
        (key.len() + value + 128) as u64
    }
}

/// How a lease was when it was seen last.
#[derive(Clone, Copy)]
struct Seen {
    beats: u64,
    since: Timestamp,
}

pub(super) struct Writer {
    client: Arc<Client>,
    layout: Layout,
    feed: Arc<Feed>,
    config: EtcdConfig,
    queue: mpsc::Receiver<Waiting>,
    waiting: VecDeque<Waiting>,
    bell: Arc<Notify>,
    basis: Basis,
    /// Whether somebody else may have changed the head.
    stale: bool,
    cache: Cache<Bytes, Option<Stored>, ByBytes>,
    fences: HashMap<Arc<str>, Epoch>,
    leases: HashMap<LeaseId, Option<LeaseRow>>,
    /// The leases as this process saw them, by its own clock: clocks of several need not agree.
    seen: HashMap<LeaseId, Seen>,
    /// Somebody was not answered, so that a lease may not have been kept alive for that alone.
    interrupted: bool,
    sent: Sent,
    ids: Ids,
    chores: Arc<AtomicBool>,
    /// The revision of etcd to forget what was before, and when that may be done.
    forget: (i64, Instant),
}

/// Numbers that nobody else makes.
struct Ids {
    process: u64,
    last: u64,
}

impl Ids {
    fn next(&mut self) -> u128 {
        self.last += 1;
        u128::from(self.process) << 64 | u128::from(self.last)
    }
}

impl Writer {
    /// Finds the registry in etcd, or begins one.
    pub(super) async fn start(
        client: Arc<Client>,
        config: EtcdConfig,
        feed: Arc<Feed>,
        queue: mpsc::Receiver<Waiting>,
        bell: Arc<Notify>,
    ) -> Result<Self, Error> {
        let layout = config.layout();
        let until = Instant::now() + config.open_timeout;
        let first = Head { newest: Revision(0), oldest: Revision(1), aside: 0 };
        let found = loop {
            let (found, at) =
                client.get(layout.head(), until).await.map_err(|fault| reading(&client, fault))?;
            if let Some(row) = found {
                break (row, at);
            }
            let begin = TxnRequest {
                compare: vec![Compare::absent(layout.head())],
                success: vec![RequestOp::put(layout.head(), encode(&first))],
                failure: Vec::new(),
            };
            // Whether it was this one or another, the next look tells.
            match client.txn(begin).await {
                Err(Fault::Refused(error)) => return Err(error),
                Err(_) | Ok(_) if Instant::now() < until => {}
                Err(fault) => return Err(reading(&client, fault)),
                Ok(_) => return Err(reading(&client, Fault::Lost("the registry cannot be begun".into()))),
            }
        };
        let (row, at) = found;
        let head: Head = match row.value.first() {
            Some(version) if *version > super::layout::FORMAT_VERSION => {
                return Err(Error::FormatNewer {
                    file: client.name.clone(),
                    found: u64::from(*version),
                    known: u64::from(super::layout::FORMAT_VERSION),
                });
            }
            _ => {
                decode(&row.value).map_err(|Unreadable| damaged(&client, "its head is none of a registry"))?
            }
        };
        own(&client, &layout, config.owner.as_deref(), until).await?;
        feed.start(Revisions { newest: head.newest, oldest: head.oldest });
        client.note_watched();
        let process =
            getrandom::u64().map_err(|error| damaged(&client, &format!("no randomness: {error}")))?;
        Ok(Self {
            layout,
            feed,
            queue,
            bell,
            waiting: VecDeque::new(),
            basis: Basis { head, head_at: row.mod_revision, at },
            stale: false,
            cache: Cache::with_weighter(10_000, config.cache_bytes, ByBytes),
            fences: HashMap::new(),
            leases: HashMap::new(),
            seen: HashMap::new(),
            interrupted: false,
            sent: Sent::default(),
            ids: Ids { process, last: 0 },
            chores: Arc::default(),
            forget: (at, Instant::now() + config.forget_after),
            client,
            config,
        })
    }

    /// The key that every transaction changes.
    pub(super) fn head_key(&self) -> Bytes {
        self.layout.head()
    }

    /// Goes on until nobody can ask any more.
    pub(super) async fn run(mut self) {
        let bell = self.bell.clone();
        loop {
            if self.waiting.is_empty() {
                tokio::select! {
                    biased;
                    job = self.queue.recv() => match job {
                        Some(job) => self.waiting.push_back(job),
                        None => return,
                    },
                    () = bell.notified() => self.look().await,
                    () = tokio::time::sleep(LOOK_EVERY) => self.look().await,
                }
            }
            while self.waiting.len() < self.config.queue_max
                && let Ok(job) = self.queue.try_recv()
            {
                self.waiting.push_back(job);
            }
            self.drop_late();
            if !self.waiting.is_empty() {
                self.turn().await;
            }
        }
    }

    /// Answers those whose time is over before anything was done for them.
    fn drop_late(&mut self) {
        let now = Instant::now();
        if self.waiting.iter().all(|waiting| waiting.until > now) {
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.until > now {
                self.waiting.push_back(waiting);
            } else {
                self.interrupted = true;
                let reason = self.client.contact().lost.unwrap_or_else(|| "etcd is too slow".into());
                waiting.answer(Err(Error::Unreachable { reason }));
            }
        }
    }

    /// Looks whether others wrote something.
    async fn look(&mut self) {
        let until = Instant::now() + LOOK_EVERY;
        if self.catch_up(until).await.is_err() {
            // It is tried again in a moment, and the contact says what is wrong.
            self.stale = true;
            tokio::time::sleep(LOOK_EVERY.min(Duration::from_millis(100))).await;
            return;
        }
        if self.config.forgets && Instant::now() >= self.forget.1 {
            let (client, before) = (self.client.clone(), self.forget.0);
            self.forget = (self.basis.at, Instant::now() + self.config.forget_after);
            tokio::spawn(async move {
                if let Err(fault @ Fault::Refused(_)) = client.compact(before).await {
                    tracing::warn!(?fault, "etcd does not forget what it is told to, and grows");
                }
            });
        }
    }

    /// Does as many jobs as go into one transaction.
    async fn turn(&mut self) {
        let Some(first) = self.waiting.pop_front() else { return };
        match first.job {
            Job::Work(Work::Trim(_)) => {
                self.group(vec![first]).await;
                self.tidy();
            }
            Job::Revoke { lease, ref meta } => {
                let meta = meta.clone();
                let ended = self.end_lease(lease, None, &meta, first.until).await;
                let answer = ended.and_then(|ended| match ended {
                    true => Ok(Answer::Done),
                    false => Err(Error::LeaseUnknown(lease)),
                });
                first.answer(answer);
            }
            Job::Expire { now, ref meta } => {
                let meta = meta.clone();
                let answer = self.expire(now, &meta, first.until).await;
                first.answer(answer.map(Answer::Ended));
            }
            Job::Work(_) => {
                let (mut operations, mut bytes) = first.weight();
                let joins = first.joins();
                let mut group = vec![first];
                while joins
                    && let Some(next) = self.waiting.front()
                    && next.joins()
                {
                    let (more_operations, more_bytes) = next.weight();
                    operations += more_operations;
                    bytes += more_bytes;
                    if operations > OPERATIONS_MAX || bytes > GROUP_BYTES_MAX {
                        break;
                    }
                    group.extend(self.waiting.pop_front());
                }
                self.group(group).await;
            }
        }
    }

    /// Does some jobs together, or fewer of them when they are too large for one transaction.
    async fn group(&mut self, mut group: Vec<Waiting>) {
        let until = group.iter().map(|waiting| waiting.until).min().unwrap_or_else(Instant::now);
        let works = |group: &[Waiting]| -> Vec<Work> {
            let work = |waiting: &Waiting| match &waiting.job {
                Job::Work(work) => Some(work.clone()),
                Job::Revoke { .. } | Job::Expire { .. } => None,
            };
            group.iter().filter_map(work).collect()
        };
        let mut all = works(&group);
        self.sent = Sent::default();
        let mut tries = Tries::new(until);
        let result = loop {
            match self.attempt(&all, until).await {
                Ok(Tried::Done(answers)) => break Ok(answers),
                Ok(Tried::TooMuch) => {
                    for waiting in group.split_off(group.len().div_ceil(2)).into_iter().rev() {
                        self.waiting.push_front(waiting);
                    }
                    all = works(&group);
                }
                Ok(Tried::Again) => tries.raced().await,
                Err(fault) => {
                    if let Some(error) = self.failed(&mut tries, fault).await {
                        break Err(error);
                    }
                }
            }
        };
        match result {
            Ok(answers) => {
                for (waiting, answer) in group.into_iter().zip(answers) {
                    waiting.answer(answer);
                }
            }
            Err(error) => group.into_iter().for_each(|waiting| waiting.answer(Err(error.clone()))),
        }
    }

    /// After an attempt that brought nothing: what to tell who waits, or `None` to try again.
    async fn failed(&mut self, tries: &mut Tries, fault: Fault) -> Option<Error> {
        self.stale = true;
        let open = self.sent.is_open();
        let reason = match fault {
            Fault::Forgotten => return None,
            Fault::Refused(error) if !open => return Some(error),
            Fault::Refused(error) => error.to_string().into(),
            Fault::Unsent(reason) | Fault::Lost(reason) => {
                if tries.wait().await {
                    return None;
                }
                reason
            }
        };
        self.interrupted = true;
        Some(if open { Error::Unknown { reason } } else { Error::Unreachable { reason } })
    }

    /// Judges works by what is known, and writes them once.
    async fn attempt(&mut self, works: &[Work], until: Instant) -> Result<Tried, Fault> {
        let soon = until.min(Instant::now() + self.config.try_timeout * 2);
        if self.stale {
            self.catch_up(soon).await?;
            if let Some(answers) = self.sent.landed.take() {
                return Ok(Tried::Done(answers));
            }
        }
        let known = self.learn(works, soon).await?;
        let mut draft = Draft::new(&known, self.basis.head, works);
        if !draft.changes() {
            // What refuses, or finds nothing to do, must not be the past.
            return match self.is_newest(&known, soon).await? {
                true => Ok(Tried::Done(draft.answers)),
                false => Ok(Tried::Again),
            };
        }
        let id = self.ids.next();
        let mut txn = draft.txn(&self.layout, id, self.basis.head_at, None);
        if !Draft::fits(&txn) {
            if works.len() > 1 {
                return Ok(Tried::TooMuch);
            }
            let hints = draft.take_hints(&self.layout, id);
            self.prepare(hints).await?;
            let spilt = draft.spill(|| BlobId(self.ids.next()));
            let made_at = self.stage(id, &spilt).await?;
            // Should it fail, the set is swept away later: the next attempt makes its own.
            txn = draft.txn(&self.layout, id, self.basis.head_at, Some((id, made_at)));
            if !Draft::fits(&txn) {
                return Err(Fault::Refused(Error::TooLarge("the commit is too large for etcd".into())));
            }
        }
        let answer = match self.client.txn(txn).await {
            Ok(answer) => answer,
            Err(fault) => {
                if matches!(fault, Fault::Lost(_)) {
                    self.sent.ever = true;
                    self.sent.untraced |= draft.batches.is_empty();
                    self.sent.answers.insert(id, draft.answers);
                }
                return Err(fault);
            }
        };
        if answer.succeeded {
            let at = revision(answer.header.as_ref());
            let Draft { head, answers, batches, records, leases, fences, .. } = draft;
            self.basis = Basis { head, head_at: at, at };
            for (key, stored) in records {
                self.cache.insert(key, stored);
            }
            self.note_aside(works, leases, fences);
            self.feed.forget_before(head.oldest);
            self.client.note_watched();
            if !batches.is_empty() {
                self.feed.publish(batches.into_iter().map(Arc::new));
            }
            return Ok(Tried::Done(answers));
        }
        let at = revision(answer.header.as_ref());
        let mut found = answer.into_ranges().map(|range| range.kvs.into_iter().next());
        let head = found.next().flatten();
        if head.as_ref().is_some_and(|head| head.mod_revision == self.basis.head_at) {
            // A guess was wrong, or the set of blobs was swept away.
            self.basis.at = at;
            for (key, row) in known.guessed.iter().zip(found) {
                if let Some(row) = row {
                    let stored = self.stored(&row.value, soon, at).await?;
                    self.cache.insert(key.clone(), Some(stored));
                }
            }
        } else {
            self.follow(head, at, soon).await?;
        }
        Ok(match self.sent.landed.take() {
            Some(answers) => Tried::Done(answers),
            None => Tried::Again,
        })
    }

    /// Remembers what is written besides records.
    fn note_aside(
        &mut self,
        works: &[Work],
        leases: impl IntoIterator<Item = (LeaseId, Option<LeaseRow>)>,
        fences: HashMap<Arc<str>, Epoch>,
    ) {
        self.fences.extend(fences);
        self.leases.extend(leases);
        for work in works {
            if let Work::Grant { lease, now, .. } | Work::KeepAlive { lease, now } = work
                && let Some(Some(row)) = self.leases.get(lease)
            {
                self.seen.insert(*lease, Seen { beats: row.beats, since: *now });
            }
        }
        if self.fences.len() > ASIDE_MAX {
            self.fences.clear();
        }
        if self.leases.len() > ASIDE_MAX {
            self.leases.clear();
        }
    }

    /// Whether nothing was written since, and what was guessed is so.
    async fn is_newest(&mut self, known: &Known, until: Instant) -> Result<bool, Fault> {
        let mut ranges = vec![RangeRequest::key(self.layout.head())];
        let guessed: Vec<&Bytes> = known.guessed.iter().collect();
        ranges.extend(guessed.iter().map(|key| RangeRequest::key(self.layout.main(key))));
        let (found, at) = self.client.ranges(ranges, until).await?;
        let mut rows = found.into_iter().map(|range| range.kvs.into_iter().next());
        let head = rows.next().flatten();
        if head.as_ref().is_none_or(|head| head.mod_revision != self.basis.head_at) {
            self.follow(head, at, until).await?;
            return Ok(false);
        }
        self.basis.at = at;
        let mut right = true;
        for (key, row) in guessed.into_iter().zip(rows) {
            let stored = match row {
                Some(row) => Some(self.stored(&row.value, until, at).await?),
                None => None,
            };
            right &= stored.is_none();
            self.cache.insert(key.clone(), stored);
        }
        Ok(right)
    }

    /// Everything that is needed to judge works, as it is at the basis.
    async fn learn(&mut self, works: &[Work], until: Instant) -> Result<Known, Fault> {
        let mut known = Known::default();
        let mut keys = Vec::new();
        let (mut scopes, mut leases) = (Vec::new(), Vec::new());
        for work in works {
            let commit = match work {
                Work::Commit(commit) => commit,
                Work::End { lease, deletes, .. } => {
                    leases.push(*lease);
                    deletes
                }
                Work::KeepAlive { lease, .. } => {
                    leases.push(*lease);
                    continue;
                }
                Work::Grant { .. } | Work::Trim(_) => continue,
            };
            scopes.extend(commit.fence.iter().map(|fence| fence.scope.clone()));
            for operation in &commit.operations {
                if let Action::Put { lease: Some(lease), .. } = &operation.action {
                    leases.push(*lease);
                }
                if let Expect::QuietBelow(_) = operation.expect {
                    let newest = self.newest_below(&operation.key, until).await?;
                    known.below.insert(operation.key.clone(), newest);
                }
                if known.records.contains_key(&operation.key) {
                    continue;
                }
                if let Some(stored) = self.cache.get(&operation.key) {
                    known.records.insert(operation.key.clone(), stored.clone());
                } else {
                    // Whoever makes something is mostly right that it is absent, and need not wait for a look.
                    if operation.expect == Expect::Absent {
                        known.guessed.insert(operation.key.clone());
                    } else {
                        keys.push(operation.key.clone());
                    }
                    known.records.insert(operation.key.clone(), None);
                }
            }
        }
        if known.guessed.len() > RANGES_MAX {
            keys.extend(known.guessed.drain());
        }
        scopes.retain(|scope| !self.fences.contains_key(scope));
        leases.retain(|lease| !self.leases.contains_key(lease));
        let rows = keys.iter().map(|key| self.layout.main(key));
        let rows = rows.chain(scopes.iter().map(|scope| self.layout.fence(scope)));
        let rows = rows.chain(leases.iter().map(|lease| self.layout.lease(*lease)));
        let ranges: Vec<_> = rows.map(|row| RangeRequest::key(row).at(self.basis.at)).collect();
        if !ranges.is_empty() {
            let (found, _) = self.client.ranges(ranges, until).await?;
            let mut found = found.into_iter().map(|range| range.kvs.into_iter().next());
            for key in keys {
                let stored = match found.next().flatten() {
                    Some(row) => Some(self.stored(&row.value, until, self.basis.at).await?),
                    None => None,
                };
                self.cache.insert(key.clone(), stored.clone());
                known.records.insert(key, stored);
            }
            for scope in scopes {
                let epoch = found.next().flatten().map(|row| decode(&row.value)).transpose();
                let epoch = epoch.map_err(|Unreadable| self.damaged("a fence is unreadable"))?;
                self.fences.insert(scope, Epoch(epoch.unwrap_or_default()));
            }
            for lease in leases {
                let row = found.next().flatten().map(|row| decode(&row.value)).transpose();
                let row = row.map_err(|Unreadable| self.damaged("a lease is unreadable"))?;
                self.leases.insert(lease, row);
            }
        }
        for work in works {
            let commit = match work {
                Work::Commit(commit) | Work::End { deletes: commit, .. } => commit,
                _ => continue,
            };
            if let Some(fence) = &commit.fence {
                known
                    .fences
                    .insert(fence.scope.clone(), self.fences.get(&fence.scope).copied().unwrap_or_default());
            }
        }
        known.leases = self.leases_of(works);
        Ok(known)
    }

    fn leases_of(&self, works: &[Work]) -> HashMap<LeaseId, Option<LeaseRow>> {
        let mut leases = HashMap::new();
        let mut take = |lease: LeaseId| {
            leases.insert(lease, self.leases.get(&lease).copied().flatten());
        };
        for work in works {
            match work {
                Work::KeepAlive { lease, .. } | Work::End { lease, .. } => take(*lease),
                Work::Commit(commit) => {
                    for operation in &commit.operations {
                        if let Action::Put { lease: Some(lease), .. } = &operation.action {
                            take(*lease);
                        }
                    }
                }
                Work::Grant { .. } | Work::Trim(_) => {}
            }
        }
        leases
    }

    /// The newest revision among the keys that are longer than one and begin with it.
    async fn newest_below(&self, key: &[u8], until: Instant) -> Result<Option<Revision>, Fault> {
        let row = self.layout.main(key);
        let end = end_of(&row);
        let from: Bytes = [&row[..], b"\0"].concat().into();
        let last = RangeRequest {
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Mod.into(),
            keys_only: true,
            ..RangeRequest::range(from.clone(), end.clone()).at(self.basis.at).first(1)
        };
        let last = self.client.range(last, until).await?;
        let Some(last) = last.kvs.first() else { return Ok(None) };
        // Several commits may have been written with it.
        let last = RangeRequest {
            min_mod_revision: last.mod_revision,
            ..RangeRequest::range(from, end).at(self.basis.at)
        };
        let mut newest = None;
        for row in self.client.range(last, until).await?.kvs {
            let row: MainRow =
                decode(&row.value).map_err(|Unreadable| self.damaged("a record is unreadable"))?;
            newest = newest.max(Some(row.record.modified));
        }
        Ok(newest)
    }

    /// A record with its value, as it was at a revision of etcd.
    async fn stored(&self, row: &[u8], until: Instant, at: i64) -> Result<Stored, Fault> {
        let MainRow { mut record, blob } =
            decode(row).map_err(|Unreadable| self.damaged("a record is unreadable"))?;
        if let Some(blob) = blob {
            let range = RangeRequest::key(self.layout.blob(blob)).at(at);
            let found = self.client.range(range, until).await?.kvs.into_iter().next();
            record.value = found.ok_or_else(|| self.damaged("a value is missing"))?.value;
        }
        Ok(Stored { record, blob })
    }

    /// Writes what does no harm if it is for nothing.
    async fn prepare(&self, puts: Vec<RequestOp>) -> Result<(), Fault> {
        for puts in puts.chunks(RANGES_MAX) {
            let txn = TxnRequest { success: puts.to_vec(), ..TxnRequest::default() };
            self.client.txn(txn).await.map_err(harmless)?;
        }
        Ok(())
    }

    /// Writes blobs before the commit that they go with, and says when their set was made.
    async fn stage(&self, set: u128, blobs: &[(BlobId, Bytes)]) -> Result<i64, Fault> {
        let names: Vec<BlobId> = blobs.iter().map(|(blob, _)| *blob).collect();
        let made = TxnRequest {
            success: vec![RequestOp::put(self.layout.staged(set), encode(&names))],
            ..TxnRequest::default()
        };
        let made = self.client.txn(made).await.map_err(harmless)?;
        let made_at = revision(made.header.as_ref());
        let mut blobs = blobs.iter().peekable();
        while blobs.peek().is_some() {
            let (mut success, mut bytes) = (Vec::new(), 0);
            while let Some((_, value)) = blobs.peek()
                && (success.is_empty() || bytes + value.len() <= STAGE_BYTES)
                && let Some((blob, value)) = blobs.next()
            {
                bytes += value.len();
                success.push(RequestOp::put(self.layout.blob(*blob), value.clone()));
            }
            let compare = vec![Compare::changed_at(self.layout.staged(set), made_at)];
            let txn = TxnRequest { compare, success, failure: Vec::new() };
            if !self.client.txn(txn).await.map_err(harmless)?.succeeded {
                return Err(Fault::Unsent("what was written for a commit was swept away".into()));
            }
        }
        Ok(made_at)
    }

    /// Takes in what others wrote.
    async fn catch_up(&mut self, until: Instant) -> Result<(), Fault> {
        let (head, at) = self.client.get(self.layout.head(), until).await?;
        self.follow(head, at, until).await
    }

    async fn follow(&mut self, head: Option<KeyValue>, at: i64, until: Instant) -> Result<(), Fault> {
        self.stale = true;
        let row = head.ok_or_else(|| self.damaged("the registry in it is gone"))?;
        if row.mod_revision == self.basis.head_at {
            self.basis.at = at;
            self.stale = false;
            self.client.note_watched();
            return Ok(());
        }
        let head: Head = decode(&row.value).map_err(|Unreadable| self.damaged("its head is unreadable"))?;
        if head.newest < self.basis.head.newest {
            let (from, to) = (self.basis.head.newest, head.newest);
            return Err(self.damaged(&format!("its history went back from revision {from} to {to}")));
        }
        if self.basis.head.newest.0 + 1 < head.oldest.0 {
            // What came next is no longer kept.
            self.cache.clear();
            self.basis.head.newest = Revision(head.oldest.0 - 1);
            self.feed.start(Revisions { newest: self.basis.head.newest, oldest: head.oldest });
        }
        self.feed.forget_before(head.oldest);
        while self.basis.head.newest < head.newest {
            let next = self.basis.head.newest.0 + 1;
            let range =
                RangeRequest::range(self.layout.log(next), self.layout.log_end()).at(at).first(LOG_ROWS);
            let rows = self.client.range(range, until).await?;
            if rows.kvs.is_empty() {
                return Err(self.damaged(&format!("revision {next} is missing")));
            }
            for row in read_rows(&self.client, &self.layout, rows, at, until).await? {
                self.take_in(row)?;
            }
        }
        if head.aside != self.basis.head.aside {
            self.fences.clear();
            self.leases.clear();
        }
        // Whatever was sent under the old head and is not in the history will never be.
        self.sent.answers.clear();
        self.basis = Basis { head, head_at: row.mod_revision, at };
        self.stale = false;
        self.client.note_watched();
        Ok(())
    }

    /// Takes in the commits of a transaction.
    fn take_in(&mut self, row: LogRow) -> Result<(), Fault> {
        let mut batches = Vec::with_capacity(row.batches.len());
        for (number, batch) in row.batches.into_iter().enumerate() {
            if batch.revision <= self.basis.head.newest {
                continue;
            }
            if batch.revision.0 != self.basis.head.newest.0 + 1 {
                return Err(self.damaged(&format!("revision {} is missing", self.basis.head.newest.0 + 1)));
            }
            for (change_number, change) in batch.changes.iter().enumerate() {
                let place = (number, change_number, true);
                let blob =
                    row.blobs.iter().find(|at| (at.batch as usize, at.change as usize, at.after) == place);
                let blob = blob.map(|at| at.blob);
                let stored = change.after.clone().map(|record: Record| Stored { record, blob });
                self.cache.insert(change.key.clone(), stored);
            }
            self.basis.head.newest = batch.revision;
            batches.push(Arc::new(batch));
        }
        if let Some(answers) = self.sent.answers.remove(&row.id) {
            self.sent.landed = Some(answers);
        }
        self.feed.publish(batches);
        Ok(())
    }

    /// Ends the leases that nobody kept alive for their whole time, as far as this process saw.
    async fn expire(&mut self, now: Timestamp, meta: &Bytes, until: Instant) -> Result<Vec<LeaseId>, Error> {
        let (from, end) = self.layout.leases();
        let client = self.client.clone();
        let mut pager = Pager::new(from, end, 0);
        let mut rows: HashMap<LeaseId, LeaseRow> = HashMap::new();
        loop {
            let page = pager.next(&client, usize::MAX, until).await;
            let page = page.map_err(|fault| {
                self.interrupted = true;
                reading(&client, fault)
            })?;
            if page.is_empty() {
                break;
            }
            for row in page {
                let read = Layout::lease_of(&row.key).zip(decode(&row.value).ok());
                let (lease, row) = read.ok_or_else(|| damaged(&client, "a lease is unreadable"))?;
                rows.insert(lease, row);
            }
        }
        if std::mem::take(&mut self.interrupted) {
            // Who could not be reached could not be told that a lease goes on.
            self.seen.clear();
        }
        self.seen.retain(|lease, _| rows.contains_key(lease));
        let mut over = Vec::new();
        for (lease, row) in rows {
            match self.seen.get(&lease) {
                _ if row.ends => over.push((lease, row)),
                Some(seen) if seen.beats == row.beats => {
                    if now.0.saturating_sub(seen.since.0) >= row.ttl_ms {
                        over.push((lease, row));
                    }
                }
                _ => {
                    self.seen.insert(lease, Seen { beats: row.beats, since: now });
                }
            }
        }
        over.sort_unstable_by_key(|(lease, _)| *lease);
        let mut ended = Vec::new();
        for (lease, row) in over {
            if self.end_lease(lease, Some(row.beats), meta, until).await? {
                ended.push(lease);
            }
        }
        Ok(ended)
    }

    /// Deletes what hangs on a lease, and the lease; `false` when it is not there, or began anew after `beats`.
    async fn end_lease(
        &mut self,
        lease: LeaseId,
        beats: Option<u64>,
        meta: &Bytes,
        until: Instant,
    ) -> Result<bool, Error> {
        self.sent = Sent::default();
        let mut tries = Tries::new(until);
        let mut begun = false;
        loop {
            let planned = self.plan_end(lease, beats, meta, until).await;
            // The plan is made by what was found, whoever did it.
            self.sent.landed = None;
            let tried = match planned {
                Ok(Some(work)) => {
                    let last = matches!(work, Work::End { last: true, .. });
                    self.attempt(&[work], until).await.map(|tried| (tried, last))
                }
                Ok(None) => return Ok(begun || self.sent.ever),
                Err(fault) => Err(fault),
            };
            match tried {
                Ok((Tried::Done(answers), last)) => {
                    if let Some(Err(error)) = answers.into_iter().next() {
                        return Err(error);
                    }
                    if last {
                        return Ok(true);
                    }
                    begun = true;
                }
                Ok((Tried::Again | Tried::TooMuch, _)) => tries.raced().await,
                Err(fault) => {
                    if let Some(error) = self.failed(&mut tries, fault).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The next step of ending a lease; `None` when there is nothing to end.
    async fn plan_end(
        &mut self,
        lease: LeaseId,
        beats: Option<u64>,
        meta: &Bytes,
        until: Instant,
    ) -> Result<Option<Work>, Fault> {
        let until = until.min(Instant::now() + self.config.try_timeout * 2);
        // Whatever was found must be so at the head that the step is judged by.
        self.catch_up(until).await?;
        let at = self.basis.at;
        let found = self.client.range(RangeRequest::key(self.layout.lease(lease)).at(at), until).await?;
        let Some(row) = found.kvs.into_iter().next() else { return Ok(None) };
        let row: LeaseRow = decode(&row.value).map_err(|Unreadable| self.damaged("a lease is unreadable"))?;
        if !row.ends && beats.is_some_and(|beats| beats != row.beats) {
            return Ok(None);
        }
        let (from, end) = self.layout.hints(lease);
        let mut pager = Pager::new(from, end, at);
        let mut keys: Vec<Bytes> = Vec::new();
        loop {
            let page = pager.next(&self.client, usize::MAX, until).await?;
            if page.is_empty() {
                break;
            }
            for row in page {
                let hung: Vec<Bytes> =
                    decode(&row.value).map_err(|Unreadable| self.damaged("a hint is unreadable"))?;
                keys.extend(hung);
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let mut operations = Vec::new();
        let mut last = true;
        for keys in keys.chunks(RANGES_MAX) {
            let ranges = keys.iter().map(|key| RangeRequest::key(self.layout.main(key)).at(at)).collect();
            let (found, _) = self.client.ranges(ranges, until).await?;
            for (key, range) in keys.iter().zip(found) {
                let Some(row) = range.kvs.into_iter().next() else { continue };
                let row: MainRow =
                    decode(&row.value).map_err(|Unreadable| self.damaged("a record is unreadable"))?;
                if row.record.lease == Some(lease) {
                    operations.push(Operation::delete(key.clone(), Expect::Any));
                }
            }
            if operations.len() > OPERATIONS_MAX {
                operations.truncate(OPERATIONS_MAX);
                last = false;
                break;
            }
        }
        let deletes = Commit { fence: None, meta: meta.clone(), operations };
        Ok(Some(Work::End { lease, deletes, last }))
    }

    /// Gives back what is no longer of use, beside whatever is written.
    fn tidy(&self) {
        if self.chores.swap(true, Ordering::AcqRel) {
            return;
        }
        let (client, layout, busy) = (self.client.clone(), self.layout.clone(), self.chores.clone());
        let (oldest, patience) = (self.basis.head.oldest, self.config.commit_timeout * 4);
        tokio::spawn(async move {
            if let Err(fault) = chores::tidy(&client, &layout, oldest, patience).await {
                tracing::debug!(?fault, "tidying up failed; it is tried again");
            }
            busy.store(false, Ordering::Release);
        });
    }

    fn damaged(&self, reason: &str) -> Fault {
        Fault::Refused(damaged(&self.client, reason))
    }
}

/// Makes the registry that of a mesh, unless it is another's.
async fn own(client: &Client, layout: &Layout, owner: Option<&str>, until: Instant) -> Result<(), Error> {
    let Some(owner) = owner else { return Ok(()) };
    loop {
        let (found, _) = client.get(layout.owner(), until).await.map_err(|fault| reading(client, fault))?;
        match found {
            Some(row) if row.value == owner => return Ok(()),
            Some(row) => {
                let owner = String::from_utf8_lossy(&row.value).into();
                return Err(Error::Foreign { file: client.name.clone(), owner });
            }
            None => {
                let claim = TxnRequest {
                    compare: vec![Compare::absent(layout.owner())],
                    success: vec![RequestOp::put(layout.owner(), Bytes::copy_from_slice(owner.as_bytes()))],
                    failure: Vec::new(),
                };
                // Who was first, the next look tells.
                if let Err(fault @ (Fault::Refused(_) | Fault::Forgotten)) = client.txn(claim).await {
                    return Err(reading(client, fault));
                }
            }
        }
    }
}

/// What became of an attempt.
enum Tried {
    Done(Vec<Result<Answer, Error>>),
    /// Somebody else was faster, or a guess was wrong: what is known is newer now.
    Again,
    /// It is too large for one transaction.
    TooMuch,
}

/// Counts what went wrong with a group.
struct Tries {
    until: Instant,
    backoff: crate::backoff::Backoff,
    races: u32,
}

impl Tries {
    fn new(until: Instant) -> Self {
        Self { until, backoff: crate::backoff::Backoff::default(), races: 0 }
    }

    /// Waits a little after lost races, so that they do not meet again.
    async fn raced(&mut self) {
        self.races += 1;
        if self.races > RACES_FREE {
            let most = Duration::from_millis(2) * self.races.min(10);
            tokio::time::sleep(most.mul_f64(jitter() as f64 / u64::MAX as f64)).await;
        }
    }

    /// Waits before the next try; `false` when there is no time for it.
    async fn wait(&mut self) -> bool {
        let wait = self.backoff.next(jitter());
        if Instant::now() + wait >= self.until {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }
}

/// A write that changes nothing anybody reads, so that it is no matter whether it happened.
fn harmless(fault: Fault) -> Fault {
    match fault {
        Fault::Lost(reason) => Fault::Unsent(reason),
        fault => fault,
    }
}

/// The commits of rows of the log, with their values.
pub(super) async fn read_rows(
    client: &Client,
    layout: &Layout,
    rows: RangeResponse,
    at: i64,
    until: Instant,
) -> Result<Vec<LogRow>, Fault> {
    let unreadable = |_| Fault::Refused(damaged(client, "the log is unreadable"));
    let mut read = Vec::with_capacity(rows.kvs.len());
    for row in rows.kvs {
        let mut row: LogRow = decode(&row.value).map_err(unreadable)?;
        let ranges = row.blobs.iter().map(|at_blob| RangeRequest::key(layout.blob(at_blob.blob)).at(at));
        let (found, _) = client.ranges(ranges.collect(), until).await?;
        for (place, found) in row.blobs.iter().zip(found) {
            let value = found.kvs.into_iter().next().map(|row| row.value);
            let record = value_of(&mut row.batches, place);
            match (value, record) {
                (Some(value), Some(record)) => record.value = value,
                _ => return Err(Fault::Refused(damaged(client, "a value of the log is missing"))),
            }
        }
        read.push(row);
    }
    Ok(read)
}

/// The commits after a revision that are in rows, oldest first.
pub(super) fn batches_after(rows: Vec<LogRow>, after: Revision) -> Vec<Arc<Batch>> {
    let batches = rows.into_iter().flat_map(|row| row.batches);
    batches.filter(|batch| batch.revision > after).map(Arc::new).collect()
}

pub(super) fn damaged(client: &Client, reason: &str) -> Error {
    Error::Corrupt { file: client.name.clone(), reason: reason.into() }
}

/// A fault of what only reads.
pub(super) fn reading(client: &Client, fault: Fault) -> Error {
    match fault {
        Fault::Unsent(reason) | Fault::Lost(reason) => Error::Unreachable { reason },
        Fault::Forgotten => {
            Error::Unreachable { reason: format!("{} forgot the revision that was read", client.name).into() }
        }
        Fault::Refused(error) => error,
    }
}
