//! Taking resources away, one or whole trees.

use std::collections::HashSet;

use starlane_core::{Agent, DeleteTarget, Kind, Point};

use super::write::ATTEMPTS_MAX;
use super::{BATCH_MAX, Delete, Inner, Registry};
use crate::draft::{Draft, Stop};
use crate::error::Error;
use crate::locks::Claim;
use crate::store::OPERATIONS_MAX;

impl Registry {
    /// Takes resources away and tells which, children before their parents. What fits one commit goes at once or not at
    /// all; a larger tree goes in several, from below.
    ///
    /// # Errors
    /// [`Error::HasChildren`] unless `recursive`; [`Error::DeletedPartly`] when a larger tree was not deleted to its end.
    pub async fn delete(&self, by: &Agent, delete: Delete) -> Result<Vec<(Point, Kind)>, Error> {
        self.inner.delete(by, &delete, true).await
    }

    /// As [`Registry::delete`], for what the mesh made itself.
    ///
    /// # Errors
    /// As [`Registry::delete`].
    pub async fn delete_reserved(&self, by: &Agent, delete: Delete) -> Result<Vec<(Point, Kind)>, Error> {
        self.inner.delete(by, &delete, false).await
    }
}

impl Inner {
    async fn delete(&self, by: &Agent, delete: &Delete, by_hand: bool) -> Result<Vec<(Point, Kind)>, Error> {
        let base = match &delete.target {
            DeleteTarget::Point(point) => point.clone(),
            DeleteTarget::Selector(selector) => selector.scope().base,
        };
        let _held = self.locks.take(Claim::tree(&base)).await;
        // What there is to delete is decided by what was acknowledged before the call.
        self.fresh().await?;
        let mut removed = Vec::new();
        let done = self.delete_until_gone(by, delete, by_hand, &mut removed).await;
        let mut counters = self.counters.lock();
        for (point, _) in &removed {
            counters.forget(point);
        }
        drop(counters);
        match done {
            Ok(()) => Ok(removed),
            Err(cause) if removed.is_empty() => Err(cause),
            Err(cause) => Err(Error::DeletedPartly { removed, cause: Box::new(cause) }),
        }
    }

    /// Lists what there is to delete and takes it away, again when others made or took away some of it meanwhile.
    async fn delete_until_gone(
        &self,
        by: &Agent,
        delete: &Delete,
        by_hand: bool,
        removed: &mut Vec<(Point, Kind)>,
    ) -> Result<(), Error> {
        let mut attempts = 1..ATTEMPTS_MAX;
        loop {
            let list = match self.to_delete(delete, by_hand) {
                // Others took away the last of it.
                Err(Error::NotFound(_)) if !removed.is_empty() => return Ok(()),
                list => list?,
            };
            match self.delete_listed(by, delete, list, by_hand, removed).await {
                Err(Error::HasChildren { .. } | Error::NotFound(_))
                    if delete.recursive && attempts.next().is_some() =>
                {
                    self.fresh().await?;
                }
                done => return done,
            }
        }
    }

    /// Takes away what was listed, children before their parents, and adds to `removed` what went. What is expected is looked at
    /// again by each commit: another node may have changed it since it was listed.
    async fn delete_listed(
        &self,
        by: &Agent,
        delete: &Delete,
        list: Vec<Point>,
        by_hand: bool,
        removed: &mut Vec<(Point, Kind)>,
    ) -> Result<(), Error> {
        // What fits goes at once: an operation a resource, one for what its tree rests on, one for a counter.
        let at_once = if list.len() <= BATCH_MAX { BATCH_MAX } else { OPERATIONS_MAX / 3 };
        for part in list.chunks(at_once) {
            let kinds = self
                .commit(by, by_hand, |draft| {
                    if let DeleteTarget::Point(point) = &delete.target {
                        draft.expect(point, delete.expect)?;
                    }
                    part.iter().map(|point| draft.delete(point)).collect::<Result<Vec<_>, Stop>>()
                })
                .await?;
            removed.extend(part.iter().cloned().zip(kinds.value));
        }
        Ok(())
    }

    /// What a `delete` takes away, children before their parents.
    fn to_delete(&self, delete: &Delete, by_hand: bool) -> Result<Vec<Point>, Error> {
        let view = self.view.read();
        let draft = Draft::new(&view, &self.compiled, &self.counters, by_hand);
        let mut list: Vec<Point> = match &delete.target {
            DeleteTarget::Point(point) => {
                draft.expect(point, delete.expect)?;
                view.get(point)
                    .map(|resource| vec![resource.point.clone()])
                    .ok_or_else(|| Error::NotFound(point.clone()))?
            }
            DeleteTarget::Selector(selector) => {
                let page = view.page(selector, None, usize::MAX, usize::MAX);
                page.resources.into_iter().map(|resource| resource.point.clone()).collect()
            }
        };
        let known: HashSet<Point> = list.iter().cloned().collect();
        if delete.recursive {
            let tops: Vec<Point> = list
                .iter()
                .filter(|point| !point.ancestors().any(|above| known.contains(&above)))
                .cloned()
                .collect();
            list = Vec::new();
            for top in tops {
                list.extend(view.below(&top).map(|resource| resource.point.clone()));
                list.push(top);
            }
        } else {
            for point in &list {
                let mut left = view.children(point).filter(|child| !known.contains(&child.point));
                if let Some(child) = left.next() {
                    return Err(Error::HasChildren {
                        point: point.clone(),
                        child: child.point.clone(),
                        more: left.next().is_some(),
                    });
                }
            }
        }
        list.iter().try_for_each(|point| draft.check_deletable(point))?;
        draft.check_whole(&list)?;
        // A point stands before all that are below it.
        list.sort_unstable_by(|a, b| b.cmp(a));
        Ok(list)
    }
}
