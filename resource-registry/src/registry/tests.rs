use std::time::Duration;

use bytes::Bytes;
use starlane_core::{
    Agent, Base, Code, CreateMode, Event, Key, Kind, Phase, Point, Problem, PropertyChange, ResumeToken,
    Selector, Sequence, Status, Target, Value,
};

use super::*;

pub(super) fn clock() -> Clock {
    Arc::new(|| Timestamp(1_700_000_000_000))
}

pub(super) fn ann() -> Agent {
    Agent("mesh:users:ann".parse().unwrap())
}

pub(super) fn point(text: &str) -> Point {
    text.parse().unwrap()
}

pub(super) fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

pub(super) fn set(key: &str, value: impl Into<Value>) -> PropertyChange {
    PropertyChange::Set { key: key.parse().unwrap(), value: value.into(), lock: false }
}

fn locked(key: &str, value: &str) -> PropertyChange {
    PropertyChange::Set { key: key.parse().unwrap(), value: value.into(), lock: true }
}

pub(super) fn make(point: &str, kind: &str) -> Create {
    Create::new(point.parse().unwrap(), kind.parse().unwrap())
}

pub(super) async fn registry() -> Registry {
    registry_with(Config::in_memory(clock())).await
}

async fn registry_with(config: Config) -> Registry {
    let registry = Registry::open(config).unwrap();
    for (point, kind) in [("mesh", "Space"), ("mesh:kinds", "Base"), ("mesh:nodes", "Base")] {
        let reserved =
            Reserved::new(point.parse().unwrap(), kind.parse().unwrap(), Vec::new(), Status::ready());
        registry.put_reserved(&ann(), reserved).await.unwrap();
    }
    registry.create(&ann(), make("shop", "Space")).await.unwrap();
    registry
}

pub(super) fn code(error: Error) -> Code {
    Problem::from(error).code
}

#[tokio::test]
async fn what_is_made_can_be_got_and_found() {
    let registry = registry().await;
    let created = registry.create(&ann(), make("shop:cart", "Mechtron")).await.unwrap();
    assert_eq!(created.outcome, Outcome::New);
    assert_eq!(registry.get(&point("shop:cart")), Some(created.resource.clone()));
    assert_eq!(created.resource.version, 1);
    assert_eq!(registry.revision(), created.resource.modified);
    let found = registry.select(&selector("shop:*"), 10, None).unwrap();
    assert_eq!(found.resources, [created.resource]);
    assert_eq!(found.next, None);
}

#[tokio::test]
async fn create_obeys_its_mode() {
    let registry = registry().await;
    let by = ann();
    let with = |mode, kind: &str, changes| Create { mode, changes, ..make("shop:a", kind) };
    let new = registry
        .create(&by, with(CreateMode::New, "App", vec![set("a", "1"), locked("fixed", "x")]))
        .await
        .unwrap();
    let again = registry.create(&by, with(CreateMode::New, "App", vec![])).await.unwrap_err();
    assert_eq!(code(again), Code::Exists);
    let ensured = registry.create(&by, with(CreateMode::Ensure, "App", vec![set("a", "2")])).await.unwrap();
    assert_eq!((ensured.outcome, ensured.resource), (Outcome::Existed, new.resource.clone()));
    let other = registry.create(&by, with(CreateMode::Ensure, "Base", vec![])).await.unwrap_err();
    assert_eq!(code(other), Code::KindMismatch);
    let other = registry.create(&by, with(CreateMode::Override, "Base", vec![])).await.unwrap_err();
    assert_eq!(code(other), Code::KindMismatch);
    let replaced =
        registry.create(&by, with(CreateMode::Override, "App", vec![set("b", "3")])).await.unwrap();
    assert_eq!(replaced.outcome, Outcome::Replaced);
    let keys: Vec<_> = replaced.resource.properties.keys().map(Key::as_str).collect();
    assert_eq!(keys, ["b", "fixed"], "a locked property stays");
    assert_eq!(replaced.resource.created, new.resource.created);
    let locked = registry.create(&by, with(CreateMode::Override, "App", vec![set("fixed", "y")])).await;
    assert_eq!(code(locked.unwrap_err()), Code::PropertyLocked);
}

#[tokio::test]
async fn wrong_parents_kinds_and_points_are_refused_and_change_nothing() {
    let registry = registry().await;
    let before = registry.revision();
    for (point, kind, expected) in [
        ("missing:child", "Base", Code::NotFound),
        ("shop:a:b", "Base", Code::NotFound),
        ("shop:inner", "Space", Code::KindParent),
        ("shop:series", "BundleSeries", Code::KindParent),
        ("shop:order", "Order", Code::KindUnknown),
        ("shop:node", "Node", Code::KindReserved),
        ("mesh:nodes:mine", "Base", Code::Forbidden),
        ("mesh", "Space", Code::KindReserved),
        ("ROOT", "Root", Code::Exists),
    ] {
        let result = registry.create(&ann(), make(point, kind)).await;
        let problem = Problem::from(result.map(drop).unwrap_err_or_else_panic(point));
        // A space that is there says so first.
        let expected = if point == "mesh" { Code::Exists } else { expected };
        assert_eq!(problem.code, expected, "{point}<{kind}>: {problem}");
        assert!(problem.help.is_some(), "{point}<{kind}>");
    }
    assert_eq!(registry.revision(), before);
}

trait UnwrapErr<E> {
    fn unwrap_err_or_else_panic(self, what: &str) -> E;
}

impl<E> UnwrapErr<E> for Result<(), E> {
    fn unwrap_err_or_else_panic(self, what: &str) -> E {
        match self {
            Ok(()) => panic!("{what} was not refused"),
            Err(error) => error,
        }
    }
}

#[tokio::test]
async fn set_is_all_or_none_and_compares_versions() {
    let registry = registry().await;
    let by = ann();
    let shop = point("shop");
    let made = registry.set(&by, &shop, vec![set("a", "1"), locked("fixed", "x")], None).await.unwrap();
    let refused = registry.set(&by, &shop, vec![set("a", "2"), set("fixed", "y")], None).await.unwrap_err();
    assert_eq!(code(refused), Code::PropertyLocked);
    assert_eq!(registry.get(&shop), Some(made.clone()));
    let changed = registry.set(&by, &shop, vec![set("a", "2")], Some(made.modified)).await.unwrap();
    assert_eq!(changed.version, made.version + 1);
    let stale = registry.set(&by, &shop, vec![set("a", "3")], Some(made.modified)).await.unwrap_err();
    assert_eq!(code(stale), Code::RevisionConflict);
    let same = registry.set(&by, &shop, vec![set("a", "2")], None).await.unwrap();
    assert_eq!(same, changed, "what changes nothing makes no revision");
    let paused = Status::because(Phase::Paused, "for lunch");
    assert_eq!(registry.set_status(&by, &shop, paused.clone()).await.unwrap().status, paused);
    assert_eq!(code(registry.set(&by, &point("shop:x"), vec![], None).await.unwrap_err()), Code::NotFound);
}

#[tokio::test]
async fn delete_refuses_children_unless_told() {
    let registry = registry().await;
    let by = ann();
    for (point, kind) in
        [("shop:a", "Base"), ("shop:a:b", "Base"), ("shop:a:b:c", "App"), ("shop:a-z", "App")]
    {
        registry.create(&by, make(point, kind)).await.unwrap();
    }
    let refused = registry.delete(&by, Delete::point(point("shop:a"), false)).await.unwrap_err();
    assert_eq!(code(refused), Code::HasChildren);
    let refused = registry.delete(&by, Delete::selector(selector("shop:*"), false)).await.unwrap_err();
    assert_eq!(code(refused), Code::HasChildren);
    let removed = registry.delete(&by, Delete::point(point("shop:a"), true)).await.unwrap();
    let names: Vec<_> = removed.iter().map(|(point, _)| point.as_str()).collect();
    assert_eq!(names, ["shop:a:b:c", "shop:a:b", "shop:a"]);
    assert!(registry.get(&point("shop:a-z")).is_some());
    let own = registry.delete(&by, Delete::point(point("mesh"), true)).await.unwrap_err();
    assert_eq!(code(own), Code::Forbidden);
}

#[tokio::test]
async fn a_large_tree_goes_from_below() {
    let registry = registry().await;
    let by = ann();
    registry.create(&by, make("shop:tree", "Base")).await.unwrap();
    for n in 0..250 {
        registry.create(&by, make(&format!("shop:tree:n-{n}"), "Base")).await.unwrap();
    }
    let removed = registry.delete(&by, Delete::point(point("shop:tree"), true)).await.unwrap();
    assert_eq!(removed.len(), 251);
    assert_eq!(removed.last().unwrap().0, point("shop:tree"));
    assert!(registry.get(&point("shop:tree:n-7")).is_none());
}

#[tokio::test]
async fn a_batch_tells_what_it_made_even_when_it_took_it_away_again() {
    let registry = registry().await;
    registry.create(&ann(), make("shop:old", "Base")).await.unwrap();
    let delete = |text: &str| Op::Delete { point: point(text), expect: None };
    let change = Op::Set { point: point("shop:old"), changes: vec![set("a", "b")], expect: None };
    let ops = vec![Op::Create(make("shop:new", "Base")), delete("shop:new"), change, delete("shop:old")];
    let done = registry.batch(&ann(), ops).await.unwrap();
    assert!(matches!(&done[0], Done::Created(made) if made.resource.point == point("shop:new")), "{done:?}");
    assert!(matches!(&done[2], Done::Changed(old) if old.property("a").is_some()), "{done:?}");
    assert_eq!((registry.get(&point("shop:new")), registry.get(&point("shop:old"))), (None, None));
}

#[tokio::test]
async fn a_batch_is_one_commit_or_none() {
    let registry = registry().await;
    let by = ann();
    let before = registry.revision();
    let ops = vec![
        Op::Create(make("shop:a", "Base")),
        Op::Create(make("shop:a:b", "App")),
        Op::Set { point: point("shop:a:b"), changes: vec![set("k", "v")], expect: None },
    ];
    let done = registry.batch(&by, ops).await.unwrap();
    assert_eq!(done.len(), 3);
    assert_eq!(registry.revision(), Revision(before.0 + 1));
    assert_eq!(registry.get(&point("shop:a:b")).unwrap().property("k"), Some(&"v".into()));
    let ops = vec![Op::Create(make("shop:c", "Base")), Op::Create(make("shop:a", "Base"))];
    assert_eq!(code(registry.batch(&by, ops).await.unwrap_err()), Code::Exists);
    assert!(registry.get(&point("shop:c")).is_none());
}

#[tokio::test]
async fn numbers_are_given_out_once() {
    let registry = registry().await;
    let by = ann();
    let carts = || Create {
        target: Target::Sequence(Sequence {
            parent: point("shop"),
            prefix: "cart-".into(),
            suffix: String::new(),
        }),
        ..make("shop", "Base")
    };
    registry.create(&by, make("shop:cart-2", "Base")).await.unwrap();
    let made = futures::future::join_all((0..20).map(|_| registry.create(&by, carts()))).await;
    let mut points: Vec<_> = made.into_iter().map(|made| made.unwrap().resource.point.to_string()).collect();
    points.sort();
    points.dedup();
    assert_eq!(points.len(), 20);
    assert!(!points.contains(&"shop:cart-2".to_owned()));
    registry.delete(&by, Delete::point(point("shop:cart-21"), false)).await.unwrap();
    let next = registry.create(&by, carts()).await.unwrap();
    assert_eq!(next.resource.point, point("shop:cart-22"), "a number does not come back");
}

struct OneSchema;

impl Schemas for OneSchema {
    fn read(&self, source: Point) -> futures::future::BoxFuture<'static, Result<Bytes, Problem>> {
        let text = match source.as_str() {
            "shop:files:/order.json" => {
                r#"{"type": "object", "required": ["total"],
                    "properties": {"total": {"type": "number", "minimum": 0}, "paid": {"type": "boolean"}}}"#
            }
            "shop:files:/broken.json" => r#"{"type": 7}"#,
            "shop:files:/order-2.json" => {
                r#"{"type": "object", "required": ["total", "currency"], "additionalProperties": false,
                    "properties": {"total": {"type": "number", "minimum": 0}, "paid": {"type": "boolean", "default": false},
                        "currency": {"type": "string", "default": "EUR"}, "lines": {"type": "array", "items": {"type": "number"}}}}"#
            }
            "shop:files:/unfit.json" => r#"{"properties": {"total": {"type": "number", "default": "none"}}}"#,
            _ => return Box::pin(async { Err(Problem::new(Code::NotFound, "no such file")) }),
        };
        Box::pin(async move { Ok(Bytes::from_static(text.as_bytes())) })
    }
}

#[tokio::test]
async fn a_users_kind_is_typed_and_checked_on_every_write() {
    let registry = registry().await;
    registry.set_schemas(Arc::new(OneSchema));
    let by = ann();
    let declare =
        |schema: &str| Create { changes: vec![set("schema", schema)], ..make("mesh:kinds:order", "Kind") };
    let broken = registry.create(&by, declare("shop:files:/broken.json")).await.unwrap_err();
    assert_eq!(code(broken), Code::ArtifactInvalid);
    registry.create(&by, declare("shop:files:/order.json")).await.unwrap();
    let order = |changes| Create { changes, ..make("shop:o-1", "Order") };
    let refused = registry.create(&by, order(vec![set("total", "-5")])).await.unwrap_err();
    let problem = Problem::from(refused);
    assert_eq!((problem.code, problem.errors[0].pointer.as_str()), (Code::Schema, "/total"));
    let made = registry.create(&by, order(vec![set("total", "5"), set("paid", "true")])).await.unwrap();
    assert_eq!(made.resource.property("total"), Some(&Value::Number(5.into())));
    assert_eq!(made.resource.property("paid"), Some(&Value::Bool(true)));
    let unset = vec![PropertyChange::Unset("total".parse().unwrap())];
    assert_eq!(code(registry.set(&by, &point("shop:o-1"), unset, None).await.unwrap_err()), Code::Schema);
}

#[tokio::test]
async fn what_a_newer_schema_asks_for_is_filled_in_by_its_defaults() {
    let registry = registry().await;
    registry.set_schemas(Arc::new(OneSchema));
    let by = ann();
    let declare = |changes| Create { changes, ..make("mesh:kinds:order", "Kind") };
    registry.create(&by, declare(vec![set("schema", "shop:files:/order.json")])).await.unwrap();
    let order = Create { changes: vec![set("total", "5")], ..make("shop:o-1", "Order") };
    registry.create(&by, order).await.unwrap();
    let kind = point("mesh:kinds:order");
    let unfit = registry.set(&by, &kind, vec![set("schema", "shop:files:/unfit.json")], None).await;
    let problem = Problem::from(unfit.unwrap_err());
    assert_eq!(
        (problem.code, &*problem.errors[0].pointer),
        (Code::ArtifactInvalid, "/properties/total/default")
    );
    registry.set(&by, &kind, vec![set("schema", "shop:files:/order-2.json")], None).await.unwrap();
    // It asks for a currency, which what is there has not; the next write gives it one.
    let now = registry.set(&by, &point("shop:o-1"), vec![set("total", "6")], None).await.unwrap();
    assert_eq!(now.property("currency"), Some(&Value::from("EUR")));
    assert_eq!(now.property("paid"), Some(&Value::Bool(false)));
    let named = |problem: Problem| {
        assert_eq!(problem.code, Code::Schema);
        problem.errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>()
    };
    let lines = Value::from(serde_json::json!([1, "two"]));
    for (changes, pointer) in [
        (vec![PropertyChange::Unset("total".parse().unwrap())], "/total"),
        (vec![set("colour", "red")], "/colour"),
        (vec![PropertyChange::Set { key: "lines".parse().unwrap(), value: lines, lock: false }], "/lines/1"),
    ] {
        let refused = registry.set(&by, &point("shop:o-1"), changes, None).await.unwrap_err();
        assert!(refused.to_string().contains(pointer), "{refused}");
        assert_eq!(named(refused.into()), [pointer]);
    }
}

#[tokio::test]
async fn what_is_to_be_indexed_must_be_a_plain_property_of_the_schema() {
    let registry = registry().await;
    registry.set_schemas(Arc::new(OneSchema));
    let by = ann();
    let kind = point("mesh:kinds:order");
    let schema = |name: &str| set("schema", &*format!("shop:files:/{name}.json"));
    let list = |keys: &[&str]| set("indexed", Value::from(serde_json::json!(keys)));
    let declare = |changes: Vec<PropertyChange>| Create { changes, ..make("mesh:kinds:order", "Kind") };
    for (changes, pointers) in [
        (
            vec![schema("order"), list(&["total", "colour", "paid", "size"])],
            &["/indexed/1", "/indexed/3"][..],
        ),
        (vec![schema("order-2"), set("indexed", "total, lines")], &["/indexed"]),
        (vec![set("indexed", "total")], &["/indexed"]),
        (vec![schema("order"), list(&["total"; 9])], &["/indexed"]),
    ] {
        let problem = Problem::from(registry.create(&by, declare(changes)).await.unwrap_err());
        let named: Vec<_> = problem.errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!((problem.code, &*named), (Code::Schema, pointers), "{problem:?}");
        assert!(problem.help.unwrap().contains("let `indexed` name"));
    }
    // What a batch declares first counts for what it says next.
    let change = |changes| Op::Set { point: kind.clone(), changes, expect: None };
    let ops = vec![Op::Create(declare(vec![schema("order")])), change(vec![set("indexed", "colour")])];
    assert_eq!(registry.rehearse(&ops).await.unwrap_err().0, 1);
    assert_eq!(code(registry.batch(&by, ops).await.unwrap_err()), Code::Schema);
    registry.create(&by, declare(vec![schema("order"), set("indexed", "total, paid")])).await.unwrap();
    let unset = |key: &str| PropertyChange::Unset(key.parse().unwrap());
    let without = registry.set(&by, &kind, vec![unset("schema")], None).await.unwrap_err();
    assert_eq!(code(without), Code::Schema, "what is indexed would not be known any more");
    registry.set(&by, &kind, vec![schema("order-2"), list(&["currency"])], None).await.unwrap();
    registry.set(&by, &kind, vec![unset("schema"), unset("indexed")], None).await.unwrap();
}

#[tokio::test]
async fn the_first_of_an_indexed_property_need_no_list() {
    let registry = registry_with(Config { listed_max: 2, ..Config::in_memory(clock()) }).await;
    registry.set_schemas(Arc::new(OneSchema));
    let by = ann();
    let schema = set("schema", "shop:files:/order.json");
    registry.create(&by, Create { changes: vec![schema], ..make("mesh:kinds:order", "Kind") }).await.unwrap();
    for total in 0..20 {
        let changes = vec![set("total", &*total.to_string())];
        registry.create(&by, Create { changes, ..make(&format!("shop:o-{total}"), "Order") }).await.unwrap();
    }
    let query = "first 3 by total desc of shop:**<Order>".parse().unwrap();
    assert_eq!(code(registry.watch_query(&query, None).await.err().unwrap()), Code::Busy);
    registry.set(&by, &point("mesh:kinds:order"), vec![set("indexed", "total")], None).await.unwrap();
    let mut watch = registry.watch_query(&query, None).await.unwrap();
    let mut next = async || match watch.next().await {
        Some(Event::Ranked { resources, revision }) => {
            assert_eq!(revision, registry.revision());
            resources.iter().map(|it| it.property("total").unwrap().to_string()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(next().await, ["19", "18", "17"]);
    registry.set(&by, &point("shop:o-0"), vec![set("total", "100")], None).await.unwrap();
    assert_eq!(next().await, ["100", "19", "18"]);
    for (gone, left) in [(0, "17"), (19, "16"), (18, "15"), (17, "14"), (16, "13"), (15, "12"), (14, "11")] {
        registry.delete(&by, Delete::point(point(&format!("shop:o-{gone}")), false)).await.unwrap();
        assert_eq!(next().await.last().unwrap(), left);
    }
    registry
        .set(&by, &point("mesh:kinds:order"), vec![PropertyChange::Unset("indexed".parse().unwrap())], None)
        .await
        .unwrap();
    assert_eq!(code(registry.watch_query(&query, None).await.err().unwrap()), Code::Busy, "it is dropped");
}

#[tokio::test]
async fn a_declaration_says_where_its_resources_may_stand() {
    let registry = registry().await;
    let by = ann();
    let declare = |name: &str, changes| Create { changes, ..make(&format!("mesh:kinds:{name}"), "Kind") };
    registry.create(&by, declare("order", vec![set("parents", "Base")])).await.unwrap();
    registry.create(&by, declare("line-item", vec![set("parents", "Order, App")])).await.unwrap();
    registry.create(&by, make("shop:orders", "Base")).await.unwrap();
    registry.create(&by, make("shop:orders:o-1", "Order")).await.unwrap();
    registry.create(&by, make("shop:orders:o-1:i-1", "LineItem")).await.unwrap();
    for (point, kind, parents) in
        [("shop:o-2", "Order", "under Base"), ("shop:i-2", "LineItem", "under Order or App")]
    {
        let problem = Problem::from(registry.create(&by, make(point, kind)).await.unwrap_err());
        assert_eq!(problem.code, Code::KindParent);
        assert!(problem.help.as_ref().is_some_and(|help| help.ends_with(parents)), "{problem:?}");
    }
    // Without a declared list a user's kind stands under a branch, and not under another user's kind.
    registry.create(&by, declare("note", vec![])).await.unwrap();
    registry.create(&by, make("shop:n-1", "Note")).await.unwrap();
    let under = registry.create(&by, make("shop:orders:o-1:n-1", "Note")).await.unwrap_err();
    assert_eq!(code(under), Code::KindParent);
    let wrong = registry.set(&by, &point("mesh:kinds:note"), vec![set("columns", "Total")], None).await;
    let problem = Problem::from(wrong.unwrap_err());
    assert_eq!((problem.code, &*problem.errors[0].pointer), (Code::Schema, "/columns"));
}

#[tokio::test]
async fn the_log_tells_who_did_what_when() {
    let registry = registry().await;
    let by = ann();
    let shop = point("shop");
    registry.set(&by, &shop, vec![set("a", "1")], None).await.unwrap();
    registry.create(&by, make("shop:x", "Base")).await.unwrap();
    registry.set(&by, &shop, vec![set("a", "2")], None).await.unwrap();
    let entries = registry.log(LogOf::Point(shop.clone()), 10).await.unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!((entries[0].agent.clone(), entries[0].time), (by.clone(), Timestamp(1_700_000_000_000)));
    assert_eq!(entries[2].changes[0].before, None);
    registry.delete(&by, Delete::point(point("shop:x"), false)).await.unwrap();
    let gone = registry.log(LogOf::Point(point("shop:x")), 10).await.unwrap();
    assert_eq!(gone.len(), 2, "the history outlives the resource");
    let newest = registry.revision().0;
    let all = registry.log(LogOf::Revisions(1..=newest), 100).await.unwrap();
    assert_eq!(all.len() as u64, newest);
}

#[tokio::test]
async fn leases_take_along_what_hangs_on_them() {
    let registry = registry().await;
    let by = ann();
    let lease = registry.grant(Duration::from_secs(10)).await.unwrap();
    let node = Reserved {
        lease: Some(lease),
        ..Reserved::new(point("mesh:nodes:edge"), Kind::of(Base::Node), Vec::new(), Status::ready())
    };
    registry.put_reserved(&by, node).await.unwrap();
    registry.keep_alive(lease).await.unwrap();
    registry.revoke(&by, lease).await.unwrap();
    assert!(registry.get(&point("mesh:nodes:edge")).is_none());
    assert_eq!(code(registry.keep_alive(lease).await.unwrap_err()), Code::NotFound);
}

#[tokio::test]
async fn a_watch_lists_then_follows() {
    let registry = registry().await;
    let by = ann();
    registry.create(&by, make("shop:a", "App")).await.unwrap();
    let mut watch = registry.watch(&selector("shop:*<App>[x = 1]"), None).unwrap();
    let Some(Event::Listed { resources, last: true, .. }) = watch.next().await else { panic!("no list") };
    assert_eq!(resources, []);
    let a = registry.set(&by, &point("shop:a"), vec![set("x", "1")], None).await.unwrap();
    registry.create(&by, make("shop:b", "Base")).await.unwrap();
    let b = registry.set(&by, &point("shop:a"), vec![set("y", "1")], None).await.unwrap();
    let c = registry.set(&by, &point("shop:a"), vec![set("x", "2")], None).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..3 {
        let Some(Event::Changed { revision, changes }) = watch.next().await else { panic!("no change") };
        told.push((revision, changes));
    }
    use starlane_core::Change::*;
    assert_eq!(
        told,
        [
            (a.modified, vec![Entered(a.clone())]),
            (b.modified, vec![Updated(b.clone())]),
            (c.modified, vec![Left(b)]),
        ]
    );
    let token = watch.token();
    let d = registry.set(&by, &point("shop:a"), vec![set("x", "1")], None).await.unwrap();
    let mut resumed = registry.watch(&selector("shop:*<App>[x = 1]"), Some(token)).unwrap();
    assert_eq!(
        resumed.next().await,
        Some(Event::Changed { revision: d.modified, changes: vec![Entered(d)] })
    );
    let other = registry.watch(&selector("shop:*"), Some(token)).unwrap_err();
    assert_eq!(code(other), Code::WatchMismatch);
    let sampled = registry.watch(&selector("shop:*[queue > 5]"), None).unwrap_err();
    assert_eq!(code(sampled), Code::Unsupported);
}

#[tokio::test]
async fn a_slow_watch_catches_up_from_the_log_or_is_told_gone() {
    let registry = registry().await;
    let by = ann();
    let mut slow = registry.watch(&selector("shop+:**"), None).unwrap();
    let mut late = registry.watch(&selector("shop+:**"), None).unwrap();
    assert!(matches!(slow.next().await, Some(Event::Listed { last: true, .. })));
    assert!(matches!(late.next().await, Some(Event::Listed { last: true, .. })));
    for n in 0..600 {
        registry.set(&by, &point("shop"), vec![set("n", n.to_string().as_str())], None).await.unwrap();
    }
    let mut last = None;
    for n in 0..600 {
        let Some(Event::Changed { revision, changes }) = slow.next().await else { panic!("at {n}") };
        assert!(Some(revision) > last, "in order");
        assert_eq!(changes[0].resource().property("n").unwrap().to_string(), n.to_string());
        last = Some(revision);
    }
    registry.compact(registry.revision()).await.unwrap();
    // What waited in memory is still told; what would have come from the log is gone.
    let mut told = 0;
    loop {
        match late.next().await {
            Some(Event::Changed { .. }) => told += 1,
            Some(Event::Gone { oldest }) => break assert_eq!(oldest, registry.revision()),
            other => panic!("{other:?}"),
        }
    }
    assert!(told < 600);
    assert_eq!(late.next().await, None);
}

#[tokio::test]
async fn a_watch_from_what_is_still_to_come_is_told_to_list_again() {
    let registry = registry().await;
    let all = selector("shop+:**");
    let ahead = ResumeToken::new(Revision(registry.revision().0 + 1), &all.to_string());
    let mut watch = registry.watch(&all, Some(ahead)).unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
    assert!(matches!(gone, Ok(Some(Event::Gone { .. }))), "a restored backup is older than its watches");
    assert_eq!(watch.next().await, None);
    let now = ResumeToken::new(registry.revision(), &all.to_string());
    let mut watch = registry.watch(&all, Some(now)).unwrap();
    registry.set(&ann(), &point("shop"), vec![set("n", "1")], None).await.unwrap();
    assert!(matches!(watch.next().await, Some(Event::Changed { .. })));
}

#[tokio::test]
async fn quiet_watches_say_how_far_they_are() {
    let config = Config { bookmark_every: Duration::from_millis(1), ..Config::in_memory(clock()) };
    let registry = Registry::open(config).unwrap();
    registry.create(&ann(), make("shop", "Space")).await.unwrap();
    let mut watch = registry.watch(&selector("shop:a:*"), None).unwrap();
    watch.next().await.unwrap();
    registry.create(&ann(), make("shop:other", "Base")).await.unwrap();
    assert_eq!(watch.next().await, Some(Event::Bookmark { revision: registry.revision() }));
    assert_eq!(watch.token().revision, registry.revision());
}

#[tokio::test]
async fn pages_follow_each_other() {
    let registry = registry().await;
    let by = ann();
    for n in 0..25 {
        registry.create(&by, make(&format!("shop:n-{n:02}"), "Base")).await.unwrap();
    }
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = registry.select(&selector("shop:*"), 10, after.as_deref()).unwrap();
        all.extend(page.resources.iter().map(|resource| resource.point.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<_> = (0..25).map(|n| format!("shop:n-{n:02}")).collect();
    assert_eq!(all, expected);
    assert!(registry.select(&selector("shop:*"), 10, Some("c1.0.shop")).is_err());
    assert_eq!(registry.count(&selector("shop:*")), 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_of_one_revision_whatever_changes_meanwhile() {
    let registry = registry().await;
    let by = ann();
    for n in 0..40 {
        registry.create(&by, make(&format!("shop:n-{n:02}"), "Base")).await.unwrap();
    }
    let member = |n: usize| point(&format!("shop:n-{:02}", n % 40));
    for n in 0..5 {
        registry.set(&by, &member(n), vec![set("x", "yes")], None).await.unwrap();
    }
    // One goes and one comes in each commit, so there are always five.
    let writer = {
        let registry = registry.clone();
        tokio::spawn(async move {
            for n in 0..400 {
                let unset = vec![PropertyChange::Unset("x".parse().unwrap())];
                let ops = vec![
                    Op::Set { point: member(n), changes: unset, expect: None },
                    Op::Set { point: member(n + 5), changes: vec![set("x", "yes")], expect: None },
                ];
                registry.batch(&ann(), ops).await.unwrap();
            }
        })
    };
    let mut asked = 0;
    while !writer.is_finished() || asked < 100 {
        let found = registry.select(&selector("shop:*[x != \"no\"]"), 1_000, None).unwrap();
        assert_eq!(found.resources.len(), 5, "at {}", found.revision);
        asked += 1;
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn what_is_kept_of_a_selection_comes_in_pages() {
    let registry = registry().await;
    for number in 0..20 {
        registry.create(&ann(), make(&format!("shop:n{number:02}"), "Base")).await.unwrap();
    }
    let all = selector("shop:*");
    let even = |resource: &std::sync::Arc<starlane_core::Resource>| {
        resource.point.as_str().ends_with(['0', '2', '4', '6', '8'])
    };
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = registry.select_where(&all, 4, cursor.as_deref(), even).unwrap();
        assert!(page.resources.len() == 4 || page.next.is_none());
        found.extend(page.resources.iter().map(|resource| resource.point.to_string()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<_> = (0..20).step_by(2).map(|number| format!("shop:n{number:02}")).collect();
    assert_eq!(found, expected);
    assert!(registry.select_where(&all, 10, None, even).unwrap().next.is_none(), "ten are all");
}

#[tokio::test]
async fn a_rehearsal_finds_the_first_that_cannot_be_done_and_does_nothing() {
    let registry = registry().await;
    let before = registry.revision();
    let create = |at: &str, kind: &str| Op::Create(make(at, kind));
    let change = |at: &str, change| Op::Set { point: point(at), changes: vec![change], expect: None };
    let numbered = |prefix: &str| {
        let sequence = Sequence { parent: point("shop:a"), prefix: prefix.into(), suffix: String::new() };
        Op::Create(Create { target: Target::Sequence(sequence), ..make("shop:a", "Base") })
    };
    let good = vec![
        create("shop:a", "App"),
        create("shop:a:b", "Base"),
        change("shop:a:b", locked("fixed", "x")),
        numbered("o-"),
        change("shop:a:o-1", set("paid", "no")),
        create("shop:kinds", "Base"),
        create("shop:kinds:order", "Kind"),
        create("shop:o", "Order"),
    ];
    assert!(registry.rehearse(&good).await.is_ok());
    for (wrong, expected) in [
        (create("shop:a", "App"), Code::Exists),
        (create("shop:x:y", "Base"), Code::NotFound),
        (create("shop:a:s", "BundleSeries"), Code::KindParent),
        (create("shop:a:p", "Parcel"), Code::KindUnknown),
        (change("shop:a:b", set("fixed", "y")), Code::PropertyLocked),
        (change("shop:a:o-2", set("paid", "no")), Code::NotFound),
        (change("shop:a", set("text", &*"x".repeat(40_000))), Code::TooLarge),
    ] {
        let mut ops = good.clone();
        ops.push(wrong.clone());
        ops.push(create("ROOT", "Root"));
        let (number, error) = registry.rehearse(&ops).await.unwrap_err();
        assert_eq!((number, code(error)), (good.len(), expected), "{wrong:?}");
    }
    assert_eq!((registry.revision(), registry.get(&point("shop:a"))), (before, None));
    // Its numbers were nobody's.
    registry.create(&ann(), make("shop:a", "App")).await.unwrap();
    let Op::Create(first) = numbered("o-") else { return };
    assert_eq!(registry.create(&ann(), first).await.unwrap().resource.point, point("shop:a:o-1"));
}

#[tokio::test]
async fn what_is_refused_takes_no_number() {
    let registry = registry().await;
    registry.create(&ann(), make("shop:a", "App")).await.unwrap();
    let numbered = |kind: &str| {
        let sequence = Sequence { parent: point("shop:a"), prefix: "o-".into(), suffix: String::new() };
        Create { target: Target::Sequence(sequence), ..make("shop:a", kind) }
    };
    let refused = registry.create(&ann(), numbered("BundleSeries")).await.unwrap_err();
    assert_eq!(code(refused), Code::KindParent);
    for expected in ["shop:a:o-1", "shop:a:o-2"] {
        let made = registry.create(&ann(), numbered("Base")).await.unwrap();
        assert_eq!(made.resource.point, point(expected));
    }
}
