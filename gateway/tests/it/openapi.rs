//! The API's description of itself, and the documents made from the code.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;
use starlane_core::{Code, Point};

use crate::client::{Connection, World};

fn document() -> Value {
    serde_json::from_str(&gateway::openapi()).unwrap()
}

#[tokio::test]
async fn it_is_served_to_anybody() {
    let world = World::new().await;
    let reply =
        Connection::open(world.at.api).await.ask("GET", "/openapi.json", "host: localhost\r\n", "").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    assert_eq!(reply.json(), document());
    assert!(document()["openapi"].as_str().unwrap().starts_with("3.1"));
}

/// Every `$ref` of the document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                found.insert(target.clone());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 15, "{found:?}");
    for target in found {
        assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
    }
}

#[tokio::test]
async fn every_path_is_there_and_tells_of_problems() {
    let world = World::new().await;
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 32);
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"];
            assert_eq!(problem["$ref"], "#/components/schemas/ProblemDetails", "{method} {path}");
            if path == "/v1/subscribe/{point}" {
                // Its answer has no end: see `portal.rs`.
                continue;
            }
            let asked =
                path.replace("{point}", "shop:cart").replace("{name}", "edge-1").replace("{id}", "t1");
            let headers = "range: bytes=0-0\r\nif-none-match: *\r\ncontent-type: application/json\r\n";
            let reply = world.api(&method.to_uppercase(), &asked, headers, "{}").await;
            let replied = reply.header("starlane-outcome") == "ok";
            assert!(replied || !matches!(reply.status, 404 | 405 | 500), "{method} {path}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn answers_are_as_their_schemas_say() {
    let world = World::new().await;
    let document = document();
    let create = r#"{"point":"shop:cart","kind":"Mechtron","properties":{"a":1}}"#;
    for (method, path, asked, body, status) in [
        ("get", "/v1/info", "/v1/info", "", "200"),
        ("get", "/v1/errors", "/v1/errors", "", "200"),
        ("get", "/v1/nodes", "/v1/nodes", "", "200"),
        ("get", "/v1/nodes/{name}", "/v1/nodes/cloud", "", "200"),
        ("get", "/v1/nodes/{name}", "/v1/nodes/nobody", "", "default"),
        ("get", "/v1/nodes/{name}", "/v1/nodes/Wrong", "", "default"),
        ("patch", "/v1/nodes/{name}", "/v1/nodes/edge-1", "{}", "200"),
        ("get", "/v1/graph", "/v1/graph", "", "200"),
        ("post", "/v1/tokens", "/v1/tokens", "{}", "201"),
        ("get", "/v1/tokens", "/v1/tokens", "", "200"),
        ("get", "/v1/trace/{point}", "/v1/trace/shop:cart", "", "200"),
        ("get", "/v1/dead-letters/{point}", "/v1/dead-letters/shop", "", "200"),
        ("get", "/v1/dead-letters/{point}", "/v1/dead-letters/missing", "", "default"),
        ("get", "/v1/why/{point}", "/v1/why/shop:cart", "", "200"),
        ("get", "/v1/why/{point}", "/v1/why/missing:x", "", "200"),
        ("post", "/v1/move/{point}", "/v1/move/shop:cart", r#"{"to":"edge-1"}"#, "200"),
        ("post", "/v1/exec", "/v1/exec", "x", "200"),
        ("post", "/v1/exec", "/v1/exec", "Mechatron", "400"),
        ("get", "/v1/resources", "/v1/resources?select=a", "", "200"),
        ("post", "/v1/resources", "/v1/resources", create, "201"),
        ("get", "/v1/resources/{point}", "/v1/resources/shop", "", "200"),
        ("get", "/v1/resources/{point}", "/v1/resources/missing:x", "", "default"),
        ("get", "/v1/resources/{point}", "/v1/resources/Wrong", "", "default"),
        ("patch", "/v1/resources/{point}", "/v1/resources/shop", "{}", "200"),
        ("delete", "/v1/resources/{point}", "/v1/resources/a", "", "200"),
        ("get", "/v1/describe/{point}", "/v1/describe/a", "", "200"),
        ("get", "/v1/logs/{point}", "/v1/logs/a?tail=1", "", "200"),
        ("post", "/v1/send/{point}", "/v1/send/a", "", "202"),
        ("post", "/v1/scatter", "/v1/scatter?select=shop:*", "", "200"),
        ("post", "/v1/scatter", "/v1/scatter?select=nothing", "", "200"),
        ("put", "/v1/bundles/{point}", "/v1/bundles/a:b:c:1.0.0", "x", "201"),
        ("put", "/v1/files/{point}", "/v1/files/a:b:%2Fc", "x", "200"),
    ] {
        let exec = path == "/v1/exec";
        let content_type =
            if exec { "content-type: text/plain\r\n" } else { "content-type: application/json\r\n" };
        let reply = world.api(&method.to_uppercase(), asked, content_type, body).await;
        let content = &document["paths"][path][method]["responses"][status]["content"];
        let kind = reply.header("content-type");
        let mut schema = content[kind]["schema"].clone();
        assert!(schema.is_object(), "{method} {path} {status} {kind}: {content}");
        schema["components"] = document["components"].clone();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        // A stream is one document a line; any other answer is one document.
        for document in serde_json::Deserializer::from_slice(&reply.body).into_iter::<Value>() {
            let document = document.unwrap_or_else(|error| panic!("{error}: {reply:?}"));
            let errors: Vec<_> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{method} {path}: {errors:?} in {document}");
        }
    }
}

#[test]
fn the_error_index_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
    let mut index = "# Errors\n\nEvery error has a stable code, the same in the API (`code`), on the command line and here.\n\
        <!-- Made from the catalogue: `UPDATE=1 cargo test -p gateway the_error_index_is_current` writes it anew. -->\n\n\
        | code | means | HTTP | exit |\n|---|---|---|---|\n"
        .to_owned();
    for code in Code::ALL {
        let (status, exit) = (code.http_status(), code.exit_code());
        index += &format!("| `{code}` | {} | {status} | {exit} |\n", code.title());
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &index).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == index, "docs/errors.md is not what the catalogue says");
}

fn any_point() -> impl Strategy<Value = Point> {
    let path = proptest::collection::vec("[^/\\\\\\p{C}%.]{1,12}", 1..4)
        .prop_map(|parts| format!(":/{}", parts.join("/")));
    ("[a-z][a-z0-9]{0,8}", proptest::collection::vec("[a-z][a-z0-9-]{0,8}", 0..4), proptest::option::of(path))
        .prop_map(|(space, segments, path)| {
            let front = std::iter::once(space).chain(segments).collect::<Vec<_>>().join(":");
            format!("{front}{}", path.unwrap_or_default())
        })
        .prop_filter_map("not a point", |text| text.parse().ok())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_point_survives_the_path(points in proptest::collection::vec(any_point(), 8)) {
        runtime().block_on(async {
            let world = World::new().await;
            for point in points {
                let reply = world.api("GET", &format!("/v1/describe/{}", gateway::encode_point(&point)), "", "").await;
                prop_assert_eq!(reply.status, 200, "{}", point);
                prop_assert_eq!(&reply.json()["resource"]["point"], point.as_str());
            }
            Ok(())
        })?;
    }

    #[test]
    fn any_path_is_answered(segment in "[!-~]{0,40}|(%[0-9a-fA-F]{2}){1,20}") {
        prop_assume!(!segment.contains(['#']));
        runtime().block_on(async {
            let world = World::new().await;
            let reply = world.api("GET", &format!("/v1/describe/{segment}"), "", "").await;
            prop_assert!(matches!(reply.status, 200 | 400 | 404), "{}: {:?}", segment, reply);
            Ok(())
        })?;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
