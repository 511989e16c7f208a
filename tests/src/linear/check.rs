//! Whether a history of concurrent operations is linearizable (Herlihy and Wing, 1990).
//!
//! The search is that of Wing and Gong (*Testing and verifying concurrent objects*, 1993): an order is built from the front,
//! of operations that may come next, and taken back where it leads nowhere. What was tried is remembered, as Lowe has it
//! (*Testing for linearizability*, 2017) and Porcupine does: the same operations in another order that lead to the same
//! state need not be tried again. Histories of things that do not touch each other are to be checked one by one (Horn and
//! Kroening, *Faster linearizability checking via P-compositionality*, 2015).
//!
//! An operation whose answer nobody heard may have taken effect at any moment after its call, or never, and each doubles
//! what there is to try. So some is left out that proves nothing:
//! - One that only looks and may come next is put there at once: in any order that has it later it can be moved to the front.
//! - Those that nobody heard of are tried last, equal ones in the order of their calls, and where fewer of them led to the
//!   same state with all else equal, more are not tried: they are never needed.
//! - What tells its rank is tried in that order alone.

use std::collections::HashMap;
use std::hash::Hash;

/// What something does when it is asked by one after the other.
pub trait Model {
    /// What it remembers.
    type State: Clone + Eq + Hash;
    /// What it can be asked.
    type Call: PartialEq;
    /// What it can answer.
    type Answer;

    /// The state after a call that was answered so; `None` when it cannot be answered so in that state.
    fn answered(state: &Self::State, call: &Self::Call, answer: &Self::Answer) -> Option<Self::State>;

    /// The state after a call whose answer nobody heard; `None` when it changes nothing in that state.
    fn unheard(state: &Self::State, call: &Self::Call) -> Option<Self::State>;

    /// Whether a call that was answered so changes nothing, in whichever state.
    fn only_looks(call: &Self::Call, answer: &Self::Answer) -> bool;

    /// The place among all that have one, of what changed something and tells it. The states must not permit another order:
    /// this only saves to try it.
    fn rank(_call: &Self::Call, _answer: &Self::Answer) -> Option<u64> {
        None
    }
}

/// One operation of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<C, A> {
    /// Who asked.
    pub by: usize,
    /// When, on the one clock of the history.
    pub called: u64,
    /// What.
    pub call: C,
    /// When it was answered, and what. Without it the operation took effect at any moment after its call, or never.
    pub answered: Option<(u64, A)>,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order in which each was answered as it had to be.
    Linearizable,
    /// There is none.
    Illegal {
        /// How many of those that were answered the longest order has.
        ordered: usize,
        /// The place in the history of the operation that had to come next at the latest, and could not.
        stuck: usize,
    },
    /// It was not found out with as much work as was allowed.
    Undecided,
}

/// Checks a history that began in a state. It gives up after `steps_max` steps of the search, which bounds its time and
/// its memory.
pub fn check<M: Model>(
    start: M::State,
    history: &[Operation<M::Call, M::Answer>],
    steps_max: usize,
) -> Verdict {
    let mut answered: Vec<usize> = (0..history.len()).filter(|at| history[*at].answered.is_some()).collect();
    answered.sort_by_key(|at| history[*at].called);
    let mut open: Vec<usize> = (0..history.len()).filter(|at| history[*at].answered.is_none()).collect();
    open.sort_by_key(|at| history[*at].called);
    let rank = |slot: &usize| {
        let operation = &history[answered[*slot]];
        operation.answered.as_ref().and_then(|(_, answer)| M::rank(&operation.call, answer))
    };
    let mut ranked: Vec<usize> = (0..answered.len()).filter(|slot| rank(slot).is_some()).collect();
    ranked.sort_by_key(rank);
    let mut ranks = vec![None; answered.len()];
    ranked.iter().enumerate().for_each(|(rank, slot)| ranks[*slot] = Some(rank));
    let search = Search::<M> { history, answered, open, ranks };

    let (mut known, mut steps) = (HashMap::<_, Vec<Slots>>::new(), 0);
    let (mut furthest, mut stuck) = (0, 0);
    let mut left =
        vec![Position { done: Slots::default(), ranked: 0, taken: Slots::default(), state: start }];
    while let Some(mut position) = left.pop() {
        search.settle(&mut position);
        let (next, latest) = search.next(&position.done);
        let Some(latest) = latest else { return Verdict::Linearizable };
        let ordered = position.done.count();
        if ordered >= furthest {
            (furthest, stuck) = (ordered, latest);
        }
        let tried = known.entry((position.done.clone(), position.state.clone())).or_default();
        steps += 1 + tried.len();
        if tried.iter().any(|taken| taken.is_within(&position.taken)) {
            continue;
        }
        if steps > steps_max {
            return Verdict::Undecided;
        }
        tried.push(position.taken.clone());
        left.extend(search.branches(&position, next, latest));
    }
    Verdict::Illegal { ordered: furthest, stuck }
}

/// Where a search is: what is in order so far, and to which state it led.
#[derive(Clone)]
struct Position<S> {
    /// Those of the answered that are in order.
    done: Slots,
    /// How many of them have a rank.
    ranked: usize,
    /// Those of the others that took effect.
    taken: Slots,
    state: S,
}

struct Search<'a, M: Model> {
    history: &'a [Operation<M::Call, M::Answer>],
    /// Places of those that were answered, in the order of their calls.
    answered: Vec<usize>,
    /// Places of the others, in the order of their calls.
    open: Vec<usize>,
    /// The ranks of the answered, from 0 on.
    ranks: Vec<Option<usize>>,
}

impl<M: Model> Search<'_, M> {
    /// The answered that may come next, as slots, and the place of the one that was answered first: nothing that was called
    /// after that answer comes before it. `None` when all are in order.
    fn next(&self, done: &Slots) -> (Vec<usize>, Option<usize>) {
        let (mut next, mut latest): (Vec<usize>, Option<usize>) = (Vec::new(), None);
        for slot in done.first_missing()..self.answered.len() {
            let at = self.answered[slot];
            if latest.is_some_and(|latest| self.history[at].called > self.end(latest)) {
                break;
            }
            if !done.has(slot) {
                next.push(slot);
                latest = Some(match latest {
                    Some(latest) if self.end(latest) <= self.end(at) => latest,
                    _ => at,
                });
            }
        }
        (next, latest)
    }

    fn end(&self, at: usize) -> u64 {
        self.history[at].answered.as_ref().map_or(u64::MAX, |(end, _)| *end)
    }

    fn step(&self, state: &M::State, slot: usize) -> Option<M::State> {
        let operation = &self.history[self.answered[slot]];
        let (_, answer) = operation.answered.as_ref()?;
        M::answered(state, &operation.call, answer)
    }

    /// Puts in order what may come next and only looks.
    fn settle(&self, position: &mut Position<M::State>) {
        loop {
            let before = position.done.count();
            for slot in self.next(&position.done).0 {
                let operation = &self.history[self.answered[slot]];
                let looks = |(_, answer): &(u64, M::Answer)| M::only_looks(&operation.call, answer);
                if !operation.answered.as_ref().is_some_and(looks) {
                    continue;
                }
                if self.step(&position.state, slot).is_some_and(|state| state == position.state) {
                    position.done.add(slot);
                }
            }
            if position.done.count() == before {
                return;
            }
        }
    }

    /// Where a position may lead, what is to be tried first at the end.
    fn branches(
        &self,
        position: &Position<M::State>,
        mut next: Vec<usize>,
        latest: usize,
    ) -> Vec<Position<M::State>> {
        let by = self.end(latest);
        let open = self.open.iter().enumerate().take_while(|(_, at)| self.history[**at].called <= by);
        let open: Vec<_> = open.filter(|(slot, _)| !position.taken.has(*slot)).collect();
        let first = |(n, (_, at)): &(usize, &(usize, &usize))| {
            let call = &self.history[**at].call;
            open[..*n].iter().all(|(_, before)| self.history[**before].call != *call)
        };
        let mut branches: Vec<_> = open
            .iter()
            .enumerate()
            .filter(first)
            .filter_map(|(_, (slot, at))| {
                let state = M::unheard(&position.state, &self.history[**at].call)?;
                let mut branch = Position { state, ..position.clone() };
                branch.taken.add(*slot);
                Some(branch)
            })
            .collect();
        next.sort_by_key(|slot| std::cmp::Reverse(self.end(self.answered[*slot])));
        next.retain(|slot| self.ranks[*slot].is_none_or(|rank| rank == position.ranked));
        branches.extend(next.into_iter().filter_map(|slot| {
            let state = self.step(&position.state, slot)?;
            let mut branch = Position { state, ..position.clone() };
            branch.done.add(slot);
            branch.ranked += usize::from(self.ranks[slot].is_some());
            Some(branch)
        }));
        branches
    }
}

/// A set of numbers, most of which are below all that are missing. Equal sets have equal fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Slots {
    /// How many words before the first of `words` are full.
    full: usize,
    words: Vec<u64>,
}

impl Slots {
    fn has(&self, slot: usize) -> bool {
        match (slot / 64).checked_sub(self.full) {
            None => true,
            Some(word) => self.words.get(word).is_some_and(|word| word >> (slot % 64) & 1 == 1),
        }
    }

    /// Adds a number that is missing.
    fn add(&mut self, slot: usize) {
        let word = slot / 64 - self.full;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (slot % 64);
        let full = self.words.iter().take_while(|word| **word == u64::MAX).count();
        self.words.drain(..full);
        self.full += full;
    }

    /// Whether all of these are in the other.
    fn is_within(&self, other: &Self) -> bool {
        let word = |slots: &Self, at: usize| match at.checked_sub(slots.full) {
            None => u64::MAX,
            Some(at) => slots.words.get(at).copied().unwrap_or_default(),
        };
        (0..self.full + self.words.len()).all(|at| word(self, at) & !word(other, at) == 0)
    }

    fn first_missing(&self) -> usize {
        self.full * 64 + self.words.first().map_or(0, |word| word.trailing_ones() as usize)
    }

    fn count(&self) -> usize {
        self.full * 64 + self.words.iter().map(|word| word.count_ones() as usize).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Random;

    /// A number that is read, written, and exchanged for another when it is what is expected.
    struct Register;

    #[derive(Debug, Clone, PartialEq)]
    enum Call {
        Read,
        Write(u8),
        Exchange(u8, u8),
    }

    #[derive(Debug, Clone, PartialEq)]
    enum Answer {
        Is(u8),
        Done,
        Refused,
    }

    impl Model for Register {
        type State = u8;
        type Call = Call;
        type Answer = Answer;

        fn answered(state: &u8, call: &Call, answer: &Answer) -> Option<u8> {
            match (call, answer) {
                (Call::Read, Answer::Is(value)) => (value == state).then_some(*state),
                (Call::Write(value), Answer::Done) => Some(*value),
                (Call::Exchange(from, to), Answer::Done) => (from == state).then_some(*to),
                (Call::Exchange(from, _), Answer::Refused) => (from != state).then_some(*state),
                _ => None,
            }
        }

        fn unheard(state: &u8, call: &Call) -> Option<u8> {
            match call {
                Call::Read => None,
                Call::Write(value) => Some(*value),
                Call::Exchange(from, to) => (from == state).then_some(*to),
            }
        }

        fn only_looks(_: &Call, answer: &Answer) -> bool {
            *answer != Answer::Done
        }
    }

    type Done = Operation<Call, Answer>;

    const MANY: usize = 1_000_000;

    fn at(called: u64, end: u64, call: Call, answer: Answer) -> Done {
        Operation { by: 0, called, call, answered: Some((end, answer)) }
    }

    fn read(called: u64, end: u64, value: u8) -> Done {
        at(called, end, Call::Read, Answer::Is(value))
    }

    fn write(called: u64, end: u64, value: u8) -> Done {
        at(called, end, Call::Write(value), Answer::Done)
    }

    fn open(called: u64, call: Call) -> Done {
        Operation { by: 0, called, call, answered: None }
    }

    #[track_caller]
    fn legal(history: &[Done]) {
        assert_eq!(check::<Register>(0, history, MANY), Verdict::Linearizable);
    }

    #[track_caller]
    fn illegal(history: &[Done]) {
        let verdict = check::<Register>(0, history, MANY);
        assert!(matches!(verdict, Verdict::Illegal { .. }), "{verdict:?}");
    }

    #[test]
    fn one_after_the_other_is_as_the_model_says() {
        legal(&[]);
        legal(&[read(0, 1, 0), write(2, 3, 7), read(4, 5, 7)]);
        illegal(&[read(0, 1, 0), write(2, 3, 7), read(4, 5, 0)]);
        illegal(&[read(0, 1, 1)]);
    }

    #[test]
    fn at_the_same_time_either_order_is_right_but_one_for_all() {
        legal(&[write(0, 10, 1), read(1, 2, 0), read(3, 4, 1)]);
        legal(&[write(0, 10, 1), write(0, 10, 2), read(11, 12, 1)]);
        legal(&[write(0, 10, 1), write(0, 10, 2), read(11, 12, 2)]);
        // Once the new value was read, nobody reads the old one.
        illegal(&[write(0, 10, 1), read(1, 2, 1), read(3, 4, 0)]);
        // Two readers must not see two writes in different orders.
        let writes = [write(0, 1, 1), write(2, 20, 2), write(2, 20, 3)];
        let readers = |seen: [u8; 4]| {
            let reads = seen
                .into_iter()
                .enumerate()
                .map(|(n, value)| read(3 + n as u64 * 2, 4 + n as u64 * 2, value));
            [writes.to_vec(), reads.collect()].concat()
        };
        legal(&readers([2, 2, 3, 3]));
        illegal(&readers([2, 3, 2, 3]));
    }

    #[test]
    fn a_write_that_is_lost_and_a_value_that_nobody_wrote_are_found() {
        let exchange = |called, end, from, to, answer| at(called, end, Call::Exchange(from, to), answer);
        legal(&[exchange(0, 10, 0, 1, Answer::Done), exchange(0, 10, 0, 2, Answer::Refused)]);
        illegal(&[exchange(0, 10, 0, 1, Answer::Done), exchange(0, 10, 0, 2, Answer::Done)]);
        illegal(&[exchange(0, 10, 0, 1, Answer::Refused)]);
        illegal(&[write(0, 1, 1), read(0, 3, 2)]);
    }

    #[test]
    fn what_nobody_heard_of_took_effect_at_any_later_time_or_never() {
        legal(&[open(0, Call::Write(1)), read(1, 2, 0), read(3, 4, 0)]);
        legal(&[open(0, Call::Write(1)), read(1, 2, 0), read(100, 101, 1)]);
        legal(&[open(0, Call::Write(1)), write(5, 6, 2), read(7, 8, 2), read(9, 10, 1)]);
        // But not before it was asked, and not twice.
        illegal(&[read(0, 1, 1), open(2, Call::Write(1))]);
        illegal(&[open(0, Call::Write(1)), read(1, 2, 1), write(3, 4, 2), read(5, 6, 2), read(7, 8, 1)]);
    }

    #[test]
    fn it_says_where_an_illegal_history_is_stuck() {
        let history = [write(0, 1, 1), read(2, 3, 1), read(4, 5, 0), read(6, 7, 1)];
        assert_eq!(check::<Register>(0, &history, MANY), Verdict::Illegal { ordered: 2, stuck: 2 });
    }

    #[test]
    fn too_much_work_is_no_verdict() {
        // Writes that nobody heard of, and a value that no order of them explains: each set of them is tried.
        let mut history: Vec<Done> = (0..20).map(|n| open(n, Call::Exchange(n as u8, n as u8 + 1))).collect();
        history.extend((1..20).map(|n| open(30, Call::Write(n))));
        history.push(read(50, 51, 200));
        assert_eq!(check::<Register>(0, &history, 1_000), Verdict::Undecided);
    }

    /// Tries every order of every choice of what took effect.
    fn by_force(state: u8, left: &[Done]) -> bool {
        let first_end = left.iter().filter_map(|done| done.answered.as_ref().map(|(end, _)| *end)).min();
        let Some(first_end) = first_end else { return true };
        left.iter().enumerate().filter(|(_, done)| done.called <= first_end).any(|(n, done)| {
            let after = match &done.answered {
                Some((_, answer)) => Register::answered(&state, &done.call, answer),
                None => Register::unheard(&state, &done.call),
            };
            let others = [&left[..n], &left[n + 1..]].concat();
            after.is_some_and(|after| by_force(after, &others))
        })
    }

    fn any(random: &mut Random, length: u64) -> Vec<Done> {
        let operation = |random: &mut Random| {
            let value = |random: &mut Random| random.below(3) as u8;
            let (call, answer) = match random.below(4) {
                0 | 1 => (Call::Read, Answer::Is(value(random))),
                2 => (Call::Write(value(random)), Answer::Done),
                _ => {
                    let answer = if random.chance(0.5) { Answer::Done } else { Answer::Refused };
                    (Call::Exchange(value(random), value(random)), answer)
                }
            };
            let called = random.below(12);
            let answered = (!random.chance(0.25)).then(|| (called + 1 + random.below(6), answer));
            Operation { by: 0, called, call, answered }
        };
        (0..length).map(|_| operation(random)).collect()
    }

    #[test]
    fn it_agrees_with_trying_every_order() {
        let mut found = [0, 0];
        for seed in 0..20_000 {
            let mut random = Random::new(seed);
            let length = 1 + random.below(7);
            let history = any(&mut random, length);
            let expected = by_force(0, &history);
            let verdict = check::<Register>(0, &history, MANY);
            assert_eq!(
                verdict == Verdict::Linearizable,
                expected,
                "seed {seed}: {verdict:?} of {history:#?}"
            );
            found[usize::from(expected)] += 1;
        }
        assert!(found[0] > 2_000 && found[1] > 2_000, "both kinds were met: {found:?}");
    }

    #[test]
    fn a_set_is_the_same_whatever_came_first() {
        let mut random = Random::new(3);
        let mut slots: Vec<usize> = (0..200).collect();
        let (mut one, mut other) = (Slots::default(), Slots::default());
        slots.iter().for_each(|slot| one.add(*slot));
        while !slots.is_empty() {
            let slot = slots.swap_remove(random.below(slots.len() as u64) as usize);
            assert!(!other.has(slot));
            other.add(slot);
            assert!(other.has(slot) && (slots.is_empty() || slots.contains(&other.first_missing())));
        }
        assert_eq!((one.count(), one.first_missing()), (200, 200));
        assert_eq!(one, other);
    }

    #[test]
    fn a_set_is_within_those_that_have_all_of_it() {
        let set = |slots: &[usize]| {
            let mut set = Slots::default();
            slots.iter().for_each(|slot| set.add(*slot));
            set
        };
        let full: Vec<usize> = (0..64).collect();
        assert!(
            set(&[]).is_within(&set(&[]))
                && set(&[]).is_within(&set(&[3]))
                && set(&[3, 70]).is_within(&set(&[70, 3, 1]))
        );
        assert!(
            !set(&[3]).is_within(&set(&[]))
                && !set(&[3, 70]).is_within(&set(&[3]))
                && !set(&[70]).is_within(&set(&full))
        );
        assert!(
            set(&[63]).is_within(&set(&full)) && set(&full).is_within(&set(&[&full[..], &[64]].concat()))
        );
        assert!(!set(&full).is_within(&set(&full[..63])));
    }
}
