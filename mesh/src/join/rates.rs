//! How often somebody may ask: a bucket each, which fills again with time.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How often each of many may ask. When more are remembered than there is room for, those are forgotten whose bucket is
/// full again, since forgetting them changes nothing; when there are none, strangers are refused.
pub(super) struct Rates<K> {
    burst: u32,
    every: Duration,
    known_max: usize,
    /// When each bucket will be full.
    full_at: HashMap<K, Instant>,
}

impl<K: Hash + Eq> Rates<K> {
    /// `burst` at once, then one `every` so often; `known_max` are remembered.
    pub(super) fn new(burst: u32, every: Duration, known_max: usize) -> Self {
        Self { burst: burst.max(1), every, known_max, full_at: HashMap::new() }
    }

    /// Lets somebody ask now.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn ask(&mut self, who: K, now: Instant) -> Result<(), Duration> {
        if !self.full_at.contains_key(&who) && self.full_at.len() >= self.known_max {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= self.known_max {
                return Err(self.every);
            }
        }
        let full_at = self.full_at.entry(who).or_insert(now);
        let taken = full_at.saturating_duration_since(now);
        let most = self.every * (self.burst - 1);
        if taken > most {
            return Err(taken - most);
        }
        *full_at = (*full_at).max(now) + self.every;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_then_one_each_second() {
        let mut rates = Rates::new(5, SECOND, 10);
        let start = Instant::now();
        for _ in 0..5 {
            assert_eq!(rates.ask("a", start), Ok(()));
        }
        assert_eq!(rates.ask("a", start), Err(SECOND));
        assert_eq!(rates.ask("a", start + SECOND / 4), Err(SECOND * 3 / 4), "asking costs nothing");
        assert_eq!(rates.ask("b", start), Ok(()), "others are not held up");
        assert_eq!(rates.ask("a", start + SECOND), Ok(()));
        assert_eq!(rates.ask("a", start + SECOND), Err(SECOND));
        let later = start + SECOND * 100;
        let asked = (0..10).filter(|_| rates.ask("a", later).is_ok()).count();
        assert_eq!(asked, 5, "a bucket is never fuller than full");
    }

    #[test]
    fn strangers_are_refused_when_there_is_no_room_and_nobody_is_forgotten_early() {
        let mut rates = Rates::new(2, SECOND, 3);
        let start = Instant::now();
        for who in 0..3 {
            assert_eq!(rates.ask(who, start), Ok(()));
        }
        assert_eq!(rates.ask(3, start), Err(SECOND));
        assert_eq!(rates.ask(0, start), Ok(()), "who is known is not");
        assert_eq!(rates.ask(3, start + SECOND), Ok(()), "two buckets are full again");
        assert_eq!(rates.ask(0, start + SECOND), Ok(()));
        assert_eq!(rates.ask(0, start + SECOND), Err(SECOND), "one was not, and is remembered");
    }

    proptest! {
        #[test]
        fn never_more_than_a_burst_and_one_a_second(steps in proptest::collection::vec(0u64..3_000, 1..100)) {
            let mut rates = Rates::new(5, SECOND, 1);
            let start = Instant::now();
            let mut allowed = Vec::new();
            let mut now = start;
            for step in steps {
                now += Duration::from_millis(step);
                if rates.ask((), now).is_ok() {
                    allowed.push(now);
                }
            }
            for (first, from) in allowed.iter().enumerate() {
                for (last, to) in allowed.iter().enumerate().skip(first) {
                    prop_assert!((last - first) as u64 <= 5 + (*to - *from).as_secs());
                }
            }
        }
    }
}
