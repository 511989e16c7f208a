//! The client of the `/v1` API.
//!
//! Bodies stream in both directions; answers of the API itself are read up to a stated size. Every failure is a
//! [`Problem`]: the one that the node answered, or one that says why no answer came. The JSON has the shapes that
//! [`gateway::shapes`] states.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use gateway::shapes::{
    DeadLetterList, Description, Diff, ExecProblem, Graph, History, Info, LogLine, Move, Moved, NewToken,
    NodeInfo, NodeList, NodePatch, Output, Page, ProblemDetails, Published, Results, Route, ScatterLine,
    Sent, Token, TokenList, Until, Why, Written,
};
use gateway::{Freshness, Trust};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method as HttpMethod, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use starlane_core::{Code, Method, NodeName, Point, Problem, Resource, When};

mod lines;
mod watch;

pub use lines::{JsonLines, LinesError};
pub use watch::{Backoff, Watch, WatchNews};

/// The longest answer of the API that is read into memory, in bytes; streams are not meant.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of an answer may take unless told otherwise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A node sends signs of life in quiet times; after this long without any the connection is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How much longer than a request's own deadline its answer is waited for, so that the node can say how it ended.
const GRACE: Duration = Duration::from_secs(2);

/// A client of one node.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: HeaderValue,
    timeout: Duration,
    freshness: Freshness,
}

/// A message to be sent.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// What is asked; the gateway's own choice when absent.
    pub method: Option<Method>,
    /// Of what; begins with `/`.
    pub path: Option<String>,
    /// More about it.
    pub headers: Vec<(String, String)>,
    /// What is given along.
    pub body: Body,
}

/// The answer of a mechtron, whose body is still to come.
#[derive(Debug)]
pub struct Answer {
    /// As HTTP's.
    pub status: u16,
    /// The reply's own headers.
    pub headers: HeaderMap,
    response: Response,
}

/// Content, whose bytes are still to come.
#[derive(Debug)]
pub struct Download {
    /// How many bytes there are, when the node says so.
    pub bytes: Option<u64>,
    response: Response,
}

impl Client {
    /// A client of the API at an address (`http://HOST:PORT` or `https://HOST:PORT`), opened by a token. `trust` says which
    /// certificates are believed where the node shows one. `timeout` bounds how long the head of an answer may take; without
    /// one it is 30 s.
    ///
    /// # Errors
    /// `E-USAGE` when the token cannot be one, or the authorities that are trusted cannot be read.
    pub fn new(api: &str, token: &str, trust: &Trust, timeout: Option<Duration>) -> Result<Self, Problem> {
        let mut token = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| Problem::new(Code::Usage, "the token holds characters that no token has"))?;
        token.set_sensitive(true);
        let trust = if api.starts_with("https://") { trust } else { &Trust::Nobody };
        let tls = gateway::tls_client(trust).map_err(|error| {
            Problem::new(Code::Usage, error.to_string())
                .help("a private authority is named with its certificate: `starlane context add … --ca FILE`")
        })?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(timeout.map_or(CONNECT_TIMEOUT, |timeout| timeout.min(CONNECT_TIMEOUT)))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("starlane/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Problem::new(Code::Internal, format!("no HTTP client: {error}")))?;
        Ok(Self {
            http,
            base: api.trim_end_matches('/').to_owned(),
            token,
            timeout: timeout.unwrap_or(ANSWER_TIMEOUT),
            freshness: Freshness::Latest,
        })
    }

    /// The same client, whose `select`, `resource`, `describe` and `watch` read what is so fresh.
    #[must_use]
    pub fn reading(mut self, freshness: Freshness) -> Self {
        self.freshness = freshness;
        self
    }

    /// The address that it talks to.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// Who answers.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn info(&self) -> Result<Info, Problem> {
        self.json(self.call(HttpMethod::GET, "/v1/info")).await
    }

    /// Runs the statements of a text in order.
    ///
    /// # Errors
    /// The problem of the statement that failed, with the results of those before it.
    pub async fn exec(&self, script: &str) -> Result<Vec<Output>, ExecProblem> {
        let call = self.call(HttpMethod::POST, "/v1/exec").body(script.to_owned());
        let response = self.answer(call.header(header::CONTENT_TYPE, "text/plain; charset=utf-8")).await?;
        if response.status().is_success() {
            let results: Results = self.read_json(response).await?;
            return Ok(results.results);
        }
        let (problem, done) = self.refusal(response).await;
        Err(ExecProblem { problem, done })
    }

    /// A page of a selector's answer, now or at a moment of the history; `cursor` is the `next` of the page before.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn select(
        &self,
        selector: &str,
        at: Option<When>,
        limit: Option<usize>,
        cursor: Option<&str>,
    ) -> Result<Page, Problem> {
        let mut path = format!("/v1/resources?select={}", encode(selector));
        if let Some(at) = at {
            // Writing to a String cannot fail.
            _ = write!(path, "&at={}", encode(&at.to_string()));
        }
        if let Some(limit) = limit {
            _ = write!(path, "&limit={limit}");
        }
        if let Some(cursor) = cursor {
            _ = write!(path, "&cursor={}", encode(cursor));
        }
        self.json(self.call(HttpMethod::GET, &self.fresh(path))).await
    }

    /// What happened to the resource at a point, the newest first.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn history(&self, point: &Point, limit: Option<usize>) -> Result<History, Problem> {
        let limit = limit.map(|limit| format!("?limit={limit}")).unwrap_or_default();
        self.json(self.call(HttpMethod::GET, &format!("/v1/history/{}{limit}", segment(point)))).await
    }

    /// A page of what is different between two moments; `cursor` is the `next` of the page before.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn diff(
        &self,
        selector: &str,
        from: When,
        to: Option<When>,
        cursor: Option<&str>,
    ) -> Result<Diff, Problem> {
        let mut path = format!("/v1/diff?select={}&from={}", encode(selector), encode(&from.to_string()));
        if let Some(to) = to {
            // Writing to a String cannot fail.
            _ = write!(path, "&to={}", encode(&to.to_string()));
        }
        if let Some(cursor) = cursor {
            _ = write!(path, "&cursor={}", encode(cursor));
        }
        self.json(self.call(HttpMethod::GET, &path)).await
    }

    /// Everything in the registry at one revision, as the bytes of a backup.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn backup(&self) -> Result<Download, Problem> {
        let response = self.ok(self.call(HttpMethod::GET, "/v1/backup")).await?;
        Ok(Download { bytes: None, response })
    }

    /// The resource at a point.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn resource(&self, point: &Point) -> Result<Resource, Problem> {
        let path = self.fresh(format!("/v1/resources/{}", segment(point)));
        self.json(self.call(HttpMethod::GET, &path)).await
    }

    /// What is known of the resource at a point.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn describe(&self, point: &Point) -> Result<Description, Problem> {
        let path = self.fresh(format!("/v1/describe/{}", segment(point)));
        self.json(self.call(HttpMethod::GET, &path)).await
    }

    /// The nodes of the mesh.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn nodes(&self) -> Result<NodeList, Problem> {
        self.json(self.call(HttpMethod::GET, "/v1/nodes")).await
    }

    /// A node.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn node(&self, name: &NodeName) -> Result<NodeInfo, Problem> {
        self.json(self.call(HttpMethod::GET, &format!("/v1/nodes/{name}"))).await
    }

    /// Changes a node.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn patch_node(&self, name: &NodeName, patch: &NodePatch) -> Result<NodeInfo, Problem> {
        let call = self.call(HttpMethod::PATCH, &format!("/v1/nodes/{name}"));
        self.json(with_json(call, patch)?).await
    }

    /// Shuts a node out of the mesh.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn revoke(&self, name: &NodeName) -> Result<(), Problem> {
        self.ok(self.call(HttpMethod::DELETE, &format!("/v1/nodes/{name}"))).await.map(drop)
    }

    /// How the nodes are linked.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn graph(&self) -> Result<Graph, Problem> {
        self.json(self.call(HttpMethod::GET, "/v1/graph")).await
    }

    /// Makes a token with which one node can join.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn new_token(&self, asked: &NewToken) -> Result<Token, Problem> {
        self.json(with_json(self.call(HttpMethod::POST, "/v1/tokens"), asked)?).await
    }

    /// The tokens that can still be used, without their secrets.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn tokens(&self) -> Result<TokenList, Problem> {
        self.json(self.call(HttpMethod::GET, "/v1/tokens")).await
    }

    /// Takes back a token that was not used.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn delete_token(&self, id: &str) -> Result<(), Problem> {
        self.ok(self.call(HttpMethod::DELETE, &format!("/v1/tokens/{}", encode(id)))).await.map(drop)
    }

    /// The way of a message to a point; `timeout` is how long the nodes on it are waited for.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn trace(&self, point: &Point, timeout: Option<Duration>) -> Result<Route, Problem> {
        let path = waiting(format!("/v1/trace/{}", segment(point)), timeout);
        let client = self.patient(timeout);
        client.json(client.call(HttpMethod::GET, &path)).await
    }

    /// The signals to a space that could not be delivered.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn dead_letters(&self, space: &Point) -> Result<DeadLetterList, Problem> {
        self.json(self.call(HttpMethod::GET, &format!("/v1/dead-letters/{}", segment(space)))).await
    }

    /// Where a point lives and why, or why it does not.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn why(&self, point: &Point) -> Result<Why, Problem> {
        self.json(self.call(HttpMethod::GET, &format!("/v1/why/{}", segment(point)))).await
    }

    /// Moves a mechtron to a node and waits until it is there, as long as `timeout` says.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn move_to(
        &self,
        point: &Point,
        to: &NodeName,
        timeout: Option<Duration>,
    ) -> Result<Moved, Problem> {
        let path = waiting(format!("/v1/move/{}", segment(point)), timeout);
        let client = self.patient(timeout);
        client.json(with_json(client.call(HttpMethod::POST, &path), &Move { to: to.clone() })?).await
    }

    /// The answer of a selector and then its changes, for ever: cut connections are made again and resumed.
    pub fn watch(&self, selector: &str, since: Option<String>, backoff: Backoff) -> Watch {
        Watch::new(self.clone(), selector.to_owned(), since, backoff)
    }

    /// The last lines that a mechtron logged and, with `follow`, those to come.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn logs(
        &self,
        point: &Point,
        follow: bool,
        tail: usize,
    ) -> Result<JsonLines<LogLine>, Problem> {
        let path = format!("/v1/logs/{}?follow={follow}&tail={tail}", segment(point));
        Ok(JsonLines::new(self.ok(self.call(HttpMethod::GET, &path)).await?, None))
    }

    /// Asks a point and waits for the answer; `timeout` is the deadline of the request in the mesh.
    ///
    /// # Errors
    /// How the request ended when no answer came: refused, failed, or unknown.
    pub async fn request(
        &self,
        point: &Point,
        message: Outgoing,
        timeout: Option<Duration>,
    ) -> Result<Answer, Problem> {
        let path = waiting(message_path("request", point, &message), timeout);
        let client = self.patient(timeout);
        let response = client.answer(client.message(&path, message)?).await?;
        // Only `ok` is an answer of the mechtron, whatever its status says.
        if response.headers().get("starlane-outcome").is_some_and(|outcome| outcome == "ok") {
            let headers = response.headers().clone();
            return Ok(Answer { status: response.status().as_u16(), headers, response });
        }
        Err(self.refusal(response).await.0)
    }

    /// Sends a message; done when a mailbox or a link has taken it.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn send(&self, point: &Point, message: Outgoing) -> Result<Sent, Problem> {
        let path = message_path("send", point, &message);
        self.json(self.message(&path, message)?).await
    }

    /// Asks every resource that a selector means; the answers come one by one, and a last line that counts them.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn scatter(
        &self,
        selector: &str,
        message: Outgoing,
        until: Until,
        timeout: Option<Duration>,
    ) -> Result<JsonLines<ScatterLine>, Problem> {
        let mut path = format!("/v1/scatter?select={}&until={until}", encode(selector));
        message_query(&mut path, &message);
        let path = waiting(path, timeout);
        let response = self.patient(timeout).ok(self.message(&path, message)?).await?;
        Ok(JsonLines::new(response, Some(SILENCE_MAX)))
    }

    /// Publishes a zip as the bundle at a point.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn publish(&self, point: &Point, zip: Body) -> Result<Published, Problem> {
        let call = self.call(HttpMethod::PUT, &format!("/v1/bundles/{}", segment(point)));
        self.upload(call.header(header::CONTENT_TYPE, "application/zip").body(zip)).await
    }

    /// Replaces the content of a File.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn write(&self, point: &Point, content: Body) -> Result<Written, Problem> {
        self.upload(self.call(HttpMethod::PUT, &format!("/v1/files/{}", segment(point))).body(content)).await
    }

    /// The content of a File or an Artifact.
    ///
    /// # Errors
    /// What the node answered, or `E-UNREACHABLE`.
    pub async fn read(&self, point: &Point) -> Result<Download, Problem> {
        let response = self.ok(self.call(HttpMethod::GET, &format!("/v1/files/{}", segment(point)))).await?;
        Ok(Download { bytes: response.content_length(), response })
    }

    /// The path of a read, with how fresh it must be.
    fn fresh(&self, mut path: String) -> String {
        if self.freshness == Freshness::Stale {
            let mark = mark(&path);
            _ = write!(path, "{mark}stale=ok");
        }
        path
    }

    /// The same client, which waits a little longer than the node does, so that the node can say how it ended.
    fn patient(&self, timeout: Option<Duration>) -> Self {
        Self { timeout: timeout.unwrap_or(self.timeout).saturating_add(GRACE), ..self.clone() }
    }

    fn call(&self, method: HttpMethod, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, self.token.clone())
            .header(header::ACCEPT, "application/json")
    }

    fn message(&self, path: &str, message: Outgoing) -> Result<RequestBuilder, Problem> {
        let mut call = self.call(HttpMethod::POST, path).header(header::ACCEPT, "*/*");
        for (name, value) in &message.headers {
            let wrong = || Problem::new(Code::Usage, format!("`{name}: {value}` cannot be a header"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            call = call.header(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        Ok(call.body(message.body))
    }

    /// Sends a request and waits for the head of its answer, whatever it is.
    async fn answer(&self, call: RequestBuilder) -> Result<Response, Problem> {
        match tokio::time::timeout(self.timeout, call.send()).await {
            Ok(sent) => sent.map_err(|error| self.no_answer(&error)),
            Err(_) => Err(self.too_slow()),
        }
    }

    /// Sends a request and waits for the head of an answer that is not a problem.
    async fn ok(&self, call: RequestBuilder) -> Result<Response, Problem> {
        let response = self.answer(call).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await.0) }
    }

    async fn json<T: DeserializeOwned>(&self, call: RequestBuilder) -> Result<T, Problem> {
        let response = self.ok(call).await?;
        self.read_json(response).await
    }

    /// Sends a large body. It takes the time it takes: the node ends one that makes no progress.
    async fn upload<T: DeserializeOwned>(&self, call: RequestBuilder) -> Result<T, Problem> {
        let response = call.send().await.map_err(|error| self.no_answer(&error))?;
        if response.status().is_success() {
            self.read_json(response).await
        } else {
            Err(self.refusal(response).await.0)
        }
    }

    async fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, Problem> {
        let body = match tokio::time::timeout(self.timeout, self.read_body(response)).await {
            Ok(body) => body?,
            Err(_) => return Err(self.too_slow()),
        };
        serde_json::from_slice(&body).map_err(|error| {
            Problem::new(Code::Internal, format!("the answer of {} cannot be read: {error}", self.base)).help(
                "is it a starlane node, and of the same version? See `starlane --version` on both sides",
            )
        })
    }

    async fn read_body(&self, response: Response) -> Result<Bytes, Problem> {
        let mut body = BytesMut::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| self.no_answer(&error))?;
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(Problem::new(
                    Code::TooLarge,
                    format!("the answer is larger than {ANSWER_BYTES_MAX} bytes"),
                )
                .help("ask for less at once: `--limit`"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The problem that an answer is, and the results before it.
    async fn refusal(&self, response: Response) -> (Problem, Vec<Output>) {
        let status = response.status();
        let body = match tokio::time::timeout(self.timeout, self.read_body(response)).await {
            Ok(Ok(body)) => body,
            Ok(Err(problem)) => return (problem, Vec::new()),
            Err(_) => return (self.too_slow(), Vec::new()),
        };
        match serde_json::from_slice::<ProblemDetails>(&body) {
            Ok(mut details) => {
                let done = std::mem::take(&mut details.results);
                (details.into(), done)
            }
            Err(_) => {
                let detail = format!("{} answered {status}, which is not an answer of this API", self.base);
                let problem = Problem::new(Code::Unreachable, detail).help(
                    "is a starlane node at this address? Its API is the one that `serve` prints as `api`",
                );
                (problem, Vec::new())
            }
        }
    }

    fn too_slow(&self) -> Problem {
        let waited = crate::output::human::duration(self.timeout);
        Problem::new(Code::Timeout, format!("{} gave no answer in {waited}", self.base))
            .help("it may still be at work; wait longer with `--timeout`")
    }

    fn no_answer(&self, error: &reqwest::Error) -> Problem {
        let why = root_cause(error);
        if let Some(tls) = tls_cause(error) {
            return Problem::new(Code::Unreachable, format!("{} is not believed: {tls}", self.base)).help(
                "`starlane context add … --ca FILE` names the authority of the node's certificate; the address names the \
                 node as its certificate does",
            );
        }
        if error.is_connect() {
            return Problem::new(Code::Unreachable, format!("no node answers at {}: {why}", self.base))
                .help("start one: `starlane serve`");
        }
        if error.is_builder() {
            return Problem::new(Code::Usage, format!("`{}` cannot be asked: {why}", self.base))
                .help("an address is written as `http://HOST:PORT` or `https://HOST:PORT`");
        }
        if let Some(local) = local_cause(error) {
            return Problem::new(Code::Usage, local);
        }
        Problem::new(Code::Unreachable, format!("the connection to {} broke: {why}", self.base))
            .help("whether it was done is not known: look with `starlane get` before you try again")
    }
}

/// Why a body of ours ended early: a file that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LocalFailure(pub(crate) String);

/// Why the other side's certificate is not believed, or TLS was not agreed upon.
fn tls_cause(error: &reqwest::Error) -> Option<String> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let mut inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        // One wraps the other, and tells the cause of the innermost as its own.
        while let Some(wrapped) = inner {
            if let Some(tls) = gateway::tls_failure(wrapped) {
                return Some(tls);
            }
            inner = wrapped.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        }
        cause = error.source();
    }
    None
}

fn local_cause(error: &reqwest::Error) -> Option<String> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(local) = error.downcast_ref::<LocalFailure>() {
            return Some(local.0.clone());
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && let Some(local) = io.get_ref().and_then(|inner| inner.downcast_ref::<LocalFailure>())
        {
            return Some(local.0.clone());
        }
        cause = error.source();
    }
    None
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

impl Answer {
    /// The next part of the body; `None` at its end.
    ///
    /// # Errors
    /// `E-UNREACHABLE` when the connection broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        chunk(&mut self.response).await
    }
}

impl Download {
    /// The next part of the content; `None` at its end.
    ///
    /// # Errors
    /// `E-UNREACHABLE` when the connection broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        chunk(&mut self.response).await
    }
}

async fn chunk(response: &mut Response) -> Result<Option<Bytes>, Problem> {
    response.chunk().await.map_err(|error| {
        Problem::new(
            Code::Unreachable,
            format!("the connection broke before all of it came: {}", root_cause(&error)),
        )
        .help("try again")
    })
}

fn message_path(verb: &str, point: &Point, message: &Outgoing) -> String {
    let mut path = format!("/v1/{verb}/{}", segment(point));
    message_query(&mut path, message);
    path
}

/// Appends what is asked, and of what.
fn message_query(path: &mut String, message: &Outgoing) {
    if let Some(method) = &message.method {
        let mark = mark(path);
        _ = write!(path, "{mark}method={}", encode(&method.to_string()));
    }
    if let Some(of) = &message.path {
        let mark = mark(path);
        _ = write!(path, "{mark}path={}", encode(of));
    }
}

/// Appends how long the node shall wait.
fn waiting(mut path: String, timeout: Option<Duration>) -> String {
    if let Some(timeout) = timeout {
        let mark = mark(&path);
        _ = write!(path, "{mark}timeout={}ms", timeout.as_millis());
    }
    path
}

/// What comes before the next parameter of a path.
fn mark(path: &str) -> char {
    if path.contains('?') { '&' } else { '?' }
}

/// Gives a request a JSON document.
fn with_json(call: RequestBuilder, document: &impl Serialize) -> Result<RequestBuilder, Problem> {
    let body = serde_json::to_vec(document)
        .map_err(|error| Problem::new(Code::Internal, format!("a request cannot be written: {error}")))?;
    Ok(call.header(header::CONTENT_TYPE, "application/json").body(body))
}

/// A point as one segment of a path.
fn segment(point: &Point) -> String {
    encode(point.as_str())
}

/// Percent-encodes everything but what RFC 3986 leaves unreserved, and `:`, which it allows in a segment and in a query.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            encoded.push(char::from(byte));
        } else {
            _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_one_segment() {
        let point: Point = "shop:files:/my photo.jpg".parse().unwrap();
        assert_eq!(segment(&point), "shop:files:%2Fmy%20photo.jpg");
    }

    #[test]
    fn a_token_with_line_breaks_is_refused() {
        assert_eq!(Client::new("http://a:1", "x\ny", &Trust::Machine, None).unwrap_err().code, Code::Usage);
    }
}
