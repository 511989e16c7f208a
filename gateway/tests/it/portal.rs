//! Sessions of the portal.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use gateway::Limits;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::client::{TOKEN, World, within};

struct Session(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Session {
    /// One that was not said hello to.
    async fn open(world: &World) -> Self {
        Self(connect_async(format!("ws://{}/v1/ws", world.at.api)).await.unwrap().0)
    }

    async fn new(world: &World) -> Self {
        let mut session = Self::open(world).await;
        session.say(json!({"op": "hello", "version": 1, "token": TOKEN})).await;
        assert_eq!(session.hear().await["op"], "welcome");
        session
    }

    async fn say(&mut self, frame: Value) {
        self.0.send(Message::Text(frame.to_string().into())).await.unwrap();
    }

    /// The next frame of the node.
    async fn hear(&mut self) -> Value {
        within(async {
            loop {
                match self.0.next().await.unwrap().unwrap() {
                    Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                    Message::Ping(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        })
        .await
    }

    /// The next frame, and nothing but the members that are asked for.
    async fn heard<const N: usize>(&mut self, members: [&str; N]) -> [Value; N] {
        let frame = self.hear().await;
        members.map(|member| frame[member].clone())
    }

    /// Whether the node closed it.
    async fn is_closed(&mut self) -> bool {
        within(async {
            loop {
                match self.0.next().await {
                    None | Some(Err(_)) | Some(Ok(Message::Close(_))) => return true,
                    Some(Ok(Message::Ping(_))) => {}
                    Some(Ok(_)) => return false,
                }
            }
        })
        .await
    }

    async fn serve(&mut self, point: &str, grant: u32) {
        self.say(json!({"op": "serve", "id": 1, "point": point})).await;
        assert_eq!(self.hear().await, json!({"op": "done", "id": 1}));
        self.say(json!({"op": "grant", "more": grant})).await;
    }
}

#[tokio::test]
async fn a_session_begins_with_a_hello_that_has_the_token_and_the_version() {
    let world = World::new().await;
    let mut session = Session::open(&world).await;
    session.say(json!({"op": "hello", "version": 1, "token": TOKEN, "name": "orders"})).await;
    let welcome = session.hear().await;
    assert_eq!(
        [&welcome["op"], &welcome["version"], &welcome["node"]],
        [&json!("welcome"), &json!(1), &json!("cloud")]
    );
    assert!(welcome["limits"]["frameBytes"].as_u64() > Some(1 << 20));

    for (hello, code) in [
        (json!({"op": "hello", "version": 1}), "E-UNAUTHORIZED"),
        (json!({"op": "hello", "version": 1, "token": "another"}), "E-UNAUTHORIZED"),
        (json!({"op": "hello", "version": 2, "token": TOKEN}), "E-UNSUPPORTED"),
        (json!({"op": "grant", "more": 1}), "E-USAGE"),
        (json!(["hello"]), "E-USAGE"),
    ] {
        let mut session = Session::open(&world).await;
        session.say(hello.clone()).await;
        let error = session.hear().await;
        assert_eq!([&error["op"], &error["problem"]["code"]], [&json!("error"), &json!(code)], "{hello}");
        assert!(error["problem"]["help"].is_string());
        assert!(session.is_closed().await, "{hello}");
    }

    // Whoever has the header needs no token in the frame; a wrong one does not come so far.
    let open = async |token: &str| {
        let mut request = format!("ws://{}/v1/ws", world.at.api).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        connect_async(request).await
    };
    let mut session = Session(open(TOKEN).await.unwrap().0);
    session.say(json!({"op": "hello", "version": 1})).await;
    assert_eq!(session.hear().await["op"], "welcome");
    let Err(Error::Http(refused)) = open("another").await else { panic!() };
    assert_eq!(refused.status(), 401);
    // A page of another origin does not either.
    let mut request = format!("ws://{}/v1/ws", world.at.api).into_client_request().unwrap();
    request.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    let Err(Error::Http(refused)) = connect_async(request).await else { panic!() };
    assert_eq!(refused.status(), 403);
    assert_eq!(world.api("GET", "/v1/ws", "", "").await.status, 400);
}

#[tokio::test]
async fn a_silent_session_is_closed() {
    let limits = Limits { head_timeout: Duration::from_millis(100), ..Limits::default() };
    let world = World::limited(limits).await;
    let mut session = Session::open(&world).await;
    assert_eq!(session.hear().await["problem"]["code"], "E-TIMEOUT");
    assert!(session.is_closed().await);
}

#[tokio::test]
async fn a_service_answers_what_others_ask() {
    let world = World::new().await;
    let mut service = Session::new(&world).await;
    service.say(json!({"op": "serve", "id": 7, "point": "missing:x", "kind": "Portal"})).await;
    assert_eq!(service.heard(["id", "op"]).await, [json!(7), json!("error")]);
    assert_eq!(world.mesh.last(), "serve missing:x as Portal");
    service.serve("shop:pay", 8).await;

    let ask = async |path: &str| {
        let path = format!("/v1/request/shop%3Apay?method=Pay&path={path}");
        world.api("POST", &path, "content-type: application/json\r\nx-more: a\r\n", r#"{"sum":3}"#).await
    };
    let (reply, ()) = tokio::join!(ask("/cart"), async {
        let request = service.hear().await;
        let members =
            ["op", "point", "method", "path", "text", "agent"].map(|member| request[member].clone());
        let expected =
            ["request", "shop:pay", "Ext<Pay>", "/cart", r#"{"sum":3}"#, "mesh:users:admin"].map(Value::from);
        assert_eq!(members, expected);
        assert!(request["timeoutMs"].as_u64().is_some_and(|left| left > 20_000 && left <= 30_000));
        assert!(request["headers"].as_array().unwrap().contains(&json!(["x-more", "a"])));
        assert!(request["trace"].as_str().unwrap().starts_with("00-"));
        let id = &request["id"];
        let answer = json!({"op": "reply", "id": id, "status": 201, "headers": [["content-type", "text/plain"]],
            "text": "paid"});
        service.say(answer).await;
    });
    assert_eq!((reply.status, reply.text(), reply.header("starlane-outcome")), (201, "paid", "ok"));

    // It says that it failed, or that it did nothing.
    for (ran, status, outcome) in [(true, 502, "failed"), (false, 503, "rejected")] {
        let (reply, ()) = tokio::join!(ask("/"), async {
            let id = service.hear().await["id"].clone();
            service.say(json!({"op": "fail", "id": id, "detail": "no money", "ran": ran})).await;
        });
        assert_eq!((reply.status, reply.header("starlane-outcome")), (status, outcome));
        assert!(reply.text().contains("no money"));
    }

    // When it goes away, what it had is unknown, and nobody serves the point at once.
    let (reply, ()) = tokio::join!(ask("/"), async {
        service.hear().await;
        drop(service);
    });
    assert_eq!((reply.status, reply.header("starlane-outcome")), (504, "unknown"));
    assert!(!world.mesh.pools.serves(&"shop:pay".parse().unwrap()));
}

#[tokio::test]
async fn a_service_asks_for_the_sake_of_what_it_was_asked() {
    let world = World::new().await;
    let mut service = Session::new(&world).await;
    service.serve("shop:pay", 8).await;
    let mut other = Session::new(&world).await;
    other.say(json!({"op": "request", "id": 1, "to": "shop:pay", "method": "Pay", "timeoutMs": 5000})).await;
    let asked = service.hear().await;
    service
        .say(json!({"op": "request", "id": 2, "to": "shop", "path": "/trace", "within": asked["id"], "from": "shop:pay"}))
        .await;
    let traced = service.hear().await;
    assert_eq!(traced["text"], asked["trace"]);
    // A request that comes back to it while it waits would wait for ever.
    service.say(json!({"op": "request", "id": 3, "to": "shop:pay", "within": asked["id"]})).await;
    let [id, outcome, problem] = service.heard(["id", "outcome", "problem"]).await;
    assert_eq!((id, outcome, &problem["code"]), (json!(3), json!("rejected"), &json!("E-CYCLE")));
    service.say(json!({"op": "reply", "id": asked["id"], "status": 204})).await;
    assert_eq!(other.heard(["op", "id", "status"]).await, [json!("reply"), json!(1), json!(204)]);
    // It speaks only as whom it serves.
    service.say(json!({"op": "send", "id": 4, "to": "shop", "from": "shop:cart"})).await;
    assert_eq!(service.hear().await["problem"]["code"], "E-FORBIDDEN");
    // One that gives its request up calls it off.
    other.say(json!({"op": "request", "id": 5, "to": "shop:pay"})).await;
    let id = service.hear().await["id"].clone();
    other.say(json!({"op": "cancel", "id": 5})).await;
    assert_eq!(service.hear().await, json!({"op": "cancel", "id": id}));
}

#[tokio::test]
async fn signals_keep_their_order_and_a_body_of_bytes_stays_what_it_is() {
    let world = World::new().await;
    let mut service = Session::new(&world).await;
    service.serve("shop:pay", 200).await;
    let mut sender = Session::open(&world).await;
    let binary = |document: Value, body: &[u8]| {
        let document = document.to_string().into_bytes();
        let length = (document.len() as u32).to_le_bytes();
        Message::Binary(Bytes::from([&length, &document[..], body].concat()))
    };
    sender.0.send(binary(json!({"op": "hello", "version": 1, "token": TOKEN}), b"")).await.unwrap();
    let Message::Binary(welcome) = sender.0.next().await.unwrap().unwrap() else { panic!() };
    assert!(String::from_utf8_lossy(&welcome[4..]).starts_with(r#"{"op":"welcome""#));
    for n in 0..100_u8 {
        let say = json!({"op": "send", "id": n, "to": "shop:pay", "path": format!("/{n}")});
        sender.0.send(binary(say, &[0xff, n])).await.unwrap();
    }
    for n in 0..100_u8 {
        let [op, path, base64] = service.heard(["op", "path", "base64"]).await;
        assert_eq!((op, path), (json!("signal"), json!(format!("/{n}"))));
        let body =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64.as_str().unwrap());
        assert_eq!(body.unwrap(), [0xff, n]);
    }
}

#[tokio::test]
async fn what_is_published_reaches_all_who_subscribe_in_both_doors() {
    let world = World::new().await;
    let mut session = Session::new(&world).await;
    session.say(json!({"op": "subscribe", "id": 3, "topic": "shop:prices", "grant": 1})).await;
    assert_eq!(session.hear().await, json!({"op": "done", "id": 3}));
    let posted = world
        .api("POST", "/v1/publish/shop%3Aprices?path=/gold", "content-type: text/plain\r\n", "1900")
        .await;
    assert_eq!(posted.status, 202);
    let event = session.hear().await;
    let members = ["op", "id", "path", "text"].map(|member| event[member].clone());
    assert_eq!(members, [json!("event"), json!(3), json!("/gold"), json!("1900")]);
    // More than was granted waits.
    session.say(json!({"op": "publish", "id": 4, "to": "shop:prices", "text": "1901"})).await;
    assert_eq!(session.hear().await, json!({"op": "done", "id": 4}));
    session.say(json!({"op": "grant", "id": 3, "more": 1})).await;
    assert_eq!(session.heard(["op", "text"]).await, [json!("event"), json!("1901")]);
    session.say(json!({"op": "cancel", "id": 3})).await;
    session.say(json!({"op": "subscribe", "id": 5, "topic": "missing:x", "grant": 1})).await;
    assert_eq!(session.heard(["op", "id"]).await, [json!("error"), json!(5)]);
    assert!(!world.mesh.topics.hears(&"shop:prices".parse().unwrap()));

    let mut lines = crate::client::Connection::open(world.at.api).await;
    lines
        .say(format!("GET /v1/subscribe/shop%3Aprices HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\r\n"))
        .await;
    assert_eq!(lines.head().await.status, 200);
    assert_eq!(world.api("POST", "/v1/publish/shop%3Aprices", "", "1902").await.status, 202);
    let line: Value = serde_json::from_slice(&lines.chunk().await.unwrap()).unwrap();
    assert_eq!(
        [&line["event"], &line["path"], &line["text"]],
        [&json!("event"), &json!("/"), &json!("1902")]
    );
}

#[tokio::test]
async fn a_watch_takes_as_many_steps_as_it_is_granted() {
    let world = World::new().await;
    let mut session = Session::new(&world).await;
    session.say(json!({"op": "watch", "id": 2, "select": "shop:**", "grant": 2})).await;
    let mut token = Value::Null;
    for _ in 0..2 {
        let [op, id, event] = session.heard(["op", "id", "event"]).await;
        assert_eq!((op, id, &event["event"]), (json!("change"), json!(2), &json!("listed")));
        token = event["token"].clone();
    }
    // Nothing more comes before it is granted.
    session.say(json!({"op": "api", "id": 3, "method": "GET", "path": "/v1/info"})).await;
    assert_eq!(session.heard(["op", "id"]).await, [json!("reply"), json!(3)]);
    session.say(json!({"op": "grant", "id": 2, "more": 1})).await;
    assert_eq!(session.hear().await["event"]["event"], "changed");
    session.say(json!({"op": "cancel", "id": 2})).await;
    session.say(json!({"op": "watch", "id": 2, "select": "shop:**", "since": token, "grant": 1})).await;
    assert_eq!(session.hear().await["event"]["event"], "changed");
    for (watch, code) in [
        (json!({"op": "watch", "id": 4, "select": "shop:**", "since": "x", "grant": 1}), "E-WATCH-MISMATCH"),
        (json!({"op": "watch", "id": 4, "select": "shop:*", "since": token, "grant": 1}), "E-WATCH-MISMATCH"),
    ] {
        session.say(watch).await;
        assert_eq!(session.hear().await["problem"]["code"], code);
    }
    // A history that is gone is told, and the list again.
    let old = starlane_core::ResumeToken::new(starlane_core::Revision(3), "shop:**").to_string();
    session.say(json!({"op": "watch", "id": 5, "select": "shop:**", "since": old, "grant": 2})).await;
    for event in ["gone", "listed"] {
        assert_eq!(session.hear().await["event"]["event"], event);
    }
}

#[tokio::test]
async fn calls_of_the_api_go_over_the_session() {
    let world = World::new().await;
    let mut session = Session::new(&world).await;
    let create = json!({"point": "shop:orders:o-1", "kind": "Order"}).to_string();
    session
        .say(json!({"op": "api", "id": 1, "method": "POST", "path": "/v1/resources", "text": create}))
        .await;
    let reply = session.hear().await;
    assert_eq!((&reply["id"], &reply["status"]), (&json!(1), &json!(201)));
    let made: Value = serde_json::from_str(reply["text"].as_str().unwrap()).unwrap();
    assert_eq!(made["point"], "shop:orders:o-1");
    assert!(reply["headers"].as_array().unwrap().iter().any(|header| header[0] == "location"));
    let path = "/v1/resources/missing%3Ax";
    session.say(json!({"op": "api", "id": 2, "method": "GET", "path": path})).await;
    assert_eq!(session.heard(["id", "status"]).await, [json!(2), json!(404)]);
    for path in ["/v1/watch?select=*", "/v1/ws", "/healthz", "v1/info", "/v1/ a"] {
        session.say(json!({"op": "api", "id": 3, "method": "GET", "path": path})).await;
        let [op, problem] = session.heard(["op", "problem"]).await;
        assert_eq!((op, &problem["code"]), (json!("error"), &json!("E-USAGE")), "{path}");
    }
}

#[tokio::test]
async fn what_a_client_says_wrong_is_an_error_and_the_session_goes_on() {
    let world = World::new().await;
    let mut session = Session::new(&world).await;
    for (frame, id) in [
        (json!({"op": "fly", "id": 4}), json!(4)),
        (json!({"op": "hello", "version": 1}), Value::Null),
        (json!({"op": "serve", "id": 5, "point": "A b"}), json!(5)),
        (json!({"op": "request", "id": 6, "to": "shop", "timeoutMs": 0}), json!(6)),
        (json!({"op": "request", "id": 7, "to": "shop", "path": "no"}), json!(7)),
        (json!({"op": "request", "id": 8, "to": "shop", "method": "add"}), json!(8)),
    ] {
        session.say(frame.clone()).await;
        let error = session.hear().await;
        assert_eq!((&error["op"], &error["id"]), (&json!("error"), &id), "{frame}");
        assert_eq!(error["problem"]["code"], "E-USAGE", "{frame}");
    }
    // What belongs to nothing is not heard.
    for frame in [
        json!({"op": "reply", "id": 99, "status": 200}),
        json!({"op": "cancel", "id": 99}),
        json!({"op": "grant", "id": 99, "more": 1}),
    ] {
        session.say(frame).await;
    }
    // A number that is in use is not taken twice.
    session.say(json!({"op": "request", "id": 9, "to": "shop", "path": "/never"})).await;
    session.say(json!({"op": "request", "id": 9, "to": "shop", "path": "/hello"})).await;
    assert_eq!(session.heard(["id", "op"]).await, [json!(9), json!("error")]);
    // No more than so many go on at a time.
    for id in 10..10 + 1_024 {
        session.say(json!({"op": "request", "id": id, "to": "shop", "path": "/never"})).await;
    }
    assert_eq!(session.hear().await["problem"]["code"], "E-BUSY");
    // Whoever sends what is no frame at all is sent away.
    let long = "a".repeat(2 << 20);
    let _ = session.0.send(Message::Text(long.into())).await;
    assert!(session.is_closed().await);
}

#[tokio::test]
async fn what_was_begun_ends_when_the_node_stops() {
    let world = World::new().await;
    let mut service = Session::new(&world).await;
    service.serve("shop:pay", 8).await;
    let mut client = Session::new(&world).await;
    client.say(json!({"op": "request", "id": 1, "to": "shop:pay"})).await;
    client.say(json!({"op": "watch", "id": 2, "select": "shop:**", "grant": 0})).await;
    let request = service.hear().await;
    let pools = world.mesh.pools.clone();
    let closed = world.close();
    assert_eq!(service.hear().await["op"], "bye");
    assert!(!pools.serves(&"shop:pay".parse().unwrap()));
    assert_eq!(client.hear().await["op"], "bye");
    service.say(json!({"op": "reply", "id": request["id"], "status": 200, "text": "paid"})).await;
    assert_eq!(client.heard(["id", "text"]).await, [json!(1), json!("paid")]);
    assert!(service.is_closed().await && client.is_closed().await);
    closed.await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_silent_is_taken_for_dead_and_one_that_answers_pings_is_not() {
    let world = World::new().await;
    let (mut silent, mut lives) = (Session::new(&world).await, Session::new(&world).await);
    silent.serve("shop:orders", 1).await;
    // From here on time goes to what is due next whenever nothing else is to do, also while bytes are on their way: to the
    // next ping, then.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    // It reads on, and answers nothing; that the stream ends is all it hears.
    let MaybeTlsStream::Plain(stream) = silent.0.get_mut() else { panic!("no TLS is spoken") };
    let dies = async {
        let mut heard = Vec::new();
        // However it ends.
        _ = tokio::time::timeout(Duration::from_secs(90), stream.read_to_end(&mut heard)).await;
        begun.elapsed()
    };
    let stays = async {
        loop {
            assert!(matches!(lives.0.next().await, Some(Ok(Message::Ping(_)))));
            if begun.elapsed() > Duration::from_secs(60) {
                return;
            }
        }
    };
    let (died, ()) = tokio::join!(dies, stays);
    assert!((Duration::from_secs(15)..=Duration::from_secs(30)).contains(&died), "{died:?}");
    // The other session goes on.
    tokio::time::resume();
    lives.serve("shop:orders", 1).await;
}
