//! Watches: what a selector means, and its changes.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use starlane_core::{Change, Resource, Revision};
use tokio::sync::mpsc;

use crate::link::Command;

/// How many steps come before they are taken.
pub(crate) const STEPS_MAX: u32 = 256;

/// One step of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A page of what matches; what a page before this one had and the pages of this list have not, is gone.
    Listed {
        /// The page.
        resources: Vec<Arc<Resource>>,
        /// The same for all pages.
        revision: Revision,
        /// Whether it is the last page, so that changes follow.
        last: bool,
    },
    /// All that one commit changed in the answer.
    Changed {
        /// The commit.
        revision: Revision,
        /// In the order of the commit.
        changes: Vec<Change>,
    },
    /// Nothing changed up to here.
    Bookmark {
        /// Up to where.
        revision: Revision,
    },
    /// The history that was asked for is no longer kept: the list follows again.
    Gone {
        /// The oldest revision that can be gone on from.
        oldest: Revision,
    },
}

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
