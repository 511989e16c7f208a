//! What of a selector an index can use.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

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
    /// Properties that must be, or read as, a number of a range; one range each.
    pub numbers: Vec<Range<f64>>,
    /// Properties that must be a text of a range, whatever it reads as; one range each.
    pub texts: Vec<Range<Arc<str>>>,
}

/// What the value of a property must be between. Nothing is, when `from` is behind `to`.
#[derive(Debug, Clone, PartialEq)]
pub struct Range<T> {
    /// Which property.
    pub key: Key,
    /// The least value.
    pub from: Bound<T>,
    /// The greatest value.
    pub to: Bound<T>,
}

impl<T: PartialOrd> Range<T> {
    /// Whether a value is in it.
    pub fn contains(&self, value: &T) -> bool {
        (self.from.as_ref(), self.to.as_ref()).contains(value)
    }
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
        numbers: Vec::new(),
        texts: Vec::new(),
    };
    let conditions = parts.filter.iter().flat_map(Filter::conjuncts);
    for condition in conditions.clone() {
        let Filter::Compare(Field::Property(key), comparison, value) = condition else { continue };
        match (comparison, value) {
            (Comparison::Unequal, _) | (_, Value::Json(_)) => {}
            (Comparison::Equal, value) => scope.equals.push((key.clone(), value.clone())),
            (comparison, Value::Number(number)) => {
                if let Some(number) = number.as_f64() {
                    narrow(range_of(&mut scope.numbers, key), *comparison, number);
                }
            }
            (comparison, Value::Text(text)) if is_passed_by_texts_alone(value) => {
                narrow(range_of(&mut scope.texts, key), *comparison, text.clone());
            }
            (_, Value::Bool(_) | Value::Text(_)) => {}
        }
    }
    for condition in conditions {
        let Filter::Not(condition) = condition else { continue };
        let Filter::Compare(Field::Property(key), comparison, value) = &**condition else { continue };
        // What has no such value passes a negation, unless another condition asks for one.
        match value {
            Value::Number(number) => {
                let known = scope.numbers.iter_mut().find(|range| range.key == *key);
                if let (Some(known), Some(number)) = (known, number.as_f64()) {
                    narrow(known, comparison.negated(), number);
                }
            }
            Value::Text(text) => {
                if let Some(known) = scope.texts.iter_mut().find(|range| range.key == *key) {
                    narrow(known, comparison.negated(), text.clone());
                }
            }
            Value::Bool(_) | Value::Json(_) => {}
        }
    }
    scope
}

/// Whether neither numbers nor truth values are before or after a text, or the same.
fn is_passed_by_texts_alone(text: &Value) -> bool {
    text.as_number().is_none() && !matches!(text.as_text(), Some("true" | "false"))
}

fn range_of<'a, T>(ranges: &'a mut Vec<Range<T>>, key: &Key) -> &'a mut Range<T> {
    let at = ranges.iter().position(|range| range.key == *key).unwrap_or_else(|| {
        ranges.push(Range { key: key.clone(), from: Bound::Unbounded, to: Bound::Unbounded });
        ranges.len() - 1
    });
    &mut ranges[at]
}

/// Takes in that the values of a range compare so with a bound.
fn narrow<T: PartialOrd>(range: &mut Range<T>, comparison: Comparison, bound: T) {
    let (end, new, is_narrower): (_, _, fn(&T, &T) -> bool) = match comparison {
        Comparison::Greater => (&mut range.from, Bound::Excluded(bound), T::gt),
        Comparison::GreaterOrEqual => (&mut range.from, Bound::Included(bound), T::gt),
        Comparison::Less => (&mut range.to, Bound::Excluded(bound), T::lt),
        Comparison::LessOrEqual => (&mut range.to, Bound::Included(bound), T::lt),
        Comparison::Equal | Comparison::Unequal => return,
    };
    let narrows = match (&*end, &new) {
        (Bound::Included(old) | Bound::Excluded(old), Bound::Included(new)) => is_narrower(new, old),
        (Bound::Excluded(old), Bound::Excluded(new)) => is_narrower(new, old),
        (Bound::Included(old), Bound::Excluded(new)) => is_narrower(new, old) || new == old,
        (Bound::Unbounded, _) => true,
        (_, Bound::Unbounded) => false,
    };
    if narrows {
        *end = new;
    }
}
