//! Mechtrons that live elsewhere, and such that move there.

#![expect(clippy::unwrap_used, reason = "what is unexpected here fails the run")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use mechtron_abi::Kind;
use mechtron_host::{Durability, EngineKind, Limits, Module, NotHere, Released, Returned, State};
use starlane_core::{Body, Code, Epoch, Header, Message, Outcome, Payload, Refusal, Reply};
use support::*;
use tokio::task::JoinHandle;

fn world() -> World {
    World::new(EngineKind::Wasmi)
}

async fn probe(world: &World, at: &str, durability: Durability) -> Arc<Module> {
    let module = world.module(PROBE).await;
    world.place(at, &module, durability);
    module
}

fn say_elsewhere(world: &World, at: &str, elsewhere: bool) {
    if elsewhere {
        world.node.elsewhere.lock().unwrap().insert(point(at));
    } else {
        world.node.elsewhere.lock().unwrap().remove(&point(at));
    }
    world.host.swap(&point(at));
}

/// Puts a mechtron under another epoch, and waits until it ran under the last one for the last time.
async fn renew(world: &World, at: &str, module: &Arc<Module>, durability: Durability, epoch: u64) {
    world.place_with(at, module, durability, |activation| activation.epoch = Epoch(epoch));
    world.host.swap(&point(at));
    while state(world, at).await == Some(State::Live) {}
}

fn send(world: &World, to: &str, body: &'static str) -> JoinHandle<Outcome> {
    tokio::spawn(world.request(message(to, body, LONG)))
}

/// Waits until a mechtron has this many messages, waiting or in its hands.
async fn has(world: &World, at: &str, count: usize) {
    while world.host.info(&point(at)).await.unwrap().queue != count {}
}

async fn state(world: &World, at: &str) -> Option<State> {
    world.host.info(&point(at)).await.map(|info| info.state)
}

fn text(message: &Message) -> String {
    let (Payload::Request(request) | Payload::Signal(request)) = &message.payload else { panic!() };
    let Body::Bytes(bytes) = &request.body else { panic!() };
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn answer(returned: Returned, text: &'static str) {
    returned.asker.unwrap().answer(Outcome::Ok(Reply::new(200, "text/plain", text)));
}

/// How a request ends that is for another node: it did not run.
const NOT_HERE: &str = "Rejected E-EPOCH-STALE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lives_elsewhere_is_given_back_whole() {
    let world = world();
    say_elsewhere(&world, "shop:a", true);
    let module = probe(&world, "shop:asks", Durability::Memory).await;
    let NotHere(given) = world.host.request(message("shop:a", "c", LONG)).await.unwrap_err();
    assert_eq!(*given, message("shop:a", "c", LONG), "as it came, so that it can go on");
    let Payload::Request(_) = given.payload else { panic!() };
    assert_eq!(NotHere(given).to_string(), "shop:a does not live on this node");
    // A mechtron that asks for it asks outside.
    let script = Script::default().request(OWN, "shop:a", b"c").bytes();
    assert_eq!(body(&world.ask("shop:asks", script).await), "outside saw shop:a");
    // A signal goes on too, so often as it may cross nodes.
    let mut circle = signal("shop:a", "again");
    circle.header.hops_left = 0;
    for signal in [signal("shop:a", "hello"), circle] {
        world.host.send(signal).unwrap();
        assert_eq!(short(&world.ask("shop:a", "c").await), NOT_HERE);
    }
    let hops: Vec<_> = world.node.not_here.lock().unwrap().iter().map(|one| one.header.hops_left).collect();
    assert_eq!((hops, world.host.stats().lost), (vec![Header::HOPS_MAX - 1], 1));
    // Nothing is kept of it, so that the next message finds it when it lives here.
    assert_eq!(state(&world, "shop:a").await, None);
    world.place("shop:a", &module, Durability::Memory);
    world.node.elsewhere.lock().unwrap().clear();
    assert_eq!(world.number("shop:a", "i").await, 1);
    // Who runs here is not asked about again.
    let looks = world.node.asked.lock().unwrap().len();
    assert_eq!(world.number("shop:a", "i").await, 2);
    assert_eq!(world.node.asked.lock().unwrap().len(), looks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mechtron_that_another_node_acts_for_yields() {
    let world = world();
    probe(&world, "shop:a", Durability::Memory).await;
    world.number("shop:a", "i").await;
    let running = send(&world, "shop:a", "w");
    world.handles("shop:a").await;
    let waiting = send(&world, "shop:a", "c");
    has(&world, "shop:a", 2).await;
    say_elsewhere(&world, "shop:a", true);
    assert_eq!(short(&running.await.unwrap()), "Failed E-EPOCH-STALE");
    assert_eq!(short(&waiting.await.unwrap()), NOT_HERE);
    assert_eq!(world.host.stats().live, 0);
    // What was being saved may be kept.
    let module = probe(&world, "shop:b", Durability::Mesh).await;
    world.node.may_save.send_replace(false);
    let running = send(&world, "shop:b", "i");
    while *world.node.saves.lock().unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    let waiting = send(&world, "shop:b", "c");
    has(&world, "shop:b", 2).await;
    say_elsewhere(&world, "shop:b", true);
    assert_eq!(short(&running.await.unwrap()), "Unknown E-EPOCH-STALE");
    assert_eq!(short(&waiting.await.unwrap()), NOT_HERE);
    drop(module);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_mechtron_leaves_its_state_and_lives_elsewhere() {
    let world = world();
    for (at, durability) in
        [("shop:m", Durability::Memory), ("shop:n", Durability::Node), ("shop:o", Durability::Mesh)]
    {
        probe(&world, at, durability).await;
        world.number(at, "i").await;
        world.number(at, "i").await;
        if durability == Durability::Node {
            // One that sleeps leaves as well.
            world.host.sleep(&point(at));
        }
        let Released { state: left, waiting } = world.host.release(&point(at), LONG).await.unwrap();
        assert_eq!(waiting.len(), 0);
        let kept = left.clone().or_else(|| world.node.states.lock().unwrap().get(&point(at)).cloned());
        assert_eq!(
            (left.is_some(), &kept.unwrap()[..]),
            (durability == Durability::Memory, &2_u32.to_le_bytes()[..])
        );
        assert_eq!(state(&world, at).await, Some(State::Elsewhere));
        assert_eq!(short(&world.ask(at, "i").await), NOT_HERE);
        // However long it takes, and whatever else changes: it does not run again before another epoch begins.
        world.clock.advance(Duration::from_secs(1_000));
        assert_eq!(short(&world.ask(at, "i").await), NOT_HERE);
        world.host.swap(&point(at));
        assert_eq!(short(&world.ask(at, "i").await), NOT_HERE);
        let activation = world.node.activations.lock().unwrap().remove(&point(at)).unwrap();
        *world.node.missing.lock().unwrap() = Code::Unreachable;
        world.host.swap(&point(at));
        assert_eq!(short(&world.ask(at, "i").await), NOT_HERE);
        world.node.activations.lock().unwrap().insert(point(at), activation);
        assert_eq!(short(&world.ask(at, "i").await), NOT_HERE);
        // It comes back, with what was handed over.
        if let Some(left) = left {
            world.node.states.lock().unwrap().insert(point(at), left);
        }
        world.node.activations.lock().unwrap().get_mut(&point(at)).unwrap().epoch = Epoch(5);
        world.host.swap(&point(at));
        assert_eq!(world.number(at, "c").await, 2);
        assert_eq!(world.node.loads.lock().unwrap().last(), Some(&(Epoch(5), durability)));
        world.number(at, "i").await;
        if durability != Durability::Memory {
            assert_eq!(world.node.saved.lock().unwrap().last(), Some(&(Epoch(5), durability)));
        }
    }
    // Of what was never here nothing is left, and it lives elsewhere too.
    let left = world.host.release(&point("shop:x"), LONG).await.unwrap();
    assert_eq!((left.state, left.waiting.len()), (None, 0));
    assert_eq!(short(&world.ask("shop:x", "i").await), NOT_HERE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handled_ends_and_what_waits_is_given_back_in_order() {
    let world = world();
    probe(&world, "shop:a", Durability::Node).await;
    probe(&world, "shop:asks", Durability::Memory).await;
    world.number("shop:a", "i").await;
    world.number("shop:asks", "c").await;
    world.node.gate.send_replace(false);
    // It waits for somebody else's answer.
    let script =
        Script::default().frame(Kind::StatePut, 0, b"\x07\0\0\0").request(OWN, "out:gate", b"").bytes();
    let running = tokio::spawn(world.request(message("shop:a", script, LONG)));
    world.handles("shop:a").await;
    let first = send(&world, "shop:a", "1");
    has(&world, "shop:a", 2).await;
    let releasing = tokio::spawn(world.host.release(&point("shop:a"), LONG));
    // These come while it leaves, from outside, without an answer, and from a mechtron.
    let second = send(&world, "shop:a", "2");
    has(&world, "shop:a", 3).await;
    world.host.send(signal("shop:a", "3")).unwrap();
    has(&world, "shop:a", 4).await;
    let script = Script::default().request(OWN, "shop:a", b"4").bytes();
    let fourth = tokio::spawn(world.request(message("shop:asks", script, LONG)));
    has(&world, "shop:a", 5).await;
    assert!(!releasing.is_finished());
    world.node.gate.send_replace(true);
    let mut waiting: Vec<_> = releasing.await.unwrap().unwrap().waiting.collect();
    assert_eq!(body(&running.await.unwrap()), "outside saw out:gate", "what it handled is answered");
    assert_eq!(world.node.states.lock().unwrap()[&point("shop:a")][..], 7_u32.to_le_bytes()[..]);
    assert_eq!(
        waiting.iter().map(|returned| text(&returned.message)).collect::<Vec<_>>(),
        ["1", "2", "3", "4"]
    );
    assert!(waiting[2].asker.is_none());
    assert!(waiting.iter().all(|returned| returned.message.header.remaining <= LONG));
    answer(waiting.pop().unwrap(), "four");
    answer(waiting.remove(1), "two");
    answer(waiting.remove(0), "one");
    assert_eq!(body(&first.await.unwrap()), "one");
    assert_eq!(body(&second.await.unwrap()), "two");
    assert_eq!(body(&fourth.await.unwrap()), "four");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_waits_too_long_is_not_waited_for() {
    let world = world();
    probe(&world, "shop:a", Durability::Memory).await;
    world.number("shop:a", "i").await;
    let running = send(&world, "shop:a", "w");
    world.handles("shop:a").await;
    let waiting = send(&world, "shop:a", "i");
    has(&world, "shop:a", 2).await;
    let releasing = tokio::spawn(world.host.release(&point("shop:a"), Duration::from_secs(5)));
    world.clock.advance(Duration::from_secs(4));
    has(&world, "shop:a", 2).await;
    assert!(!releasing.is_finished());
    world.clock.advance(Duration::from_secs(5));
    let mut released = releasing.await.unwrap().unwrap();
    assert_eq!(short(&running.await.unwrap()), "Unknown E-EPOCH-STALE");
    assert_eq!(released.state.as_deref(), Some(&1_u32.to_le_bytes()[..]));
    assert_eq!(released.waiting.len(), 1);
    answer(released.waiting.next().unwrap(), "moved");
    assert_eq!(body(&waiting.await.unwrap()), "moved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_guest_holds_but_did_not_begin_is_given_back() {
    let world = world();
    probe(&world, "shop:a", Durability::Memory).await;
    world.number("shop:a", "c").await;
    let first = send(&world, "shop:a", "w");
    world.handles("shop:a").await;
    let mut waiting = Vec::new();
    for count in 0..3 {
        waiting.push(send(&world, "shop:a", "w"));
        has(&world, "shop:a", 2 + count).await;
    }
    // Now the three come as one batch, of which the guest handles the first.
    first.abort();
    while world.host.info(&point("shop:a")).await.unwrap().handling != 3 {}
    let releasing = tokio::spawn(world.host.release(&point("shop:a"), Duration::from_secs(5)));
    world.clock.advance(Duration::from_secs(5));
    let released = releasing.await.unwrap().unwrap();
    assert_eq!(released.waiting.len(), 2);
    released.waiting.for_each(|returned| answer(returned, "moved"));
    assert_eq!(short(&waiting.remove(0).await.unwrap()), "Unknown E-EPOCH-STALE");
    for one in waiting {
        assert_eq!(body(&one.await.unwrap()), "moved");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_under_way_is_waited_for() {
    let world = world();
    probe(&world, "shop:a", Durability::Mesh).await;
    world.node.may_save.send_replace(false);
    let running = send(&world, "shop:a", "i");
    while *world.node.saves.lock().unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    let releasing = tokio::spawn(world.host.release(&point("shop:a"), Duration::ZERO));
    world.clock.advance(Duration::from_secs(60));
    has(&world, "shop:a", 1).await;
    assert!(!releasing.is_finished() && !running.is_finished());
    world.node.may_save.send_replace(true);
    assert!(releasing.await.unwrap().unwrap().state.is_none());
    assert_eq!(number(&running.await.unwrap()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_takes_is_given_back() {
    let world = world();
    probe(&world, "shop:a", Durability::Memory).await;
    world.number("shop:a", "i").await;
    probe(&world, "shop:asks", Durability::Memory).await;
    world.number("shop:asks", "c").await;
    let running = send(&world, "shop:a", "w");
    world.handles("shop:a").await;
    let mut waiting = Vec::new();
    for count in 0..3 {
        waiting.push(send(&world, "shop:a", ["1", "2", "3"][count]));
        has(&world, "shop:a", 2 + count).await;
    }
    for (count, text) in ["4", "5"].into_iter().enumerate() {
        world.host.send(signal("shop:a", text)).unwrap();
        has(&world, "shop:a", 5 + count).await;
    }
    let script = Script::default().request(OWN, "shop:a", b"6").bytes();
    let asking = tokio::spawn(world.request(message("shop:asks", script, LONG)));
    has(&world, "shop:a", 7).await;
    let first = tokio::spawn(world.host.release(&point("shop:a"), LONG));
    let releasing = tokio::spawn(world.host.release(&point("shop:a"), LONG));
    let ended = first.await.unwrap().unwrap_err();
    assert_eq!(ended.code, Code::Busy, "asked once more, the first is told so");
    releasing.abort();
    let _ = releasing.await;
    running.abort();
    assert_eq!(short(&world.ask("shop:a", "c").await), NOT_HERE);
    for one in waiting {
        assert_eq!(short(&one.await.unwrap()), NOT_HERE);
    }
    assert_eq!(body(&asking.await.unwrap()), "outside saw shop:a", "a mechtron's goes on at once");
    let order: Vec<_> = world.node.not_here.lock().unwrap().iter().map(text).collect();
    assert_eq!(order, ["4", "5"]);
    // Nor is the state lost.
    let left = world.host.release(&point("shop:a"), LONG).await.unwrap();
    assert_eq!((left.state.as_deref(), left.waiting.len()), (Some(&1_u32.to_le_bytes()[..]), 0));
    // Those that are taken are in the hands of who takes them; the others go back.
    probe(&world, "shop:b", Durability::Memory).await;
    let running = send(&world, "shop:b", "w");
    world.handles("shop:b").await;
    let mut waiting = Vec::new();
    for count in 0..2 {
        waiting.push(send(&world, "shop:b", "c"));
        has(&world, "shop:b", 2 + count).await;
    }
    let releasing = tokio::spawn(world.host.release(&point("shop:b"), LONG));
    running.abort();
    let mut released = releasing.await.unwrap().unwrap();
    drop(released.waiting.next());
    drop(released);
    let ends: Vec<_> =
        futures::future::join_all(waiting).await.iter().map(|one| short(one.as_ref().unwrap())).collect();
    assert_eq!(ends, ["Unknown E-INTERNAL", NOT_HERE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_while_it_leaves_is_not_forgotten() {
    let world = world();
    probe(&world, "shop:a", Durability::Memory).await;
    world.number("shop:a", "i").await;
    let running = send(&world, "shop:a", "w");
    world.handles("shop:a").await;
    let releasing = tokio::spawn(world.host.release(&point("shop:a"), LONG));
    has(&world, "shop:a", 1).await;
    let module = world.module(PROBE).await;
    world.place_with("shop:a", &module, Durability::Memory, |activation| activation.epoch = Epoch(2));
    world.host.swap(&point("shop:a"));
    running.abort();
    assert!(releasing.await.unwrap().is_ok());
    assert_eq!(world.number("shop:a", "c").await, 0, "it runs here again, and its state was taken away");
    let running = send(&world, "shop:a", "w");
    world.handles("shop:a").await;
    let releasing = tokio::spawn(world.host.release(&point("shop:a"), LONG));
    has(&world, "shop:a", 1).await;
    world.host.remove(&point("shop:a"));
    assert_eq!(releasing.await.unwrap().unwrap_err().code, Code::NotFound);
    assert_eq!(short(&running.await.unwrap()), "Failed E-NOT-FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_another_epoch_the_state_is_loaded_anew() {
    let world = world();
    for (at, durability, count) in
        [("shop:m", Durability::Memory, 1), ("shop:n", Durability::Node, 9), ("shop:o", Durability::Mesh, 9)]
    {
        let module = probe(&world, at, durability).await;
        assert_eq!(world.number(at, "i").await, 1);
        if durability != Durability::Memory {
            // Somebody else acted for it, and it never noticed.
            world.node.states.lock().unwrap().insert(point(at), 9_u32.to_le_bytes().to_vec().into());
        }
        renew(&world, at, &module, durability, 7).await;
        assert_eq!(world.number(at, "c").await, count, "{at}");
        assert_eq!(world.node.loads.lock().unwrap().last(), Some(&(Epoch(7), durability)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_was_asked_for_under_an_older_epoch_is_not_taken() {
    let world = world();
    let module = probe(&world, "shop:a", Durability::Node).await;
    world.node.states.lock().unwrap().insert(point("shop:a"), 4_u32.to_le_bytes().to_vec().into());
    world.node.may_load.send_replace(false);
    let asking = send(&world, "shop:a", "c");
    while world.node.loads.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    world.node.states.lock().unwrap().insert(point("shop:a"), 5_u32.to_le_bytes().to_vec().into());
    world.place_with("shop:a", &module, Durability::Node, |activation| {
        activation.epoch = Epoch(2);
        activation.limits = Some(Limits { body_bytes: 4, ..Limits::default() });
    });
    world.host.swap(&point("shop:a"));
    // Once the new limits hold, the host knows of the new epoch.
    while world.host.stats().lost == 0 {
        world.host.send(signal("shop:a", "ccccc")).unwrap();
        state(&world, "shop:a").await;
    }
    world.node.may_load.send_replace(true);
    assert_eq!(number(&asking.await.unwrap()), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_epoch_commits_nothing_and_asks_who_acts() {
    let world = world();
    let stale = || Some(Refusal::new(Code::EpochStale, "epoch 9 acts for it"));
    // It is told that it lives elsewhere.
    let module = probe(&world, "shop:a", Durability::Mesh).await;
    assert_eq!(world.number("shop:a", "i").await, 1);
    *world.node.save_fails.lock().unwrap() = stale();
    world.node.elsewhere.lock().unwrap().insert(point("shop:a"));
    assert_eq!(short(&world.ask("shop:a", "i").await), "Failed E-EPOCH-STALE");
    assert_eq!(short(&world.ask("shop:a", "i").await), NOT_HERE);
    assert_eq!(world.node.states.lock().unwrap()[&point("shop:a")][..], 1_u32.to_le_bytes()[..]);
    // It is told the same as before: then nothing runs.
    world.place("shop:b", &module, Durability::Mesh);
    *world.node.save_fails.lock().unwrap() = None;
    assert_eq!(world.number("shop:b", "i").await, 1);
    *world.node.save_fails.lock().unwrap() = stale();
    world.node.may_save.send_replace(false);
    let refused = send(&world, "shop:b", "i");
    while *world.node.saves.lock().unwrap() < 4 {
        tokio::task::yield_now().await;
    }
    let waiting = send(&world, "shop:b", "c");
    has(&world, "shop:b", 2).await;
    world.node.may_save.send_replace(true);
    assert_eq!(short(&refused.await.unwrap()), "Failed E-EPOCH-STALE");
    assert_eq!(short(&waiting.await.unwrap()), NOT_HERE);
    // It is told a newer epoch: then it goes on with what others left.
    world.place("shop:c", &module, Durability::Mesh);
    *world.node.save_fails.lock().unwrap() = None;
    assert_eq!(world.number("shop:c", "i").await, 1);
    *world.node.save_fails.lock().unwrap() = stale();
    world.node.states.lock().unwrap().insert(point("shop:c"), 41_u32.to_le_bytes().to_vec().into());
    world.place_with("shop:c", &module, Durability::Mesh, |activation| activation.epoch = Epoch(9));
    assert_eq!(short(&world.ask("shop:c", "i").await), "Failed E-EPOCH-STALE");
    *world.node.save_fails.lock().unwrap() = None;
    assert_eq!(world.number("shop:c", "i").await, 42);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_does_not_start_goes_back_under_the_newest_epoch() {
    let world = world();
    let module = probe(&world, "shop:a", Durability::Node).await;
    let bad = world.module(&PROBE.replace(";;START", "(unreachable)")).await;
    assert_eq!(world.number("shop:a", "i").await, 1);
    renew(&world, "shop:a", &bad, Durability::Node, 8).await;
    assert_eq!(world.number("shop:a", "i").await, 2);
    assert_eq!(world.node.saved.lock().unwrap().last(), Some(&(Epoch(8), Durability::Node)));
    drop(module);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_of_a_host_counts_what_waits_and_what_is_handled() {
    let world = world();
    probe(&world, "shop:a", Durability::Memory).await;
    world.number("shop:a", "c").await;
    let running = send(&world, "shop:a", "w");
    world.handles("shop:a").await;
    let waiting = send(&world, "shop:a", "c");
    let queue = |count: u64| {
        let world = &world;
        async move {
            while world.host.stats().queue != count {
                tokio::task::yield_now().await;
            }
        }
    };
    queue(2).await;
    running.abort();
    waiting.await.unwrap();
    queue(0).await;
    let running = send(&world, "shop:a", "w");
    queue(1).await;
    assert_eq!(short(&world.ask("shop:none", "").await), "Rejected E-NOT-FOUND");
    world.host.remove(&point("shop:a"));
    running.await.unwrap();
    queue(0).await;
    assert_eq!(world.host.stats().live, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_memory_is_not_the_next_resources() {
    let world = world();
    let module = probe(&world, "shop:a", Durability::Memory).await;
    assert_eq!(world.number("shop:a", "i").await, 1);
    renew(&world, "shop:a", &module, Durability::Memory, 2).await;
    assert_eq!(world.number("shop:a", "i").await, 2, "the same resource keeps what is in memory");
    world.place_with("shop:a", &module, Durability::Memory, |activation| {
        (activation.epoch, activation.since) = (Epoch(9), Epoch(9));
    });
    world.host.swap(&point("shop:a"));
    while state(&world, "shop:a").await == Some(State::Live) {}
    assert_eq!(world.number("shop:a", "i").await, 1, "another resource begins anew");
}
