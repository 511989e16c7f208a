//! Where time comes from: the machine, or a test.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// A point in time, counted in milliseconds since the clock began.
pub(crate) type Moment = u64;

/// Where time comes from.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    System(Instant),
    Manual(Arc<ManualClock>),
}

impl Clock {
    /// The machine's time.
    pub fn system() -> Self {
        Self(Kind::System(Instant::now()))
    }

    /// Time that stands still until it is moved on.
    pub fn manual() -> (Self, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock { now: AtomicU64::new(0), listeners: Mutex::default() });
        (Self(Kind::Manual(Arc::clone(&clock))), clock)
    }

    pub(crate) fn now(&self) -> Moment {
        match &self.0 {
            Kind::System(start) => start.elapsed().as_millis() as u64,
            Kind::Manual(clock) => clock.now.load(Ordering::Acquire),
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn wall_ms(&self) -> u64 {
        match &self.0 {
            Kind::System(_) => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
            }
            Kind::Manual(clock) => ManualClock::EPOCH_MS + clock.now.load(Ordering::Acquire),
        }
    }

    /// How long to wait for a moment; `None` when only an event can end the waiting.
    pub(crate) fn until(&self, moment: Moment) -> Option<Duration> {
        match &self.0 {
            Kind::System(_) => Some(Duration::from_millis(moment.saturating_sub(self.now()))),
            Kind::Manual(_) => None,
        }
    }

    /// Calls `listener` whenever the time is moved on by hand.
    pub(crate) fn on_move(&self, listener: impl Fn() + Send + 'static) {
        if let Kind::Manual(clock) = &self.0 {
            clock.listeners.lock().push(Box::new(listener));
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::System(_) => "Clock::System",
            Kind::Manual(_) => "Clock::Manual",
        })
    }
}

/// Time that a test moves on.
pub struct ManualClock {
    now: AtomicU64,
    listeners: Mutex<Vec<Box<dyn Fn() + Send>>>,
}

impl ManualClock {
    /// The wall time at which it begins: 2026-01-01T00:00:00Z.
    pub const EPOCH_MS: u64 = 1_767_225_600_000;

    /// Moves the time on.
    pub fn advance(&self, by: Duration) {
        self.now.fetch_add(by.as_millis() as u64, Ordering::AcqRel);
        for listener in self.listeners.lock().iter() {
            listener();
        }
    }
}
