//! What clients ask of a pair: by chance, and by what they saw last, so that they are in each other's way.

use super::pair::{Answer, CHILD, Call, Mode, PARENT, Refusal, Seen};
use crate::seeded::Random;

impl Call {
    /// Some read.
    pub fn look(random: &mut Random) -> Self {
        let of = if random.chance(0.5) { PARENT } else { CHILD };
        if random.chance(0.3) { Call::Both } else { Call::Get { of } }
    }

    /// Some call that writes this number if it writes; `seen` is what the client saw last.
    pub fn any(random: &mut Random, value: u64, seen: &[Option<Seen>; 2]) -> Self {
        let of = if random.chance(0.5) { PARENT } else { CHILD };
        let (expected, whole) = (seen[of], random.chance(0.5));
        match random.below(100) {
            0..14 => Call::Create { of, mode: Mode::New, value },
            14..20 => Call::Create { of, mode: Mode::Ensure, value },
            20..25 => Call::Create { of, mode: Mode::Override, value },
            25..35 => Call::Set { of, whole, value, expected: None },
            35..58 if expected.is_some() => Call::Set { of, whole, value, expected },
            58..64 if expected.is_some() => Call::Delete { of, recursive: whole, expected },
            64..67 => Call::Delete { of, recursive: false, expected: None },
            67..69 => Call::Delete { of, recursive: true, expected: None },
            _ => Call::look(random),
        }
    }

    /// Notes what a client knows after an answer.
    pub fn remember(&self, answer: &Answer, seen: &mut [Option<Seen>; 2]) {
        match (*answer, *self) {
            (Answer::Are(both), _) => *seen = both,
            (
                Answer::Made(one) | Answer::Is(one),
                Call::Create { of, .. } | Call::Set { of, .. } | Call::Get { of },
            ) => seen[of] = Some(one),
            (Answer::Refused(Refusal::NotFound), Call::Get { of }) => seen[of] = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::check::{Operation, Verdict, check};
    use crate::linear::pair::{Pair, State, unname};

    type Done = Operation<Call, Answer>;

    const CLIENTS: usize = 8;

    /// The plainest registry of a pair.
    #[derive(Default)]
    struct Plain {
        there: [Option<Seen>; 2],
        revision: u64,
    }

    impl Plain {
        fn ask(&mut self, call: &Call) -> Answer {
            let not_found = Answer::Refused(Refusal::NotFound);
            match *call {
                Call::Both => Answer::Are(self.there),
                Call::Get { of } => self.there[of].map_or(not_found, Answer::Is),
                Call::Create { of, mode, value } => match (self.there[of], mode) {
                    (Some(_), Mode::New) => Answer::Refused(Refusal::Exists),
                    (Some(there), Mode::Ensure) => Answer::Is(there),
                    (Some(there), Mode::Override) => {
                        Answer::Is(self.write(of, value, value, there.version + 1))
                    }
                    (None, _) if of == CHILD && self.there[PARENT].is_none() => not_found,
                    (None, _) => Answer::Made(self.write(of, value, value, 1)),
                },
                Call::Set { of, expected, .. } | Call::Delete { of, expected, .. }
                    if self.there[of].is_some()
                        && expected.is_some_and(|expected| self.there[of] != Some(expected)) =>
                {
                    Answer::Refused(Refusal::Changed)
                }
                Call::Set { of, whole, value, .. } => match self.there[of] {
                    None => not_found,
                    Some(there) => {
                        let whole = if whole { value } else { there.whole };
                        Answer::Is(self.write(of, value, whole, there.version + 1))
                    }
                },
                Call::Delete { of, recursive, .. } => match (self.there[of], self.there[CHILD]) {
                    (None, _) => not_found,
                    (Some(_), Some(_)) if of == PARENT && !recursive => Answer::Refused(Refusal::HasChildren),
                    (Some(_), child) => {
                        self.revision += 1;
                        let gone = [of == PARENT, of == CHILD || child.is_some()];
                        [PARENT, CHILD].iter().filter(|of| gone[**of]).for_each(|of| self.there[*of] = None);
                        Answer::Deleted(gone)
                    }
                },
            }
        }

        fn write(&mut self, of: usize, last: u64, whole: u64, version: u64) -> Seen {
            self.revision += 1;
            let seen = Seen { last, whole, version, revision: self.revision };
            self.there[of] = Some(seen);
            seen
        }
    }

    /// A history that really happened: clients ask, something is done later, they are answered later still, or it is never
    /// heard of and done late or never.
    fn played(seed: u64, length: usize) -> Vec<Done> {
        let mut random = Random::new(seed);
        let (mut registry, mut history) = (Plain::default(), Vec::<Done>::new());
        let mut under_way: [Option<(usize, Option<Answer>)>; CLIENTS] = [None; CLIENTS];
        let mut seen = [[None; 2]; CLIENTS];
        let mut late: Vec<Call> = Vec::new();
        for now in 0.. {
            if history.len() == length && under_way.iter().all(Option::is_none) {
                break;
            }
            let by = random.below(CLIENTS as u64) as usize;
            match under_way[by] {
                None if history.len() < length => {
                    let call = Call::any(&mut random, now, &seen[by]);
                    under_way[by] = Some((history.len(), None));
                    history.push(Operation { by, called: now, call, answered: None });
                }
                None => {}
                Some((place, None)) if random.chance(0.01) => {
                    late.push(history[place].call);
                    under_way[by] = None;
                }
                Some((place, None)) => {
                    under_way[by] = Some((place, Some(registry.ask(&history[place].call))));
                }
                Some((place, Some(answer))) => {
                    history[place].call.remember(&answer, &mut seen[by]);
                    history[place].answered = Some((now, answer));
                    under_way[by] = None;
                }
            }
            if !late.is_empty() && random.chance(0.001) {
                registry.ask(&late.swap_remove(random.below(late.len() as u64) as usize));
            }
        }
        unname(&mut history);
        history
    }

    #[test]
    fn what_really_happened_is_found_linearizable_with_little_work() {
        for seed in 0..20 {
            let history = played(seed, 3_000);
            let unheard = history.iter().filter(|done| done.answered.is_none()).count();
            assert!(unheard > 10, "{unheard}");
            let verdict = check::<Pair>(State::default(), &history, 5_000_000);
            assert_eq!(verdict, Verdict::Linearizable, "seed {seed}, {unheard} unheard");
        }
    }

    #[test]
    fn one_answer_of_the_past_among_a_thousand_is_found() {
        for seed in 0..20 {
            let mut history = played(seed, 1_000);
            let state = |done: &Done| match done.answered {
                Some((_, Answer::Are(both @ [Some(_), Some(_)]))) => Some(both),
                _ => None,
            };
            let old = history.iter().find_map(state).expect("both were there once");
            let late = history.iter().rposition(|done| state(done).is_some()).expect("and at another time");
            history[late].answered = history[late].answered.map(|(end, _)| (end, Answer::Are(old)));
            let verdict = check::<Pair>(State::default(), &history, 20_000_000);
            assert!(matches!(verdict, Verdict::Illegal { .. }), "seed {seed}: {verdict:?}");
        }
    }
}
