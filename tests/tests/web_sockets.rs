//! WebSockets through a bind, of real nodes: the room of the example, and a service without Wasm.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use starlane_client::{Call, Client, Config, Error, Failed, Incoming, Reply};
use tests::mesh::{Mesh, Plan, wait};
use tests::{Node, root};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with an open WebSocket.
struct Browser(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Browser {
    async fn open(node: &Node, path: &str) -> Self {
        Self::try_open(node, path).await.unwrap()
    }

    /// One that is not let in hears with which status.
    async fn try_open(node: &Node, path: &str) -> Result<Self, u16> {
        let mut request = format!("ws://{}{path}", node.web()).into_client_request().unwrap();
        request.headers_mut().insert("host", "localhost".parse().unwrap());
        match connect_async(request).await {
            Ok((stream, _)) => Ok(Self(stream)),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn say(&mut self, text: impl Into<Message>) {
        self.0.send(text.into()).await.unwrap();
    }

    async fn hear(&mut self) -> Message {
        let heard = async {
            loop {
                match self.0.next().await.unwrap().unwrap() {
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => return other,
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("something comes")
    }

    /// The next line of the room.
    async fn line(&mut self) -> String {
        let heard = self.hear().await.into_text().unwrap();
        let line: serde_json::Value = serde_json::from_str(&heard).unwrap();
        format!("{}: {}", line["from"].as_str().unwrap(), line["text"].as_str().unwrap())
    }

    async fn hears(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.line().await, *line);
        }
    }

    async fn closed(&mut self) -> (u16, String) {
        match self.hear().await {
            Message::Close(Some(CloseFrame { code, reason })) => (code.into(), reason.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

/// Makes the room of the example.
fn room(node: &Node, more: &str) {
    let bundle = root().join("target/bundles/chat");
    let script = format!(
        "create? localhost<Space>; create? localhost:repo<Repo>; create localhost:repo:chat<BundleSeries>; \
         publish ^[ {} ]-> localhost:repo:chat:1.0.0",
        bundle.display()
    );
    for statement in script.split("; ") {
        node.exec(statement).ok();
    }
    node.exec(&format!(
        "create localhost:chat<Mechtron>{{ +config=localhost:repo:chat:1.0.0:/config/chat.mechtron{more} }}; \
         set localhost{{ +bind=localhost:repo:chat:1.0.0:/bind/chat.bind }}"
    ))
    .ok();
}

#[test]
fn browsers_talk_through_a_bind_over_a_restart_and_until_the_room_is_deleted() {
    let mut node = Node::start();
    room(&node, "");
    let runtime = Runtime::new().unwrap();
    let (mut ann, bob) = runtime.block_on(async {
        assert_eq!(Browser::try_open(&node, "/chat/live").await.err(), Some(400), "who has no name");
        assert_eq!(Browser::try_open(&node, "/chat/").await.err(), Some(200), "a page accepts nothing");
        let mut ann = Browser::open(&node, "/chat/live?name=ann").await;
        let mut bob = Browser::open(&node, "/chat/live?name=bob").await;
        bob.say("hello").await;
        let lines = ["ann: is here", "bob: is here", "bob: hello"];
        ann.hears(&lines).await;
        bob.hears(&lines).await;
        for text in ["one", "two", "three"] {
            ann.say(text).await;
        }
        let lines = ["ann: one", "ann: two", "ann: three"];
        bob.hears(&lines).await;
        ann.hears(&lines).await;
        (ann, bob)
    });
    let (status, _, page) = node.http("GET", "localhost", "/chat/", b"");
    assert!(status == 200 && String::from_utf8_lossy(&page).contains("WebSocket"));
    let described = node.run(["describe", "localhost:chat"]).ok();
    assert!(
        described.contains("Ext<SocketMessage>\n") && described.contains("Ext<SocketClosed> {code"),
        "{described}"
    );

    // The room remembers who was there; those are found out to be gone.
    node.kill();
    node.restart();
    runtime.block_on(async {
        drop(bob);
        assert!(ann.0.next().await.is_none_or(|heard| heard.is_err()));
        let mut ann = Browser::open(&node, "/chat/live?name=ann").await;
        ann.hears(&["ann: is here", "bob: is here", "bob: hello", "ann: one", "ann: two", "ann: three"])
            .await;
        ann.hears(&["ann: is here"]).await;
        let mut gone = [ann.line().await, ann.line().await];
        gone.sort_unstable();
        assert_eq!(gone, ["ann: left", "bob: left"]);

        // What is too long ends one connection, and the others hear of it.
        let mut bob = Browser::open(&node, "/chat/live?name=bob").await;
        bob.say("x".repeat(1024 * 1024 + 1)).await;
        loop {
            if let Message::Close(Some(close)) = bob.hear().await {
                assert_eq!(u16::from(close.code), 1009);
                break;
            }
        }
        ann.hears(&["bob: is here", "bob: left"]).await;

        tokio::task::block_in_place(|| node.exec("delete localhost:chat").ok());
        ann.say("anybody?").await;
        assert_eq!(ann.closed().await, (1011, "E-NOT-FOUND".to_owned()));
    });
}

#[test]
fn browsers_at_two_nodes_talk_in_one_room_wherever_it_lives_and_hear_that_their_node_stops() {
    let mut mesh = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::relay("edge")]);
    mesh.wait_ready(2, PATIENCE);
    room(mesh.first(), ", +place=[at in (\"cloud\", \"edge\")]");
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let mut ann = Browser::open(mesh.node("cloud"), "/chat/live?name=ann").await;
        ann.hears(&["ann: is here"]).await;
        let mut bob = Browser::open(mesh.node("edge"), "/chat/live?name=bob").await;
        bob.hears(&["ann: is here", "bob: is here"]).await;
        ann.hears(&["bob: is here"]).await;
        for to in ["edge", "cloud", "edge"] {
            tokio::task::block_in_place(|| mesh.first().run(["move", "localhost:chat", "--to", to]).ok());
            ann.say(format!("at {to}")).await;
            bob.hears(&[&format!("ann: at {to}")]).await;
            bob.say("and I").await;
            ann.hears(&[&format!("ann: at {to}"), "bob: and I"]).await;
            bob.hears(&["bob: and I"]).await;
        }
        tokio::task::block_in_place(|| mesh.first().run(["move", "localhost:chat", "--to", "cloud"]).ok());
        // A push to who never was is told at once, on either node.
        for at in ["cloud", "edge", "nowhere"] {
            let to = format!("mesh:nodes:{at}:sockets:7^Ext<SocketMessage>");
            let asked = tokio::task::block_in_place(|| mesh.first().run(["request", &to, "hello"]));
            assert!(asked.code == 3 && asked.err.contains("E-NOT-FOUND"), "{asked:?}");
        }
        let stops = tokio::task::spawn_blocking(move || {
            assert_eq!(mesh.node_mut("edge").stop(), 0);
            mesh
        });
        assert_eq!(bob.closed().await, (1001, "the node is stopping".to_owned()));
        drop(bob);
        ann.hears(&["bob: left"]).await;
        let mut mesh = stops.await.unwrap();
        // The last of them hears it too.
        let stops = tokio::task::spawn_blocking(move || mesh.node_mut("cloud").stop());
        assert_eq!(ann.closed().await.0, 1001);
        drop(ann);
        assert_eq!(stops.await.unwrap(), 0);
    });
}

/// What a service heard: the points of sockets that it accepted, and what they say of their end.
#[derive(Debug, Default)]
struct Heard {
    opened: Vec<String>,
    closed: Vec<String>,
}

/// A service that accepts sockets, and says back what they say.
async fn echo(client: &Client) -> Arc<Mutex<Heard>> {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let notes = heard.clone();
    let answer = move |asked: Incoming| {
        let mut heard = notes.lock().unwrap();
        let reply = match &*asked.method {
            "Http<Get>" => {
                let socket = asked.headers.iter().find(|(name, _)| name == "starlane-socket");
                heard.opened.extend(socket.map(|(_, point)| point.clone()));
                Reply::new(101)
            }
            "Ext<SocketClosed>" => {
                heard.closed.push(String::from_utf8_lossy(&asked.body).into_owned());
                Reply::new(204)
            }
            _ => Reply::new(200).with("application/octet-stream", asked.body),
        };
        async move { Ok::<_, Failed>(reply) }
    };
    client.serve("localhost:echo", Some("Portal"), answer).await.unwrap();
    heard
}

/// How much memory a process has, in KiB.
fn resident_kib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn a_service_accepts_too_and_who_does_not_read_is_busy_and_costs_little() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    let bind = "Bind(version=1.0.0) { Http { <Get>/live -> localhost:echo^Http<Get>/live => &; } }";
    fs::write(folder.path().join("echo.bind"), bind).unwrap();
    node.exec(
        "create localhost<Space>; create localhost:repo<Repo>; create localhost:repo:echo<BundleSeries>",
    )
    .ok();
    node.run(["publish", &format!("^[ {} ]-> localhost:repo:echo:1.0.0", folder.path().display())]).ok();
    node.exec("set localhost{ +bind=localhost:repo:echo:1.0.0:/echo.bind }").ok();
    Runtime::new().unwrap().block_on(async {
        let client = Client::connect(Config::of_data(node.data()).unwrap()).await.unwrap();
        let heard = echo(&client).await;
        let mut browser = Browser::open(&node, "/live").await;
        browser.say(vec![1, 2, 3]).await;
        assert_eq!(browser.hear().await, Message::from(vec![1, 2, 3]));
        let socket = heard.lock().unwrap().opened[0].clone();
        let push = |body: String| {
            let call = Call::new("SocketMessage").body("text/plain", body);
            client.request(&socket, call)
        };
        assert_eq!(push("pushed".to_owned()).await.unwrap().status, 204);
        assert_eq!(browser.hear().await, Message::from("pushed"));
        // As a person would, and it stands in no list.
        let to = format!("{socket}^Ext<SocketMessage>");
        tokio::task::block_in_place(|| node.run(["send", &to, "by hand"]).ok());
        assert_eq!(browser.hear().await, Message::from("by hand"));
        let listed = tokio::task::block_in_place(|| node.run(["select", "mesh:**"]).ok());
        assert!(!listed.contains("sockets"), "{listed}");
        for point in [&*socket, "mesh:nodes:node-1:sockets"] {
            let made = tokio::task::block_in_place(|| node.exec(&format!("create {point}<Base>")));
            assert_eq!(made.code, 4, "{made:?}");
        }

        let before = resident_kib(&node);
        let piece = "x".repeat(64 * 1024);
        let mut pushed = 0_u64;
        let refused = loop {
            match push(piece.clone()).await {
                Ok(_) => pushed += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(&refused, Error::Rejected(problem) if problem.code == "E-BUSY"), "{refused:?}");
        let grown = resident_kib(&node).saturating_sub(before);
        println!("{pushed} pieces of 64 KiB before it was busy, {grown} KiB more memory");
        assert!(grown < 16 * 1024, "{grown} KiB");
        // All that was taken arrives.
        for _ in 0..pushed {
            assert_eq!(browser.hear().await.len(), piece.len());
        }
        let close = Call::new("SocketClose").body("application/json", r#"{"code":4002,"reason":"done"}"#);
        client.request(&socket, close).await.unwrap();
        assert_eq!(browser.closed().await, (4002, "done".to_owned()));
        let gone = push("too late".to_owned()).await.unwrap_err();
        assert!(matches!(&gone, Error::Rejected(problem) if problem.code == "E-NOT-FOUND"), "{gone:?}");
        let told = || heard.lock().unwrap().closed == [r#"{"code":4002,"reason":"done"}"#];
        tokio::task::block_in_place(|| wait(PATIENCE, "the service hears that it is closed", told));
    });
}
