//! How far a selector goes inside a statement.

use crate::cursor::Cursor;
use crate::{Problem, Span, quote};

/// Skips a selector: its pattern, then a kind and a filter that may stand apart from it.
pub(crate) fn skip(cursor: &mut Cursor<'_>) -> Result<(), Problem> {
    let start = cursor.at();
    let mut end = start;
    loop {
        match cursor.peek() {
            Some('"') => {
                quote::read(cursor)?;
            }
            Some('[') => skip_brackets(cursor)?,
            Some('(') => skip_to(cursor, '(', ')', "a version range")?,
            Some('<') => skip_to(cursor, '<', '>', "a kind")?,
            Some('$') if cursor.looks_at("${") => skip_to(cursor, '{', '}', "a variable")?,
            Some('$') if cursor.looks_at("$(") => skip_to(cursor, '(', ')', "a variable")?,
            Some(c) if c.is_whitespace() || c == '#' => {
                if end == start {
                    break;
                }
                cursor.trivia();
                if !matches!(cursor.peek(), Some('<' | '[')) {
                    break;
                }
                continue;
            }
            None | Some(';' | '{' | '}' | ',' | ']' | ')' | '>') => break,
            Some(_) => {
                cursor.bump();
            }
        }
        end = cursor.at();
    }
    cursor.skip_back(end);
    Ok(())
}

/// Skips a filter with its brackets.
pub(crate) fn skip_brackets(cursor: &mut Cursor<'_>) -> Result<(), Problem> {
    skip_to(cursor, '[', ']', "a filter")
}

/// Skips from an opening to its closing bracket, past texts in quotes and comments.
fn skip_to(cursor: &mut Cursor<'_>, open: char, close: char, what: &str) -> Result<(), Problem> {
    let start = cursor.at();
    let mut depth = 0_usize;
    while let Some(c) = cursor.peek() {
        if c == '"' {
            quote::read(cursor)?;
            continue;
        }
        if c == '#' && open == '[' {
            cursor.trivia();
            continue;
        }
        cursor.bump();
        if c == open {
            depth += 1;
        } else if c == close {
            depth -= 1;
            if depth == 0 {
                return Ok(());
            }
        } else if c == '\n' && open != '[' {
            break;
        }
    }
    let span = Span { start, end: start + 1 };
    let problem = cursor.problem(span, format!("{what} is never closed"), "opened here");
    Err(problem.help(format!("end it with `{close}`")))
}
