//! What of a selector an index can use.

use super::Parts;
use super::filter::{Comparison, Field, Filter};
use crate::{Base, Key, Point, Value};

/// Where to look for what a selector means. Everything that matches the selector is inside its scope; not everything
/// inside the scope matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// The deepest point that is written out; `ROOT` when there is none.
    pub base: Point,
    /// Whether `base` itself can match.
    pub inclusive: bool,
    /// How far below `base` the others are.
    pub depth: Depth,
    /// The base of the kind, when all that match have it.
    pub kind: Option<Base>,
    /// Properties that must compare equal to a text, a number or a truth value.
    pub equals: Vec<(Key, Value)>,
}

/// How many levels below a base something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// So many; 0 when only the base itself can match.
    Exactly(usize),
    /// One or more.
    Any,
}

impl Scope {
    /// Whether a point is where the scope looks.
    pub fn contains(&self, point: &Point) -> bool {
        if *point == self.base {
            return self.inclusive;
        }
        let below = || point.depth().saturating_sub(self.base.depth());
        self.base.contains(point)
            && match self.depth {
                Depth::Any => true,
                Depth::Exactly(levels) => below() == levels,
            }
    }
}

pub(super) fn of(parts: &Parts) -> Scope {
    let pattern = &parts.pattern;
    let mut scope = Scope {
        base: pattern.base.clone(),
        inclusive: pattern.inclusive || pattern.steps.is_empty(),
        depth: pattern.depth().map_or(Depth::Any, Depth::Exactly),
        kind: parts.kind.as_ref().and_then(|kind| kind.base()).cloned(),
        equals: Vec::new(),
    };
    for condition in parts.filter.iter().flat_map(Filter::conjuncts) {
        if let Filter::Compare(Field::Property(key), Comparison::Equal, value) = condition
            && !matches!(value, Value::Json(_))
        {
            scope.equals.push((key.clone(), value.clone()));
        }
    }
    scope
}
