//! States that survive the loss of their node: kept by the registry's node, or in the etcd of the registry, and reached from any.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use starlane_core::{Code, Epoch, NodeName, Point, Refusal};

use super::StateStore;
use crate::error::Error;
use crate::exchange::{Caller, Exchanges};
use crate::store::{self, EtcdStates};
use crate::upstream::Upstream;

const VERSION: u8 = 1;
/// How long a call may take before its outcome is unknown.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most points that are listed at a time.
const LIST_MAX: usize = 1_000;

/// What is asked: a version, then this in postcard. Variants are only ever added at the end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Request {
    Commit { point: Point, epoch: Epoch, state: Bytes },
    Claim { point: Point, epoch: Epoch },
    Get { point: Point },
    Delete { point: Point },
    List { after: Option<Point>, limit: u32 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    Done,
    State(Option<Bytes>),
    Written(Option<(Epoch, Bytes)>),
    Points(Vec<Point>),
}

fn encode(value: &impl Serialize) -> Bytes {
    #[expect(clippy::expect_used, reason = "numbers, strings and lists of known length always serialise")]
    postcard::to_extend(value, vec![VERSION]).expect("a call serialises").into()
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match bytes.split_first() {
        Some((&VERSION, bytes)) => postcard::from_bytes(bytes).ok(),
        _ => None,
    }
}

/// Answers the calls of [`RemoteStates`]. Cloning is cheap.
#[derive(Clone)]
pub struct StateService {
    states: MeshStates,
    exchanges: Arc<Exchanges>,
}

impl StateService {
    /// A service for the states that this node keeps or reaches.
    pub fn new(states: MeshStates) -> Self {
        Self { states, exchanges: Arc::default() }
    }

    /// Answers a call of a node.
    ///
    /// # Errors
    /// When the call is none that is known. Nothing was done then.
    pub fn handle(&self, from: NodeName, request: Bytes) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let service = self.clone();
        async move {
            let states = &service.states;
            let run = |request: Bytes| async move {
                let request = decode(&request).ok_or_else(|| {
                    Refusal::new(Code::Unsupported, "the state store does not know this call")
                })?;
                let result = answer(states, request).await.map_err(|error| match error {
                    Error::Store(error) => error,
                    other => store::Error::TooLarge(other.to_string().into()),
                });
                Ok(encode(&result))
            };
            service.exchanges.handle(from, request, run).await
        }
        .boxed()
    }
}

async fn answer(states: &MeshStates, request: Request) -> Result<Answer, Error> {
    Ok(match request {
        Request::Commit { point, epoch, state } => {
            states.commit(&point, epoch, state).await.map(|()| Answer::Done)?
        }
        Request::Claim { point, epoch } => Answer::State(states.claim(&point, epoch).await?),
        Request::Get { point } => Answer::Written(states.get(&point).await?),
        Request::Delete { point } => states.delete(&point).await.map(|()| Answer::Done)?,
        Request::List { after, limit } => {
            let limit = usize::try_from(limit).unwrap_or(LIST_MAX).min(LIST_MAX);
            Answer::Points(states.list(after.as_ref(), limit).await?)
        }
    })
}

/// The states that the registry's node keeps, seen from another one. Cloning is cheap.
#[derive(Clone)]
pub struct RemoteStates {
    caller: Caller,
}

impl RemoteStates {
    /// States behind calls to a [`StateService`].
    pub fn new(upstream: Arc<dyn Upstream>) -> Self {
        Self { caller: Caller::new(upstream) }
    }

    async fn ask(&self, request: Request) -> Result<Answer, Error> {
        // Claiming the same epoch again changes nothing.
        let only_reads = !matches!(request, Request::Commit { .. } | Request::Delete { .. });
        let answer = self.caller.call(encode(&request), TIMEOUT).await;
        let answer = answer.map_err(|unanswered| unanswered.into_store_error(only_reads))?;
        let result: Result<Answer, store::Error> = decode(&answer).ok_or_else(unexpected)?;
        Ok(result?)
    }

    async fn done(&self, request: Request) -> Result<(), Error> {
        match self.ask(request).await? {
            Answer::Done => Ok(()),
            _ => Err(unexpected().into()),
        }
    }
}

fn unexpected() -> store::Error {
    store::Error::Unknown { reason: "the registry's node answered something unexpected".into() }
}

/// The states that survive the loss of their node, on whichever node the caller is. Cloning is cheap.
#[derive(Clone)]
pub enum MeshStates {
    /// This is the registry's node.
    Here(StateStore),
    /// This is one of the nodes of a registry in etcd, which has the states too.
    Etcd(EtcdStates),
    /// The registry's node is another one.
    There(RemoteStates),
}

impl MeshStates {
    /// Stores a state; durable when it answers. It is never tried again behind the caller's back: who is told
    /// [`store::Error::Unknown`] claims the state again before it goes on.
    ///
    /// # Errors
    /// [`store::Error::FenceStale`] when a later epoch began or wrote before; [`store::Error::Unreachable`] when nothing
    /// was stored; [`store::Error::Unknown`].
    pub async fn commit(&self, point: &Point, epoch: Epoch, state: Bytes) -> Result<(), Error> {
        match self {
            Self::Here(states) => states.commit(point, epoch, state).await,
            Self::Etcd(states) => Ok(states.commit(point, epoch, state).await?),
            Self::There(states) => states.done(Request::Commit { point: point.clone(), epoch, state }).await,
        }
    }

    /// As [`StateStore::claim`].
    ///
    /// # Errors
    /// [`store::Error::FenceStale`] when a later epoch began or wrote before; [`store::Error::Unreachable`].
    pub async fn claim(&self, point: &Point, epoch: Epoch) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Here(states) => states.claim(point, epoch).await,
            Self::Etcd(states) => Ok(states.claim(point, epoch).await?),
            Self::There(states) => match states.ask(Request::Claim { point: point.clone(), epoch }).await? {
                Answer::State(state) => Ok(state),
                _ => Err(unexpected().into()),
            },
        }
    }

    /// The state of a mechtron, and the epoch under which it was written.
    ///
    /// # Errors
    /// [`store::Error::Unreachable`], or the file's.
    pub async fn get(&self, point: &Point) -> Result<Option<(Epoch, Bytes)>, Error> {
        match self {
            Self::Here(states) => states.get(point),
            Self::Etcd(states) => Ok(states.get(point).await?),
            Self::There(states) => match states.ask(Request::Get { point: point.clone() }).await? {
                Answer::Written(written) => Ok(written),
                _ => Err(unexpected().into()),
            },
        }
    }

    /// The latest epoch that began or wrote, where the states are; from elsewhere, the one that wrote.
    ///
    /// # Errors
    /// [`store::Error::Unreachable`], or the file's.
    pub async fn begun(&self, point: &Point) -> Result<Option<Epoch>, Error> {
        match self {
            Self::Here(states) => states.begun(point),
            Self::Etcd(states) => Ok(states.begun(point).await?),
            Self::There(_) => Ok(self.get(point).await?.map(|(epoch, _)| epoch)),
        }
    }

    /// Forgets a state and its epoch; forgetting what is not there is no error.
    ///
    /// # Errors
    /// As [`MeshStates::commit`].
    pub async fn delete(&self, point: &Point) -> Result<(), Error> {
        match self {
            Self::Here(states) => states.delete(point).await,
            Self::Etcd(states) => Ok(states.delete(point).await?),
            Self::There(states) => states.done(Request::Delete { point: point.clone() }).await,
        }
    }

    /// The points after one that have a state, in order, at most `limit`; fewer are not the end unless there are none.
    ///
    /// # Errors
    /// [`store::Error::Unreachable`], or the file's.
    pub async fn list(&self, after: Option<&Point>, limit: usize) -> Result<Vec<Point>, Error> {
        match self {
            Self::Here(states) => states.list(after, limit),
            Self::Etcd(states) => Ok(states.list(after, limit).await?),
            Self::There(states) => {
                let limit = u32::try_from(limit).unwrap_or(u32::MAX);
                match states.ask(Request::List { after: after.cloned(), limit }).await? {
                    Answer::Points(points) => Ok(points),
                    _ => Err(unexpected().into()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::flaky::{Faults, Flaky, Random};

    fn point(text: &str) -> Point {
        text.parse().unwrap()
    }

    fn away(states: &StateStore, seed: u64, faults: Faults) -> (MeshStates, Arc<Flaky>) {
        let service = StateService::new(MeshStates::Here(states.clone()));
        let from: NodeName = "edge-1".parse().unwrap();
        let flaky = Flaky::new(Arc::new(move |request| service.handle(from.clone(), request)), seed, faults);
        (MeshStates::There(RemoteStates::new(flaky.clone())), flaky)
    }

    fn store_error<T: std::fmt::Debug>(result: Result<T, Error>) -> store::Error {
        match result {
            Err(Error::Store(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn states_are_the_same_from_every_node() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateStore::open(folder.path().join("state.redb")).unwrap();
        let here = MeshStates::Here(file.clone());
        let (there, flaky) = away(&file, 1, Faults::default());
        let cart = point("shop:cart");
        // The largest state, in several calls.
        let large = Bytes::from(vec![7; super::super::STATE_BYTES_MAX]);
        assert_eq!(there.claim(&cart, Epoch(3)).await.unwrap(), None);
        there.commit(&cart, Epoch(3), large.clone()).await.unwrap();
        assert!(here.get(&cart).await.unwrap() == Some((Epoch(3), large.clone())));
        assert!(there.get(&cart).await.unwrap() == Some((Epoch(3), large.clone())));
        let too_large = there.commit(&cart, Epoch(3), vec![7; large.len() + 1].into()).await;
        assert!(matches!(store_error(too_large), store::Error::TooLarge(_)));
        assert!(here.claim(&cart, Epoch(4)).await.unwrap() == Some(large.clone()));
        let stale = store::Error::FenceStale { scope: "shop:cart".into(), epoch: Epoch(4) };
        assert_eq!(store_error(there.commit(&cart, Epoch(3), "late".into()).await), stale);
        assert_eq!(store_error(there.claim(&cart, Epoch(3)).await), stale);
        assert_eq!(there.list(None, 10).await.unwrap(), std::slice::from_ref(&cart));
        flaky.cut(true);
        let refused = there.commit(&cart, Epoch(4), "x".into()).await;
        assert!(matches!(store_error(refused), store::Error::Unreachable { .. }));
        flaky.cut(false);
        there.delete(&cart).await.unwrap();
        assert_eq!(there.list(None, 10).await.unwrap(), []);
    }

    /// Two nodes take turns; each goes on as if it were alone, as one does that was cut off.
    #[tokio::test]
    async fn whatever_is_lost_one_epoch_writes_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateStore::open(folder.path().join("state.redb")).unwrap();
        let (mut done, mut stale, mut unknown, mut fired) = (0, 0, 0, 0);
        for seed in 0..40 {
            let cart = point(&format!("shop:cart-{seed}"));
            let faults = Faults { rejected: 10, request_lost: 10, answer_lost: 10, repeated: 0, yields: 2 };
            let nodes = [away(&file, seed, faults), away(&file, seed + 1_000, faults)];
            let mut random = Random(seed);
            // What each node believes: its epoch, and what it wrote last.
            let mut epochs = [Epoch(0), Epoch(0)];
            let mut newest = Epoch(0);
            let mut possible: Vec<Option<Bytes>> = vec![None];
            for step in 0..40 {
                let at = random.below(2);
                if random.below(4) == 0 {
                    newest = Epoch(newest.0 + 1);
                    let begun = loop {
                        match nodes[at].0.claim(&cart, newest).await {
                            Err(Error::Store(store::Error::Unreachable { .. })) => {}
                            result => break result.unwrap(),
                        }
                    };
                    assert!(possible.contains(&begun), "seed {seed}: {begun:?} of {possible:?}");
                    possible = vec![begun];
                    epochs[at] = newest;
                    continue;
                }
                let state = Bytes::from(format!("{at}-{step}"));
                match nodes[at].0.commit(&cart, epochs[at], state.clone()).await {
                    Ok(()) => {
                        assert_eq!(epochs[at], newest, "seed {seed}: an old epoch wrote");
                        possible = vec![Some(state)];
                        done += 1;
                    }
                    Err(Error::Store(store::Error::FenceStale { epoch, .. })) => {
                        assert!(epoch == newest && epochs[at] < newest);
                        stale += 1;
                    }
                    Err(Error::Store(store::Error::Unknown { .. })) => {
                        if epochs[at] == newest {
                            possible.push(Some(state));
                        }
                        unknown += 1;
                    }
                    Err(error) => {
                        assert!(matches!(store_error::<()>(Err(error)), store::Error::Unreachable { .. }))
                    }
                }
            }
            let last = file.get(&cart).unwrap().map(|(_, state)| state);
            assert!(possible.contains(&last), "seed {seed}");
            fired += nodes.iter().map(|(_, flaky)| flaky.fired.load(Ordering::SeqCst)).sum::<u64>();
        }
        println!("{done} written, {stale} refused as stale, {unknown} in doubt, {fired} faults");
        assert!(done > 200 && stale > 100 && unknown > 50 && fired > 200);
    }

    #[test]
    fn the_bytes_are_those_that_other_nodes_know() {
        let cart = || point("shop:cart");
        let written = Answer::Written(Some((Epoch(4), "s".into())));
        let bytes = [
            encode(&Request::Commit { point: cart(), epoch: Epoch(300), state: "s".into() }),
            encode(&Request::Claim { point: cart(), epoch: Epoch(4) }),
            encode(&Request::Get { point: cart() }),
            encode(&Request::Delete { point: cart() }),
            encode(&Request::List { after: Some(cart()), limit: 10 }),
            encode(&Ok::<_, store::Error>(Answer::Done)),
            encode(&Ok::<_, store::Error>(Answer::State(Some("s".into())))),
            encode(&Ok::<_, store::Error>(written)),
            encode(&Ok::<_, store::Error>(Answer::Points(vec![cart()]))),
        ];
        let golden = [
            "01000973686f703a63617274ac020173",
            "01010973686f703a6361727404",
            "01020973686f703a63617274",
            "01030973686f703a63617274",
            "0104010973686f703a636172740a",
            "010000",
            "010001010173",
            "01000201040173",
            "010003010973686f703a63617274",
        ];
        assert_eq!(bytes.map(hex::encode), golden, "the wire changed: old nodes must be thought of");
        for (at, line) in golden.iter().enumerate() {
            let bytes = hex::decode(line).unwrap();
            let again = match at {
                0..5 => encode(&decode::<Request>(&bytes).unwrap()),
                _ => encode(&decode::<Result<Answer, store::Error>>(&bytes).unwrap()),
            };
            assert_eq!(hex::encode(again), *line);
        }
    }

    /// A node that is newer than the registry's asks what that does not know.
    #[tokio::test]
    async fn what_the_other_side_does_not_know_is_said_so() {
        let newer: crate::flaky::Handler = Arc::new(|_| {
            let folder = tempfile::tempdir().unwrap();
            let service = StateService::new(MeshStates::Here(
                StateStore::open(folder.path().join("state.redb")).unwrap(),
            ));
            let unknown = crate::exchange::framed(&[VERSION, 99]);
            async move { service.handle("edge-1".parse().unwrap(), unknown).await }.boxed()
        });
        let there = MeshStates::There(RemoteStates::new(Flaky::new(newer, 1, Faults::default())));
        let error = there.commit(&point("shop:cart"), Epoch(3), "s".into()).await.unwrap_err();
        let problem = starlane_core::Problem::from(error);
        assert_eq!(problem.code, Code::Unsupported);
        assert!(problem.help.unwrap().contains("upgrade the registry's node"));
    }

    #[tokio::test]
    async fn calls_that_are_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let service =
            StateService::new(MeshStates::Here(StateStore::open(folder.path().join("state.redb")).unwrap()));
        let from: NodeName = "edge-1".parse().unwrap();
        for request in
            [&[][..], &[VERSION], &[VERSION, 99], &[VERSION + 1, 2, 1, b'a'], &[VERSION, 2, 3, b'a']]
        {
            let frame = crate::exchange::framed(request);
            assert_eq!(service.handle(from.clone(), frame).await.unwrap_err().code, Code::Unsupported);
        }
    }
}
