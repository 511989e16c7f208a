//! Time as state machines are told of it.

use std::ops::Add;
use std::time::Duration;

/// A moment on the clock of whoever drives a state machine: milliseconds since a start of its own choice. The clock
/// never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// How long this is after another moment; nothing when it is before.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Counts whole milliseconds, and ends at the last moment there is.
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}
