//! Texts with variables: `${bundle}:/wasm/shop.wasm`, `.:users`.

use std::collections::BTreeMap;
use std::fmt;

use crate::cursor::{Cursor, SOURCE_BYTES_MAX, shorten};
use crate::nearest::did_you_mean;
use crate::selector::write_point;
use crate::{Code, Point, Problem, Selector, Span, quote};

/// What the variables and the relative points of a text stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bindings {
    /// What `.` is; without it relative points are errors.
    pub here: Option<Point>,
    /// The variables by name, without `$`.
    pub variables: BTreeMap<String, String>,
}

impl Bindings {
    /// These bindings with one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }
}

/// A text in which some parts are variables. Its problems have a place without a source; whoever knows the source
/// fills it in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    pub(crate) span: Span,
    quoted: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Variable {
        name: String,
        span: Span,
        /// Whether it is written as `$1`, which is a variable only where captures are.
        is_capture: bool,
        /// Whether it stands in quotes inside a text that is parsed later.
        in_quotes: bool,
    },
}

/// Which characters stand in a text without quotes, and whether `$1` is a variable.
#[derive(Clone, Copy)]
pub(crate) struct Bare {
    pub(crate) accepts: fn(char) -> bool,
    pub(crate) captures: bool,
}

impl Bare {
    pub(crate) const POINT: Bare = Bare { accepts: is_point_char, captures: false };
}

/// Whether a character can stand in a point that is not in quotes; some of these only so that the error about
/// them says more.
fn is_point_char(c: char) -> bool {
    is_plain(c) || matches!(c, '*' | '+' | '\\')
}

/// Whether a text of such characters prints without quotes.
pub(crate) fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '~' | '@' | '%')
}

impl Template {
    /// Reads a text in quotes, or as many bare characters as there are; empty when there are none.
    pub(crate) fn read(cursor: &mut Cursor<'_>, bare: Bare) -> Result<Self, Problem> {
        if cursor.looks_at("\"") { Self::quoted(cursor, bare) } else { Self::bare(cursor, bare) }
    }

    fn bare(cursor: &mut Cursor<'_>, bare: Bare) -> Result<Self, Problem> {
        let mut builder = Builder::new(cursor.at());
        loop {
            match cursor.peek() {
                Some('$') if starts_variable(cursor, bare.captures) => builder.variable(cursor, false)?,
                Some(c) if (bare.accepts)(c) => {
                    cursor.bump();
                    builder.push(c);
                }
                _ => return Ok(builder.build(cursor, false)),
            }
        }
    }

    fn quoted(cursor: &mut Cursor<'_>, bare: Bare) -> Result<Self, Problem> {
        let start = cursor.at();
        let mut builder = Builder::new(start);
        cursor.bump();
        loop {
            match cursor.peek() {
                None => return Err(quote::unclosed(cursor, start)),
                Some('"') => {
                    cursor.bump();
                    return Ok(builder.build(cursor, true));
                }
                Some('\\') => builder.push(quote::escape(cursor)?),
                Some('$') if starts_variable(cursor, bare.captures) => builder.variable(cursor, false)?,
                Some(c) => {
                    cursor.bump();
                    builder.push(c);
                }
            }
        }
    }

    /// Takes the text from here to `end` as it is, but for its variables. With `escapes`, what they stand for is
    /// escaped inside quotes, and comments hold none.
    pub(crate) fn raw(cursor: &mut Cursor<'_>, end: usize, escapes: bool) -> Result<Self, Problem> {
        let mut builder = Builder::new(cursor.at());
        let mut in_quotes = false;
        while cursor.at() < end {
            if escapes && !in_quotes && cursor.looks_at("#") {
                while cursor.at() < end
                    && let Some(c) = cursor.bump()
                {
                    builder.push(c);
                    if c == '\n' {
                        break;
                    }
                }
                continue;
            }
            if starts_variable(cursor, false) {
                builder.variable(cursor, in_quotes && escapes)?;
                continue;
            }
            let Some(c) = cursor.bump() else { break };
            builder.push(c);
            if c == '\\' && in_quotes {
                cursor.bump().into_iter().for_each(|c| builder.push(c));
            }
            in_quotes ^= c == '"';
        }
        Ok(builder.build(cursor, false))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && !self.quoted
    }

    /// The text, when it holds no variables.
    pub(crate) fn literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether the text begins with `.` or `..` as a segment of its own.
    pub(crate) fn is_relative(&self) -> bool {
        matches!(self.parts.first(), Some(Part::Text(text)) if split_relative(text).is_some())
    }

    /// Whether it can be written without quotes.
    pub(crate) fn is_plain(&self) -> bool {
        self.parts.iter().all(|part| match part {
            Part::Text(text) => text.chars().all(is_plain),
            Part::Variable { .. } => true,
        })
    }

    pub(crate) fn is_quoted(&self) -> bool {
        self.quoted
    }

    /// The names of the variables and where they stand.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, Span)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable { name, span, .. } => Some((name.as_str(), *span)),
            Part::Text(_) => None,
        })
    }

    /// The text with each variable replaced by what `value` says, which is told the text before it, its name and
    /// its place.
    pub(crate) fn fill(
        &self,
        mut value: impl FnMut(&str, &str, Span) -> Result<String, Problem>,
    ) -> Result<String, Problem> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Variable { name, span, in_quotes, .. } => {
                    let value = value(&filled, name, *span)?;
                    if *in_quotes {
                        // Writing into a string cannot fail.
                        let _ = quote::write_inner(&mut filled, &value);
                    } else {
                        filled.push_str(&value);
                    }
                }
            }
            if filled.len() > SOURCE_BYTES_MAX {
                let detail = format!("with its variables the text is longer than {SOURCE_BYTES_MAX} bytes");
                return Err(Problem::new(Code::TooLarge, detail).in_text("", self.span, "too long"));
            }
        }
        Ok(filled)
    }

    /// Replaces the variables that `value` knows, and leaves the others.
    pub(crate) fn fill_some(&self, value: impl Fn(&str) -> Option<String>) -> Self {
        let mut filled = Template { parts: Vec::new(), span: self.span, quoted: self.quoted };
        for part in &self.parts {
            let part = match part {
                Part::Variable { name, .. } => value(name).map_or_else(|| part.clone(), Part::Text),
                Part::Text(_) => part.clone(),
            };
            match (filled.parts.last_mut(), part) {
                (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
                (_, part) => filled.parts.push(part),
            }
        }
        filled
    }

    pub(crate) fn text(&self, bindings: &Bindings) -> Result<String, Problem> {
        self.fill(|_, name, span| match bindings.variables.get(name) {
            Some(value) => Ok(value.clone()),
            None => Err(variable_unknown(name, span, bindings.variables.keys().map(String::as_str))),
        })
    }

    pub(crate) fn point(&self, bindings: &Bindings) -> Result<Point, Problem> {
        self.point_of(&self.absolute(bindings, |point| point.to_string())?)
    }

    /// The text with variables replaced and without relative segments.
    pub(crate) fn absolute(
        &self,
        bindings: &Bindings,
        write: impl Fn(&Point) -> String,
    ) -> Result<String, Problem> {
        let text = self.text(bindings)?;
        match absolute(&text, bindings.here.as_ref(), write) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Ok(text),
            Err(reason) => Err(self.relative_problem(reason)),
        }
    }

    /// The template with its relative beginning made absolute.
    pub(crate) fn seen_from(&self, here: &Point) -> Result<Self, Problem> {
        let mut seen = self.clone();
        if let Some(Part::Text(text)) = seen.parts.first_mut() {
            let absolute = absolute(text, Some(here), |point| point.to_string());
            if let Some(absolute) = absolute.map_err(|reason| self.relative_problem(reason))? {
                *text = absolute;
            }
        }
        Ok(seen)
    }

    fn relative_problem(&self, reason: String) -> Problem {
        Problem::new(Code::PointSyntax, reason)
            .in_text("", self.span, "relative to what?")
            .help("write the whole point, as `shop:users`")
    }

    /// Reads what became of the template as a point.
    pub(crate) fn point_of(&self, text: &str) -> Result<Point, Problem> {
        text.parse().map_err(|error: crate::PointError| {
            let problem = Problem::new(Code::PointSyntax, error.reason);
            if self.literal() == Some(text) && !self.quoted {
                let start = self.span.start + error.at;
                // What is missing at the end has its place after the point.
                let span = Span { start, end: (start + error.length).min(self.span.end).max(start) };
                return problem.in_text("", span, "not part of a point");
            }
            let label = if self.literal().is_some() {
                "not a point".to_owned()
            } else {
                format!("becomes `{}`", shorten(text))
            };
            problem.in_text("", self.span, label)
        })
    }

    /// Reads what became of the template as a selector.
    pub(crate) fn selector(&self, bindings: &Bindings) -> Result<Selector, Problem> {
        let text = self.absolute(bindings, |point| {
            let mut text = String::new();
            // Writing into a string cannot fail.
            let _ = write_point(&mut text, point);
            text
        })?;
        text.parse().map_err(|mut problem: Problem| {
            if let Some(place) = &mut problem.place {
                place.source.clear();
                if self.literal() == Some(&text) {
                    place.span = Span {
                        start: place.span.start + self.span.start,
                        end: place.span.end + self.span.start,
                    };
                } else {
                    place.span = self.span;
                    place.label = format!("becomes `{}`", shorten(&text));
                }
            }
            problem
        })
    }
}

/// The problem that a variable is not known.
pub(crate) fn variable_unknown<'a>(
    name: &str,
    span: Span,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Problem {
    let help = did_you_mean(name, known.clone()).unwrap_or_else(|| {
        let list: Vec<_> = known.take(8).map(|name| format!("`${{{name}}}`")).collect();
        if list.is_empty() {
            "no variables are known here".to_owned()
        } else {
            format!("known here: {}", list.join(", "))
        }
    });
    Problem::new(Code::VariableUnknown, format!("no variable `{}`", shorten(name)))
        .in_text("", span, "not known here")
        .help(help)
}

/// Splits `..:rest` into `..` and `:rest`.
fn split_relative(text: &str) -> Option<(&str, &str)> {
    let dots = if text.starts_with("..") { 2 } else { usize::from(text.starts_with('.')) };
    let (front, rest) = text.split_at(dots);
    let ends =
        rest.is_empty() || rest.starts_with([':', '+', '<', '[']) || rest.starts_with(char::is_whitespace);
    (dots > 0 && ends).then_some((front, rest))
}

/// Makes a relative text absolute; `None` when it is not relative.
fn absolute(
    text: &str,
    here: Option<&Point>,
    write: impl Fn(&Point) -> String,
) -> Result<Option<String>, String> {
    let Some((mut front, mut rest)) = split_relative(text) else { return Ok(None) };
    let Some(here) = here else {
        return Err(format!("`{front}` has no meaning here, where no resource is at hand"));
    };
    let mut base = here.clone();
    loop {
        if front == ".." {
            base = base.parent().ok_or("`ROOT` has no parent")?;
        }
        match rest.strip_prefix(':').and_then(split_relative) {
            Some((next, after)) => (front, rest) = (next, after),
            None => break,
        }
    }
    Ok(Some(match rest.strip_prefix(':') {
        Some(rest) if base.is_root() => rest.to_owned(),
        Some(rest) if base.is_directory() => format!("{}{rest}", write(&base)),
        _ => format!("{}{rest}", write(&base)),
    }))
}

struct Builder {
    start: usize,
    parts: Vec<Part>,
}

impl Builder {
    fn new(start: usize) -> Self {
        Self { start, parts: Vec::new() }
    }

    fn push(&mut self, c: char) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.push(c),
            _ => self.parts.push(Part::Text(c.into())),
        }
    }

    /// Reads `${name}`, `$(name)` or `$1`, at whose `$` the cursor stands.
    fn variable(&mut self, cursor: &mut Cursor<'_>, in_quotes: bool) -> Result<(), Problem> {
        let start = cursor.at();
        cursor.bump();
        let close = match cursor.peek() {
            Some('{') => Some("}"),
            Some('(') => Some(")"),
            _ => None,
        };
        let Some(close) = close else {
            let name = cursor.eat_while(|c| c.is_ascii_digit()).to_owned();
            let span = cursor.span_since(start);
            self.parts.push(Part::Variable { name, span, is_capture: true, in_quotes });
            return Ok(());
        };
        cursor.bump();
        let name = cursor.eat_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).to_owned();
        if name.is_empty() || !cursor.eat(close) {
            let span = Span { start, end: (cursor.at() + 1).min(cursor.source().len()) };
            let span =
                if cursor.source().is_char_boundary(span.end) { span } else { cursor.span_since(start) };
            return Err(cursor.problem(span, "a variable is not written in full", "not a variable").help(
                "write it like `${name}` or `$(name)`; a `$` that is meant itself is `\\$` in quotes",
            ));
        }
        let span = cursor.span_since(start);
        self.parts.push(Part::Variable { name, span, is_capture: false, in_quotes });
        Ok(())
    }

    fn build(self, cursor: &Cursor<'_>, quoted: bool) -> Template {
        Template { parts: self.parts, span: cursor.span_since(self.start), quoted }
    }
}

fn starts_variable(cursor: &Cursor<'_>, captures: bool) -> bool {
    let Some(rest) = cursor.rest().strip_prefix('$') else { return false };
    rest.starts_with(['{', '(']) || captures && rest.starts_with(|c: char| c.is_ascii_digit())
}

impl Template {
    /// Writes the template as it stands, without quotes of its own.
    pub(crate) fn write_raw(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_parts(f, |f, text| f.write_str(text))
    }

    fn write_parts(
        &self,
        f: &mut fmt::Formatter<'_>,
        write_text: impl Fn(&mut fmt::Formatter<'_>, &str) -> fmt::Result,
    ) -> fmt::Result {
        for (at, part) in self.parts.iter().enumerate() {
            match part {
                Part::Text(text) => write_text(f, text)?,
                Part::Variable { name, is_capture, .. } => {
                    let digit_follows = matches!(self.parts.get(at + 1),
                        Some(Part::Text(text)) if text.starts_with(|c: char| c.is_ascii_digit()));
                    if *is_capture && !digit_follows {
                        write!(f, "${name}")?;
                    } else {
                        write!(f, "${{{name}}}")?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the template bare when all its characters may stand so, else in quotes.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, is_bare: impl Fn(char) -> bool) -> fmt::Result {
        let bare = !self.parts.is_empty()
            && self.parts.iter().all(|part| match part {
                Part::Text(text) => text.chars().all(&is_bare),
                Part::Variable { .. } => true,
            });
        if bare {
            return self.write_raw(f);
        }
        f.write_str("\"")?;
        self.write_parts(f, |f, text| quote::write_inner(f, text))?;
        f.write_str("\"")
    }
}

impl fmt::Display for Template {
    /// As a point is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, is_plain)
    }
}
