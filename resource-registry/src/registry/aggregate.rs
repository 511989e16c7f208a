//! Watches of what is counted or ranked: the first answer, then a new one after each commit that made it another.
//!
//! They follow an ordinary watch of the selector, so that each answer is that of a commit. One that is resumed learns from
//! the history what the answer was where it goes on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use starlane_core::{Change, Event, First, Point, Query, Rank, Resource, ResumeToken, Revision, Selector};

use super::{Inner, Registry};
use crate::error::Error;
use crate::watch::Watch;

/// How many resources of the past are read at once.
const PAGE: usize = 1_000;
/// How many are known beyond the first, so that one of those that leaves is replaced at once.
const SPARE: usize = if cfg!(test) { 1 } else { 64 };

/// How many entries of an index are looked at for the first of them, before a list is the shorter way.
const RANKED_LOOKS: usize = if cfg!(test) { 8 } else { 20_000 };

/// A watch of a query. Takes no more memory than an ordinary one, and a bounded number of resources when it ranks.
pub struct QueryWatch {
    inner: Weak<Inner>,
    watch: Watch,
    query: Query,
    answer: Answer,
    /// Everything up to here was told.
    told: Revision,
    due: Option<Due>,
    /// Why the watch ends.
    gone: Option<Revision>,
    ended: bool,
}

enum Answer {
    Resources,
    Count { now: u64, told: u64 },
    Ranked(Box<Standing>),
}

/// What is to be done before the watch goes on.
#[derive(Clone, Copy)]
enum Due {
    /// The answer, as it was after this commit, is to be told.
    Tell(Revision),
    /// It is to be found first.
    Find(Revision),
}

impl Registry {
    /// What a query means now, then each time that it means something else; or, with a token, what changed since. A query of
    /// resources is an ordinary [`Registry::watch`].
    ///
    /// # Errors
    /// As [`Registry::watch`].
    pub async fn watch_query(&self, query: &Query, since: Option<ResumeToken>) -> Result<QueryWatch, Error> {
        if since.is_some_and(|token| token != ResumeToken::new(token.revision, &query.to_string())) {
            return Err(Error::TokenMismatch);
        }
        let selector = query.selector();
        let resumed = since.map(|token| ResumeToken::new(token.revision, &selector.to_string()));
        let watch = match query {
            Query::First(_) => self.follow(selector, resumed)?,
            Query::Select(_) | Query::Count(_) => self.watch(selector, resumed)?,
        };
        let query = sharing(query, watch.selector());
        let mut watch = QueryWatch {
            inner: Arc::downgrade(&self.inner),
            // Whoever has not been told the first answer is to begin again.
            told: Revision(0),
            answer: Answer::of(&query),
            query,
            due: None,
            gone: None,
            ended: false,
            watch,
        };
        if matches!(watch.query, Query::Select(_)) {
            return Ok(watch);
        }
        if watch.watch.is_new() {
            if let Some(revision) = watch.rank(&self.inner) {
                watch.watch.seen = revision;
                watch.due = Some(Due::Tell(revision));
                return Ok(watch);
            }
            self.list_for(&mut watch.watch)?;
        }
        match watch.watch.list.take() {
            Some(list) => {
                list.resources.for_each(|resource| watch.answer.enter(&resource));
                watch.due = Some(Due::Tell(watch.watch.seen));
            }
            // One that goes on after what this registry has not seen ends by itself.
            None if watch.watch.ahead.is_some() => {}
            None => {
                watch.told = watch.watch.seen;
                watch.find(&self.inner, watch.told).await?;
                watch.answer.note();
            }
        }
        Ok(watch)
    }
}

/// A query with the selector that its watch has already.
fn sharing(query: &Query, selector: &Selector) -> Query {
    let of = selector.clone();
    match query {
        Query::Select(_) => Query::Select(of),
        Query::Count(_) => Query::Count(of),
        Query::First(first) => Query::First(First { of, by: first.by.clone(), ..*first }),
    }
}

impl QueryWatch {
    /// The next step; `None` when the registry is closed, or after [`Event::Gone`]. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.step().await?;
        match &event {
            Event::Counted { revision, .. }
            | Event::Ranked { revision, .. }
            | Event::Bookmark { revision } => {
                self.told = *revision;
            }
            Event::Gone { .. } => self.ended = true,
            Event::Listed { .. } | Event::Changed { .. } => {}
        }
        Some(event)
    }

    async fn step(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(oldest) = self.gone.take() {
                return Some(Event::Gone { oldest });
            }
            match self.due {
                Some(Due::Find(revision)) => {
                    let inner = self.inner.upgrade()?;
                    match self.find(&inner, revision).await {
                        Ok(()) => self.due = self.answer.is_new().then_some(Due::Tell(revision)),
                        Err(error) => {
                            tracing::error!(%error, "the history cannot be read, so a watch has to begin again");
                            self.gone = Some(revision);
                        }
                    }
                }
                Some(Due::Tell(revision)) => {
                    self.due = None;
                    self.answer.note();
                    return self.answer.event(revision);
                }
                None => match self.watch.next().await? {
                    Event::Changed { revision, changes } if !matches!(self.answer, Answer::Resources) => {
                        changes.iter().for_each(|change| self.answer.change(change));
                        if self.answer.falls_short() {
                            self.due = Some(Due::Find(revision));
                        } else if self.answer.is_new() {
                            self.due = Some(Due::Tell(revision));
                        }
                    }
                    event => return Some(event),
                },
            }
        }
    }

    /// Where a watch that follows this one goes on without a gap.
    pub fn token(&self) -> ResumeToken {
        match &self.query {
            Query::Select(_) => self.watch.token(),
            query => ResumeToken::new(self.told, &query.to_string()),
        }
    }

    /// Finds the first by an index that has them in their order, when there is one, and tells what they are at.
    fn rank(&mut self, inner: &Inner) -> Option<Revision> {
        let Answer::Ranked(standing) = &mut self.answer else { return None };
        let view = inner.view.read();
        let ranked = view.ranked(&standing.of, standing.most() + 1, RANKED_LOOKS)?;
        ranked.iter().for_each(|resource| standing.enter(resource));
        Some(view.revision)
    }

    /// Finds the answer as it was at a revision.
    async fn find(&mut self, inner: &Arc<Inner>, at: Revision) -> Result<(), Error> {
        let selector: Selector = self.query.selector().clone();
        let mut answer = Answer::of(&self.query);
        let mut after: Option<Point> = None;
        loop {
            let (resources, more) = match inner.list_at(&selector, at, after.as_ref(), PAGE).await {
                Ok(page) => page,
                Err(Error::Gone { oldest, .. }) => {
                    self.gone = Some(oldest);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            resources.iter().for_each(|resource| answer.enter(resource));
            match more {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        // What was told last is known still.
        match (&mut answer, &mut self.answer) {
            (Answer::Ranked(new), Answer::Ranked(old)) => new.told = std::mem::take(&mut old.told),
            (Answer::Count { told, .. }, Answer::Count { told: known, .. }) => *told = *known,
            _ => {}
        }
        self.answer = answer;
        Ok(())
    }
}

impl Answer {
    fn of(query: &Query) -> Self {
        match query {
            Query::Select(_) => Answer::Resources,
            Query::Count(_) => Answer::Count { now: 0, told: 0 },
            Query::First(first) => Answer::Ranked(Box::new(Standing::new(first.clone()))),
        }
    }

    fn enter(&mut self, resource: &Arc<Resource>) {
        match self {
            Answer::Resources => {}
            Answer::Count { now, .. } => *now += 1,
            Answer::Ranked(standing) => standing.enter(resource),
        }
    }

    fn change(&mut self, change: &Change) {
        match (self, change) {
            (Answer::Resources, _) | (Answer::Count { .. }, Change::Updated(_)) => {}
            (Answer::Count { now, .. }, Change::Entered(_)) => *now += 1,
            (Answer::Count { now, .. }, Change::Left(_)) => *now = now.saturating_sub(1),
            (Answer::Ranked(standing), Change::Entered(resource) | Change::Updated(resource)) => {
                standing.leave(&resource.point);
                standing.enter(resource);
            }
            (Answer::Ranked(standing), Change::Left(resource)) => standing.leave(&resource.point),
        }
    }

    /// Whether it is another than what was told.
    fn is_new(&self) -> bool {
        match self {
            Answer::Resources => false,
            Answer::Count { now, told } => now != told,
            Answer::Ranked(standing) => !standing.first().map(version_of).eq(standing.told.iter().cloned()),
        }
    }

    /// Whether more resources must be known to tell it.
    fn falls_short(&self) -> bool {
        match self {
            Answer::Resources | Answer::Count { .. } => false,
            Answer::Ranked(standing) => standing.cut.is_some() && standing.ranked.len() < standing.of.limit,
        }
    }

    /// Takes it for told.
    fn note(&mut self) {
        match self {
            Answer::Resources => {}
            Answer::Count { now, told } => *told = *now,
            Answer::Ranked(standing) => standing.told = standing.first().map(version_of).collect(),
        }
    }

    fn event(&self, revision: Revision) -> Option<Event> {
        match self {
            Answer::Resources => None,
            Answer::Count { now, .. } => Some(Event::Counted { revision, count: *now }),
            Answer::Ranked(standing) => {
                Some(Event::Ranked { revision, resources: standing.first().cloned().collect() })
            }
        }
    }
}

/// Which version of which resource it is.
fn version_of(resource: &Arc<Resource>) -> (Point, Revision) {
    (resource.point.clone(), resource.modified)
}

/// The first resources in an order, and some that come next.
struct Standing {
    of: First,
    ranked: BTreeMap<Rank, Arc<Resource>>,
    places: HashMap<Point, Rank>,
    /// Up to where all are known; `None` when all are known.
    cut: Option<Rank>,
    told: Vec<(Point, Revision)>,
}

impl Standing {
    fn new(of: First) -> Self {
        Self { of, ranked: BTreeMap::new(), places: HashMap::new(), cut: None, told: Vec::new() }
    }

    /// How many are known at most.
    fn most(&self) -> usize {
        self.of.limit * 2 + SPARE
    }

    fn first(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.ranked.values().take(self.of.limit)
    }

    fn enter(&mut self, resource: &Arc<Resource>) {
        let Some(rank) = self.of.rank(resource) else { return };
        if self.cut.as_ref().is_some_and(|cut| rank > *cut) {
            return;
        }
        self.places.insert(resource.point.clone(), rank.clone());
        self.ranked.insert(rank, resource.clone());
        if self.ranked.len() > self.most()
            && let Some((_, last)) = self.ranked.pop_last()
        {
            self.places.remove(&last.point);
            self.cut = self.ranked.last_key_value().map(|(rank, _)| rank.clone());
        }
    }

    fn leave(&mut self, point: &Point) {
        if let Some(rank) = self.places.remove(point) {
            self.ranked.remove(&rank);
        }
    }
}
