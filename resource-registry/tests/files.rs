//! A file has its old content or the new, and only where files can be.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use resource_registry::files::{self, Expect};
use resource_registry::{BlobStore, Config, Create, Registry};
use starlane_core::{Agent, Base, Code, Kind, Point, Problem, Resource, Timestamp};

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn agent() -> Agent {
    Agent(point("mesh:users:ann"))
}

struct World {
    _folder: tempfile::TempDir,
    registry: Registry,
    blobs: BlobStore,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(Config::in_memory(Arc::new(|| Timestamp(42)))).unwrap();
        let blobs = BlobStore::open(folder.path()).await.unwrap();
        for (text, base) in [("shop", Base::Space), ("shop:files", Base::FileSystem), ("shop:app", Base::App)]
        {
            registry.create(&agent(), Create::new(point(text), Kind::of(base))).await.unwrap();
        }
        Self { _folder: folder, registry, blobs }
    }

    async fn write(&self, at: &str, content: &str, expect: Expect) -> Result<Arc<Resource>, Problem> {
        let content = stream::iter([Ok(Bytes::from(content.to_owned()))]);
        files::write(&self.registry, &self.blobs, &agent(), &point(at), content, expect).await
    }

    async fn read(&self, at: &str) -> Result<String, Problem> {
        let content = files::open(&self.registry, &point(at))?;
        Ok(String::from_utf8(self.blobs.read(&content.blob, 1 << 20).await?.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn writing_makes_the_file_and_the_directories_above_it() {
    let world = World::new().await;
    let file = world.write("shop:files:/img/icons/logo.svg", "<svg/>", Expect::Any).await.unwrap();
    assert_eq!(file.kind, Kind::of(Base::File));
    assert_eq!(world.read("shop:files:/img/icons/logo.svg").await.unwrap(), "<svg/>");
    for directory in ["shop:files:/img/", "shop:files:/img/icons/"] {
        assert_eq!(world.registry.get(&point(directory)).unwrap().kind, Kind::of(Base::File));
    }
    let content = files::open(&world.registry, &file.point).unwrap();
    assert_eq!((content.content_type.as_str(), content.modified), ("image/svg+xml", Timestamp(42)));

    let deep = format!("shop:files:{}/file", "/d".repeat(60));
    world.write(&deep, "deep", Expect::Any).await.unwrap();
    assert_eq!(world.read(&deep).await.unwrap(), "deep");
}

#[tokio::test]
async fn writing_again_replaces_the_content_and_keeps_the_rest() {
    let world = World::new().await;
    let first = world.write("shop:files:/a.txt", "one", Expect::Any).await.unwrap();
    let owner = starlane_core::PropertyChange::Set {
        key: "owner".parse().unwrap(),
        value: "ann".into(),
        lock: false,
    };
    world.registry.set(&agent(), &first.point, vec![owner], None).await.unwrap();
    let second = world.write("shop:files:/a.txt", "", Expect::Any).await.unwrap();
    assert_eq!(world.read("shop:files:/a.txt").await.unwrap(), "");
    assert_eq!(second.property("owner"), Some(&"ann".into()));
    assert_eq!(second.created, first.created);
}

#[tokio::test]
async fn what_the_writer_expects_must_be_there() {
    let world = World::new().await;
    let conflict = |result: Result<Arc<Resource>, Problem>| {
        assert_eq!(result.unwrap_err().code, Code::RevisionConflict);
    };
    conflict(world.write("shop:files:/a", "x", Expect::Present(Vec::new())).await);
    world.write("shop:files:/a", "one", Expect::Absent).await.unwrap();
    conflict(world.write("shop:files:/a", "x", Expect::Absent).await);
    let etag = files::open(&world.registry, &point("shop:files:/a")).unwrap().etag;
    conflict(world.write("shop:files:/a", "x", Expect::Present(vec!["other".into()])).await);
    assert_eq!(world.read("shop:files:/a").await.unwrap(), "one");
    world.write("shop:files:/a", "two", Expect::Present(vec!["other".into(), etag.clone()])).await.unwrap();
    conflict(world.write("shop:files:/a", "x", Expect::Present(vec![etag])).await);
    world.write("shop:files:/a", "three", Expect::Present(Vec::new())).await.unwrap();
    assert_eq!(world.read("shop:files:/a").await.unwrap(), "three");
}

#[tokio::test]
async fn of_many_writers_that_expect_nothing_one_wins() {
    let world = World::new().await;
    let texts: Vec<String> = (0..20).map(|number| format!("content {number}")).collect();
    let writes = texts.iter().map(|text| world.write("shop:files:/d/a", text, Expect::Absent));
    let results = futures::future::join_all(writes).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let all = texts.iter().map(|text| world.write("shop:files:/d/b", text, Expect::Any));
    assert!(futures::future::join_all(all).await.iter().all(|result| result.is_ok()));
    assert!(texts.contains(&world.read("shop:files:/d/b").await.unwrap()));
}

#[tokio::test]
async fn a_writer_that_breaks_off_leaves_the_old_content() {
    let world = World::new().await;
    world.write("shop:files:/a", "old", Expect::Any).await.unwrap();
    let before = world.registry.revision();
    let broken = stream::iter([Ok(Bytes::from("ne")), Err(Problem::new(Code::Timeout, "the body stopped"))]);
    let at = point("shop:files:/a");
    let written = files::write(&world.registry, &world.blobs, &agent(), &at, broken, Expect::Any).await;
    assert_eq!(written.unwrap_err().code, Code::Timeout);
    assert_eq!(world.read("shop:files:/a").await.unwrap(), "old");
    assert_eq!(world.registry.revision(), before);
}

#[tokio::test]
async fn files_are_refused_where_none_can_be() {
    let world = World::new().await;
    world.write("shop:files:/file", "x", Expect::Any).await.unwrap();
    world.write("shop:files:/dir/file", "x", Expect::Any).await.unwrap();
    let before = world.registry.revision();
    for (at, code) in [
        ("shop:files", Code::Usage),
        ("shop:files:/", Code::Usage),
        ("shop:files:/new/", Code::Usage),
        ("shop:none:/a", Code::NotFound),
        ("shop:app:/a", Code::KindParent),
        ("shop:files:/dir", Code::Exists),
        ("shop:files:/file/below", Code::Exists),
        ("shop:files:/file/below/it", Code::Exists),
    ] {
        let problem = world.write(at, "x", Expect::Any).await.unwrap_err();
        assert_eq!(problem.code, code, "{at}: {problem}");
        assert!(problem.help.is_some() && problem.point.is_some(), "{at}");
    }
    assert_eq!(world.registry.revision(), before);
}

#[tokio::test]
async fn a_directory_answers_with_its_index() {
    let world = World::new().await;
    world.write("shop:files:/index.html", "root", Expect::Any).await.unwrap();
    world.write("shop:files:/about/index.html", "about", Expect::Any).await.unwrap();
    world.write("shop:files:/img/a.png", "png", Expect::Any).await.unwrap();
    assert_eq!(world.read("shop:files:/").await.unwrap(), "root");
    for at in ["shop:files:/about/", "shop:files:/about"] {
        assert_eq!(world.read(at).await.unwrap(), "about");
    }
    for (at, detail) in [
        ("shop:files:/img/", "the directory `shop:files:/img/` has no `index.html`"),
        ("shop:files:/none/", "nothing is at `shop:files:/none/`"),
        ("shop:files:/none", "nothing is at `shop:files:/none`"),
    ] {
        let problem = world.read(at).await.unwrap_err();
        assert_eq!((problem.code, problem.detail.as_str()), (Code::NotFound, detail));
    }
    assert_eq!(world.read("shop:files").await.unwrap_err().code, Code::Usage);
}
