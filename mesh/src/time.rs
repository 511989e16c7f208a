//! The one place where links read the clock.

use std::time::Duration;

use tokio::time::Instant;

/// Time since the links were started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now().as_millis() as u64
    }

    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }
}
