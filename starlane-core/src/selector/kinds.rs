//! The part of a selector that is compared with kinds: `<Database<*>>`.

use std::fmt;

use semver::{Version, VersionReq};

use crate::cursor::Cursor;
use crate::kind::{self, Name};
use crate::{Base, Code, Kind, Problem, Specific};

/// A kind, in which `*` stands for anything and what is left out is not compared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KindPattern {
    /// `None` for `*`.
    base: Option<Base>,
    sub: SubPattern,
}

#[derive(Debug, Clone, PartialEq)]
enum SubPattern {
    Open,
    Any,
    Named(Name, SpecificPattern),
}

#[derive(Debug, Clone, PartialEq)]
enum SpecificPattern {
    Open,
    Any,
    Parts([Option<Box<str>>; 4], VersionPattern),
}

#[derive(Debug, Clone, PartialEq)]
enum VersionPattern {
    Any,
    Exactly(Version),
    Range(VersionReq),
}

impl KindPattern {
    pub(crate) fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    pub(crate) fn matches(&self, kind: &Kind) -> bool {
        self.base.as_ref().is_none_or(|base| *base == kind.base)
            && match (&self.sub, &kind.sub) {
                (SubPattern::Open, _) | (SubPattern::Any, Some(_)) => true,
                (SubPattern::Any | SubPattern::Named(..), None) => false,
                (SubPattern::Named(name, specific), Some(sub)) => {
                    *name == sub.name && specific.matches(sub.specific.as_ref())
                }
            }
    }
}

impl SpecificPattern {
    fn matches(&self, specific: Option<&Specific>) -> bool {
        match (self, specific) {
            (SpecificPattern::Open, _) | (SpecificPattern::Any, Some(_)) => true,
            (SpecificPattern::Any | SpecificPattern::Parts(..), None) => false,
            (SpecificPattern::Parts(parts, version), Some(specific)) => {
                let mut found = specific.as_str().split(':');
                parts
                    .iter()
                    .zip(&mut found)
                    .all(|(part, found)| part.as_deref().is_none_or(|part| part == found))
                    && found.next().is_some_and(|found| version.matches(found))
            }
        }
    }
}

impl VersionPattern {
    fn matches(&self, version: &str) -> bool {
        match self {
            VersionPattern::Any => true,
            VersionPattern::Exactly(wanted) => {
                Version::parse(version).is_ok_and(|version| version == *wanted)
            }
            VersionPattern::Range(range) => {
                Version::parse(version).is_ok_and(|version| range.matches(&version))
            }
        }
    }
}

/// Reads a kind pattern, at whose `<` the cursor stands.
pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<KindPattern, Problem> {
    cursor.expect("<", "before a kind")?;
    cursor.trivia();
    let pattern = if cursor.eat("*") {
        KindPattern { base: None, sub: SubPattern::Open }
    } else {
        let start = cursor.at();
        let base = name(cursor)?.parse::<Kind>().map_err(|_| not_a_kind(cursor, start))?.base;
        let sub = if cursor.next_is("<") { sub(cursor)? } else { SubPattern::Open };
        match (&base, &sub) {
            (Base::Base, SubPattern::Named(name, SpecificPattern::Open)) if name.as_str() == "Repo" => {
                KindPattern { base: Some(Base::Repo), sub: SubPattern::Open }
            }
            _ => KindPattern { base: Some(base), sub },
        }
    };
    cursor.expect(">", "at the end of the kind")?;
    Ok(pattern)
}

/// Reads a sub-kind after its `<`.
fn sub(cursor: &mut Cursor<'_>) -> Result<SubPattern, Problem> {
    let sub = if cursor.next_is("*") {
        SubPattern::Any
    } else {
        let start = cursor.at();
        let text = name(cursor)?;
        let name = text.parse().map_err(|_| not_a_kind(cursor, start))?;
        let specific = if cursor.next_is("<") { specific(cursor)? } else { SpecificPattern::Open };
        SubPattern::Named(name, specific)
    };
    cursor.expect(">", "at the end of the sub-kind")?;
    Ok(sub)
}

/// Reads a name in Pascal case, or says how kinds are written.
fn name<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, Problem> {
    cursor.trivia();
    let start = cursor.at();
    let word = cursor.word();
    if word.is_empty() {
        return Err(cursor.unexpected("a kind or `*`").help("write it like `<Mechtron>` or `<Database<*>>`"));
    }
    if word.parse::<Name>().is_err() {
        return Err(not_a_kind(cursor, start));
    }
    Ok(word)
}

fn not_a_kind(cursor: &Cursor<'_>, start: usize) -> Problem {
    let word = cursor.since(start);
    let detail = format!("`{word}` is not written like a kind");
    let problem = cursor.problem_of(Code::KindSyntax, cursor.span_since(start), detail, "not a kind");
    problem.help(kind::writing_help(word))
}

/// Reads `provider:vendor:product:variant:version` after its `<`, in which each part may be `*`.
fn specific(cursor: &mut Cursor<'_>) -> Result<SpecificPattern, Problem> {
    cursor.trivia();
    let any = cursor.eat("*");
    let pattern = if any && !cursor.looks_at(":") {
        SpecificPattern::Any
    } else {
        let first = if any { None } else { Some(part(cursor)?) };
        let mut parts = [first, None, None, None];
        for part_after in &mut parts[1..] {
            colon(cursor)?;
            *part_after = if cursor.eat("*") { None } else { Some(part(cursor)?) };
        }
        colon(cursor)?;
        SpecificPattern::Parts(parts, version(cursor)?)
    };
    cursor.expect(">", "at the end of the product")?;
    Ok(pattern)
}

fn colon(cursor: &mut Cursor<'_>) -> Result<(), Problem> {
    if cursor.eat(":") { Ok(()) } else { Err(cursor.unexpected("`:`").help(SPECIFIC_HELP)) }
}

fn part(cursor: &mut Cursor<'_>) -> Result<Box<str>, Problem> {
    let part = cursor.eat_while(is_specific_char);
    if part.is_empty() {
        return Err(cursor.unexpected("a part of a product, or `*`").help(SPECIFIC_HELP));
    }
    Ok(part.into())
}

fn version(cursor: &mut Cursor<'_>) -> Result<VersionPattern, Problem> {
    if cursor.eat("*") {
        return Ok(VersionPattern::Any);
    }
    if cursor.looks_at("(") {
        return Ok(VersionPattern::Range(super::pattern::range(cursor)?));
    }
    let start = cursor.at();
    let text = cursor.eat_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
    Version::parse(text).map(VersionPattern::Exactly).map_err(|error| {
        let detail = format!("not a version: {error}");
        cursor.problem(cursor.span_since(start), detail, "not a version").help(SPECIFIC_HELP)
    })
}

const SPECIFIC_HELP: &str = "a product is `provider:vendor:product:variant:version`; each part may be `*`, and the \
                             version a range as `(^8.0.0)`";

fn is_specific_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.')
}

impl fmt::Display for KindPattern {
    /// Without the outer brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            None => f.write_str("*")?,
            Some(base) => f.write_str(base.as_str())?,
        }
        match &self.sub {
            SubPattern::Open => Ok(()),
            SubPattern::Any => f.write_str("<*>"),
            SubPattern::Named(name, SpecificPattern::Open) => write!(f, "<{name}>"),
            SubPattern::Named(name, SpecificPattern::Any) => write!(f, "<{name}<*>>"),
            SubPattern::Named(name, SpecificPattern::Parts(parts, version)) => {
                write!(f, "<{name}<")?;
                for part in parts {
                    write!(f, "{}:", part.as_deref().unwrap_or("*"))?;
                }
                match version {
                    VersionPattern::Any => f.write_str("*>>"),
                    VersionPattern::Exactly(version) => write!(f, "{version}>>"),
                    VersionPattern::Range(range) => write!(f, "({range})>>"),
                }
            }
        }
    }
}
