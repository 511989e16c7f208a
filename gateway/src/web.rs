//! The users' web: `Host` → Space → the space's bind, and the reply back.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, LOCATION,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use starlane_core::socket::{self, Close};
use starlane_core::{
    Body, Code, Header, Headers, Message, Method, Outcome, Payload, Point, Problem, Reply, Trace,
};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{Answer, Budget, Guards, collect};
use crate::config::{Config, Protection};
use crate::content::{self, Asked};
use crate::doors::{Counted, Host};
use crate::mesh::{IS_DIRECTORY, Mesh, SpaceState};
use crate::metrics::Metrics;
use crate::pace::Phase;
use crate::page;
use crate::problem::{self, Failure};
use crate::sockets::{Accepted, Caller, Handshake, LOST, is_wanted};

/// The W3C trace context of a request or an answer.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What concerns one connection and not the message (RFC 9110, 7.6.1), or is said anew by who sends it on.
/// Headers that are of one connection, and go no further.
pub(crate) const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The status by which a WebSocket is accepted.
const SWITCHING: u16 = 101;

/// What a proxy says of a client; believed only from a proxy that we were told of.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

pub(crate) struct Web<M> {
    mesh: Arc<M>,
    config: Arc<Config>,
    budget: Arc<Budget>,
    /// Places for WebSockets.
    sockets: Arc<Semaphore>,
    closing: CancellationToken,
    /// What goes on beside connections, and is waited for when the doors close.
    tasks: TaskTracker,
}

impl<M: Mesh> Web<M> {
    pub(crate) fn new(
        mesh: Arc<M>,
        config: Arc<Config>,
        closing: CancellationToken,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let budget = Budget::new(config.limits.bodies_bytes_max);
        let sockets = Arc::new(Semaphore::new(config.limits.sockets_max));
        Arc::new(Self { mesh, config, budget, sockets, closing, tasks })
    }
}

/// What is known of one connection to the users' web.
pub(crate) struct Visit<M> {
    web: Arc<Web<M>>,
    phase: Arc<Phase>,
    metrics: Arc<Metrics>,
    counted: Arc<Counted>,
    /// The address of the other side, as text.
    peer: String,
    /// The space that was asked for last: nearly always the next one too.
    last_space: Mutex<Option<(HeaderValue, Point)>>,
}

impl<M: Mesh> Host for Web<M> {
    type Visit = Visit<M>;

    fn visit(
        self: &Arc<Self>,
        peer: IpAddr,
        phase: Arc<Phase>,
        metrics: Arc<Metrics>,
        counted: Arc<Counted>,
    ) -> Visit<M> {
        let peer = peer.to_canonical().to_string();
        Visit { web: Arc::clone(self), phase, metrics, counted, peer, last_space: Mutex::default() }
    }

    async fn answer(visit: Arc<Visit<M>>, request: Request<Incoming>) -> Response<Answer> {
        let guards = Guards { _serving: visit.phase.serving(), watched: visit.metrics.request() };
        let for_people = request.headers().get_all(ACCEPT).iter().any(wants_html);
        let head = request.method() == http::Method::HEAD;
        let told =
            request.headers().get(TRACEPARENT).and_then(|text| Trace::from_traceparent(text.to_str().ok()?));
        let mut trace = told;
        let mut response = match visit.respond(request, &mut trace).await {
            Ok(response) => response,
            Err(failure) => fail(failure, for_people, head, trace),
        };
        if let Some(value) = told.and_then(|trace| HeaderValue::from_str(&trace.to_traceparent()).ok()) {
            response.headers_mut().insert(TRACEPARENT, value);
        }
        let mut guards = guards;
        guards.watched.status(response.status());
        response.body_mut().guard(guards);
        response
    }
}

impl<M: Mesh> Visit<M> {
    async fn respond(
        &self,
        mut request: Request<Incoming>,
        trace: &mut Option<Trace>,
    ) -> Result<Response<Answer>, Failure> {
        let upgrade = is_wanted(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let Web { mesh, config, budget, .. } = &*self.web;
        let space = self.space(&parts)?;
        if let Some(upgrade) = upgrade {
            return self.upgrade(&parts, space, upgrade, trace).await;
        }
        let method = match parts.method {
            // A bind has no rules for HEAD: it is a GET whose body is kept back.
            http::Method::HEAD => Method::http("GET"),
            ref method => Method::http(method.as_str()),
        };
        let method = method.ok_or_else(|| {
            let detail = format!("`{}` is not a method that a bind can match", parts.method);
            Failure::usage(StatusCode::NOT_IMPLEMENTED, detail, "use GET, POST, PUT, PATCH or DELETE")
        })?;
        let path = path_of(&parts)?;
        let headers = self.headers(&parts.headers)?;
        let (bytes, _reserved) = collect(body, &config.limits, budget).await?;
        let request = starlane_core::Request { method, path: path.into(), headers, body: Body::Bytes(bytes) };
        let outcome = mesh.request(self.message(request, &space, trace)).await;
        self.answer(&parts, &space, outcome).await
    }

    /// The message of a request.
    fn message(&self, request: starlane_core::Request, space: &Point, trace: &mut Option<Trace>) -> Message {
        let Web { mesh, config, .. } = &*self.web;
        let mut header = Header::new(
            mesh.new_message_id(),
            config.point.clone(),
            space.clone(),
            config.web_agent.clone(),
            config.limits.request_timeout,
        );
        header.trace = trace.unwrap_or(header.trace);
        *trace = Some(header.trace);
        Message { header, payload: Payload::Request(request) }
    }

    /// Asks whether a WebSocket is accepted, and opens it.
    async fn upgrade(
        &self,
        parts: &http::request::Parts,
        space: Point,
        upgrade: OnUpgrade,
        trace: &mut Option<Trace>,
    ) -> Result<Response<Answer>, Failure> {
        let Web { mesh, config, budget, sockets, closing, tasks } = &*self.web;
        let handshake = Handshake::read(parts)?;
        let path = path_of(parts)?;
        let place = Arc::clone(sockets).try_acquire_owned().map_err(|_| {
            let mut problem = Problem::new(Code::Busy, "too many WebSockets are open");
            problem.retry_after = Some(5);
            problem.help("try again in a moment, or at another node")
        })?;
        let socket = mesh.socket()?;
        let headers = Handshake::told(self.headers(&parts.headers)?, socket.point());
        let method = Method::http("GET").ok_or_else(|| Problem::new(Code::Internal, "GET is no method"))?;
        let body = Body::Bytes(Bytes::new());
        let request = starlane_core::Request { method, path: path.into(), headers, body };
        let message = self.message(request, &space, trace);
        let caller = |from: &Point, to| Caller {
            mesh: Arc::clone(mesh),
            config: Arc::clone(config),
            from: from.clone(),
            to,
        };
        // Who accepts a client that has left meanwhile is told so, and so it is asked beside the connection.
        let asked = Arc::clone(mesh);
        let unheard = caller(socket.point(), space.clone());
        let (told, answered) = oneshot::channel();
        tasks.spawn(async move {
            if let Err((outcome, by)) = told.send(asked.upgrade(message).await)
                && is_accepted(&outcome)
            {
                Caller { to: by, ..unheard }
                    .closed(Close::new(LOST, "the client left before it was open"))
                    .await;
            }
        });
        let (outcome, by) = answered
            .await
            .map_err(|_| Problem::new(Code::Internal, "the request for a WebSocket was lost"))?;
        let reply = match outcome {
            Outcome::Ok(reply) if reply.status == SWITCHING => reply,
            other => return self.answer(parts, &space, other).await,
        };
        let caller = caller(socket.point(), by);
        let opened =
            read_headers(&reply.headers).and_then(|headers| handshake.answer(headers).map_err(Failure::from));
        let response = match opened {
            Ok(response) => response,
            Err(failure) => {
                tasks.spawn(caller.closed(Close::new(LOST, "it could not be opened")));
                return Err(failure);
            }
        };
        let accepted = Accepted {
            caller,
            socket,
            first: Outcome::Ok(reply),
            budget: Arc::clone(budget),
            closing: closing.clone(),
            metrics: Arc::clone(&self.metrics),
            _place: place,
            _serving: self.phase.serving(),
            _counted: Arc::clone(&self.counted),
        };
        tasks.spawn(accepted.run(upgrade));
        Ok(response)
    }

    /// What is answered to a request.
    async fn answer(
        &self,
        parts: &http::request::Parts,
        space: &Point,
        outcome: Outcome,
    ) -> Result<Response<Answer>, Failure> {
        let mesh = &self.web.mesh;
        let path = path_of(parts)?;
        if let Outcome::Rejected(refusal) = &outcome
            && matches!(
                refusal.code,
                Code::NotFound | Code::NoRoute | Code::ArtifactInvalid | Code::BindSyntax
            )
        {
            explain_space(&**mesh, space).await?;
        }
        let reply = problem::reply(outcome)?;
        let asked = Asked::of(&parts.method, &parts.headers);
        let (status, mut headers, body) = read_reply(reply)?;
        if headers.remove(IS_DIRECTORY).is_some()
            && let Some(location) = with_slash(path)
        {
            return Ok(redirect(location));
        }
        Ok(content::answer(&**mesh, &asked, status, headers, body).await?)
    }

    /// The space that a request is for.
    fn space(&self, parts: &http::request::Parts) -> Result<Point, Failure> {
        // The target's authority wins over the header (RFC 9112, 3.2.2).
        if let Some(authority) = parts.uri.authority() {
            return Ok(space_of(authority.as_str())?);
        }
        let mut hosts = parts.headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            let problem = Problem::new(Code::Usage, "the request has no `Host` header, or several");
            return Err(problem.help("say which space is asked for: `Host: NAME`").into());
        };
        let mut last = self.last_space.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, space)) = &*last
            && known == host
        {
            return Ok(space.clone());
        }
        let text =
            host.to_str().map_err(|_| Problem::new(Code::Usage, "the `Host` header is not plain text"))?;
        let space = space_of(text)?;
        *last = Some((host.clone(), space.clone()));
        Ok(space)
    }

    /// The headers of a request as the mesh gets them.
    fn headers(&self, headers: &HeaderMap) -> Result<Headers, Problem> {
        let behind_proxy = matches!(self.web.config.protection, Protection::BehindProxy);
        let named = connection_names(headers);
        let mut list: Vec<(&str, &str)> = Vec::with_capacity(headers.len() + 2);
        for (name, value) in headers {
            let name = name.as_str();
            let dropped = HOP_BY_HOP.contains(&name)
                || name == TRACEPARENT.as_str()
                // Nobody says of himself that he is a socket.
                || name == socket::HEADER
                || (!behind_proxy && FORWARDED.contains(&name))
                || named.iter().any(|named| named == name);
            if dropped {
                continue;
            }
            let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
                let problem = Problem::new(Code::Usage, format!("the header `{name}` is not UTF-8"));
                return Err(problem.help("send text, percent-encoded where it is not ASCII"));
            };
            list.push((name, value));
        }
        if !behind_proxy {
            list.push(("x-forwarded-for", &self.peer));
            let is_tls = matches!(self.web.config.protection, Protection::Tls(_));
            list.push(("x-forwarded-proto", if is_tls { "https" } else { "http" }));
        }
        Ok(list.into_iter().collect())
    }
}

/// The names that `Connection` says belong to the connection.
fn connection_names(headers: &HeaderMap) -> Vec<String> {
    let lists = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// The path of a request, with its query.
fn path_of(parts: &http::request::Parts) -> Result<&str, Problem> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    if path.starts_with('/') {
        return Ok(path);
    }
    let problem = Problem::new(Code::Usage, format!("the path `{path}` does not begin with `/`"));
    Err(problem.help("ask for a path of the space, as `/`"))
}

/// Whether a WebSocket was accepted.
fn is_accepted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Ok(reply) if reply.status == SWITCHING)
}

fn wants_html(accept: &HeaderValue) -> bool {
    accept.to_str().is_ok_and(|accept| accept.contains("text/html"))
}

/// The space that a host names: without port, `NAME.localhost` is NAME, an address of this machine is `localhost`.
fn space_of(host: &str) -> Result<Point, Problem> {
    let name = host_name(host);
    let name = match name.strip_suffix(".localhost") {
        Some(name) => name,
        None if matches!(&*name, "127.0.0.1" | "[::1]") => "localhost",
        None => &name,
    };
    let wrong = |reason: &str| {
        let problem =
            Problem::new(Code::PointSyntax, format!("the host `{name}` cannot name a space: {reason}"));
        problem.help("a space is named like a host: `shop`, `my-domain.com`")
    };
    // A colon would make it a point of several segments.
    match name.parse::<Point>() {
        Ok(point) if !point.is_root() && !name.contains(':') => Ok(point),
        Ok(_) => Err(wrong("it is not one segment")),
        Err(error) => Err(wrong(&error.reason)),
    }
}

/// The name in a `Host` header: without port and final dot, in lower case.
pub(crate) fn host_name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Where the directory is that a path names without its `/`; `None` when it is named with it.
fn with_slash(path: &str) -> Option<HeaderValue> {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let name = path.rsplit('/').next().filter(|name| !name.is_empty())?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    // Relative, so that it holds behind a proxy that serves the space elsewhere; `./` keeps a colon in it harmless.
    HeaderValue::from_str(&format!("./{name}/{query}")).ok()
}

fn redirect(location: HeaderValue) -> Response<Answer> {
    let mut response = Response::new(Answer::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// Says what to type next when a space cannot answer the web; nothing when the bind itself said no.
async fn explain_space<M: Mesh>(mesh: &M, space: &Point) -> Result<(), Problem> {
    match mesh.space(space.clone()).await {
        SpaceState::Ready => Ok(()),
        SpaceState::NoBind => {
            let problem = Problem::new(Code::NoRoute, format!("the space `{space}` has no bind")).at(space);
            let bind = format!("{space}:repo:site:1.0.0:/bind/site.bind");
            Err(problem.help(format!(
                "publish a bundle with a bind in it, then `starlane set '{space}{{ +bind={bind} }}'`"
            )))
        }
        SpaceState::BadBind { reason } => {
            let detail = format!("the bind of the space `{space}` cannot be used: {reason}");
            let help = format!(
                "`starlane get '{space}{{ bind }}'` shows which it is; publish it again, or set another"
            );
            Err(Problem::new(Code::NotReady, detail).at(space).help(help))
        }
        SpaceState::Missing => {
            let problem = Problem::new(Code::NotFound, format!("there is no space `{space}`")).at(space);
            Err(problem.help(format!("`starlane create '{space}<Space>'`")))
        }
    }
}

/// The status, headers and body of a reply as HTTP has them.
///
/// # Errors
/// `HandlerFailed` when HTTP cannot say it.
pub(crate) fn read_reply(reply: Reply) -> Result<(StatusCode, HeaderMap, Body), Failure> {
    let status =
        StatusCode::from_u16(reply.status).ok().filter(|status| (200..600).contains(&status.as_u16()));
    let status = status.ok_or_else(|| unsayable(format!("the status {}", reply.status)))?;
    Ok((status, read_headers(&reply.headers)?, reply.body))
}

/// The headers of a reply as HTTP has them, without those of its connection.
///
/// # Errors
/// `HandlerFailed` when HTTP cannot say one of them.
fn read_headers(told: &Headers) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::with_capacity(8);
    for (name, value) in told.iter() {
        if HOP_BY_HOP.contains(&name) {
            continue;
        }
        let known = HeaderName::from_bytes(name.as_bytes()).ok().zip(
            HeaderValue::from_str(value).ok().or_else(|| HeaderValue::from_bytes(value.as_bytes()).ok()),
        );
        let (name, value) = known
            .ok_or_else(|| unsayable(format!("a header that HTTP cannot say: `{}`", name.escape_debug())))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn unsayable(what: String) -> Problem {
    Problem::new(Code::HandlerFailed, format!("the reply has {what}"))
        .help("a reply has a status from 200 to 599, and headers of one line each")
}

fn fail(failure: Failure, for_people: bool, head: bool, trace: Option<Trace>) -> Response<Answer> {
    let (status, mut headers, body) = if for_people {
        let mut headers = HeaderMap::new();
        failure.headers(&mut headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        let status = failure.status;
        (status, headers, page::problem(&failure.details(trace)).into())
    } else {
        failure.render(trace)
    };
    headers.remove(TRANSFER_ENCODING);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut response = Response::new(if head { Answer::empty() } else { Answer::whole(body) });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_led_to_with_its_slash() {
        for (path, location) in [("/a/sub", "./sub/"), ("/sub?q=a/b", "./sub/?q=a/b"), ("/x:y", "./x:y/")] {
            assert_eq!(with_slash(path).unwrap(), location);
        }
        for whole in ["/", "/a/", "/?q"] {
            assert_eq!(with_slash(whole), None);
        }
    }

    #[test]
    fn a_host_names_a_space() {
        for (host, space) in [
            ("shop", "shop"),
            ("Shop.localhost:8080", "shop"),
            ("my-domain.com.", "my-domain.com"),
            ("localhost:8080", "localhost"),
            ("127.0.0.1:1", "localhost"),
            ("[::1]:8080", "localhost"),
            ("192.168.1.5", "192.168.1.5"),
        ] {
            assert_eq!(space_of(host).unwrap().as_str(), space, "{host}");
        }
        for host in ["", "a:b", "ROOT:x", "a/b", "-x", "[::2]", "shop:orders", ".localhost"] {
            assert!(space_of(host).is_err(), "{host}");
        }
    }
}
