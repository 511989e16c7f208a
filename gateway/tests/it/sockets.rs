//! WebSockets of the users' web.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use gateway::{Limits, Mesh};
use starlane_core::{
    Agent, Body, Code, Header, Headers, MessageId, Method, Outcome, Payload, Point, Request,
};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::client::{Connection, World, within};
use crate::fake::point;

/// A handshake as it must be, but for the line of the protocol's version.
const UPGRADE: &str = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "sec-websocket-version: 13\r\n";

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn open(world: &World, path: &str) -> Self {
        Self::try_open(world, path, &[]).await.unwrap()
    }

    async fn try_open(world: &World, path: &str, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let mut request = format!("ws://{}{path}", world.at.web).into_client_request().unwrap();
        request.headers_mut().insert("host", "shop".parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        Ok(Self(connect_async(request).await?.0))
    }

    async fn say(&mut self, message: impl Into<Message>) {
        self.0.send(message.into()).await.unwrap();
    }

    /// The next message.
    async fn hear(&mut self) -> Message {
        within(async {
            loop {
                match self.0.next().await.unwrap().unwrap() {
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => return other,
                }
            }
        })
        .await
    }

    async fn hear_text(&mut self) -> String {
        self.hear().await.into_text().unwrap().to_string()
    }

    /// With which code and reason it was closed.
    async fn closed(&mut self) -> (u16, String) {
        match self.hear().await {
            Message::Close(Some(CloseFrame { code, reason })) => (code.into(), reason.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

/// The point of the only socket that is open.
fn socket_of(world: &World) -> Point {
    let heard = world.mesh.heard.lock().unwrap();
    let told = heard.iter().rev().find(|line| line.starts_with("mesh:nodes:test:sockets:")).unwrap();
    told.split(' ').next().unwrap().parse().unwrap()
}

async fn push(world: &World, to: &Point, method: &str, body: impl Into<bytes::Bytes>) -> Option<Code> {
    let from = point("shop:chat");
    let header = Header::new(MessageId(9), from.clone(), to.clone(), Agent(from), Duration::from_secs(5));
    let method = Method::ext(method).unwrap();
    let headers = Headers::default();
    let request = Request { method, path: "/".into(), headers, body: Body::Bytes(body.into()) };
    let message = starlane_core::Message { header, payload: Payload::Request(request) };
    match world.mesh.request(message).await {
        Outcome::Ok(reply) => {
            assert_eq!(reply.status, 204);
            None
        }
        Outcome::Rejected(refusal) => Some(refusal.code),
        other => panic!("{other:?}"),
    }
}

/// Waits until the mesh was told something.
async fn told(world: &World, what: &str) {
    within(async {
        while !world.mesh.heard.lock().unwrap().iter().any(|line| line.contains(what)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_message_is_a_request_and_each_answer_a_frame() {
    let world = World::new().await;
    let mut client = Client::open(&world, "/live?hello").await;
    let socket = socket_of(&world);
    assert_eq!(world.mesh.last(), format!("{socket} websocket - - -"));
    assert_eq!(client.hear_text().await, "hello", "the body of who accepted it");
    client.say("one").await;
    client.say("hush").await;
    client.say(vec![1, 2]).await;
    assert_eq!(client.hear_text().await, "one");
    assert_eq!(client.hear().await, Message::from(vec![1, 2]));
    let heard = world.mesh.heard.lock().unwrap()[1..].to_vec();
    let line = |said| format!("{socket} shop:chat for mesh:users:anonymous: {said}");
    let said = [
        "3 bytes of text/plain; charset=utf-8",
        "4 bytes of text/plain; charset=utf-8",
        "2 bytes of application/octet-stream",
    ];
    assert_eq!(heard, said.map(line));
    // A refusal is an answer.
    client.say("refuse").await;
    assert_eq!(client.hear_text().await, "{}");
    client.0.close(Some(CloseFrame { code: 4000.into(), reason: "done".into() })).await.unwrap();
    told(&world, &format!(r#"{socket} to shop:chat: closed {{"code":4000,"reason":"done"}}"#)).await;
    assert_eq!(push(&world, &socket, "SocketMessage", "a").await, Some(Code::NotFound));
}

#[tokio::test]
async fn a_message_waits_until_the_one_before_is_handled() {
    let world = World::new().await;
    let mut client = Client::open(&world, "/live").await;
    let socket = socket_of(&world);
    for text in ["gate", "one", "two"] {
        client.say(text).await;
    }
    told(&world, "4 bytes").await;
    // What is pushed need not wait for it.
    assert_eq!(push(&world, &socket, "SocketMessage", "meanwhile").await, None);
    assert_eq!(client.hear_text().await, "meanwhile");
    assert_eq!(world.mesh.heard.lock().unwrap().len(), 2, "nothing else was asked");
    world.mesh.gate.notify_one();
    for text in ["through the gate", "one", "two"] {
        assert_eq!(client.hear_text().await, text);
    }
}

#[tokio::test]
async fn what_is_said_before_leaving_is_handled_before_the_news_that_the_client_left() {
    let world = World::new().await;
    let mut client = Client::open(&world, "/live").await;
    client.say("gate").await;
    client.0.close(None).await.unwrap();
    // The node has heard that the client leaves.
    within(async { while let Some(Ok(_)) = client.0.next().await {} }).await;
    world.mesh.gate.notify_one();
    told(&world, r#"closed {"code":1005,"reason":""}"#).await;
    let heard = world.mesh.heard.lock().unwrap();
    let [.., before, last] = &heard[..] else { panic!("{heard:?}") };
    assert!(before == "through the gate" && last.contains("closed"), "{heard:?}");
}

#[tokio::test]
async fn a_message_that_is_not_handled_closes_with_its_code_and_no_more() {
    let world = World::new().await;
    for (said, code) in [("fail", "E-TRAP"), ("gone", "E-NOT-FOUND")] {
        let mut client = Client::open(&world, "/live").await;
        client.say(said).await;
        assert_eq!(client.closed().await, (1011, code.to_owned()));
        told(&world, &format!(r#"closed {{"code":1011,"reason":"{code}"}}"#)).await;
    }
}

#[tokio::test]
async fn who_pushes_may_close() {
    let world = World::new().await;
    let mut client = Client::open(&world, "/live").await;
    let socket = socket_of(&world);
    assert_eq!(push(&world, &socket, "SocketMessage", "last words").await, None);
    let close = r#"{"code":4001,"reason":"enough"}"#;
    assert_eq!(push(&world, &socket, "SocketClose", close).await, None);
    assert_eq!(client.hear_text().await, "last words");
    assert_eq!(client.closed().await, (4001, "enough".to_owned()));
    told(&world, &format!("closed {close}")).await;
    assert_eq!(push(&world, &socket, "SocketMessage", "a").await, Some(Code::NotFound));
}

#[tokio::test]
async fn a_protocol_is_chosen_among_those_that_are_offered() {
    let world = World::new().await;
    let offered = [("sec-websocket-protocol", "chat.v1, chat.v2"), ("origin", "https://shop.example")];
    let mut request = format!("ws://{}/live?protocol=chat.v2", world.at.web).into_client_request().unwrap();
    for (name, value) in offered {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (_client, answer) = connect_async(request).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat.v2");
    assert!(world.mesh.last().ends_with(" websocket https://shop.example chat.v1, chat.v2 -"));
    let refused = Client::try_open(&world, "/live?protocol=chat.v3", &offered).await;
    assert!(matches!(refused, Err(Error::Http(answer)) if answer.status() == 502));
    told(&world, r#"closed {"code":1006"#).await;
}

#[tokio::test]
async fn who_does_not_accept_answers_as_ever() {
    let world = World::new().await;
    for (path, status) in [("/hello", 200), ("/teapot", 418), ("/busy", 503), ("/trap", 502), ("/none", 404)]
    {
        let reply = world.web(path, &format!("{UPGRADE}{VERSION}")).await;
        assert_eq!(reply.status, status, "{path}");
    }
    assert_eq!(world.mesh.sockets.0.count(), 0);
    // Who asks for no WebSocket and is answered 101 hears of a mistake.
    assert_eq!(world.web("/bad-status", "").await.status, 502);
    // And nobody says of himself that he is one.
    let echo = world.web("/echo", "starlane-socket: mesh:nodes:test:sockets:7\r\n").await;
    assert!(!echo.text().contains("sockets:7"), "{}", echo.text());
}

#[tokio::test]
async fn a_handshake_that_is_none_is_answered_in_words() {
    let world = World::new().await;
    let old = world.web("/live", &format!("{UPGRADE}sec-websocket-version: 8\r\n")).await;
    assert_eq!(
        (old.status, old.header("sec-websocket-version"), old.problem().as_str()),
        (426, "13", "E-USAGE")
    );
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for headers in [
        format!("upgrade: websocket\r\n{key}{VERSION}"),
        format!("connection: upgrade\r\nupgrade: websocket\r\n{VERSION}"),
        format!("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: c2hvcnQ=\r\n{VERSION}"),
    ] {
        let reply = world.web("/live", &headers).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "E-USAGE"), "{headers}");
    }
    let posted = world.web_as("POST", "/live", &format!("{UPGRADE}{VERSION}"), "").await;
    assert_eq!(posted.status, 400);
    // RFC 6455, 1.3.
    let mut connection = Connection::open(world.at.web).await;
    connection.say(format!("GET /live HTTP/1.1\r\nhost: shop\r\n{UPGRADE}{VERSION}\r\n")).await;
    let answer = connection.head().await;
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

#[tokio::test]
async fn what_is_too_long_or_no_text_ends_the_connection() {
    let world = World::limited(Limits { body_bytes_max: 1_000, ..Limits::default() }).await;
    let mut client = Client::open(&world, "/live").await;
    client.say("x".repeat(1_000)).await;
    assert_eq!(client.hear_text().await.len(), 1_000);
    client.say("x".repeat(1_001)).await;
    assert_eq!(client.closed().await.0, 1009);
    told(&world, r#"closed {"code":1009"#).await;
    let mut connection = Connection::open(world.at.web).await;
    connection.say(format!("GET /live HTTP/1.1\r\nhost: shop\r\n{UPGRADE}{VERSION}\r\n")).await;
    assert_eq!(connection.head().await.status, 101);
    // Text, masked with zeros, of one byte that is no UTF-8.
    connection.say([0x81, 0x81, 0, 0, 0, 0, 0xff]).await;
    assert_eq!(&connection.rest().await[..4], [0x88, 21, 0x03, 0xef], "1007");
}

#[tokio::test]
async fn one_too_many_is_told_so() {
    let world = World::limited(Limits { sockets_max: 1, ..Limits::default() }).await;
    let first = Client::open(&world, "/live").await;
    let refused = world.web("/live", &format!("{UPGRADE}{VERSION}")).await;
    assert_eq!(
        (refused.status, refused.problem().as_str(), refused.header("retry-after")),
        (503, "E-BUSY", "5")
    );
    let metrics = world.api("GET", "/metrics", "", "").await;
    assert!(metrics.text().contains("sockets{door=\"web\"} 1\n"), "{}", metrics.text());
    drop(first);
    within(async { while Client::try_open(&world, "/live", &[]).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_socket_counts_among_the_connections() {
    let world = World::limited(Limits { connections_max: 1, ..Limits::default() }).await;
    let first = Client::open(&world, "/live").await;
    assert_eq!(world.web("/hello", "").await.status, 503);
    drop(first);
    within(async { while world.web("/hello", "").await.status != 200 {} }).await;
}

#[tokio::test]
async fn a_node_that_stops_answers_what_was_asked_and_says_that_it_goes() {
    let world = World::new().await;
    let mesh = world.mesh.clone();
    let mut client = Client::open(&world, "/live").await;
    client.say("gate").await;
    told(&world, "4 bytes").await;
    let closed = world.close();
    mesh.gate.notify_one();
    assert_eq!(client.hear_text().await, "through the gate");
    assert_eq!(client.closed().await, (1001, "the node is stopping".to_owned()));
    within(closed).await.unwrap();
    assert!(
        mesh.last().ends_with(r#"closed {"code":1001,"reason":"the node is stopping"}"#),
        "{}",
        mesh.last()
    );
}

#[tokio::test]
async fn who_accepts_a_client_that_has_left_is_told() {
    let world = World::new().await;
    let mut connection = Connection::open(world.at.web).await;
    connection.say(format!("GET /live?gate HTTP/1.1\r\nhost: shop\r\n{UPGRADE}{VERSION}\r\n")).await;
    told(&world, "at the gate").await;
    drop(connection);
    within(async {
        while world.mesh.sockets.0.count() > 0 {
            tokio::task::yield_now().await
        }
    })
    .await;
    world.mesh.gate.notify_one();
    told(&world, r#"to shop:chat: closed {"code":1006"#).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_busy_for_who_pushes_and_then_closed() {
    let limits = Limits { pace_window: Duration::from_millis(500), ..Limits::default() };
    let world = World::limited(limits).await;
    let mut connection = Connection::open(world.at.web).await;
    connection.say(format!("GET /live HTTP/1.1\r\nhost: shop\r\n{UPGRADE}{VERSION}\r\n")).await;
    assert_eq!(connection.head().await.status, 101);
    let socket = socket_of(&world);
    let piece = vec![b'x'; 64 * 1024];
    let mut pushed = 0;
    let refused = within(async {
        loop {
            match push(&world, &socket, "SocketMessage", piece.clone()).await {
                None => pushed += 1,
                Some(code) => return code,
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(refused, Code::Busy);
    // What the system holds for the connection, and a mebibyte.
    assert!((16..4_000).contains(&pushed), "{pushed}");
    told(&world, r#"closed {"code":1006"#).await;
    assert_eq!(push(&world, &socket, "SocketMessage", "a").await, Some(Code::NotFound));
}

#[tokio::test]
async fn a_client_that_is_mute_is_closed() {
    let world = World::new().await;
    let mut connection = Connection::open(world.at.web).await;
    connection.say(format!("GET /live HTTP/1.1\r\nhost: shop\r\n{UPGRADE}{VERSION}\r\n")).await;
    assert_eq!(connection.head().await.status, 101);
    tokio::time::pause();
    let mut seconds = 0;
    while !world.mesh.last().contains(r#"closed {"code":1006,"reason":"the client was silent"}"#) {
        tokio::time::advance(Duration::from_secs(1)).await;
        seconds += 1;
        assert!(seconds <= 21, "{}", world.mesh.last());
    }
    assert!(seconds > 15);
    tokio::time::resume();
}
