//! Finding resources: one, those below another, those that a selector means.

use std::collections::HashMap;
use std::sync::Arc;

use starlane_core::{Change, Code, Point, Problem, Resource, ResumeToken, Revision, Selector};

use super::{Inner, Registry};
use crate::error::Error;
use crate::hub::{Mail, Mailbox};

/// How many resources are looked at before others may go on; few in tests, so that they see it happen.
pub(super) const LOOKS: usize = if cfg!(test) { 3 } else { 20_000 };

/// Fields that are measured when they are asked for, so that they change without commits.
pub(super) const SAMPLED: [&str; 4] = ["queue", "cpu", "memory", "live"];

/// A page of a selector's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// In the order of their points.
    pub resources: Vec<Arc<Resource>>,
    /// What they are at.
    pub revision: Revision,
    /// The cursor of the next page, when there is more.
    pub next: Option<String>,
}

impl Registry {
    /// The resource at a point.
    pub fn get(&self, point: &Point) -> Option<Arc<Resource>> {
        self.inner.view.read().get(point).cloned()
    }

    /// The first resources one level below a point, in the order of their points.
    pub fn children(&self, point: &Point, limit: usize) -> Vec<Arc<Resource>> {
        self.inner.view.read().children(point).take(limit).cloned().collect()
    }

    /// A page of what matches, in the order of points, all at one revision. `after` is the cursor of the page before;
    /// pages may be of different revisions.
    ///
    /// # Errors
    /// [`Error::CursorInvalid`]
    pub fn select(&self, selector: &Selector, limit: usize, after: Option<&str>) -> Result<Selection, Error> {
        let after = after.map(|cursor| read_cursor(cursor, selector)).transpose()?;
        let (resources, revision, more) = self.inner.list(selector, after.as_ref(), limit);
        let next = more.map(|last| cursor_after(selector, &last));
        if resources.is_empty() && after.is_none() {
            self.check_measured(selector)?;
        }
        Ok(Selection { resources, revision, next })
    }

    /// The same, of those that `keep` too; all is looked at that the selector means, until a page is full.
    ///
    /// # Errors
    /// [`Error::CursorInvalid`]
    pub fn select_where(
        &self,
        selector: &Selector,
        limit: usize,
        after: Option<&str>,
        keep: impl Fn(&Arc<Resource>) -> bool,
    ) -> Result<Selection, Error> {
        let mut after = after.map(|cursor| read_cursor(cursor, selector)).transpose()?;
        let mut resources: Vec<Arc<Resource>> = Vec::new();
        loop {
            let (found, revision, more) = self.inner.list(selector, after.as_ref(), LOOKS);
            for resource in found.into_iter().filter(|resource| keep(resource)) {
                if resources.len() == limit {
                    let next = resources.last().map(|last| cursor_after(selector, &last.point));
                    return Ok(Selection { resources, revision, next });
                }
                resources.push(resource);
            }
            match more {
                Some(last) => after = Some(last),
                None => return Ok(Selection { resources, revision, next: None }),
            }
        }
    }

    /// Nothing is the wrong answer to a question for what nobody measures.
    fn check_measured(&self, selector: &Selector) -> Result<(), Error> {
        let Some(field) = selector.fields().find(|field| SAMPLED.contains(field)) else { return Ok(()) };
        let set: Selector = format!("ROOT+**[exists({field})]").parse()?;
        if !self.inner.list(&set, None, 1).0.is_empty() {
            return Ok(());
        }
        let detail = format!("`{field}` is not measured here, and no resource has a property of that name");
        let help = match field {
            "queue" => "`select` alone measures it: ask there, and name the points that it answers",
            _ => "leave it out of the filter",
        };
        Err(Problem::new(Code::Unsupported, detail).help(help).into())
    }

    /// How many resources match.
    pub fn count(&self, selector: &Selector) -> usize {
        let everything = selector.to_string() == "ROOT+**";
        if everything {
            return self.inner.view.read().len();
        }
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.inner.view.read().page(selector, after.as_ref(), usize::MAX, LOOKS);
            count += page.resources.len();
            after = Some(match page.looked_at {
                Some(last) => last,
                None => return count,
            });
        }
    }
}

impl Inner {
    /// A part of a selector's answer at one revision, and where it ends when there is more. Looks at a stretch at a time, so
    /// that writers go on meanwhile, and then brings what was read first up to what was read last.
    pub(super) fn list(
        &self,
        selector: &Selector,
        after: Option<&Point>,
        limit: usize,
    ) -> (Vec<Arc<Resource>>, Revision, Option<Point>) {
        {
            let view = self.view.read();
            let page = view.page(selector, after, limit, LOOKS);
            let full = page.resources.len() >= limit;
            if page.looked_at.is_none() || full {
                return (page.resources, view.revision, page.looked_at);
            }
        }
        self.list_long(selector, after, limit).unwrap_or_else(|| {
            // So much changed meanwhile that writers have to wait for once.
            let view = self.view.read();
            let page = view.page(selector, after, limit, usize::MAX);
            (page.resources, view.revision, page.looked_at)
        })
    }

    fn list_long(
        &self,
        selector: &Selector,
        after: Option<&Point>,
        limit: usize,
    ) -> Option<(Vec<Arc<Resource>>, Revision, Option<Point>)> {
        let joined = Joined::new(self, selector)?;
        let mut list = Vec::new();
        // Up to which point the list was read at which revision.
        let mut stretches: Vec<(Option<Point>, Revision)> = Vec::new();
        let mut from = after.cloned();
        let (revision, more) = loop {
            let view = self.view.read();
            let page = view.page(selector, from.as_ref(), limit - list.len(), LOOKS);
            list.extend(page.resources);
            stretches.push((page.looked_at.clone(), view.revision));
            if page.looked_at.is_none() || list.len() >= limit {
                break (view.revision, page.looked_at);
            }
            from = page.looked_at;
        };
        let mut fixes: HashMap<Point, Option<Arc<Resource>>> = HashMap::new();
        loop {
            match joined.mailbox.take() {
                Mail::InLog | Mail::Closed => return None,
                Mail::Nothing => break,
                Mail::Commit(commit) if commit.revision > revision => break,
                Mail::Commit(commit) => {
                    for change in commit.changes.iter() {
                        let point = &change.resource().point;
                        let read_at = stretches
                            .iter()
                            .find(|(end, _)| end.as_ref().is_none_or(|end| point <= end))
                            .map(|(_, revision)| *revision);
                        let inside = after.is_none_or(|after| point > after);
                        if inside && read_at.is_some_and(|read_at| commit.revision > read_at) {
                            let now = match change {
                                Change::Left(_) => None,
                                other => Some(other.resource().clone()),
                            };
                            fixes.insert(point.clone(), now);
                        }
                    }
                }
            }
        }
        if !fixes.is_empty() {
            list.retain(|resource| !fixes.contains_key(&resource.point));
            list.extend(fixes.into_values().flatten());
            list.sort_unstable_by(|a, b| a.point.cmp(&b.point));
        }
        Some((list, revision, more))
    }
}

/// A mailbox for as long as a list is read.
struct Joined<'a> {
    inner: &'a Inner,
    mailbox: Arc<Mailbox>,
}

impl<'a> Joined<'a> {
    fn new(inner: &'a Inner, selector: &Selector) -> Option<Self> {
        let mailbox = inner.hub.join(selector, false, usize::MAX)?;
        Some(Self { inner, mailbox })
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.inner.hub.leave(&self.mailbox);
    }
}

/// A cursor is as opaque as a resume token, and bound to its selector in the same way.
impl Registry {
    /// The cursor of a page of a selector's answer that begins after a point.
    pub fn cursor(selector: &Selector, after: &Point) -> String {
        cursor_after(selector, after)
    }
}

pub(super) fn cursor_after(selector: &Selector, last: &Point) -> String {
    format!("c1.{:08x}.{last}", ResumeToken::new(Revision(0), &selector.to_string()).selector)
}

pub(super) fn read_cursor(cursor: &str, selector: &Selector) -> Result<Point, Error> {
    let wrong = || Error::CursorInvalid(cursor.to_owned());
    let (hash, last) = cursor.strip_prefix("c1.").and_then(|rest| rest.split_once('.')).ok_or_else(wrong)?;
    let ours = ResumeToken::new(Revision(0), &selector.to_string()).selector;
    if u32::from_str_radix(hash, 16) != Ok(ours) {
        return Err(wrong());
    }
    last.parse().map_err(|_| wrong())
}
