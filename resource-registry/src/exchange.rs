//! Requests and answers of any length over calls of at most 1 MiB: what is longer goes in parts.
//!
//! A request runs when its last part has come, so losing one of the others costs nothing: it is sent again. The rest
//! of a long answer waits where it was made until it was fetched. Whoever finds that the other side has forgotten the
//! rest begins anew, which is harmless: long answers belong to requests that only read.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use starlane_core::{Code, NodeName, Refusal};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backoff::jitter;
use crate::upstream::{Unanswered, Upstream};

/// The longest call and the longest answer to one, in bytes: a part, and what says which.
pub const CALL_BYTES_MAX: usize = PART_BYTES + 1024;
/// The longest part.
pub(crate) const PART_BYTES: usize = 1024 * 1024;
/// The longest request or answer.
pub(crate) const WHOLE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How much a service holds of requests that are not whole yet and of answers that are not fetched yet. What was
/// touched longest ago gives way to what is new.
const HELD_BYTES_MAX: usize = 96 * 1024 * 1024;
/// The most exchanges that a service holds.
const HELD_MAX: usize = 1_024;
/// How many kibibytes of requests a service runs at a time; the next one is refused as busy. A short one counts as one.
const RUNNING_KIB_MAX: usize = 128 * 1024;
/// How long a service waits for the next part.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How often a part is sent or fetched, and how often a request begins anew.
const ATTEMPTS_MAX: usize = 3;
const VERSION: u8 = 1;

/// What is asked. Variants are only ever added at the end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Asked<'a> {
    Whole(&'a [u8]),
    Part { exchange: u64, total: u64, offset: u64, part: &'a [u8] },
    Rest { exchange: u64, offset: u64 },
}

/// What is answered. Variants are only ever added at the end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Told<'a> {
    Whole(&'a [u8]),
    /// The part was taken in.
    Received,
    /// The answer is longer than this: the rest is to be fetched.
    Long {
        exchange: u64,
        total: u64,
        part: &'a [u8],
    },
    Rest(&'a [u8]),
    /// The exchange is not known, or not any more. Nothing ran.
    Lost,
}

fn encode(frame: &impl Serialize) -> Bytes {
    #[expect(clippy::expect_used, reason = "numbers and slices always serialise")]
    postcard::to_extend(frame, vec![VERSION]).expect("a frame serialises").into()
}

fn decode<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<T, Refusal> {
    match frame.split_first() {
        Some((&VERSION, frame)) => postcard::from_bytes(frame)
            .map_err(|_| Refusal::new(Code::Unsupported, "this kind of call is not known here")),
        _ => Err(Refusal::new(Code::Unsupported, "the call is of another version")),
    }
}

/// A short request as it is sent.
#[cfg(test)]
pub(crate) fn framed(request: &[u8]) -> Bytes {
    encode(&Asked::Whole(request))
}

/// The request in a frame that holds all of one, or of the question for the rest of an answer nothing.
#[cfg(test)]
pub(crate) fn whole(frame: &[u8]) -> Option<&[u8]> {
    match decode(frame).ok()? {
        Asked::Whole(request) => Some(request),
        Asked::Part { .. } => None,
        Asked::Rest { .. } => Some(&[]),
    }
}

/// Sends requests of any length.
#[derive(Clone)]
pub(crate) struct Caller {
    upstream: Arc<dyn Upstream>,
    exchanges: Arc<AtomicU64>,
}

impl Caller {
    pub(crate) fn new(upstream: Arc<dyn Upstream>) -> Self {
        // Begins somewhere, so that what a former life of this node left behind is not taken up.
        Self { upstream, exchanges: Arc::new(AtomicU64::new(jitter())) }
    }

    /// Sends a request; a short one when called, not when polled.
    pub(crate) fn call(
        &self,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Unanswered>> {
        let caller = self.clone();
        if request.len() > WHOLE_BYTES_MAX {
            let refusal = Refusal::new(Code::TooLarge, "the request is too long for the registry");
            return futures::future::ready(Err(Unanswered::Rejected(refusal))).boxed();
        }
        if request.len() <= PART_BYTES {
            let told = self.upstream.call(encode(&Asked::Whole(&request)), timeout);
            return async move { caller.whole_answer(told.await?, timeout).await }.boxed();
        }
        async move {
            let told = caller.in_parts(&request, timeout).await?;
            caller.whole_answer(told, timeout).await
        }
        .boxed()
    }

    /// Sends a long request part by part and tells the answer to the last one.
    async fn in_parts(&self, request: &[u8], timeout: Duration) -> Result<Bytes, Unanswered> {
        let total = request.len() as u64;
        'anew: for _ in 0..ATTEMPTS_MAX {
            let exchange = self.exchanges.fetch_add(1, Ordering::Relaxed);
            let mut parts = request.chunks(PART_BYTES).enumerate().peekable();
            while let Some((number, part)) = parts.next() {
                let offset = (number * PART_BYTES) as u64;
                let part = encode(&Asked::Part { exchange, total, offset, part });
                let told = match parts.peek() {
                    // Only now it runs, so this one is sent once.
                    None => self.upstream.call(part, timeout).await?,
                    Some(_) => self.again(part, timeout).await.map_err(nothing_ran)?,
                };
                match decode(&told).map_err(Unanswered::Unknown)? {
                    Told::Received => {}
                    Told::Lost => continue 'anew,
                    _ => return Ok(told),
                }
            }
            return Err(unexpected());
        }
        Err(Unanswered::Rejected(Refusal::new(Code::Busy, "the registry has no room for a long request")))
    }

    /// Completes an answer.
    async fn whole_answer(&self, told: Bytes, timeout: Duration) -> Result<Bytes, Unanswered> {
        let (exchange, total, part) = match decode(&told).map_err(Unanswered::Unknown)? {
            Told::Whole(answer) => return Ok(told.slice_ref(answer)),
            Told::Long { exchange, total, part } => (exchange, total, part),
            Told::Lost => {
                return Err(Unanswered::Rejected(Refusal::new(
                    Code::Busy,
                    "the registry forgot the request",
                )));
            }
            _ => return Err(unexpected()),
        };
        let total = usize::try_from(total).ok().filter(|total| *total <= WHOLE_BYTES_MAX);
        let total = total.ok_or_else(unexpected)?;
        let mut answer = BytesMut::from(part);
        while answer.len() < total {
            let rest = encode(&Asked::Rest { exchange, offset: answer.len() as u64 });
            let told = self
                .again(rest, timeout)
                .await
                .map_err(|lost| Unanswered::Unknown(lost.refusal().clone()))?;
            match decode(&told).map_err(Unanswered::Unknown)? {
                Told::Rest(part) if !part.is_empty() && part.len() <= total - answer.len() => {
                    answer.extend_from_slice(part);
                }
                _ => {
                    let forgot = Refusal::new(Code::Timeout, "the registry forgot the rest of its answer");
                    return Err(Unanswered::Unknown(forgot));
                }
            }
        }
        Ok(answer.freeze())
    }

    /// Sends what may be sent again.
    async fn again(&self, frame: Bytes, timeout: Duration) -> Result<Bytes, Unanswered> {
        let mut told = self.upstream.call(frame.clone(), timeout).await;
        for _ in 1..ATTEMPTS_MAX {
            if told.is_ok() {
                break;
            }
            told = self.upstream.call(frame.clone(), timeout).await;
        }
        told
    }
}

/// A part was lost before the last one was sent.
fn nothing_ran(lost: Unanswered) -> Unanswered {
    Unanswered::Rejected(lost.refusal().clone())
}

fn unexpected() -> Unanswered {
    Unanswered::Unknown(Refusal::new(Code::Internal, "the registry's node answered something unexpected"))
}

/// Takes requests of any length.
pub(crate) struct Exchanges {
    held: Mutex<Held>,
    running: Semaphore,
}

struct Held {
    exchanges: HashMap<(NodeName, Way, u64), Exchange>,
    /// How many bytes they may come to hold.
    bytes: usize,
    answers: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    Request,
    Answer,
}

struct Exchange {
    bytes: Bytes,
    /// What came of a request so far.
    parts: BytesMut,
    total: usize,
    touched: Instant,
}

impl Default for Exchanges {
    fn default() -> Self {
        let held = Held { exchanges: HashMap::new(), bytes: 0, answers: jitter() };
        Self { held: Mutex::new(held), running: Semaphore::new(RUNNING_KIB_MAX) }
    }
}

impl Exchanges {
    /// Takes a frame in, runs the request when it is whole, and answers with a frame.
    ///
    /// # Errors
    /// When the frame is none, or what running the request ended with; nothing ran when `run` was not called.
    pub(crate) async fn handle<F>(
        &self,
        from: NodeName,
        frame: Bytes,
        run: impl FnOnce(Bytes) -> F,
    ) -> Result<Bytes, Refusal>
    where
        F: Future<Output = Result<Bytes, Refusal>>,
    {
        if frame.len() > CALL_BYTES_MAX {
            return Err(Refusal::new(Code::TooLarge, "a call to the registry is too long"));
        }
        let request = match decode(&frame)? {
            Asked::Whole(request) => frame.slice_ref(request),
            Asked::Part { exchange, total, offset, part } => {
                match self.held.lock().take_part(&from, exchange, total, offset, part) {
                    Some(request) if request.is_empty() => return Ok(encode(&Told::Received)),
                    Some(request) => request,
                    None => return Ok(encode(&Told::Lost)),
                }
            }
            Asked::Rest { exchange, offset } => {
                return Ok(match self.held.lock().rest(&from, exchange, offset) {
                    Some(part) => encode(&Told::Rest(&part)),
                    None => encode(&Told::Lost),
                });
            }
        };
        let weight = u32::try_from(request.len() / 1024 + 1).unwrap_or(u32::MAX);
        let busy = |_| Refusal::new(Code::Busy, "the registry's node has too much to do");
        let _turn = self.running.try_acquire_many(weight).map_err(busy)?;
        let answer = run(request).await?;
        if answer.len() <= PART_BYTES {
            return Ok(encode(&Told::Whole(&answer)));
        }
        let (part, total) = (answer.slice(..PART_BYTES), answer.len() as u64);
        let exchange = self.held.lock().hold_answer(&from, answer);
        let exchange =
            exchange.ok_or_else(|| Refusal::new(Code::TooLarge, "the registry's answer is too long"))?;
        Ok(encode(&Told::Long { exchange, total, part: &part }))
    }
}

impl Held {
    /// Takes a part of a request in: nothing while more must come, then the request; `None` when it is lost.
    fn take_part(
        &mut self,
        from: &NodeName,
        exchange: u64,
        total: u64,
        offset: u64,
        part: &[u8],
    ) -> Option<Bytes> {
        let now = Instant::now();
        let key = (from.clone(), Way::Request, exchange);
        let (total, offset) = (usize::try_from(total).ok()?, usize::try_from(offset).ok()?);
        if offset == 0 && !self.exchanges.contains_key(&key) {
            let (bytes, parts) = (Bytes::new(), BytesMut::new());
            self.insert(key.clone(), Exchange { bytes, parts, total, touched: now })?;
        }
        let known = self.exchanges.get_mut(&key)?;
        let have = known.parts.len();
        if known.total != total || offset > have || part.is_empty() || part.len() > total - offset {
            return None;
        }
        known.touched = now;
        if offset == have {
            known.parts.extend_from_slice(part);
        }
        if known.parts.len() < total {
            return Some(Bytes::new());
        }
        self.remove(&key).map(|whole| whole.parts.freeze())
    }

    fn hold_answer(&mut self, from: &NodeName, answer: Bytes) -> Option<u64> {
        self.answers = self.answers.wrapping_add(1);
        let (total, touched) = (answer.len(), Instant::now());
        let held = Exchange { bytes: answer, parts: BytesMut::new(), total, touched };
        self.insert((from.clone(), Way::Answer, self.answers), held)?;
        Some(self.answers)
    }

    /// The next part of an answer. The last one stays for a while too, since it may be lost on its way.
    fn rest(&mut self, from: &NodeName, exchange: u64, offset: u64) -> Option<Bytes> {
        let held = self.exchanges.get_mut(&(from.clone(), Way::Answer, exchange))?;
        let offset = usize::try_from(offset).ok().filter(|offset| *offset < held.bytes.len())?;
        held.touched = Instant::now();
        Some(held.bytes.slice(offset..held.bytes.len().min(offset + PART_BYTES)))
    }

    /// Makes room and holds one more; `None` when it alone is too much.
    fn insert(&mut self, key: (NodeName, Way, u64), exchange: Exchange) -> Option<()> {
        if exchange.total > WHOLE_BYTES_MAX {
            return None;
        }
        let now = exchange.touched;
        let idle = |held: &Exchange| now.duration_since(held.touched) > IDLE_MAX;
        self.exchanges.retain(|_, held| {
            let stays = !idle(held);
            self.bytes -= if stays { 0 } else { held.total };
            stays
        });
        while self.bytes + exchange.total > HELD_BYTES_MAX || self.exchanges.len() >= HELD_MAX {
            let oldest = self.exchanges.iter().min_by_key(|(_, held)| held.touched);
            let oldest = oldest.map(|(key, _)| key.clone())?;
            self.remove(&oldest);
        }
        self.bytes += exchange.total;
        self.exchanges.insert(key, exchange);
        Some(())
    }

    fn remove(&mut self, key: &(NodeName, Way, u64)) -> Option<Exchange> {
        let removed = self.exchanges.remove(key)?;
        self.bytes -= removed.total;
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flaky::{Faults, Flaky, Handler, Random};

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn node() -> NodeName {
        "edge-1".parse().unwrap()
    }

    /// Content whose every stretch differs from the others.
    fn content(seed: u64, bytes: usize) -> Bytes {
        let mut random = Random(seed);
        (0..bytes.div_ceil(8))
            .flat_map(|_| random.next().to_le_bytes())
            .take(bytes)
            .collect::<Vec<_>>()
            .into()
    }

    /// A service that answers with the request turned round, and counts what runs.
    fn mirror() -> (Handler, Arc<Exchanges>, Arc<AtomicU64>) {
        let (exchanges, ran) = (Arc::new(Exchanges::default()), Arc::new(AtomicU64::new(0)));
        let known = (exchanges.clone(), ran.clone());
        let handler: Handler = Arc::new(move |frame| {
            let (exchanges, ran) = known.clone();
            async move {
                let run = |request: Bytes| async move {
                    ran.fetch_add(1, Ordering::SeqCst);
                    Ok(request.iter().rev().copied().collect::<Vec<_>>().into())
                };
                exchanges.handle(node(), frame, run).await
            }
            .boxed()
        });
        (handler, exchanges, ran)
    }

    fn turned(request: &[u8]) -> Vec<u8> {
        request.iter().rev().copied().collect()
    }

    #[tokio::test]
    async fn requests_and_answers_of_every_length_come_whole_and_run_once() {
        let (handler, exchanges, ran) = mirror();
        let caller = Caller::new(Flaky::new(handler, 1, Faults::default()));
        let lengths = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 5 * PART_BYTES + 7];
        for (number, length) in lengths.into_iter().enumerate() {
            let request = content(7, length);
            let answer = caller.call(request.clone(), TIMEOUT).await.unwrap();
            assert!(answer == turned(&request), "{length}");
            assert_eq!(ran.load(Ordering::SeqCst), number as u64 + 1);
        }
        let held = exchanges.held.lock();
        assert!(held.exchanges.keys().all(|(_, way, _)| *way == Way::Answer), "no request is left behind");
    }

    #[tokio::test]
    async fn what_is_lost_on_the_way_is_sent_again_and_an_outcome_is_never_wrong() {
        let (mut whole, mut rejected, mut unknown, mut fired) = (0, 0, 0, 0);
        for seed in 0..60 {
            let (handler, _exchanges, ran) = mirror();
            let faults = Faults { rejected: 15, request_lost: 10, answer_lost: 10, repeated: 0, yields: 3 };
            let flaky = Flaky::new(handler, seed, faults);
            let caller = Caller::new(flaky.clone());
            let request = content(seed, PART_BYTES * (seed as usize % 5) + 100);
            let result = caller.call(request.clone(), TIMEOUT).await;
            let ran = ran.load(Ordering::SeqCst);
            match result {
                Ok(answer) => {
                    assert!(answer == turned(&request) && ran == 1, "seed {seed}");
                    whole += 1;
                }
                Err(Unanswered::Rejected(_)) => {
                    assert_eq!(ran, 0, "seed {seed}: it was said that nothing ran");
                    rejected += 1;
                }
                Err(Unanswered::Unknown(_)) => {
                    assert!(ran <= 1, "seed {seed}");
                    unknown += 1;
                }
            }
            fired += flaky.fired.load(Ordering::SeqCst);
        }
        println!("{whole} whole, {rejected} rejected, {unknown} unknown, {fired} faults");
        assert!(whole > 10 && rejected > 3 && unknown > 3 && fired > 60);
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_what_gave_way_begins_anew() {
        let (handler, exchanges, ran) = mirror();
        let flaky = Flaky::new(handler.clone(), 1, Faults::default());
        let total = WHOLE_BYTES_MAX as u64;
        let begin = |exchange| encode(&Asked::Part { exchange, total, offset: 0, part: &[7; 1000] });
        for exchange in 0..20 {
            handler(begin(exchange)).await.unwrap();
            assert!(exchanges.held.lock().bytes <= HELD_BYTES_MAX);
        }
        let too_long = encode(&Asked::Part { exchange: 99, total: total + 1, offset: 0, part: &[7] });
        assert!(matches!(decode(&handler(too_long).await.unwrap()), Ok(Told::Lost)));
        // One that goes on after it gave way is told so; nothing ran.
        let on = encode(&Asked::Part { exchange: 0, total, offset: 1000, part: &[7; 1000] });
        assert!(matches!(decode(&handler(on).await.unwrap()), Ok(Told::Lost)));
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        let request = content(3, 3 * PART_BYTES);
        let answer = Caller::new(flaky).call(request.clone(), TIMEOUT).await.unwrap();
        assert!(answer == turned(&request));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_fetches_is_let_go_of() {
        let (handler, exchanges, _) = mirror();
        let caller = Caller::new(Flaky::new(handler, 1, Faults::default()));
        caller.call(content(1, 3 * PART_BYTES), TIMEOUT).await.unwrap();
        assert!(exchanges.held.lock().bytes > 0);
        tokio::time::advance(IDLE_MAX + Duration::from_secs(1)).await;
        caller.call(content(1, 2 * PART_BYTES), TIMEOUT).await.unwrap();
        assert_eq!(exchanges.held.lock().bytes, 2 * PART_BYTES, "only what came last");
    }

    #[test]
    fn the_bytes_are_those_that_other_nodes_know() {
        let asked = [
            (Asked::Whole(b"xy"), "0100027879"),
            (Asked::Part { exchange: 300, total: 5, offset: 2, part: b"xy" }, "0101ac020502027879"),
            (Asked::Rest { exchange: 300, offset: 2 }, "0102ac0202"),
        ];
        for (frame, bytes) in asked {
            assert_eq!(hex::encode(encode(&frame)), bytes, "the wire changed: old nodes must be thought of");
            assert_eq!(decode::<Asked<'_>>(&hex::decode(bytes).unwrap()).unwrap(), frame);
        }
        let told = [
            (Told::Whole(b"xy"), "0100027879"),
            (Told::Received, "0101"),
            (Told::Long { exchange: 300, total: 5, part: b"xy" }, "0102ac0205027879"),
            (Told::Rest(b"xy"), "0103027879"),
            (Told::Lost, "0104"),
        ];
        for (frame, bytes) in told {
            assert_eq!(hex::encode(encode(&frame)), bytes, "the wire changed: old nodes must be thought of");
            assert_eq!(decode::<Told<'_>>(&hex::decode(bytes).unwrap()).unwrap(), frame);
        }
    }

    #[tokio::test]
    async fn frames_that_are_none_are_refused() {
        let (handler, _, ran) = mirror();
        let part = |total, offset, part| encode(&Asked::Part { exchange: 1, total, offset, part });
        for frame in [&[][..], &[VERSION], &[VERSION + 1, 0, 0], &[VERSION, 9, 9, 9], &[VERSION, 0, 200, 1]] {
            let refused = handler(Bytes::copy_from_slice(frame)).await.unwrap_err();
            assert_eq!(refused.code, Code::Unsupported, "{frame:?}");
        }
        handler(Bytes::from(vec![VERSION; CALL_BYTES_MAX + 1])).await.unwrap_err();
        for frame in [part(10, 5, &[1]), part(3, 0, &[1; 4]), part(3, 0, &[]), part(u64::MAX, 0, &[1])] {
            assert!(matches!(decode(&handler(frame).await.unwrap()), Ok(Told::Lost)));
        }
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    }
}
