//! `starlane node`.

use clap::{Args, Subcommand};
use gateway::shapes::NodeList;
use starlane_core::{Code, Problem};

use super::Session;
use super::results::Nodes;
use crate::output::Stop;

/// Shows the nodes of the mesh.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane node list
  starlane node describe node-1 -o json")]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "ls")]
    List,
    /// Show one node
    Describe {
        /// Its name
        name: String,
    },
}

pub(super) async fn run(session: &Session, args: NodeArgs) -> Result<(), Stop> {
    let list = session.client()?.nodes().await?;
    match args.command {
        NodeCommand::List => session.out.show(&Nodes { list, one: false }),
        NodeCommand::Describe { name } => {
            let known: Vec<String> = list.nodes.iter().map(|node| node.name.clone()).collect();
            let nodes = list.nodes.into_iter().filter(|node| node.name == name).collect::<Vec<_>>();
            if nodes.is_empty() {
                return Err(Problem::new(Code::NotFound, format!("no node is called `{name}`"))
                    .help(format!("there are: {}", known.join(", ")))
                    .into());
            }
            session.out.show(&Nodes { list: NodeList { nodes }, one: true })
        }
    }
}
