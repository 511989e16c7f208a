//! The filter of a selector: `[region = "eu" and queue > 100]`.

mod print;
mod read;

use std::cmp::Ordering;
use std::sync::Arc;

use crate::{Key, Resource, Revision, Value};

pub(crate) use read::{parse, read};

/// A condition on the fields and properties of a resource.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Filter {
    And(Box<[Filter]>),
    Or(Box<[Filter]>),
    Not(Box<Filter>),
    Exists(Field),
    Compare(Field, Comparison, Value),
    In(Field, Box<[Value]>),
    /// `*` in the pattern stands for any text.
    Like(Field, Arc<str>),
}

/// What a filter reads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Field {
    Kind,
    Status,
    Node,
    Created,
    Modified,
    Revision,
    Property(Key),
}

/// The fields that every resource has.
pub(crate) const FIELDS: [(&str, Field); 6] = [
    ("kind", Field::Kind),
    ("status", Field::Status),
    ("node", Field::Node),
    ("created", Field::Created),
    ("modified", Field::Modified),
    ("revision", Field::Revision),
];

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Filter {
    pub(crate) fn matches(&self, resource: &Resource) -> bool {
        match self {
            Filter::And(all) => all.iter().all(|filter| filter.matches(resource)),
            Filter::Or(any) => any.iter().any(|filter| filter.matches(resource)),
            Filter::Not(filter) => !filter.matches(resource),
            Filter::Exists(field) => field.with_value(resource, |_| true),
            Filter::Compare(field, comparison, value) => {
                field.with_value(resource, |found| comparison.holds(found.compare(value)))
            }
            Filter::In(field, values) => field.with_value(resource, |found| {
                values.iter().any(|value| found.compare(value) == Some(Ordering::Equal))
            }),
            Filter::Like(field, pattern) => field.with_value(resource, |found| match found.as_text() {
                Some(text) => like(text, pattern),
                None => like(&found.to_string(), pattern),
            }),
        }
    }

    /// The condition at which a resource fails: of several that all must hold, the first that does not. `None` when
    /// it matches.
    pub(crate) fn failing(&self, resource: &Resource) -> Option<&Filter> {
        match self {
            Filter::And(all) => all.iter().find_map(|filter| filter.failing(resource)),
            other => (!other.matches(resource)).then_some(other),
        }
    }

    pub(crate) fn fields(&self) -> Vec<&str> {
        match self {
            Filter::And(filters) | Filter::Or(filters) => filters.iter().flat_map(Filter::fields).collect(),
            Filter::Not(filter) => filter.fields(),
            Filter::Exists(field)
            | Filter::Compare(field, ..)
            | Filter::In(field, _)
            | Filter::Like(field, _) => vec![field.name()],
        }
    }

    /// What is left when the conditions go that read a field; `None` when nothing is.
    pub(crate) fn without(&self, field: &str) -> Option<Filter> {
        let kept = self.conjuncts().iter().filter(|condition| !condition.fields().contains(&field));
        let mut kept: Vec<Filter> = kept.cloned().collect();
        match kept.len() {
            0 | 1 => kept.pop(),
            _ => Some(Filter::And(kept.into())),
        }
    }

    /// The conditions that all must hold.
    pub(crate) fn conjuncts(&self) -> &[Filter] {
        match self {
            Filter::And(all) => all,
            other => std::slice::from_ref(other),
        }
    }
}

impl Field {
    pub(crate) fn name(&self) -> &str {
        match self {
            Field::Property(key) => key.as_str(),
            field => FIELDS.iter().find(|(_, known)| known == field).map_or("", |(name, _)| name),
        }
    }

    /// Whether its values are names rather than texts, and print without quotes.
    pub(crate) fn is_name(&self) -> bool {
        matches!(self, Field::Kind | Field::Status)
    }

    /// Asks `test` about the value; an absent one passes no test.
    pub(crate) fn with_value(&self, resource: &Resource, test: impl FnOnce(&Value) -> bool) -> bool {
        let number = |revision: Revision| Value::Number(revision.0.into());
        match self {
            Field::Property(key) => resource.property(key.as_str()).is_some_and(test),
            Field::Node => resource.property("node").is_some_and(test),
            Field::Kind => test(&Value::text(resource.kind.to_string())),
            Field::Status => test(&Value::from(resource.status.phase.as_str())),
            Field::Created => test(&number(resource.created)),
            Field::Modified | Field::Revision => test(&number(resource.modified)),
        }
    }
}

impl Comparison {
    fn holds(self, ordering: Option<Ordering>) -> bool {
        match self {
            Comparison::Equal => ordering == Some(Ordering::Equal),
            Comparison::Unequal => ordering != Some(Ordering::Equal),
            Comparison::Less => ordering == Some(Ordering::Less),
            Comparison::LessOrEqual => ordering.is_some_and(Ordering::is_le),
            Comparison::Greater => ordering == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => ordering.is_some_and(Ordering::is_ge),
        }
    }

    /// What holds of comparable values when this does not.
    pub(crate) fn negated(self) -> Self {
        match self {
            Comparison::Equal => Comparison::Unequal,
            Comparison::Unequal => Comparison::Equal,
            Comparison::Less => Comparison::GreaterOrEqual,
            Comparison::LessOrEqual => Comparison::Greater,
            Comparison::Greater => Comparison::LessOrEqual,
            Comparison::GreaterOrEqual => Comparison::Less,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::Unequal => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }
}

/// Whether a text is like a pattern, in which `*` stands for any text. Takes the first place that fits for each
/// piece between stars, so that it never goes back further than to the last star.
fn like(text: &str, pattern: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return text == pattern };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_is_about_the_whole_text() {
        for (text, pattern, expected) in [
            ("abc", "ab*", true),
            ("ab", "ab*", true),
            ("xab", "ab*", false),
            ("abc", "abc", true),
            ("abcd", "abc", false),
            ("abc", "*c", true),
            ("abc", "a*c", true),
            ("ac", "a*c", true),
            ("a", "a*a", false),
            ("aba", "a*b*a", true),
            ("abxbya", "a*b*b*a", true),
            ("", "*", true),
            ("", "", true),
            ("x", "", false),
            ("grün", "gr*n", true),
        ] {
            assert_eq!(like(text, pattern), expected, "{text} like {pattern}");
        }
    }
}
