//! What a run has to say: figures, and in which way a promise was broken.

use std::fmt;
use std::time::Duration;

/// What a run saw. Prints as one line.
#[derive(Debug)]
pub struct Report {
    promise: &'static str,
    figures: Vec<(&'static str, String)>,
    broken: Vec<String>,
    late: Vec<String>,
}

impl Report {
    /// A report of a promise, such as `P08`.
    pub fn of(promise: &'static str) -> Self {
        Self { promise, figures: Vec::new(), broken: Vec::new(), late: Vec::new() }
    }

    /// A figure to publish.
    pub fn figure(&mut self, name: &'static str, value: impl fmt::Debug) {
        self.figures.push((name, format!("{value:?}")));
    }

    /// A count that must be none.
    pub fn none(&mut self, name: &'static str, count: usize) {
        self.figure(name, count);
        if count != 0 {
            self.broken.push(format!("{name} is not 0"));
        }
    }

    /// A count below which the run did too little to prove anything.
    pub fn at_least(&mut self, name: &'static str, count: usize, floor: usize) {
        self.figure(name, count);
        if count < floor {
            self.broken.push(format!("{name} is below {floor}: the run proves nothing"));
        }
    }

    /// A time that is promised. A test does not judge it, since its machine may be busy; a full run does.
    pub fn within(&mut self, name: &'static str, took: Duration, promised: Duration) {
        self.figure(name, took);
        if took > promised {
            self.late.push(format!("{name} is more than {promised:?}"));
        }
    }

    /// A measure that is promised to be smaller. A test does not judge it, since its machine may be busy; a full run does.
    pub fn below(&mut self, name: &'static str, measured: f64, promised: f64) {
        self.figures.push((name, format!("{measured:.3}")));
        if measured.is_nan() || measured >= promised {
            self.late.push(format!("{name} is not below {promised}"));
        }
    }

    /// Whether everything took as long as it may.
    pub fn in_time(&self) -> bool {
        self.late.is_empty()
    }

    /// Whether the promise was kept, and the run did its work.
    pub fn kept(&self) -> bool {
        self.broken.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.promise)?;
        self.figures.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
        for late in &self.late {
            write!(f, " LATE: {late}")?;
        }
        match self.broken.is_empty() {
            true => f.write_str(" kept"),
            false => write!(f, " BROKEN: {}", self.broken.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_broken_by_one_too_many_and_by_too_little_work() {
        let report = |lost, asked| {
            let mut report = Report::of("P00");
            report.none("lost", lost);
            report.at_least("asked", asked, 10);
            report
        };
        assert_eq!(report(0, 10).to_string(), "P00 lost=0 asked=10 kept");
        assert!(report(0, 10).kept() && !report(1, 10).kept() && !report(0, 9).kept());
        assert!(report(1, 9).to_string().contains("BROKEN: lost is not 0; asked is below 10"));
    }

    #[test]
    fn what_is_measured_is_judged_apart() {
        let report = |measured| {
            let mut report = Report::of("P00");
            report.below("ratio", measured, 1.1);
            (report.kept(), report.in_time())
        };
        assert_eq!(
            [report(1.0), report(1.1), report(f64::NAN)],
            [(true, true), (true, false), (true, false)]
        );
    }
}
