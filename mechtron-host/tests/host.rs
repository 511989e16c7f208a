//! What a node sees of its host, on both engines.

#![expect(clippy::unwrap_used, reason = "what is unexpected here fails the run")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use mechtron_abi::Kind;
use mechtron_host::{Durability, EngineKind, Limits, State};
use starlane_core::{Code, Message, Outcome, Payload, Phase, Refusal};
use support::*;

/// The lines of a mechtron.
async fn lines(world: &World, at: &str) -> Vec<String> {
    let mut stream = world.host.logs(&point(at), 100, false);
    let mut lines = Vec::new();
    while let Some(line) = stream.next().await {
        lines.push(line.line);
    }
    lines
}

/// Runs each test on each engine.
macro_rules! on_engines {
    ($($(#[$meta:meta])* async fn $name:ident($engine:ident) $body:block)+) => {$(
        mod $name {
            use super::*;

            async fn test($engine: EngineKind) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn wasmer() {
                test(EngineKind::Wasmer).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn wasmi() {
                test(EngineKind::Wasmi).await;
            }
        }
    )+};
}

on_engines! {
    async fn a_guest_without_an_sdk_answers(engine) {
        let world = World::new(engine);
        let module = world.module(ECHO).await;
        world.place("shop:echo", &module, Durability::Memory);
        for length in [0, 1, 100, 70_000, 1 << 20] {
            let text = Bytes::from(vec![b'x'; length]);
            assert_eq!(body(&world.ask("shop:echo", text.clone()).await), text);
        }
        let info = world.host.info(&point("shop:echo")).await.unwrap();
        assert_eq!((info.state, info.handled, info.queue), (State::Live, 5, 0));
        assert_eq!(short(&world.ask("shop:none", "").await), "Rejected E-NOT-FOUND");
    }

    async fn state_survives_sleep_and_a_trap(engine) {
        let world = World::new(engine);
        let module = world.module(PROBE).await;
        for (at, durability) in [("shop:a", Durability::Memory), ("shop:b", Durability::Node)] {
            world.place(at, &module, durability);
            assert_eq!(world.number(at, "i").await, 1);
            assert_eq!(world.number(at, "i").await, 2);
            world.host.sleep(&point(at));
            assert_eq!(world.host.info(&point(at)).await.unwrap().state, State::Sleeping);
            assert_eq!(world.number(at, "c").await, 2);
            assert_eq!(short(&world.ask(at, "u").await), "Failed E-TRAP");
            assert_eq!(world.number(at, "i").await, 3);
        }
        assert_eq!(*world.node.saves.lock().unwrap(), 3, "an unchanged state commits nothing");
    }

    async fn an_answer_waits_for_its_commit(engine) {
        let world = World::new(engine);
        let module = world.module(PROBE).await;
        world.place("shop:slow", &module, Durability::Node);
        world.place("shop:other", &module, Durability::Memory);
        world.node.may_save.send_replace(false);
        let mut waiting = Box::pin(world.ask("shop:slow", "i"));
        assert!(futures::poll!(&mut waiting).is_pending());
        // Others go on meanwhile; each turn of theirs proves that the shard is not blocked.
        for _ in 0..10 {
            world.number("shop:other", "i").await;
        }
        assert!(futures::poll!(&mut waiting).is_pending());
        world.node.may_save.send_replace(true);
        assert_eq!(number(&waiting.await), 1);
    }

    async fn a_state_that_cannot_be_saved_is_not_kept(engine) {
        let world = World::new(engine);
        let module = world.module(PROBE).await;
        world.place("shop:a", &module, Durability::Node);
        assert_eq!(world.number("shop:a", "i").await, 1);
        *world.node.save_fails.lock().unwrap() = Some(Refusal::new(Code::StoreUnavailable, "disk full"));
        assert_eq!(short(&world.ask("shop:a", "i").await), "Unknown E-STORE");
        *world.node.save_fails.lock().unwrap() = None;
        assert_eq!(world.number("shop:a", "c").await, 1);
    }

    async fn mechtrons_ask_each_other_and_the_outside(engine) {
        let world = World::new(engine);
        let (probe, echo) = (world.module(PROBE).await, world.module(ECHO).await);
        world.place("shop:asks", &probe, Durability::Memory);
        world.place_with("shop:bound", &echo, Durability::Memory, |activation| activation.bound = true);
        for number in 0..8 {
            // Over several points both shards take part.
            let to = format!("shop:echo-{number}");
            world.place(&to, &echo, Durability::Memory);
            world.ask(&to, "wake up").await;
            let script = Script::default().request(OWN, &to, b"hello").bytes();
            assert_eq!(body(&world.ask("shop:asks", script).await), "hello");
        }
        world.ask("shop:bound", "wake up").await;
        for to in ["out:there", "shop:bound"] {
            let script = Script::default().request(OWN, to, b"hello").bytes();
            assert_eq!(body(&world.ask("shop:asks", script).await), format!("outside saw {to}"));
        }
        let script = Script::default().frame(Kind::Select, OWN, b"shop:*").bytes();
        assert_eq!(body(&world.ask("shop:asks", script).await), r#"["shop:asks","shop:*"]"#);
        let script = Script::default().call(Kind::Send, 0, "out:there", b"", 0).answer("sent").bytes();
        assert_eq!(body(&world.ask("shop:asks", script).await), "sent");
        // It passes the shard of its target, which may be another.
        while world.node.sent.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.node.sent.lock().unwrap()[0].header.agent.0, point("shop:asks"));
        let script = Script::default().request(OWN, "NOT A POINT", b"").bytes();
        assert_eq!(short(&world.ask("shop:asks", script).await), "Rejected E-POINT-SYNTAX");
    }

    async fn a_cycle_is_refused_at_once(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        for at in ["shop:a", "shop:b", "shop:c"] {
            world.place(at, &probe, Durability::Memory);
            world.number(at, "c").await;
        }
        let back = Script::default().request(OWN, "shop:a", b"c").bytes();
        let on = Script::default().request(OWN, "shop:c", &back).bytes();
        let there = Script::default().request(OWN, "shop:b", &on).bytes();
        assert_eq!(short(&world.ask("shop:a", there).await), "Rejected E-CYCLE");
        assert_eq!(short(&world.ask("shop:a", back).await), "Rejected E-CYCLE");
        let from_far = with_chain(message("shop:a", "c", LONG), &["shop:x", "shop:a"]);
        assert_eq!(short(&world.request(from_far).await), "Rejected E-CYCLE");
        assert_eq!(world.number("shop:a", "c").await, 0);
    }

    async fn a_deadline_has_one_outcome(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        world.place("shop:a", &probe, Durability::Memory);
        world.number("shop:a", "c").await;
        let running = tokio::spawn(world.request(message("shop:a", "w", Duration::from_secs(5))));
        world.handles("shop:a").await;
        let waiting = tokio::spawn(world.request(message("shop:a", "c", Duration::from_secs(2))));
        while world.host.info(&point("shop:a")).await.unwrap().queue < 2 {}
        world.clock.advance(Duration::from_secs(3));
        assert_eq!(short(&waiting.await.unwrap()), "Rejected E-EXPIRED");
        world.clock.advance(Duration::from_secs(3));
        assert_eq!(short(&running.await.unwrap()), "Unknown E-TIMEOUT");
        assert_eq!(world.number("shop:a", "c").await, 0, "the handler was cancelled, the next one runs");
        let late = world.request(message("shop:a", "c", Duration::ZERO)).await;
        assert_eq!(short(&late), "Rejected E-EXPIRED");
        let script = Script::default().call(Kind::Request, OWN, "out:never", b"", 1_000).bytes();
        let asking = tokio::spawn(world.request(message("shop:a", script, LONG)));
        // The time of the request begins when the guest has asked, which may be after any one of these moves.
        while !asking.is_finished() {
            world.clock.advance(Duration::from_secs(2));
            tokio::task::yield_now().await;
        }
        // On its way between shards it surely did not run.
        let ended = short(&asking.await.unwrap());
        assert!(["Unknown E-TIMEOUT", "Rejected E-EXPIRED"].contains(&ended.as_str()), "{ended}");
    }

    async fn who_leaves_is_cancelled_for(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        for at in ["shop:a", "shop:b"] {
            world.place(at, &probe, Durability::Memory);
            world.number(at, "c").await;
        }
        let script = Script::default().request(OWN, "shop:b", b"w").bytes();
        let asking = tokio::spawn(world.request(message("shop:a", script, LONG)));
        world.handles("shop:b").await;
        asking.abort();
        // A is free again; its request to B was its own and goes on until it gives up.
        assert_eq!(world.number("shop:a", "c").await, 0);
        let running = tokio::spawn(world.request(message("shop:b", "c", LONG)));
        while world.host.info(&point("shop:b")).await.unwrap().queue < 2 {}
        // When the instance that asked ends, B is told.
        assert_eq!(short(&world.ask("shop:a", "u").await), "Failed E-TRAP");
        assert_eq!(number(&running.await.unwrap()), 0);
    }

    async fn timers_fire_between_messages(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        world.place("shop:a", &probe, Durability::Memory);
        let script = Script::default()
            .frame(Kind::SetTimer, 7, &1_000_u64.to_le_bytes())
            .frame(Kind::SetTimer, 8, &1_000_u64.to_le_bytes())
            .frame(Kind::GiveUp, 8, &[])
            .answer("set");
        world.ask("shop:a", script.bytes()).await;
        world.clock.advance(Duration::from_millis(900));
        assert_eq!(world.number("shop:a", "c").await, 0);
        world.clock.advance(Duration::from_millis(200));
        while world.number("shop:a", "c").await != 100 {}
    }

    async fn an_idle_mechtron_sleeps_and_wakes_up(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        world.place("shop:a", &probe, Durability::Memory);
        world.number("shop:a", "i").await;
        world.clock.advance(Duration::from_secs(61));
        while world.host.info(&point("shop:a")).await.unwrap().state != State::Sleeping {}
        assert_eq!(world.host.info(&point("shop:a")).await.unwrap().memory_bytes, 0);
        assert_eq!(world.number("shop:a", "i").await, 2);
    }

    async fn a_full_mailbox_says_so(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        let limits = Limits { mailbox_messages: 3, ..Limits::default() };
        world.place_with("shop:a", &probe, Durability::Memory, |activation| activation.limits = Some(limits));
        world.number("shop:a", "c").await;
        let running = tokio::spawn(world.request(message("shop:a", "w", LONG)));
        world.handles("shop:a").await;
        let waiting: Vec<_> =
            (0..3).map(|_| tokio::spawn(world.request(message("shop:a", "c", LONG)))).collect();
        while world.host.info(&point("shop:a")).await.unwrap().queue < 4 {}
        match world.ask("shop:a", "c").await {
            Outcome::Rejected(refusal) => {
                assert_eq!(refusal.code, Code::Busy);
                assert!(refusal.retry_after.is_some());
            }
            other => panic!("{other:?}"),
        }
        running.abort();
        for waiting in waiting {
            assert_eq!(number(&waiting.await.unwrap()), 0);
        }
    }

    async fn of_a_batch_only_the_one_that_traps_fails(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        world.place("shop:a", &probe, Durability::Memory);
        world.number("shop:a", "c").await;
        let first = tokio::spawn(world.request(message("shop:a", "w", LONG)));
        world.handles("shop:a").await;
        // These wait, so that they come as one batch.
        let mut batch = Vec::new();
        for number in 0..10 {
            let op = if number == 6 { "u" } else { "i" };
            batch.push(tokio::spawn(world.request(message("shop:a", op, LONG))));
            while world.host.info(&point("shop:a")).await.unwrap().queue < 2 + number {}
        }
        first.abort();
        let mut outcomes = Vec::new();
        for one in batch {
            outcomes.push(one.await.unwrap());
        }
        assert_eq!(short(&outcomes.remove(6)), "Failed E-TRAP");
        assert_eq!(outcomes.iter().map(number).collect::<Vec<_>>(), (1..10).collect::<Vec<_>>());
        assert_eq!(world.host.info(&point("shop:a")).await.unwrap().restarts, 1);
    }

    async fn a_swap_keeps_state_and_a_bad_version_is_rolled_back(engine) {
        let mut world = World::new(engine);
        let probe = world.module(PROBE).await;
        let other = world.module(&PROBE.replace(";;MODULE", "(global i32 (i32.const 2))")).await;
        let bad = world.module(&PROBE.replace(";;START", "(unreachable)")).await;
        world.place("shop:a", &probe, Durability::Memory);
        assert_eq!(world.number("shop:a", "i").await, 1);
        assert_eq!(world.next_status().await, (Phase::Ready, String::new()));
        world.place("shop:a", &other, Durability::Memory);
        world.host.swap(&point("shop:a"));
        assert_eq!(world.number("shop:a", "i").await, 2);
        world.place("shop:a", &bad, Durability::Memory);
        world.host.swap(&point("shop:a"));
        let (phase, reason) = world.next_status().await;
        assert!(phase == Phase::Ready && reason.starts_with("rolled back: "), "{reason}");
        assert_eq!(world.number("shop:a", "i").await, 3);
    }

    async fn a_crash_loop_ends_in_panic_until_a_swap(engine) {
        let mut world = World::new(engine);
        let bad = world.module(&PROBE.replace(";;START", "(unreachable)")).await;
        let good = world.module(PROBE).await;
        world.place("shop:bad", &bad, Durability::Memory);
        world.place("shop:good", &good, Durability::Memory);
        let asking = tokio::spawn(world.request(message("shop:bad", "c", LONG)));
        while world.host.info(&point("shop:bad")).await.is_none_or(|info| info.state != State::Failed) {
            world.clock.advance(Duration::from_millis(100));
        }
        assert_eq!(short(&asking.await.unwrap()), "Rejected E-NOT-READY");
        assert_eq!(world.host.info(&point("shop:bad")).await.unwrap().restarts, 5);
        let (phase, reason) = world.next_status().await;
        assert!(phase == Phase::Panic && reason.contains("does not start"), "{reason}");
        assert_eq!(short(&world.ask("shop:bad", "c").await), "Rejected E-NOT-READY");
        assert_eq!(world.number("shop:good", "i").await, 1);
        world.place("shop:bad", &good, Durability::Memory);
        world.host.swap(&point("shop:bad"));
        assert_eq!(world.number("shop:bad", "i").await, 1);
    }

    async fn hostile_guests_end_and_nobody_else(engine) {
        let mut world = World::with(engine, |config| config.restart_delay = Duration::ZERO);
        let probe = world.module(PROBE).await;
        world.place("shop:bad", &probe, Durability::Memory);
        world.place("shop:good", &probe, Durability::Memory);
        for (op, expected) in [
            ("u", "Failed E-TRAP"),
            ("l", "Failed E-TIME-BUDGET"),
            ("f", "Failed E-TIME-BUDGET"),
            ("x", "Failed E-TIME-BUDGET"),
            ("n", "Failed E-ABI"),
            ("p", "Failed E-ABI"),
            ("o", "Failed E-ABI"),
            ("s", "Failed E-ABI"),
        ] {
            assert_eq!(short(&world.ask("shop:bad", op).await), expected, "{op}");
            world.number("shop:good", "i").await;
        }
        for op in ["r", "m"] {
            // An engine's stack may end before the budget does.
            let ended = short(&world.ask("shop:bad", op).await);
            assert!(["Failed E-TRAP", "Failed E-TIME-BUDGET"].contains(&ended.as_str()), "{op}: {ended}");
        }
        assert_eq!(world.number("shop:bad", "g").await, u32::MAX, "4 GiB are not given");
        for frames in [
            Script::default().frame(Kind::Answer, 12_345, &[]),
            Script::default().frame(Kind::Fail, OWN, &[255; 3]),
            Script::default().answer("one").answer("two"),
            Script::default().request(1, "out:never", b"").request(1, "out:never", b""),
            Script::default().frame(Kind::SetTimer, 1, &[1]),
        ] {
            assert_eq!(short(&world.ask("shop:bad", frames.bytes()).await), "Failed E-ABI");
        }
        let mut cut = Script::default().answer("text").bytes();
        cut.truncate(8 + 25);
        assert_eq!(short(&world.ask("shop:bad", cut).await), "Failed E-ABI");
        assert_eq!(world.number("shop:good", "i").await, 9);
        // Not one message of many in a row takes the mechtron away from the others.
        assert_eq!(world.number("shop:bad", "c").await, 0);
        assert!(world.host.info(&point("shop:bad")).await.unwrap().restarts > 5);
        for _ in 0..2 {
            assert_eq!(world.next_status().await, (Phase::Ready, String::new()));
        }
    }

    async fn one_that_only_traps_waits_a_little_before_it_starts_again(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        world.place("shop:a", &probe, Durability::Memory);
        for _ in 0..5 {
            assert_eq!(short(&world.ask("shop:a", "u").await), "Failed E-TRAP");
        }
        let mut next = Box::pin(world.ask("shop:a", "i"));
        for _ in 0..100 {
            assert!(futures::poll!(&mut next).is_pending(), "it waits for the clock");
            tokio::task::yield_now().await;
        }
        world.clock.advance(Duration::from_millis(100));
        assert_eq!(number(&next.await), 1);
        // Having answered, it is as good as new.
        assert_eq!(short(&world.ask("shop:a", "u").await), "Failed E-TRAP");
        assert_eq!(world.number("shop:a", "c").await, 1);
    }

    async fn a_wasi_command_runs_for_each_message(engine) {
        let world = World::new(engine);
        let module = world.module(CAT).await;
        world.place("shop:cat", &module, Durability::Memory);
        assert_eq!(body(&world.ask("shop:cat", "hello").await), "hello");
        assert_eq!(body(&world.ask("shop:cat", "again").await), "again");
        assert_eq!(short(&world.ask("shop:cat", "x").await), "Failed E-HANDLER", "exit code 3");
    }

    async fn lines_are_kept_and_followed(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        world.place("shop:a", &probe, Durability::Memory);
        let script = Script::default().frame(Kind::Log, 0, b"hello\x1b").answer("").bytes();
        let mut follow = world.host.logs(&point("shop:a"), 10, true);
        world.ask("shop:a", script).await;
        assert_eq!(follow.next().await.unwrap().line, "hello\\u{1b}");
        assert_eq!(world.host.logs(&point("shop:a"), 10, false).next().await.unwrap().point, point("shop:a"));
    }

    async fn what_was_logged_before_a_trap_is_kept(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        world.place("shop:a", &probe, Durability::Memory);
        assert_eq!(short(&world.ask("shop:a", "y").await), "Failed E-TRAP");
        assert_eq!(lines(&world, "shop:a").await[0], "a last line");

        // Of messages that ran together and run again one by one, each line is there once.
        world.place("shop:b", &probe, Durability::Node);
        world.node.may_load.send_replace(false);
        let asked = ["y", "c", "c"].map(|op| tokio::spawn(world.request(message("shop:b", op, LONG))));
        while world.host.info(&point("shop:b")).await.unwrap().queue < 3 {}
        world.node.may_load.send_replace(true);
        let mut outcomes = Vec::new();
        for asked in asked {
            outcomes.push(short(&asked.await.unwrap()));
        }
        outcomes.sort();
        assert_eq!(outcomes, ["Failed E-TRAP", "Ok 200", "Ok 200"]);
        assert_eq!(lines(&world, "shop:b").await.iter().filter(|line| *line == "a last line").count(), 1);

        // What does not even start.
        let world = World::with(engine, |config| config.restarts = 1);
        for (at, marker) in [("shop:c", ";;INIT"), ("shop:d", ";;START")] {
            let last = "(call $log (i32.const 3) (i32.const 32) (i32.const 11)) (unreachable)";
            let module = world.module(&PROBE.replacen(marker, last, 1)).await;
            world.place(at, &module, Durability::Memory);
            assert_eq!(short(&world.ask(at, "c").await), "Rejected E-NOT-READY");
            let lines = lines(&world, at).await;
            assert_eq!(lines[0], "a last line", "{lines:?}");
            assert!(lines[1].contains("does not start"), "{lines:?}");
        }
    }

    async fn signals_that_nobody_takes_are_told_each_once(engine) {
        let world = World::with(engine, |config| config.limits.mailbox_messages = 2);
        let probe = world.module(PROBE).await;
        world.place("shop:a", &probe, Durability::Memory);
        let signal = |to: &str| {
            let Payload::Request(request) = message(to, "w", LONG).payload else { panic!("a request") };
            Message { payload: Payload::Signal(request), ..message(to, "w", LONG) }
        };
        let waiting = tokio::spawn(world.request(message("shop:a", "w", LONG)));
        world.handles("shop:a").await;
        for _ in 0..5 {
            world.host.send(signal("shop:a")).unwrap();
        }
        // The question is answered after them.
        assert_eq!(world.host.info(&point("shop:a")).await.unwrap().queue, 3);
        assert_eq!(world.host.waiting().await, [(point("shop:a"), 3)]);
        world.host.send(signal("shop:none")).unwrap();
        while world.node.undelivered.lock().unwrap().len() < 4 {
            tokio::task::yield_now().await;
        }
        world.host.remove(&point("shop:a"));
        assert_eq!(short(&waiting.await.unwrap()), "Failed E-NOT-FOUND");
        let told: Vec<_> = world.node.undelivered.lock().unwrap().drain(..).collect();
        let of = |to: &str, code| {
            told.iter().filter(|(message, refusal)| message.header.to.as_str() == to && refusal.code == code).count()
        };
        assert_eq!((of("shop:a", Code::Busy), of("shop:none", Code::NotFound)), (3, 1));
        assert_eq!((of("shop:a", Code::NotFound), told.len()), (2, 6));
        assert_eq!(world.host.stats().lost, 6);
        assert_eq!(world.host.waiting().await, []);
    }

    async fn no_change_is_missed_when_too_much_waits(engine) {
        let world = World::with(engine, |config| config.shard_queue = 1);
        let (probe, echo) = (world.module(PROBE).await, world.module(ECHO).await);
        let points: Vec<_> = (0..200).map(|number| format!("shop:m{number}")).collect();
        for at in &points {
            world.place(at, &probe, Durability::Memory);
            assert_eq!(world.number(at, "c").await, 0);
        }
        for at in &points {
            world.place(at, &echo, Durability::Memory);
        }
        for at in &points {
            world.host.swap(&point(at));
        }
        for at in &points {
            // It takes the change at its next turn, when it was asked for.
            let answers = |outcome: &Outcome| matches!(outcome, Outcome::Ok(_)) && body(outcome) == "c";
            while !answers(&world.ask(at, "c").await) {}
        }
    }

    async fn draining_finishes_what_runs_and_saves(engine) {
        let world = World::new(engine);
        let probe = world.module(PROBE).await;
        world.place("shop:a", &probe, Durability::Node);
        world.node.may_save.send_replace(false);
        let running = tokio::spawn(world.request(message("shop:a", "i", LONG)));
        while *world.node.saves.lock().unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        let mut draining = Box::pin(world.host.drain(LONG));
        assert!(futures::poll!(&mut draining).is_pending());
        assert_eq!(short(&world.ask("shop:a", "i").await), "Rejected E-DRAINING");
        world.node.may_save.send_replace(true);
        draining.await;
        assert_eq!(number(&running.await.unwrap()), 1);
        assert_eq!(world.host.info(&point("shop:a")).await.unwrap().state, State::Sleeping);
    }
}

/// Copies stdin to stdout; leaves with 3 when it begins with an x.
const CAT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 4096))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 120)) (then (call $exit (i32.const 3))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 0))))"#;
