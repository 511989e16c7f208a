//! Message ids: UUID version 7 (RFC 9562), made without a system call each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use starlane_core::{MessageId, Timestamp};

/// The wall time; the one place of this crate that reads it.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis() as u64)
}

/// A number that nobody guesses.
pub(super) fn random() -> Result<u128, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

/// Makes ids that order in time and that nobody makes twice: a millisecond, then a counter from a random start.
#[derive(Debug)]
pub(super) struct Ids {
    counter: AtomicU64,
    node: u64,
}

impl Ids {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed)?;
        let half = |at: usize| seed[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Self { counter: AtomicU64::new(half(0)), node: half(8) })
    }

    /// The next id.
    pub(super) fn next(&self) -> MessageId {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        let time = u128::from(now().0 & 0xffff_ffff_ffff) << 80;
        let version = 7 << 76;
        let high = u128::from(count & 0xfff) << 64;
        let variant = 0b10 << 62;
        let low = u128::from((count >> 12 ^ self.node) & (u64::MAX >> 2));
        MessageId(time | version | high | variant | low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_version_7_and_never_repeat() {
        let ids = Ids::new().unwrap();
        let made: std::collections::BTreeSet<_> = (0..10_000).map(|_| ids.next()).collect();
        assert_eq!(made.len(), 10_000);
        for MessageId(id) in made {
            assert_eq!((id >> 76 & 0xf, id >> 62 & 0b11), (7, 0b10));
        }
    }
}
