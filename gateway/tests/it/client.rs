//! A client that says exactly what it is told to, and reads answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway::{Addresses, Config, Doors, Limits};
use starlane_core::Agent;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fake::{Fake, point};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const TOKEN: &str = "a-token-for-tests";

/// Open doors, closed when dropped or asked to.
pub(crate) struct World {
    pub(crate) at: Addresses,
    pub(crate) mesh: Arc<Fake>,
    shutdown: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn limited(limits: Limits) -> Self {
        Self::with(|config| config.limits = limits).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::local(
            TOKEN,
            Agent(point("mesh:users:admin")),
            Agent(point("mesh:users:anonymous")),
            point("mesh:nodes:test"),
        );
        change(&mut config);
        let mesh = Arc::new(Fake::default());
        let (doors, at) = Doors::bind(config, Arc::clone(&mesh)).await.unwrap();
        let (shutdown, asked) = oneshot::channel::<()>();
        let running = tokio::spawn(doors.run(async {
            let _ = asked.await;
        }));
        Self { at, mesh, shutdown: Some(shutdown), running }
    }

    /// Begins to close; the handle ends when all is closed.
    pub(crate) fn close(mut self) -> JoinHandle<()> {
        drop(self.shutdown.take());
        self.running
    }

    /// GET on the users' web, in the space `shop`.
    pub(crate) async fn web(&self, path: &str, headers: &str) -> Reply {
        self.web_as("GET", path, headers, "").await
    }

    pub(crate) async fn web_as(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let host = if headers.to_ascii_lowercase().contains("host:") { "" } else { "host: shop\r\n" };
        Connection::open(self.at.web).await.ask(method, path, &format!("{host}{headers}"), body).await
    }

    /// A request to the API, with its token.
    pub(crate) async fn api(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let headers = format!("host: localhost\r\nauthorization: Bearer {TOKEN}\r\n{headers}");
        Connection::open(self.at.api).await.ask(method, path, &headers, body).await
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: &str) -> Reply {
        self.api(method, path, "content-type: application/json\r\n", body).await
    }
}

pub(crate) struct Connection {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) async fn open(at: SocketAddr) -> Self {
        Self { stream: BufReader::new(TcpStream::connect(at).await.unwrap()) }
    }

    pub(crate) async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        self.say(format!("{method} {path} HTTP/1.1\r\n{headers}{length}\r\n{body}")).await;
        self.reply(method).await
    }

    /// Reads one answer.
    pub(crate) async fn reply(&mut self, method: &str) -> Reply {
        let mut reply = self.head().await;
        let bodiless = method == "HEAD" || matches!(reply.status, 204 | 304);
        if bodiless {
            return reply;
        }
        if reply.header("transfer-encoding") == "chunked" {
            while let Some(chunk) = self.chunk().await {
                reply.body.extend(chunk);
            }
        } else {
            let length: usize = reply.header("content-length").parse().unwrap();
            let mut body = vec![0; length];
            within(self.stream.read_exact(&mut body)).await.unwrap();
            reply.body = body;
        }
        reply
    }

    pub(crate) async fn head(&mut self) -> Reply {
        let status = self.line().await;
        let status =
            status.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {status:?}")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Reply { status, headers, body: Vec::new() }
    }

    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line().await, 16).unwrap();
        let mut chunk = vec![0; size + 2];
        within(self.stream.read_exact(&mut chunk)).await.unwrap();
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        within(self.stream.read_line(&mut line)).await.unwrap();
        line.trim_end().to_owned()
    }

    /// Reads until the other side closes; what came until then.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is a way of closing.
        let _ = within(self.stream.read_to_end(&mut rest)).await;
        rest
    }
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is a problem, and gives its code.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem: gateway::shapes::ProblemDetails = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        assert!(!problem.detail.is_empty());
        problem.code.to_string()
    }
}
