//! `starlane node`: the nodes of the mesh.

mod drain;
mod graph;
mod label;
mod revoke;

use clap::{Args, Subcommand};
use gateway::shapes::{NodeInfo, NodeList};
use serde_json::{Value, json};
use starlane_core::{NodeName, Phase};

use super::Session;
use super::label::line;
use crate::output::{Render, Stop, Table, human, safe};

/// Shows the nodes of the mesh, and looks after them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane node list
  starlane node describe edge-1 -o json
  starlane node graph
  starlane node label edge-1 tier=edge zone-
  starlane node drain edge-1
See also: starlane token --help, to let a node join")]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// List the nodes, those that cannot be reached too
    #[command(visible_alias = "ls")]
    List,
    /// Show one node
    Describe {
        /// Its name
        name: NodeName,
    },
    /// Show how the nodes are linked, with the time there and back
    Graph,
    /// Change the labels of a node
    Label(label::LabelArgs),
    /// Move all mechtrons away from a node and place none there any more
    Drain(drain::DrainArgs),
    /// Let mechtrons be placed on a node again
    Undrain {
        /// Its name
        name: NodeName,
    },
    /// Shut a node out of the mesh for good
    Revoke(revoke::RevokeArgs),
}

pub(super) async fn run(session: &Session, args: NodeArgs) -> Result<(), Stop> {
    match args.command {
        NodeCommand::List => session.out.show(&Nodes(session.client()?.nodes().await?)),
        NodeCommand::Describe { name } => session.out.show(&Node(session.client()?.node(&name).await?)),
        NodeCommand::Graph => session.out.show(&graph::Drawing(session.client()?.graph().await?)),
        NodeCommand::Label(args) => label::run(session, args).await,
        NodeCommand::Drain(args) => drain::run(session, args).await,
        NodeCommand::Undrain { name } => drain::undo(session, &name).await,
        NodeCommand::Revoke(args) => revoke::run(session, args).await,
    }
}

/// All nodes.
struct Nodes(NodeList);

/// One node.
struct Node(NodeInfo);

/// A node to which something was done.
struct Done {
    /// What is said for people.
    said: String,
    node: NodeInfo,
}

impl Render for Nodes {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn json_lines(&self) -> Vec<Value> {
        self.0.nodes.iter().map(|node| json!(node)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.nodes.iter().map(|node| node.name.to_string()).collect()
    }

    fn table(&self, wide: bool) -> Table {
        table(&self.0.nodes, wide)
    }

    fn text(&self) -> Vec<String> {
        self.table(false).lines()
    }
}

impl Render for Node {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.name.to_string()]
    }

    fn table(&self, wide: bool) -> Table {
        table([&self.0], wide)
    }

    fn text(&self) -> Vec<String> {
        let node = &self.0;
        let mut lines = vec![node.name.to_string()];
        let mut field = |name: &str, value: String| {
            if !value.is_empty() {
                lines.push(format!("  {name:<10}  {}", safe(&value)));
            }
        };
        let reason = &node.status.reason;
        let colon = if reason.is_empty() { "" } else { ": " };
        field("status", format!("{}{colon}{reason}", state(node)));
        field("role", role(node));
        field("version", node.version.clone());
        field("generation", node.generation.to_string());
        field("mechtrons", format!("{} assigned, {} in memory", node.mechtrons, node.live));
        field("hops", node.hops.map_or_else(|| "it cannot be reached".to_owned(), |hops| hops.to_string()));
        field("seen", seen(node.seen_ms));
        field("addresses", node.addresses.join(", "));
        field("labels", line(&node.labels));
        lines
    }
}

impl Render for Done {
    fn json(&self) -> Value {
        json!(self.node)
    }

    fn names(&self) -> Vec<String> {
        vec![self.node.name.to_string()]
    }

    fn table(&self, wide: bool) -> Table {
        table([&self.node], wide)
    }

    fn text(&self) -> Vec<String> {
        vec![safe(&self.said)]
    }
}

fn table<'a>(nodes: impl IntoIterator<Item = &'a NodeInfo>, wide: bool) -> Table {
    let header: &[&str] = if wide {
        &[
            "NAME",
            "STATUS",
            "ROLE",
            "VERSION",
            "MECHTRONS",
            "LIVE",
            "HOPS",
            "LABELS",
            "GENERATION",
            "ADDRESS",
            "SEEN",
            "REASON",
        ]
    } else {
        &["NAME", "STATUS", "ROLE", "VERSION", "MECHTRONS", "LIVE", "HOPS", "LABELS"]
    };
    let mut table = Table::new(header);
    for node in nodes {
        let mut row = vec![
            node.name.to_string(),
            state(node),
            role(node),
            node.version.clone(),
            node.mechtrons.to_string(),
            node.live.to_string(),
            node.hops.map(|hops| hops.to_string()).unwrap_or_default(),
            line(&node.labels),
        ];
        if wide {
            row.extend([
                node.generation.to_string(),
                node.addresses.first().cloned().unwrap_or_default(),
                seen(node.seen_ms),
                node.status.reason.clone(),
            ]);
        }
        table.row(row);
    }
    table
}

/// `Ready`, `Draining`, or another phase.
fn state(node: &NodeInfo) -> String {
    if node.draining && node.status.phase == Phase::Ready {
        "Draining".to_owned()
    } else {
        node.status.phase.to_string()
    }
}

/// `relay`, `leaf`, and whether it keeps the registry.
fn role(node: &NodeInfo) -> String {
    let registry = if node.registry { ",registry" } else { "" };
    format!("{}{registry}", node.role)
}

/// How long ago a node was last heard of; empty when it never was.
fn seen(ms: Option<u64>) -> String {
    let ago = |ms| format!("{} ago", human::duration(std::time::Duration::from_millis(ms)));
    ms.map_or_else(String::new, |ms| if ms == 0 { "now".to_owned() } else { ago(ms) })
}
