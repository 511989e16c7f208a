//! Pages in a real browser: the room of the chat example, and the TypeScript client.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use starlane_client::{Call, Client, Config, Reply};
use tests::{Node, Serve, root};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const PATIENCE: Duration = Duration::from_secs(60);

/// A browser without a screen.
struct Browser {
    process: Child,
    address: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None` where there is no browser, which is said.
    fn start() -> Option<Self> {
        let found = Command::new("scripts/browser").arg("--present").current_dir(root()).output().unwrap();
        if !found.status.success() {
            let required = std::env::var("STARLANE_REQUIRE_BROWSER").is_ok_and(|value| value == "1");
            assert!(!required, "STARLANE_REQUIRE_BROWSER=1, and there is no browser: run scripts/browser");
            eprintln!("SKIPPED: there is no browser (see scripts/browser)");
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new(String::from_utf8(found.stdout).unwrap().trim())
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding"])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let from = said.len();
            assert!(lines.read_line(&mut said).unwrap() > 0, "the browser ended:\n{said}");
            if let Some((_, address)) = said[from..].split_once("DevTools listening on ") {
                break address.trim().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Some(Self { process, address, _profile: profile })
    }

    /// Opens a page; whatever it asks who is there is answered with a name.
    async fn open(&self, url: &str, name: &str) -> Page {
        let (socket, _) = connect_async(&self.address).await.unwrap();
        let mut page = Page { socket, session: None, last: 0, name: name.to_owned() };
        let made = page.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = page.call("Target.attachToTarget", attach).await;
        page.session = Some(attached["sessionId"].clone());
        page.call("Page.enable", json!({})).await;
        page.call("Page.navigate", json!({ "url": url })).await;
        page.until("document.readyState === 'complete'").await;
        page
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A page, looked at and typed into over the browser's own protocol for that.
struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<Value>,
    last: u64,
    name: String,
}

impl Page {
    async fn call(&mut self, method: &str, params: Value) -> Value {
        let asked = self.say(method, params).await;
        let answer = async {
            loop {
                let Message::Text(text) = self.socket.next().await.unwrap().unwrap() else { continue };
                let told: Value = serde_json::from_str(&text).unwrap();
                if told["method"] == "Page.javascriptDialogOpening" {
                    let answer = json!({ "accept": true, "promptText": self.name });
                    self.say("Page.handleJavaScriptDialog", answer).await;
                }
                if told["id"] == asked {
                    assert!(told["error"].is_null(), "{method}: {told}");
                    return told["result"].clone();
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("{method} is not answered"))
    }

    async fn say(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let mut said = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = &self.session {
            said["sessionId"] = session.clone();
        }
        self.socket.send(Message::text(said.to_string())).await.unwrap();
        self.last
    }

    /// What a program in the page comes to.
    async fn run(&mut self, program: &str) -> Value {
        let asked = json!({ "expression": program, "awaitPromise": true, "returnByValue": true });
        let told = self.call("Runtime.evaluate", asked).await;
        assert!(told["exceptionDetails"].is_null(), "{program}\n{told:#}");
        told["result"]["value"].clone()
    }

    /// Waits until something holds in the page.
    async fn until(&mut self, holds: &str) {
        let look = format!(
            "new Promise((done) => {{ const look = () => ({holds}) ? done() : setTimeout(look, 10); look(); }})"
        );
        self.run(&look).await;
    }

    /// Types a line into what has the focus.
    async fn types(&mut self, text: &str) {
        self.call("Page.bringToFront", json!({})).await;
        self.call("Input.insertText", json!({ "text": text })).await;
        let enter = |kind: &str| json!({ "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r" });
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", enter(kind)).await;
        }
    }
}

#[test]
fn what_is_typed_into_one_page_of_the_room_stands_in_the_other() {
    let Some(browser) = Browser::start() else { return };
    let mut node = Node::start();
    let bundle = root().join("target/bundles/chat");
    for statement in [
        "create? localhost<Space>",
        "create? localhost:repo<Repo>",
        "create localhost:repo:chat<BundleSeries>",
        &format!("publish ^[ {} ]-> localhost:repo:chat:1.0.0", bundle.display()),
        "create localhost:chat<Mechtron>{ +config=localhost:repo:chat:1.0.0:/config/chat.mechtron }",
        "set localhost{ +bind=localhost:repo:chat:1.0.0:/bind/chat.bind }",
    ] {
        node.exec(statement).ok();
    }
    Runtime::new().unwrap().block_on(async {
        let url = format!("http://localhost:{}/chat/", node.web().port());
        let (mut ann, mut bob) = (browser.open(&url, "ann").await, browser.open(&url, "bob").await);
        let lines = |line: &str| {
            format!(
                "[...document.querySelectorAll('#lines li')].some((li) => li.textContent === {})",
                json!(line)
            )
        };
        for (page, name) in [(&mut ann, "ann"), (&mut bob, "bob")] {
            page.until(&format!(
                "document.getElementById('state').textContent === 'You are here as {name}.'"
            ))
            .await;
        }
        ann.until(&lines("bobis here")).await;
        ann.types("<i>hello</i>, bob").await;
        bob.until(&lines("ann<i>hello</i>, bob")).await;
        bob.types("hello, ann").await;
        ann.until(&lines("bobhello, ann")).await;
        assert_eq!(ann.run("document.getElementById('text').value").await, "");

        // The pages find the room again.
        node.kill();
        ann.until("document.getElementById('state').textContent.startsWith('Not connected.')").await;
        node.restart();
        for page in [&mut ann, &mut bob] {
            page.until("document.getElementById('state').textContent.startsWith('You are here')").await;
        }
        ann.types("again").await;
        bob.until(&lines("annagain")).await;
    });
}

/// Serves an empty page at `/`, and the client for browsers, to the end of the test.
fn pages(client: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = client.to_owned();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut line = String::new();
            // A browser opens connections that it may not need.
            if !BufReader::new(&stream).read_line(&mut line).is_ok_and(|read| read > 0) {
                continue;
            }
            let path = line.split(' ').nth(1).unwrap_or_default();
            let (kind, body) = match path.strip_prefix("/client/") {
                Some(file) => ("text/javascript", std::fs::read(client.join(file)).unwrap_or_default()),
                None => ("text/html", b"<!doctype html><title>A page</title>".to_vec()),
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    format!("http://{address}")
}

#[test]
fn the_typescript_client_works_in_a_page_whose_origin_the_node_allows() {
    let Some(browser) = Browser::start() else { return };
    let client = root().join("clients/typescript/dist");
    if !client.join("index.js").is_file() {
        eprintln!("SKIPPED: the TypeScript client is not built (see scripts/node-tools)");
        return;
    }
    let (allowed, other) = (pages(&client), pages(&client));
    let node = Node::serve(Serve { origins: vec![allowed.clone()], ..Serve::named("node-1") });
    let config = Config::of_data(node.data()).unwrap();
    let (api, token) = (json!(config.nodes[0]), json!(config.token));
    Runtime::new().unwrap().block_on(async {
        let service = Client::connect(config).await.unwrap();
        service.ensure("shop", "Space", ()).await.unwrap();
        let answer = |_| async { Ok(Reply::text("hello, page")) };
        service.serve("shop:greeter", Some("Portal"), answer).await.unwrap();

        let mut page = browser.open(&format!("{allowed}/"), "").await;
        let program = format!(
            r#"(async () => {{
                const {{ Client, Reply }} = await import("{allowed}/client/index.js");
                const client = await Client.connect({{ nodes: [{api}], token: {token} }});
                await client.serve("shop:page", () => Reply.text("hello, service"), {{ kind: "Portal" }});
                const steps = client.watch("shop:*<Base>[size >= 3]")[Symbol.asyncIterator]();
                const listed = (await steps.next()).value;
                await client.create("shop:made", "Base", {{ size: 3 }});
                let step;
                do step = (await steps.next()).value; while (step.event === "bookmark");
                const reply = await client.request("shop:greeter", {{ method: "Greet" }});
                return [listed.event, step.changes[0].change, step.changes[0].resource.point, reply.text()];
            }})()"#
        );
        assert_eq!(page.run(&program).await, json!(["listed", "entered", "shop:made", "hello, page"]));
        let reply = service.request("shop:page", Call::new("Greet")).await.unwrap();
        assert_eq!(reply.to_text(), "hello, service");

        let mut page = browser.open(&format!("{other}/"), "").await;
        let program = format!(
            r#"import("{other}/client/index.js").then(({{ Client }}) =>
                Client.connect({{ nodes: [{api}], token: {token} }}).then(() => "let in", (error) => error.code))"#
        );
        assert_eq!(page.run(&program).await, "E-UNREACHABLE");
    });
}
