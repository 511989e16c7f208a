//! What keeps the registry in order: leases that end, and a history that is trimmed.

use std::time::Duration;

use starlane_core::{Agent, Point, Revision, Timestamp};

use super::write::unseen;
use super::{Inner, Registry};
use crate::error::Error;
use crate::store::LeaseId;

impl Registry {
    /// Grants a lease: resources that were put with it go when it ends.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Ok(self.inner.store.grant(ttl_ms, (self.inner.config.now)()).await?)
    }

    /// Lets a lease begin anew.
    ///
    /// # Errors
    /// [`store::Error::LeaseUnknown`](crate::store::Error::LeaseUnknown) when it has ended.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        Ok(self.inner.store.keep_alive(lease, (self.inner.config.now)()).await?)
    }

    /// Ends a lease; what hangs on it goes.
    ///
    /// # Errors
    /// [`store::Error::LeaseUnknown`](crate::store::Error::LeaseUnknown) when it has ended.
    pub async fn revoke(&self, by: &Agent, lease: LeaseId) -> Result<(), Error> {
        self.inner.store.revoke(lease, self.inner.meta(by)).await?;
        let revision = self.inner.store.revisions().newest;
        Ok(self.inner.reach(revision).await.map_err(|error| unseen(revision, error))?)
    }

    /// Trims the history and ends leases whose time is over; the registry does so by itself from time to time. Nothing
    /// happens when another node has the store, and looks after it.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn upkeep(&self) -> Result<(), Error> {
        self.inner.upkeep().await
    }

    /// Forgets the history before a revision.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn compact(&self, keep_from: Revision) -> Result<(), Error> {
        Ok(self.inner.store.compact(keep_from).await?)
    }
}

impl Inner {
    pub(super) async fn upkeep(&self) -> Result<(), Error> {
        if self.store.is_tended() {
            return Ok(());
        }
        let mesh = Agent(Point::root());
        self.store.expire((self.config.now)(), self.meta(&mesh)).await?;
        let revisions = self.store.revisions();
        let by_count = revisions.newest.0.saturating_sub(self.config.history_revisions_max) + 1;
        let age_ms = u64::try_from(self.config.history_time_max.as_millis()).unwrap_or(u64::MAX);
        let by_time = match (self.config.now)().0.checked_sub(age_ms.saturating_add(1)) {
            Some(too_old) => self.first_after(Timestamp(too_old)).await?,
            None => revisions.oldest,
        };
        let keep_from = Revision(by_count.max(by_time.0));
        if keep_from > revisions.oldest {
            self.store.compact(keep_from).await?;
        }
        Ok(())
    }
}
