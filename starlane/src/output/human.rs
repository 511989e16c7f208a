//! Sizes, durations and times as people read and write them.

use std::time::Duration;

/// A size: `512 B`, `1.5 KiB`, `2.0 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would print as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration by its two largest units: `250ms`, `1.5s`, `3m 20s`, `2d 4h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() == 0 => format!("{}µs", duration.as_micros()),
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A measured time in milliseconds: `0.04 ms`, `0.4 ms`, `12 ms`.
pub fn millis(us: u64) -> String {
    match us {
        0 => "0 ms".to_owned(),
        // Less than 10 µs is nothing that a network has.
        1..10 => "0.01 ms".to_owned(),
        10..95 => format!("{:.2} ms", us as f64 / 1000.0),
        95..9950 => format!("{:.1} ms", us as f64 / 1000.0),
        _ => format!("{} ms", us.saturating_add(500) / 1000),
    }
}

/// Reads a duration: `250ms`, `5s`, `1m30s`, `2h`, `1d`.
///
/// # Errors
/// What to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write it as `250ms`, `5s`, `1m30s`, `2h` or `1d`");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86_400),
            _ => return Err(wrong()),
        };
        total = unit.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[letters..];
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

/// A time of day in UTC: `12:04:11Z`. Milliseconds since 1970-01-01T00:00:00Z.
pub fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A time in UTC (RFC 3339): `2026-03-01T12:04:11.250Z`. Milliseconds since 1970-01-01T00:00:00Z.
pub fn date_time(unix_ms: u64) -> String {
    starlane_core::Timestamp(unix_ms).to_rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (2 << 30, "2.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations_read_well() {
        for (ms, text) in [
            (250, "250ms"),
            (1500, "1.5s"),
            (200_000, "3m 20s"),
            (7_500_000, "2h 5m"),
            (187_200_000, "2d 4h"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn measured_times_read_well() {
        for (us, text) in [
            (0, "0 ms"),
            (3, "0.01 ms"),
            (41, "0.04 ms"),
            (99, "0.1 ms"),
            (412, "0.4 ms"),
            (9_949, "9.9 ms"),
            (9_950, "10 ms"),
            (123_456, "123 ms"),
            (u64::MAX, "18446744073709551 ms"),
        ] {
            assert_eq!(millis(us), text);
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, ms) in [("250ms", 250), ("5s", 5000), ("1m30s", 90_000), ("2h", 7_200_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "5", "s", "5x", "-1s", "0s", "5s!", "99999999999s", "4294967295d4294967295dd"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_772_366_651_250, "2026-03-01T12:04:11.250Z"),
        ] {
            assert_eq!(date_time(ms), text);
        }
    }
}
