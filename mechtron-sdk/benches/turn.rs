//! What a message costs inside of a mechtron: decoding, the handler, encoding, and the comparison of the state.
//! `cargo bench -p mechtron-sdk`; natively and, when `examples/build` ran, as Wasm in the interpreter.

#![expect(clippy::expect_used, reason = "a helper of a test that panics is a test that fails")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use mechtron_abi::{Header, Kind, MessageHead, StartHead, Writer, flags};
use mechtron_sdk::prelude::*;
use mechtron_sdk::{Guest, serde_json};

/// Adds.
#[derive(Message)]
struct Add {
    by: u64,
}

/// A small state.
#[mechtron]
struct Small {
    total: u64,
    additions: u32,
}

#[handlers]
impl Small {
    /// Changes the state.
    #[call]
    async fn add(&mut self, _cx: &mut Cx, m: Add) -> Result<u64> {
        self.total += m.by;
        self.additions += 1;
        Ok(self.total)
    }

    /// Does not.
    #[http(GET, "/total")]
    async fn page(&self, _cx: &mut Cx) -> Result<String> {
        Ok(self.total.to_string())
    }
}

/// A larger state: a thousand numbers with names.
#[mechtron(default)]
struct Large {
    numbers: std::collections::BTreeMap<String, u64>,
}

impl Default for Large {
    fn default() -> Self {
        Self { numbers: (0..1_000).map(|n| (format!("number-{n}"), n)).collect() }
    }
}

#[handlers]
impl Large {
    /// Changes one.
    #[call]
    async fn add(&mut self, _cx: &mut Cx, m: Add) -> Result<u64> {
        let number = self.numbers.entry("number-7".to_owned()).or_default();
        *number += m.by;
        Ok(*number)
    }
}

const ENTRIES: &[mechtron_sdk::__private::Entry] =
    &[mechtron_sdk::__private::Entry::of::<Small>(), mechtron_sdk::__private::Entry::of::<Large>()];

fn message(writer: &mut Writer, id: u64, method: &str, path: &str, body: &[u8]) {
    let head = MessageHead {
        from: "shop:y".into(),
        agent: "mesh:users:admin".into(),
        method: method.into(),
        path: path.into(),
        headers: vec![("content-type".into(), "application/json".into())],
        remaining_ms: 5_000,
    };
    let header = Header { flags: flags::WANTS_REPLY, ..Header::new(Kind::Message, id) };
    writer.frame_with_head(header, &head, body);
}

fn start(name: &str) -> Writer {
    let mut writer = Writer::new();
    let head = StartHead { point: "shop:x".into(), name: name.into() };
    writer.frame_with_head(Header::new(Kind::Start, 0), &head, b"");
    writer
}

/// The least of many rounds of a fifth of a millisecond, for one of `per_call` messages: short, so that on a busy machine
/// some are not interrupted.
fn measure(what: &str, per_call: u32, mut call: impl FnMut()) {
    let begin = Instant::now();
    call();
    let calls = (200_000 / begin.elapsed().as_nanos().max(1)).clamp(1, 1_000) as u32;
    let mut least = Duration::MAX;
    for _ in 0..500 {
        let begin = Instant::now();
        (0..calls).for_each(|_| call());
        least = least.min(begin.elapsed());
    }
    println!("{what:<58} {:>8.0} ns", least.as_nanos() as f64 / f64::from(calls * per_call));
}

fn native(what: &str, name: &str, count: u32, method: &str, path: &str, body: &[u8]) {
    let mut guest = Guest::new(ENTRIES);
    guest.run(start(name).bytes(), |_| ()).expect("it starts");
    let mut writer = Writer::new();
    (0..count).for_each(|id| message(&mut writer, id.into(), method, path, body));
    measure(what, count, || {
        black_box(guest.run(writer.bytes(), <[u8]>::len).expect("it runs"));
    });
}

fn wasm(what: &str, count: u32, method: &str, path: &str, body: &[u8]) {
    let path_of_module = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bundles/counter/wasm/counter.wasm");
    let Ok(bytes) = std::fs::read(path_of_module) else { return };
    let engine = wasmi::Engine::default();
    let module = wasmi::Module::new(&engine, &bytes).expect("a module");
    let mut store = wasmi::Store::new(&engine, ());
    let mut linker = wasmi::Linker::new(&engine);
    linker
        .func_wrap("mechtron", "mechtron_log", |_level: i32, _address: i32, _length: i32| {})
        .expect("nothing else has the name");
    let instance = linker.instantiate_and_start(&mut store, &module).expect("an instance");
    let memory = instance.get_memory(&store, "memory").expect("memory");
    let inbox = instance.get_typed_func::<i32, i32>(&store, "mechtron_inbox").expect("an inbox");
    let run = instance.get_typed_func::<i32, i64>(&store, "mechtron_run").expect("a run");
    let at = inbox.call(&mut store, 64 * 1_024).expect("an address") as usize;
    let mut give = |frames: &[u8]| {
        memory.write(&mut store, at, frames).expect("room");
        assert!(run.call(&mut store, frames.len() as i32).expect("it runs") >= 0);
    };
    give(start("").bytes());
    let mut writer = Writer::new();
    (0..count).for_each(|id| message(&mut writer, id.into(), method, path, body));
    measure(what, count, || give(writer.bytes()));
}

fn main() {
    let add = br#"{"by":1}"#;
    native("native: call that changes a small state", "Small", 1, "Ext<Add>", "/", add);
    native("native: the same, 16 messages a run", "Small", 16, "Ext<Add>", "/", add);
    native("native: page that changes nothing", "Small", 1, "Http<Get>", "/total", b"");
    native("native: the same, 16 messages a run", "Small", 16, "Http<Get>", "/total", b"");
    native("native: call that changes 1 of 1,000 named numbers", "Large", 1, "Ext<Add>", "/", add);
    wasm("wasmi: page of the counter", 1, "Http<Get>", "/total", b"");
    wasm("wasmi: the same, 16 messages a run", 16, "Http<Get>", "/total", b"");
    wasm("wasmi: call of the counter that is refused", 1, "Ext<Add>", "/", br#"{"by":0}"#);

    // What another format would save.
    let state = Large::default();
    let json = serde_json::to_vec(&state).expect("JSON");
    let dense = postcard::to_allocvec(&state).expect("postcard");
    println!("state of 1,000 named numbers: JSON {} bytes, postcard {} bytes", json.len(), dense.len());
    let mut into = Vec::with_capacity(json.len());
    measure("save it as JSON", 1, || {
        into.clear();
        serde_json::to_writer(&mut into, &state).expect("JSON");
    });
    measure("save it as postcard", 1, || _ = black_box(postcard::to_allocvec(&state).expect("postcard")));
}
