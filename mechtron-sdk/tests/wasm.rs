//! The examples as real modules, driven by frames in an interpreter: what is tested natively elsewhere is tested here
//! as Wasm.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of a test that panics is a test that fails"
)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use mechtron_abi::{
    CONTRACT_SECTION, Frames, Header, InitHead, Kind, MessageHead, ReplyHead, StartHead, VERSION, Writer,
    flags,
};
use wasmi::{Caller, Engine, Extern, Instance, Linker, Memory, Module, Store, TypedFunc};

/// A bundle's module; builds the bundles when they are not there.
fn module(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<()> = OnceLock::new();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join(format!("target/bundles/{name}/wasm/{name}.wasm"));
    BUILT.get_or_init(|| {
        if !path.exists() {
            assert!(Command::new(root.join("examples/build")).status().unwrap().success());
        }
    });
    std::fs::read(path).unwrap()
}

struct Guest {
    /// The store holds what was logged.
    store: Store<Vec<String>>,
    memory: Memory,
    instance: Instance,
    inbox: (usize, usize),
    run: TypedFunc<i32, i64>,
}

/// What came out: kind, id, head length and payload of each frame.
type Out = Vec<(Kind, u64, Vec<u8>, Vec<u8>)>;

impl Guest {
    fn new(wasm: &[u8], config: &str) -> Self {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).unwrap();
        let imports: Vec<_> = module.imports().map(|import| (import.module(), import.name())).collect();
        assert_eq!(imports, [("mechtron", "mechtron_log")], "the SDK needs no other import");
        let mut store = Store::new(&engine, Vec::new());
        let mut linker = Linker::new(&engine);
        linker.func_wrap("mechtron", "mechtron_log", log).unwrap();
        let instance = linker.instantiate_and_start(&mut store, &module).unwrap();
        let memory = instance.get_memory(&store, "memory").unwrap();
        let abi: TypedFunc<(), i32> = instance.get_typed_func(&store, "mechtron_abi").unwrap();
        assert_eq!(abi.call(&mut store, ()).unwrap(), VERSION);
        let run = instance.get_typed_func(&store, "mechtron_run").unwrap();
        let mut guest = Self { store, memory, instance, inbox: (0, 0), run };

        let mut writer = Writer::new();
        let head = InitHead { features: 1, seed: 7, config: config.into() };
        writer.frame_with_head(Header::new(Kind::Start, 0), &head, b"");
        let bytes = Frames::new(writer.bytes()).next().unwrap().unwrap().payload.to_vec();
        guest.write(&bytes);
        let init: TypedFunc<i32, i64> = guest.instance.get_typed_func(&guest.store, "mechtron_init").unwrap();
        assert!(init.call(&mut guest.store, bytes.len() as i32).unwrap() >= 0);
        guest
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.inbox.1 < bytes.len() || self.inbox.0 == 0 {
            let inbox: TypedFunc<i32, i32> =
                self.instance.get_typed_func(&self.store, "mechtron_inbox").unwrap();
            let address = inbox.call(&mut self.store, bytes.len() as i32).unwrap();
            assert!(address > 0 && address % 8 == 0);
            self.inbox = (address as usize, bytes.len().max(4_096));
        }
        self.memory.write(&mut self.store, self.inbox.0, bytes).unwrap();
    }

    fn run(&mut self, frames: &Writer) -> Out {
        self.write(frames.bytes());
        let returned = self.run.call(&mut self.store, frames.bytes().len() as i32).unwrap();
        let (address, length) = mechtron_abi::unpack(returned).expect("the run failed");
        let mut out = vec![0; length as usize];
        self.memory.read(&self.store, address as usize, &mut out).unwrap();
        Frames::new(&out)
            .map(|frame| {
                let frame = frame.unwrap();
                let (head, body) = frame.split().unwrap();
                (frame.kind().unwrap(), frame.header.id, head.to_vec(), body.to_vec())
            })
            .collect()
    }

    fn start(&mut self, name: &str, state: Option<&[u8]>) -> Out {
        let mut writer = Writer::new();
        writer.frame(Header { flags: flags::OPTIONAL, ..Header::new(Kind::Clock, 1_700_000_000_000) }, b"");
        let flags = if state.is_some() { flags::HAS_STATE } else { 0 };
        let head = StartHead { point: "shop:x".into(), name: name.into() };
        let header = Header { flags, ..Header::new(Kind::Start, 0) };
        writer.frame_with_head(header, &head, state.unwrap_or_default());
        self.run(&writer)
    }
}

/// The import: keeps the line.
fn log(mut caller: Caller<'_, Vec<String>>, _level: i32, address: i32, length: i32) {
    let memory = caller.get_export("memory").and_then(Extern::into_memory).unwrap();
    let mut line = vec![0; length as usize];
    memory.read(&caller, address as usize, &mut line).unwrap();
    caller.data_mut().push(String::from_utf8(line).unwrap());
}

fn message(writer: &mut Writer, id: u64, method: &str, path: &str, body: &str) {
    let head = MessageHead {
        from: "shop:y".into(),
        agent: "mesh:users:admin".into(),
        method: method.into(),
        path: path.into(),
        headers: vec![],
        remaining_ms: 5_000,
    };
    let header = Header { flags: flags::WANTS_REPLY, ..Header::new(Kind::Message, id) };
    writer.frame_with_head(header, &head, body.as_bytes());
}

fn one(method: &str, path: &str, body: &str) -> Writer {
    let mut writer = Writer::new();
    message(&mut writer, 1, method, path, body);
    writer
}

fn answer(out: &Out, id: u64) -> (u16, String) {
    let (_, _, head, body) =
        out.iter().find(|(kind, of, ..)| *kind == Kind::Answer && *of == id).expect("an answer");
    (ReplyHead::read(head).unwrap().status, String::from_utf8(body.clone()).unwrap())
}

#[test]
fn hello_answers_http() {
    let mut guest = Guest::new(&module("hello"), "{}");
    assert_eq!(guest.start("hello", None), []);
    let out = guest.run(&one("Http<Get>", "/Ann", ""));
    assert_eq!(answer(&out, 1), (200, "Hello, Ann!\n".to_owned()));
    assert_eq!(guest.store.data(), &["greeted Ann"]);
    assert!(out.iter().all(|(kind, ..)| *kind != Kind::StatePut), "what has no fields saves none");
    let out = guest.run(&one("Ext<Nothing>", "/", ""));
    assert_eq!(out[0].0, Kind::Fail);
}

#[test]
fn counter_keeps_its_state_and_refuses_without_changing_it() {
    let wasm = module("counter");
    let mut guest = Guest::new(&wasm, "{}");
    guest.start("", None);
    let mut several = Writer::new();
    for (id, body) in [(1, r#"{"by":2}"#), (2, r#"{"by":0}"#), (3, r#"{"by":-1}"#), (4, r#"{"by":3}"#)] {
        message(&mut several, id, "Ext<Add>", "/", body);
    }
    let out = guest.run(&several);
    assert_eq!(answer(&out, 1), (200, r#"{"total":2,"additions":1}"#.to_owned()));
    assert_eq!(answer(&out, 2).0, 422);
    assert_eq!(answer(&out, 3).0, 400);
    assert_eq!(answer(&out, 4), (200, r#"{"total":5,"additions":2}"#.to_owned()));
    let states: Vec<_> = out.iter().filter(|(kind, ..)| *kind == Kind::StatePut).collect();
    assert_eq!(states.len(), 1, "one state a run");

    let mut again = Guest::new(&wasm, "{}");
    assert!(again.start("Counter", Some(&states[0].3)).iter().all(|(kind, ..)| *kind != Kind::Fail));
    assert_eq!(answer(&again.run(&one("Http<Get>", "/total", "")), 1), (200, "5\n".to_owned()));
    assert!(again.run(&one("Ext<GetTotal>", "/", "")).iter().all(|(kind, ..)| *kind != Kind::StatePut));
}

#[test]
fn what_does_not_fit_refuses_to_start() {
    let wasm = module("counter");
    for (name, state) in [("", Some(&br#"{"total":"many"}"#[..])), ("nobody", None)] {
        let out = Guest::new(&wasm, "{}").start(name, state);
        assert_eq!((out[0].0, out[0].1), (Kind::Fail, 0));
    }
}

#[test]
fn a_cart_waits_for_the_validator_while_others_wait_for_the_cart() {
    let mut guest = Guest::new(&module("shop"), r#"{"validator":"shop:validator"}"#);
    guest.start("cart", None);
    let mut several = Writer::new();
    message(&mut several, 1, "Ext<AddItem>", "/", r#"{"article":"apple","count":2}"#);
    message(&mut several, 2, "Ext<Checkout>", "/", "");
    message(&mut several, 3, "Ext<GetContents>", "/", "");
    let out = guest.run(&several);
    assert_eq!(answer(&out, 1).0, 200);
    let (_, token, ..) = out.iter().find(|(kind, ..)| *kind == Kind::Request).expect("a request");
    assert!(!out.iter().any(|(kind, id, ..)| *kind == Kind::Answer && *id > 1), "they wait");

    let mut reply = Writer::new();
    let head = ReplyHead { status: 200, headers: vec![] };
    reply.frame_with_head(Header::new(Kind::Reply, *token), &head, br#"{"cents":60}"#);
    let out = guest.run(&reply);
    assert_eq!(answer(&out, 2), (200, r#"{"cents":60,"count":2}"#.to_owned()));
    assert_eq!(answer(&out, 3), (200, r#"{"items":{}}"#.to_owned()));
}

#[test]
fn a_cancelled_handler_leaves_no_trace() {
    let mut guest = Guest::new(&module("shop"), r#"{"validator":"shop:validator"}"#);
    guest.start("cart", None);
    guest.run(&one("Ext<AddItem>", "/", r#"{"article":"apple"}"#));
    let out = guest.run(&one("Ext<Checkout>", "/", ""));
    let (_, token, ..) = out.iter().find(|(kind, ..)| *kind == Kind::Request).expect("a request");
    let mut cancel = Writer::new();
    cancel.frame(Header::new(Kind::Cancel, 1), b"");
    let out = guest.run(&cancel);
    let kinds: Vec<_> = out.iter().map(|(kind, id, ..)| (*kind, *id)).collect();
    assert_eq!(kinds, [(Kind::GiveUp, *token), (Kind::Fail, 1)]);
    assert_eq!(answer(&guest.run(&one("Ext<GetContents>", "/", "")), 1).1, r#"{"items":{"apple":1}}"#);
}

#[test]
fn large_messages_and_nonsense_are_survived() {
    let mut guest = Guest::new(&module("counter"), "{}");
    guest.start("", None);
    let deep = "[".repeat(100_000);
    let out = guest.run(&one("Ext<Add>", "/", &deep));
    assert_eq!(answer(&out, 1).0, 400);
    let out = guest.run(&one("Ext<Add>", "/", &"x".repeat(1_000_000)));
    assert_eq!(answer(&out, 1).0, 400);
    assert_eq!(answer(&guest.run(&one("Ext<Add>", "/", r#"{"by":1}"#)), 1).0, 200);
}

#[test]
fn the_contract_is_in_the_module() {
    let wasm = module("shop");
    let engine = Engine::default();
    let module = Module::new(&engine, &wasm[..]).unwrap();
    let section: Vec<u8> = module
        .custom_sections()
        .filter(|section| section.name() == CONTRACT_SECTION)
        .flat_map(|section| section.data().to_vec())
        .collect();
    let records: Vec<serde_json::Value> =
        String::from_utf8(section).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut names: Vec<_> = records.iter().filter_map(|record| record["mechtron"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Cart", "Validator"]);
    let defs: Vec<_> = records.iter().filter_map(|record| record["def"].as_str()).collect();
    for reference in records.iter().flat_map(references) {
        assert!(defs.contains(&&*reference), "{reference} is referred to");
    }
}

fn references(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value.as_str()) {
                ("$ref", Some(text)) => vec![text.trim_start_matches("#/$defs/").to_owned()],
                _ => references(value),
            })
            .collect(),
        serde_json::Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}
