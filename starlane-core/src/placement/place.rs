//! What a mechtron says of where it may live, and what its resource says of where it does.

use std::fmt;
use std::sync::Arc;

use crate::cursor::shorten;
use crate::selector::{Filter, parse_filter};
use crate::{Assignment, Base, Code, Epoch, Kind, NodeName, Problem, PropertyChange, Resource, Span, Value};

/// The property that says on which nodes a mechtron may live.
const PLACE: &str = "place";
/// The property that says on how many.
const REPLICAS: &str = "replicas";
/// Under which epoch nodes act for it.
const EPOCH: &str = "epoch";

/// On which nodes a mechtron may live: a filter over their resources, `[tier = "edge"]`. Prints in its canonical
/// form, with the brackets. Cloning is cheap.
#[derive(Clone, PartialEq)]
pub struct Place(Arc<Filter>);

impl Place {
    /// Reads the filter.
    ///
    /// # Errors
    /// `E-PROPERTY-VALUE` with the place in the text; `E-PROPERTY-KEY` when one of its properties cannot be one.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let help = "a place is a filter over nodes, as `[tier = \"edge\"]`";
        if !text.trim_start().starts_with('[') {
            let detail = format!("`{}` is not a place", shorten(text));
            let whole = Span { start: 0, end: text.len() };
            return Err(Problem::new(Code::PropertyValue, detail)
                .in_text(text, whole, "not a filter")
                .help(help));
        }
        match parse_filter(text, Code::PropertyValue) {
            Ok(filter) => Ok(Self(Arc::new(filter))),
            Err(problem) if problem.help.is_none() => Err(problem.help(help)),
            Err(problem) => Err(problem),
        }
    }

    /// Reads the value of the property `place`.
    ///
    /// # Errors
    /// As [`Place::parse`].
    pub fn of_value(value: &Value) -> Result<Self, Problem> {
        match value {
            Value::Text(text) => Self::parse(text),
            other => Self::parse(&other.to_string()),
        }
    }

    /// Whether a node is one of those, by its resource.
    pub fn matches(&self, node: &Resource) -> bool {
        self.0.matches(node)
    }

    /// Why a node is none of those; `None` when it is one.
    pub fn mismatch(&self, node: &Resource) -> Option<Mismatch> {
        let failing = self.0.failing(node)?;
        let found = match failing {
            Filter::Compare(field, ..) | Filter::In(field, _) | Filter::Like(field, _) => {
                let mut found = None;
                field.with_value(node, |value| {
                    found = Some(value.clone());
                    true
                });
                Some((field.name().to_owned(), found))
            }
            Filter::And(_) | Filter::Or(_) | Filter::Not(_) | Filter::Exists(_) => None,
        };
        Some(Mismatch { condition: failing.to_string(), found })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which condition of a place a node does not meet.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// The condition, as it prints: `tier = "edge"`.
    pub condition: String,
    /// What it compares and what the node has there, when it is one comparison.
    pub found: Option<(String, Option<Value>)>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not so", self.condition)?;
        match &self.found {
            Some((name, Some(value))) => write!(f, ": its `{name}` is `{}`", shorten(&value.to_string())),
            Some((name, None)) => write!(f, ": it has no `{name}`"),
            None => Ok(()),
        }
    }
}

/// On how many nodes a mechtron lives at once: 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replicas(u8);

impl Replicas {
    /// One node.
    pub const ONE: Self = Self(1);
    /// The most nodes.
    pub const MAX: Self = Self(64);

    /// Reads the value of the property `replicas`.
    ///
    /// # Errors
    /// `E-PROPERTY-VALUE`
    pub fn of_value(value: &Value) -> Result<Self, Problem> {
        let count = match value {
            Value::Number(number) => number.as_u64(),
            Value::Text(text) => text.parse().ok(),
            Value::Bool(_) | Value::Json(_) => None,
        };
        match count.and_then(|count| u8::try_from(count).ok()) {
            Some(count @ 1..=64) => Ok(Self(count)),
            _ => {
                let text = value.to_string();
                let whole = Span { start: 0, end: text.len() };
                let detail = format!("`{}` is not a number of replicas", shorten(&text));
                Err(Problem::new(Code::PropertyValue, detail)
                    .in_text(text, whole, "not one of 1 to 64")
                    .help("write it like `+replicas=3`; a mechtron lives on 1 to 64 nodes at once"))
            }
        }
    }

    /// How many.
    pub fn count(self) -> usize {
        self.0.into()
    }
}

/// Refuses changes to a resource by which nothing could be placed, and those to what the mesh alone writes. What is
/// not a mechtron may call its properties as it likes.
///
/// # Errors
/// `E-PROPERTY-VALUE` with the place in the value, `E-PROPERTY-LOCKED` for what the mesh alone writes.
pub fn check(kind: &Kind, changes: &[PropertyChange]) -> Result<(), Problem> {
    let gets_code = |change: &PropertyChange| matches!(change, PropertyChange::Set { key, .. } if key.as_str() == "wasm.src");
    if !matches!(kind.base, Base::App | Base::Mechtron) && !changes.iter().any(gets_code) {
        return Ok(());
    }
    for change in changes {
        match (change.key().as_str(), change) {
            (PLACE, PropertyChange::Set { value, .. }) => Place::of_value(value).map(drop)?,
            (REPLICAS, PropertyChange::Set { value, .. }) => Replicas::of_value(value).map(drop)?,
            (key, change) if Assignment::owns(change.key()) => {
                let detail = format!("`{key}` says where a mechtron lives, and the mesh alone writes it");
                return Err(Problem::new(Code::PropertyLocked, detail)
                    .help("leave it out: `place`, a filter over nodes, says where a mechtron may live"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where a mechtron lives, as its resource says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lives {
    /// On the registry's node, where everything lives that says nothing else.
    AtHome,
    /// On these nodes, at least one; every one of them under the same epoch.
    On(Vec<NodeName>),
    /// Nowhere yet: it says where it may live, and waits to be assigned.
    Nowhere,
}

impl Lives {
    /// Where the mechtron of a resource lives.
    pub fn of(resource: &Resource) -> Self {
        if let Some(assignment) = Assignment::of(resource) {
            return Lives::On(assignment.nodes);
        }
        let asks = resource.property(PLACE).is_some() || resource.property(REPLICAS).is_some();
        if asks { Lives::Nowhere } else { Lives::AtHome }
    }
}

/// The epoch under which nodes act for a mechtron: that of its assignment, or the revision that made it when it was
/// never assigned.
pub fn epoch_of(resource: &Resource) -> Epoch {
    match resource.property(EPOCH) {
        Some(Value::Number(number)) => Epoch(number.as_u64().unwrap_or(resource.created.0)),
        _ => Epoch(resource.created.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Phase, Properties, Property, Revision, Status};

    fn resource(kind: &str, properties: &[(&str, Value)]) -> Resource {
        let property = |(key, value): &(&str, Value)| {
            (key.parse().unwrap(), Property { value: value.clone(), locked: false })
        };
        Resource {
            point: "mesh:nodes:edge-1".parse().unwrap(),
            kind: kind.parse().unwrap(),
            properties: properties.iter().map(property).collect::<Properties>(),
            status: Status::ready(),
            created: Revision(7),
            modified: Revision(9),
            version: 2,
        }
    }

    #[test]
    fn a_place_is_a_filter_over_labels_and_status() {
        let edge = resource("Node", &[("tier", "edge".into()), ("cores", "4".into())]);
        for (text, printed, mismatch) in [
            ("[tier=\"edge\"]", "[tier = \"edge\"]", None),
            (" [cores >= 4 and status = Ready] ", "[cores >= 4 and status = Ready]", None),
            ("[tier = edge and cores > 4]", "", Some("`cores > 4` is not so: its `cores` is `4`")),
            ("[gpu = true]", "", Some("`gpu = true` is not so: it has no `gpu`")),
            ("[tier in (a, b)]", "", Some("`tier in (\"a\", \"b\")` is not so: its `tier` is `edge`")),
            ("[not exists(tier)]", "", Some("`not exists(tier)` is not so")),
        ] {
            let place = Place::parse(text).unwrap();
            assert_eq!(place.matches(&edge), mismatch.is_none(), "{text}");
            assert_eq!(place.mismatch(&edge).map(|found| found.to_string()).as_deref(), mismatch);
            if mismatch.is_none() {
                assert_eq!(place.to_string(), printed);
            }
            assert_eq!(Place::parse(&place.to_string()).unwrap(), place);
        }
        let paused = Resource { status: Status::because(Phase::Paused, "x"), ..edge };
        assert!(!Place::parse("[status = Ready]").unwrap().matches(&paused));
    }

    #[test]
    fn what_is_no_place_is_refused_where_it_is_wrong() {
        for (text, place, code) in [
            ("edge", "edge", Code::PropertyValue),
            ("", "", Code::PropertyValue),
            ("[tier == 1]", "==", Code::PropertyValue),
            ("[tier = 1", "[", Code::PropertyValue),
            ("[tier = 1] or", "or", Code::PropertyValue),
            ("[Tier = 1]", "Tier", Code::PropertyKey),
        ] {
            let problem = Place::parse(text).unwrap_err();
            let marked = problem.place.as_deref().unwrap();
            assert_eq!(&marked.source[marked.span.start..marked.span.end], place, "{text}");
            assert_eq!(problem.code, code, "{text}");
            assert!(problem.help.is_some(), "{text}");
        }
        assert!(Place::of_value(&Value::from(serde_json::json!([1, 2]))).is_err());
    }

    #[test]
    fn replicas_are_one_to_sixty_four() {
        for (value, count) in
            [("1", Some(1)), ("64", Some(64)), ("0", None), ("65", None), ("-1", None), ("x", None)]
        {
            assert_eq!(Replicas::of_value(&value.into()).ok().map(Replicas::count), count, "{value}");
        }
        assert_eq!(Replicas::of_value(&Value::Number(3.into())).unwrap().count(), 3);
        assert!(Replicas::of_value(&Value::Bool(true)).is_err());
    }

    #[test]
    fn only_a_mechtron_is_held_to_the_rules() {
        let change = |key: &str, value: &str| PropertyChange::Set {
            key: key.parse().unwrap(),
            value: value.into(),
            lock: false,
        };
        let kind = |text: &str| text.parse::<Kind>().unwrap();
        for (key, value, code) in [
            ("place", "here", Some(Code::PropertyValue)),
            ("replicas", "100", Some(Code::PropertyValue)),
            ("node", "edge-1", Some(Code::PropertyLocked)),
            ("epoch", "1", Some(Code::PropertyLocked)),
            ("place", "[a = 1]", None),
            ("replicas", "2", None),
        ] {
            let found = check(&kind("Mechtron"), &[change(key, value)]).err().map(|problem| problem.code);
            assert_eq!(found, code, "{key}");
            assert!(check(&kind("Order"), &[change(key, value)]).is_ok(), "{key}");
            let with_code = [change("wasm.src", "a:b:1.0.0:/x.wasm"), change(key, value)];
            assert_eq!(check(&kind("Order"), &with_code).is_ok(), code.is_none(), "{key}");
        }
        let unset = PropertyChange::Unset("nodes".parse().unwrap());
        assert!(check(&kind("App"), &[unset]).is_err());
    }

    #[test]
    fn an_assignment_reads_as_it_was_written() {
        let names =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<NodeName>>();
        let plain = resource("Mechtron", &[]);
        assert_eq!((Lives::of(&plain), epoch_of(&plain)), (Lives::AtHome, Epoch(7)));
        let asks = resource("Mechtron", &[("replicas", "2".into())]);
        assert_eq!(Lives::of(&asks), Lives::Nowhere);
        for nodes in [names(&["a"]), names(&["b", "a"])] {
            let written: Vec<_> = Assignment { nodes: nodes.clone(), epoch: Epoch(12) }
                .changes()
                .into_iter()
                .filter_map(|change| match change {
                    PropertyChange::Set { key, value, .. } => Some((key.to_string(), value)),
                    PropertyChange::Unset(_) => None,
                })
                .collect();
            let written: Vec<_> = written.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            let placed = resource("Mechtron", &written);
            assert_eq!((Lives::of(&placed), epoch_of(&placed)), (Lives::On(nodes), Epoch(12)));
        }
    }
}
