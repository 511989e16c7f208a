//! The part of an illegal history that is enough to see what is wrong with it, and a page that shows it.

use std::fmt::{Debug, Write};

use super::check::{Model, Operation, Verdict, check};

/// Leaves out of an illegal history what it stays illegal without: all that came after, then what only looks. What changes
/// something has to stay, since others may rest on it.
pub fn shrink<M: Model>(
    start: &M::State,
    history: &[Operation<M::Call, M::Answer>],
    steps_max: usize,
) -> Vec<Operation<M::Call, M::Answer>>
where
    M::Call: Clone,
    M::Answer: Clone,
{
    let illegal = |history: &[Operation<M::Call, M::Answer>]| {
        matches!(check::<M>(start.clone(), history, steps_max), Verdict::Illegal { .. })
    };
    let only_looks = |done: &Operation<M::Call, M::Answer>| {
        done.answered.as_ref().is_some_and(|(_, answer)| M::only_looks(&done.call, answer))
    };
    let mut ends: Vec<u64> = history.iter().filter_map(|done| Some(done.answered.as_ref()?.0)).collect();
    ends.sort_unstable();
    let first = ends.partition_point(|end| !illegal(&until(history, *end)));
    let mut kept = ends.get(first).map_or_else(|| history.to_vec(), |end| until(history, *end));
    kept.sort_by_key(|done| done.called);
    let mut size = kept.len().div_ceil(2);
    while size > 0 {
        let mut at = kept.len();
        while at > 0 {
            let from = at.saturating_sub(size);
            let mut fewer = kept.clone();
            let mut place = 0..;
            fewer.retain(|done| {
                let tried = place.next().is_some_and(|place| (from..at).contains(&place));
                !(tried && only_looks(done))
            });
            if fewer.len() < kept.len() && illegal(&fewer) {
                kept = fewer;
            }
            at = from.min(kept.len());
        }
        size /= 2;
    }
    kept
}

/// What was known of a history at a moment: who was not answered by then has not heard.
fn until<C: Clone, A: Clone>(history: &[Operation<C, A>], end: u64) -> Vec<Operation<C, A>> {
    let known = history.iter().filter(|done| done.called <= end);
    let heard = |done: &Operation<C, A>| {
        let answered = done.answered.clone().filter(|(at, _)| *at <= end);
        Operation { answered, ..done.clone() }
    };
    known.map(heard).collect()
}

/// One line for each operation, in the order of the calls; times in microseconds.
pub fn page<C: Debug, A: Debug>(history: &[Operation<C, A>]) -> String {
    let mut page = String::new();
    for done in history {
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        let ended = match &done.answered {
            Some((end, answer)) => format!("{:>14.1} {:?} -> {answer:?}", micros(*end), done.call),
            None => format!("{:>14} {:?} -> nobody heard", "", done.call),
        };
        _ = writeln!(page, "client {:>2} {:>14.1} {ended}", done.by, micros(done.called));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::pair::{Answer, Call, Mode, PARENT, Pair, Seen, State};

    fn seen(last: u64, version: u64) -> Seen {
        Seen { last, whole: last, version, revision: 10 + last }
    }

    #[test]
    fn what_stays_is_illegal_and_small() {
        let done =
            |called, call, answer| Operation { by: 0, called, call, answered: Some((called + 1, answer)) };
        let get = |at, seen| done(at, Call::Get { of: PARENT }, Answer::Is(seen));
        let create = Call::Create { of: PARENT, mode: Mode::New, value: 1 };
        let set = Call::Set { of: PARENT, whole: true, value: 2, expected: None };
        let mut history = vec![done(0, create, Answer::Made(seen(1, 1)))];
        history.extend((0..50).map(|n| get(2 + n * 2, seen(1, 1))));
        history.push(done(200, set, Answer::Is(seen(2, 2))));
        history.extend((0..50).map(|n| get(202 + n * 2, seen(2, 2))));
        history.push(get(400, seen(1, 1)));
        history.extend((0..50).map(|n| get(402 + n * 2, seen(2, 2))));
        let kept = shrink::<Pair>(&State::default(), &history, 10_000);
        let called: Vec<u64> = kept.iter().map(|done| done.called).collect();
        assert_eq!(called, [0, 200, 400]);
        assert_eq!(page(&kept).lines().count(), 3);
    }
}
