//! Finds, of many ranges of numbers, those that a number is in, without looking at the others.
//!
//! Ranges that are open at one end stand in the order of the other end. Those with two ends stand in cells that are as wide as
//! they are, or up to twice as wide, so that each is in two cells at most; what is found there is near the number, and is
//! compared.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use starlane_core::Range;

use super::numbers::Numbers;

/// The groups whose filters ask for a range of one property.
#[derive(Default)]
pub(super) struct Bands {
    /// By where they begin.
    above: BTreeMap<End, Numbers>,
    /// By where they end.
    below: BTreeMap<End, Numbers>,
    /// By the power of two that is the width of their cells, and by cell.
    between: BTreeMap<i32, HashMap<i64, Numbers>>,
}

/// Where a range begins or ends. `beyond` says that a number which is the end itself lies before it.
#[derive(Clone, Copy)]
struct End {
    number: f64,
    beyond: bool,
}

/// Where a range stands.
enum Place {
    Above(End),
    Below(End),
    Between(i32, i64, i64),
    /// It has no end at all.
    Everywhere,
}

impl Bands {
    pub(super) fn insert(&mut self, range: &Range<f64>, number: u32) {
        match place_of(range) {
            Place::Above(end) => self.above.entry(end).or_default().insert(number),
            Place::Everywhere => self.above.entry(End::LEAST).or_default().insert(number),
            Place::Below(end) => self.below.entry(end).or_default().insert(number),
            Place::Between(width, first, last) => {
                let cells = self.between.entry(width).or_default();
                for cell in first..=last {
                    cells.entry(cell).or_default().insert(number);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, range: &Range<f64>, number: u32) {
        match place_of(range) {
            Place::Above(end) => take(&mut self.above, end, number),
            Place::Everywhere => take(&mut self.above, End::LEAST, number),
            Place::Below(end) => take(&mut self.below, end, number),
            Place::Between(width, first, last) => {
                let Some(cells) = self.between.get_mut(&width) else { return };
                for cell in first..=last {
                    if let Some(numbers) = cells.get_mut(&cell) {
                        numbers.remove(number);
                        if numbers.is_empty() {
                            cells.remove(&cell);
                        }
                    }
                }
                if cells.is_empty() {
                    self.between.remove(&width);
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.above.is_empty() && self.below.is_empty() && self.between.is_empty()
    }

    /// Those that a value is in, and some of those with two ends that it is near to.
    pub(super) fn near(&self, value: f64) -> impl Iterator<Item = &Numbers> {
        let above = self.above.range(..=End { number: value, beyond: false });
        let below = self.below.range(End { number: value, beyond: true }..);
        let cells = self.between.iter().filter_map(move |(width, cells)| cells.get(&cell_of(value, *width)));
        above.chain(below).map(|(_, numbers)| numbers).chain(cells)
    }
}

impl End {
    const LEAST: Self = Self { number: f64::NEG_INFINITY, beyond: false };
}

fn place_of(range: &Range<f64>) -> Place {
    let from = match range.from {
        Bound::Included(number) => Some(End { number, beyond: false }),
        Bound::Excluded(number) => Some(End { number, beyond: true }),
        Bound::Unbounded => None,
    };
    let to = match range.to {
        Bound::Included(number) => Some(End { number, beyond: true }),
        Bound::Excluded(number) => Some(End { number, beyond: false }),
        Bound::Unbounded => None,
    };
    match (from, to) {
        (None, None) => Place::Everywhere,
        (Some(from), None) => Place::Above(from),
        (None, Some(to)) => Place::Below(to),
        (Some(from), Some(to)) => match width_of(from.number, to.number) {
            Some(width) => Place::Between(width, cell_of(from.number, width), cell_of(to.number, width)),
            None => Place::Above(from),
        },
    }
}

/// The power of two that is the width of the cells for a range; `None` when it has no finite width.
fn width_of(from: f64, to: f64) -> Option<i32> {
    let width = to - from;
    if !(0.0..f64::INFINITY).contains(&width) {
        return None;
    }
    // Where numbers are so far apart that a cell has one of them, cells are no narrower.
    let finest = from.abs().max(to.abs()) * f64::EPSILON;
    let width = width.max(finest).max(f64::MIN_POSITIVE);
    let power = width.log2().ceil() as i32;
    Some(if f64::from(power).exp2() < width { power + 1 } else { power })
}

fn cell_of(number: f64, width: i32) -> i64 {
    // What is out of bounds is in the last cell, where nothing else is.
    (number / f64::from(width).exp2()).floor() as i64
}

fn take(ends: &mut BTreeMap<End, Numbers>, end: End, number: u32) {
    if let Some(numbers) = ends.get_mut(&end) {
        numbers.remove(number);
        if numbers.is_empty() {
            ends.remove(&end);
        }
    }
}

impl PartialEq for End {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for End {}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for End {
    fn cmp(&self, other: &Self) -> Ordering {
        // Zero has two signs.
        (self.number + 0.0).total_cmp(&(other.number + 0.0)).then(self.beyond.cmp(&other.beyond))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound::{Excluded, Included, Unbounded};

    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = f64> {
        let ends = [0.0, -0.0, 1.0, -1.0, 0.1, 1e300, -1e300, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324];
        prop_oneof![
            3 => (-20i32..20).prop_map(f64::from),
            1 => prop::sample::select(ends.to_vec()),
            1 => prop::num::f64::NORMAL,
        ]
    }

    fn bound() -> impl Strategy<Value = Bound<f64>> {
        prop_oneof![
            3 => number().prop_map(Included),
            3 => number().prop_map(Excluded),
            1 => Just(Unbounded),
        ]
    }

    proptest! {
        #[test]
        fn what_a_value_is_in_is_found(
            ends in prop::collection::vec((bound(), bound()), 1..40),
            values in prop::collection::vec(number(), 1..40),
        ) {
            let mut bands = Bands::default();
            let key: starlane_core::Key = "total".parse().unwrap();
            let ranges: Vec<_> = ends.into_iter().map(|(from, to)| Range { key: key.clone(), from, to }).collect();
            for (number, range) in (0..).zip(&ranges) {
                bands.insert(range, number);
            }
            for value in values {
                let found: BTreeSet<u32> = bands.near(value).flat_map(Numbers::iter).collect();
                for (number, range) in (0..).zip(&ranges) {
                    prop_assert!(found.contains(&number) || !range.contains(&value), "{value} in {range:?}");
                    // One that is open at an end is found when the value is in it alone.
                    let open = matches!(place_of(range), Place::Above(_) | Place::Below(_));
                    let empty = range.to != Unbounded && range.from != Unbounded;
                    prop_assert!(!open || empty || !found.contains(&number) || range.contains(&value));
                }
            }
            for (number, range) in (0..).zip(&ranges) {
                bands.remove(range, number);
            }
            prop_assert!(bands.is_empty());
        }
    }

    #[test]
    fn of_many_narrow_ranges_few_are_near() {
        let mut bands = Bands::default();
        let key: starlane_core::Key = "total".parse().unwrap();
        for number in 0..10_000u32 {
            let from = f64::from(number);
            let to = from + f64::from(number % 7);
            bands.insert(&Range { key: key.clone(), from: Included(from), to: Excluded(to) }, number);
        }
        for value in [0.0, 1.5, 17.0, 5_000.5, 9_999.0, 10_001.0, 1e9] {
            let near = bands.near(value).flat_map(Numbers::iter).count();
            assert!(near <= 40, "{near} are near {value}");
        }
    }
}
