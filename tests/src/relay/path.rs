//! What one direction of a relay does to each datagram: decided from a seed, without sockets and without a clock.

use std::time::{Duration, Instant};

use crate::seeded::Random;

/// What happens to datagrams in one direction. The default leaves them alone.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Impairment {
    /// How long each is under way.
    pub delay: Duration,
    /// How much longer at most. Order is kept.
    pub jitter: Duration,
    /// Which share is lost, 0.0 to 1.0.
    pub loss: f64,
    /// How many are lost in a row, on average; up to 1.0 each is lost or not by its own chance.
    pub burst: f64,
    /// Which share is held back, so that later ones overtake it.
    pub reorder: f64,
    /// How long those are held back.
    pub held: Duration,
    /// Which share arrives twice.
    pub duplicate: f64,
    /// How many bytes a second pass; what would wait longer than [`Path::WAIT_MAX`] for them is dropped.
    pub bytes_per_second: Option<u64>,
    /// Nothing arrives at all.
    pub blackhole: bool,
}

/// How often each fault really happened in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Datagrams that came in.
    pub received: u64,
    /// Datagrams that went out, second copies among them.
    pub sent: u64,
    /// Those lost by chance.
    pub lost: u64,
    /// Those that a blackhole swallowed.
    pub swallowed: u64,
    /// Second copies.
    pub duplicated: u64,
    /// Those that later ones really overtook.
    pub reordered: u64,
    /// Those for which there was no room.
    pub overflowed: u64,
}

/// When the copies of a datagram go out: none, one or two.
pub(super) type Due = [Option<Instant>; 2];

/// One direction, with what it remembers.
#[derive(Debug)]
pub struct Path {
    random: Random,
    /// Whether a run of losses goes on.
    losing: bool,
    /// When the last one that was not held back goes out.
    last: Option<Instant>,
    /// When the bytes so far have passed.
    free: Option<Instant>,
}

impl Path {
    /// How long a datagram may wait for those before it where a rate is set; one that would wait longer is dropped.
    pub const WAIT_MAX: Duration = Duration::from_millis(250);

    pub(super) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), losing: false, last: None, free: None }
    }

    /// Decides on a datagram that came in now, and counts what was decided.
    pub(super) fn pass(
        &mut self,
        now: Instant,
        bytes: usize,
        impairment: &Impairment,
        counts: &mut Counts,
    ) -> Due {
        counts.received += 1;
        if impairment.blackhole {
            counts.swallowed += 1;
            return [None; 2];
        }
        if self.loses(impairment) {
            counts.lost += 1;
            return [None; 2];
        }
        let Some(through) = self.through(now, bytes, impairment) else {
            counts.overflowed += 1;
            return [None; 2];
        };
        let jitter = Duration::from_nanos(self.random.below(impairment.jitter.as_nanos() as u64));
        let mut due = through + impairment.delay + jitter;
        if self.random.chance(impairment.reorder) {
            due += impairment.held;
        } else {
            due = self.last.map_or(due, |last| due.max(last));
            self.last = Some(due);
        }
        let again = self.random.chance(impairment.duplicate);
        counts.duplicated += u64::from(again);
        [Some(due), again.then_some(due)]
    }

    /// Whether the next one is lost: by its own chance, or as one of a run (Gilbert, 1960).
    fn loses(&mut self, impairment: &Impairment) -> bool {
        let Impairment { loss, burst, .. } = *impairment;
        if burst <= 1.0 || loss >= 1.0 {
            return self.random.chance(loss);
        }
        let chance = if self.losing { 1.0 - 1.0 / burst } else { loss / (burst * (1.0 - loss)) };
        self.losing = self.random.chance(chance);
        self.losing
    }

    /// When the datagram has passed the narrowest place; `None` when it would wait too long for it.
    fn through(&mut self, now: Instant, bytes: usize, impairment: &Impairment) -> Option<Instant> {
        let Some(rate) = impairment.bytes_per_second else { return Some(now) };
        let begin = self.free.map_or(now, |free| free.max(now));
        if begin - now > Self::WAIT_MAX {
            return None;
        }
        let through = begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        self.free = Some(through);
        Some(through)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Lets datagrams of 1,000 bytes pass, one a millisecond; answers when each goes out, after the first came in.
    fn pass(seed: u64, count: u32, impairment: Impairment) -> (Vec<Vec<Duration>>, Counts) {
        let (mut path, mut counts, begun) = (Path::new(seed), Counts::default(), Instant::now());
        let passed = (0..count)
            .map(|number| path.pass(begun + number * MS, 1_000, &impairment, &mut counts))
            .map(|due| due.into_iter().flatten().map(|due| due - begun).collect())
            .collect();
        (passed, counts)
    }

    #[test]
    fn nothing_happens_by_default() {
        let (passed, counts) = pass(1, 100, Impairment::default());
        assert_eq!(passed, (0..100).map(|number| vec![number * MS]).collect::<Vec<_>>());
        assert_eq!(counts, Counts { received: 100, ..Counts::default() });
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let all = Impairment {
            jitter: 5 * MS,
            loss: 0.2,
            burst: 3.0,
            reorder: 0.2,
            duplicate: 0.1,
            ..Impairment::default()
        };
        assert_eq!(pass(5, 1_000, all), pass(5, 1_000, all));
        assert_ne!(pass(5, 1_000, all), pass(6, 1_000, all));
    }

    #[test]
    fn delay_and_jitter_keep_the_order() {
        let (passed, _) =
            pass(2, 1_000, Impairment { delay: 20 * MS, jitter: 10 * MS, ..Impairment::default() });
        let due: Vec<Duration> = passed.concat();
        assert_eq!(due.len(), 1_000);
        assert!(due.is_sorted());
        let late = due.iter().zip(0_u32..).filter(|(due, number)| **due - *number * MS > 21 * MS).count();
        assert!(late > 500, "{late} were late by more than the delay");
        assert!(due.iter().zip(0_u32..).all(|(due, number)| *due - number * MS >= 20 * MS));
    }

    #[test]
    fn losses_meet_their_share_alone_and_in_bursts() {
        let runs = |passed: &[Vec<Duration>]| {
            passed
                .chunk_by(|one, other| one.is_empty() == other.is_empty())
                .filter(|run| run[0].is_empty())
                .count()
        };
        for (burst, runs_expected) in [(0.0, 800..1_000), (5.0, 150..250)] {
            let (passed, counts) = pass(3, 10_000, Impairment { loss: 0.1, burst, ..Impairment::default() });
            assert!((900..1_100).contains(&counts.lost), "{} lost", counts.lost);
            assert!(runs_expected.contains(&runs(&passed)), "{} runs at {burst}", runs(&passed));
        }
    }

    #[test]
    fn the_held_back_are_overtaken_and_the_doubled_come_twice() {
        let (passed, counts) = pass(
            4,
            1_000,
            Impairment { reorder: 0.25, held: 3 * MS, duplicate: 0.05, ..Impairment::default() },
        );
        let held = passed.iter().zip(0_u32..).filter(|(due, number)| due[0] == (number + 3) * MS).count();
        assert!((200..300).contains(&held), "{held} held back");
        let twice = passed.iter().filter(|due| due.len() == 2).count();
        assert!((30..70).contains(&twice), "{twice} twice");
        assert_eq!(counts.duplicated, twice as u64);
    }

    #[test]
    fn a_rate_spreads_them_and_drops_what_would_wait_too_long() {
        // 1,000 bytes a millisecond come in, and half of it passes.
        let (passed, counts) =
            pass(5, 1_000, Impairment { bytes_per_second: Some(500_000), ..Impairment::default() });
        let due: Vec<Duration> = passed.concat();
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] >= 2 * MS), "two at a time");
        assert!((370..380).contains(&counts.overflowed), "{} dropped", counts.overflowed);
        let longest =
            passed.iter().zip(0_u32..).filter_map(|(due, number)| Some(*due.first()? - number * MS)).max();
        assert!(longest.unwrap() <= Path::WAIT_MAX + 2 * MS, "{longest:?}");
    }

    #[test]
    fn a_blackhole_swallows_all() {
        let (passed, counts) = pass(6, 10, Impairment { blackhole: true, ..Impairment::default() });
        assert!(passed.iter().all(Vec::is_empty));
        assert_eq!(counts, Counts { received: 10, swallowed: 10, ..Counts::default() });
    }
}
