//! Data of every format that there was is opened by this version, and by the next.
//!
//! The files under `golden/` are never written again: a new format gets a file of its own, made by `write_golden`.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, which is what it should do")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use resource_registry::{Config, Create, Delete, LogOf, Registry};
use starlane_core::{
    Agent, Event, Kind, Point, PropertyChange, ResumeToken, Revision, Selector, Sequence, Status, Target,
    Timestamp, Value,
};

fn golden(format: u64) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/registry-{format}.redb.gz"))
}

fn config(file: &Path) -> Config {
    Config::at(file, Arc::new(|| Timestamp(1_700_000_000_000)))
}

fn by() -> Agent {
    Agent("mesh:users:ann".parse().unwrap())
}

fn make(point: &str, kind: &str) -> Create {
    Create::new(point.parse().unwrap(), kind.parse().unwrap())
}

fn set(key: &str, value: serde_json::Value, lock: bool) -> PropertyChange {
    PropertyChange::Set { key: key.parse().unwrap(), value: Value::from(value), lock }
}

fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

fn orders() -> Create {
    let sequence = Sequence { parent: "shop".parse().unwrap(), prefix: "o-".into(), suffix: String::new() };
    Create { target: Target::Sequence(sequence), ..make("shop", "Base") }
}

/// Something of everything that is stored.
async fn fill(registry: &Registry) {
    registry.create(&by(), make("shop", "Space")).await.unwrap();
    registry.create(&by(), orders()).await.unwrap();
    let all = vec![
        set("text", "grün".into(), false),
        set("number", serde_json::json!(1.5), false),
        set("truth", true.into(), true),
        set("document", serde_json::json!({"a": [1, null]}), false),
    ];
    registry.create(&by(), Create { changes: all, ..make("shop:all", "App") }).await.unwrap();
    let all: Point = "shop:all".parse().unwrap();
    registry.set(&by(), &all, vec![set("number", 7.into(), false)], None).await.unwrap();
    registry
        .set_status(&by(), &all, Status::because(starlane_core::Phase::Panic, "out of memory"))
        .await
        .unwrap();
    registry.create(&by(), make("shop:gone", "Base")).await.unwrap();
    registry.delete(&by(), Delete::point("shop:gone".parse().unwrap(), false)).await.unwrap();
}

#[tokio::test]
async fn the_data_of_every_format_is_opened_read_and_written() {
    for format in [1] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("registry.redb");
        let mut bytes = Vec::new();
        GzDecoder::new(std::fs::File::open(golden(format)).unwrap()).read_to_end(&mut bytes).unwrap();
        std::fs::write(&file, &bytes).unwrap();
        let old = Registry::open(config(&file)).unwrap();
        let new = Registry::open(Config::in_memory(Arc::new(|| Timestamp(1_700_000_000_000)))).unwrap();
        fill(&new).await;
        let everything = selector("ROOT+**");
        let contents = |registry: &Registry| registry.select(&everything, 100, None).unwrap();
        assert_eq!(contents(&old), contents(&new), "format {format}");
        for point in ["shop", "shop:all", "shop:o-1", "shop:gone"] {
            let of = LogOf::Point(point.parse().unwrap());
            let log = old.log(of.clone(), 10).await.unwrap();
            assert!(!log.is_empty() && log == new.log(of, 10).await.unwrap(), "{point}");
        }
        let token = ResumeToken::new(Revision(2), &selector("shop:*").to_string());
        let mut watch = old.watch(&selector("shop:*"), Some(token)).unwrap();
        assert!(matches!(watch.next().await, Some(Event::Changed { revision: Revision(3), .. })));
        let next = old.create(&by(), orders()).await.unwrap();
        assert_eq!(next.resource.point.as_str(), "shop:o-2", "sequences go on");
        let kind: Kind = "App".parse().unwrap();
        assert_eq!(old.get(&"shop:all".parse().unwrap()).unwrap().kind, kind);
    }
}

#[tokio::test]
#[ignore = "writes the file of a new format, once"]
async fn write_golden() {
    let file = golden(1);
    assert!(!file.exists(), "{} is never written again", file.display());
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("registry.redb");
    let registry = Registry::open(config(&data)).unwrap();
    fill(&registry).await;
    drop(registry);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut packed = GzEncoder::new(std::fs::File::create(&file).unwrap(), Compression::best());
    packed.write_all(&std::fs::read(&data).unwrap()).unwrap();
    packed.finish().unwrap();
}
