//! What goes on: changes as server-sent events or lines of JSON, and logs.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use starlane_core::{Agent, Code, Event, Problem, ResumeToken};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use utoipa::IntoParams;

use super::Shared;
use super::extract::{Asks, At, Stale, text};
use crate::mesh::{Freshness, Mesh};
use crate::metrics::Metrics;
use crate::problem::Failure;
use crate::schema;
use crate::shapes::{LogLine, WatchEvent, WatchStep};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
pub(super) const NDJSON: &str = "application/x-ndjson";

/// Lines of a log when not asked otherwise, and at most.
const TAIL_DEFAULT: usize = 100;
const TAIL_MAX: usize = 10_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WatchAsks {
    /// A selector; or `count(SELECTOR)`, or `first N by KEY of SELECTOR` with `desc` behind the key for the greatest first.
    #[param(example = "shop:**")]
    select: String,
    /// The `token` to go on after; without it the list comes first. `Last-Event-ID` wins over it.
    since: Option<String>,
    /// `ok` begins with what this node last heard, also when the registry is out of reach.
    #[param(inline)]
    stale: Option<Stale>,
}

/// The answer of a selector, then its changes.
#[utoipa::path(get, path = "/v1/watch", tag = "resources",
    params(WatchAsks,
        ("last-event-id" = Option<String>, Header, description = "The `token` to go on after"),
        ("accept" = Option<String>, Header, description = "`application/x-ndjson` for lines of JSON")),
    responses((status = 200, description = "Events until one side goes away", content(
        (WatchEvent = "text/event-stream"), (WatchEvent = "application/x-ndjson")))))]
pub(crate) async fn watch<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    Asks(asks): Asks<WatchAsks>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let last = text(&headers, &LAST_EVENT_ID)?.map(str::trim).filter(|last| !last.is_empty());
    let since = last.or(asks.since.as_deref()).map(read_token).transpose()?;
    let lines =
        headers.get_all(ACCEPT).iter().any(|accept| accept.to_str().is_ok_and(|a| a.contains(NDJSON)));
    let form = if lines { Form::Lines } else { Form::Events };
    let open = Open::new(&shared)?;
    let freshness = Stale::freshness(asks.stale);
    let events = shared.mesh.watch(shared.agent(), asks.select.clone(), since, freshness).await?;
    let heartbeat = heartbeat(&shared);
    let watch = Watch {
        agent: shared.agent(),
        selector: asks.select,
        freshness,
        events,
        heartbeat,
        form,
        over: false,
        _open: open,
        shared,
    };
    let begin = futures::stream::iter(form.begin().map(Ok));
    let body = begin.chain(futures::stream::unfold(watch, Watch::next));
    Ok(stream(form.content_type(), Body::from_stream(body)))
}

pub(crate) fn read_token(text: &str) -> Result<ResumeToken, Problem> {
    text.parse().map_err(|error: starlane_core::ResumeTokenError| {
        Problem::new(Code::WatchMismatch, error.to_string())
            .help("send the `token` of an event as it came, or nothing to begin with the list")
    })
}

pub(super) fn stream(content_type: &'static str, body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies that gather an answer before they pass it on would hold it for ever.
        (ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

pub(super) fn heartbeat<M>(shared: &Shared<M>) -> Interval {
    let every = shared.config.limits.heartbeat;
    let mut heartbeat = interval_at(Instant::now() + every, every);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat
}

/// A stream that is open; counted as long as it lives.
pub(crate) struct Open {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    pub(crate) fn new<M>(shared: &Shared<M>) -> Result<Self, Problem> {
        let permit = shared.stream()?;
        shared.metrics.streams.inc();
        Ok(Self { metrics: Arc::clone(&shared.metrics), _permit: permit })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.streams.dec();
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// Server-sent events (HTML, section 9.2).
    Events,
    /// One JSON document a line.
    Lines,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Form::Events => "text/event-stream",
            Form::Lines => NDJSON,
        }
    }

    /// What comes before the first event: how soon to connect again.
    fn begin(self) -> Option<Bytes> {
        matches!(self, Form::Events).then(|| Bytes::from_static(b"retry: 1000\n\n"))
    }

    /// What says that the stream lives and means nothing.
    pub(super) fn heartbeat(self) -> Bytes {
        Bytes::from_static(match self {
            Form::Events => b": beat\n\n",
            Form::Lines => b"\n",
        })
    }

    fn event(self, event: &WatchEvent) -> io::Result<Bytes> {
        let json = serde_json::to_string(event)?;
        let name = match event.event {
            WatchStep::Listed { .. } => "listed",
            WatchStep::Changed { .. } => "changed",
            WatchStep::Counted { .. } => "counted",
            WatchStep::Ranked { .. } => "ranked",
            WatchStep::Bookmark { .. } => "bookmark",
            WatchStep::Gone { .. } => "gone",
        };
        Ok(match self {
            // JSON of one line never breaks the frame. An empty id makes a browser forget the last one.
            Form::Events => format!("id: {}\nevent: {name}\ndata: {json}\n\n", event.token).into(),
            Form::Lines => format!("{json}\n").into(),
        })
    }
}

struct Watch<M> {
    shared: Arc<Shared<M>>,
    agent: Agent,
    selector: String,
    freshness: Freshness,
    events: BoxStream<'static, (Event, ResumeToken)>,
    heartbeat: Interval,
    form: Form,
    /// Whether the history was gone, so that the list comes next.
    over: bool,
    _open: Open,
}

impl<M: Mesh> Watch<M> {
    /// The next bytes of the stream; `None` when the mesh or the door closes it.
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if std::mem::take(&mut self.over) {
            let (agent, selector) = (self.agent.clone(), self.selector.clone());
            match self.shared.mesh.watch(agent, selector, None, self.freshness).await {
                Ok(events) => self.events = events,
                Err(error) => return Some((Err(io::Error::other(error)), self)),
            }
        }
        let event = tokio::select! {
            biased;
            () = self.shared.closing.cancelled() => None,
            event = self.events.next() => Some(event?),
            _ = self.heartbeat.tick() => return Some((Ok(self.form.heartbeat()), self)),
        };
        let (event, token) = event?;
        self.heartbeat.reset();
        self.over = matches!(event, Event::Gone { .. });
        let token = if self.over { String::new() } else { token.to_string() };
        let bytes = self.form.event(&WatchEvent { event: event.into(), token });
        Some((bytes, self))
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogAsks {
    /// Whether the lines to come are told too.
    #[serde(default)]
    #[param(required = false)]
    follow: bool,
    /// How many of the last lines; 100 without it, 10,000 at most.
    #[param(maximum = 10_000)]
    tail: Option<usize>,
}

/// The lines that a mechtron logged.
#[utoipa::path(get, path = "/v1/logs/{point}", tag = "resources",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"), LogAsks),
    responses((status = 200, description = "One JSON document a line", body = LogLine, content_type = "application/x-ndjson")))]
pub(crate) async fn logs<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Asks(asks): Asks<LogAsks>,
) -> Result<Response, Failure> {
    let tail = asks.tail.unwrap_or(TAIL_DEFAULT);
    if tail > TAIL_MAX {
        let problem = Problem::new(Code::Usage, format!("`tail` is {tail}, and may be {TAIL_MAX} at most"));
        return Err(problem.help("follow the log with `follow=true` to keep more of it").into());
    }
    let open = Open::new(&shared)?;
    let lines = shared.mesh.logs(shared.agent(), point, tail, asks.follow).await?;
    let logs = Logs { lines, heartbeat: heartbeat(&shared), _open: open, shared };
    Ok(stream(NDJSON, Body::from_stream(futures::stream::unfold(logs, Logs::next))))
}

struct Logs<M> {
    shared: Arc<Shared<M>>,
    lines: BoxStream<'static, LogLine>,
    heartbeat: Interval,
    _open: Open,
}

impl<M: Mesh> Logs<M> {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let line = tokio::select! {
            biased;
            () = self.shared.closing.cancelled() => None,
            line = self.lines.next() => line,
            _ = self.heartbeat.tick() => return Some((Ok(Form::Lines.heartbeat()), self)),
        };
        self.heartbeat.reset();
        Some((json_line(&line?), self))
    }
}

pub(super) fn json_line(value: &impl Serialize) -> io::Result<Bytes> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line.into())
}
