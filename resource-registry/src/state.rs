//! The state of mechtrons: one durable value a point, guarded by the epoch under which it was written.
//!
//! A node keeps the states of its own mechtrons in a file; those that survive the loss of their node are in a file of the
//! registry's node, or in the etcd of the registry, which [`MeshStates`] reaches from any node.

mod remote;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use starlane_core::{Epoch, Point};
use tokio::sync::{Semaphore, oneshot};

use crate::error::Error;
use crate::store::{self, Apply, Engine, EngineConfig, Failure, LOG_BYTES, file_opener};

pub use remote::{MeshStates, RemoteStates, StateService};

const STATES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("states");
/// The epochs that were claimed, which may be later than those under which the states were written.
const CLAIMS: TableDefinition<'static, &str, u64> = TableDefinition::new("claims");
const FORMAT_VERSION: u64 = 1;
/// The largest state of one mechtron.
pub const STATE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most commits under way; others wait for their turn.
const COMMITS_MAX: usize = 2_048;
/// As much of a group of commits as one operation is.
const BYTES_A_WEIGHT: usize = 16 * 1024;
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// The states of mechtrons, in a file of this node. Cloning is cheap; the file is closed with the last clone.
#[derive(Clone)]
pub struct StateStore {
    engine: Arc<Engine<States>>,
    turns: Arc<Semaphore>,
}

impl StateStore {
    /// Opens the file, or makes an empty one; its folder must exist.
    ///
    /// # Errors
    /// [`Error::Store`] when the file cannot be used.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let config = EngineConfig {
            file: Arc::from(path.to_string_lossy()),
            format: "states",
            format_version: FORMAT_VERSION,
            // Each under way sends one job, and whoever gave up waiting may have left one behind.
            queue_max: 2 * COMMITS_MAX,
            cache_bytes: CACHE_BYTES,
            disk: file_opener(path),
            log_bytes: LOG_BYTES,
            path: Some(path.to_owned()),
        };
        let engine = Engine::open(config, States)?;
        Ok(Self { engine: Arc::new(engine), turns: Arc::new(Semaphore::new(COMMITS_MAX)) })
    }

    /// Stores a state; durable when it answers.
    ///
    /// # Errors
    /// [`store::Error::FenceStale`] when a later epoch wrote before; [`Error::TooLarge`].
    pub async fn commit(&self, point: &Point, epoch: Epoch, state: Bytes) -> Result<(), Error> {
        if state.len() > STATE_BYTES_MAX {
            return Err(Error::TooLarge(format!(
                "the state of `{point}` has {} bytes; at most {STATE_BYTES_MAX} are kept",
                state.len()
            )));
        }
        self.ask(|reply| Job { point: point.clone(), what: What::Write(epoch, state), reply }).await
    }

    /// Begins an epoch and tells the state that it begins with: from now on what an older epoch writes is refused, so the
    /// state stays the last one.
    ///
    /// # Errors
    /// [`store::Error::FenceStale`] when a later epoch began or wrote before.
    pub async fn claim(&self, point: &Point, epoch: Epoch) -> Result<Option<Bytes>, Error> {
        self.ask(|reply| Job { point: point.clone(), what: What::Claim(epoch), reply }).await?;
        Ok(self.get(point)?.map(|(_, state)| state))
    }

    /// Goes back to an epoch from a later one that was begun and never came to be: whoever acts under the one before goes
    /// on with the state that is here. To go back from no later one changes nothing.
    ///
    /// # Errors
    /// Only the file's.
    pub async fn go_back(&self, point: &Point, epoch: Epoch) -> Result<(), Error> {
        self.ask(|reply| Job { point: point.clone(), what: What::GoBack(epoch), reply }).await
    }

    /// The latest epoch that began or wrote; `None` when none did.
    ///
    /// # Errors
    /// Only the file's.
    pub fn begun(&self, point: &Point) -> Result<Option<Epoch>, Error> {
        let begun = self.engine.file().read(|read| {
            let written = match open_states(read)? {
                Some(states) => match states.get(point.as_str())? {
                    Some(row) => Some(decode(point.as_str(), row.value())?.0),
                    None => None,
                },
                None => None,
            };
            let claimed = match open(read, CLAIMS)? {
                Some(claims) => claims.get(point.as_str())?.map(|row| Epoch(row.value())),
                None => None,
            };
            Ok(written.max(claimed))
        })?;
        Ok(begun)
    }

    /// Forgets a state and its epoch; forgetting what is not there is no error.
    ///
    /// # Errors
    /// Only the file's.
    pub async fn delete(&self, point: &Point) -> Result<(), Error> {
        self.ask(|reply| Job { point: point.clone(), what: What::Forget, reply }).await
    }

    /// The state of a mechtron, and the epoch under which it was written.
    ///
    /// # Errors
    /// Only the file's.
    pub fn get(&self, point: &Point) -> Result<Option<(Epoch, Bytes)>, Error> {
        let state = self.engine.file().read(|read| {
            let Some(states) = open_states(read)? else { return Ok(None) };
            let Some(row) = states.get(point.as_str())? else { return Ok(None) };
            decode(point.as_str(), row.value()).map(Some)
        })?;
        Ok(state)
    }

    /// The points after one that have a state, in order, at most `limit`.
    ///
    /// # Errors
    /// Only the file's.
    pub fn list(&self, after: Option<&Point>, limit: usize) -> Result<Vec<Point>, Error> {
        let points = self.engine.file().read(|read| {
            let Some(states) = open_states(read)? else { return Ok(Vec::new()) };
            let from =
                after.map_or(std::ops::Bound::Unbounded, |after| std::ops::Bound::Excluded(after.as_str()));
            let mut points = Vec::new();
            for row in states.range::<&str>((from, std::ops::Bound::Unbounded))?.take(limit) {
                let (point, _) = row?;
                points.push(point.value().parse().map_err(|_| Failure::Damaged("a key is not a point"))?);
            }
            Ok(points)
        })?;
        Ok(points)
    }

    async fn ask(&self, job: impl FnOnce(Reply) -> Job) -> Result<(), Error> {
        let _turn = self.turns.acquire().await.map_err(|_| store::Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.engine.push(job(reply)).map_err(|(_, error)| error)?;
        Ok(answer.await.unwrap_or(Err(store::Error::Closed))?)
    }
}

type Reply = oneshot::Sender<Result<(), store::Error>>;

struct Job {
    point: Point,
    what: What,
    reply: Reply,
}

enum What {
    Write(Epoch, Bytes),
    Claim(Epoch),
    GoBack(Epoch),
    Forget,
}

struct States;

impl Apply for States {
    type Job = Job;
    type Answer = Result<(), store::Error>;

    fn weight(job: &Job) -> usize {
        match &job.what {
            What::Write(_, state) => 1 + state.len() / BYTES_A_WEIGHT,
            What::Claim(_) | What::GoBack(_) | What::Forget => 1,
        }
    }

    fn load(&mut self, _read: &ReadTransaction) -> Result<(), Failure> {
        Ok(())
    }

    fn apply(
        &mut self,
        write: &WriteTransaction,
        jobs: &[Job],
    ) -> Result<(Vec<Self::Answer>, bool), Failure> {
        let mut states = write.open_table(STATES)?;
        let mut claims = write.open_table(CLAIMS)?;
        let mut answers = Vec::with_capacity(jobs.len());
        let mut changed = false;
        for job in jobs {
            let point = job.point.as_str();
            let written = match states.get(point)? {
                Some(row) => Some(decode(point, row.value())?),
                None => None,
            };
            let claimed = claims.get(point)?.map(|row| Epoch(row.value()));
            let epoch = match &job.what {
                What::Write(epoch, _) | What::Claim(epoch) => epoch,
                What::GoBack(epoch) => {
                    if let Some((_, state)) = written.filter(|(of, _)| of > epoch) {
                        states.insert(point, &*encode(point, *epoch, &state))?;
                        changed = true;
                    }
                    if claimed.is_some_and(|claimed| claimed > *epoch) {
                        claims.insert(point, epoch.0)?;
                        changed = true;
                    }
                    answers.push(Ok(()));
                    continue;
                }
                What::Forget => {
                    changed |= states.remove(point)?.is_some();
                    changed |= claims.remove(point)?.is_some();
                    answers.push(Ok(()));
                    continue;
                }
            };
            let before = written.map(|(of, _)| of).max(claimed);
            if let Some(later) = before.filter(|before| before > epoch) {
                answers.push(Err(store::Error::FenceStale { scope: point.into(), epoch: later }));
                continue;
            }
            if let What::Write(_, state) = &job.what {
                states.insert(point, &*encode(point, *epoch, state))?;
                changed = true;
            } else if before != Some(*epoch) {
                claims.insert(point, epoch.0)?;
                changed = true;
            }
            answers.push(Ok(()));
        }
        Ok((answers, changed))
    }

    fn settle(&mut self, jobs: Vec<Job>, result: Result<Vec<Self::Answer>, store::Error>) {
        let answers = match result {
            Ok(answers) => answers,
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        };
        for (job, answer) in jobs.into_iter().zip(answers) {
            // Whoever asked may have gone away meanwhile.
            drop(job.reply.send(answer));
        }
    }
}

fn open_states(
    read: &ReadTransaction,
) -> Result<Option<redb::ReadOnlyTable<&'static str, &'static [u8]>>, Failure> {
    open(read, STATES)
}

/// A table; `None` before anything was written to it.
fn open<V: redb::Value + 'static>(
    read: &ReadTransaction,
    table: TableDefinition<'static, &'static str, V>,
) -> Result<Option<redb::ReadOnlyTable<&'static str, V>>, Failure> {
    match read.open_table(table) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Checksum, epoch, state.
fn encode(point: &str, epoch: Epoch, state: &[u8]) -> Vec<u8> {
    let epoch = epoch.0.to_le_bytes();
    [&checksum(point, &epoch, state).to_le_bytes()[..], &epoch, state].concat()
}

fn decode(point: &str, row: &[u8]) -> Result<(Epoch, Bytes), Failure> {
    let damaged = || Failure::Damaged("the checksum of a state does not match");
    let (sum, rest) = row.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (epoch, state) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    if u32::from_le_bytes(*sum) != checksum(point, epoch, state) {
        return Err(damaged());
    }
    Ok((Epoch(u64::from_le_bytes(*epoch)), Bytes::copy_from_slice(state)))
}

fn checksum(point: &str, epoch: &[u8], state: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(point.as_bytes());
    hasher.update(&[0]);
    hasher.update(epoch);
    hasher.update(state);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(text: &str) -> Point {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn states_survive_and_older_epochs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let (cart, other) = (point("shop:cart"), point("shop:other"));
        {
            let states = StateStore::open(&path).unwrap();
            assert_eq!(states.get(&cart).unwrap(), None);
            states.commit(&cart, Epoch(2), "two".into()).await.unwrap();
            states.commit(&cart, Epoch(2), "again".into()).await.unwrap();
            states.commit(&other, Epoch(1), "other".into()).await.unwrap();
            let refused = states.commit(&cart, Epoch(1), "one".into()).await;
            assert!(matches!(refused, Err(Error::Store(store::Error::FenceStale { epoch: Epoch(2), .. }))));
            let taken = StateStore::open(&path).err();
            assert!(matches!(taken, Some(Error::Store(store::Error::InUse { .. }))), "{taken:?}");
        }
        let states = StateStore::open(&path).unwrap();
        assert_eq!(states.get(&cart).unwrap(), Some((Epoch(2), "again".into())));
        assert_eq!(states.list(None, 10).unwrap(), [cart.clone(), other.clone()]);
        assert_eq!(states.list(Some(&cart), 10).unwrap(), std::slice::from_ref(&other));
        states.delete(&cart).await.unwrap();
        states.delete(&cart).await.unwrap();
        assert_eq!(states.list(None, 1).unwrap(), [other]);
    }

    #[tokio::test]
    async fn an_epoch_that_never_came_to_be_is_gone_back_from() {
        let folder = tempfile::tempdir().unwrap();
        let states = StateStore::open(folder.path().join("state.redb")).unwrap();
        let (written, claimed, none) = (point("shop:written"), point("shop:claimed"), point("shop:none"));
        for at in [&written, &claimed, &none] {
            assert_eq!(states.begun(at).unwrap(), None);
        }
        states.commit(&written, Epoch(8), "eight".into()).await.unwrap();
        states.claim(&written, Epoch(9)).await.unwrap();
        states.claim(&claimed, Epoch(8)).await.unwrap();
        assert_eq!(states.begun(&written).unwrap(), Some(Epoch(9)));
        for at in [&written, &claimed, &none] {
            states.go_back(at, Epoch(5)).await.unwrap();
        }
        assert_eq!(states.get(&written).unwrap(), Some((Epoch(5), "eight".into())));
        assert_eq!(
            [&written, &claimed, &none].map(|at| states.begun(at).unwrap()),
            [Some(Epoch(5)), Some(Epoch(5)), None]
        );
        states.commit(&written, Epoch(5), "five".into()).await.unwrap();
        states.commit(&claimed, Epoch(5), "five".into()).await.unwrap();
        // From no later one it changes nothing.
        states.go_back(&written, Epoch(7)).await.unwrap();
        assert_eq!(states.get(&written).unwrap(), Some((Epoch(5), "five".into())));
    }

    #[tokio::test]
    async fn who_claimed_a_state_has_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let cart = point("shop:cart");
        {
            let states = StateStore::open(&path).unwrap();
            assert_eq!(states.claim(&cart, Epoch(2)).await.unwrap(), None);
            states.commit(&cart, Epoch(2), "two".into()).await.unwrap();
            assert_eq!(states.claim(&cart, Epoch(5)).await.unwrap(), Some("two".into()));
        }
        let states = StateStore::open(&path).unwrap();
        for stale in [
            states.commit(&cart, Epoch(2), "late".into()).await,
            states.claim(&cart, Epoch(4)).await.map(drop),
        ] {
            assert!(
                matches!(stale, Err(Error::Store(store::Error::FenceStale { epoch: Epoch(5), .. }))),
                "{stale:?}"
            );
        }
        assert_eq!(states.claim(&cart, Epoch(5)).await.unwrap(), Some("two".into()), "its own claim again");
        states.commit(&cart, Epoch(5), "five".into()).await.unwrap();
        assert_eq!(states.get(&cart).unwrap(), Some((Epoch(5), "five".into())));
        states.delete(&cart).await.unwrap();
        states.commit(&cart, Epoch(1), "anew".into()).await.unwrap();
    }
}
