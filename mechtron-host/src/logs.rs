//! What mechtrons log: the last lines of each, and a stream for who follows.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use starlane_core::{Point, Timestamp};
use tokio::sync::broadcast;

use crate::limits::LogLimits;

/// Lines that a follower may be behind before it loses some.
const BEHIND_MAX: usize = 1_024;

/// One line that a mechtron logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When.
    pub time: Timestamp,
    /// From 1 (error) to 5 (trace).
    pub level: u8,
    /// Who.
    pub point: Point,
    /// What; control characters are escaped.
    pub line: String,
}

/// The lines of one mechtron: those kept, then, when followed, those to come.
pub struct LogStream {
    kept: VecDeque<Line>,
    coming: Option<broadcast::Receiver<Line>>,
    missed: Option<(Point, u64)>,
}

impl LogStream {
    /// The next line; `None` when there will be no more. Who reads too slowly finds a line that says how many are missing.
    pub async fn next(&mut self) -> Option<Line> {
        if let Some(line) = self.kept.pop_front() {
            return Some(line);
        }
        let coming = self.coming.as_mut()?;
        match coming.recv().await {
            Ok(line) => Some(line),
            Err(broadcast::error::RecvError::Lagged(count)) => {
                let (point, missed) = self.missed.as_mut()?;
                *missed += count;
                let line = format!("{count} lines are missing here: they came faster than they were read");
                Some(Line { time: Timestamp::default(), level: 2, point: point.clone(), line })
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

pub(crate) struct Logs {
    limits: LogLimits,
    rings: Mutex<HashMap<Point, Ring>>,
}

struct Ring {
    lines: VecDeque<Line>,
    followers: broadcast::Sender<Line>,
    last: u64,
    second: u64,
    in_second: u32,
    left_out: u64,
}

impl Logs {
    pub(crate) fn new(limits: LogLimits) -> Self {
        Self { limits, rings: Mutex::default() }
    }

    /// Keeps the lines of a turn; `left_out` counts those that the turn's own limit left out.
    pub(crate) fn write(&self, point: &Point, now_ms: u64, lines: Vec<(u8, String)>, left_out: u64) {
        let mut rings = self.rings.lock();
        self.make_room(&mut rings, point);
        let ring = rings.entry(point.clone()).or_insert_with(|| Ring::new(now_ms));
        ring.last = now_ms;
        if ring.second != now_ms / 1_000 {
            let left_out = std::mem::take(&mut ring.left_out);
            (ring.second, ring.in_second) = (now_ms / 1_000, 0);
            if left_out > 0 {
                let line = format!("{left_out} lines were left out: too many at once");
                ring.push(
                    Line { time: Timestamp(now_ms), level: 2, point: point.clone(), line },
                    &self.limits,
                );
            }
        }
        ring.left_out += left_out;
        for (level, text) in lines {
            if ring.in_second >= self.limits.per_second {
                ring.left_out += 1;
                continue;
            }
            ring.in_second += 1;
            let line = escape(&text, self.limits.line_bytes);
            ring.push(Line { time: Timestamp(now_ms), level, point: point.clone(), line }, &self.limits);
        }
    }

    pub(crate) fn read(&self, point: &Point, tail: usize, follow: bool) -> LogStream {
        let mut rings = self.rings.lock();
        if follow && !rings.contains_key(point) {
            self.make_room(&mut rings, point);
            rings.insert(point.clone(), Ring::new(0));
        }
        let ring = rings.get(point);
        let kept = ring.map(|ring| {
            ring.lines.iter().skip(ring.lines.len().saturating_sub(tail)).cloned().collect::<VecDeque<_>>()
        });
        let coming = ring.filter(|_| follow).map(|ring| ring.followers.subscribe());
        LogStream { kept: kept.unwrap_or_default(), coming, missed: Some((point.clone(), 0)) }
    }

    pub(crate) fn forget(&self, point: &Point) {
        self.rings.lock().remove(point);
    }

    fn make_room(&self, rings: &mut HashMap<Point, Ring>, point: &Point) {
        if rings.len() < self.limits.points || rings.contains_key(point) {
            return;
        }
        let silent = rings.iter().min_by_key(|(_, ring)| (ring.followers.receiver_count() > 0, ring.last));
        if let Some(silent) = silent.map(|(point, _)| point.clone()) {
            rings.remove(&silent);
        }
    }
}

impl Ring {
    fn new(now_ms: u64) -> Self {
        let followers = broadcast::Sender::new(BEHIND_MAX);
        Self { lines: VecDeque::new(), followers, last: now_ms, second: 0, in_second: 0, left_out: 0 }
    }

    fn push(&mut self, line: Line, limits: &LogLimits) {
        if self.followers.receiver_count() > 0 {
            // Nobody may be left to take it; then it is only kept.
            let _ = self.followers.send(line.clone());
        }
        if self.lines.len() >= limits.lines {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// Makes a text one line that cannot command a terminal.
fn escape(text: &str, bytes_max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        if line.len() + c.len_utf8() > bytes_max {
            line.push('…');
            break;
        }
        // Directional overrides can make a line read otherwise than it is.
        let hostile = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c == '\t' || !(c.is_control() || hostile) {
            line.push(c);
        } else {
            line.extend(c.escape_default());
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point() -> Point {
        "shop:a".parse().unwrap()
    }

    fn texts(logs: &Logs, tail: usize) -> Vec<String> {
        logs.read(&point(), tail, false).kept.into_iter().map(|line| line.line).collect()
    }

    #[test]
    fn the_last_lines_are_kept_and_control_characters_escaped() {
        let logs = Logs::new(LogLimits { lines: 3, line_bytes: 10, ..LogLimits::default() });
        let lines = ["a", "b", "\u{1b}[2J\n", "0123456789abc"].map(|text| (3, text.to_owned()));
        logs.write(&point(), 5, lines.to_vec(), 0);
        assert_eq!(texts(&logs, 100), ["b", "\\u{1b}[2J\\n", "0123456789…"]);
        assert_eq!(texts(&logs, 1), ["0123456789…"]);
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let logs = Logs::new(LogLimits { per_second: 2, ..LogLimits::default() });
        logs.write(&point(), 1_000, vec![(3, "x".to_owned()); 10], 5);
        logs.write(&point(), 2_000, vec![(3, "y".to_owned())], 0);
        assert_eq!(texts(&logs, 100), ["x", "x", "13 lines were left out: too many at once", "y"]);
    }

    #[tokio::test]
    async fn who_follows_gets_what_is_kept_and_what_comes() {
        let logs = Logs::new(LogLimits::default());
        logs.write(&point(), 1, vec![(3, "old".to_owned())], 0);
        let mut stream = logs.read(&point(), 10, true);
        logs.write(&point(), 2, vec![(3, "new".to_owned())], 0);
        assert_eq!(stream.next().await.unwrap().line, "old");
        assert_eq!(stream.next().await.unwrap().line, "new");
    }
}
