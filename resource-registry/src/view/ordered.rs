//! The values of properties in their order: one index for each that the declaration of a kind names (`indexed`).
//!
//! An index has all resources of its kind that its declaration is for. It is filled a stretch at a time when it is new, and
//! is used when it is full. A value stands in it once, with the points that have it; a text that reads as a number stands
//! there as both. Texts and points are shared with the resources.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use starlane_core::{Base, Declared, Key, Name, Point, Range, Resource, Scope, Sorted, Value};

/// The space whose declarations hold everywhere.
const MESH: &str = "mesh";

#[derive(Default)]
pub(super) struct Ordered {
    /// What is declared, by the kind.
    kinds: HashMap<Base, Vec<Declaration>>,
}

struct Declaration {
    point: Point,
    /// Where it holds; `None` for everywhere.
    space: Option<Point>,
    indexes: Vec<Index>,
}

/// One property of the resources of a kind.
pub(super) struct Index {
    key: Key,
    values: BTreeMap<Sorted, Points>,
    entries: usize,
    /// How far it has all resources; `None` for all.
    filled: Option<Filled>,
}

/// How far an index is filled.
#[derive(Clone)]
pub(super) enum Filled {
    Nothing,
    UpTo(Point),
}

/// An index that is to be filled.
pub(super) struct Unfilled {
    pub(super) kind: Base,
    /// Where its resources are; `None` for everywhere.
    pub(super) space: Option<Point>,
    pub(super) filled: Filled,
    declaration: Point,
    key: Key,
}

/// The points that have a value. Most values of most indexes have one.
#[expect(clippy::box_collection, reason = "a set of one, which most are, is to be small")]
enum Points {
    One(Point),
    Many(Box<BTreeSet<Point>>),
}

impl Ordered {
    /// Takes in what became of a resource.
    pub(super) fn change(&mut self, before: Option<&Resource>, after: Option<&Resource>) {
        match (before, after) {
            (Some(old), Some(new)) if old.kind.base == new.kind.base => self.step(new, before, after),
            _ => {
                before.into_iter().for_each(|old| self.step(old, before, None));
                after.into_iter().for_each(|new| self.step(new, None, after));
            }
        }
        let declares = |side: &&Resource| side.kind.base == Base::Kind;
        if let Some(declaration) = after.filter(declares).or(before.filter(declares)) {
            self.declare(&declaration.point, after.filter(declares));
        }
    }

    fn step(&mut self, of: &Resource, before: Option<&Resource>, after: Option<&Resource>) {
        let declarations = self.kinds.get_mut(&of.kind.base).into_iter().flatten();
        let declarations = declarations.filter(|declaration| declaration.is_for(&of.point));
        declarations
            .flat_map(|declaration| &mut declaration.indexes)
            .for_each(|index| index.change(&of.point, before, after));
    }

    /// Takes in what a declaration says, or that there is none any more.
    fn declare(&mut self, point: &Point, declaration: Option<&Resource>) {
        let Some((kind, space)) = declared_by(point) else { return };
        let declared = declaration.and_then(|resource| Declared::of(&resource.properties).ok());
        let wanted = declared.map(|declared| declared.indexed).unwrap_or_default();
        let declarations = self.kinds.entry(kind.clone()).or_default();
        let at = declarations.iter().position(|known| known.point == *point).unwrap_or_else(|| {
            declarations.push(Declaration { point: point.clone(), space, indexes: Vec::new() });
            declarations.len() - 1
        });
        let indexes = &mut declarations[at].indexes;
        indexes.retain(|index| wanted.contains(&index.key));
        for key in wanted {
            if !indexes.iter().any(|index| index.key == key) {
                indexes.push(Index::new(key));
            }
        }
        if indexes.is_empty() {
            declarations.remove(at);
        }
        if declarations.is_empty() {
            self.kinds.remove(&kind);
        }
    }

    /// An index that does not have all its resources yet.
    pub(super) fn unfilled(&self) -> Option<Unfilled> {
        let declarations = self.kinds.iter().flat_map(|(kind, list)| list.iter().map(move |one| (kind, one)));
        let mut indexes =
            declarations.flat_map(|(kind, one)| one.indexes.iter().map(move |index| (kind, one, index)));
        indexes.find_map(|(kind, declaration, index)| {
            Some(Unfilled {
                filled: index.filled.clone()?,
                kind: kind.clone(),
                space: declaration.space.clone(),
                declaration: declaration.point.clone(),
                key: index.key.clone(),
            })
        })
    }

    /// Puts the next resources of its kind into an index; `filled` is how far it then is, `None` for full.
    pub(super) fn fill(&mut self, unfilled: &Unfilled, resources: &[Arc<Resource>], filled: Option<Filled>) {
        let declarations = self.kinds.get_mut(&unfilled.kind).into_iter().flatten();
        let declarations = declarations.filter(|known| known.point == unfilled.declaration);
        let indexes = declarations.flat_map(|known| &mut known.indexes);
        for index in indexes.filter(|index| index.key == unfilled.key) {
            for resource in resources {
                index.change(&resource.point, None, Some(resource));
            }
            index.filled = filled.clone();
        }
    }

    /// The full indexes that have all of a kind that a scope can mean.
    pub(super) fn of<'a>(&'a self, scope: &Scope) -> impl Iterator<Item = &'a Index> {
        let declarations = scope.kind.as_ref().and_then(|kind| self.kinds.get(kind)).into_iter().flatten();
        let declarations = declarations.filter(|declaration| declaration.is_for(&scope.base));
        declarations.flat_map(|declaration| &declaration.indexes).filter(|index| index.filled.is_none())
    }
}

impl Declaration {
    /// Whether it is for all resources of its kind at and under a point.
    fn is_for(&self, point: &Point) -> bool {
        self.space.as_ref().is_none_or(|space| space == point || space.contains(point))
    }
}

impl Index {
    fn new(key: Key) -> Self {
        Self { key, values: BTreeMap::new(), entries: 0, filled: Some(Filled::Nothing) }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// How many entries it has: one for each resource with such a value, two for a text that reads as a number.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    fn change(&mut self, point: &Point, before: Option<&Resource>, after: Option<&Resource>) {
        let key = self.key.as_str();
        let value = |side: Option<&Resource>| side.and_then(|side| side.property(key)).cloned();
        let (before, after) = (value(before), value(after));
        let is_same = match (&before, &after) {
            // Another text of the same letters: that of the resource is shared from now on.
            (Some(Value::Text(before)), Some(Value::Text(after))) => Arc::ptr_eq(before, after),
            (before, after) => before == after,
        };
        if !is_same {
            before.iter().flat_map(places).for_each(|place| self.remove(&place, point));
            after.iter().flat_map(places).for_each(|place| self.insert(place, point));
        }
    }

    fn remove(&mut self, place: &Sorted, point: &Point) {
        let Some(points) = self.values.get_mut(place) else { return };
        match points {
            Points::One(known) if known == point => drop(self.values.remove(place)),
            Points::One(_) => return,
            Points::Many(known) => {
                if !known.remove(point) {
                    return;
                }
                if let (1, Some(last)) = (known.len(), known.first()) {
                    *points = Points::One(last.clone());
                }
            }
        }
        self.entries -= 1;
    }

    fn insert(&mut self, place: Sorted, point: &Point) {
        let is_new = match self.values.get_mut(&place) {
            None => self.values.insert(place, Points::One(point.clone())).is_none(),
            Some(Points::One(known)) if known == point => false,
            Some(Points::Many(known)) => known.insert(point.clone()),
            Some(points) => {
                if let Points::One(known) = &*points {
                    *points = Points::Many(Box::new([known.clone(), point.clone()].into()));
                }
                true
            }
        };
        self.entries += usize::from(is_new);
    }

    /// For each range of a scope, the points whose values are in it, in no order.
    pub(super) fn ranges<'a>(
        &'a self,
        scope: &Scope,
    ) -> impl Iterator<Item = impl Iterator<Item = &'a Point> + use<'a>> + use<'a> {
        let numbers = scope.numbers.iter().filter(|range| range.key == self.key).map(of_numbers);
        let texts = scope.texts.iter().filter(|range| range.key == self.key).map(of_texts);
        let ends: Vec<Ends> = numbers.chain(texts).collect();
        ends.into_iter().map(|ends| {
            let values = ends.map(|ends| self.values.range(ends));
            values.into_iter().flatten().flat_map(|(_, points)| points.iter())
        })
    }

    /// All points in the order of their values, those of one value in the order of points.
    pub(super) fn ranked(&self, descending: bool) -> Box<dyn Iterator<Item = &Point> + '_> {
        // What reads as a number has its place as one.
        let has_place = |(value, _): &(&Sorted, &Points)| match value {
            Sorted::Text(text) => Value::Text(text.clone()).as_number().is_none(),
            Sorted::Number(_) | Sorted::Bool(_) => true,
        };
        let values = self.values.iter();
        match descending {
            false => Box::new(values.filter(has_place).flat_map(|(_, points)| points.iter())),
            true => Box::new(values.rev().filter(has_place).flat_map(|(_, points)| points.iter())),
        }
    }
}

impl Points {
    fn iter(&self) -> impl Iterator<Item = &Point> {
        let (one, many) = match self {
            Points::One(point) => (Some(point), None),
            Points::Many(points) => (None, Some(points.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Where a value stands.
fn places(value: &Value) -> impl Iterator<Item = Sorted> + use<> {
    let place = Sorted::of(value);
    let as_text = match (&place, value) {
        (Some(Sorted::Number(_)), Value::Text(text)) => Some(Sorted::Text(text.clone())),
        _ => None,
    };
    place.into_iter().chain(as_text)
}

/// The kind that a point declares, and where; `None` for everywhere.
fn declared_by(point: &Point) -> Option<(Base, Option<Point>)> {
    let (space, kebab) = point.as_str().split_once(":kinds:")?;
    let name = Name::from_kebab(kebab).filter(|name| name.to_kebab() == kebab)?;
    let space = match space {
        MESH => None,
        space => Some(space.parse().ok().filter(|space: &Point| space.depth() == 1)?),
    };
    Some((Base::Custom(name), space))
}

/// The ends of a stretch of values; `None` when nothing can be between.
type Ends = Option<(Bound<Sorted>, Bound<Sorted>)>;

fn of_numbers(range: &Range<f64>) -> Ends {
    let (least, text) = (Sorted::Number(f64::NEG_INFINITY), Sorted::Text(Arc::from("")));
    ends(range, |number| Sorted::Number(*number), least, text)
}

fn of_texts(range: &Range<Arc<str>>) -> Ends {
    let (least, truth) = (Sorted::Text(Arc::from("")), Sorted::Bool(false));
    ends(range, |text| Sorted::Text(text.clone()), least, truth)
}

fn ends<T>(range: &Range<T>, of: impl Fn(&T) -> Sorted, least: Sorted, beyond: Sorted) -> Ends {
    let (from, to) = (range.from.as_ref().map(&of), range.to.as_ref().map(&of));
    let from = if from == Bound::Unbounded { Bound::Included(least) } else { from };
    let to = if to == Bound::Unbounded { Bound::Excluded(beyond) } else { to };
    let is_open = match (&from, &to) {
        (Bound::Included(from), Bound::Included(to)) => from <= to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from < to
        }
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
    };
    is_open.then_some((from, to))
}
