//! Interests: at which nodes somebody waits for what is sent or published to a point.

use std::sync::Arc;

use crate::{Key, NodeName, PropertyChange, Resource, Value};

/// What somebody who is connected to a node wants of a point. The nodes are written into the point's resource, as properties
/// that users cannot set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interest {
    /// To answer the messages that are sent to it.
    Serves,
    /// To hear what is published to it.
    Subscribes,
}

impl Interest {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Serves, Self::Subscribes];

    /// The name of the property that holds the nodes: a JSON list of names.
    pub fn key(self) -> &'static str {
        match self {
            Self::Serves => "served",
            Self::Subscribes => "subscribed",
        }
    }

    /// Whether a property belongs to interests.
    pub fn owns(key: &Key) -> bool {
        Self::ALL.iter().any(|interest| interest.key() == key.as_str())
    }

    /// The nodes where somebody has it, in the order of their names.
    pub fn nodes(self, resource: &Resource) -> Vec<NodeName> {
        let Some(Value::Json(list)) = resource.property(self.key()) else { return Vec::new() };
        let names = list.as_array().into_iter().flatten();
        names.filter_map(|name| name.as_str()?.parse().ok()).collect()
    }

    /// What writes that somebody at a node has it or that nobody does any more; `None` when the resource says so.
    pub fn change(self, resource: &Resource, node: &NodeName, has: bool) -> Option<PropertyChange> {
        let mut nodes = self.nodes(resource);
        match (nodes.binary_search(node), has) {
            (Err(at), true) => nodes.insert(at, node.clone()),
            (Ok(at), false) => drop(nodes.remove(at)),
            _ => return None,
        }
        // Our own key is a key.
        let key = self.key().parse::<Key>().ok()?;
        if nodes.is_empty() {
            return Some(PropertyChange::Unset(key));
        }
        let names = nodes.iter().map(|name| serde_json::Value::from(name.as_str())).collect();
        Some(PropertyChange::Set { key, value: Value::Json(Arc::new(names)), lock: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Properties, Property, Revision, Status};

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    #[test]
    fn nodes_are_written_into_the_resource_and_taken_out_again() {
        let mut resource = Resource {
            point: "shop:orders".parse().unwrap(),
            kind: "Portal".parse().unwrap(),
            properties: Properties::new(),
            status: Status::ready(),
            created: Revision(1),
            modified: Revision(1),
            version: 1,
        };
        let mut write = |node: &str, has: bool| {
            let change = Interest::Serves.change(&resource, &name(node), has);
            match &change {
                Some(PropertyChange::Set { key, value, .. }) => {
                    let property = Property { value: value.clone(), locked: false };
                    resource.properties.insert(key.clone(), property);
                }
                Some(PropertyChange::Unset(key)) => drop(resource.properties.remove(key)),
                None => {}
            }
            assert!(resource.properties.keys().all(Interest::owns));
            assert!(Interest::Subscribes.nodes(&resource).is_empty());
            (change.is_some(), Interest::Serves.nodes(&resource))
        };
        assert_eq!(write("edge", true), (true, vec![name("edge")]));
        assert_eq!(write("cloud", true), (true, vec![name("cloud"), name("edge")]));
        assert_eq!(write("edge", true), (false, vec![name("cloud"), name("edge")]));
        assert_eq!(write("cloud", false), (true, vec![name("edge")]));
        assert_eq!(write("cloud", false), (false, vec![name("edge")]));
        assert_eq!(write("edge", false), (true, vec![]));
    }
}
