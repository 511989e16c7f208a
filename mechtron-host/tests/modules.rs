//! Which modules are refused, why, and what becomes of those that are not.

#![expect(clippy::unwrap_used, reason = "what is unexpected here fails the run")]

mod support;

use std::time::{Duration, Instant};

use mechtron_host::{Durability, EngineKind};
use starlane_core::{Code, Problem};
use support::*;

async fn refused(world: &World, wasm: Vec<u8>) -> Problem {
    match world.host.compile(wasm.into()).await {
        Ok(_) => panic!("the module was taken"),
        Err(problem) => problem,
    }
}

/// A module that would be a mechtron but for what is put into it.
fn with(extra: &str) -> Vec<u8> {
    wat::parse_str(ECHO.replacen(
        "(memory (export \"memory\") 1)",
        &format!("{extra} (memory (export \"memory\") 1)"),
        1,
    ))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_modules_are_refused_with_their_reason() {
    let world = World::new(EngineKind::Wasmer);
    let cases: Vec<(Vec<u8>, Code, &str)> = vec![
        (b"not wasm".to_vec(), Code::WasmInvalid, "malformed"),
        (Vec::new(), Code::WasmInvalid, ""),
        (b"\0asm\x0d\0\x01\0".to_vec(), Code::WasmInvalid, "component"),
        (vec![0; (16 << 20) + 1], Code::TooLarge, "bytes"),
        (wat::parse_str("(module)").unwrap(), Code::WasmInvalid, "memory"),
        (
            wat::parse_str("(module (memory (export \"memory\") 1))").unwrap(),
            Code::WasmInvalid,
            "mechtron_abi",
        ),
        (with("(import \"env\" \"fopen\" (func))"), Code::WasmInvalid, "env.fopen"),
        (
            with("(import \"mechtron\" \"mechtron_now\" (func (result i32)))"),
            Code::WasmInvalid,
            "another type",
        ),
        (with("(import \"env\" \"table\" (table 1 funcref))"), Code::WasmInvalid, "not a function"),
        (with("(table 100000000 funcref)"), Code::TooLarge, "table"),
        (with("(global (export \"starlane:ticks\") (mut i64) (i64.const 0))"), Code::WasmInvalid, "reserved"),
        (with("(tag) (func (throw 0))"), Code::WasmInvalid, "not valid"),
        (with("(func (drop (i32.atomic.load (i32.const 0))))"), Code::WasmInvalid, "not valid"),
        (with("(func $f (return_call $f))"), Code::WasmInvalid, "not valid"),
        (with("(memory 1)"), Code::WasmInvalid, ""),
        (with("(type (struct))"), Code::WasmInvalid, "not valid"),
        (with("(func (result i32) (i64.const 1))"), Code::WasmInvalid, "not valid"),
        (with(&format!("(func (local {}))", "i64 ".repeat(49_000))), Code::TooLarge, "locals"),
        (with(&format!("(func {}{})", "(block ".repeat(5_000), ")".repeat(5_000))), Code::TooLarge, "blocks"),
        (
            with(&format!("(func (block (br_table {} (i32.const 0))))", "0 ".repeat(50_000))),
            Code::TooLarge,
            "branch targets",
        ),
        (
            with(&format!("(func {})", "(drop (i64.const 9))".repeat(200_000))),
            Code::TooLarge,
            "bytes of code",
        ),
        (with(&"(func)".repeat(60_000)), Code::TooLarge, "functions"),
        (
            wat::parse_str(
                ECHO.replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 65536)"),
            )
            .unwrap(),
            Code::TooLarge,
            "memory",
        ),
        (
            wat::parse_str(
                ECHO.replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 1 1 shared)"),
            )
            .unwrap(),
            Code::WasmInvalid,
            "",
        ),
        (
            wat::parse_str(ECHO.replace(
                "(export \"mechtron_run\") (param $length i32)",
                "(export \"mechtron_run\") (param $length i32) (param i32)",
            ))
            .unwrap(),
            Code::WasmInvalid,
            "mechtron_run",
        ),
        (custom_claims_a_gigabyte(), Code::WasmInvalid, "malformed"),
    ];
    let mut count = 0;
    for (wasm, code, reason) in cases {
        let start = Instant::now();
        let problem = refused(&world, wasm.clone()).await;
        assert_eq!(problem.code, code, "{problem}");
        assert!(problem.detail.contains(reason), "`{}` does not say `{reason}`", problem.detail);
        assert!(start.elapsed() < Duration::from_secs(5), "{problem}");
        assert_eq!(refused(&world, wasm).await, problem, "the second time it is known");
        count += 1;
    }
    assert!(count >= 25, "{count}");
}

/// An echo whose `mechtron_abi` has another body, with more beside it.
fn with_abi(body: &str, beside: &str) -> Vec<u8> {
    let own = "(func (export \"mechtron_abi\") (result i32) (i32.const 0x10000))";
    assert!(ECHO.contains(own));
    let other = format!("{beside} (func (export \"mechtron_abi\") (result i32) {body})");
    wat::parse_str(ECHO.replacen(own, &other, 1)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_of_another_abi_is_refused_before_it_starts() {
    for engine in [EngineKind::Wasmer, EngineKind::Wasmi] {
        let world = World::new(engine);
        for (body, reason) in [
            ("(i32.const 0x20000)", "it speaks guest ABI 2, this host 1"),
            ("(i32.const -65536)", "it speaks guest ABI -1, this host 1"),
            ("(i32.shl (i32.const 2) (i32.const 16))", "it speaks guest ABI 2, this host 1"),
            ("(global.get $count)", "it speaks guest ABI 0, this host 1"),
            ("(unreachable)", "cannot be told: mechtron_abi"),
            ("(loop $l (br $l)) (unreachable)", "cannot be told: mechtron_abi: it used up the time"),
        ] {
            let problem = refused(&world, with_abi(body, "(global $count i32 (i32.const 0))")).await;
            assert_eq!(problem.code, Code::WasmInvalid, "{problem}");
            assert!(problem.detail.contains(reason), "`{}` does not say `{reason}`", problem.detail);
            assert!(problem.help.is_some(), "{problem}");
        }
        // It is known only when the module was started.
        let beside = "(global $abi (mut i32) (i32.const 0)) \
            (func (export \"_initialize\") (global.set $abi (i32.const 0x10005)))";
        let module = world.host.compile(with_abi("(global.get $abi)", beside).into()).await.unwrap();
        world.place("shop:a", &module, Durability::Memory);
        assert_eq!(body(&world.ask("shop:a", "hello").await), "hello");
    }
}

fn custom_claims_a_gigabyte() -> Vec<u8> {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    wasm.extend([0, 0x80, 0x80, 0x80, 0x80, 0x04, 4]);
    wasm.extend(b"name");
    wasm
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_is_clamped_to_the_mechtrons_own_limit() {
    for engine in [EngineKind::Wasmer, EngineKind::Wasmi] {
        let world = World::new(engine);
        let module = world.module(PROBE).await;
        let limits = mechtron_host::Limits { memory_bytes: 2 << 20, ..mechtron_host::Limits::default() };
        world.place_with("shop:small", &module, Durability::Memory, |a| a.limits = Some(limits.clone()));
        assert_eq!(world.number("shop:small", "c").await, 0);
        // It wants 56 MiB for a fill, gets nothing, and traps beyond its memory or runs out of ticks.
        assert!(short(&world.ask("shop:small", "f").await).starts_with("Failed"));
        assert_eq!(world.number("shop:small", "c").await, 0);
        let info = world.host.info(&point("shop:small")).await.unwrap();
        assert!(info.memory_bytes <= 2 << 20, "{}", info.memory_bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_in_start_is_stopped() {
    for engine in [EngineKind::Wasmer, EngineKind::Wasmi] {
        let mut world = World::with(engine, |config| config.restarts = 1);
        let text = PROBE.replace(";;MODULE", "(func $forever (loop $l (br $l))) (start $forever)");
        let module = world.module(&text).await;
        world.place("shop:a", &module, Durability::Memory);
        assert_eq!(short(&world.ask("shop:a", "c").await), "Rejected E-NOT-READY");
        let (_, reason) = world.next_status().await;
        assert!(reason.contains("used up the time"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_runs_far_without_a_tick() {
    // Each body jumps over where a tick would stand if ticks were counted in straight lines only.
    let straight = "(drop (i64.const 1))".repeat(14);
    let dodge = format!("(block {straight} (br 0) (drop (i64.const 1)))").repeat(50);
    let branchy = format!("(block {straight} (br_if 0 (i32.const 1)) {straight})").repeat(50);
    let either = format!("(if (i32.const 1) (then {straight}) (else {straight}{straight}))").repeat(50);
    for engine in [EngineKind::Wasmer, EngineKind::Wasmi] {
        for body in [&dodge, &branchy, &either] {
            let world = World::with(engine, |config| config.limits.ticks = 20);
            // 20 ticks are enough for the few turns of an empty echo, not for some 1,500 operations at 32 a tick.
            let cheap = world.module(&echo_with("")).await;
            let dear = world.module(&echo_with(body)).await;
            world.place("shop:cheap", &cheap, Durability::Memory);
            world.place("shop:dear", &dear, Durability::Memory);
            assert_eq!(short(&world.ask("shop:cheap", "x").await), "Ok 200");
            assert_eq!(short(&world.ask("shop:dear", "x").await), "Failed E-TIME-BUDGET");
        }
    }
}

/// An echo that also runs a body for each message.
fn echo_with(body: &str) -> String {
    ECHO.replacen(";; The body as it came.", "(call $more)", 1).replacen(
        "(global $inbox",
        &format!("(func $more {body}) (global $inbox"),
        1,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compiled_code_is_kept_and_a_changed_entry_is_compiled_again() {
    let world = World::new(EngineKind::Wasmer);
    drop(world.module(ECHO).await);
    let entry = std::fs::read_dir(world.cache.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "code"))
        .unwrap();
    let good = std::fs::read(&entry).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 0xff;
    std::fs::write(&entry, &bad).unwrap();
    let module = world.module(ECHO).await;
    world.place("shop:a", &module, Durability::Memory);
    assert_eq!(body(&world.ask("shop:a", "still right").await), "still right");
    assert_ne!(std::fs::read(&entry).unwrap(), bad, "it was compiled again and kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_read_and_messages_are_checked() {
    let world = World::new(EngineKind::Wasmer);
    let mut wasm = wat::parse_str(ECHO).unwrap();
    let records = br##"{"mechtron":"Echo","handlers":[{"role":"call","method":"Ext<Ask>","input":{"$ref":"#/$defs/Ask"}}]}
{"def":"Ask","schema":{"type":"object","properties":{"by":{"type":"integer"}},"required":["by"]}}"##;
    let name = mechtron_abi::CONTRACT_SECTION.as_bytes();
    let mut section = vec![name.len() as u8];
    section.extend_from_slice(name);
    section.extend_from_slice(records);
    wasm.push(0);
    let mut length = section.len();
    while length >= 0x80 {
        wasm.push(length as u8 | 0x80);
        length >>= 7;
    }
    wasm.push(length as u8);
    wasm.extend(section);
    let module = world.host.compile(wasm.into()).await.unwrap();
    assert_eq!(module.mechtrons().collect::<Vec<_>>(), ["Echo"]);
    world.place("shop:a", &module, Durability::Memory);
    assert_eq!(short(&world.ask("shop:a", r#"{"by":1}"#).await), "Ok 200");
    assert_eq!(short(&world.ask("shop:a", r#"{"by":"x"}"#).await), "Rejected E-MESSAGE-INVALID");
}

#[test]
fn what_fuzzing_modules_begins_with_is_answered() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/module");
    let mut inputs: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 10, "{inputs:?}");
    for input in &inputs {
        println!("{}", input.display());
        let wasm = std::fs::read(input).unwrap();
        mechtron_host::check_module(&wasm);
        // And whatever is left of it.
        for end in 0..wasm.len() {
            mechtron_host::check_module(&wasm[..end]);
        }
        for at in 0..wasm.len() {
            let mut other = wasm.clone();
            other[at] ^= 0x41;
            mechtron_host::check_module(&other);
        }
    }
    mechtron_host::check_module(&wat::parse_str(PROBE).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fuzzing_begins_with_is_taken_where_it_should_be() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/module");
    let world = World::new(EngineKind::Wasmi);
    for (name, taken) in [
        ("00", true),
        ("01", true),
        ("02", true),
        ("03", false),
        ("04", true),
        ("05", true),
        ("06", false),
        ("07", true),
        ("10", true),
    ] {
        let wasm = std::fs::read(format!("{folder}/{name}")).unwrap();
        let compiled = world.host.compile(wasm.into()).await;
        assert_eq!(compiled.is_ok(), taken, "{name}: {:?}", compiled.err());
    }
}
