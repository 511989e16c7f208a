//! Assignments: which nodes act for a resource, and by which decision.

use std::sync::Arc;

use crate::{Epoch, Key, NodeName, PropertyChange, Resource, Value};

const NODE: &str = "node";
const EPOCH: &str = "epoch";
const NODES: &str = "nodes";

/// Which nodes act for a resource. It is written into the resource's properties, which users cannot set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The nodes, the first of them first; none when no node may act for it at the moment.
    pub nodes: Vec<NodeName>,
    /// The number of the decision: it grows with each.
    pub epoch: Epoch,
}

impl Assignment {
    /// The properties that hold an assignment: the name of the first node, the epoch as a number, and the names of all
    /// nodes as a JSON list when there are more than one.
    pub const KEYS: [&'static str; 3] = [NODE, EPOCH, NODES];

    /// Whether a property belongs to assignments.
    pub fn owns(key: &Key) -> bool {
        Self::KEYS.contains(&key.as_str())
    }

    /// The assignment of a resource; `None` when it was assigned to no node, or its properties are none of ours.
    pub fn of(resource: &Resource) -> Option<Self> {
        let first: NodeName = resource.property(NODE)?.as_text()?.parse().ok()?;
        let Value::Number(epoch) = resource.property(EPOCH)? else { return None };
        let nodes: Vec<NodeName> = match resource.property(NODES) {
            None => vec![first.clone()],
            Some(Value::Json(list)) => {
                list.as_array()?.iter().map(|name| name.as_str()?.parse().ok()).collect::<Option<_>>()?
            }
            Some(_) => return None,
        };
        (nodes.first() == Some(&first)).then_some(Self { nodes, epoch: Epoch(epoch.as_u64()?) })
    }

    /// What writes the assignment into the properties of a resource, whatever assignment it had.
    pub fn changes(&self) -> Vec<PropertyChange> {
        let names = || self.nodes.iter().map(|name| serde_json::Value::from(name.as_str())).collect();
        let first = self.nodes.first().map(|name| Value::text(name.as_str()));
        let all = (self.nodes.len() > 1).then(|| Value::Json(Arc::new(serde_json::Value::Array(names()))));
        let properties = [(NODE, first), (EPOCH, Some(Value::Number(self.epoch.0.into()))), (NODES, all)];
        properties
            .into_iter()
            // Our own keys are keys.
            .filter_map(|(key, value)| Some((key.parse::<Key>().ok()?, value)))
            .map(|(key, value)| match value {
                Some(value) => PropertyChange::Set { key, value, lock: false },
                None => PropertyChange::Unset(key),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Properties, Property, Revision, Status};

    fn resource(properties: Properties) -> Resource {
        Resource {
            point: "shop:cart".parse().unwrap(),
            kind: "Mechtron".parse::<Kind>().unwrap(),
            properties,
            status: Status::ready(),
            created: Revision(1),
            modified: Revision(1),
            version: 1,
        }
    }

    fn apply(properties: &mut Properties, changes: Vec<PropertyChange>) {
        for change in changes {
            match change {
                PropertyChange::Set { key, value, .. } => {
                    properties.insert(key, Property { value, locked: false });
                }
                PropertyChange::Unset(key) => drop(properties.remove(&key)),
            }
        }
    }

    fn assignment(nodes: &[&str], epoch: u64) -> Assignment {
        Assignment { nodes: nodes.iter().map(|name| name.parse().unwrap()).collect(), epoch: Epoch(epoch) }
    }

    #[test]
    fn an_assignment_is_read_as_it_was_written_whatever_was_there() {
        let mut properties = Properties::new();
        for (nodes, epoch) in [(&["edge-1"][..], 5), (&["cloud", "edge-1"], 9), (&["desktop"], 12), (&[], 13)]
        {
            let written = assignment(nodes, epoch);
            apply(&mut properties, written.changes());
            assert!(properties.keys().all(Assignment::owns));
            let read = Assignment::of(&resource(properties.clone()));
            assert_eq!(read, (!nodes.is_empty()).then_some(written));
        }
    }

    #[test]
    fn what_is_no_assignment_is_read_as_none() {
        let text = |text: &str| Some(Value::text(text));
        let number = || Some(Value::Number(7.into()));
        let json = |json| Some(Value::from(json));
        for (node, epoch, nodes) in [
            (None, number(), None),
            (text("edge"), None, None),
            (text("edge"), text("7"), None),
            (text("Edge 1"), number(), None),
            (text("edge"), number(), text("edge")),
            (text("edge"), number(), json(serde_json::json!(["cloud", "edge"]))),
            (text("edge"), number(), json(serde_json::json!([7]))),
        ] {
            let mut properties = Properties::new();
            for (key, value) in [(NODE, node), (EPOCH, epoch), (NODES, nodes)] {
                if let Some(value) = value {
                    properties.insert(key.parse().unwrap(), Property { value, locked: false });
                }
            }
            assert_eq!(Assignment::of(&resource(properties.clone())), None, "{properties:?}");
        }
    }
}
