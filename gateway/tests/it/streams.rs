//! Watches and logs.

use gateway::Limits;
use gateway::shapes::{WatchEvent, WatchStep};
use serde_json::Value;

use crate::client::{Connection, TOKEN, World, within};

const WATCH: &str = "/v1/watch?select=shop%3A**";

async fn open(world: &World, path: &str, headers: &str) -> Connection {
    let mut connection = Connection::open(world.at.api).await;
    connection
        .say(format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n{headers}\r\n"
        ))
        .await;
    let head = connection.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("cache-control"), "no-store");
    connection
}

/// The next server-sent event: its id, its name, its data.
async fn event(connection: &mut Connection) -> (String, String, Value) {
    loop {
        let text = String::from_utf8(connection.chunk().await.unwrap()).unwrap();
        assert!(text.ends_with("\n\n"), "{text:?}");
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
        };
        let Some(data) = field("data:") else {
            assert!(text.starts_with("retry:") || text.starts_with(':'), "{text:?}");
            continue;
        };
        return (field("id:").unwrap(), field("event:").unwrap(), serde_json::from_str(&data).unwrap());
    }
}

async fn line(connection: &mut Connection) -> WatchEvent {
    loop {
        let text = String::from_utf8(connection.chunk().await.unwrap()).unwrap();
        if text != "\n" {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

#[tokio::test]
async fn a_watch_is_a_list_and_then_changes() {
    let world = World::new().await;
    let mut connection = open(&world, WATCH, "accept: text/event-stream\r\n").await;
    let mut names = Vec::new();
    for _ in 0..6 {
        let (id, name, data) = event(&mut connection).await;
        assert_eq!((data["event"].as_str(), data["token"].as_str()), (Some(&*name), Some(&*id)));
        names.push(format!("{name} {}", data["revision"]));
    }
    let all = ["listed 10", "listed 10", "changed 11", "changed 12", "bookmark 13", "changed 14"];
    assert_eq!(names, all);
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_cut() {
    let world = World::new().await;
    let mut first = open(&world, WATCH, "accept: application/x-ndjson\r\n").await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(line(&mut first).await);
    }
    let token = seen[2].token.clone();
    assert!(matches!(&seen[2].event, WatchStep::Changed { changes, .. } if changes.len() == 2));
    drop(first);
    let since = format!("{WATCH}&since={token}");
    let mut second = open(&world, &since, "accept: application/x-ndjson\r\n").await;
    let next = line(&mut second).await;
    assert!(matches!(next.event, WatchStep::Changed { revision, .. } if revision.0 == 12), "{next:?}");
    // A browser says it in a header, which wins over what the address says.
    let mut third = open(&world, &since, &format!("last-event-id: {}\r\n", next.token)).await;
    assert_eq!(event(&mut third).await.1, "bookmark");
}

#[tokio::test]
async fn gone_is_told_in_band_and_the_list_follows() {
    let world = World::new().await;
    let old = starlane_core::ResumeToken::new(starlane_core::Revision(2), "shop:**");
    let mut connection = open(&world, &format!("{WATCH}&since={old}"), "").await;
    let (id, name, data) = event(&mut connection).await;
    assert_eq!((&*id, &*name, data["oldest"].as_u64()), ("", "gone", Some(10)));
    assert_eq!(event(&mut connection).await.1, "listed");
    assert_eq!(event(&mut connection).await.2["last"], true);
    assert_eq!(event(&mut connection).await.2["revision"], 11);
}

#[tokio::test]
async fn a_watch_that_may_be_stale_is_so_after_gone_too() {
    let world = World::new().await;
    let old = starlane_core::ResumeToken::new(starlane_core::Revision(2), "shop:**");
    let mut connection = open(&world, &format!("{WATCH}&since={old}&stale=ok"), "").await;
    assert_eq!(event(&mut connection).await.1, "gone");
    assert_eq!(event(&mut connection).await.1, "listed");
    let heard = world.mesh.heard.lock().unwrap().clone();
    assert_eq!(heard, [format!("watch shop:** since {old} Stale"), "watch shop:** since  Stale".to_owned()]);
}

#[tokio::test]
async fn a_wrong_token_is_refused_before_anything_streams() {
    let world = World::new().await;
    let other = starlane_core::ResumeToken::new(starlane_core::Revision(12), "other:**");
    for token in [other.to_string(), "w9.1.1".to_owned(), "x".to_owned()] {
        let reply = world.api("GET", &format!("{WATCH}&since={token}"), "", "").await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "E-WATCH-MISMATCH"), "{token}");
    }
}

#[tokio::test]
async fn a_silent_watch_says_that_it_lives() {
    let limits = Limits { heartbeat: std::time::Duration::from_millis(20), ..Limits::default() };
    let world = World::limited(limits).await;
    let since = starlane_core::ResumeToken::new(starlane_core::Revision(14), "shop:**");
    let mut connection = open(&world, &format!("{WATCH}&since={since}"), "").await;
    assert_eq!(connection.chunk().await.unwrap(), b"retry: 1000\n\n");
    assert_eq!(connection.chunk().await.unwrap(), b": beat\n\n");
    assert_eq!(connection.chunk().await.unwrap(), b": beat\n\n");
}

#[tokio::test]
async fn only_so_many_streams_are_open() {
    let world = World::limited(Limits { streams_max: 2, ..Limits::default() }).await;
    let first = open(&world, WATCH, "").await;
    let _second = open(&world, "/v1/logs/shop:cart?follow=true", "").await;
    let refused = world.api("GET", WATCH, "", "").await;
    assert_eq!(
        (refused.status, refused.problem().as_str(), refused.header("retry-after")),
        (503, "E-BUSY", "5")
    );
    assert!(world.api("GET", "/metrics", "", "").await.text().contains("streams{door=\"api\"} 2\n"));
    drop(first);
    within(async { while world.api("GET", "/v1/logs/shop:cart", "", "").await.status != 200 {} }).await;
}

#[tokio::test]
async fn logs_are_lines() {
    let world = World::new().await;
    let reply = world.api("GET", "/v1/logs/shop:cart?tail=2", "", "").await;
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[1],
        serde_json::json!({"time": 1, "level": "info", "point": "shop:cart", "line": "line 1"})
    );
}

#[tokio::test]
async fn closing_ends_streams_and_lets_requests_finish() {
    let world = World::new().await;
    let mut watch = open(&world, WATCH, "").await;
    let mut busy = Connection::open(world.at.web).await;
    busy.say("GET /gate HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    let mut idle = Connection::open(world.at.web).await;
    assert_eq!(idle.ask("GET", "/hello", "host: shop\r\n", "").await.status, 200);
    while world.mesh.last() != "at the gate" {
        tokio::task::yield_now().await;
    }
    let (at, mesh) = (world.at.web, world.mesh.clone());
    let closed = world.close();
    assert!(idle.rest().await.is_empty());
    let ended = String::from_utf8(watch.rest().await).unwrap();
    assert!(ended.ends_with("0\r\n\r\n"), "the stream ends as it should: {ended:?}");
    mesh.gate.notify_one();
    assert_eq!(busy.reply("GET").await.text(), "through the gate");
    within(closed).await.unwrap();
    assert!(tokio::net::TcpStream::connect(at).await.is_err());
}
