//! Text in double quotes.

use std::fmt::{self, Write as _};

use crate::Problem;
use crate::cursor::Cursor;

/// Reads a text in double quotes, at whose first quote the cursor stands. Knows `\"`, `\\`, `\$`, `\n`, `\r`, `\t`
/// and `\u{…}`.
pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<String, Problem> {
    let start = cursor.at();
    let mut text = String::new();
    cursor.bump();
    loop {
        match cursor.peek() {
            None => return Err(unclosed(cursor, start)),
            Some('"') => {
                cursor.bump();
                return Ok(text);
            }
            Some('\\') => text.push(escape(cursor)?),
            Some(c) => {
                cursor.bump();
                text.push(c);
            }
        }
    }
}

pub(crate) fn unclosed(cursor: &Cursor<'_>, start: usize) -> Problem {
    let span = crate::Span { start, end: start + 1 };
    cursor.problem(span, "a text in quotes is never closed", "opened here").help("end it with `\"`")
}

/// Reads one escape, at whose backslash the cursor stands.
pub(crate) fn escape(cursor: &mut Cursor<'_>) -> Result<char, Problem> {
    let start = cursor.at();
    cursor.bump();
    let known = match cursor.bump() {
        Some(c @ ('"' | '\\' | '$')) => Some(c),
        Some('n') => Some('\n'),
        Some('r') => Some('\r'),
        Some('t') => Some('\t'),
        Some('u') if cursor.eat("{") => {
            let digits = cursor.eat_while(|c| c.is_ascii_hexdigit());
            let code = u32::from_str_radix(digits, 16).ok();
            code.and_then(char::from_u32).filter(|_| cursor.eat("}"))
        }
        _ => None,
    };
    known.ok_or_else(|| {
        cursor
            .problem(cursor.span_since(start), "no such escape", "not an escape")
            .help(r#"known are \" \\ \$ \n \r \t and \u{…}; a backslash itself is `\\`"#)
    })
}

/// Writes a text without its quotes so that [`read`] gives it back.
pub(crate) fn write_inner(f: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '"' | '\\' | '$' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    Ok(())
}

/// The text in quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    // Writing into a string cannot fail.
    let _ = write_inner(&mut quoted, text);
    let _ = quoted.write_char('"');
    quoted
}
