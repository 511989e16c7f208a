//! A mesh that loses things, from a seed: for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use starlane_core::{Code, Refusal};

use crate::upstream::{Unanswered, Upstream};

/// What answers on the other side.
pub(crate) type Handler = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Bytes, Refusal>> + Send + Sync>;

/// Deterministic and small: splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// How often what happens, in percent of the calls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Refused, and surely not run.
    pub(crate) rejected: usize,
    /// Not run, and the caller does not know.
    pub(crate) request_lost: usize,
    /// Run, and the caller does not know.
    pub(crate) answer_lost: usize,
    /// Run twice; the second answer is told.
    pub(crate) repeated: usize,
    /// How often others may go on before it runs, and before its answer comes, at most.
    pub(crate) yields: usize,
}

/// An upstream to a handler of this process.
pub(crate) struct Flaky {
    handler: Handler,
    random: Mutex<Random>,
    faults: Mutex<Faults>,
    /// Which calls are never run twice, nor left unknown.
    spare: Box<dyn Fn(&[u8]) -> bool + Send + Sync>,
    cut: Arc<AtomicBool>,
    pub(crate) calls: AtomicU64,
    pub(crate) fired: AtomicU64,
}

impl Flaky {
    pub(crate) fn new(handler: Handler, seed: u64, faults: Faults) -> Arc<Self> {
        Self::sparing(handler, seed, faults, |_| false)
    }

    pub(crate) fn sparing(
        handler: Handler,
        seed: u64,
        faults: Faults,
        spare: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            handler,
            random: Mutex::new(Random(seed)),
            faults: Mutex::new(faults),
            spare: Box::new(spare),
            cut: Arc::default(),
            calls: AtomicU64::new(0),
            fired: AtomicU64::new(0),
        })
    }

    /// Takes the other side out of reach, or lets it be reached again.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    pub(crate) fn set(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }
}

fn unreachable() -> Result<Bytes, Unanswered> {
    Err(Unanswered::Rejected(Refusal::new(Code::Unreachable, "no way to the node")))
}

impl Upstream for Flaky {
    fn call(&self, request: Bytes, _timeout: Duration) -> BoxFuture<'static, Result<Bytes, Unanswered>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        assert!(request.len() <= crate::CALL_BYTES_MAX, "{}", request.len());
        let mut random = self.random.lock();
        let faults = *self.faults.lock();
        let spared = (self.spare)(&request);
        let rejected = random.percent(faults.rejected);
        let request_lost = random.percent(faults.request_lost) && !spared;
        let answer_lost = random.percent(faults.answer_lost) && !spared;
        let repeated = random.percent(faults.repeated) && !spared;
        let (before, after) = (random.below(faults.yields + 1), random.below(faults.yields + 1));
        if rejected || request_lost || answer_lost || repeated {
            self.fired.fetch_add(1, Ordering::SeqCst);
        }
        if rejected || self.cut.load(Ordering::SeqCst) {
            return futures::future::ready(unreachable()).boxed();
        }
        let (handler, cut) = (self.handler.clone(), self.cut.clone());
        let lost = || Err(Unanswered::Unknown(Refusal::new(Code::Timeout, "no answer came")));
        async move {
            for _ in 0..before {
                tokio::task::yield_now().await;
            }
            if request_lost {
                return lost();
            }
            if repeated {
                drop(handler(request.clone()).await);
            }
            let answer = handler(request).await;
            for _ in 0..after {
                tokio::task::yield_now().await;
            }
            if answer_lost || cut.load(Ordering::SeqCst) {
                return lost();
            }
            let answer = answer.map_err(Unanswered::Rejected)?;
            assert!(answer.len() <= crate::CALL_BYTES_MAX, "{}", answer.len());
            Ok(answer)
        }
        .boxed()
    }
}
