//! A watch of a selector: what matches, then what changes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use starlane_core::{Event, Resource, ResumeToken, Revision, Selector};
use tokio::sync::OwnedSemaphorePermit;

use crate::hub::{Mail, Mailbox, relative};
use crate::packed::Unpacker;
use crate::registry::{Inner, prefix_of, steps_of};
use crate::store;

/// The most resources of one page of the list.
const PAGE: usize = 1_000;
/// How long a watch that reads the log waits while the registry is out of reach.
const RETRY: Duration = Duration::from_millis(500);

/// What a selector means, and then what changes of it, commit by commit. Takes no more memory than its list while that
/// is read, and a bounded number of commits: a watch that is read slowly finds the others in the log, as long as it is kept.
pub struct Watch {
    pub(crate) inner: Weak<Inner>,
    pub(crate) mailbox: Arc<Mailbox>,
    /// Everything up to here was told.
    pub(crate) seen: Revision,
    pub(crate) list: Option<Box<List>>,
    pub(crate) log: Option<Box<Catching>>,
    pub(crate) ended: bool,
    /// The oldest revision there is, when the watch is to go on after one that this registry has not seen.
    pub(crate) ahead: Option<Revision>,
}

/// What is left of the list.
pub(crate) struct List {
    pub(crate) resources: std::vec::IntoIter<Arc<Resource>>,
    pub(crate) _room: OwnedSemaphorePermit,
}

/// A watch that reads the log.
pub(crate) struct Catching {
    commits: Box<dyn store::Watch>,
    unpacker: Unpacker,
}

impl Watch {
    /// The next step; `None` when the registry is closed, or after [`Event::Gone`]. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(oldest) = self.ahead.take() {
                self.ended = true;
                return Some(Event::Gone { oldest });
            }
            if let Some(page) = self.page() {
                return Some(page);
            }
            if self.log.is_some() {
                if let Some(event) = self.catch_up().await {
                    return Some(event);
                }
                continue;
            }
            match self.mailbox.take() {
                Mail::Closed => self.ended = true,
                Mail::Commit(commit) if commit.revision <= self.seen => {}
                Mail::Commit(commit) => {
                    self.seen = commit.revision;
                    return Some(Event::Changed {
                        revision: commit.revision,
                        changes: commit.changes.to_vec(),
                    });
                }
                Mail::InLog => self.open_log(),
                Mail::Nothing => {
                    if tokio::time::timeout(self.quiet(), self.mailbox.told()).await.is_err()
                        && let Some(bookmark) = self.bookmark()
                    {
                        return Some(bookmark);
                    }
                }
            }
        }
    }

    /// Whether it goes on after nothing, and has to be told where it is.
    pub(crate) fn is_new(&self) -> bool {
        self.seen == Revision(0) && self.list.is_none() && self.ahead.is_none()
    }

    /// Where a watch that follows this one goes on without a gap.
    pub fn token(&self) -> ResumeToken {
        // A list that was not read to its end is to be read again from its beginning.
        let revision = if self.list.is_some() { Revision(0) } else { self.seen };
        ResumeToken::new(revision, &self.selector().to_string())
    }

    pub(crate) fn selector(&self) -> &Selector {
        &self.mailbox.selector
    }

    fn page(&mut self) -> Option<Event> {
        let list = self.list.as_mut()?;
        let resources: Vec<_> = list.resources.by_ref().take(PAGE).collect();
        let last = list.resources.len() == 0;
        if last {
            self.list = None;
        }
        Some(Event::Listed { resources, revision: self.seen, last })
    }

    /// How long nothing is told before a bookmark is.
    fn quiet(&self) -> Duration {
        let inner = self.inner.upgrade();
        inner.map_or(RETRY, |inner| {
            inner.bookmark_every().max(Duration::from_millis(inner.hub().watches() as u64))
        })
    }

    /// What is dispatched before a revision is published waits in the mailbox, so nothing is passed over.
    fn bookmark(&mut self) -> Option<Event> {
        let inner = self.inner.upgrade()?;
        let published = inner.published();
        if !self.mailbox.is_empty() {
            return None;
        }
        self.seen = self.seen.max(published);
        Some(Event::Bookmark { revision: self.seen })
    }

    fn open_log(&mut self) {
        let Some(inner) = self.inner.upgrade() else {
            self.ended = true;
            return;
        };
        if inner.hub().rejoin(&self.mailbox, self.seen) {
            return;
        }
        let prefix = prefix_of(&self.selector().scope());
        let commits = inner.store().watch(prefix, self.seen);
        self.log = Some(Box::new(Catching { commits, unpacker: Unpacker::default() }));
    }

    async fn catch_up(&mut self) -> Option<Event> {
        let Some(inner) = self.inner.upgrade() else {
            self.ended = true;
            return None;
        };
        if inner.hub().rejoin(&self.mailbox, self.seen) {
            self.log = None;
            return None;
        }
        // A registry that is closed meanwhile must not be kept open by who waits for it.
        drop(inner);
        let log = self.log.as_mut()?;
        let oldest = match log.commits.next().await {
            Ok(store::Event::Progress(revision)) => {
                self.seen = self.seen.max(revision);
                return None;
            }
            Ok(store::Event::Batch(batch)) => match steps_of(&mut log.unpacker, &batch) {
                Ok(steps) => {
                    self.seen = batch.revision;
                    let changes = relative(self.selector(), &steps);
                    let changed = Event::Changed { revision: batch.revision, changes };
                    return matches!(&changed, Event::Changed { changes, .. } if !changes.is_empty())
                        .then_some(changed);
                }
                Err(_) => Revision(batch.revision.0 + 1),
            },
            Ok(store::Event::Compacted { oldest }) => oldest,
            Err(store::Error::Closed) => {
                self.ended = true;
                return None;
            }
            Err(error) if error.passes() => {
                // The registry is out of reach. What was read stays read.
                tokio::time::sleep(RETRY).await;
                return None;
            }
            Err(error) => {
                tracing::error!(%error, "the log cannot be read, so a watch has to list again");
                self.seen
            }
        };
        self.ended = true;
        Some(Event::Gone { oldest })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.hub().leave(&self.mailbox);
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({} after {})", self.selector(), self.seen)
    }
}
