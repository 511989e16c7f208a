//! Selectors: the one language for query, watch, targeting, placement and permission.

mod extent;
mod filter;
mod kinds;
mod pattern;
mod scope;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use scope::{Depth, Range, Scope};

pub(crate) use extent::{skip as skip_extent, skip_brackets};
pub(crate) use filter::{Filter, parse as parse_filter};
pub(crate) use pattern::write_point;

use self::kinds::KindPattern;
use self::pattern::Pattern;
use crate::cursor::Cursor;
use crate::{Code, Point, Problem, Resource};

/// Which resources are meant: `shop:**<Mechtron>[region = "eu" and queue > 100]`.
///
/// Prints in its canonical form, which reads as the same selector. Cloning is cheap.
#[derive(Clone, PartialEq)]
pub struct Selector(Arc<Parts>);

#[derive(PartialEq)]
struct Parts {
    pattern: Pattern,
    kind: Option<Box<KindPattern>>,
    filter: Option<Filter>,
}

impl Selector {
    /// The selector of one point and nothing else.
    pub fn exactly(point: &Point) -> Self {
        Self::of_pattern(Pattern::exactly(point))
    }

    /// The selector of everything below a point, on all levels, without the point itself.
    pub fn below(point: &Point) -> Self {
        Self::of_pattern(Pattern::below(point))
    }

    fn of_pattern(pattern: Pattern) -> Self {
        Self(Arc::new(Parts { pattern, kind: None, filter: None }))
    }

    /// Whether a resource is meant: its point, its kind, and what the filter compares.
    pub fn matches(&self, resource: &Resource) -> bool {
        self.0.kind.as_ref().is_none_or(|kind| kind.matches(&resource.kind))
            && self.matches_point(&resource.point)
            && self.0.filter.as_ref().is_none_or(|filter| filter.matches(resource))
    }

    /// Whether a resource at a point could be meant, whatever its kind and properties.
    pub fn matches_point(&self, point: &Point) -> bool {
        self.0.pattern.matches(point)
    }

    /// The one point that can be meant, when the selector is a point and nothing else.
    pub fn as_point(&self) -> Option<&Point> {
        let Parts { pattern, kind: None, filter: None } = &*self.0 else { return None };
        pattern.as_point()
    }

    /// What an index can use to find the resources: all that match are inside it.
    pub fn scope(&self) -> Scope {
        scope::of(&self.0)
    }

    /// The selector without the conditions that read a field or property: it means all that the selector means whatever
    /// the value of that is, and maybe more.
    #[must_use]
    pub fn without(&self, field: &str) -> Self {
        let Parts { pattern, kind, filter } = &*self.0;
        let filter = filter.as_ref().and_then(|filter| filter.without(field));
        Self(Arc::new(Parts { pattern: pattern.clone(), kind: kind.clone(), filter }))
    }

    /// The names of the fields and properties that the filter reads, in order of appearance.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.filter.iter().flat_map(Filter::fields)
    }
}

impl FromStr for Selector {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let mut cursor = Cursor::new(text, Code::Syntax)?;
        if cursor.is_done() {
            return Err(cursor
                .problem(cursor.token(), "a selector cannot be empty", "nothing here")
                .help("`ROOT+**` selects everything, `shop:**` all below `shop`"));
        }
        let pattern = pattern::read(&mut cursor)?;
        cursor.trivia();
        let kind = if cursor.looks_at("<") { Some(Box::new(kinds::read(&mut cursor)?)) } else { None };
        cursor.trivia();
        let filter = if cursor.looks_at("[") { Some(filter::read(&mut cursor)?) } else { None };
        if !cursor.is_done() {
            let rest = if filter.is_some() {
                "the end of the selector"
            } else if kind.is_some() {
                "a filter `[…]` or the end of the selector"
            } else {
                "`:`, a kind `<…>`, a filter `[…]` or the end of the selector"
            };
            return Err(cursor.unexpected(rest).help("a selector is `pattern<Kind>[filter]`"));
        }
        Ok(Self(Arc::new(Parts { pattern, kind, filter })))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.pattern.fmt(f)?;
        if let Some(kind) = &self.0.kind {
            write!(f, "<{kind}>")?;
        }
        match &self.0.filter {
            Some(filter) => write!(f, "[{filter}]"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
