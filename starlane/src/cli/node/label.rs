//! `starlane node label`.

use std::collections::BTreeMap;

use clap::Args;
use gateway::shapes::NodePatch;
use starlane_core::{Code, Key, NodeName, Problem};

use super::Done;
use crate::cli::Session;
use crate::cli::label::{line, parse};
use crate::output::Stop;

/// Changes the labels of a node, all or none. Mechtrons that may not live there any more move away.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane node label edge-1 tier=edge zone=a
  starlane node label edge-1 zone-")]
pub(super) struct LabelArgs {
    /// The name of the node
    name: NodeName,
    /// KEY=VALUE sets a label, KEY- takes it away
    #[arg(required = true, value_name = "LABEL", value_parser = parse_change)]
    changes: Vec<(Key, Option<String>)>,
}

fn parse_change(text: &str) -> Result<(Key, Option<String>), String> {
    if text.contains('=') {
        return parse(text).map(|(key, value)| (key, Some(value)));
    }
    let key = text.strip_suffix('-').and_then(|key| key.parse().ok());
    key.map(|key| (key, None)).ok_or_else(|| {
        format!("`{text}` changes no label: write `tier=edge` to set one, `tier-` to take it away")
    })
}

pub(super) async fn run(session: &Session, args: LabelArgs) -> Result<(), Stop> {
    let mut labels = BTreeMap::new();
    for (key, value) in args.changes {
        if labels.contains_key(&key) {
            let problem = Problem::new(Code::Usage, format!("the label `{key}` is changed twice"));
            return Err(problem.help("name each label once").into());
        }
        labels.insert(key, value);
    }
    let patch = NodePatch { labels, draining: None };
    let node = session.client()?.patch_node(&args.name, &patch).await?;
    let labels = if node.labels.is_empty() { "no labels".to_owned() } else { line(&node.labels) };
    session.out.show(&Done { said: format!("labelled {}: {labels}", node.name), node })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_at_the_end_takes_a_label_away() {
        let key = |text: &str| text.parse::<Key>().unwrap();
        for (text, change) in [
            ("tier=edge", (key("tier"), Some("edge".to_owned()))),
            ("tier=", (key("tier"), Some(String::new()))),
            ("tier=a-", (key("tier"), Some("a-".to_owned()))),
            ("tier-", (key("tier"), None)),
            ("tier-of-it-", (key("tier-of-it"), None)),
        ] {
            assert_eq!(parse_change(text), Ok(change), "{text}");
        }
        for wrong in ["tier", "-", "", "Tier-", "=a"] {
            assert!(parse_change(wrong).is_err(), "{wrong}");
        }
    }
}
