//! When a certificate is renewed.

use std::time::Duration;

use super::UnixSeconds;

/// How long the first wait after a failure is.
const RETRY_SECONDS: u64 = 1;
/// The longest wait after a failure.
const RETRY_SECONDS_MAX: u64 = 300;
/// The longest wait at once: a machine may sleep meanwhile, and its clock may be set.
const LOOK_SECONDS: u64 = 60;

/// When a certificate is renewed: at half of its life, a tenth of it earlier or later. `random` is any number; numbers
/// drawn evenly spread the times evenly.
pub fn renew_at(not_before: UnixSeconds, not_after: UnixSeconds, random: u32) -> UnixSeconds {
    let life = not_after.since(not_before);
    // From 40 % to 60 % of the life.
    let spread = (u128::from(life / 5) * u128::from(random)) >> 32;
    not_before.plus(life / 2 - life / 10).plus(u64::try_from(spread).unwrap_or(u64::MAX))
}

/// What to do about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet: look again after this.
    Wait(Duration),
    /// Renew it.
    Renew,
}

/// What to do about a certificate that is due at some time, after so many failures in a row, the last at some time.
pub(super) fn next(
    now: UnixSeconds,
    due: UnixSeconds,
    failures: u32,
    failed: UnixSeconds,
    random: u32,
) -> Step {
    let due = if failures == 0 {
        due
    } else {
        let back_off =
            RETRY_SECONDS.checked_shl(failures.min(16) - 1).unwrap_or(u64::MAX).min(RETRY_SECONDS_MAX);
        // Half of it up to all of it, so that nodes that lost the same authority do not come back at once.
        let part = (u128::from(back_off) * u128::from(random)) >> 33;
        // A clock that was set back must not make the wait longer.
        failed.min(now).plus(back_off / 2).plus(u64::try_from(part).unwrap_or(u64::MAX)).plus(1)
    };
    match due.since(now) {
        0 => Step::Renew,
        wait => Step::Wait(Duration::from_secs(wait.min(LOOK_SECONDS))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_of_a_life_and_a_tenth_more_or_less() {
        let day = |random| renew_at(UnixSeconds(1_000), UnixSeconds(1_000 + 86_400), random).0 - 1_000;
        assert_eq!([0, u32::MAX / 2, u32::MAX].map(day), [34_560, 43_199, 51_839]);
    }

    proptest! {
        #[test]
        fn renewal_falls_into_the_middle_of_any_life(from in 0..u64::MAX, life in 0u64..1 << 40, random: u32) {
            let from = UnixSeconds(from);
            let to = from.plus(life);
            let at = renew_at(from, to, random);
            prop_assert!(at >= from && at <= to);
            let tenths = u128::from(at.since(from)) * 10;
            let life = u128::from(to.since(from));
            prop_assert!(tenths + 50 >= life * 4 && tenths <= life * 6 + 50);
        }

        #[test]
        fn a_failure_is_tried_again_within_minutes_for_ever(
            now in 0u64..1 << 40, behind in 0u64..1000, failures in 1u32.., random: u32,
        ) {
            let now = UnixSeconds(now);
            let failed = now.minus(behind);
            match next(now, UnixSeconds(0), failures, failed, random) {
                Step::Renew => prop_assert!(behind >= 1),
                Step::Wait(wait) => prop_assert!(wait <= Duration::from_secs(60) && !wait.is_zero()),
            }
            let late = failed.plus(RETRY_SECONDS_MAX + 1);
            prop_assert_eq!(next(late, UnixSeconds(0), failures, failed, random), Step::Renew);
        }
    }
}
