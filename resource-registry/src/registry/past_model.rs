//! The past against a model that is obviously right: a copy of everything after each commit.

use std::collections::BTreeMap;

use proptest::prelude::*;
use starlane_core::{Code, Selector, When};

use super::model::{Act, perform, single};
use super::tests::{ann, clock, code, make, point, registry, selector, set};
use super::*;

const SELECTORS: [&str; 8] =
    ["ROOT+**", "**", "a:**", "a+:**", "a:*", "**<App>", "**[x = \"1\"]", "a:**<Base>[not exists(x)]"];

/// Everything after each commit; the first is what there is before any.
async fn states(registry: &Registry, acts: &[Act]) -> Vec<Vec<Arc<starlane_core::Resource>>> {
    let everything = selector("ROOT+**");
    let mut states = vec![registry.select(&everything, usize::MAX, None).unwrap().resources];
    for act in acts {
        // What is refused makes no commit, and a large tree may make several.
        drop(perform(registry, &ann(), act).await);
        let now = registry.select(&everything, usize::MAX, None).unwrap().resources;
        while states.len() as u64 <= registry.revision().0 {
            states.push(now.clone());
        }
    }
    states
}

async fn select_all(registry: &Registry, selector: &Selector, at: u64, limit: usize) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = registry.select_at(selector, Revision(at), limit, after.as_deref()).await.unwrap();
        assert!(page.resources.len() <= limit);
        assert_eq!(page.revision, Revision(at));
        found.extend(page.resources.iter().map(|resource| format!("{resource:?}")));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

async fn diff_all(registry: &Registry, selector: &Selector, from: u64, to: u64) -> Vec<LogChange> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = registry.diff(selector, Revision(from), Revision(to), 2, after.as_deref()).await.unwrap();
        assert!(page.changes.len() <= 2);
        found.extend(page.changes);
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

async fn run(acts: Vec<Act>) {
    let registry = Registry::open(Config::in_memory(clock())).unwrap();
    let states = states(&registry, &acts).await;
    for text in SELECTORS {
        let selector = selector(text);
        let meant = |at: usize| states[at].iter().filter(|resource| selector.matches(resource));
        for at in 0..states.len() {
            let expected: Vec<_> = meant(at).map(|resource| format!("{resource:?}")).collect();
            assert_eq!(select_all(&registry, &selector, at as u64, 2).await, expected, "{text} at {at}");
        }
        for (from, to) in [(0, states.len() - 1), (states.len() / 3, states.len() - 1), (0, states.len() / 2)]
        {
            let at = |at| meant(at).map(|resource| (resource.point.clone(), resource.clone()));
            let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) = (at(from).collect(), at(to).collect());
            let mut points: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
            points.sort();
            points.dedup();
            let different = |point: &starlane_core::Point| match (before.get(point), after.get(point)) {
                (Some(one), Some(other)) => {
                    (one.created, &one.properties, &one.status)
                        != (other.created, &other.properties, &other.status)
                }
                _ => true,
            };
            let expected: Vec<_> = points
                .into_iter()
                .filter(different)
                .map(|point| LogChange {
                    before: before.get(&point).cloned(),
                    after: after.get(&point).cloned(),
                    point,
                })
                .collect();
            assert_eq!(diff_all(&registry, &selector, from as u64, to as u64).await, expected, "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_past_is_what_was(acts in prop::collection::vec(single(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(run(acts));
    }
}

#[tokio::test]
async fn a_past_that_is_no_longer_kept_is_an_error_that_names_the_oldest() {
    let registry = registry().await;
    for n in 0..5 {
        registry.create(&ann(), make(&format!("shop:n{n}"), "Base")).await.unwrap();
    }
    let newest = registry.revision();
    let keep_from = Revision(newest.0 - 1);
    registry.compact(keep_from).await.unwrap();
    let oldest = Revision(keep_from.0 - 1);
    let everything = selector("shop:*");
    let found = registry.select_at(&everything, oldest, 10, None).await.unwrap();
    assert_eq!(found.resources.len(), 3, "what was before the oldest commit is still known");
    let before = Revision(oldest.0 - 1);
    let gone = registry.select_at(&everything, before, 10, None).await.unwrap_err();
    assert!(matches!(gone, Error::Gone { oldest: named, .. } if named == oldest), "{gone}");
    assert!(gone.to_string().contains(&format!("goes back to revision {oldest}")), "{gone}");
    assert_eq!(code(gone), Code::HistoryGone);
    let gone = registry.diff(&everything, before, newest, 10, None).await.unwrap_err();
    assert_eq!(code(gone), Code::HistoryGone);
    let later = Revision(newest.0 + 1);
    let early = registry.select_at(&everything, later, 10, None).await.unwrap_err();
    assert!(matches!(early, Error::NotYet { newest: named, .. } if named == newest), "{early}");
    let turned = registry.diff(&everything, newest, oldest, 10, None).await.unwrap_err();
    assert_eq!(code(turned), Code::Usage);
}

#[tokio::test]
async fn a_time_is_the_last_commit_before_it() {
    let now = Arc::new(std::sync::atomic::AtomicU64::new(1_000));
    let clock = now.clone();
    let clock: Clock = Arc::new(move || Timestamp(clock.load(std::sync::atomic::Ordering::SeqCst)));
    let registry = Registry::open(Config::in_memory(clock)).unwrap();
    registry.create(&ann(), make("shop", "Space")).await.unwrap();
    for n in 1..=6u64 {
        now.store(1_000 + n * 10, std::sync::atomic::Ordering::SeqCst);
        registry.set(&ann(), &point("shop"), vec![set("n", n.to_string().as_str())], None).await.unwrap();
    }
    let at = |ms| registry.revision_at(When::Time(Timestamp(ms)));
    for (ms, revision) in [(0, 0), (999, 0), (1_000, 1), (1_009, 1), (1_010, 2), (1_055, 6), (9_999, 7)] {
        assert_eq!(at(ms).await.unwrap(), Revision(revision), "{ms}");
    }
    registry.compact(Revision(4)).await.unwrap();
    assert_eq!(at(1_030).await.unwrap(), Revision(4));
    let gone = at(1_029).await.unwrap_err();
    assert!(matches!(gone, Error::Gone { oldest: Revision(3), .. }), "{gone}");
}

#[tokio::test]
async fn the_log_of_what_is_gone_is_still_told() {
    let registry = registry().await;
    let (a, ab) = (point("shop:a"), point("shop:ab"));
    for n in 0..3 {
        registry.create(&ann(), make("shop:a", "Base")).await.unwrap();
        registry.create(&ann(), make("shop:ab", "Base")).await.unwrap();
        registry.set(&ann(), &a, vec![set("n", n.to_string().as_str())], None).await.unwrap();
        registry.delete(&ann(), Delete::point(a.clone(), false)).await.unwrap();
        registry.delete(&ann(), Delete::point(ab.clone(), false)).await.unwrap();
    }
    let log = registry.log(LogOf::Point(a.clone()), 4).await.unwrap();
    let told: Vec<_> = log
        .iter()
        .map(|entry| (entry.changes[0].before.is_some(), entry.changes[0].after.is_some(), &entry.agent))
        .collect();
    let by = ann();
    assert_eq!(told, [(true, false, &by), (true, true, &by), (false, true, &by), (true, false, &by)]);
    assert!(log.iter().all(|entry| entry.changes.len() == 1 && entry.changes[0].point == a));
    assert!(log.windows(2).all(|pair| pair[0].revision > pair[1].revision));
}
