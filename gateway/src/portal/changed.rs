//! Points about which something is new, kept until somebody asks which.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use starlane_core::Point;
use tokio::sync::Notify;

/// Points about which something is new. One waits for them at a time.
#[derive(Default)]
pub(super) struct Changed {
    points: Mutex<BTreeSet<Point>>,
    told: Notify,
}

impl Changed {
    pub(super) fn tell(&self, point: &Point) {
        self.points.lock().insert(point.clone());
        self.told.notify_one();
    }

    /// Waits until there are some, and takes them.
    pub(super) async fn next(&self) -> Vec<Point> {
        loop {
            let told = self.told.notified();
            let points = std::mem::take(&mut *self.points.lock());
            if !points.is_empty() {
                return points.into_iter().collect();
            }
            told.await;
        }
    }
}
