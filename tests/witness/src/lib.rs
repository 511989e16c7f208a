//! Notes which numbers it was told, and in which order: what messages between nodes promise can be read off it.

use std::collections::BTreeSet;

use mechtron_sdk::prelude::*;

/// How many messages one burst may send.
const BURST_MAX: u32 = 1_000;
/// How many numbers may be missing; what would leave more is refused.
const MISSING_MAX: usize = 10_000;

/// Tells a number, and waits for the answer.
#[derive(Message)]
pub struct Mark {
    /// Which one.
    pub number: u32,
}

/// Tells a number, and does not wait.
#[derive(Message)]
pub struct Note {
    /// Which one.
    pub number: u32,
}

/// Sends notes to another witness, one after the other.
#[derive(Message)]
pub struct Burst {
    /// Its point.
    pub to: String,
    /// The first number.
    pub first: u32,
    /// How many; at most 1,000.
    pub count: u32,
}

/// Asks the first of some witnesses to go on with the others, and waits for the answer of the last.
#[derive(Message)]
pub struct Relay {
    /// Their points; the last one answers what it noted.
    pub through: Vec<String>,
}

/// Logs that it is about to fall, and falls.
#[derive(Message)]
pub struct Stumble;

/// Asks for what was noted.
#[derive(Message)]
pub struct GetRecord;

/// What was noted.
#[derive(Debug, Default, PartialEq, Message)]
pub struct Record {
    /// One more than the highest number.
    pub end: u32,
    /// Numbers below it that were never told.
    pub missing: u32,
    /// How often a number was told that had been told before.
    pub again: u32,
    /// How many numbers were told after a higher one.
    pub late: u32,
}

/// Notes numbers.
#[mechtron]
#[derive(Debug)]
pub struct Witness {
    end: u32,
    missing: BTreeSet<u32>,
    again: u32,
    late: u32,
}

#[handlers]
impl Witness {
    /// Notes a number; answers everything noted so far.
    #[call]
    async fn mark(&mut self, _cx: &mut Cx, m: Mark) -> Result<Record> {
        self.note_number(m.number)?;
        Ok(self.now())
    }

    /// Notes a number.
    #[cast]
    async fn note(&mut self, _cx: &mut Cx, m: Note) -> Result<()> {
        self.note_number(m.number)
    }

    /// Sends notes to another witness.
    #[call]
    async fn burst(&self, cx: &mut Cx, m: Burst) -> Result<()> {
        ensure!(m.count <= BURST_MAX, INVALID_MESSAGE, "at most {BURST_MAX} at once");
        for number in m.first..m.first + m.count {
            cx.cast(&m.to, &Note { number })?;
        }
        Ok(())
    }

    /// Asks others in a row.
    #[call]
    async fn relay(&mut self, cx: &mut Cx, m: Relay) -> Result<Record> {
        match m.through.split_first() {
            None => Ok(self.now()),
            Some((next, rest)) => cx.call(next, &Relay { through: rest.to_vec() }).await,
        }
    }

    /// Ends in a panic.
    #[call]
    async fn stumble(&self, cx: &mut Cx, _m: Stumble) -> Result<()> {
        warn!(cx, "about to fall");
        panic!("fell");
    }

    /// What was noted.
    #[call]
    async fn record(&self, _cx: &mut Cx, _m: GetRecord) -> Result<Record> {
        Ok(self.now())
    }

    fn note_number(&mut self, number: u32) -> Result<()> {
        let skipped = number.saturating_sub(self.end) as usize;
        ensure!(number < u32::MAX, INVALID_MESSAGE, "the number is too high");
        ensure!(self.missing.len() + skipped <= MISSING_MAX, INVALID_MESSAGE, "too many would be missing");
        if number >= self.end {
            self.missing.extend(self.end..number);
            self.end = number + 1;
        } else if self.missing.remove(&number) {
            self.late += 1;
        } else {
            self.again += 1;
        }
        Ok(())
    }

    fn now(&self) -> Record {
        Record { end: self.end, missing: self.missing.len() as u32, again: self.again, late: self.late }
    }
}

mechtrons![Witness];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_what_is_missing_told_again_and_late() -> Result<()> {
        let kit = TestKit::new();
        let witness = kit.spawn("mesh:witness", Witness::default());
        for number in [0, 1, 4, 2, 4] {
            witness.mark(Mark { number })?;
        }
        let noted = Record { end: 5, missing: 1, again: 1, late: 1 };
        assert_eq!(witness.record(GetRecord)?, noted);
        kit.restart("mesh:witness");
        assert_eq!(witness.record(GetRecord)?, noted);
        Ok(())
    }

    #[test]
    fn sends_a_burst_in_order() -> Result<()> {
        let kit = TestKit::new();
        let [one, other] = ["mesh:one", "mesh:other"].map(|point| kit.spawn(point, Witness::default()));
        one.burst(Burst { to: "mesh:other".into(), first: 0, count: 100 })?;
        assert_eq!(other.record(GetRecord)?, Record { end: 100, ..Record::default() });
        Ok(())
    }
}
