//! What the registry promises of two resources, one of which stands under the other: the model that histories are held
//! against. The two are one thing here, since some operations concern both: what is made needs its parent, a parent is not
//! deleted under a child, or both go at once, and both are read at one moment.

use std::collections::HashSet;

use super::check::{Model, Operation};

/// The parent and the child, as places in what has one of each.
pub const PARENT: usize = 0;
/// See [`PARENT`].
pub const CHILD: usize = 1;

/// The registry's promise for a pair.
#[derive(Debug)]
pub struct Pair;

/// Both resources, as far as they are there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    records: [Option<Record>; 2],
    /// The latest revision that is known to have changed one of them.
    newest: u64,
}

/// One resource. Each write writes a number that no other writes, so that what is seen tells whose write it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Record {
    last: u64,
    whole: u64,
    version: u64,
    revision: Revision,
}

/// The revision that changed a resource last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Revision {
    At(u64),
    /// Nobody heard of the write; it came after this one.
    After(u64),
}

/// What was seen of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The number of the last write.
    pub last: u64,
    /// The number of the last write that wrote all properties.
    pub whole: u64,
    /// How often it was written since it was made.
    pub version: u64,
    /// The revision that wrote it last.
    pub revision: u64,
}

/// What is done when something is there where something is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is refused.
    New,
    /// It is left as it is.
    Ensure,
    /// It is written anew.
    Override,
}

/// What a client asked. `of` is [`PARENT`] or [`CHILD`]; what is expected is what the client saw once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Make it, with a number in both properties.
    Create {
        /// Which.
        of: usize,
        /// What if it is there.
        mode: Mode,
        /// The number.
        value: u64,
    },
    /// Write a number into one property or both.
    Set {
        /// Of which.
        of: usize,
        /// Into both.
        whole: bool,
        /// The number.
        value: u64,
        /// Only if it is still like this.
        expected: Option<Seen>,
    },
    /// Take it away.
    Delete {
        /// Which.
        of: usize,
        /// With what is below it.
        recursive: bool,
        /// Only if it is still like this.
        expected: Option<Seen>,
    },
    /// Read one.
    Get {
        /// Which.
        of: usize,
    },
    /// Read both at one moment.
    Both,
}

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was made.
    Made(Seen),
    /// It is so, now that it was read, found or written.
    Is(Seen),
    /// They are so, as far as they are there.
    Are([Option<Seen>; 2]),
    /// These were taken away.
    Deleted([bool; 2]),
    /// Nothing was done.
    Refused(Refusal),
}

/// Why nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not there, or its parent is not.
    NotFound,
    /// It is there already.
    Exists,
    /// It is not as was expected.
    Changed,
    /// Something is below it.
    HasChildren,
}

impl Call {
    /// Whether it changes something when it is done.
    pub fn writes(&self) -> bool {
        !matches!(self, Call::Get { .. } | Call::Both)
    }
}

impl Model for Pair {
    type State = State;
    type Call = Call;
    type Answer = Answer;

    fn answered(state: &State, call: &Call, answer: &Answer) -> Option<State> {
        let expected = match judge(state, call) {
            Err(refusal) => return (*answer == Answer::Refused(refusal)).then(|| state.clone()),
            Ok(expected) => expected,
        };
        match (expected, answer) {
            (Effect::Look { of }, Answer::Is(seen)) => state.shown(of, Some(seen)),
            (Effect::LookAtBoth, Answer::Are(seen)) => {
                let state = state.shown(PARENT, seen[PARENT].as_ref())?;
                state.shown(CHILD, seen[CHILD].as_ref())
            }
            (Effect::Write { of, record, made }, Answer::Made(seen) | Answer::Is(seen)) => {
                let told_made = matches!(answer, Answer::Made(_));
                (told_made == made).then(|| state.with(of, record).shown(of, Some(seen)))?
            }
            (Effect::Remove { gone }, Answer::Deleted(told)) => (gone == *told).then(|| state.without(gone)),
            _ => None,
        }
    }

    fn unheard(state: &State, call: &Call) -> Option<State> {
        match judge(state, call).ok()? {
            Effect::Look { .. } | Effect::LookAtBoth => None,
            Effect::Write { of, record, .. } => Some(state.with(of, record)),
            Effect::Remove { gone } => Some(state.without(gone)),
        }
    }

    fn only_looks(call: &Call, answer: &Answer) -> bool {
        !call.writes() || matches!(answer, Answer::Refused(_))
    }

    fn rank(call: &Call, answer: &Answer) -> Option<u64> {
        match (call, answer) {
            (Call::Set { .. } | Call::Create { mode: Mode::Override, .. }, Answer::Is(seen)) => {
                Some(seen.revision)
            }
            (Call::Create { .. }, Answer::Made(seen)) => Some(seen.revision),
            _ => None,
        }
    }
}

/// Gives all numbers that nobody saw and whose writes nobody heard of the same name, 0, so that these are the same to a
/// check: otherwise each order of them would have to be tried.
pub fn unname(history: &mut [Operation<Call, Answer>]) {
    let seen: HashSet<u64> = history
        .iter()
        .filter_map(|done| Some(done.answered.as_ref()?.1))
        .flat_map(|answer| match answer {
            Answer::Made(one) | Answer::Is(one) => [Some(one), None],
            Answer::Are(both) => both,
            Answer::Deleted(_) | Answer::Refused(_) => [None; 2],
        })
        .flatten()
        .flat_map(|seen| [seen.last, seen.whole])
        .collect();
    for done in history.iter_mut().filter(|done| done.answered.is_none()) {
        if let Call::Create { value, .. } | Call::Set { value, .. } = &mut done.call
            && !seen.contains(value)
        {
            *value = 0;
        }
    }
}

/// What a call does in a state.
enum Effect {
    Look { of: usize },
    LookAtBoth,
    Write { of: usize, record: Record, made: bool },
    Remove { gone: [bool; 2] },
}

fn judge(state: &State, call: &Call) -> Result<Effect, Refusal> {
    let written = Revision::After(state.newest);
    match *call {
        Call::Both => Ok(Effect::LookAtBoth),
        Call::Get { of } => state.record(of).map(|_| Effect::Look { of }),
        Call::Create { of, mode, value } => match (state.record(of), mode) {
            (Ok(_), Mode::New) => Err(Refusal::Exists),
            (Ok(_), Mode::Ensure) => Ok(Effect::Look { of }),
            (Ok(there), Mode::Override) => {
                let version = there.version + 1;
                let record = Record { last: value, whole: value, version, revision: written };
                Ok(Effect::Write { of, record, made: false })
            }
            (Err(_), _) => {
                if of == CHILD {
                    state.record(PARENT)?;
                }
                let record = Record { last: value, whole: value, version: 1, revision: written };
                Ok(Effect::Write { of, record, made: true })
            }
        },
        Call::Set { of, whole, value, expected } => {
            let there = state.expect(of, expected)?;
            let (version, whole) = (there.version + 1, if whole { value } else { there.whole });
            let record = Record { last: value, whole, version, revision: written };
            Ok(Effect::Write { of, record, made: false })
        }
        Call::Delete { of, recursive, expected } => {
            state.expect(of, expected)?;
            let mut gone = [of == PARENT, of == CHILD];
            if of == PARENT && state.record(CHILD).is_ok() {
                if !recursive {
                    return Err(Refusal::HasChildren);
                }
                gone[CHILD] = true;
            }
            Ok(Effect::Remove { gone })
        }
    }
}

impl State {
    fn record(&self, of: usize) -> Result<&Record, Refusal> {
        self.records[of].as_ref().ok_or(Refusal::NotFound)
    }

    fn expect(&self, of: usize, expected: Option<Seen>) -> Result<&Record, Refusal> {
        let record = self.record(of)?;
        // Each write has a number of its own, so this is whether the revision is the same.
        if expected.is_some_and(|expected| expected.last != record.last) {
            return Err(Refusal::Changed);
        }
        Ok(record)
    }

    fn with(&self, of: usize, record: Record) -> Self {
        let mut state = self.clone();
        state.records[of] = Some(record);
        state
    }

    fn without(&self, gone: [bool; 2]) -> Self {
        let mut state = self.clone();
        for of in [PARENT, CHILD] {
            state.records[of].take_if(|_| gone[of]);
        }
        state
    }

    /// The state when a resource is seen so in it; it then knows the revision.
    fn shown(&self, of: usize, seen: Option<&Seen>) -> Option<Self> {
        let (record, seen) = match (&self.records[of], seen) {
            (None, None) => return Some(self.clone()),
            (Some(record), Some(seen)) => (record, seen),
            _ => return None,
        };
        if (record.last, record.whole, record.version) != (seen.last, seen.whole, seen.version) {
            return None;
        }
        match record.revision {
            Revision::At(revision) => (revision == seen.revision).then(|| self.clone()),
            Revision::After(revision) => (revision < seen.revision).then(|| {
                let mut state =
                    self.with(of, Record { revision: Revision::At(seen.revision), ..record.clone() });
                state.newest = state.newest.max(seen.revision);
                state
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::check::{Verdict, check};

    fn seen(last: u64, whole: u64, version: u64, revision: u64) -> Seen {
        Seen { last, whole, version, revision }
    }

    /// Whether calls one after the other may be answered so; without an answer nobody heard of it.
    fn holds(calls: &[(Call, Option<Answer>)]) -> bool {
        let operation = |(n, (call, answer)): (usize, &(Call, Option<Answer>))| {
            let at = n as u64 * 2;
            Operation { by: 0, called: at, call: *call, answered: answer.map(|answer| (at + 1, answer)) }
        };
        let history: Vec<_> = calls.iter().enumerate().map(operation).collect();
        check::<Pair>(State::default(), &history, 10_000) == Verdict::Linearizable
    }

    const MADE: (Call, Option<Answer>) = (
        Call::Create { of: PARENT, mode: Mode::New, value: 1 },
        Some(Answer::Made(Seen { last: 1, whole: 1, version: 1, revision: 10 })),
    );
    const CHILD_MADE: (Call, Option<Answer>) = (
        Call::Create { of: CHILD, mode: Mode::New, value: 2 },
        Some(Answer::Made(Seen { last: 2, whole: 2, version: 1, revision: 11 })),
    );

    fn refused(refusal: Refusal) -> Option<Answer> {
        Some(Answer::Refused(refusal))
    }

    #[test]
    fn what_is_there_is_not_made_again() {
        let again = |mode| Call::Create { of: PARENT, mode, value: 5 };
        assert!(holds(&[MADE, (again(Mode::New), refused(Refusal::Exists))]));
        assert!(!holds(&[MADE, (again(Mode::New), Some(Answer::Made(seen(5, 5, 1, 12))))]));
        assert!(holds(&[MADE, (again(Mode::Ensure), Some(Answer::Is(seen(1, 1, 1, 10))))]));
        assert!(!holds(&[MADE, (again(Mode::Ensure), Some(Answer::Is(seen(5, 5, 2, 12))))]));
        assert!(holds(&[MADE, (again(Mode::Override), Some(Answer::Is(seen(5, 5, 2, 12))))]));
        assert!(!holds(&[MADE, (again(Mode::Override), Some(Answer::Is(seen(5, 5, 1, 12))))]));
    }

    #[test]
    fn a_child_needs_its_parent_and_goes_with_it() {
        let child = CHILD_MADE.0;
        assert!(holds(&[(child, refused(Refusal::NotFound))]) && !holds(&[CHILD_MADE]));
        let delete = |recursive| Call::Delete { of: PARENT, recursive, expected: None };
        assert!(holds(&[MADE, CHILD_MADE, (delete(false), refused(Refusal::HasChildren))]));
        assert!(!holds(&[MADE, CHILD_MADE, (delete(false), Some(Answer::Deleted([true, false])))]));
        assert!(!holds(&[MADE, (delete(false), refused(Refusal::HasChildren))]));
        let both_gone = (delete(true), Some(Answer::Deleted([true, true])));
        let nothing = (Call::Both, Some(Answer::Are([None, None])));
        let half = (Call::Both, Some(Answer::Are([None, Some(seen(2, 2, 1, 11))])));
        assert!(holds(&[MADE, CHILD_MADE, both_gone, nothing]));
        assert!(!holds(&[MADE, CHILD_MADE, both_gone, half]));
        assert!(!holds(&[MADE, both_gone]));
    }

    #[test]
    fn a_write_that_expects_something_is_done_when_it_is_so_and_refused_when_not() {
        let set =
            |last| Call::Set { of: PARENT, whole: false, value: 5, expected: Some(seen(last, last, 1, 10)) };
        let done = Some(Answer::Is(seen(5, 1, 2, 12)));
        assert!(holds(&[MADE, (set(1), done)]) && !holds(&[MADE, (set(1), refused(Refusal::Changed))]));
        assert!(!holds(&[MADE, (set(9), done)]) && holds(&[MADE, (set(9), refused(Refusal::Changed))]));
        assert!(holds(&[(set(9), refused(Refusal::NotFound))]));
        let delete =
            |last| Call::Delete { of: PARENT, recursive: true, expected: Some(seen(last, last, 1, 10)) };
        assert!(!holds(&[MADE, (delete(9), Some(Answer::Deleted([true, false])))]));
        assert!(holds(&[MADE, (delete(9), refused(Refusal::Changed))]));
    }

    #[test]
    fn what_is_read_is_whole_and_of_the_right_revision_and_version() {
        let get = |seen| (Call::Get { of: PARENT }, Some(Answer::Is(seen)));
        let set = |whole| Call::Set { of: PARENT, whole, value: 5, expected: None };
        let part = (set(false), Some(Answer::Is(seen(5, 1, 2, 12))));
        assert!(holds(&[MADE, part, get(seen(5, 1, 2, 12))]));
        for wrong in [seen(5, 5, 2, 12), seen(5, 1, 3, 12), seen(5, 1, 2, 13), seen(1, 1, 1, 10)] {
            assert!(!holds(&[MADE, part, get(wrong)]), "{wrong:?}");
        }
        // A later write has a later revision, and one that was not heard of has one too.
        assert!(!holds(&[MADE, (set(true), Some(Answer::Is(seen(5, 5, 2, 9))))]));
        assert!(holds(&[MADE, (set(true), None), get(seen(5, 5, 2, 12)), get(seen(5, 5, 2, 12))]));
        assert!(holds(&[MADE, (set(true), None), get(seen(1, 1, 1, 10)), get(seen(5, 5, 2, 12))]));
        assert!(!holds(&[MADE, (set(true), None), get(seen(5, 5, 2, 12)), get(seen(5, 5, 2, 13))]));
        assert!(!holds(&[MADE, (set(true), None), get(seen(5, 5, 2, 9))]));
        assert!(!holds(&[MADE, (set(true), None), get(seen(5, 5, 2, 12)), get(seen(1, 1, 1, 10))]));
    }
}
