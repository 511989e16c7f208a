//! Watches: what a selector means, and its changes.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use starlane_core::{Change, Event as Step, Resource, Revision};
use tokio::sync::mpsc;

use crate::link::Command;

/// How many steps come before they are taken.
pub(crate) const STEPS_MAX: u32 = 256;

/// The answer of a selector and its changes. Goes on over connections that break; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    pub(crate) id: u64,
    pub(crate) steps: mpsc::Receiver<(Step, String)>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) taken: u32,
    pub(crate) token: String,
    /// Why it ended, if the node refused it.
    pub(crate) failed: Arc<Mutex<Option<crate::Error>>>,
}

impl Watch {
    /// The next step; `None` when it ended: see [`Watch::failure`].
    pub async fn next(&mut self) -> Option<Step> {
        let (step, token) = self.steps.recv().await?;
        self.token = token;
        self.taken += 1;
        if self.taken >= STEPS_MAX / 2 {
            // When the client is closed, nothing more comes.
            _ = self.commands.send(Command::Grant { id: self.id, more: self.taken }).await;
            self.taken = 0;
        }
        Some(step)
    }

    /// What resumes after the last step, also in another process: for [`crate::Client::watch_since`].
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Why it ended, when the node refused to go on.
    pub fn failure(&self) -> Option<crate::Error> {
        self.failed.lock().clone()
    }
}

/// A step as the node tells it.
#[derive(Deserialize)]
pub(crate) struct Told {
    #[serde(flatten)]
    step: ToldStep,
    /// What resumes after it; empty after `gone`.
    pub(crate) token: String,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum ToldStep {
    Listed { resources: Vec<Arc<Resource>>, revision: Revision, last: bool },
    Changed { revision: Revision, changes: Vec<ToldChange> },
    Counted { revision: Revision, count: u64 },
    Ranked { revision: Revision, resources: Vec<Arc<Resource>> },
    Bookmark { revision: Revision },
    Gone { oldest: Revision },
}

#[derive(Deserialize)]
struct ToldChange {
    change: ToldKind,
    resource: Arc<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ToldKind {
    Entered,
    Updated,
    Left,
}

impl Told {
    pub(crate) fn into_step(self) -> Step {
        match self.step {
            ToldStep::Listed { resources, revision, last } => Step::Listed { resources, revision, last },
            ToldStep::Counted { revision, count } => Step::Counted { revision, count },
            ToldStep::Ranked { revision, resources } => Step::Ranked { revision, resources },
            ToldStep::Bookmark { revision } => Step::Bookmark { revision },
            ToldStep::Gone { oldest } => Step::Gone { oldest },
            ToldStep::Changed { revision, changes } => {
                let change = |told: ToldChange| match told.change {
                    ToldKind::Entered => Change::Entered(told.resource),
                    ToldKind::Updated => Change::Updated(told.resource),
                    ToldKind::Left => Change::Left(told.resource),
                };
                Step::Changed { revision, changes: changes.into_iter().map(change).collect() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_node_is_read() {
        let revision = Revision(7);
        for (told, step) in [
            (
                r#""event":"listed","resources":[],"revision":7,"last":true"#,
                Step::Listed { resources: Vec::new(), revision, last: true },
            ),
            (
                r#""event":"changed","revision":7,"changes":[]"#,
                Step::Changed { revision, changes: Vec::new() },
            ),
            (r#""event":"counted","revision":7,"count":3"#, Step::Counted { revision, count: 3 }),
            (
                r#""event":"ranked","revision":7,"resources":[]"#,
                Step::Ranked { revision, resources: Vec::new() },
            ),
            (r#""event":"bookmark","revision":7"#, Step::Bookmark { revision }),
            (r#""event":"gone","oldest":7"#, Step::Gone { oldest: revision }),
        ] {
            let told: Told = serde_json::from_str(&format!(r#"{{{told},"token":"t"}}"#)).unwrap();
            assert_eq!(told.token, "t");
            assert_eq!(told.into_step(), step);
        }
    }
}
