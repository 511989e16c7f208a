//! Sets of the numbers of groups. Most have one member, and then take no memory of their own.

use std::collections::{BTreeSet, btree_set};

#[expect(clippy::box_collection, reason = "a set of one, which most are, is to be small")]
#[derive(Default)]
pub(super) enum Numbers {
    #[default]
    None,
    One(u32),
    Many(Box<BTreeSet<u32>>),
}

impl Numbers {
    pub(super) fn insert(&mut self, number: u32) {
        match self {
            Numbers::None => *self = Numbers::One(number),
            Numbers::One(known) if *known == number => {}
            Numbers::One(known) => *self = Numbers::Many(Box::new([*known, number].into())),
            Numbers::Many(known) => drop(known.insert(number)),
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        match self {
            Numbers::One(known) if *known == number => *self = Numbers::None,
            Numbers::None | Numbers::One(_) => {}
            Numbers::Many(known) => {
                known.remove(&number);
                if let (1, Some(last)) = (known.len(), known.first()) {
                    *self = Numbers::One(*last);
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Numbers::None)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Numbers::None => 0,
            Numbers::One(_) => 1,
            Numbers::Many(known) => known.len(),
        }
    }

    pub(super) fn iter(&self) -> Iter<'_> {
        match self {
            Numbers::None => Iter::One(None),
            Numbers::One(known) => Iter::One(Some(*known)),
            Numbers::Many(known) => Iter::Many(known.iter()),
        }
    }
}

pub(super) enum Iter<'a> {
    One(Option<u32>),
    Many(btree_set::Iter<'a, u32>),
}

impl Iterator for Iter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        match self {
            Iter::One(number) => number.take(),
            Iter::Many(numbers) => numbers.next().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_grows_and_shrinks() {
        let mut numbers = Numbers::default();
        let mut model = BTreeSet::new();
        for (insert, number) in [
            (true, 3),
            (true, 3),
            (true, 1),
            (false, 7),
            (true, 2),
            (false, 3),
            (false, 1),
            (false, 2),
            (false, 2),
        ] {
            match insert {
                true => {
                    numbers.insert(number);
                    model.insert(number);
                }
                false => {
                    numbers.remove(number);
                    model.remove(&number);
                }
            }
            assert_eq!((numbers.len(), numbers.is_empty()), (model.len(), model.is_empty()));
            assert!(numbers.iter().eq(model.iter().copied()));
        }
    }
}
