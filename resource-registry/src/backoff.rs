//! How long to wait before trying again: longer each time, up to a bound, and never all at the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
/// Short enough that a mesh that heals agrees again soon.
const LONGEST: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It worked, so the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure: between a half and the whole of a time that doubles.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(random as f64 / u64::MAX as f64)
    }
}

/// Randomness that decides nothing but who waits how long.
pub(crate) fn jitter() -> u64 {
    getrandom::u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(0), FIRST / 2);
        let mut last = FIRST / 2;
        for _ in 0..100 {
            let wait = backoff.next(0);
            assert!(wait >= last && wait <= LONGEST);
            last = wait;
        }
        assert_eq!((backoff.next(0), backoff.next(u64::MAX)), (LONGEST / 2, LONGEST));
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX), FIRST);
    }
}
