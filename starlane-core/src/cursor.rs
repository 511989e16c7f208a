//! A cursor over a source text: what all parsers of the language stand on.

use crate::{Code, Problem, Span};

/// The longest source text that is read, in bytes.
pub(crate) const SOURCE_BYTES_MAX: usize = 1 << 20;
/// How deep brackets and blocks may be nested.
const DEPTH_MAX: usize = 64;

/// Walks over a source text and makes the problems that point into it.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    source: &'a str,
    at: usize,
    depth: usize,
    code: Code,
}

impl<'a> Cursor<'a> {
    /// Begins at the start of a text; `code` is what its problems are called unless they say otherwise.
    pub(crate) fn new(source: &'a str, code: Code) -> Result<Self, Problem> {
        if source.len() > SOURCE_BYTES_MAX {
            let detail = format!(
                "the text has {} bytes, more than the {SOURCE_BYTES_MAX} that are read",
                source.len()
            );
            return Err(Problem::new(Code::TooLarge, detail));
        }
        Ok(Self { source, at: 0, depth: 0, code })
    }

    pub(crate) fn source(&self) -> &'a str {
        self.source
    }

    /// What its problems are called.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    pub(crate) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(crate) fn looks_at(&self, text: &str) -> bool {
        self.rest().starts_with(text)
    }

    /// The text from an earlier place up to here.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        &self.source[start..self.at]
    }

    pub(crate) fn span_since(&self, start: usize) -> Span {
        Span { start, end: self.at }
    }

    pub(crate) fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    pub(crate) fn skip(&mut self, bytes: usize) {
        self.at = (self.at + bytes).min(self.source.len());
    }

    /// Goes back to an earlier place.
    pub(crate) fn skip_back(&mut self, at: usize) {
        self.at = at;
    }

    pub(crate) fn eat(&mut self, text: &str) -> bool {
        let found = self.looks_at(text);
        if found {
            self.at += text.len();
        }
        found
    }

    pub(crate) fn eat_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// As [`Cursor::eat_while`], with a condition that remembers.
    pub(crate) fn eat_while_with(&mut self, mut wanted: impl FnMut(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// Skips white space and comments, which may stand between any two tokens.
    pub(crate) fn trivia(&mut self) {
        loop {
            self.eat_while(char::is_whitespace);
            if self.peek() != Some('#') {
                return;
            }
            self.eat_while(|c| c != '\n');
        }
    }

    /// Skips trivia, then eats `text` when it comes next.
    pub(crate) fn next_is(&mut self, text: &str) -> bool {
        self.trivia();
        self.eat(text)
    }

    /// Whether nothing but trivia is left.
    pub(crate) fn is_done(&mut self) -> bool {
        self.trivia();
        self.rest().is_empty()
    }

    /// Eats `text` after trivia, or says what was expected there.
    pub(crate) fn expect(&mut self, text: &str, reason: &str) -> Result<(), Problem> {
        if self.next_is(text) { Ok(()) } else { Err(self.unexpected(&format!("`{text}` {reason}"))) }
    }

    /// The word of letters, digits, `-` and `_` that comes next; empty when there is none.
    pub(crate) fn word(&mut self) -> &'a str {
        self.eat_while(is_word)
    }

    /// Goes one level deeper for the time of `inner`.
    pub(crate) fn nested<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        if self.depth == DEPTH_MAX {
            let span = self.token();
            return Err(self
                .problem(span, format!("this is nested deeper than {DEPTH_MAX} levels"), "too deep")
                .help("write it flatter"));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// The problem that something else was expected here.
    pub(crate) fn unexpected(&self, expected: &str) -> Problem {
        let span = self.token();
        let found = match &self.source[span.start..span.end] {
            "" => "the text ends".to_owned(),
            found => format!("found `{}`", shorten(found)),
        };
        self.problem(span, format!("expected {expected}, but {found}"), format!("expected {expected}"))
    }

    pub(crate) fn problem(&self, span: Span, detail: impl Into<String>, label: impl Into<String>) -> Problem {
        self.problem_of(self.code, span, detail, label)
    }

    pub(crate) fn problem_of(
        &self,
        code: Code,
        span: Span,
        detail: impl Into<String>,
        label: impl Into<String>,
    ) -> Problem {
        Problem::new(code, detail).in_text(self.source, span, label)
    }

    /// Where the next word or, failing that, the next character stands.
    pub(crate) fn token(&self) -> Span {
        let rest = self.rest();
        let length = match rest.find(|c| !is_word(c)).unwrap_or(rest.len()) {
            0 => rest.chars().next().map_or(0, char::len_utf8),
            word => word,
        };
        Span { start: self.at, end: self.at + length }
    }
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// The text, or its beginning when it is too long for a message.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

/// The problem as seen from a text that holds the source at `offset`.
pub(crate) fn within(mut problem: Problem, source: &str, offset: usize) -> Problem {
    if let Some(place) = &mut problem.place {
        place.source = source.to_owned();
        place.span = Span { start: place.span.start + offset, end: place.span.end + offset };
    }
    problem
}
