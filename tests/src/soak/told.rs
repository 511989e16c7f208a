//! What watches told, held against each other: each commit whole, once, in order, and by all that were to tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Mutex;

/// What a commit did to a resource: to which, what, and by which revision it was written.
pub(super) type Change = (String, char, u64);
/// All that a commit did.
pub(super) type Commit = BTreeSet<Change>;

/// The commits as whoever told them first told them.
#[derive(Debug, Default)]
pub(super) struct Commits(Mutex<BTreeMap<u64, Commit>>);

impl Commits {
    /// Whether others told the same of this commit.
    fn agrees(&self, revision: u64, commit: Commit) -> bool {
        let mut known = self.0.lock().expect("nobody panics with it");
        *known.entry(revision).or_insert_with(|| commit.clone()) == commit
    }

    /// All that anybody told.
    pub(super) fn all(self) -> BTreeMap<u64, Commit> {
        self.0.into_inner().expect("nobody panics with it")
    }
}

/// What one watch told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What is there, by what was told: each with the revision that wrote it.
    pub(super) there: BTreeMap<String, u64>,
    /// How often it was told that what it missed is no longer known.
    pub(super) gone: usize,
    /// Commits that others told otherwise.
    pub(super) split: usize,
    /// Commits that were told again.
    pub(super) repeated: usize,
    /// Commits that were told after later ones.
    pub(super) reordered: usize,
    /// What was told in a row, each from a list on.
    rows: Vec<Row>,
    /// Whether a list is being told.
    listing: bool,
}

#[derive(Debug)]
struct Row {
    from: u64,
    to: u64,
    revisions: BTreeSet<u64>,
}

impl Told {
    /// A page of a list.
    pub(super) fn listed(
        &mut self,
        revision: u64,
        page: impl IntoIterator<Item = (String, u64)>,
        last: bool,
    ) {
        if !self.listing {
            self.there.clear();
            self.rows.push(Row { from: revision, to: revision, revisions: BTreeSet::new() });
        }
        self.there.extend(page);
        self.listing = !last;
    }

    /// The changes of a commit.
    pub(super) fn changed(&mut self, revision: u64, commit: Commit, commits: &Commits) {
        for (point, change, written) in &commit {
            match change {
                'l' => drop(self.there.remove(point)),
                _ => drop(self.there.insert(point.clone(), *written)),
            }
        }
        let Some(row) = self.rows.last_mut() else { return self.reordered += 1 };
        if !row.revisions.insert(revision) {
            self.repeated += 1;
        } else if revision <= row.to {
            self.reordered += 1;
        }
        row.to = row.to.max(revision);
        self.split += usize::from(!commits.agrees(revision, commit));
    }

    /// What it missed is no longer known; a list follows.
    pub(super) fn gone(&mut self) {
        self.gone += 1;
        self.listing = false;
    }

    /// It goes on in another stream; a list that was cut off is told anew.
    pub(super) fn opened(&mut self) {
        self.listing = false;
    }

    /// How many commits this watch did not tell though it told earlier and later ones.
    pub(super) fn missed(&self, all: &BTreeMap<u64, Commit>) -> usize {
        let missed = |row: &Row| {
            let between = all.range((Bound::Excluded(row.from), Bound::Included(row.to)));
            between.filter(|(revision, _)| !row.revisions.contains(revision)).count()
        };
        self.rows.iter().map(missed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(point: &str, revision: u64) -> Commit {
        BTreeSet::from([(point.to_owned(), 'e', revision)])
    }

    /// A watch that listed nothing at revision 1.
    fn begun() -> Told {
        let mut told = Told::default();
        told.listed(1, [], true);
        told
    }

    #[test]
    fn what_is_whole_once_and_in_order_is_right() {
        let (commits, mut told) = (Commits::default(), begun());
        told.changed(2, entered("a", 2), &commits);
        told.changed(5, entered("b", 5), &commits);
        told.changed(6, BTreeSet::from([("a".to_owned(), 'l', 2), ("b".to_owned(), 'l', 5)]), &commits);
        assert_eq!((told.repeated, told.reordered, told.split, told.missed(&commits.all())), (0, 0, 0, 0));
        assert!(told.there.is_empty());
    }

    #[test]
    fn each_fault_is_counted() {
        let (commits, mut other) = (Commits::default(), begun());
        for revision in 2..6 {
            other.changed(revision, entered("a", revision), &commits);
        }
        let mut told = begun();
        told.changed(2, entered("a", 2), &commits);
        told.changed(2, entered("a", 2), &commits);
        assert_eq!(told.repeated, 1);
        told.changed(5, entered("b", 5), &commits);
        assert_eq!(told.split, 1);
        told.changed(4, entered("a", 4), &commits);
        assert_eq!(told.reordered, 1);
        assert_eq!(told.missed(&commits.all()), 1);
    }

    #[test]
    fn what_a_list_stands_for_is_not_missed() {
        let (commits, mut other) = (Commits::default(), begun());
        for revision in 2..6 {
            other.changed(revision, entered("a", revision), &commits);
        }
        let mut told = begun();
        told.gone();
        told.listed(4, [("a".to_owned(), 4)], false);
        told.listed(4, [("b".to_owned(), 3)], true);
        told.changed(5, entered("a", 5), &commits);
        assert_eq!((told.gone, told.missed(&commits.all())), (1, 0));
        assert_eq!(told.there, BTreeMap::from([("a".to_owned(), 5), ("b".to_owned(), 3)]));
    }
}
