//! Commands and the client against an API that is told what to answer: what they send, how they read the answers, and how
//! a watch goes on over cut connections.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::Home;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt;
use gateway::Trust;
use gateway::shapes::WatchStep;
use serde_json::{Value, json};
use starlane::client::{Backoff, Client, WatchNews};
use starlane_core::Code;

/// What was asked of the API.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Method, path and query.
    pub(crate) line: String,
    authorization: String,
    content_type: String,
    pub(crate) body: Vec<u8>,
}

/// An API that gives prepared answers in order and remembers what was asked.
pub(crate) struct Pretend {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Pretend {
    pub(crate) fn new(answers: impl IntoIterator<Item = Response>) -> Self {
        let answers: Arc<Mutex<VecDeque<Response>>> = Arc::new(Mutex::new(answers.into_iter().collect()));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let remember = Arc::clone(&asked);
        let router = Router::new().fallback(move |request: Request| {
            let (answers, asked) = (Arc::clone(&answers), Arc::clone(&remember));
            async move {
                let (head, body) = request.into_parts();
                let header = |name| head.headers.get(name).map_or("", |v| v.to_str().unwrap()).to_owned();
                let asked_now = Asked {
                    line: format!("{} {}", head.method, head.uri),
                    authorization: header("authorization"),
                    content_type: header("content-type"),
                    body: axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default().to_vec(),
                };
                asked.lock().unwrap().push(asked_now);
                answers
                    .lock()
                    .unwrap()
                    .pop_front()
                    .unwrap_or_else(|| answer(500, "text/plain", "no answer left"))
            }
        });
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        Self { address, asked, _runtime: runtime }
    }

    pub(crate) fn home(&self) -> Home {
        let home = Home::new();
        home.pretend_node(self.address);
        home
    }

    fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.address), "token", &Trust::Nobody, None).unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

pub(crate) fn answer(status: u16, content_type: &str, body: impl Into<Body>) -> Response {
    Response::builder().status(status).header("content-type", content_type).body(body.into()).unwrap()
}

pub(crate) fn ok(body: Value) -> Response {
    answer(200, "application/json", body.to_string())
}

pub(crate) fn refused(status: u16, code: &str, more: Value) -> Response {
    let mut problem = json!({"type": "", "title": "", "status": status, "detail": "because", "code": code});
    problem.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    answer(status, "application/problem+json", problem.to_string())
}

/// A stream that is cut, as when a node is killed.
pub(crate) fn cut(text: &str) -> Response {
    let first = futures::stream::iter([Ok(Bytes::from(text.to_owned()))]);
    // What comes at once with its end may never be sent: the server gets a turn in between.
    let end = futures::stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    });
    answer(200, "application/x-ndjson", Body::from_stream(first.chain(end)))
}

/// A stream that stays open.
pub(crate) fn open(text: &str) -> Response {
    let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(text.to_owned()))]);
    answer(200, "application/x-ndjson", Body::from_stream(first.chain(futures::stream::pending())))
}

fn resource(point: &str, modified: u64) -> Value {
    json!({
        "point": point, "kind": "Space", "properties": {"n": {"value": modified}},
        "status": {"phase": "Ready"}, "created": 1, "modified": modified, "version": modified,
    })
}

fn listed(points: &[&str], revision: u64, last: bool) -> String {
    let resources: Vec<Value> = points.iter().map(|point| resource(point, 1)).collect();
    let token = format!("w1.{revision}.0000000a");
    format!(
        "{}\n",
        json!({"event": "listed", "resources": resources, "revision": revision, "last": last, "token": token})
    )
}

fn changed(point: &str, revision: u64) -> String {
    let changes = json!([{"change": "updated", "resource": resource(point, revision)}]);
    let token = format!("w1.{revision}.0000000a");
    format!("{}\n", json!({"event": "changed", "revision": revision, "changes": changes, "token": token}))
}

const SOON: Backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(2) };

/// The revisions of the next events.
fn revisions(pretend: &Pretend, since: Option<&str>, count: usize) -> Vec<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut watch = pretend.client().watch("*", since.map(str::to_owned), SOON);
        let mut revisions = Vec::new();
        while revisions.len() < count {
            if let WatchNews::Event(event) = watch.next().await.unwrap() {
                revisions.push(match event.event {
                    WatchStep::Listed { revision, .. }
                    | WatchStep::Changed { revision, .. }
                    | WatchStep::Counted { revision, .. }
                    | WatchStep::Ranked { revision, .. }
                    | WatchStep::Bookmark { revision } => revision.0,
                    WatchStep::Gone { oldest } => oldest.0,
                });
            }
        }
        revisions
    })
}

#[test]
fn a_watch_goes_on_by_token_after_each_cut() {
    let pretend = Pretend::new([
        cut(&[listed(&["a"], 5, true), changed("a", 6)].concat()),
        // Cut in the middle of a line: the change comes again, once.
        cut(&[changed("a", 7), changed("a", 8)[..20].to_owned()].concat()),
        refused(503, "E-DRAINING", json!({})),
        // Signs of life are no events.
        open(&["\n".to_owned(), changed("a", 8), "\n".to_owned(), changed("a", 9)].concat()),
    ]);
    assert_eq!(revisions(&pretend, None, 5), [5, 6, 7, 8, 9]);
    assert_eq!(
        pretend.lines(),
        [
            "GET /v1/watch?select=%2A",
            "GET /v1/watch?select=%2A&since=w1.6.0000000a",
            "GET /v1/watch?select=%2A&since=w1.7.0000000a",
            "GET /v1/watch?select=%2A&since=w1.7.0000000a",
        ]
    );
}

#[test]
fn a_list_that_was_cut_is_asked_for_again() {
    let pretend = Pretend::new([cut(&listed(&["a"], 5, false)), open(&listed(&["a", "b"], 6, true))]);
    assert_eq!(revisions(&pretend, None, 2), [5, 6]);
    assert_eq!(pretend.lines(), ["GET /v1/watch?select=%2A", "GET /v1/watch?select=%2A"]);
}

#[test]
fn after_gone_the_list_comes_anew() {
    let gone = format!("{}\n", json!({"event": "gone", "oldest": 40, "token": ""}));
    let pretend = Pretend::new([cut(&gone), open(&listed(&["a"], 50, true))]);
    assert_eq!(revisions(&pretend, Some("w1.2.0000000a"), 2), [40, 50]);
    assert_eq!(pretend.lines(), ["GET /v1/watch?select=%2A&since=w1.2.0000000a", "GET /v1/watch?select=%2A"]);
}

#[test]
fn a_watch_ends_where_trying_again_is_of_no_use() {
    let pretend = Pretend::new([refused(400, "E-WATCH-MISMATCH", json!({}))]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(pretend.client().watch("*", Some("w1.1.0".into()), SOON).next());
    assert_eq!(ended.unwrap_err().code, Code::WatchMismatch);
}

#[test]
fn watch_prints_the_list_and_then_what_changed() {
    let pretend = Pretend::new([
        cut(&[listed(&["a"], 5, true), changed("a", 6)].concat()),
        refused(400, "E-WATCH-MISMATCH", json!({})),
    ]);
    let (out, err) =
        crate::support::Answer::from(pretend.home().command(&["watch", "*"]).output().unwrap()).ends(2);
    let lines: Vec<&str> = out.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!(lines, ["listed   a<Space>", "updated  a<Space>  +n=6"]);
    assert!(err.contains("trying again until it works") && err.contains("E-WATCH-MISMATCH"), "{err}");
}

#[test]
fn watch_prints_counts_and_ranks() {
    let counted = |count: u64| {
        format!("{}\n", json!({"event": "counted", "revision": 5, "count": count, "token": "w1.5.0000000a"}))
    };
    let end = || refused(400, "E-WATCH-MISMATCH", json!({}));
    let pretend = Pretend::new([cut(&[counted(2), counted(3)].concat()), end()]);
    let watch = |pretend: &Pretend, query: &str| {
        let (out, _) = pretend.home().run(&["watch", query]).ends(2);
        let told = |line: &str| line.split_once("  ").map_or_else(String::new, |(_, told)| told.to_owned());
        out.lines().map(told).collect::<Vec<_>>()
    };
    assert_eq!(watch(&pretend, "count(shop:*)"), ["count    2", "count    3"]);
    assert_eq!(pretend.lines()[0], "GET /v1/watch?select=count%28shop:%2A%29");
    let ranked = json!({"event": "ranked", "revision": 5, "resources": [resource("b", 2), resource("a", 1)], "token": "w1.5.0000000a"});
    let pretend = Pretend::new([cut(&format!("{ranked}\n")), end()]);
    assert_eq!(watch(&pretend, "first 2 by n desc of *"), ["1        b<Space>", "2        a<Space>", ""]);
    let wrong = pretend.home().run(&["watch", "first 0 by n of *"]).fails(2);
    assert!(wrong.contains("not a number from 1 to 1000"), "{wrong}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_says_how_to_go_on() {
    use std::io::{BufRead as _, BufReader, Read as _};
    let pretend = Pretend::new([open(&listed(&["a"], 5, true))]);
    let home = pretend.home();
    let mut watch =
        home.command(&["watch", "*"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &watch.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let mut said = String::new();
    watch.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(130));
    assert!(said.contains("starlane watch '*' --since w1.5.0000000a"), "{said}");
}

#[test]
fn select_reads_all_pages_and_stops_at_the_limit() {
    let page = |points: &[&str], next: Value| {
        let resources: Vec<Value> = points.iter().map(|point| resource(point, 1)).collect();
        ok(json!({"resources": resources, "revision": 9, "next": next}))
    };
    let pretend = Pretend::new([page(&["a", "b"], json!("c 1")), page(&["c"], Value::Null)]);
    assert_eq!(pretend.home().run(&["select", "*"]).ok(), "a<Space>\nb<Space>\nc<Space>\n");
    assert_eq!(
        pretend.lines(),
        ["GET /v1/resources?select=%2A&limit=1000", "GET /v1/resources?select=%2A&limit=1000&cursor=c%201"]
    );
    assert!(pretend.asked().iter().all(|asked| asked.authorization.len() == "Bearer ".len() + 64));

    let pretend = Pretend::new([page(&["a", "b"], json!("x"))]);
    let (out, err) = pretend.home().run(&["select", "*", "--limit", "2", "-o", "json"]).ends(0);
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((out["resources"].as_array().unwrap().len(), &out["more"]), (2, &json!(true)));
    assert!(err.contains("there are more"), "{err}");
}

#[test]
fn all_pages_of_the_past_are_of_one_revision() {
    let page = |points: &[&str], next: Value| {
        let resources: Vec<Value> = points.iter().map(|point| resource(point, 1)).collect();
        ok(json!({"resources": resources, "revision": 9, "next": next}))
    };
    let pretend = Pretend::new([page(&["a"], json!("c1")), page(&["b"], Value::Null)]);
    let asked = ["select", "*", "--as-of", "2026-03-01T13:04:11+01:00"];
    assert_eq!(pretend.home().run(&asked).ok(), "a<Space>\nb<Space>\n");
    assert_eq!(
        pretend.lines(),
        [
            "GET /v1/resources?select=%2A&at=2026-03-01T12:04:11.000Z&limit=1000",
            "GET /v1/resources?select=%2A&at=9&limit=1000&cursor=c1",
        ]
    );
    let wrong = Home::new().run(&["select", "*", "--as-of", "yesterday"]).fails(2);
    assert!(wrong.contains("neither a revision nor a time"), "{wrong}");
}

#[test]
fn a_diff_is_read_page_by_page_and_says_what_changed() {
    let different = |change: &str, before: Value, after: Value| {
        let mut difference = json!({"point": "a", "change": change});
        for (key, value) in [("before", before), ("after", after)] {
            if !value.is_null() {
                difference[key] = value;
            }
        }
        difference
    };
    let mut titled = resource("a", 2);
    titled["properties"] = json!({"title": {"value": "Shoes"}});
    let pages = || {
        [
            json!([
                different("changed", resource("a", 1), titled.clone()),
                different("added", Value::Null, resource("b", 2))
            ]),
            json!([different("removed", resource("c", 1), Value::Null)]),
        ]
    };
    let answers = || {
        let [first, last] = pages();
        [
            ok(json!({"from": 3, "to": 9, "differences": first, "next": "c1"})),
            ok(json!({"from": 3, "to": 9, "differences": last})),
        ]
    };
    let pretend = Pretend::new(answers());
    let out = pretend.home().run(&["diff", "--from", "3", "**"]).ok();
    assert_eq!(out, "~ a<Space>  +title=Shoes, !n\n+ b<Space>\n- c<Space>\n");
    assert_eq!(
        pretend.lines(),
        ["GET /v1/diff?select=%2A%2A&from=3", "GET /v1/diff?select=%2A%2A&from=3&to=9&cursor=c1"]
    );
    let out = Pretend::new(answers()).home().run(&["diff", "--from", "3", "**", "-o", "json"]).ok();
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((out["differences"].as_array().unwrap().len(), &out["to"]), (3, &json!(9)));
}

#[test]
fn a_log_says_who_changed_what_and_when() {
    let entry = json!({"revision": 7, "time": 1_772_366_651_250_u64, "agent": "mesh:users:ann", "point": "a",
        "change": "changed", "before": resource("a", 1), "after": resource("a", 2)});
    let history = || ok(json!({"point": "a", "entries": [entry.clone()], "oldest": 1}));
    let pretend = Pretend::new([history()]);
    assert_eq!(
        pretend.home().run(&["log", "a", "--limit", "1"]).ok(),
        "7  2026-03-01T12:04:11.250Z  mesh:users:ann  changed  +n=2\n"
    );
    assert_eq!(pretend.lines(), ["GET /v1/history/a?limit=1"]);
    let out = Pretend::new([history()]).home().run(&["log", "a", "-o", "jsonl"]).ok();
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["agent"], "mesh:users:ann");
}

#[test]
fn a_table_of_one_kind_has_the_columns_that_its_declaration_says() {
    let order = |point: &str, total: u64| {
        let mut order = resource(point, 1);
        order["kind"] = json!("Order");
        order["properties"] = json!({"total": {"value": total}});
        order
    };
    let page = || ok(json!({"resources": [order("shop:a", 5), order("shop:b", 12)], "revision": 9}));
    let mut declaration = resource("mesh:kinds:order", 1);
    declaration["properties"] = json!({"columns": {"value": "total:SUM, paid"}});
    let pretend = Pretend::new([page(), refused(404, "E-NOT-FOUND", json!({})), ok(declaration)]);
    let table = pretend.home().run(&["select", "shop:*", "-o", "table"]).ok();
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        words,
        [
            ["POINT", "KIND", "STATUS", "SUM", "PAID"],
            ["shop:a", "Order", "Ready", "5", "-"],
            ["shop:b", "Order", "Ready", "12", "-"]
        ]
    );
    assert_eq!(
        pretend.lines()[1..],
        ["GET /v1/resources/shop:kinds:order", "GET /v1/resources/mesh:kinds:order"]
    );
    let pretend = Pretend::new([page()]);
    assert_eq!(pretend.home().run(&["select", "shop:*"]).ok(), "shop:a<Order>\nshop:b<Order>\n");
}

#[test]
fn results_have_every_form() {
    for (form, expected) in [
        ("name", "a<Space>\n"),
        ("table", "POINT  KIND   STATUS\na      Space  Ready\n"),
        (
            "wide",
            "POINT  KIND   STATUS  CREATED  MODIFIED  VERSION  PROPERTIES\na      Space  Ready   1        7         7        n=7\n",
        ),
        (
            "jsonl",
            "{\"created\":1,\"kind\":\"Space\",\"modified\":7,\"point\":\"a\",\"properties\":{\"n\":{\"value\":7}},\"status\":{\"phase\":\"Ready\"},\"version\":7}\n",
        ),
        (
            "yaml",
            "resources:\n  - created: 1\n    kind: Space\n    modified: 7\n    point: a\n    properties:\n      \"n\":\n        value: 7\n    status:\n      phase: Ready\n    version: 7\nrevision: 9\n",
        ),
    ] {
        let pretend = Pretend::new([ok(json!({"resources": [resource("a", 7)], "revision": 9}))]);
        assert_eq!(pretend.home().run(&["select", "*", "-o", form]).ok(), expected, "{form}");
    }
}

#[test]
fn arguments_become_the_statement_that_is_sent() {
    let created = || {
        ok(json!({"results": [{"type": "created", "resource": resource("shop", 1), "outcome": "created"}]}))
    };
    let pretend = Pretend::new([created(), created()]);
    let home = pretend.home();
    assert_eq!(
        home.run(&["create", "shop", "--kind", "Space", "+title=Fine shoes"]).ok(),
        "created shop<Space>\n"
    );
    home.run(&["create?", "shop<Space>"]).ok();
    let sent: Vec<String> =
        pretend.asked().into_iter().map(|asked| String::from_utf8(asked.body).unwrap()).collect();
    assert_eq!(sent, ["create shop<Space>{ +title=\"Fine shoes\" }", "create? shop<Space>"]);
}

#[test]
fn a_statement_that_fails_stops_the_script_at_its_line() {
    let done = ok(json!({"results": [{"type": "deleted", "deleted": [{"point": "a", "kind": "Space"}]}]}));
    let place = json!({"place": {
        "source": "create b<Mechatron>", "span": {"start": 9, "end": 18}, "line": 1, "column": 10, "label": "not a kind",
    }});
    let pretend = Pretend::new([done, refused(400, "E-KIND-UNKNOWN", place)]);
    let home = pretend.home();
    home.file("setup.script", "delete a;\ncreate b<Mechatron>;\ndelete c;\n");
    let (out, err) = home.run(&["script", "setup.script"]).ends(2);
    assert_eq!(out, "deleted a<Space>\n");
    assert!(
        err.contains("──▸ setup.script:2:10\n 2 │ create b<Mechatron>;\n   ·          ────┬────\n"),
        "{err}"
    );
    assert_eq!(pretend.asked().len(), 2);
}

#[test]
fn exit_codes_follow_the_problem() {
    for (status, code, exit) in [
        (404, "E-NOT-FOUND", 3),
        (401, "E-UNAUTHORIZED", 4),
        (409, "E-HAS-CHILDREN", 5),
        (503, "E-BUSY", 1),
        (504, "E-TIMEOUT", 7),
        (502, "E-HANDLER", 8),
        (500, "E-FROM-THE-FUTURE", 70),
    ] {
        let pretend = Pretend::new([refused(status, code, json!({"help": "do this"}))]);
        let err = pretend.home().run(&["delete", "a"]).fails(exit);
        assert!(err.contains("help: do this"), "{err}");
    }
    let pretend = Pretend::new([answer(200, "text/html", "<h1>no API</h1>")]);
    pretend.home().run(&["node", "list"]).fails(70);
    let pretend = Pretend::new([answer(404, "text/html", "<h1>no API</h1>")]);
    pretend.home().run(&["node", "list"]).fails(6);
}

#[test]
fn a_request_prints_the_body_and_ends_by_its_outcome() {
    let reply = |status: u16, body: &'static str| {
        let mut reply = answer(status, "application/json", body);
        reply.headers_mut().insert("starlane-outcome", "ok".parse().unwrap());
        reply
    };
    let pretend = Pretend::new([
        reply(200, "{\"total\":2}"),
        reply(409, "no"),
        refused(504, "E-TIMEOUT", json!({})),
        reply(200, ""),
    ]);
    let home = pretend.home();
    home.file("item.json", "[1]");
    let call = "shop:cart^Ext<AddItem>";
    assert_eq!(home.run(&["request", call, "{\"id\":1}"]).ok(), "{\"total\":2}");
    let (out, err) = home.run(&["request", call, "@item.json", "--timeout", "2s"]).ends(8);
    assert_eq!((out.as_str(), err.as_str()), ("no", "the answer's status is 409\n"));
    home.run(&["request", "shop^Http<Get>/a?b=c"]).fails(7);
    let shown = home.run(&["request", "shop", "-i"]).ok();
    assert!(shown.starts_with("status: 200\n") && shown.contains("starlane-outcome: ok\n"), "{shown}");
    let asked = pretend.asked();
    assert_eq!(asked[0].line, "POST /v1/request/shop:cart?method=Ext%3CAddItem%3E");
    assert_eq!(
        (asked[0].content_type.as_str(), &asked[0].body[..]),
        ("application/json", &b"{\"id\":1}"[..])
    );
    assert_eq!(asked[1].line, "POST /v1/request/shop:cart?method=Ext%3CAddItem%3E&timeout=2000ms");
    assert_eq!(asked[1].body, b"[1]");
    assert_eq!(asked[2].line, "POST /v1/request/shop?method=Http%3CGet%3E&path=%2Fa%3Fb%3Dc");
}

#[test]
fn files_go_in_and_out_byte_for_byte() {
    let written = || {
        ok(
            json!({"point": "shop:files:/a.bin", "contentType": "application/octet-stream", "bytes": 3, "etag": "x"}),
        )
    };
    let pretend = Pretend::new([
        written(),
        written(),
        answer(200, "text/plain", "out"),
        cut("half"),
        answer(200, "text/plain", "out"),
    ]);
    let home = pretend.home();
    home.file("a.bin", "\u{0}1\u{7f}");
    assert_eq!(home.run(&["cp", "a.bin", "shop:files:/"]).ok(), "wrote shop:files:/a.bin (3 B)\n");
    let mut write = home.command(&["write", "shop:files:/a.bin"]).stdin(Stdio::piped()).spawn().unwrap();
    write.stdin.take().unwrap().write_all(b"typed").unwrap();
    assert!(write.wait().unwrap().success());
    home.run(&["cp", "shop:files:/a.bin", "b.bin"]).ok();
    assert_eq!(std::fs::read(home.path().join("b.bin")).unwrap(), b"out");
    // A download that breaks leaves the old file as it was, and nothing beside it.
    home.run(&["cp", "shop:files:/a.bin", "b.bin"]).fails(6);
    assert_eq!(std::fs::read(home.path().join("b.bin")).unwrap(), b"out");
    let mut names: Vec<_> =
        std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.bin", "b.bin", "data"]);
    assert_eq!(home.run(&["read", "shop:files:/a.bin"]).ok(), "out");
    let asked = pretend.asked();
    assert_eq!(asked[0].line, "PUT /v1/files/shop:files:%2Fa.bin");
    assert_eq!((&asked[0].body[..], &asked[1].body[..]), (&b"\x001\x7f"[..], &b"typed"[..]));
}

#[test]
fn a_folder_is_zipped_on_the_fly() {
    let published = || {
        let mut bundle = resource("shop:repo:site:1.0.0", 1);
        bundle["kind"] = "Bundle".into();
        ok(json!({"bundle": bundle, "artifacts": 1, "bytes": 5}))
    };
    let pretend = Pretend::new([published(), published()]);
    let home = pretend.home();
    std::fs::create_dir_all(home.path().join("site/html")).unwrap();
    home.file("site/html/index.html", "hello");
    let said = "published shop:repo:site:1.0.0<Bundle> (1 artifacts, 5 B)\n";
    assert_eq!(home.run(&["publish", "site", "shop:repo:site:1.0.0"]).ok(), said);
    assert_eq!(home.run(&["publish", "^[ site ]-> shop:repo:site:1.0.0"]).ok(), said);
    let asked = pretend.asked();
    assert_eq!(asked[0].line, "PUT /v1/bundles/shop:repo:site:1.0.0");
    assert!(asked[0].body.starts_with(b"PK\x03\x04") && asked[0].body == asked[1].body);
    let err = home.run(&["publish", "missing", "shop:repo:site:1.0.0"]).fails(2);
    assert!(err.contains("missing cannot be read"), "{err}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let points: Vec<Value> = (0..5000).map(|n| resource(&format!("s{n}"), 1)).collect();
    let pretend = Pretend::new([ok(json!({"resources": points, "revision": 9}))]);
    let home = pretend.home();
    let mut select =
        home.command(&["select", "*"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(select.stdout.take());
    let ended = select.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
}

#[test]
fn describe_shows_the_contract_with_its_types() {
    let description = json!({
        "resource": {
            "point": "shop:cart", "kind": "Mechtron", "properties": {"config": {"value": "shop:x", "locked": true}},
            "status": {"phase": "Panic", "reason": "it trapped"}, "created": 1, "modified": 2, "version": 3,
        },
        "children": [resource("shop:cart:a", 1)],
        "contract": {"mechtrons": [{"mechtron": "Cart", "handlers": [
            {"role": "call", "method": "Ext<Add>", "input": {"type": "object", "properties": {"by": {"type": "integer"}}}},
            {"role": "watch", "name": "overdue", "selector": "shop:*[due]"},
        ]}]},
        "activation": {
            "state": "live", "watches": [{"name": "overdue", "selector": "shop:*[due]", "told": {"revision": 2}}],
        },
    });
    let pretend = Pretend::new([ok(description)]);
    assert_eq!(
        pretend.home().run(&["describe", "shop:cart"]).ok(),
        "shop:cart<Mechtron>\n\
         \x20 status     Panic: it trapped\n\
         \x20 created    revision 1\n\
         \x20 modified   revision 2, version 3\n\
         \x20 state      live\n\
         properties\n\
         \x20 @config=shop:x\n\
         contract Cart\n\
         \x20 Ext<Add> {by?: integer}\n\
         \x20 watch overdue shop:*[due]\n\
         watches\n\
         \x20 overdue  told up to revision 2\n\
         children\n\
         \x20 shop:cart:a<Space>\n"
    );
}
