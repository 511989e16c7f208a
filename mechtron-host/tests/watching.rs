//! Mechtrons that are told what they watch: once for the state, and again when they fail.

#![expect(clippy::unwrap_used, reason = "what is unexpected here fails the run")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mechtron_host::{Durability, EngineKind, Limits, Module, Place, State, Watched};
use starlane_core::{Code, Epoch, Refusal};
use support::*;

const AT: &str = "test:watcher";

/// The probe, which takes a change as it takes a message, with a watch for each of these selectors.
async fn watcher(world: &World, selectors: &[&str]) -> Arc<Module> {
    world.module(&text(selectors)).await
}

fn text(selectors: &[&str]) -> String {
    let handler = |(at, selector): (usize, &&str)| {
        format!(r#"{{"role":"watch","name":"w{at}","selector":"{selector}"}}"#)
    };
    let handlers: Vec<_> = selectors.iter().enumerate().map(handler).collect();
    let contract = format!(r#"{{"mechtron":"Watcher","handlers":[{}]}}"#, handlers.join(","));
    let section = format!("(@custom \"mechtron.contract\" \"{}\")", contract.replace('"', "\\22"));
    let takes = "(i32.eq (local.get $kind) (i32.const 1))";
    let either = format!("(i32.or {takes} (i32.eq (local.get $kind) (i32.const 9)))");
    PROBE.replacen(takes, &either, 1).replace(";;MODULE", &section)
}

fn tell(world: &World, selector: &str, body: Option<&str>) {
    world.node.changes.send_modify(|log| log.push((selector.to_owned(), body.map(str::to_owned))));
}

fn kept(world: &World) -> Option<bytes::Bytes> {
    world.node.states.lock().unwrap().get(&point(AT)).cloned()
}

fn watched(world: &World) -> Vec<(String, usize)> {
    world.node.watched.lock().unwrap().clone()
}

/// Waits until what is kept knows of so many steps of a watch, and of the count that the state is; answers how it looks.
async fn keeps(world: &World, selector: &str, place: usize, count: u32) {
    let place =
        format!("{}{selector}{}{place}", selector.len() as u8 as char, place.to_string().len() as u8 as char);
    loop {
        let found = kept(world).is_some_and(|kept| {
            kept.windows(place.len()).any(|part| part == place.as_bytes())
                && kept.ends_with(&count.to_le_bytes())
        });
        if found {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_sleeps_is_woken_and_goes_on_where_it_was_under_another_epoch() {
    let world = World::new(EngineKind::Wasmi);
    let module = watcher(&world, &["a:*", "b:*"]).await;
    world.place(AT, &module, Durability::Node);
    world.host.attend(&point(AT)).await.unwrap();
    tell(&world, "a:*", Some("i"));
    tell(&world, "b:*", Some("i"));
    keeps(&world, "a:*", 1, 2).await;
    keeps(&world, "b:*", 2, 2).await;
    assert_eq!(world.number(AT, "c").await, 2);
    // Asleep again, it is woken again, by a watch that was never begun anew.
    world.host.sleep(&point(AT));
    while world.host.info(&point(AT)).await.unwrap().state != State::Sleeping {}
    tell(&world, "a:*", Some("i"));
    keeps(&world, "a:*", 3, 3).await;
    let mut begun = watched(&world);
    begun.sort();
    assert_eq!(begun, [("a:*".to_owned(), 0), ("b:*".to_owned(), 0)]);
    // What it is told next, it is told under the new epoch, after what its state knows of.
    world.place_with(AT, &module, Durability::Node, |activation| activation.epoch = Epoch(2));
    world.host.swap(&point(AT));
    while watched(&world).len() < 4 {
        tokio::task::yield_now().await;
    }
    let mut again = watched(&world).split_off(2);
    again.sort();
    assert_eq!(again, [("a:*".to_owned(), 3), ("b:*".to_owned(), 2)]);
    tell(&world, "a:*", Some("i"));
    keeps(&world, "a:*", 4, 4).await;
    assert_eq!(world.number(AT, "c").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_told_again_in_its_order_and_messages_go_on() {
    let world = World::new(EngineKind::Wasmi);
    let module = watcher(&world, &["a:*", "b:*"]).await;
    world.place(AT, &module, Durability::Node);
    // An answer of another status, then a trap: both leave the watch where it is.
    for (selector, fails) in [("a:*", "u"), ("b:*", "n")] {
        tell(&world, selector, Some(fails));
        tell(&world, selector, Some("i"));
    }
    world.host.attend(&point(AT)).await.unwrap();
    let lines = |world: &World| {
        let mut log = world.host.logs(&point(AT), 1_000, false);
        async move {
            let mut count = 0;
            while let Some(line) = log.next().await {
                count += usize::from(line.line.contains("is told again in"));
            }
            count
        }
    };
    for count in 1..5 {
        while lines(&world).await < 2 * count {
            world.clock.advance(Duration::from_millis(100));
            tokio::task::yield_now().await;
        }
        assert_eq!(world.number(AT, "i").await, u32::try_from(count).unwrap());
    }
    assert_eq!(world.number(AT, "c").await, 4, "nothing that comes after what failed was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_state_was_not_kept_counts_once() {
    let world = World::new(EngineKind::Wasmi);
    let module = watcher(&world, &["a:*"]).await;
    world.place(AT, &module, Durability::Mesh);
    *world.node.save_fails.lock().unwrap() = Some(Refusal::new(Code::Unreachable, "the registry is away"));
    world.host.attend(&point(AT)).await.unwrap();
    tell(&world, "a:*", Some("i"));
    while *world.node.saves.lock().unwrap() < 3 {
        world.clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    assert_eq!(kept(&world), None);
    *world.node.save_fails.lock().unwrap() = None;
    tell(&world, "a:*", Some("i"));
    while kept(&world).is_none() {
        world.clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    keeps(&world, "a:*", 2, 2).await;
    assert_eq!(world.number(AT, "c").await, 2);
}

/// One that sleeps, and of which it is kept that its watch told nothing so far; that is kept again after ten minutes.
async fn told_nothing() -> World {
    let world = World::with(EngineKind::Wasmi, |config| config.keep_place = Duration::from_secs(600));
    let module = watcher(&world, &["a:*"]).await;
    world.place(AT, &module, Durability::Node);
    world.host.attend(&point(AT)).await.unwrap();
    tell(&world, "a:*", None);
    while kept(&world).is_none() {
        tokio::task::yield_now().await;
    }
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_a_watch_is_that_tells_nothing_is_kept_without_waking_anybody() {
    let world = told_nothing().await;
    tell(&world, "a:*", None);
    while *world.node.saves.lock().unwrap() < 2 {
        world.clock.advance(Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
    assert_eq!(world.host.stats().live, 0, "nothing of the mechtron ran");
    assert_eq!(world.host.stats().handled, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_without_a_watch_is_not_told_of_it_and_goes_on_with_the_others() {
    let world = World::new(EngineKind::Wasmi);
    let module = watcher(&world, &["a:*", "b:*"]).await;
    world.place(AT, &module, Durability::Node);
    world.host.attend(&point(AT)).await.unwrap();
    tell(&world, "a:*", Some("i"));
    tell(&world, "b:*", Some("i"));
    keeps(&world, "a:*", 1, 2).await;
    keeps(&world, "b:*", 2, 2).await;
    // It says a hundred more, so that it is seen when it runs.
    let count = "(then (call $answer (local.get $id) (global.get $count)))";
    let more = "(then (call $answer (local.get $id) (i32.add (global.get $count) (i32.const 100))))";
    let less = world.module(&text(&["b:*"]).replace(count, more)).await;
    world.place(AT, &less, Durability::Node);
    world.host.swap(&point(AT));
    while world.number(AT, "c").await != 102 {}
    tell(&world, "a:*", Some("i"));
    tell(&world, "b:*", Some("i"));
    keeps(&world, "b:*", 4, 3).await;
    assert_eq!(world.number(AT, "c").await, 103);
    assert_eq!(watched(&world).len(), 2, "the watch that both have was not begun anew");
    // Nothing is told of one that is gone.
    world.node.activations.lock().unwrap().clear();
    world.host.remove(&point(AT));
    while world.host.info(&point(AT)).await.is_some() {}
    tell(&world, "b:*", Some("i"));
    assert_eq!(world.host.stats().known, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_cannot_be_is_refused_with_its_module() {
    let world = World::new(EngineKind::Wasmi);
    let refused = |selectors: &'static [&'static str]| {
        let wasm = wat::parse_str(text(selectors)).unwrap();
        let host = world.host.clone();
        async move { host.compile(wasm.into()).await.unwrap_err().to_string() }
    };
    let error = refused(&["a:*", "a:*[total >"]).await;
    assert!(error.contains("`w1`") && error.contains("no selector"), "{error}");
    let error = refused(&["a:*", "a : *"]).await;
    assert!(error.contains("`w1`"), "{error}");
    let error = refused(&["a:*", "a:*"]).await;
    assert!(error.contains("the same name or selector"), "{error}");
    let many = &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q"];
    let error = refused(many).await;
    assert!(error.contains("more than 16"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_watches_nothing_keeps_no_state_that_it_has_not() {
    let world = told_nothing().await;
    // It is further than what is kept when its code is changed.
    tell(&world, "a:*", None);
    while watched(&world).is_empty() {
        tokio::task::yield_now().await;
    }
    let without = watcher(&world, &[]).await;
    world.place(AT, &without, Durability::Node);
    world.host.swap(&point(AT));
    assert_eq!(world.number(AT, "c").await, 0);
    world.clock.advance(Duration::from_secs(601));
    assert_eq!(world.number(AT, "c").await, 0);
    world.host.sleep(&point(AT));
    while world.host.info(&point(AT)).await.unwrap().state != State::Sleeping {}
    assert!(kept(&world).is_none_or(|kept| !kept.is_empty()), "nothing is no state");
    assert_eq!(world.number(AT, "i").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_asks_again_for_code_that_could_not_be_had_for_a_watch() {
    let world = World::new(EngineKind::Wasmi);
    let module = watcher(&world, &["a:*"]).await;
    *world.node.missing.lock().unwrap() = Code::Unreachable;
    world.host.attend(&point(AT)).await.unwrap();
    while world.node.asked.lock().unwrap().is_empty()
        || world.host.info(&point(AT)).await.is_none_or(|info| info.state != State::Sleeping)
    {
        tokio::task::yield_now().await;
    }
    // The clock stands still, so that nothing but the message asks.
    world.place(AT, &module, Durability::Node);
    assert_eq!(world.number(AT, "c").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_is_refused_under_an_older_epoch_says_nothing_of_the_newer_one() {
    let world = told_nothing().await;
    *world.node.save_fails.lock().unwrap() = Some(Refusal::new(Code::EpochStale, "epoch 2 acts for it"));
    world.node.may_save.send_replace(false);
    tell(&world, "a:*", None);
    while *world.node.saves.lock().unwrap() < 2 {
        world.clock.advance(Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
    *world.node.save_fails.lock().unwrap() = None;
    // It comes back here under that very epoch before the refusal does.
    let module = watcher(&world, &["a:*"]).await;
    world.place_with(AT, &module, Durability::Node, |activation| {
        activation.epoch = Epoch(2);
        activation.limits = Some(Limits { body_bytes: 4, ..Limits::default() });
    });
    world.host.swap(&point(AT));
    // Once the new limits hold, the host knows of the new epoch.
    while world.host.stats().lost == 0 {
        world.host.send(signal(AT, "ccccc")).unwrap();
        world.host.info(&point(AT)).await;
    }
    world.node.may_save.send_replace(true);
    assert_eq!(world.number(AT, "c").await, 0);
    tell(&world, "a:*", Some("i"));
    keeps(&world, "a:*", 3, 1).await;
}

/// Of one thread, so that a step that was counted has come to the host.
#[tokio::test]
async fn a_change_does_not_wait_for_another_handler_of_a_reentrant_mechtron() {
    let world = World::new(EngineKind::Wasmi);
    let module = watcher(&world, &["a:*"]).await;
    world.place_with(AT, &module, Durability::Node, |activation| activation.reentrant = Some(true));
    world.host.attend(&point(AT)).await.unwrap();
    world.node.gate.send_replace(false);
    let script = Script::default().request(OWN, "out:gate", b"").bytes();
    let waits = tokio::spawn(world.request(message(AT, script, LONG)));
    let handling = |count: usize| {
        let world = &world;
        async move {
            while world.host.info(&point(AT)).await.is_none_or(|info| info.handling != count) {
                tokio::task::yield_now().await;
            }
        }
    };
    handling(1).await;
    // The change comes while the state of a message is being saved.
    world.node.may_save.send_replace(false);
    let counts = tokio::spawn(world.request(message(AT, "i", LONG)));
    handling(2).await;
    tell(&world, "a:*", Some("i"));
    while world.node.steps.load(Ordering::Acquire) == 0 {
        tokio::task::yield_now().await;
    }
    world.host.info(&point(AT)).await.unwrap();
    world.node.may_save.send_replace(true);
    assert_eq!(number(&counts.await.unwrap()), 1);
    keeps(&world, "a:*", 1, 2).await;
    assert!(!waits.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_before_it_was_attended_to_does_not_count() {
    let world = World::new(EngineKind::Wasmi);
    let module = watcher(&world, &["a:*"]).await;
    world.place(AT, &module, Durability::Node);
    // Asked while nothing may act here, and answered late.
    world.node.elsewhere.lock().unwrap().insert(point(AT));
    world.node.may_answer.send_replace(false);
    world.host.attend(&point(AT)).await.unwrap();
    world.node.elsewhere.lock().unwrap().clear();
    world.host.attend(&point(AT)).await.unwrap();
    world.node.may_answer.send_replace(true);
    tell(&world, "a:*", Some("i"));
    keeps(&world, "a:*", 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_finds_no_room_is_refused_and_may_be_attended_to_later() {
    let world = World::with(EngineKind::Wasmi, |config| (config.shards, config.known_max) = (1, 1));
    let module = watcher(&world, &["a:*"]).await;
    let another = "test:another";
    world.place(AT, &module, Durability::Node);
    world.place(another, &module, Durability::Node);
    assert_eq!(world.number(another, "c").await, 0);
    assert_eq!(world.host.attend(&point(AT)).await.unwrap_err().code, Code::Busy);
    // Who has room already needs no more.
    world.host.attend(&point(another)).await.unwrap();
    world.host.remove(&point(another));
    world.host.attend(&point(AT)).await.unwrap();
    tell(&world, "a:*", Some("i"));
    keeps(&world, "a:*", 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_back_is_asked_about_until_its_code_can_be_had() {
    let world = World::new(EngineKind::Wasmi);
    let module = watcher(&world, &["a:*"]).await;
    world.host.release(&point(AT), LONG).await.unwrap();
    *world.node.missing.lock().unwrap() = Code::Unreachable;
    world.host.attend(&point(AT)).await.unwrap();
    let asked = |count: usize| {
        let world = &world;
        async move {
            while world.node.asked.lock().unwrap().len() < count
                || world.host.info(&point(AT)).await.unwrap().state != State::Elsewhere
            {
                world.clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        }
    };
    asked(3).await;
    world.place_with(AT, &module, Durability::Node, |activation| activation.epoch = Epoch(2));
    tell(&world, "a:*", Some("i"));
    while kept(&world).is_none() {
        world.clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    keeps(&world, "a:*", 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_watched_is_known_with_how_far_it_was_told() {
    let world = World::new(EngineKind::Wasmi);
    let module = watcher(&world, &["a:*", "b:*"]).await;
    world.place(AT, &module, Durability::Node);
    world.host.attend(&point(AT)).await.unwrap();
    let known = |told: Option<&str>, failures: u32| {
        let watched = |name: &str, selector: &str, told: Option<&str>, failures| Watched {
            name: name.into(),
            selector: selector.into(),
            place: told.map(|told| Place(told.into())),
            failures,
        };
        let expected = [watched("w0", "a:*", told, 0), watched("w1", "b:*", None, failures)];
        let world = &world;
        async move {
            while world.host.info(&point(AT)).await.is_none_or(|info| info.watches != expected) {
                tokio::task::yield_now().await;
            }
        }
    };
    known(None, 0).await;
    tell(&world, "a:*", Some("i"));
    known(Some("1"), 0).await;
    tell(&world, "b:*", Some("n"));
    known(Some("1"), 1).await;
    world.host.sleep(&point(AT));
    while world.host.info(&point(AT)).await.unwrap().state != State::Sleeping {}
    known(Some("1"), 1).await;
}
