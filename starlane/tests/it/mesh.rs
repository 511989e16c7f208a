//! The commands that look after the mesh, against an API that is told what to answer.

use std::process::Stdio;

use axum::response::Response;
use serde_json::{Value, json};

use crate::pretend::{Pretend, answer, cut, ok, open, refused};

fn node(name: &str, more: Value) -> Value {
    let mut node = json!({
        "name": name, "point": format!("mesh:nodes:{name}"), "ready": true, "status": {"phase": "Ready"},
        "role": "leaf", "generation": 7, "version": "0.1.0", "mechtrons": 3, "live": 1, "hops": 1,
        "seenMs": 400, "labels": {"tier": "edge"},
    });
    node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    node
}

fn cloud() -> Value {
    let more =
        json!({"role": "relay", "registry": true, "hops": 0, "seenMs": 0, "addresses": ["203.0.113.7:4343"]});
    node("cloud", more)
}

/// A node that cannot be reached.
fn lost() -> Value {
    let status = json!({"phase": "Unknown", "reason": "nobody has a link to it"});
    let mut lost = node("desktop", json!({"status": status, "ready": false, "labels": {}}));
    lost.as_object_mut().unwrap().remove("hops");
    lost
}

fn sent(pretend: &Pretend, at: usize) -> (String, Value) {
    let asked = &pretend.asked()[at];
    (asked.line.clone(), serde_json::from_slice(&asked.body).unwrap_or(Value::Null))
}

#[test]
fn nodes_are_listed_with_what_is_known_of_them() {
    let list = || ok(json!({"nodes": [cloud(), node("edge-1", json!({"draining": true})), lost()]}));
    for (arguments, expected) in [
        (
            &["node", "list"][..],
            "NAME     STATUS    ROLE            VERSION  MECHTRONS  LIVE  HOPS  LABELS\n\
             cloud    Ready     relay,registry  0.1.0    3          1     0     tier=edge\n\
             edge-1   Draining  leaf            0.1.0    3          1     1     tier=edge\n\
             desktop  Unknown   leaf            0.1.0    3          1     -     -\n",
        ),
        (
            &["node", "list", "-o", "wide"],
            "NAME     STATUS    ROLE            VERSION  MECHTRONS  LIVE  HOPS  LABELS     GENERATION  ADDRESS           SEEN       REASON\n\
             cloud    Ready     relay,registry  0.1.0    3          1     0     tier=edge  7           203.0.113.7:4343  now        -\n\
             edge-1   Draining  leaf            0.1.0    3          1     1     tier=edge  7           -                 400ms ago  -\n\
             desktop  Unknown   leaf            0.1.0    3          1     -     -          7           -                 400ms ago  nobody has a link to it\n",
        ),
        (&["node", "list", "-o", "name"], "cloud\nedge-1\ndesktop\n"),
    ] {
        let pretend = Pretend::new([list()]);
        assert_eq!(pretend.home().run(arguments).ok(), expected);
        assert_eq!(pretend.lines(), ["GET /v1/nodes"]);
    }
    let pretend = Pretend::new([list()]);
    let json: Value =
        serde_json::from_str(&pretend.home().run(&["node", "list", "-o", "json"]).ok()).unwrap();
    assert_eq!(json, json!({"nodes": [cloud(), node("edge-1", json!({"draining": true})), lost()]}));
}

#[test]
fn one_node_is_described() {
    let pretend = Pretend::new([
        ok(lost()),
        ok(cloud()),
        refused(404, "E-NOT-FOUND", json!({"help": "there are: cloud"})),
    ]);
    let home = pretend.home();
    assert_eq!(
        home.run(&["node", "describe", "desktop"]).ok(),
        "desktop\n\
         \x20 status      Unknown: nobody has a link to it\n\
         \x20 role        leaf\n\
         \x20 version     0.1.0\n\
         \x20 generation  7\n\
         \x20 mechtrons   3 assigned, 1 in memory\n\
         \x20 hops        it cannot be reached\n\
         \x20 seen        400ms ago\n"
    );
    let json: Value =
        serde_json::from_str(&home.run(&["node", "describe", "cloud", "-o", "json"]).ok()).unwrap();
    assert_eq!(json, cloud());
    let problem = home.run(&["node", "describe", "nobody"]).fails(3);
    assert!(problem.contains("help: there are: cloud"), "{problem}");
    assert_eq!(pretend.lines()[0], "GET /v1/nodes/desktop");
}

#[test]
fn labels_are_set_and_taken_away() {
    let pretend = Pretend::new([
        ok(node("edge-1", json!({"labels": {"tier": "edge", "zone": "a b"}}))),
        ok(node("edge-1", json!({"labels": {}}))),
    ]);
    let home = pretend.home();
    let said = home.run(&["node", "label", "edge-1", "tier=edge", "zone=a b", "old-"]).ok();
    assert_eq!(said, "labelled edge-1: tier=edge,zone=a b\n");
    assert_eq!(
        sent(&pretend, 0),
        ("PATCH /v1/nodes/edge-1".into(), json!({"labels": {"tier": "edge", "zone": "a b", "old": null}}))
    );
    assert_eq!(home.run(&["node", "label", "edge-1", "tier-"]).ok(), "labelled edge-1: no labels\n");
}

#[test]
fn a_drain_waits_for_the_last_mechtron() {
    let left = |mechtrons: u64| ok(node("edge-1", json!({"draining": true, "mechtrons": mechtrons})));
    let pretend = Pretend::new([left(2), left(2), left(1), left(0)]);
    let (out, err) = pretend.home().run(&["node", "drain", "edge-1"]).ends(0);
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("drained edge-1\n", "edge-1: 2 still there\nedge-1: 1 still there\n")
    );
    assert_eq!(sent(&pretend, 0), ("PATCH /v1/nodes/edge-1".into(), json!({"draining": true})));
    assert_eq!(pretend.lines()[1..], ["GET /v1/nodes/edge-1"; 3]);

    let pretend = Pretend::new((0..1000).map(|_| left(1)));
    let err = pretend.home().run(&["node", "drain", "edge-1", "--timeout", "2s"]).fails(7);
    assert!(err.contains("`edge-1` still has mechtrons after 2.0s, and goes on draining"), "{err}");
    assert!(err.contains("starlane node undrain edge-1"), "{err}");

    let pretend = Pretend::new([ok(node("edge-1", json!({})))]);
    assert_eq!(pretend.home().run(&["node", "undrain", "edge-1"]).ok(), "undrained edge-1\n");
    assert_eq!(sent(&pretend, 0).1, json!({"draining": false}));
}

#[cfg(unix)]
#[test]
fn ctrl_c_says_that_the_node_goes_on_draining() {
    use std::io::{BufRead as _, BufReader, Read as _};
    let pretend = Pretend::new((0..10_000).map(|_| ok(node("edge-1", json!({"draining": true})))));
    let home = pretend.home();
    let mut drain = home.command(&["node", "drain", "edge-1"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut err = BufReader::new(drain.stderr.take().unwrap());
    let mut said = String::new();
    err.read_line(&mut said).unwrap();
    assert_eq!(said, "edge-1: 3 still there\n");
    let kill = std::process::Command::new("kill").args(["-INT", &drain.id().to_string()]).status();
    assert!(kill.unwrap().success());
    err.read_to_string(&mut said).unwrap();
    assert_eq!(drain.wait().unwrap().code(), Some(130));
    assert!(said.contains("edge-1 goes on draining; to end that: starlane node undrain edge-1"), "{said}");
}

#[test]
fn a_node_is_shut_out() {
    let done = || Response::builder().status(204).body(axum::body::Body::empty()).unwrap();
    let pretend = Pretend::new([done(), done(), refused(403, "E-FORBIDDEN", json!({}))]);
    let home = pretend.home();
    // Nobody types here, so that nobody is asked whether it is meant.
    assert_eq!(home.run(&["node", "revoke", "edge-1"]).ok(), "revoked edge-1\n");
    let json = home.run(&["node", "revoke", "edge-1", "--yes", "-o", "jsonl"]).ok();
    assert_eq!(json, "{\"name\":\"edge-1\",\"revoked\":true}\n");
    home.run(&["node", "revoke", "cloud"]).fails(4);
    assert_eq!(pretend.lines()[0], "DELETE /v1/nodes/edge-1");
}

#[test]
fn links_are_drawn() {
    let graph = || {
        ok(json!({
            "from": "cloud",
            "nodes": [
                {"name": "cloud", "role": "relay", "hops": 0}, {"name": "edge-1", "role": "leaf", "hops": 1},
                {"name": "desktop", "role": "leaf", "seenMs": 61_000},
            ],
            "links": [{"a": "edge-1", "b": "cloud", "rttUs": 412}],
        }))
    };
    let pretend = Pretend::new([graph(), graph(), graph()]);
    let home = pretend.home();
    assert_eq!(
        home.run(&["node", "graph"]).ok(),
        "cloud ── edge-1 0.4 ms\ndesktop cannot be reached, last heard of 1m 1s ago\n"
    );
    assert_eq!(
        home.run(&["node", "graph", "-o", "table"]).ok(),
        "NODE     LINKED TO  TIME\ncloud    edge-1     0.4 ms\ndesktop  -          -\n"
    );
    let json: Value = serde_json::from_str(&home.run(&["node", "graph", "-o", "json"]).ok()).unwrap();
    assert_eq!((&json["from"], &json["links"][0]["rttUs"]), (&json!("cloud"), &json!(412)));
    assert_eq!(pretend.lines()[0], "GET /v1/graph");
}

#[test]
fn a_token_is_printed_alone() {
    let token = |more: Value| {
        let mut token = json!({
            "token": "sl1.pin.t1.secret", "id": "t1", "role": "leaf", "expires": 1_772_366_651_250_u64,
            "address": "203.0.113.7:4343",
        });
        token.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        answer(201, "application/json", token.to_string())
    };
    let pretend = Pretend::new([
        token(json!({})),
        token(
            json!({"role": "relay", "name": "edge-1", "labels": {"tier": "edge", "zone": "a"}, "address": "127.0.0.1:4343"}),
        ),
        token(json!({"address": null})),
        token(json!({})),
    ]);
    let home = pretend.home();
    let (out, err) = home.run(&["token"]).ends(0);
    assert_eq!(out, "sl1.pin.t1.secret\n");
    assert_eq!(
        err,
        "one node can join with it until 2026-03-01T12:04:11.250Z:\n  starlane serve --join 203.0.113.7:4343 TOKEN\n"
    );
    assert_eq!(sent(&pretend, 0), ("POST /v1/tokens".into(), json!({"role": "leaf", "ttl": "600000ms"})));
    let labelled = [
        "token",
        "--role",
        "relay",
        "--ttl",
        "1h",
        "--label",
        "tier=edge",
        "--label",
        "zone=a",
        "--name",
        "edge-1",
    ];
    let (_, err) = home.run(&labelled).ends(0);
    assert!(err.contains("--join 127.0.0.1:4343 TOKEN --name edge-1\n"), "{err}");
    assert!(err.contains("this machine alone") && err.contains("--listen 0.0.0.0:4343"), "{err}");
    assert_eq!(
        sent(&pretend, 1).1,
        json!({"role": "relay", "ttl": "3600000ms", "labels": {"tier": "edge", "zone": "a"}, "name": "edge-1"})
    );
    let (out, err) = home.run(&["token", "-o", "json"]).ends(0);
    let out: Value = serde_json::from_str(&out).unwrap();
    let token =
        json!({"token": "sl1.pin.t1.secret", "id": "t1", "role": "leaf", "expires": 1_772_366_651_250_u64});
    assert_eq!(out, token);
    assert!(err.contains("accepts no links"), "{err}");
    let (out, err) = home.run(&["token", "-q"]).ends(0);
    assert_eq!((out.as_str(), err.as_str()), ("sl1.pin.t1.secret\n", ""));
}

#[test]
fn tokens_are_listed_and_taken_back() {
    let info = json!({"id": "t1", "role": "leaf", "expires": 1_772_366_651_250_u64, "labels": {"tier": "edge"}, "name": "edge-1"});
    let list = || ok(json!({"tokens": [info]}));
    let pretend = Pretend::new([
        list(),
        list(),
        Response::builder().status(204).body(axum::body::Body::empty()).unwrap(),
    ]);
    let home = pretend.home();
    assert_eq!(
        home.run(&["token", "list"]).ok(),
        "ID  ROLE  EXPIRES                   NAME    LABELS\n\
         t1  leaf  2026-03-01T12:04:11.250Z  edge-1  tier=edge\n"
    );
    let json: Value = serde_json::from_str(&home.run(&["token", "ls", "-o", "jsonl"]).ok()).unwrap();
    assert_eq!(json, info);
    assert_eq!(home.run(&["token", "delete", "t1"]).ok(), "deleted t1\n");
    assert_eq!(pretend.lines(), ["GET /v1/tokens", "GET /v1/tokens", "DELETE /v1/tokens/t1"]);
}

#[test]
fn a_way_is_shown_as_far_as_it_leads() {
    let way = json!({
        "point": "shop:cart", "reached": true,
        "hops": [{"node": "cloud", "rttUs": 0}, {"node": "edge-1", "rttUs": 412}],
    });
    let broken = json!({
        "point": "shop:cart", "reached": false, "reason": "`edge-1` did not answer",
        "hops": [{"node": "cloud", "rttUs": 0}, {"node": "edge-1"}],
    });
    let pretend = Pretend::new([ok(way.clone()), ok(broken), ok(way.clone())]);
    let home = pretend.home();
    assert_eq!(
        home.run(&["trace", "shop:cart"]).ok(),
        "HOP  NODE    TIME\n0    cloud   0 ms\n1    edge-1  0.4 ms\n"
    );
    let (out, err) = home.run(&["trace", "shop:cart", "--timeout", "2s"]).ends(6);
    assert_eq!(out, "HOP  NODE    TIME\n0    cloud   0 ms\n1    edge-1  -\n");
    assert!(
        err.contains("error[E-UNREACHABLE]: `edge-1` did not answer")
            && err.contains("starlane why shop:cart"),
        "{err}"
    );
    let json: Value = serde_json::from_str(&home.run(&["trace", "shop:cart", "-o", "json"]).ok()).unwrap();
    assert_eq!(json, way);
    assert_eq!(pretend.lines()[..2], ["GET /v1/trace/shop:cart", "GET /v1/trace/shop:cart?timeout=2000ms"]);
}

#[test]
fn reasons_are_given_and_the_exit_code_says_how_it_is() {
    let why = |state: &str| {
        let candidates = json!([{"node": "edge-1", "chosen": false, "reason": "it is draining"}]);
        ok(
            json!({"point": "shop:cart", "state": state, "reason": "so", "place": "[tier = \"edge\"]", "candidates": candidates, "help": "undrain it"}),
        )
    };
    for (state, code) in [
        ("running", 0),
        ("sleeping", 0),
        ("placed", 0),
        ("waiting", 1),
        ("failed", 1),
        ("no-code", 1),
        ("missing", 3),
    ] {
        Pretend::new([why(state)]).home().run(&["why", "shop:cart"]).ends(code);
    }
    let pretend = Pretend::new([why("waiting"), why("waiting")]);
    let home = pretend.home();
    assert_eq!(
        home.run(&["why", "shop:cart"]).ends(1).0,
        "shop:cart waits for a node: so\n\
         \x20 it may live on nodes with [tier = \"edge\"]\n\
         \x20 edge-1  no   it is draining\n\
         \x20 help: undrain it\n"
    );
    let json: Value = serde_json::from_str(&home.run(&["why", "shop:cart", "-o", "json"]).ends(1).0).unwrap();
    assert_eq!((&json["state"], &json["candidates"][0]["node"]), (&json!("waiting"), &json!("edge-1")));
    assert_eq!(pretend.lines()[0], "GET /v1/why/shop:cart");
}

#[test]
fn a_mechtron_moves() {
    let moved = || ok(json!({"point": "shop:cart", "node": "edge-1", "from": "cloud", "epoch": 43}));
    let pretend = Pretend::new([moved(), moved(), refused(504, "E-TIMEOUT", json!({"help": "look"}))]);
    let home = pretend.home();
    assert_eq!(home.run(&["move", "shop:cart", "--to", "edge-1"]).ok(), "moved shop:cart to edge-1\n");
    let json: Value =
        serde_json::from_str(&home.run(&["move", "shop:cart", "--to", "edge-1", "-o", "json"]).ok()).unwrap();
    assert_eq!(json, json!({"point": "shop:cart", "node": "edge-1", "from": "cloud", "epoch": 43}));
    home.run(&["move", "shop:cart", "--to", "edge-1", "--timeout", "1m"]).fails(7);
    assert_eq!(sent(&pretend, 0), ("POST /v1/move/shop:cart".into(), json!({"to": "edge-1"})));
    assert_eq!(pretend.lines()[2], "POST /v1/move/shop:cart?timeout=60000ms");
}

/// Answers of three, one of which is good, and the last line.
fn gathered(asked: u64) -> String {
    let lines = [
        json!({"point": "shop:a", "node": "edge-1", "outcome": "ok", "status": 200, "body": {"text": "{\"n\":1}\n"}}),
        json!({"point": "shop:b", "outcome": "ok", "status": 409, "body": {"text": "no"}}),
        json!({"point": "shop:c", "outcome": "unknown", "problem": {
            "type": "", "title": "", "status": 504, "detail": "no answer in time", "code": "E-TIMEOUT",
        }}),
        json!({"gathered": 3, "asked": asked, "ok": 1}),
    ];
    lines.map(|line| format!("{line}\n")).concat()
}

#[test]
fn many_are_asked_and_each_answer_is_a_line() {
    let stream = |text: String| answer(200, "application/x-ndjson", text);
    let pretend = Pretend::new([
        stream(gathered(3)),
        // Signs of life are no answers, and what was enough ends it while the connection still stands.
        open(&format!("\n{}", gathered(9))),
        stream(gathered(3)),
        stream(gathered(3)),
        stream("{\"gathered\":0,\"asked\":0,\"ok\":0}\n".to_owned()),
        cut(&gathered(3)[..100]),
    ]);
    let home = pretend.home();
    let target = "shop:*<Mechtron>^Ext<Stock>";
    let told = "shop:a  200  {\"n\":1}\nshop:b  409  no\nshop:c  unknown  E-TIMEOUT: no answer in time\n";
    let (out, err) = home.run(&["scatter", target, "{\"item\":1}"]).ends(1);
    assert_eq!((out.as_str(), err.as_str()), (told, "1 of 3 answered well, and 3 were wanted\n"));
    let asked = &pretend.asked()[0];
    assert_eq!(
        (asked.line.as_str(), &asked.body[..]),
        (
            "POST /v1/scatter?select=shop:%2A%3CMechtron%3E&until=all&method=Ext%3CStock%3E",
            &b"{\"item\":1}"[..]
        )
    );
    let (out, err) = home.run(&["scatter", "shop:*", "--until", "1", "--timeout", "2s"]).ends(0);
    assert_eq!((out.as_str(), err.as_str()), (told, "1 of 9 answered well\n"));
    assert_eq!(pretend.lines()[1], "POST /v1/scatter?select=shop:%2A&until=1&timeout=2000ms");
    let json: Value =
        serde_json::from_str(&home.run(&["scatter", target, "--until", "quorum", "-o", "json"]).ends(1).0)
            .unwrap();
    assert_eq!(
        (&json["answers"][1]["status"], &json["gathered"], &json["asked"], &json["ok"]),
        (&json!(409), &json!(3), &json!(3), &json!(1))
    );
    let lines = home.run(&["scatter", target, "-o", "jsonl"]).ends(1).0;
    assert_eq!(lines.lines().count(), 3, "{lines}");
    let err = home.run(&["scatter", target]).fails(3);
    assert!(err.contains("`shop:*<Mechtron>` means nothing that could be asked"), "{err}");
    home.run(&["scatter", target]).fails(6);
}

#[test]
fn what_was_last_heard_is_read_when_it_is_good_enough() {
    let resource = || {
        json!({
            "point": "shop", "kind": "Space", "properties": {"n": {"value": 7}, "title": {"value": "x"}},
            "status": {"phase": "Ready"}, "created": 1, "modified": 7, "version": 7,
        })
    };
    let pretend = Pretend::new([
        ok(resource()),
        ok(resource()),
        ok(json!({"resources": [resource()], "revision": 9})),
        ok(json!({"resource": resource(), "children": []})),
        refused(404, "E-NOT-FOUND", json!({"point": "shop"})),
        refused(400, "E-WATCH-MISMATCH", json!({})),
    ]);
    let home = pretend.home();
    assert_eq!(home.run(&["get", "shop", "--stale-ok"]).ok(), "shop<Space>\n  n=7\n  title=x\n");
    assert_eq!(home.run(&["get", "shop", "title", "--stale-ok"]).ok(), "title=x\n");
    home.run(&["select", "*", "--stale-ok"]).ok();
    home.run(&["describe", "shop", "--stale-ok"]).ok();
    let err = home.run(&["get", "shop", "--stale-ok"]).fails(3);
    assert!(err.contains("│ get shop"), "{err}");
    home.run(&["watch", "*", "--stale-ok"]).fails(2);
    assert_eq!(
        pretend.lines(),
        [
            "GET /v1/resources/shop?stale=ok",
            "GET /v1/resources/shop?stale=ok",
            "GET /v1/resources?select=%2A&limit=1000&stale=ok",
            "GET /v1/describe/shop?stale=ok",
            "GET /v1/resources/shop?stale=ok",
            "GET /v1/watch?select=%2A&stale=ok",
        ]
    );
}
