//! Moments of a registry's history, and times as people write them.

use std::fmt;
use std::str::FromStr;

use crate::{Revision, Timestamp};

/// A moment of a registry's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// After this commit and before the next.
    Revision(Revision),
    /// After the last commit that is not later than this, by the clocks of the nodes that asked for the commits.
    Time(Timestamp),
}

/// A text that is no moment of the history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a revision nor a time: write `1042`, or `2026-03-01T12:04:11Z`")]
pub struct WhenError(String);

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        let revision = || text.parse().ok().map(|revision| When::Revision(Revision(revision)));
        let time = || Timestamp::from_rfc3339(text).map(When::Time);
        revision().or_else(time).ok_or_else(|| WhenError(text.to_owned()))
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Revision(revision) => revision.fmt(f),
            When::Time(time) => f.write_str(&time.to_rfc3339()),
        }
    }
}

impl Timestamp {
    /// The time in UTC: `2026-03-01T12:04:11.250Z`.
    pub fn to_rfc3339(self) -> String {
        let seconds = self.0 / 1000;
        let (year, month, day) = date_of(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let ms = self.0 % 1000;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }

    /// Reads a time as RFC 3339 has it, since 1970: `2026-03-01T12:04:11.25+01:00`. What is finer than a millisecond is
    /// left out.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let (date, time) = text.split_once(['T', 't', ' '])?;
        let zone = time.find(['Z', 'z', '+', '-'])?;
        let (time, zone) = time.split_at(zone);
        let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
        let offset = match zone {
            "Z" | "z" => 0,
            zone => {
                let [hours, minutes] = numbers(&zone[1..], ':', [2, 2])?;
                let minutes = i64::try_from(hours * 60 + minutes).ok()?;
                if zone.starts_with('-') { -minutes } else { minutes }
            }
        };
        if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let ms: u64 = format!("{fraction:0<3}")[..3].parse().ok()?;
        let days = days_of(year, month, day)?;
        // A leap second is the first of the next minute.
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let local = (days * 86_400 + hour * 3600 + minute * 60 + second) * 1000 + ms;
        local.checked_add_signed(-offset * 60_000).map(Timestamp)
    }
}

/// Numbers of so many digits each.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    let mut parts = text.split(between);
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits)?;
        *number = part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

/// The date of a day since 1970-01-01 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date_of(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The day since 1970-01-01 of a date; `None` when there is no such date.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted_year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    // Only what reads back the same is a date.
    (date_of(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_they_print() {
        for ms in [
            0,
            1,
            951_782_400_000,
            951_868_799_999,
            1_709_164_800_000,
            1_772_366_651_250,
            253_402_300_799_999,
        ] {
            let time = Timestamp(ms);
            assert_eq!(Timestamp::from_rfc3339(&time.to_rfc3339()), Some(time), "{}", time.to_rfc3339());
        }
        assert_eq!(Timestamp(1_772_366_651_250).to_rfc3339(), "2026-03-01T12:04:11.250Z");
        for (text, ms) in [
            ("2026-03-01T12:04:11Z", 1_772_366_651_000),
            ("2026-03-01 13:04:11.25+01:00", 1_772_366_651_250),
            ("2026-03-01T06:34:11.2509999-05:30", 1_772_366_651_250),
            ("1970-01-01T00:00:00Z", 0),
        ] {
            assert_eq!(Timestamp::from_rfc3339(text), Some(Timestamp(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "x",
            "-1",
            "2026-03-01",
            "2026-03-01T12:04:11",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "2026-1-1T00:00:00Z",
            "2026-01-01T00:00:00+1",
            "2026-01-01T00:00:00Zé",
            "18446744073709551616",
        ] {
            assert!(text.parse::<When>().is_err(), "{text}");
        }
        assert_eq!("17".parse(), Ok(When::Revision(Revision(17))));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(When::Time(Timestamp(1000))));
    }
}
