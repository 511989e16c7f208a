//! A point as one segment of a path.

use std::fmt::Write as _;

use starlane_core::Point;

/// The point as one segment of a path: what is neither a letter, a digit nor one of `-._~:` is percent-encoded
/// (RFC 3986), `/` among them.
pub fn encode_point(point: &Point) -> String {
    let mut segment = String::with_capacity(point.as_str().len());
    for byte in point.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            segment.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(segment, "%{byte:02X}");
        }
    }
    segment
}
