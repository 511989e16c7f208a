//! What a watch can ask: the resources that a selector means, how many they are, or the first of them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Code, Key, Point, Problem, Resource, Selector, Value};

/// The most resources of a [`First`].
const FIRST_MAX: usize = 1_000;

/// What a watch can ask. Prints in its canonical form, which reads as the same question.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// The resources: `shop:orders:*<Order>[total >= 100]`.
    Select(Selector),
    /// How many there are: `count(shop:orders:*<Order>[total >= 100])`.
    Count(Selector),
    /// The first of them in an order: `first 10 by total desc of shop:orders:*<Order>`.
    First(First),
}

/// The first of what a selector means, in the order of a property.
#[derive(Debug, Clone, PartialEq)]
pub struct First {
    /// How many at most; at least one.
    pub limit: usize,
    /// The property; what does not have it, or has a document there, has no place in the order.
    pub by: Key,
    /// Whether the greatest value comes first.
    pub descending: bool,
    /// Of what.
    pub of: Selector,
}

/// A place in an order: numbers and what reads as one, then other texts, then truth values; equal values by their points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    value: Sorted,
    descending: bool,
    point: Point,
}

/// A value in the order of a [`Rank`].
#[derive(Debug, Clone)]
pub enum Sorted {
    /// A number, or what a text reads as.
    Number(f64),
    /// A text that reads as no number.
    Text(Arc<str>),
    /// `false` comes first.
    Bool(bool),
}

impl Query {
    /// What is meant at all.
    pub fn selector(&self) -> &Selector {
        match self {
            Query::Select(selector) | Query::Count(selector) => selector,
            Query::First(first) => &first.of,
        }
    }
}

impl First {
    /// Where a resource stands; `None` when it has no place.
    pub fn rank(&self, resource: &Resource) -> Option<Rank> {
        let value = Sorted::of(resource.property(self.by.as_str())?)?;
        Some(Rank { value, descending: self.descending, point: resource.point.clone() })
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let values = self.value.cmp(&other.value);
        let values = if self.descending { values.reverse() } else { values };
        values.then_with(|| self.point.cmp(&other.point))
    }
}

impl Sorted {
    /// Where a value stands; `None` for a document, which has no place.
    pub fn of(value: &Value) -> Option<Self> {
        match (value.as_number(), value) {
            (Some(number), _) => Some(Sorted::Number(number)),
            (None, Value::Text(text)) => Some(Sorted::Text(text.clone())),
            (None, Value::Bool(value)) => Some(Sorted::Bool(*value)),
            (None, _) => None,
        }
    }

    fn class(&self) -> u8 {
        match self {
            Sorted::Number(_) => 0,
            Sorted::Text(_) => 1,
            Sorted::Bool(_) => 2,
        }
    }
}

impl PartialEq for Sorted {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Sorted {}

impl PartialOrd for Sorted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sorted {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            // Zero has two signs.
            (Sorted::Number(a), Sorted::Number(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
            (Sorted::Text(a), Sorted::Text(b)) => a.cmp(b),
            (Sorted::Bool(a), Sorted::Bool(b)) => a.cmp(b),
            (a, b) => a.class().cmp(&b.class()),
        }
    }
}

impl FromStr for Query {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("count(") {
            let inner = rest.strip_suffix(')').ok_or_else(|| wrong("`count(` has no `)` at its end"))?;
            return inner.trim().parse().map(Query::Count);
        }
        match text.strip_prefix("first ") {
            Some(rest) => first(rest).map(Query::First),
            None => text.parse().map(Query::Select),
        }
    }
}

fn first(text: &str) -> Result<First, Problem> {
    let (limit, rest) = word(text);
    let limit = limit
        .parse()
        .ok()
        .filter(|limit| (1..=FIRST_MAX).contains(limit))
        .ok_or_else(|| wrong(&format!("`{limit}` is not a number from 1 to {FIRST_MAX}")))?;
    let (by, rest) = word(rest);
    let (key, rest) = word(rest);
    if by != "by" {
        return Err(wrong("`by` and the key of a property must follow the number"));
    }
    let by = key.parse().map_err(|_| wrong(&format!("`{key}` is not the key of a property")))?;
    let (descending, rest) = match word(rest) {
        ("desc", rest) => (true, rest),
        ("asc", rest) => (false, rest),
        _ => (false, rest),
    };
    match word(rest) {
        ("of", selector) => Ok(First { limit, by, descending, of: selector.parse()? }),
        (other, _) => Err(wrong(&format!("`of` and a selector must follow the key, not `{other}`"))),
    }
}

/// The first word, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn wrong(detail: &str) -> Problem {
    Problem::new(Code::Syntax, detail)
        .help("write `count(SELECTOR)`, or `first 10 by KEY of SELECTOR` with `desc` behind the key for the greatest first")
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Query::Select(selector) => selector.fmt(f),
            Query::Count(selector) => write!(f, "count({selector})"),
            Query::First(First { limit, by, descending, of }) => {
                let descending = if *descending { " desc" } else { "" };
                write!(f, "first {limit} by {by}{descending} of {of}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_reads_as_it_prints() {
        for text in [
            "shop:**<Mechtron>[status != Ready]",
            "count(shop:orders:*<Order>[total >= 100 and not exists(paid)])",
            "first 10 by total of shop:orders:*<Order>",
            "first 1 by at desc of **[name = \"a) of b\"]",
        ] {
            let query: Query = text.parse().unwrap();
            assert_eq!(query.to_string(), text);
            assert_eq!(text.parse::<Query>().unwrap(), query);
        }
        let query: Query = "  first  3  by total asc of  shop:* ".parse().unwrap();
        assert_eq!(query.to_string(), "first 3 by total of shop:*");
        assert_eq!(query.selector().to_string(), "shop:*");
    }

    #[test]
    fn what_is_wrong_with_a_query_is_said() {
        for (text, part) in [
            ("count(shop:*", "no `)`"),
            ("count()", "empty"),
            ("first 0 by a of *", "`0` is not a number"),
            ("first many by a of *", "`many`"),
            ("first 1001 by a of *", "1 to 1000"),
            ("first 1 of *", "`by`"),
            ("first 1 by A of *", "`A` is not the key"),
            ("first 1 by a *", "`of`"),
            ("first 1 by a of", "empty"),
            ("first 1 by a of (", ""),
        ] {
            let problem = text.parse::<Query>().unwrap_err();
            assert_eq!(problem.code, Code::Syntax, "{text}: {problem:?}");
            assert!(problem.detail.contains(part), "{text}: {}", problem.detail);
        }
    }
}
