//! A whole node over HTTP on loopback, as its users reach it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tests::Node;

use crate::load::{self, Figures, Target};

const DURATION: Duration = Duration::from_secs(4);

/// Measures, prints a table, and writes the figures to a file when one is given.
pub(crate) fn run(bundles: &Path, json: Option<&Path>) {
    let node = Node::start();
    prepare(&node, bundles);
    let token = std::fs::read_to_string(node.data().join("admin.token")).expect("the node made a token");
    let api = |method: &'static str, path: &str, body: fn(usize, usize) -> String| Target {
        address: node.api(),
        method,
        path: path.to_owned(),
        token: Some(token.trim().to_owned()),
        body,
    };
    let web = |path: &str| Target {
        address: node.web(),
        method: "GET",
        path: path.to_owned(),
        token: None,
        body: |_, _| String::new(),
    };
    let rows: Vec<(&str, Target, usize)> = vec![
        ("web: hello mechtron, 1 connection", web("/hello"), 1),
        ("web: hello mechtron, 64 connections", web("/hello"), 64),
        ("web: file of a bundle, 64 connections", web("/index.html"), 64),
        ("api: healthz, 64 connections (the door alone)", api("GET", "/healthz", |_, _| String::new()), 64),
        ("api: durable create, 1 client", api("POST", "/v1/resources", create), 1),
        ("api: durable create, 8 clients", api("POST", "/v1/resources", create), 8),
        ("api: durable create, 64 clients", api("POST", "/v1/resources", create), 64),
        ("api: get, 64 clients", api("GET", "/v1/resources/localhost", |_, _| String::new()), 64),
    ];
    println!("{:<50} {:>10} {:>10} {:>10}", "", "per second", "p50", "p99");
    let mut results = Map::new();
    for (at, (name, target, connections)) in rows.into_iter().enumerate() {
        let figures = load::run(&target, connections, DURATION, at);
        let Figures { per_second, p50, p99, failed } = figures;
        let note = if failed == 0 { String::new() } else { format!("  {failed} failed") };
        println!("{name:<50} {per_second:>10.0} {p50:>10.1?} {p99:>10.1?}{note}");
        results.insert(
            name.to_owned(),
            json!({
                "perSecond": per_second, "p50Us": p50.as_secs_f64() * 1e6, "p99Us": p99.as_secs_f64() * 1e6,
                "failed": failed,
            }),
        );
    }
    if let Some(file) = json {
        std::fs::write(file, Value::Object(results).to_string()).expect("the file can be written");
    }
}

/// A space with a site and a mechtron that answers HTTP.
fn prepare(node: &Node, bundles: &Path) {
    let script = format!(
        "create localhost<Space>; create localhost:repo<Repo>; create localhost:repo:site<BundleSeries>; \
         create localhost:repo:hello<BundleSeries>; create localhost:bench<Base>; \
         publish ^[ {0}/site ]-> localhost:repo:site:1.0.0; publish ^[ {0}/hello ]-> localhost:repo:hello:1.0.0; \
         create localhost:hello<Mechtron>{{ +config=localhost:repo:hello:1.0.0:/config/hello.mechtron }}; \
         create localhost:files<FileSystem>",
        bundles.display()
    );
    node.exec(&script).ok();
    let bind = "Bind(version=1.0.0) { Http { <Get>/hello -> localhost:hello^Http<Get>/ => &; \
                <Get>/(.*) -> localhost:repo:site:1.0.0:/html/$1 => &; } }";
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("bind")).expect("a folder can be made");
    std::fs::write(folder.path().join("bind/bench.bind"), bind).expect("a file can be written");
    node.exec(&format!(
        "create localhost:repo:bench<BundleSeries>; publish ^[ {} ]-> localhost:repo:bench:1.0.0; \
         set localhost{{ +bind=localhost:repo:bench:1.0.0:/bind/bench.bind }}",
        folder.path().display()
    ))
    .ok();
}

/// A resource that nobody else creates: by the number of the row, the client and the request.
fn create(row_and_client: usize, number: usize) -> String {
    format!(
        r#"{{"point":"localhost:bench:r-{row_and_client}-{number}","kind":"Base","properties":{{"n":{number}}}}}"#
    )
}
