//! The states of mechtrons beside a registry in etcd: one row a point, guarded by the epoch under which it was begun.
//!
//! They are no records: they change with every turn of a mechtron, nobody watches them, and a history of them would be
//! many times what they are. So they pass neither the log nor its writer: each is compared with its own row alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use starlane_core::{Epoch, Point};
use tokio::time::Instant;

use super::EtcdStore;
use super::client::{Client, Fault};
use super::layout::{decode, encode};
use super::rpc::{Compare, KeyValue, RangeRequest, RequestOp, TxnRequest, revision};
use super::writer::{damaged, reading};
use crate::backoff::{Backoff, jitter};
use crate::store::Error;

/// The largest state that is kept in etcd: what one of its transactions takes unless it is told otherwise.
pub const ETCD_STATE_BYTES_MAX: usize = 1024 * 1024;
/// Of how many points it is remembered how their rows were last; it is looked up again of others.
const KNOWN_MAX: usize = 16_384;
/// How long a write may take before its outcome is unknown.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a look may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The states of mechtrons in the etcd of a registry. Cloning is cheap. Several processes may write.
#[derive(Clone)]
pub struct EtcdStates {
    store: EtcdStore,
    known: Arc<Mutex<HashMap<Point, Known>>>,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    /// The latest epoch that began or wrote.
    begun: u64,
    /// The epoch under which the state was written; `None` when only a claim was.
    written: Option<u64>,
    /// Which write: so whoever sent it and heard no answer can tell whether it happened.
    id: u128,
    state: Bytes,
}

/// How a row was last, as far as this process knows.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The revision of etcd that changed it; 0 when it is absent.
    revision: i64,
    begun: u64,
}

const ABSENT: Known = Known { revision: 0, begun: 0 };

impl EtcdStore {
    /// The states of mechtrons that are kept beside the registry.
    pub fn states(&self) -> EtcdStates {
        EtcdStates { store: self.clone(), known: Arc::default() }
    }
}

impl EtcdStates {
    /// Stores a state; durable when it answers.
    ///
    /// # Errors
    /// [`Error::FenceStale`] when a later epoch began or wrote before, [`Error::TooLarge`] for more than
    /// [`ETCD_STATE_BYTES_MAX`] bytes, [`Error::Unreachable`] when nothing was stored, [`Error::Unknown`].
    pub async fn commit(&self, point: &Point, epoch: Epoch, state: Bytes) -> Result<(), Error> {
        if state.len() > ETCD_STATE_BYTES_MAX {
            let reason = format!(
                "the state of `{point}` has {} bytes; a registry in etcd keeps at most {ETCD_STATE_BYTES_MAX} for a \
                 mechtron with `durability=mesh`",
                state.len()
            );
            return Err(Error::TooLarge(reason.into()));
        }
        // It is most often as this process left it. That it must be refused is believed of no memory.
        let known =
            self.known.lock().get(point).copied().filter(|known| known.begun <= epoch.0).unwrap_or(ABSENT);
        let row = Row { begun: epoch.0, written: Some(epoch.0), id: self.draw()?, state };
        self.write(point, known, epoch, row).await
    }

    /// Begins an epoch and tells the state that it begins with: from now on what an older epoch writes is refused.
    ///
    /// # Errors
    /// [`Error::FenceStale`] when a later epoch began or wrote before, [`Error::Unreachable`].
    pub async fn claim(&self, point: &Point, epoch: Epoch) -> Result<Option<Bytes>, Error> {
        let until = Instant::now() + WRITE_TIMEOUT;
        let mut backoff = Backoff::default();
        loop {
            let (known, row) = self.look(point).await?;
            let (written, state) = row.map_or((None, Bytes::new()), |row| (row.written, row.state));
            if known.begun > epoch.0 {
                return Err(stale(point, known.begun));
            }
            let begins = written.map(|_| state.clone());
            if known.revision != 0 && known.begun == epoch.0 {
                return Ok(begins);
            }
            let row = Row { begun: epoch.0, written, id: self.draw()?, state };
            let txn = self.put(point, known, &row);
            match self.store.inner.reader.client.txn(txn).await {
                Ok(answer) if answer.succeeded => {
                    self.remember(
                        point,
                        Known { revision: revision(answer.header.as_ref()), begun: epoch.0 },
                    );
                    return Ok(begins);
                }
                // Whatever became of it: claiming the same epoch again changes nothing.
                Ok(_) | Err(Fault::Unsent(_) | Fault::Lost(_)) if Instant::now() < until => {
                    tokio::time::sleep(backoff.next(jitter())).await;
                }
                Ok(_) => return Err(Error::Busy),
                Err(fault) => return Err(reading(&self.store.inner.reader.client, fault)),
            }
        }
    }

    /// The state of a mechtron, and the epoch under which it was written.
    ///
    /// # Errors
    /// [`Error::Unreachable`], and [`Error::Corrupt`] when it cannot be read.
    pub async fn get(&self, point: &Point) -> Result<Option<(Epoch, Bytes)>, Error> {
        let (_, row) = self.look(point).await?;
        Ok(row.and_then(|row| Some((Epoch(row.written?), row.state))))
    }

    /// The latest epoch that began or wrote; `None` when none did.
    ///
    /// # Errors
    /// [`Error::Unreachable`], and [`Error::Corrupt`] when it cannot be read.
    pub async fn begun(&self, point: &Point) -> Result<Option<Epoch>, Error> {
        Ok(self.look(point).await?.1.map(|row| Epoch(row.begun)))
    }

    /// Forgets a state and its epoch; forgetting what is not there is no error.
    ///
    /// # Errors
    /// As [`EtcdStates::commit`].
    pub async fn delete(&self, point: &Point) -> Result<(), Error> {
        self.delete_until(point, Epoch(u64::MAX)).await
    }

    /// Forgets a state and its epoch, unless a later epoch than this one began. What was made after it was forgotten stays.
    ///
    /// # Errors
    /// As [`EtcdStates::commit`].
    pub async fn delete_until(&self, point: &Point, last: Epoch) -> Result<(), Error> {
        let client = &self.store.inner.reader.client;
        let until = Instant::now() + WRITE_TIMEOUT;
        let mut backoff = Backoff::default();
        // It is most often as this process left it.
        let mut known = self.known.lock().get(point).copied();
        // Why nobody knows whether an earlier try took the row away as it is known.
        let mut lost: Option<Arc<str>> = None;
        loop {
            let meant = match known.filter(|known| known.revision != 0 && known.begun <= last.0) {
                Some(known) => known,
                None => self.look(point).await?.0,
            };
            if meant.revision == 0 || meant.begun > last.0 {
                return Ok(());
            }
            let key = self.key(point);
            let txn = TxnRequest {
                compare: vec![Compare::changed_at(key.clone(), meant.revision)],
                success: vec![RequestOp::delete(key.clone())],
                failure: vec![RequestOp::range(RangeRequest::key(key))],
            };
            let why = match client.txn(txn).await {
                Ok(answer) if answer.succeeded => {
                    self.known.lock().remove(point);
                    return Ok(());
                }
                Ok(answer) => {
                    let found = answer.into_ranges().next().and_then(|range| range.kvs.into_iter().next());
                    let made = found.as_ref().map_or(0, |row| row.create_revision);
                    let (now, _) = self.read(found)?;
                    self.remember(point, now);
                    // An earlier try took it away, and this one was made after it.
                    let is_another = lost.is_some() && made > meant.revision;
                    if now.revision == 0 || now.begun > last.0 || is_another {
                        return Ok(());
                    }
                    // Changed by another first: no earlier try can take it away any more.
                    (known, lost) = (Some(now), None);
                    None
                }
                Err(Fault::Unsent(reason)) => {
                    known = Some(meant);
                    Some(reason)
                }
                Err(Fault::Lost(reason)) => {
                    (known, lost) = (Some(meant), Some(reason.clone()));
                    Some(reason)
                }
                Err(fault) => return Err(refused(client, fault, lost.is_some())),
            };
            let wait = backoff.next(jitter());
            if Instant::now() + wait >= until {
                return Err(match (lost, why) {
                    (Some(reason), _) => Error::Unknown { reason },
                    (None, Some(reason)) => Error::Unreachable { reason },
                    (None, None) => Error::Busy,
                });
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The points after one that have a state, in order, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Unreachable`], and [`Error::Corrupt`] when they cannot be read.
    pub async fn list(&self, after: Option<&Point>, limit: usize) -> Result<Vec<Point>, Error> {
        let client = &self.store.inner.reader.client;
        let (table, end) = self.store.inner.reader.layout.states();
        let from = after.map_or(table.clone(), |after| [&self.key(after)[..], b"\0"].concat().into());
        let rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let range = RangeRequest { keys_only: true, ..RangeRequest::range(from, end).first(rows) };
        let found = client.range(range, Instant::now() + READ_TIMEOUT).await;
        let found = found.map_err(|fault| reading(client, fault))?;
        let point = |row: KeyValue| {
            let text = std::str::from_utf8(row.key.get(table.len()..)?).ok()?;
            text.parse().ok()
        };
        let points = found.kvs.into_iter().map(|row| point(row).ok_or_else(|| self.damaged()));
        points.collect()
    }

    /// Writes a row under an epoch, until it is known what became of it.
    async fn write(&self, point: &Point, mut known: Known, epoch: Epoch, row: Row) -> Result<(), Error> {
        let client = &self.store.inner.reader.client;
        let until = Instant::now() + WRITE_TIMEOUT;
        let mut backoff = Backoff::default();
        // Why nobody knows whether it was written by an earlier try.
        let mut lost: Option<Arc<str>> = None;
        loop {
            if known.begun > epoch.0 {
                return Err(match lost {
                    Some(reason) => Error::Unknown { reason },
                    None => stale(point, known.begun),
                });
            }
            let why = match client.txn(self.put(point, known, &row)).await {
                Ok(answer) if answer.succeeded => {
                    let revision = revision(answer.header.as_ref());
                    self.remember(point, Known { revision, begun: row.begun });
                    return Ok(());
                }
                Ok(answer) => {
                    let found = answer.into_ranges().next().and_then(|range| range.kvs.into_iter().next());
                    let (now, found) = self.read(found)?;
                    self.remember(point, now);
                    if found.is_some_and(|found| found.id == row.id) {
                        return Ok(());
                    }
                    known = now;
                    backoff.reset();
                    continue;
                }
                Err(Fault::Unsent(reason)) => reason,
                Err(Fault::Lost(reason)) => {
                    lost = Some(reason.clone());
                    reason
                }
                Err(fault) => return Err(refused(client, fault, lost.is_some())),
            };
            let wait = backoff.next(jitter());
            if Instant::now() + wait >= until {
                return Err(match lost {
                    Some(reason) => Error::Unknown { reason },
                    None => Error::Unreachable { reason: why },
                });
            }
            // It is sent again under the same comparison, so that it happens once at most.
            tokio::time::sleep(wait).await;
        }
    }

    /// What writes a row if it is as it was known, and else tells how it is.
    fn put(&self, point: &Point, known: Known, row: &Row) -> TxnRequest {
        let key = self.key(point);
        let compare = match known.revision {
            0 => Compare::absent(key.clone()),
            revision => Compare::changed_at(key.clone(), revision),
        };
        TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp::put(key.clone(), encode(row))],
            failure: vec![RequestOp::range(RangeRequest::key(key))],
        }
    }

    async fn look(&self, point: &Point) -> Result<(Known, Option<Row>), Error> {
        let client = &self.store.inner.reader.client;
        let found = client.get(self.key(point), Instant::now() + READ_TIMEOUT).await;
        let (found, _) = found.map_err(|fault| reading(client, fault))?;
        let (known, row) = self.read(found)?;
        self.remember(point, known);
        Ok((known, row))
    }

    fn read(&self, found: Option<KeyValue>) -> Result<(Known, Option<Row>), Error> {
        let Some(found) = found else { return Ok((ABSENT, None)) };
        let row: Row = decode(&found.value).map_err(|_| self.damaged())?;
        Ok((Known { revision: found.mod_revision, begun: row.begun }, Some(row)))
    }

    fn remember(&self, point: &Point, known: Known) {
        let mut all = self.known.lock();
        if all.len() >= KNOWN_MAX && !all.contains_key(point) {
            all.clear();
        }
        all.insert(point.clone(), known);
    }

    fn key(&self, point: &Point) -> Bytes {
        self.store.inner.reader.layout.state(point.as_str())
    }

    fn draw(&self) -> Result<u128, Error> {
        let mut bytes = [0; 16];
        let file = &self.store.inner.reader.client.name;
        getrandom::fill(&mut bytes).map_err(|_| Error::Unavailable {
            file: file.clone(),
            reason: "there is no randomness".into(),
        })?;
        Ok(u128::from_le_bytes(bytes))
    }

    fn damaged(&self) -> Error {
        damaged(&self.store.inner.reader.client, "the state of a mechtron is unreadable")
    }
}

fn stale(point: &Point, begun: u64) -> Error {
    Error::FenceStale { scope: point.as_str().into(), epoch: Epoch(begun) }
}

impl fmt::Debug for EtcdStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStates").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Why a write was refused; when an earlier try was lost that one may have happened, whatever is said of this one.
fn refused(client: &Client, fault: Fault, is_lost: bool) -> Error {
    let error = reading(client, fault);
    match is_lost {
        true => Error::Unknown { reason: error.to_string().into() },
        false => error,
    }
}
