//! Clients that are slow, silent or many.

use std::time::Duration;

use gateway::{BindError, Config, Doors, Limits, Protection};
use starlane_core::Agent;
use tokio::io::AsyncReadExt;

use crate::client::{Connection, TOKEN, World, within};
use crate::fake::{Fake, point};

fn impatient() -> Limits {
    Limits {
        head_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(200),
        pace_window: Duration::from_millis(200),
        ..Limits::default()
    }
}

/// Says one byte after the other until the other side closes; tells whether it did.
async fn drip(connection: &mut Connection, begin: &str, drop: &str) -> bool {
    connection.say(begin).await;
    let mut every = tokio::time::interval(Duration::from_millis(20));
    let mut sink = [0; 1024];
    for _ in 0..500 {
        tokio::select! {
            read = connection.stream.read(&mut sink) => match read {
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            },
            _ = every.tick() => {
                if tokio::io::AsyncWriteExt::write_all(&mut connection.stream, drop.as_bytes()).await.is_err() {
                    return true;
                }
            }
        }
    }
    false
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let world = World::limited(impatient()).await;
    for at in [world.at.web, world.at.api] {
        assert!(Connection::open(at).await.rest().await.is_empty());
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let world = World::limited(impatient()).await;
    let mut connection = Connection::open(world.at.web).await;
    assert_eq!(connection.ask("GET", "/hello", "host: shop\r\n", "").await.status, 200);
    assert!(connection.rest().await.is_empty());
}

#[tokio::test]
async fn a_slow_head_is_closed() {
    let world = World::limited(impatient()).await;
    let mut connection = Connection::open(world.at.web).await;
    assert!(drip(&mut connection, "GET /hello HTTP/1.1\r\nhost: shop\r\nx-slow: ", "a").await);
    // And so is the second head of a connection.
    let world = World::limited(Limits { idle_timeout: Duration::from_secs(3600), ..impatient() }).await;
    let mut connection = Connection::open(world.at.web).await;
    assert_eq!(connection.ask("GET", "/hello", "host: shop\r\n", "").await.status, 200);
    assert!(drip(&mut connection, "GET /hello HTTP/1.1\r\nx-slow: ", "a").await);
}

#[tokio::test]
async fn a_slow_body_is_answered_and_closed() {
    let world = World::limited(impatient()).await;
    let mut connection = Connection::open(world.at.web).await;
    connection.say("POST /echo HTTP/1.1\r\nhost: shop\r\ncontent-length: 1000\r\n\r\nx").await;
    let reply = connection.reply("POST").await;
    assert_eq!((reply.status, reply.problem().as_str()), (504, "E-EXPIRED"));
    let mut connection = Connection::open(world.at.web).await;
    assert!(
        drip(&mut connection, "POST /echo HTTP/1.1\r\nhost: shop\r\ncontent-length: 9000\r\n\r\n", "a").await
    );
    let mut connection = Connection::open(world.at.api).await;
    let head = format!(
        "PUT /v1/files/shop:files:%2Fx HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
    );
    assert!(drip(&mut connection, &format!("{head}transfer-encoding: chunked\r\n\r\n"), "1\r\na\r\n").await);
    assert!(world.mesh.last().starts_with("wrote Err"), "{}", world.mesh.last());
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_closed() {
    let world = World::limited(impatient()).await;
    let mut connection = Connection::open(world.at.web).await;
    connection.say("GET /huge HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    within(async {
        while !world
            .api("GET", "/metrics", "", "")
            .await
            .text()
            .contains("connections_broken_total{door=\"web\"} 1\n")
        {}
    })
    .await;
    assert!((connection.rest().await.len() as u64) < 1 << 32);
}

#[tokio::test]
async fn half_a_tls_handshake_is_closed() {
    let world = World::limited(impatient()).await;
    let mut connection = Connection::open(world.at.web).await;
    connection.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    let answer = connection.rest().await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
}

#[tokio::test]
async fn a_request_that_is_served_may_take_its_time() {
    let world = World::limited(Limits { head_timeout: Duration::from_millis(20), ..impatient() }).await;
    let mut request = std::pin::pin!(world.web("/gate", ""));
    let head_timeout_passed = tokio::time::timeout(Duration::from_millis(60), &mut request).await;
    assert!(head_timeout_passed.is_err(), "the request is neither answered nor given up");
    world.mesh.gate.notify_one();
    assert_eq!(request.await.text(), "through the gate");
}

#[tokio::test]
async fn one_too_many_is_told_so() {
    let world = World::limited(Limits { connections_max: 2, ..Limits::default() }).await;
    let mut first = Connection::open(world.at.web).await;
    assert_eq!(first.ask("GET", "/hello", "host: shop\r\n", "").await.status, 200);
    let mut second = Connection::open(world.at.web).await;
    assert_eq!(second.ask("GET", "/hello", "host: shop\r\n", "").await.status, 200);
    let mut third = Connection::open(world.at.web).await;
    let refused = third.ask("GET", "/hello", "host: shop\r\n", "").await;
    assert_eq!(
        (refused.status, refused.problem().as_str(), refused.header("retry-after")),
        (503, "E-BUSY", "1")
    );
    assert!(third.rest().await.is_empty());
    assert!(
        world
            .api("GET", "/metrics", "", "")
            .await
            .text()
            .contains("connections_refused_total{door=\"web\"} 1\n")
    );
    drop(first);
    within(async { while world.web("/hello", "").await.status != 200 {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_stalled_connections_leave_room_for_others() {
    let limits = Limits { connections_max: 4_000, ..Limits::default() };
    let world = World::limited(limits).await;
    let begins = [
        (world.at.web, String::new()),
        (world.at.web, "GET /hello HTTP/1.1\r\nhost: shop\r\nx-slow: ".to_owned()),
        (world.at.web, "POST /echo HTTP/1.1\r\nhost: shop\r\ncontent-length: 1000\r\n\r\nx".to_owned()),
        (world.at.web, "GET /huge HTTP/1.1\r\nhost: shop\r\n\r\n".to_owned()),
        (world.at.web, "\u{16}\u{3}\u{1}\u{2}".to_owned()),
        (
            world.at.web,
            "GET /live HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                .to_owned(),
        ),
        (
            world.at.api,
            format!(
                "GET /v1/watch?select=a HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
            ),
        ),
    ];
    let mut stalled = Vec::new();
    for at in 0..2_000 {
        let (address, begin) = &begins[at % begins.len()];
        let mut connection = Connection::open(*address).await;
        connection.say(begin).await;
        stalled.push(connection);
    }
    for _ in 0..1_000 {
        assert_eq!(world.web("/hello", "").await.text(), "hello\n");
    }
    assert_eq!(world.api("GET", "/v1/info", "", "").await.status, 200);
    assert_eq!(stalled.len(), 2_000);
}

#[tokio::test]
async fn what_others_can_reach_must_be_protected() {
    let agent = || Agent(point("mesh:users:admin"));
    let bind = async |change: fn(&mut Config)| {
        let mut config = Config::local(TOKEN, agent(), agent(), point("mesh:nodes:test"));
        change(&mut config);
        Doors::bind(config, std::sync::Arc::new(Fake::default())).await.map(|_| ())
    };
    let everywhere = "0.0.0.0:0";
    let open = bind(|config| config.web = "0.0.0.0:0".parse().unwrap()).await;
    assert!(
        matches!(&open, Err(BindError::Unprotected { address }) if address.to_string() == everywhere),
        "{open:?}"
    );
    let proxied = bind(|config| {
        config.web = "0.0.0.0:0".parse().unwrap();
        config.protection = Protection::BehindProxy;
    });
    assert!(proxied.await.is_ok());
    assert!(matches!(bind(|config| config.token.clear()).await, Err(BindError::TokenEmpty)));
    let world = World::new().await;
    let taken = world.at.web;
    let config = Config { web: taken, ..Config::local(TOKEN, agent(), agent(), point("mesh:nodes:test")) };
    let again = Doors::bind(config, std::sync::Arc::new(Fake::default())).await.map(|_| ());
    assert!(matches!(again, Err(BindError::Listen { address, .. }) if address == taken));
}
