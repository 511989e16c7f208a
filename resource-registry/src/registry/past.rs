//! The past: what a selector meant at an earlier revision, and what is different between two revisions.
//!
//! Nothing is kept for it but the log: each change says what was before it. A resource that no commit touched since is now
//! what it was then; one that was touched is what its first change since found.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use starlane_core::{Code, Point, Problem, Resource, Revision, Selector, When};

use super::read::{cursor_after, read_cursor};
use super::records::{prefix_of, steps_of};
use super::{Inner, LogChange, Registry, Selection};
use crate::error::Error;
use crate::packed::Unpacker;

/// How many changed resources are held in memory for one page, which ends earlier when there are more.
const TOUCHED_MAX: usize = if cfg!(test) { 3 } else { 20_000 };

/// A page of what is different between two revisions.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// In the order of their points, as far as the selector means them before or after; what became again what it was is no
    /// difference. A resource that was deleted and made again is one that changed.
    pub changes: Vec<LogChange>,
    /// The earlier one.
    pub from: Revision,
    /// The later one.
    pub to: Revision,
    /// The cursor of the next page, when there is more.
    pub next: Option<String>,
}

impl Registry {
    /// The revision that was the newest at a moment.
    ///
    /// # Errors
    /// [`Error::Gone`] when the history does not reach back that far, [`Error::NotYet`] for a revision to come.
    pub async fn revision_at(&self, when: When) -> Result<Revision, Error> {
        let oldest = self.inner.oldest_state();
        match when {
            When::Revision(asked) => self.inner.check_kept(asked).map(|()| asked),
            When::Time(time) => match self.inner.first_after(time).await?.0.saturating_sub(1) {
                // What was before the oldest commit that is kept may be much older than it.
                at if at <= oldest.0 && oldest.0 > 0 => Err(Error::Gone { when, oldest }),
                at => Ok(Revision(at)),
            },
        }
    }

    /// As [`Registry::select`], as it was at an earlier revision.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::NotYet`], [`Error::CursorInvalid`]
    pub async fn select_at(
        &self,
        selector: &Selector,
        at: Revision,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Selection, Error> {
        let after = after.map(|cursor| read_cursor(cursor, selector)).transpose()?;
        let (resources, more) = self.inner.list_at(selector, at, after.as_ref(), limit).await?;
        let next = more.map(|last| cursor_after(selector, &last));
        Ok(Selection { resources, revision: at, next })
    }

    /// A page of what is different between two revisions, at most `limit` resources of it. A page may have fewer and yet not be
    /// the last.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::NotYet`], [`Error::CursorInvalid`], and [`Error::Rule`] when `to` is before `from`.
    pub async fn diff(
        &self,
        selector: &Selector,
        from: Revision,
        to: Revision,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Diff, Error> {
        if to < from {
            let detail = format!("revision {to} is before revision {from}");
            return Err(Problem::new(Code::Usage, detail).help("name the earlier one first").into());
        }
        self.inner.check_kept(to)?;
        self.inner.check_kept(from)?;
        let after = after.map(|cursor| read_cursor(cursor, selector)).transpose()?;
        let touched = self.inner.touched(selector, from, to, after.as_ref(), None).await?;
        let mut more = touched.cut;
        let mut changes = Vec::new();
        for (point, (before, after)) in touched.points {
            let meant = |resource: &Arc<Resource>| selector.matches(resource);
            let (before, after) = (before.filter(meant), after.filter(meant));
            if same(before.as_deref(), after.as_deref()) {
                continue;
            }
            if changes.len() >= limit {
                more = changes.last().map(|last: &LogChange| last.point.clone());
                break;
            }
            changes.push(LogChange { point, before, after });
        }
        let next = more.map(|last| cursor_after(selector, &last));
        Ok(Diff { changes, from, to, next })
    }
}

/// Where a point stands in a list: `ROOT` goes before all others.
fn place(point: &Point) -> (bool, &Point) {
    (!point.is_root(), point)
}

/// Whether nothing is different that a user wrote.
fn same(before: Option<&Resource>, after: Option<&Resource>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => {
            before.created == after.created
                && before.properties == after.properties
                && before.status == after.status
        }
        (before, after) => before.is_none() && after.is_none(),
    }
}

/// A resource at one end; `None` when it is not there.
type Side = Option<Arc<Resource>>;

/// The resources that commits touched, each with what it was before the first of them and after the last.
#[derive(Default)]
struct Touched {
    points: BTreeMap<Point, (Side, Side)>,
    /// Where this ends when there were more.
    cut: Option<Point>,
}

impl Touched {
    fn note(&mut self, point: Point, before: Side, after: Side) {
        if self.cut.as_ref().is_some_and(|cut| point > *cut) {
            return;
        }
        self.points.entry(point).or_insert_with(|| (before, None)).1 = after;
        if self.points.len() > TOUCHED_MAX {
            self.points.pop_last();
            self.cut = self.points.last_key_value().map(|(last, _)| last.clone());
        }
    }
}

impl Inner {
    /// The oldest revision whose resources can be known: that before the oldest commit that is kept.
    fn oldest_state(&self) -> Revision {
        Revision(self.store.revisions().oldest.0.saturating_sub(1))
    }

    fn check_kept(&self, at: Revision) -> Result<(), Error> {
        let (oldest, newest) = (self.oldest_state(), self.published());
        if at > newest {
            return Err(Error::NotYet { asked: at, newest });
        }
        if at < oldest {
            return Err(Error::Gone { when: When::Revision(at), oldest });
        }
        Ok(())
    }

    /// A part of a selector's answer as it was at a revision, and where it ends when there is more.
    pub(super) async fn list_at(
        &self,
        selector: &Selector,
        at: Revision,
        after: Option<&Point>,
        limit: usize,
    ) -> Result<(Vec<Arc<Resource>>, Option<Point>), Error> {
        self.check_kept(at)?;
        let (mut resources, now, mut more) = self.list(selector, after, limit);
        let touched = self.touched(selector, at, now, after, more.as_ref()).await?;
        if let Some(cut) = touched.cut {
            resources.retain(|resource| place(&resource.point) <= place(&cut));
            more = Some(cut);
        }
        resources.retain(|resource| !touched.points.contains_key(&resource.point));
        let then = touched.points.into_values().filter_map(|(before, _)| before);
        resources.extend(then.filter(|before| selector.matches(before)));
        resources.sort_unstable_by(|a, b| place(&a.point).cmp(&place(&b.point)));
        if resources.len() > limit {
            resources.truncate(limit);
            more = resources.last().map(|last| last.point.clone());
        }
        Ok((resources, more))
    }

    /// What the commits after `from` up to `to` touched of all that a selector may mean after one point up to another.
    async fn touched(
        &self,
        selector: &Selector,
        from: Revision,
        to: Revision,
        after: Option<&Point>,
        until: Option<&Point>,
    ) -> Result<Touched, Error> {
        let mut touched = Touched::default();
        let mut unpacker = Unpacker::default();
        let prefix: Bytes = prefix_of(&selector.scope());
        let inside = |point: &Point| {
            after.is_none_or(|after| place(point) > place(after))
                && until.is_none_or(|until| place(point) <= place(until))
                && selector.matches_point(point)
        };
        let gone = self
            .replay(prefix, from.0 + 1, to.0, |batch| {
                for step in steps_of(&mut unpacker, batch)? {
                    let Some(point) = step.resource().map(|resource| resource.point.clone()) else {
                        continue;
                    };
                    if inside(&point) {
                        touched.note(point, step.before, step.after);
                    }
                }
                Ok(ControlFlow::Continue(()))
            })
            .await?;
        match gone {
            // It was trimmed while it was read.
            Some(oldest) => {
                let oldest = Revision(oldest.0.saturating_sub(1));
                Err(Error::Gone { when: When::Revision(from), oldest })
            }
            None => Ok(touched),
        }
    }
}
