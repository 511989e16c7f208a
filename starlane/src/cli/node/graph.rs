//! `starlane node graph`: the links between nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway::shapes::{Graph, GraphLink, GraphNode};
use serde_json::{Value, json};
use starlane_core::NodeName;

use crate::output::{Render, Table, human};

/// How the nodes are linked.
pub(super) struct Drawing(pub(super) Graph);

impl Drawing {
    /// The links, nearest to the node that answers first, and each from its nearer end.
    fn links(&self) -> Vec<(&NodeName, &NodeName, &GraphLink)> {
        let hops: BTreeMap<&NodeName, u32> =
            self.0.nodes.iter().filter_map(|node| Some((&node.name, node.hops?))).collect();
        let far = |name: &NodeName| (hops.get(name).copied().unwrap_or(u32::MAX), name.clone());
        let mut links: Vec<_> = self
            .0
            .links
            .iter()
            .map(|link| {
                if far(&link.a) <= far(&link.b) { (&link.a, &link.b, link) } else { (&link.b, &link.a, link) }
            })
            .collect();
        links.sort_by_key(|(near, other, _)| (far(near), far(other)));
        links
    }

    fn lost(&self) -> impl Iterator<Item = &GraphNode> {
        self.0.nodes.iter().filter(|node| node.hops.is_none())
    }
}

impl Render for Drawing {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn json_lines(&self) -> Vec<Value> {
        self.0.links.iter().map(|link| json!(link)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.nodes.iter().map(|node| node.name.to_string()).collect()
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["NODE", "LINKED TO", "TIME"]);
        for (near, other, link) in self.links() {
            table.row([
                near.to_string(),
                other.to_string(),
                link.rtt_us.map(human::millis).unwrap_or_default(),
            ]);
        }
        for node in self.lost() {
            table.row([node.name.to_string(), String::new(), String::new()]);
        }
        table
    }

    fn text(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .links()
            .into_iter()
            .map(|(near, other, link)| {
                let time = link.rtt_us.map(human::millis).unwrap_or_default();
                format!("{near} ── {other} {time}").trim_end().to_owned()
            })
            .collect();
        if lines.is_empty() {
            lines.push(format!("{} has no links", self.0.from));
        }
        lines.extend(self.lost().map(|node| {
            let seen = node.seen_ms.map_or_else(
                || "never heard of since this node started".to_owned(),
                |ms| format!("last heard of {} ago", human::duration(Duration::from_millis(ms))),
            );
            format!("{} cannot be reached, {seen}", node.name)
        }));
        lines
    }
}

#[cfg(test)]
mod tests {
    use starlane_core::Role;

    use super::*;

    fn graph(nodes: &[(&str, Option<u32>)], links: &[(&str, &str, Option<u64>)]) -> Drawing {
        let name = |text: &str| text.parse::<NodeName>().unwrap();
        let node = |(text, hops): &(&str, Option<u32>)| GraphNode {
            name: name(text),
            role: Role::Relay,
            hops: *hops,
            seen_ms: hops.is_none().then_some(200_000),
        };
        let link = |(a, b, rtt_us): &(&str, &str, Option<u64>)| GraphLink {
            a: name(a),
            b: name(b),
            rtt_us: *rtt_us,
        };
        Drawing(Graph {
            from: name("cloud"),
            nodes: nodes.iter().map(node).collect(),
            links: links.iter().map(link).collect(),
        })
    }

    #[test]
    fn links_are_drawn_outwards_and_the_lost_are_named() {
        let drawing = graph(
            &[
                ("cloud", Some(0)),
                ("edge-1", Some(1)),
                ("desktop", Some(2)),
                ("relay", Some(1)),
                ("gone", None),
            ],
            &[
                ("desktop", "relay", None),
                ("relay", "edge-1", Some(12_300)),
                ("relay", "cloud", Some(90)),
                ("edge-1", "cloud", Some(412)),
            ],
        );
        assert_eq!(
            drawing.text(),
            [
                "cloud ── edge-1 0.4 ms",
                "cloud ── relay 0.09 ms",
                "edge-1 ── relay 12 ms",
                "relay ── desktop",
                "gone cannot be reached, last heard of 3m 20s ago",
            ]
        );
    }

    #[test]
    fn a_node_alone_says_so() {
        assert_eq!(graph(&[("cloud", Some(0))], &[]).text(), ["cloud has no links"]);
    }
}
