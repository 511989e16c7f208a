//! All resources in memory, and the indexes that find them.
//!
//! Resources stand in the order of their points, so that a tree is one stretch. One index holds, again in that order, each
//! resource under its kind and under each of its properties whose value is text, a number or a truth value of at most
//! 64 bytes. An entry is a hash and a point: what hashes alike by chance is sorted out by the selector itself. Properties that
//! the declaration of a kind names are indexed in the order of their values too.

#[cfg(test)]
mod model;
mod ordered;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map, btree_set};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use starlane_core::{Base, Depth, First, Key, Point, Resource, Revision, Scope, Selector, Value};

use self::ordered::{Filled, Ordered};

/// The longest value that is indexed.
const INDEXED_BYTES_MAX: usize = 64;
/// How many entries are counted to tell which index is the shortest way.
const PROBED_MAX: usize = 512;
/// The most resources that a range is asked for, to be put in the order of their points.
const CANDIDATES_MAX: usize = 16_384;

#[derive(Default)]
pub(crate) struct View {
    resources: BTreeMap<Point, Arc<Resource>>,
    index: BTreeSet<Entry>,
    ordered: Ordered,
    /// The last number given out below a point.
    sequences: HashMap<Point, u64>,
    pub(crate) revision: Revision,
}

impl View {
    /// Takes in everything at once; the resources come in the order of their points.
    pub(crate) fn load(
        resources: Vec<Arc<Resource>>,
        sequences: HashMap<Point, u64>,
        revision: Revision,
    ) -> Self {
        let mut entries: Vec<Entry> = Vec::with_capacity(resources.len() * 4);
        for resource in &resources {
            entries.extend(hashes(resource).map(|hash| Entry { hash, point: resource.point.clone() }));
        }
        // Stable, so that the points of one hash stay in their order.
        entries.sort_by_key(|entry| entry.hash);
        let mut ordered = Ordered::default();
        for declaration in resources.iter().filter(|resource| resource.kind.base == Base::Kind) {
            ordered.change(None, Some(declaration));
        }
        let mut view = Self {
            index: entries.into_iter().collect(),
            ordered,
            resources: resources.into_iter().map(|resource| (resource.point.clone(), resource)).collect(),
            sequences,
            revision,
        };
        while view.fill(usize::MAX) {}
        view
    }

    pub(crate) fn get(&self, point: &Point) -> Option<&Arc<Resource>> {
        self.resources.get(point)
    }

    pub(crate) fn len(&self) -> usize {
        self.resources.len()
    }

    pub(crate) fn sequence(&self, parent: &Point) -> u64 {
        self.sequences.get(parent).copied().unwrap_or_default()
    }

    pub(crate) fn set_sequence(&mut self, parent: Point, number: Option<u64>) {
        match number {
            Some(number) => self.sequences.insert(parent, number),
            None => self.sequences.remove(&parent),
        };
    }

    pub(crate) fn set_sequences(&mut self, sequences: HashMap<Point, u64>) {
        self.sequences = sequences;
    }

    /// The resources between two points and without them, `ROOT` left out.
    pub(crate) fn between(
        &self,
        after: Option<&Point>,
        until: Option<&Point>,
    ) -> impl Iterator<Item = &Arc<Resource>> {
        let bound = |point: Option<&Point>| match point {
            Some(point) => Bound::Excluded(point.as_str().to_owned()),
            None => Bound::Unbounded,
        };
        let (from, until) = (bound(after), bound(until));
        let steps = Steps::new(self, &from, None);
        let between = steps.take_while(move |point| is_before(point.as_str(), &until));
        between.filter(|point| !point.is_root()).filter_map(|point| self.resources.get(point))
    }

    /// Puts a resource in the place of what stands at its point.
    pub(crate) fn put(&mut self, resource: Arc<Resource>) {
        let before = self.resources.insert(resource.point.clone(), resource.clone());
        let new: BTreeSet<u64> = hashes(&resource).collect();
        let old: BTreeSet<u64> = before.iter().flat_map(|before| hashes(before)).collect();
        for hash in old.difference(&new) {
            self.index.remove(&(*hash, resource.point.as_str()) as &dyn Place);
        }
        for hash in new.difference(&old) {
            self.index.insert(Entry { hash: *hash, point: resource.point.clone() });
        }
        self.ordered.change(before.as_deref(), Some(&resource));
    }

    pub(crate) fn remove(&mut self, point: &Point) {
        if let Some(before) = self.resources.remove(point) {
            for hash in hashes(&before) {
                self.index.remove(&(hash, point.as_str()) as &dyn Place);
            }
            self.ordered.change(Some(&before), None);
        }
    }

    /// Whether there are indexes that do not have all their resources yet.
    pub(crate) fn is_unfilled(&self) -> bool {
        self.ordered.unfilled().is_some()
    }

    /// Puts the next so many resources into an index that does not have all yet; whether there are more to put.
    pub(crate) fn fill(&mut self, looks: usize) -> bool {
        let Some(unfilled) = self.ordered.unfilled() else { return false };
        let under = unfilled.space.clone().unwrap_or_else(Point::root);
        let mut stretch = Stretch::below(&under);
        let mut resources = Vec::new();
        match &unfilled.filled {
            Filled::Nothing => resources.extend(self.resources.get(&under).cloned()),
            Filled::UpTo(point) => stretch.from = Bound::Excluded(point.as_str().to_owned()),
        }
        let mut walk = Walk::new(self, stretch, Some(kind_hash(&unfilled.kind)), None);
        resources.extend(walk.by_ref().take(looks).cloned());
        let filled = match (walk.next(), resources.last()) {
            (Some(_), Some(last)) => Some(Filled::UpTo(last.point.clone())),
            _ => None,
        };
        resources.retain(|resource| resource.kind.base == unfilled.kind);
        self.ordered.fill(&unfilled, &resources, filled);
        self.is_unfilled()
    }

    /// What matches after a point, in the order of points; `ROOT` goes before all others. Looks at no more than `looks`
    /// resources.
    pub(crate) fn page(
        &self,
        selector: &Selector,
        after: Option<&Point>,
        limit: usize,
        looks: usize,
    ) -> Page {
        let scope = selector.scope();
        let base = scope.inclusive.then(|| self.resources.get(&scope.base)).flatten();
        let base = base.filter(|base| after.is_none_or(|after| base.point > *after && !after.is_root()));
        let walk = self.found(&scope, after.filter(|after| !after.is_root()), limit);
        let mut page = Page { resources: Vec::new(), looked_at: None };
        for (looked, resource) in base.into_iter().chain(walk).enumerate() {
            if page.resources.len() >= limit || looked >= looks {
                // There is more: whoever goes on does so after what was looked at last.
                return page;
            }
            if selector.matches(resource) {
                page.resources.push(resource.clone());
            }
            page.looked_at = Some(resource.point.clone());
        }
        page.looked_at = None;
        page
    }

    /// The resources one level below a point.
    pub(crate) fn children(&self, point: &Point) -> impl Iterator<Item = &Arc<Resource>> {
        Walk::new(self, Stretch::below(point), None, Some(point.depth() + 1))
    }

    /// The resources on all levels below a point.
    pub(crate) fn below(&self, point: &Point) -> impl Iterator<Item = &Arc<Resource>> {
        Walk::new(self, Stretch::below(point), None, None)
    }

    /// The first resources in an order, as many as are asked for or all that there are; `None` when no index has them all
    /// in their order, or too many are looked at.
    pub(crate) fn ranked(&self, first: &First, limit: usize, looks: usize) -> Option<Vec<Arc<Resource>>> {
        let scope = first.of.scope();
        let index = self.ordered.of(&scope).find(|index| *index.key() == first.by)?;
        let mut found = Vec::new();
        for (looked, point) in index.ranked(first.descending).enumerate() {
            if found.len() == limit {
                break;
            }
            if looked == looks {
                return None;
            }
            found.extend(self.resources.get(point).filter(|resource| first.of.matches(resource)).cloned());
        }
        Some(found)
    }

    /// Resources of a scope below its base, in the order of their points: all that can match, and others.
    fn found(
        &self,
        scope: &Scope,
        after: Option<&Point>,
        limit: usize,
    ) -> Box<dyn Iterator<Item = &Arc<Resource>> + '_> {
        let mut stretch = Stretch::below(&scope.base);
        if let Some(after) = after
            && after.as_str() >= text_of(&stretch.from)
        {
            stretch.from = Bound::Excluded(after.as_str().to_owned());
        }
        let levels = match scope.depth {
            Depth::Exactly(0) => return Box::new(std::iter::empty()),
            Depth::Exactly(levels) => Some(scope.base.depth() + levels),
            Depth::Any => None,
        };
        let kind = scope.kind.iter().map(kind_hash);
        let equals = scope.equals.iter().filter_map(|(key, value)| property_hash(key, value));
        let probe = |hash| {
            (Steps::new(self, &stretch.from, Some(hash)).within(&stretch).take(PROBED_MAX).count(), hash)
        };
        let shortest = kind.chain(equals).map(probe).min_by_key(|(entries, _)| *entries);
        let walked = shortest.map_or(PROBED_MAX, |(entries, _)| entries);
        match self.candidates(scope, &stretch, limit, walked) {
            Some(points) => Box::new(points.into_iter().filter_map(|point| self.resources.get(point))),
            None => Box::new(Walk::new(self, stretch, shortest.map(|(_, hash)| hash), levels)),
        }
    }

    /// The points of a stretch that an index of a range names, when it names fewer than a walk is likely to pass until a page
    /// is full. `walked` is how many the walk passes in all, or [`PROBED_MAX`] when they are more.
    fn candidates(
        &self,
        scope: &Scope,
        stretch: &Stretch,
        limit: usize,
        walked: usize,
    ) -> Option<Vec<&Point>> {
        let mut fewest: Option<Vec<&Point>> = None;
        for index in self.ordered.of(scope) {
            let walked = if walked < PROBED_MAX { walked } else { index.len() };
            // When n of those that are passed match, a page is full after `limit * walked / n` of them.
            let worth = walked.saturating_mul(limit).isqrt().min(walked) / 2;
            for range in index.ranges(scope) {
                let most = fewest.as_ref().map_or(worth.min(CANDIDATES_MAX), Vec::len);
                let points: Vec<&Point> = range.take(most + 1).collect();
                if points.len() <= most {
                    fewest = Some(points);
                }
            }
        }
        let mut points = fewest?;
        points.retain(|point| stretch.contains(point));
        points.sort_unstable();
        Some(points)
    }
}

/// A part of a selector's answer.
pub(crate) struct Page {
    pub(crate) resources: Vec<Arc<Resource>>,
    /// Where it ends; `None` when there is nothing after it.
    pub(crate) looked_at: Option<Point>,
}

/// The resources of a stretch in order. Where only one level is wanted, trees that are deeper are leapt over.
struct Walk<'a> {
    view: &'a View,
    steps: Steps<'a>,
    until: Bound<String>,
    hash: Option<u64>,
    /// The only depth that is wanted.
    levels: Option<usize>,
}

impl<'a> Walk<'a> {
    fn new(view: &'a View, stretch: Stretch, hash: Option<u64>, levels: Option<usize>) -> Self {
        let steps = Steps::new(view, &stretch.from, hash);
        Self { view, steps, until: stretch.until, hash, levels }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a Arc<Resource>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let point = self.steps.next()?;
            if !is_before(point.as_str(), &self.until) {
                return None;
            }
            if point.is_root() {
                continue;
            }
            if let Some(levels) = self.levels {
                let depth = point.depth();
                if depth > levels {
                    let above = point.ancestors().nth(depth - levels - 1)?;
                    self.steps = Steps::new(self.view, &Stretch::below(&above).after(), self.hash);
                }
                if depth != levels {
                    continue;
                }
            }
            if let Some(resource) = self.view.resources.get(point) {
                return Some(resource);
            }
        }
    }
}

/// Points in order, through everything or through the index under one hash.
enum Steps<'a> {
    All(btree_map::Range<'a, Point, Arc<Resource>>),
    Index(btree_set::Range<'a, Entry>, u64),
}

impl<'a> Steps<'a> {
    fn new(view: &'a View, from: &Bound<String>, hash: Option<u64>) -> Self {
        let text = text_of(from);
        match hash {
            None => {
                let from = match from {
                    Bound::Excluded(_) => Bound::Excluded(text),
                    Bound::Included(_) | Bound::Unbounded => Bound::Included(text),
                };
                Steps::All(view.resources.range::<str, _>((from, Bound::Unbounded)))
            }
            Some(hash) => {
                let place = (hash, text);
                let place: &dyn Place = &place;
                let from = match from {
                    Bound::Excluded(_) => Bound::Excluded(place),
                    Bound::Included(_) | Bound::Unbounded => Bound::Included(place),
                };
                Steps::Index(view.index.range::<dyn Place + '_, _>((from, Bound::Unbounded)), hash)
            }
        }
    }

    fn within(self, stretch: &Stretch) -> impl Iterator<Item = &'a Point> {
        self.take_while(|point| is_before(point.as_str(), &stretch.until))
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = &'a Point;

    fn next(&mut self) -> Option<&'a Point> {
        match self {
            Steps::All(range) => range.next().map(|(point, _)| point),
            Steps::Index(range, hash) => {
                range.next().filter(|entry| entry.hash == *hash).map(|entry| &entry.point)
            }
        }
    }
}

/// The stretch of points below a point.
struct Stretch {
    from: Bound<String>,
    until: Bound<String>,
}

impl Stretch {
    fn below(point: &Point) -> Self {
        let text = point.as_str();
        if point.is_root() {
            return Self { from: Bound::Unbounded, until: Bound::Unbounded };
        }
        if let Some(front) = text.strip_suffix('/') {
            return Self {
                from: Bound::Excluded(text.to_owned()),
                until: Bound::Excluded(format!("{front}0")),
            };
        }
        // `;` follows `:`, as `0` follows `/`.
        Self { from: Bound::Included(format!("{text}:")), until: Bound::Excluded(format!("{text};")) }
    }

    fn contains(&self, point: &Point) -> bool {
        let is_behind = match &self.from {
            Bound::Included(from) => point.as_str() >= from.as_str(),
            Bound::Excluded(from) => point.as_str() > from.as_str(),
            Bound::Unbounded => true,
        };
        is_behind && is_before(point.as_str(), &self.until) && !point.is_root()
    }

    /// Where what stands after the stretch begins.
    fn after(self) -> Bound<String> {
        match self.until {
            Bound::Excluded(text) => Bound::Included(text),
            other => other,
        }
    }
}

fn text_of(bound: &Bound<String>) -> &str {
    match bound {
        Bound::Included(text) | Bound::Excluded(text) => text,
        Bound::Unbounded => "",
    }
}

fn is_before(text: &str, until: &Bound<String>) -> bool {
    match until {
        Bound::Excluded(until) => text < until.as_str(),
        Bound::Included(until) => text <= until.as_str(),
        Bound::Unbounded => true,
    }
}

/// Under what a resource is found.
pub(crate) fn hashes(resource: &Resource) -> impl Iterator<Item = u64> + '_ {
    let properties = resource.properties.iter();
    std::iter::once(kind_hash(&resource.kind.base))
        .chain(properties.filter_map(|(key, property)| property_hash(key, &property.value)))
}

fn kind_hash(base: &Base) -> u64 {
    let mut hasher = DefaultHasher::new();
    ("kind", base.as_str()).hash(&mut hasher);
    hasher.finish()
}

/// Values that compare equal hash alike, and those of one property apart from those of others; `None` when the value is not
/// indexed.
pub(crate) fn property_hash(key: &Key, value: &Value) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    ("property", key.as_str()).hash(&mut hasher);
    match value {
        // However many digits it has, a number is found under its value.
        Value::Text(text) if text.len() > INDEXED_BYTES_MAX && value.as_number().is_none() => return None,
        Value::Json(_) => return None,
        Value::Bool(value) => (if *value { "true" } else { "false" }).hash(&mut hasher),
        Value::Number(_) | Value::Text(_) => match value.as_number() {
            // Zero has two signs.
            Some(number) => (number + 0.0).to_bits().hash(&mut hasher),
            None => value.as_text()?.hash(&mut hasher),
        },
    }
    Some(hasher.finish())
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: u64,
    point: Point,
}

/// An entry, or the place where one would be: the text of a bound need not be a point.
trait Place {
    fn place(&self) -> (u64, &str);
}

impl Place for Entry {
    fn place(&self) -> (u64, &str) {
        (self.hash, self.point.as_str())
    }
}

impl Place for (u64, &str) {
    fn place(&self) -> (u64, &str) {
        (self.0, self.1)
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Place + '_ {}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl<'a> Borrow<dyn Place + 'a> for Entry {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}
