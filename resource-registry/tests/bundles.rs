//! A bundle is published as a whole or not at all, and never changes.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use resource_registry::bundle::{self, Published};
use resource_registry::store::MemoryStore;
use resource_registry::{
    Backing, BlobStore, Config, Create, Delete, Limits, Op, Registry, Reserved, files, named_blobs,
};
use sha2::{Digest as _, Sha256};
use starlane_core::{
    Agent, Base, Code, Kind, Phase, Point, Problem, PropertyChange, Status, Timestamp, Value,
};
use support::{Entry, Zip, bombs, hostile_names};

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn agent() -> Agent {
    Agent(point("mesh:users:ann"))
}

struct World {
    folder: tempfile::TempDir,
    registry: Registry,
    blobs: BlobStore,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Backing::Store(Arc::new(MemoryStore::new()));
        let registry = Registry::open(Config::on(store, Arc::new(|| Timestamp(1_700_000_000_000)))).unwrap();
        let blobs = BlobStore::open(folder.path().join("blobs")).await.unwrap();
        let world = Self { folder, registry, blobs };
        for (text, base) in
            [("shop", Base::Space), ("shop:repo", Base::Repo), ("shop:repo:site", Base::BundleSeries)]
        {
            world.registry.create(&agent(), Create::new(point(text), Kind::of(base))).await.unwrap();
        }
        world
    }

    async fn publish(&self, at: &str, archive: Vec<u8>) -> Result<Published, Problem> {
        let archive = Bytes::from(archive);
        let pieces: Vec<_> = archive.chunks(1_000).map(|piece| Ok(archive.slice_ref(piece))).collect();
        let pieces = stream::iter(pieces);
        bundle::publish(&self.registry, &self.blobs, &agent(), &point(at), pieces, &Limits::default()).await
    }

    async fn text(&self, at: &str) -> Result<String, Problem> {
        let content = files::open(&self.registry, &point(at))?;
        let bytes = self.blobs.read(&content.blob, 1 << 20).await?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn points(&self) -> Vec<String> {
        let all = self.registry.select(&"shop:**".parse().unwrap(), usize::MAX, None).unwrap();
        all.resources.iter().map(|resource| resource.point.to_string()).collect()
    }

    /// All files on the disk, with what is not the blob store's marked by its place.
    fn on_disk(&self) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![self.folder.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }

    fn is_blob(&self, file: &Path) -> bool {
        let inside = file.strip_prefix(self.folder.path().join("blobs")).unwrap();
        let parts: Vec<_> = inside.iter().map(|part| part.to_str().unwrap()).collect();
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        matches!(parts[..], ["sha256" | "sums", front, back] if hex(front) && hex(back) && back.len() == 62)
    }
}

fn site() -> Vec<u8> {
    Zip::of([
        Entry::packed("html/index.html", "<h1>hello</h1>"),
        Entry::packed("html/img/logo.svg", "<svg/>"),
        Entry::stored("bind/site.bind", "Bind(version=1.0.0) {}"),
        Entry::directory("empty/"),
    ])
    .build()
}

#[tokio::test]
async fn a_published_bundle_is_ready_with_all_its_artifacts() {
    let world = World::new().await;
    let published = world.publish("shop:repo:site:1.0.0", site()).await.unwrap();
    assert_eq!((published.artifacts, published.bytes), (7, 14 + 6 + 22));
    let bundle = &published.bundle;
    assert_eq!(bundle.status, Status::ready());
    assert_eq!(bundle.property("artifacts"), Some(&Value::Number(7.into())));
    // What `sha256sum` prints of the files in the order of their paths, hashed again.
    let hash = |text: &str| format!("{:x}", Sha256::digest(text));
    let line = |path: &str, text: &str| format!("{}  {path}\n", hash(text));
    let listed = line("bind/site.bind", "Bind(version=1.0.0) {}")
        + &line("html/img/logo.svg", "<svg/>")
        + &line("html/index.html", "<h1>hello</h1>");
    assert_eq!(bundle.property("digest").unwrap().as_text().unwrap(), hash(&listed));
    assert_eq!(
        world.points(),
        [
            "shop:repo",
            "shop:repo:site",
            "shop:repo:site:1.0.0",
            "shop:repo:site:1.0.0:/bind/",
            "shop:repo:site:1.0.0:/bind/site.bind",
            "shop:repo:site:1.0.0:/empty/",
            "shop:repo:site:1.0.0:/html/",
            "shop:repo:site:1.0.0:/html/img/",
            "shop:repo:site:1.0.0:/html/img/logo.svg",
            "shop:repo:site:1.0.0:/html/index.html",
        ]
    );
    let logo = files::open(&world.registry, &point("shop:repo:site:1.0.0:/html/img/logo.svg")).unwrap();
    assert_eq!((logo.content_type.as_str(), logo.blob.bytes), ("image/svg+xml", 6));
    assert_eq!((logo.etag, logo.modified), (logo.blob.digest.to_string(), Timestamp(1_700_000_000_000)));
    assert_eq!(world.text("shop:repo:site:1.0.0:/bind/site.bind").await.unwrap(), "Bind(version=1.0.0) {}");
    for at in
        ["shop:repo:site:1.0.0:/html/", "shop:repo:site:1.0.0:/html", "shop:repo:site:1.0.0:/html/index.html"]
    {
        assert_eq!(world.text(at).await.unwrap(), "<h1>hello</h1>", "{at}");
    }
    for at in [
        "shop:repo:site:1.0.0:/empty/",
        "shop:repo:site:1.0.0:/",
        "shop:repo:site:1.0.0:/none",
        "shop:repo:no:1.0.0:/x",
    ] {
        let problem = world.text(at).await.unwrap_err();
        assert_eq!((problem.code, problem.help.is_some()), (Code::NotFound, true), "{at}");
    }
    assert_eq!(world.text("shop:repo:site:1.0.0").await.unwrap_err().code, Code::Usage);
}

#[tokio::test]
async fn the_digest_tells_the_content_and_not_the_packing() {
    let world = World::new().await;
    let file = |name: &str| Entry::packed(name, name.repeat(50));
    let stored = |name: &str| Entry::stored(name, name.repeat(50));
    let mut digests = Vec::new();
    let archives =
        [vec![file("a"), file("b/c")], vec![stored("b/c"), stored("a")], vec![file("a"), file("b/d")]];
    for (minor, entries) in archives.into_iter().enumerate() {
        let published =
            world.publish(&format!("shop:repo:site:1.{minor}.0"), Zip::of(entries).build()).await.unwrap();
        digests.push(published.bundle.property("digest").unwrap().to_string());
    }
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[0], digests[2]);
}

#[tokio::test]
async fn a_version_is_published_once_and_never_changes() {
    let world = World::new().await;
    world.publish("shop:repo:site:1.0.0", site()).await.unwrap();
    let before = world.points();
    let problem = world.publish("shop:repo:site:1.0.0", site()).await.unwrap_err();
    assert_eq!((problem.code, problem.help.is_some()), (Code::Exists, true));
    for (at, key) in [("shop:repo:site:1.0.0", "digest"), ("shop:repo:site:1.0.0:/bind/site.bind", "digest")]
    {
        let change = PropertyChange::Set { key: key.parse().unwrap(), value: "other".into(), lock: false };
        let error = world.registry.set(&agent(), &point(at), vec![change], None).await.unwrap_err();
        assert_eq!(Problem::from(error).code, Code::KindReserved, "{at}");
        let change = PropertyChange::Set { key: "note".parse().unwrap(), value: "x".into(), lock: false };
        let error = world.registry.set(&agent(), &point(at), vec![change], None).await.unwrap_err();
        assert_eq!(Problem::from(error).code, Code::KindReserved, "{at}");
    }
    let create = Create::new(point("shop:repo:site:1.0.0:/more"), Kind::of(Base::Artifact));
    let error = world.registry.batch(&agent(), vec![Op::Create(create)]).await.unwrap_err();
    assert_eq!(Problem::from(error).code, Code::KindReserved);
    let written = stream::iter([Ok(Bytes::from("more"))]);
    let at = point("shop:repo:site:1.0.0:/more");
    let problem =
        files::write(&world.registry, &world.blobs, &agent(), &at, written, files::Expect::Any).await;
    assert_eq!(problem.unwrap_err().code, Code::KindReserved);
    for part in [":/bind/site.bind", ":/bind/"] {
        let delete = Delete::point(point(&format!("shop:repo:site:1.0.0{part}")), true);
        let problem = Problem::from(world.registry.delete(&agent(), delete).await.unwrap_err());
        assert_eq!(problem.code, Code::KindReserved, "{part}");
        assert!(problem.help.unwrap().contains("delete -r shop:repo:site:1.0.0"), "{part}");
    }
    assert_eq!(world.points(), before);
}

#[tokio::test]
async fn deleting_a_bundle_takes_its_artifacts_and_then_its_content() {
    let world = World::new().await;
    world.publish("shop:repo:site:1.0.0", site()).await.unwrap();
    world.publish("shop:repo:site:1.1.0", Zip::of([Entry::stored("a", "<svg/>")]).build()).await.unwrap();
    let one = point("shop:repo:site:1.0.0");
    let error = world.registry.delete(&agent(), Delete::point(one.clone(), false)).await.unwrap_err();
    assert_eq!(Problem::from(error).code, Code::HasChildren);
    assert_eq!(world.registry.delete(&agent(), Delete::point(one, true)).await.unwrap().len(), 8);
    let swept = world.blobs.sweep(named_blobs(&world.registry).unwrap(), Duration::ZERO).await.unwrap();
    assert_eq!(swept.blobs, 2);
    // What another bundle holds too stays.
    assert_eq!(world.text("shop:repo:site:1.1.0:/a").await.unwrap(), "<svg/>");
    // The version can be published anew.
    world.publish("shop:repo:site:1.0.0", site()).await.unwrap();
}

#[tokio::test]
async fn what_is_missing_above_is_told_with_the_command_that_makes_it() {
    let world = World::new().await;
    for (at, code, help) in [
        ("shop:repo:other:1.0.0", Code::NotFound, "starlane create 'shop:repo:other<BundleSeries>'"),
        ("shop:none:site:1.0.0", Code::NotFound, "starlane create 'shop:none<Repo>'"),
        ("shop:repo:1.0.0", Code::KindParent, "shop:repo:site:1.0.0"),
        ("shop:repo:site", Code::KindParent, "shop:repo:site:1.0.0"),
        ("shop:repo:site:1.0.0:/x", Code::KindParent, "shop:repo:site:1.0.0"),
    ] {
        let problem = world.publish(at, site()).await.unwrap_err();
        assert_eq!(problem.code, code, "{at}: {problem}");
        assert!(problem.help.unwrap().contains(help), "{at}");
    }
    assert_eq!(world.points(), ["shop:repo", "shop:repo:site"]);
}

#[tokio::test]
async fn an_interrupted_publishing_serves_nothing_and_is_replaced() {
    let world = World::new().await;
    // What a crash between two batches leaves.
    let bundle = point("shop:repo:site:1.0.0");
    let left = [
        Reserved::new(
            bundle.clone(),
            Kind::of(Base::Bundle),
            Vec::new(),
            Status::because(Phase::Pending, "cut off"),
        ),
        Reserved::new(
            bundle.join_path("/old/").unwrap(),
            Kind::of(Base::Artifact),
            Vec::new(),
            Status::ready(),
        ),
        Reserved::new(
            bundle.join_path("/old/index.html").unwrap(),
            Kind::of(Base::Artifact),
            Vec::new(),
            Status::ready(),
        ),
    ];
    world.registry.put_all_reserved(&agent(), left.to_vec()).await.unwrap();
    assert_eq!(world.text("shop:repo:site:1.0.0:/old/").await.unwrap_err().code, Code::NotReady);
    world.publish("shop:repo:site:1.0.0", site()).await.unwrap();
    assert!(!world.points().iter().any(|point| point.contains("old")));
    assert_eq!(world.text("shop:repo:site:1.0.0:/html/").await.unwrap(), "<h1>hello</h1>");
}

#[tokio::test]
async fn an_archive_that_is_refused_or_breaks_off_changes_nothing() {
    let world = World::new().await;
    let before = (world.points(), world.registry.revision());
    let mut wrong = Zip::of((0..20).map(|number| Entry::packed(format!("{number}"), "content")));
    wrong.entries[19].crc32 ^= 1;
    let problem = world.publish("shop:repo:site:1.0.0", wrong.build()).await.unwrap_err();
    assert_eq!(problem.code, Code::ArchiveInvalid);
    assert!(problem.detail.contains("`19`") && problem.point.is_some(), "{problem:?}");

    let broken = stream::iter([Ok(Bytes::from("PK")), Err(Problem::new(Code::Timeout, "the body stopped"))]);
    let at = point("shop:repo:site:1.0.0");
    let published =
        bundle::publish(&world.registry, &world.blobs, &agent(), &at, broken, &Limits::default()).await;
    assert_eq!(published.unwrap_err().code, Code::Timeout);

    let endless = stream::repeat(Bytes::from(vec![0; 1_000])).map(Ok);
    let limits = Limits { archive_bytes_max: 100_000, ..Limits::default() };
    let published = bundle::publish(&world.registry, &world.blobs, &agent(), &at, endless, &limits).await;
    assert_eq!(published.unwrap_err().code, Code::TooLarge);
    assert_eq!((world.points(), world.registry.revision()), before);
    // It was not published, so it can be.
    world.publish("shop:repo:site:1.0.0", site()).await.unwrap();
}

#[tokio::test]
async fn one_of_two_that_publish_the_same_version_wins() {
    let world = World::new().await;
    let both = futures::future::join(
        world.publish("shop:repo:site:1.0.0", site()),
        world.publish("shop:repo:site:1.0.0", site()),
    );
    let (one, other) = both.await;
    assert_eq!(u8::from(one.is_ok()) + u8::from(other.is_ok()), 1);
    let problem = one.err().or(other.err()).unwrap();
    assert!(matches!(problem.code, Code::Busy | Code::Exists), "{problem:?}");
}

#[tokio::test]
async fn as_many_artifacts_as_may_be_are_published() {
    let world = World::new().await;
    let name = |number: usize| format!("{}/{number}.txt", number % 10);
    let zip = Zip::of((0..990).map(|number| Entry::packed(name(number), format!("content of {number}"))));
    let published = world.publish("shop:repo:site:1.0.0", zip.build()).await.unwrap();
    assert_eq!(published.artifacts, 1_000);
    for number in [0, 77, 989] {
        let at = format!("shop:repo:site:1.0.0:/{}", name(number));
        assert_eq!(world.text(&at).await.unwrap(), format!("content of {number}"));
    }
}

/// PROMISES 20: nothing of 500 hostile names and of all bombs is outside the blob store, or in it.
#[tokio::test]
async fn hostile_archives_leave_nothing_anywhere() {
    let world = World::new().await;
    let mut tried = 0;
    for (number, name) in hostile_names().into_iter().enumerate() {
        let mut link = Entry::stored(format!("link-{number}"), "../../../etc/passwd");
        link.attributes = 0o120_777 << 16;
        for entry in [Entry::stored(&name, "escaped"), link] {
            let problem = world.publish("shop:repo:site:1.0.0", Zip::of([entry]).build()).await.unwrap_err();
            assert!(matches!(problem.code, Code::ArchiveInvalid | Code::TooLarge), "{problem:?}");
            tried += 1;
        }
    }
    assert!(tried >= 1_000);
    for (what, bytes) in bombs() {
        let problem = world.publish("shop:repo:site:1.0.0", bytes).await.unwrap_err();
        assert!(matches!(problem.code, Code::ArchiveInvalid | Code::TooLarge), "{what}: {problem:?}");
    }
    assert_eq!(world.on_disk(), Vec::<PathBuf>::new());
    assert_eq!(world.points(), ["shop:repo", "shop:repo:site"]);

    // Names that are merely strange are points, and content by its digest: no path is made from them.
    let strange = ["CON", "~", "-rf", "$HOME", "a.", "%c0%ae", "nul.txt"];
    world
        .publish("shop:repo:site:1.0.0", Zip::of(strange.map(|name| Entry::stored(name, name))).build())
        .await
        .unwrap();
    let on_disk = world.on_disk();
    assert_eq!(on_disk.len(), strange.len());
    assert!(on_disk.iter().all(|file| world.is_blob(file)), "{on_disk:?}");
}

#[tokio::test]
async fn content_that_rots_is_told_and_never_served() {
    let world = World::new().await;
    world
        .publish("shop:repo:site:1.0.0", Zip::of([Entry::stored("big", vec![7; 300_000])]).build())
        .await
        .unwrap();
    let file = world.on_disk().into_iter().find(|file| file.metadata().unwrap().len() == 300_000).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[200_000] ^= 4;
    std::fs::write(file, bytes).unwrap();
    let content = files::open(&world.registry, &point("shop:repo:site:1.0.0:/big")).unwrap();
    let (stream, _) = world.blobs.get(&content.blob, None).await.unwrap();
    let pieces: Result<Vec<Bytes>, Problem> = stream.try_collect().await;
    assert_eq!(pieces.unwrap_err().code, Code::Corrupt);
    assert!(
        world
            .blobs
            .get(&content.blob, Some(0..10))
            .await
            .unwrap()
            .0
            .all(|piece| async move { piece.is_ok() })
            .await
    );
}
