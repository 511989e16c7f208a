//! Installs that nobody goes on with: told by what nodes say that they install, and by what is still to be installed. Pure:
//! news and time go in, points to be finished come out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use starlane_core::Point;
use starlane_core::placement::HEARTBEAT;

/// How long nothing may be heard of an install: a node that says nothing for so long is dead.
const SILENCE: Duration = HEARTBEAT.saturating_mul(4);
/// Whoever looks so much later than it is due stood still, and may have missed what was said meanwhile.
const STOOD_STILL: Duration = HEARTBEAT;

/// The resources whose install is not over, as the leader knows them.
#[derive(Debug, Default)]
pub(super) struct Installs {
    /// When each was heard of last.
    open: HashMap<Point, Instant>,
    /// None is due before.
    due: Option<Instant>,
}

impl Installs {
    /// A resource is being installed, or something of it changed.
    pub(super) fn handle_open(&mut self, point: &Point, now: Instant) {
        self.open.insert(point.clone(), now);
        self.due.get_or_insert(now + SILENCE);
    }

    /// An install is over, or its resource is gone.
    pub(super) fn handle_over(&mut self, point: &Point) {
        self.open.remove(point);
    }

    /// A node says what it installs.
    pub(super) fn handle_claimed(&mut self, points: &[Point], now: Instant) {
        for point in points {
            if let Some(heard) = self.open.get_mut(point) {
                *heard = now;
            }
        }
    }

    /// When to look again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Those that nobody goes on with; each is told once in a while, until it is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Point> {
        let Some(due) = self.due.filter(|due| *due <= now) else { return Vec::new() };
        let stood_still = now >= due + STOOD_STILL;
        let mut left = Vec::new();
        for (point, heard) in &mut self.open {
            if stood_still {
                *heard = now;
            } else if now >= *heard + SILENCE {
                *heard = now;
                left.push(point.clone());
            }
        }
        self.due = self.open.values().min().map(|heard| *heard + SILENCE);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(text: &str) -> Point {
        text.parse().unwrap()
    }

    #[test]
    fn what_nobody_says_to_install_is_left_behind() {
        let (mut installs, begun) = (Installs::default(), Instant::now());
        let [one, other] = [point("shop:one"), point("shop:other")];
        assert_eq!(installs.poll_timeout(), None);
        installs.handle_open(&one, begun);
        installs.handle_open(&other, begun);
        let mut now = begun;
        for _ in 0..10 {
            now += HEARTBEAT;
            // Only of what is open it matters who says so.
            installs.handle_claimed(&[one.clone(), point("shop:else")], now);
            if installs.poll_timeout() == Some(now) {
                break;
            }
            assert_eq!(installs.handle_timeout(now), []);
        }
        assert_eq!(now, begun + SILENCE);
        assert_eq!(installs.handle_timeout(now), std::slice::from_ref(&other));
        // It is being finished; when that comes to nothing, it is told again.
        assert_eq!(installs.handle_timeout(now), []);
        let due = installs.poll_timeout().unwrap();
        installs.handle_claimed(std::slice::from_ref(&one), due);
        assert_eq!(installs.handle_timeout(due), std::slice::from_ref(&other));
        installs.handle_over(&other);
        installs.handle_over(&one);
        while let Some(due) = installs.poll_timeout() {
            assert_eq!(installs.handle_timeout(due), []);
        }
    }

    #[test]
    fn a_leader_that_stood_still_first_gives_everybody_time() {
        let (mut installs, begun) = (Installs::default(), Instant::now());
        installs.handle_open(&point("shop:one"), begun);
        let late = begun + SILENCE * 10;
        assert_eq!(installs.handle_timeout(late), []);
        assert_eq!(installs.poll_timeout(), Some(late + SILENCE));
        assert_eq!(installs.handle_timeout(late + SILENCE), [point("shop:one")]);
    }
}
