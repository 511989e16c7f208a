//! The `/v1` API: who may ask, which handler answers, and how its errors look.

mod extract;
mod files;
mod history;
mod homes;
mod inside;
mod lent;
mod mesh;
mod messages;
mod nodes;
mod openapi;
mod resources;
mod scatter;
mod topics;
mod watch;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post, put};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use starlane_core::{Agent, Code, Problem, Trace};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::body::{Answer, Budget, Guards};
use crate::config::{Config, Protection};
use crate::doors::{Counted, Host};
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::pace::Phase;
use crate::portal::{Door, session};
use crate::problem::Failure;
use crate::web::{TRACEPARENT, host_name};

pub(crate) use inside::{ask, call, whole};
pub(crate) use messages::said;
pub(crate) use openapi::document;
pub(crate) use watch::{Open, read_token};

/// Who needs no token: those who ask whether the node lives, and those who want to learn the API.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/openapi.json"];

/// Where sessions of the portal are opened.
const PORTAL: &str = "/v1/ws";

pub(crate) struct Api<M> {
    router: Router,
    shared: Arc<Shared<M>>,
}

/// What all handlers share.
pub(crate) struct Shared<M> {
    pub(crate) mesh: Arc<M>,
    pub(crate) config: Arc<Config>,
    budget: Arc<Budget>,
    registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    streams: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    pub(crate) closing: CancellationToken,
    /// What goes on beside connections, and is waited for when the doors close.
    pub(crate) tasks: TaskTracker,
}

impl<M> Shared<M> {
    /// On whose authority the bearer of the token acts.
    pub(crate) fn agent(&self) -> Agent {
        self.config.api_agent.clone()
    }

    /// Whether a text is the token of the API.
    pub(crate) fn knows(&self, token: &str) -> bool {
        equal(token.as_bytes(), self.config.token.as_bytes())
    }

    /// A place among the sessions that may be open.
    pub(crate) fn session(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.sessions).try_acquire_owned().map_err(|_| {
            let mut problem = Problem::new(Code::Busy, "too many sessions of the portal are open");
            problem.retry_after = Some(5);
            problem.help("serve more points in one session, or connect to another node")
        })
    }

    /// A place among the streams that may be open.
    fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let mut problem = Problem::new(Code::Busy, "too many watches, logs and scatters are open");
            problem.retry_after = Some(5);
            problem.help("close some, or watch more with one selector")
        })
    }
}

impl<M: Mesh> Api<M> {
    pub(crate) fn new(
        mesh: Arc<M>,
        config: Arc<Config>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
        closing: CancellationToken,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let limits = &config.limits;
        let shared = Arc::new(Shared {
            mesh,
            budget: Budget::new(limits.bodies_bytes_max),
            streams: Arc::new(Semaphore::new(limits.streams_max)),
            sessions: Arc::new(Semaphore::new(limits.sessions_max)),
            config,
            registry,
            metrics,
            closing,
            tasks,
        });
        Arc::new(Self { router: router(Arc::clone(&shared)), shared })
    }

    /// Whether a request may be answered, and whether it carries the token.
    fn check(&self, path: &str, headers: &HeaderMap) -> Result<bool, Failure> {
        self.check_host(headers)?;
        self.check_origin(headers)?;
        if OPEN.contains(&path) {
            return Ok(false);
        }
        let given = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        if given.is_some_and(|given| self.shared.knows(given)) {
            return Ok(true);
        }
        if path == PORTAL && given.is_none() {
            // A browser cannot send it along; then the first frame carries it.
            return Ok(false);
        }
        let detail = if given.is_some() { "the token is not valid" } else { "the request carries no token" };
        let help = "send `Authorization: Bearer TOKEN`; the administrator's token is a file in the node's data folder";
        Err(Problem::new(Code::Unauthorized, detail).help(help).into())
    }

    /// A page from elsewhere whose name was made to point here gives itself away by that name. With TLS it does not come so
    /// far: the certificate is for another name.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let mut hosts = headers.get_all(HOST).iter();
        let name = match (hosts.next().map(HeaderValue::to_str), hosts.next()) {
            (Some(Ok(host)), None) => host_name(host),
            _ => return Err(Problem::new(Code::Usage, "the request has no `Host` header, or several").into()),
        };
        let plain = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let is_tls = matches!(self.shared.config.protection, Protection::Tls(_));
        if is_tls || plain || name == "localhost" || self.shared.config.api_hosts.contains(&name) {
            return Ok(());
        }
        let problem = Problem::new(Code::Forbidden, format!("this API is not served as `{name}`"));
        Err(problem
            .help("call it by its address or as `localhost`, or start the node with that name allowed")
            .into())
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let text = origin.to_str().unwrap_or_default();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let own = text.split_once("://").is_some_and(|(scheme, authority)| {
            matches!(scheme, "http" | "https") && authority.eq_ignore_ascii_case(host)
        });
        if own || self.shared.config.api_origins.iter().any(|allowed| allowed == text) {
            return Ok(());
        }
        let problem = Problem::new(Code::Forbidden, "pages of another origin may not call this API");
        Err(problem.help("call it from a program, or start the node with `--allow-origin ORIGIN`").into())
    }
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
fn equal(given: &[u8], known: &[u8]) -> bool {
    let differ = given.iter().zip(known).fold(0, |differ, (a, b)| std::hint::black_box(differ | (a ^ b)));
    given.len() == known.len() && differ == 0
}

fn router<M: Mesh>(shared: Arc<Shared<M>>) -> Router {
    Router::new()
        .route("/healthz", get(mesh::healthz))
        .route("/readyz", get(mesh::readyz::<M>))
        .route("/metrics", get(mesh::metrics::<M>))
        .route("/openapi.json", get(openapi::openapi))
        .route("/v1/info", get(mesh::info::<M>))
        .route("/v1/errors", get(mesh::errors))
        .route("/v1/nodes", get(nodes::list::<M>))
        .route("/v1/nodes/{name}", get(nodes::get::<M>).patch(nodes::patch::<M>).delete(nodes::revoke::<M>))
        .route("/v1/graph", get(nodes::graph::<M>))
        .route("/v1/tokens", get(nodes::tokens::<M>).post(nodes::new_token::<M>))
        .route("/v1/tokens/{id}", delete(nodes::delete_token::<M>))
        .route("/v1/trace/{point}", get(homes::trace::<M>))
        .route("/v1/dead-letters/{point}", get(messages::dead_letters::<M>))
        .route("/v1/why/{point}", get(homes::why::<M>))
        .route("/v1/move/{point}", post(homes::move_to::<M>))
        .route("/v1/exec", post(mesh::exec::<M>))
        .route("/v1/resources", get(resources::select::<M>).post(resources::create::<M>))
        .route(
            "/v1/resources/{point}",
            get(resources::get::<M>).patch(resources::patch::<M>).delete(resources::delete::<M>),
        )
        .route("/v1/describe/{point}", get(resources::describe::<M>))
        .route("/v1/history/{point}", get(history::history::<M>))
        .route("/v1/diff", get(history::diff::<M>))
        .route("/v1/backup", get(history::backup::<M>))
        .route("/v1/watch", get(watch::watch::<M>))
        .route("/v1/logs/{point}", get(watch::logs::<M>))
        .route("/v1/request/{point}", post(messages::request::<M>))
        .route("/v1/send/{point}", post(messages::send::<M>))
        .route("/v1/scatter", post(scatter::scatter::<M>))
        .route("/v1/publish/{point}", post(topics::publish::<M>))
        .route("/v1/subscribe/{point}", get(topics::subscribe::<M>))
        .route(PORTAL, get(session::open::<M>))
        .route("/v1/bundles/{point}", put(files::publish::<M>))
        .route("/v1/files/{point}", get(files::read::<M>).put(files::write::<M>))
        .fallback(no_path)
        .method_not_allowed_fallback(no_method)
        .with_state(shared)
}

async fn no_path(uri: http::Uri) -> Failure {
    let help = "a point is one segment, with `/` as `%2F`; all paths are in `/openapi.json`";
    Failure::usage(StatusCode::NOT_FOUND, format!("this API has no path `{}`", uri.path()), help)
}

async fn no_method(method: http::Method, uri: http::Uri) -> Failure {
    let detail = format!("`{}` cannot be asked with {method}", uri.path());
    Failure::usage(StatusCode::METHOD_NOT_ALLOWED, detail, "the `Allow` header lists the methods that it has")
}

/// What is known of one connection to the API.
pub(crate) struct Visit<M> {
    api: Arc<Api<M>>,
    phase: Arc<Phase>,
    metrics: Arc<Metrics>,
}

impl<M: Mesh> Host for Api<M> {
    type Visit = Visit<M>;

    fn visit(
        self: &Arc<Self>,
        _peer: IpAddr,
        phase: Arc<Phase>,
        metrics: Arc<Metrics>,
        _counted: Arc<Counted>,
    ) -> Visit<M> {
        Visit { api: Arc::clone(self), phase, metrics }
    }

    async fn answer(visit: Arc<Visit<M>>, mut request: Request<Incoming>) -> Response<Answer> {
        let mut guards = Guards { _serving: visit.phase.serving(), watched: visit.metrics.request() };
        let told =
            request.headers().get(TRACEPARENT).and_then(|text| Trace::from_traceparent(text.to_str().ok()?));
        let trace = told.unwrap_or_else(|| Trace::root(visit.api.shared.mesh.new_message_id()));
        request.extensions_mut().insert(trace);
        let answered = match visit.api.check(request.uri().path(), request.headers()) {
            Ok(authorized) => {
                if request.uri().path() == PORTAL {
                    let serving = Arc::new(visit.phase.serving());
                    let door = Door { api: visit.api.router.clone(), authorized, _serving: serving };
                    request.extensions_mut().insert(door);
                }
                let request = request.map(axum::body::Body::new);
                match visit.api.router.clone().call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
            Err(failure) => axum::response::IntoResponse::into_response(failure),
        };
        let mut response = finish(answered, trace);
        guards.watched.status(response.status());
        response.body_mut().guard(guards);
        response
    }
}

/// Writes the document of a problem, and the headers that every answer has.
fn finish(mut response: axum::response::Response, trace: Trace) -> Response<Answer> {
    let mut response = match response.extensions_mut().remove::<Failure>() {
        Some(failure) => {
            let (status, rendered, body) = failure.render(Some(trace));
            let mut failed = Response::new(Answer::empty());
            *failed.status_mut() = status;
            // `Allow` may be known to the router alone.
            *failed.headers_mut() = std::mem::take(response.headers_mut());
            failed.headers_mut().extend(rendered);
            failed.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            *failed.body_mut() = Answer::whole(body);
            failed
        }
        None => response.map(Answer::other),
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(&trace.to_traceparent()) {
        headers.insert(TRACEPARENT, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_secrets_are_equal() {
        assert!(equal(b"secret", b"secret"));
        for other in ["", "secre", "secret1", "Secret"] {
            assert!(!equal(other.as_bytes(), b"secret"), "{other}");
        }
    }
}
