//! The part of a selector that is compared with points: `shop:**:orders`.

use std::fmt;

use semver::VersionReq;

use crate::cursor::Cursor;
use crate::{Code, Point, PointError, Problem, Span, quote};

/// The most steps a pattern may have below its literal beginning; a point has no more levels.
const STEPS_MAX: usize = 64;

/// A point, and what may stand below it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pattern {
    /// The literal beginning.
    pub(crate) base: Point,
    /// Whether `base` is meant too, when there are steps.
    pub(crate) inclusive: bool,
    /// One level each, but for `**`. Without steps only `base` is meant.
    pub(crate) steps: Box<[Step]>,
}

/// What one level must be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// Whether the level must be a component of a path.
    in_path: bool,
    is: Is,
}

#[derive(Debug, Clone, PartialEq)]
enum Is {
    /// This name; a component that is a directory ends with `/`.
    Literal(Box<str>),
    /// A version in a range.
    Version(VersionReq),
    /// Any one level.
    Any,
    /// Any one directory.
    Directory,
    /// Any number of levels; at the end of a pattern at least one.
    Deep,
}

impl Pattern {
    pub(crate) fn exactly(point: &Point) -> Self {
        Self { base: point.clone(), inclusive: false, steps: Box::default() }
    }

    pub(crate) fn below(point: &Point) -> Self {
        // What would stand below a file stands in a directory of its name; the parent of all in `:/` is the holder.
        let base = match point.path() {
            Some("/") => point.holder(),
            Some(path) if !path.ends_with('/') => {
                point.join_path(&format!("{path}/")).unwrap_or_else(|_| point.clone())
            }
            _ => point.clone(),
        };
        Self {
            base,
            inclusive: false,
            steps: Box::new([Step { in_path: point.path().is_some(), is: Is::Deep }]),
        }
    }

    pub(crate) fn as_point(&self) -> Option<&Point> {
        self.steps.is_empty().then_some(&self.base)
    }

    /// How many levels below the base a point must be; `None` when that is open.
    pub(crate) fn depth(&self) -> Option<usize> {
        (!self.steps.iter().any(|step| step.is == Is::Deep)).then_some(self.steps.len())
    }

    pub(crate) fn matches(&self, point: &Point) -> bool {
        if *point == self.base {
            return self.inclusive || self.steps.is_empty();
        }
        !self.steps.is_empty() && self.base.contains(point) && self.matches_below(point)
    }

    /// Walks the levels of the point with the set of steps reached so far, one bit each: bit `n` says that the
    /// levels so far can be what the first `n` steps ask for.
    fn matches_below(&self, point: &Point) -> bool {
        let end = self.steps.len();
        let deep = |at: usize| self.steps.get(at).is_some_and(|step| step.is == Is::Deep);
        let skip_deep = |mut reached: u128| {
            for at in 0..end - 1 {
                if reached >> at & 1 == 1 && deep(at) {
                    reached |= 1 << (at + 1);
                }
            }
            reached
        };
        let mut reached = skip_deep(1);
        for level in levels_below(&self.base, point) {
            let mut next = 0;
            for (at, step) in self.steps.iter().enumerate() {
                if reached >> at & 1 == 0 || !step.accepts(level) {
                    continue;
                }
                if !deep(at) || at + 1 == end {
                    next |= 1 << (at + 1);
                }
                if deep(at) {
                    next |= 1 << at;
                }
            }
            reached = skip_deep(next);
            if reached == 0 {
                return false;
            }
        }
        reached >> end & 1 == 1
    }
}

#[derive(Clone, Copy)]
struct Level<'a> {
    in_path: bool,
    /// A directory ends with `/`.
    text: &'a str,
}

/// The levels of a point that stands below `base`.
fn levels_below<'a>(base: &Point, point: &'a Point) -> impl Iterator<Item = Level<'a>> {
    let below = if base.is_root() { point.as_str() } else { &point.as_str()[base.as_str().len()..] };
    let (segments, path) = if base.is_directory() {
        ("", below)
    } else {
        match below.find(":/") {
            Some(at) => (&below[..at], &below[at + 1..]),
            None => (below, ""),
        }
    };
    let components = if path == "/" { path } else { path.trim_start_matches('/') };
    let segments = segments.split(':').filter(|text| !text.is_empty());
    segments
        .map(|text| Level { in_path: false, text })
        .chain(components.split_inclusive('/').map(|text| Level { in_path: true, text }))
}

impl Step {
    fn accepts(&self, level: Level<'_>) -> bool {
        let place = match &self.is {
            Is::Any | Is::Deep => level.in_path || !self.in_path,
            Is::Literal(_) | Is::Version(_) | Is::Directory => level.in_path == self.in_path,
        };
        place
            && match &self.is {
                Is::Any | Is::Deep => true,
                Is::Literal(text) => **text == *level.text,
                Is::Directory => level.text.ends_with('/'),
                Is::Version(range) => {
                    semver::Version::parse(level.text).is_ok_and(|version| range.matches(&version))
                }
            }
    }
}

/// Reads a pattern. When a kind or a filter comes first, everything below `ROOT` is meant.
pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Pattern, Problem> {
    if matches!(cursor.peek(), Some('<' | '[')) {
        return Ok(Pattern::below(&Point::root()));
    }
    let mut reader = Reader { start: cursor.at(), ..Reader::default() };
    let mut more = true;
    if cursor.looks_at("\"") {
        more = reader.quoted_base(cursor)?;
    } else if cursor.eat("ROOT") {
        reader.base = Some(Point::root());
        more = cursor.looks_at("+") || cursor.eat(":");
    }
    while more {
        if cursor.looks_at("+") {
            reader.plus(cursor)?;
        }
        if reader.in_path || cursor.looks_at("/") {
            reader.path(cursor)?;
            more = cursor.looks_at("+");
        } else {
            reader.segment(cursor)?;
            more = cursor.looks_at("+") || cursor.eat(":");
        }
    }
    reader.finish(cursor)
}

fn at_step(cursor: &Cursor<'_>) -> bool {
    cursor.looks_at("*")
}

fn quoted_point(cursor: &mut Cursor<'_>) -> Result<Point, Problem> {
    let start = cursor.at();
    let text = quote::read(cursor)?;
    text.parse().map_err(|error: PointError| {
        cursor.problem_of(Code::PointSyntax, cursor.span_since(start), error.reason, "not a point")
    })
}

/// Collects the literal beginning as text until the first step that is not literal.
#[derive(Default)]
struct Reader {
    start: usize,
    literal: String,
    base: Option<Point>,
    inclusive: bool,
    in_path: bool,
    steps: Vec<Step>,
}

impl Reader {
    /// Reads a beginning in quotes; tells whether more follows.
    fn quoted_base(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Problem> {
        let base = quoted_point(cursor)?;
        self.in_path = base.is_directory();
        let more = match base.path() {
            None => cursor.looks_at("+") || cursor.eat(":"),
            Some(path) if path.ends_with('/') => {
                matches!(cursor.peek(), Some('+' | '*' | '"')) || is_path_char(cursor.peek())
            }
            Some(_) => false,
        };
        self.base = Some(if more && base.path() == Some("/") { base.holder() } else { base });
        Ok(more)
    }

    fn plus(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Problem> {
        let span = cursor.token();
        cursor.bump();
        cursor.eat(":");
        if !self.steps.is_empty() || self.inclusive || !(at_step(cursor) || cursor.looks_at("/")) {
            return Err(cursor
                .problem(span, "`+` stands between a point and what is below it", "not here")
                .help("`shop+:**` is `shop` and everything below it"));
        }
        self.inclusive = true;
        self.settle(cursor)?;
        if self.base.as_ref().is_some_and(|base| base.path().is_some() && !base.is_directory()) {
            return Err(cursor
                .problem(span, "nothing is below a file", "not after a file")
                .help("a directory ends with `/`: `shop:files:/img/+**`"));
        }
        Ok(())
    }

    fn segment(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Problem> {
        let start = cursor.at();
        let is = match cursor.peek() {
            Some('*') if cursor.eat("**") => Is::Deep,
            Some('*') => {
                cursor.bump();
                Is::Any
            }
            Some('(') => Is::Version(range(cursor)?),
            _ => return self.name(cursor),
        };
        if is_segment_char(cursor.peek()) || at_step(cursor) {
            return Err(mixed(cursor, start));
        }
        self.push(cursor, start, Step { in_path: false, is })
    }

    fn name(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Problem> {
        let start = cursor.at();
        let name = cursor.eat_while(|c| is_segment_char(Some(c)));
        if at_step(cursor) && !name.is_empty() {
            return Err(mixed(cursor, start));
        }
        if name.is_empty() {
            return Err(cursor
                .unexpected("a segment, `*`, `**` or a version range `(…)`")
                .help("a selector is `pattern<Kind>[filter]`, as `shop:**<Mechtron>[region = \"eu\"]`"));
        }
        if self.base.is_none() {
            let joint = if self.literal.is_empty() { "" } else { ":" };
            self.literal.push_str(joint);
            self.literal.push_str(name);
            return Ok(());
        }
        let after_version = matches!(self.steps.last(), Some(Step { is: Is::Version(_), .. }));
        let front = if after_version { "a:1.0.0:" } else { "a:" };
        format!("{front}{name}")
            .parse::<Point>()
            .map_err(|error| wrong_point(cursor, start, front.len(), error))?;
        self.push(cursor, start, Step { in_path: false, is: Is::Literal(name.into()) })
    }

    /// Reads the components of a path to its end; the cursor stands at its `/` or at a component.
    fn path(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Problem> {
        let opened = cursor.token();
        if !self.in_path && cursor.eat("/") {
            let nowhere = match &self.base {
                None => self.literal.is_empty(),
                Some(base) => base.is_root() && self.steps.is_empty(),
            };
            if nowhere {
                return Err(cursor
                    .problem(opened, "a path stands after the point that holds it", "whose path?")
                    .help("write it like `shop:files:/img/*`"));
            }
            if self.base.is_none() {
                self.literal.push_str(":/");
            } else if !(is_path_char(cursor.peek()) || matches!(cursor.peek(), Some('*' | '"'))) {
                return self.push(cursor, opened.start, Step { in_path: true, is: Is::Literal("/".into()) });
            }
        }
        self.in_path = true;
        while self.component(cursor)? {}
        Ok(())
    }

    /// Reads one component; tells whether another may follow.
    fn component(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Problem> {
        let start = cursor.at();
        let is = if cursor.eat("**") {
            Is::Deep
        } else if cursor.eat("*") {
            Is::Any
        } else {
            return self.literal_component(cursor);
        };
        if is_path_char(cursor.peek()) || at_step(cursor) {
            return Err(mixed(cursor, start));
        }
        let directory = cursor.eat("/");
        let is = if is == Is::Any && directory { Is::Directory } else { is };
        let deep = is == Is::Deep;
        self.push(cursor, start, Step { in_path: true, is })?;
        let more = is_path_char(cursor.peek()) || matches!(cursor.peek(), Some('*' | '"'));
        if deep && directory && !more {
            self.push(cursor, start, Step { in_path: true, is: Is::Directory })?;
        }
        Ok(directory && more)
    }

    fn literal_component(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Problem> {
        let start = cursor.at();
        let quoted = cursor.looks_at("\"");
        let mut text = if quoted {
            quote::read(cursor)?
        } else {
            cursor.eat_while(|c| is_path_char(Some(c))).to_owned()
        };
        if quoted && text.is_empty() {
            let detail = "a path component is empty";
            return Err(cursor.problem_of(
                Code::PointSyntax,
                cursor.span_since(start),
                detail,
                "nothing in it",
            ));
        }
        if at_step(cursor) && !text.is_empty() {
            return Err(mixed(cursor, start));
        }
        if text.is_empty() && !quoted && !cursor.looks_at("/") {
            return Ok(false);
        }
        if quoted && text.contains('/') {
            let span = cursor.span_since(start);
            return Err(cursor.problem_of(
                Code::PointSyntax,
                span,
                "a component of a path holds no `/`",
                "more than one component",
            ));
        }
        let directory = cursor.eat("/");
        if directory {
            text.push('/');
        }
        if self.base.is_none() {
            self.literal.push_str(&text);
        } else {
            let front = "a:/";
            format!("{front}{text}")
                .parse::<Point>()
                .map_err(|error| wrong_point(cursor, start, front.len(), error))?;
            self.push(cursor, start, Step { in_path: true, is: Is::Literal(text.into()) })?;
        }
        Ok(directory)
    }

    fn push(&mut self, cursor: &Cursor<'_>, start: usize, step: Step) -> Result<(), Problem> {
        self.settle(cursor)?;
        if self.steps.len() == STEPS_MAX {
            let detail = format!("a pattern has at most {STEPS_MAX} levels");
            return Err(cursor.problem(cursor.span_since(start), detail, "one too many"));
        }
        self.steps.push(step);
        Ok(())
    }

    /// Makes the literal beginning the base of the steps that follow. What is in the root directory of a holder
    /// stands directly below the holder.
    fn settle(&mut self, cursor: &Cursor<'_>) -> Result<(), Problem> {
        if self.base.is_none() {
            let literal = match self.literal.split_once(":/") {
                Some((holder, "")) => holder,
                _ => &self.literal,
            };
            let base = if literal.is_empty() { Ok(Point::root()) } else { literal.parse() };
            self.base = Some(base.map_err(|error| wrong_point(cursor, self.start, 0, error))?);
        }
        Ok(())
    }

    fn finish(self, cursor: &Cursor<'_>) -> Result<Pattern, Problem> {
        let Self { start, literal, base, inclusive, mut steps, .. } = self;
        let mut base = match base {
            Some(base) => base,
            None => literal.parse().map_err(|error| wrong_point(cursor, start, 0, error))?,
        };
        // Literal steps after a base in quotes or after `ROOT:` belong to the base.
        while !inclusive && let Some(Step { in_path, is: Is::Literal(text) }) = steps.first() {
            let longer = match *in_path && base.path().is_none() {
                true if &**text == "/" => base.join_path("/"),
                true => base.join_path(&format!("/{text}")),
                false => base.child(text),
            };
            base = longer.map_err(|error| {
                cursor.problem_of(Code::PointSyntax, cursor.span_since(start), error.reason, "not a point")
            })?;
            steps.remove(0);
        }
        Ok(Pattern { base, inclusive, steps: steps.into() })
    }
}

fn mixed(cursor: &mut Cursor<'_>, start: usize) -> Problem {
    cursor.eat_while(|c| is_path_char(Some(c)) || c == '*');
    cursor
        .problem(
            cursor.span_since(start),
            "`*` stands for a whole segment, not for a part of one",
            "partly a wildcard",
        )
        .help("`*` is one level, `**` is all levels; compare the rest in a filter")
}

fn wrong_point(cursor: &Cursor<'_>, start: usize, front: usize, error: PointError) -> Problem {
    let from = (start + error.at.saturating_sub(front)).min(cursor.source().len());
    // What is missing at the end has its place after the pattern.
    let span = Span { start: from, end: (from + error.length).min(cursor.at()).max(from) };
    cursor.problem_of(Code::PointSyntax, span, error.reason, "not part of a point")
}

/// Reads a version range in parentheses.
pub(crate) fn range(cursor: &mut Cursor<'_>) -> Result<VersionReq, Problem> {
    let start = cursor.at();
    cursor.bump();
    let text = cursor.eat_while(|c| !matches!(c, ')' | '(' | '\n'));
    let span = Span { start: start + 1, end: cursor.at() };
    if !cursor.eat(")") {
        let opened = Span { start, end: start + 1 };
        return Err(cursor
            .problem(opened, "a version range is never closed", "opened here")
            .help("end it with `)`"));
    }
    VersionReq::parse(text.trim()).map_err(|error| {
        cursor
            .problem(span, format!("not a version range: {error}"), "not a range")
            .help("write it like `(^1.2.0)`, `(~1.2)` or `(>=1.0.0, <2.0.0)`")
    })
}

fn is_segment_char(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '@' | '%'))
}

fn is_path_char(c: Option<char>) -> bool {
    c == Some(':') || is_segment_char(c)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut joint = ":";
        if self.base.is_root() {
            joint = "";
            if self.steps.is_empty() || self.inclusive {
                f.write_str("ROOT")?;
            }
        } else {
            write_point(f, &self.base)?;
        }
        if self.inclusive {
            f.write_str("+")?;
        }
        if self.base.is_directory() {
            joint = "";
        }
        let mut in_path = self.base.is_directory();
        for (at, step) in self.steps.iter().enumerate() {
            f.write_str(if step.in_path && !in_path { ":/" } else { joint })?;
            in_path = step.in_path;
            joint = if in_path { "" } else { ":" };
            match &step.is {
                Is::Literal(text) if &**text == "/" => {}
                Is::Literal(text) if in_path && !text.chars().all(|c| c == '/' || is_path_char(Some(c))) => {
                    let name = text.strip_suffix('/');
                    f.write_str(&quote::quoted(name.unwrap_or(text)))?;
                    f.write_str(if name.is_some() { "/" } else { "" })?;
                }
                Is::Literal(text) => f.write_str(text)?,
                Is::Version(range) => write!(f, "({range})")?,
                Is::Any => f.write_str("*")?,
                Is::Directory => f.write_str("*/")?,
                Is::Deep => f.write_str("**")?,
            }
            if in_path && step.is == Is::Deep && at + 1 < self.steps.len() {
                f.write_str("/")?;
            }
        }
        Ok(())
    }
}

/// Writes a point bare when it can stand so in a statement, else in quotes.
pub(crate) fn write_point(f: &mut impl fmt::Write, point: &Point) -> fmt::Result {
    if point.as_str().chars().all(|c| c == '/' || is_path_char(Some(c))) {
        f.write_str(point.as_str())
    } else {
        f.write_str(&quote::quoted(point.as_str()))
    }
}
