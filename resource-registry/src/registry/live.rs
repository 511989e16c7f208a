//! Watches: what a selector means now, and from then on.

use std::sync::Arc;

use starlane_core::{ResumeToken, Selector};

use super::Registry;
use super::read::SAMPLED;
use crate::error::Error;
use crate::watch::{List, Watch};

impl Registry {
    /// Whether a selector can be watched.
    ///
    /// # Errors
    /// [`Error::Sampled`] when it reads what changes without a commit.
    pub fn check_watch(selector: &Selector) -> Result<(), Error> {
        match selector.fields().find(|field| SAMPLED.contains(field)) {
            Some(field) => Err(Error::Sampled(field.to_owned())),
            None => Ok(()),
        }
    }

    /// What matches now, then what changes of it; or, with a token, what changed since.
    ///
    /// # Errors
    /// [`Error::Sampled`], [`Error::TokenMismatch`], and [`Error::Busy`] when there are too many watches or too many lists are
    /// being read.
    pub fn watch(&self, selector: &Selector, since: Option<ResumeToken>) -> Result<Watch, Error> {
        let mut watch = self.follow(selector, since)?;
        if watch.is_new() {
            self.list_for(&mut watch)?;
        }
        Ok(watch)
    }

    /// A watch that collects what changes and, when it is new, has no list yet.
    pub(super) fn follow(&self, selector: &Selector, since: Option<ResumeToken>) -> Result<Watch, Error> {
        Self::check_watch(selector)?;
        if since.is_some_and(|token| token != ResumeToken::new(token.revision, &selector.to_string())) {
            return Err(Error::TokenMismatch);
        }
        // A token of revision 0 was given out before the end of a list.
        let since = since.map(|token| token.revision).filter(|revision| revision.0 > 0);
        let inner = &self.inner;
        let mailbox = inner
            .hub
            .join(selector, since.is_some(), inner.config.watches_max)
            .ok_or(Error::Busy("too many watches are open"))?;
        let mut watch = Watch {
            inner: Arc::downgrade(inner),
            mailbox,
            seen: since.unwrap_or_default(),
            list: None,
            log: None,
            ended: false,
            ahead: None,
        };
        // The data may be older than the token: restored from a backup. Going on would pass over what comes until then.
        let revisions = inner.store.revisions();
        if since.is_some_and(|since| since > revisions.newest) {
            watch.ahead = Some(revisions.oldest);
        }
        Ok(watch)
    }

    /// Gives a new watch its list.
    pub(super) fn list_for(&self, watch: &mut Watch) -> Result<(), Error> {
        let inner = &self.inner;
        let (resources, revision, _) = inner.list(watch.selector(), None, usize::MAX);
        let room = u32::try_from(resources.len())
            .ok()
            .and_then(|count| inner.room.clone().try_acquire_many_owned(count).ok())
            .ok_or(Error::Busy("too many long lists are being read"))?;
        watch.seen = revision;
        watch.list = Some(Box::new(List { resources: resources.into_iter(), _room: room }));
        Ok(())
    }
}
