//! `starlane why`.

use clap::Args;
use gateway::shapes::{Why, WhyState};
use serde_json::{Value, json};

use super::Session;
use super::statement::parse_point;
use crate::output::{Render, Stop, Table, safe};

/// Says where a point lives and why, or why it is not placed, not running or not answering: each node that was
/// refused, and the reason.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane why shop:cart
  starlane why shop:cart -o json

Exit code 0 when it may answer: it is on a node, or each node answers for it (files, binds).
3 when nothing is there, else 1.")]
pub(super) struct WhyArgs {
    /// The point
    point: String,
}

pub(super) async fn run(session: &Session, args: WhyArgs) -> Result<(), Stop> {
    let point = parse_point(&args.point)?;
    let why = session.client()?.why(&point).await?;
    let state = why.state;
    session.out.show(&Reasons(why))?;
    match state {
        WhyState::Running | WhyState::Sleeping | WhyState::Placed | WhyState::Everywhere => Ok(()),
        WhyState::Waiting | WhyState::Failed | WhyState::NoCode => Err(Stop::Exit(1)),
        WhyState::Missing => Err(Stop::Exit(3)),
    }
}

/// Where a point lives, and why.
struct Reasons(Why);

impl Reasons {
    /// `shop:cart is running on edge-1 (epoch 42): it is in memory`.
    fn head(&self) -> String {
        let Why { point, state, node, epoch, reason, .. } = &self.0;
        let node = node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        let epoch = epoch.map(|epoch| format!(" (epoch {})", epoch.0)).unwrap_or_default();
        let state = match state {
            WhyState::Running => format!("is running{node}{epoch}"),
            WhyState::Sleeping => format!("sleeps{node}{epoch}"),
            WhyState::Placed => format!("is placed{node}{epoch}"),
            WhyState::Waiting => "waits for a node".to_owned(),
            WhyState::Failed => format!("has failed{node}{epoch}"),
            WhyState::NoCode => "has no code".to_owned(),
            WhyState::Everywhere => "answers on every node".to_owned(),
            WhyState::Missing => "is not there".to_owned(),
        };
        let colon = if reason.is_empty() { "" } else { ": " };
        safe(&format!("{point} {state}{colon}{reason}"))
    }
}

impl Render for Reasons {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn names(&self) -> Vec<String> {
        self.0.node.iter().map(ToString::to_string).collect()
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["NODE", "CHOSEN", "REASON"]);
        for candidate in &self.0.candidates {
            let chosen = if candidate.chosen { "yes" } else { "no" };
            table.row([candidate.node.to_string(), chosen.to_owned(), candidate.reason.clone()]);
        }
        table
    }

    fn text(&self) -> Vec<String> {
        let Why { place, candidates, help, .. } = &self.0;
        let mut lines = vec![self.head()];
        lines.extend(place.iter().map(|place| safe(&format!("  it may live on nodes with {place}"))));
        let width =
            candidates.iter().map(|candidate| candidate.node.as_str().len()).max().unwrap_or_default();
        lines.extend(candidates.iter().map(|candidate| {
            let chosen = if candidate.chosen { "yes" } else { "no " };
            safe(&format!("  {:<width$}  {chosen}  {}", candidate.node, candidate.reason))
        }));
        lines.extend(help.iter().map(|help| safe(&format!("  help: {help}"))));
        lines
    }
}

#[cfg(test)]
mod tests {
    use gateway::shapes::Candidate;
    use starlane_core::Epoch;

    use super::*;

    fn why(state: WhyState, node: Option<&str>, reason: &str) -> Why {
        Why {
            point: "shop:cart".parse().unwrap(),
            state,
            node: node.map(|node| node.parse().unwrap()),
            epoch: node.map(|_| Epoch(42)),
            reason: reason.into(),
            place: None,
            candidates: Vec::new(),
            help: None,
        }
    }

    #[test]
    fn every_state_is_a_sentence() {
        for (state, node, text) in [
            (WhyState::Running, Some("edge-1"), "shop:cart is running on edge-1 (epoch 42): so"),
            (WhyState::Sleeping, Some("edge-1"), "shop:cart sleeps on edge-1 (epoch 42): so"),
            (WhyState::Placed, Some("edge-1"), "shop:cart is placed on edge-1 (epoch 42): so"),
            (WhyState::Waiting, None, "shop:cart waits for a node: so"),
            (WhyState::Failed, Some("edge-1"), "shop:cart has failed on edge-1 (epoch 42): so"),
            (WhyState::NoCode, None, "shop:cart has no code: so"),
            (WhyState::Everywhere, None, "shop:cart answers on every node: so"),
            (WhyState::Missing, None, "shop:cart is not there: so"),
        ] {
            assert_eq!(Reasons(why(state, node, "so")).text(), [text]);
        }
    }

    #[test]
    fn each_node_has_its_reason() {
        let candidate = |node: &str, chosen, reason: &str| Candidate {
            node: node.parse().unwrap(),
            chosen,
            reason: reason.into(),
        };
        let reasons = Reasons(Why {
            place: Some("[tier = \"edge\"]".into()),
            candidates: vec![
                candidate("edge-1", false, "it is draining"),
                candidate("cloud", false, "`tier` is \"cloud\"\u{1b}[2J"),
            ],
            help: Some("label a node".into()),
            ..why(WhyState::Waiting, None, "no node may have it")
        });
        assert_eq!(
            reasons.text(),
            [
                "shop:cart waits for a node: no node may have it",
                "  it may live on nodes with [tier = \"edge\"]",
                "  edge-1  no   it is draining",
                "  cloud   no   `tier` is \"cloud\"␛[2J",
                "  help: label a node",
            ]
        );
    }
}
