//! A mesh of a few lines: what it answers is decided by the path or the point that it is asked for.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use gateway::portal::{Order, Pools, Seat, Subscription, Topics};
use gateway::shapes::*;
use gateway::{
    Comparison, Content, Expect, Freshness, Gathered, Gathering, Mesh, Scatter, Selection, Socket, Sockets,
    SpaceState, TokenTerms, Upload,
};
use starlane_core::{
    Agent, Blob, Body, Change, Code, Digest, Epoch, Event, Generation, Kind, Message, MessageId, NodeName,
    Outcome, Payload, Phase, Point, Problem, Property, PropertyChange, Refusal, Reply, Resource, ResumeToken,
    Revision, Role, Span, Status, Timestamp,
};

/// Content whose every byte is known: byte `n` is `n % 251`.
pub(crate) fn pattern(range: Range<u64>) -> Vec<u8> {
    range.map(|at| (at % 251) as u8).collect()
}

/// Enough of the content to cut any part from.
static PATTERN: LazyLock<Bytes> = LazyLock::new(|| pattern(0..65_536 + 251).into());

pub(crate) fn point(text: &str) -> Point {
    text.parse().unwrap()
}

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn node(text: &str, hops: Option<u32>) -> NodeInfo {
    NodeInfo {
        name: name(text),
        point: point(&format!("mesh:nodes:{text}")),
        ready: hops.is_some(),
        status: match hops {
            Some(_) => Status::ready(),
            None => Status::because(Phase::Unknown, "nobody has a link to it"),
        },
        role: if text == "cloud" { Role::Relay } else { Role::Leaf },
        generation: Generation(7),
        version: "0.1.0".into(),
        mechtrons: 3,
        live: 1,
        hops,
        draining: false,
        registry: text == "cloud",
        addresses: if text == "cloud" { vec!["203.0.113.7:4343".into()] } else { vec![] },
        seen_ms: Some(400),
        labels: [("tier".to_owned(), text.to_owned())].into(),
    }
}

/// Says that a stream was given up by whoever read it.
struct GivenUp(Arc<Mutex<Vec<String>>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("the rest is given up".into());
    }
}

pub(crate) fn resource(text: &str, revision: u64) -> Resource {
    Resource {
        point: point(text),
        kind: "Mechtron".parse().unwrap(),
        properties: [("title".parse().unwrap(), Property { value: "blue".into(), locked: true })].into(),
        status: Status::ready(),
        created: Revision(3),
        modified: Revision(revision),
        version: 2,
    }
}

#[derive(Default)]
pub(crate) struct Fake {
    ids: AtomicU64,
    /// What the mesh was told, in order.
    pub(crate) heard: Arc<Mutex<Vec<String>>>,
    pub(crate) unready: std::sync::atomic::AtomicBool,
    /// Lets one request through `/gate`.
    pub(crate) gate: tokio::sync::Notify,
    pub(crate) pools: Pools,
    pub(crate) topics: Topics,
    pub(crate) sockets: Lazy,
}

/// The WebSockets of the node `test`.
pub(crate) struct Lazy(pub(crate) Sockets);

impl Default for Lazy {
    fn default() -> Self {
        Self(Sockets::new(name("test")))
    }
}

impl Fake {
    fn hear(&self, text: impl Into<String>) {
        self.heard.lock().unwrap().push(text.into());
    }

    pub(crate) fn last(&self) -> String {
        self.heard.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

impl Fake {
    /// Says it back, in another way for some words.
    async fn socket_message(
        &self,
        header: &starlane_core::Header,
        request: &starlane_core::Request,
    ) -> Outcome {
        let Body::Bytes(body) = request.body.clone() else { panic!("not at hand") };
        let content_type = request.headers.get("content-type").unwrap();
        self.hear(format!(
            "{} {} for {}: {} bytes of {content_type}",
            header.from,
            header.to,
            header.agent,
            body.len()
        ));
        match &body[..] {
            b"hush" => Outcome::Ok(Reply::new(204, "text/plain", "")),
            b"refuse" => Outcome::Ok(Reply::new(422, "application/problem+json", "{}")),
            b"fail" => Outcome::Failed(Refusal::new(Code::Trapped, "a secret of the mechtron's")),
            b"gone" => Outcome::Rejected(Refusal::new(Code::NotFound, "nothing is there")),
            b"gate" => {
                self.gate.notified().await;
                self.hear("through the gate");
                Outcome::Ok(Reply::new(200, "text/plain", "through the gate"))
            }
            _ => Outcome::Ok(Reply::new(200, content_type, body)),
        }
    }
}

fn not_found(point: &Point) -> Problem {
    Problem::new(Code::NotFound, format!("no resource is at `{point}`"))
        .at(point)
        .help("`starlane create` makes one")
}

fn blob(bytes: u64) -> Blob {
    Blob { digest: Digest([7; 32]), bytes }
}

/// All that happens in the watched world, from revision 10 on.
fn history() -> Vec<Event> {
    let at = |text: &str, revision| Arc::new(resource(text, revision));
    let changed = |revision, changes| Event::Changed { revision: Revision(revision), changes };
    vec![
        changed(11, vec![Change::Entered(at("shop:a", 11)), Change::Updated(at("shop:b", 11))]),
        changed(12, vec![Change::Left(at("shop:a", 12))]),
        Event::Bookmark { revision: Revision(13) },
        changed(14, vec![Change::Entered(at("shop:c", 14))]),
    ]
}

fn revision_of(event: &Event) -> Revision {
    match event {
        Event::Listed { revision, .. }
        | Event::Changed { revision, .. }
        | Event::Counted { revision, .. }
        | Event::Ranked { revision, .. }
        | Event::Bookmark { revision } => *revision,
        Event::Gone { oldest } => *oldest,
    }
}

impl Mesh for Fake {
    fn new_message_id(&self) -> MessageId {
        MessageId((0x0190 << 112) | u128::from(self.ids.fetch_add(1, Ordering::Relaxed)))
    }

    async fn request(&self, message: Message) -> Outcome {
        if self.pools.serves(&message.header.to) {
            return self.pools.request(message).await;
        }
        if starlane_core::socket::node_of(&message.header.to).is_some() {
            return self.sockets.0.request(message);
        }
        let Payload::Request(request) = message.payload else { panic!("not a request") };
        let header = message.header;
        if request.method.to_string() == "Ext<SocketMessage>" {
            return self.socket_message(&header, &request).await;
        }
        let text = |status, text: &str| Outcome::Ok(Reply::new(status, "text/plain", text.to_owned()));
        let refusal = |code| Refusal::new(code, "because");
        if header.to == point("missing") {
            return Outcome::Rejected(refusal(Code::NotFound));
        }
        if header.to == point("unbound") {
            return Outcome::Rejected(refusal(Code::NoRoute));
        }
        let (path, _query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let mut reply = Reply::new(200, "text/plain", "");
        match path {
            "/hello" => return text(200, "hello\n"),
            "/echo" => {
                let Body::Bytes(body) = &request.body else { panic!("not at hand") };
                let headers: Vec<_> =
                    request.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let said = format!(
                    "{} {} to {} from {} for {} in {:?}\n{}\n\n{} bytes: {}",
                    request.method,
                    request.path,
                    header.to,
                    header.from,
                    header.agent,
                    header.remaining,
                    headers.join("\n"),
                    body.len(),
                    String::from_utf8_lossy(&body[..body.len().min(64)]),
                );
                return text(200, &said);
            }
            "/trace" => return text(200, &header.trace.to_traceparent()),
            "/teapot" => return text(418, "short and stout"),
            "/nothing" => return text(204, ""),
            "/text" => reply.body = Body::Bytes("a line of text\n".repeat(1000).into()),
            "/tagged" => {
                reply.headers.set("etag", "\"v1\"");
                reply.body = Body::Bytes("0123456789".into());
            }
            "/blob" => {
                reply.headers.set("content-type", "application/octet-stream");
                reply.body = Body::Blob(blob(1_000_000));
            }
            "/huge" => {
                reply.headers.set("content-type", "application/octet-stream");
                reply.body = Body::Blob(blob(1 << 32));
            }
            "/style.css" => {
                reply.headers.set("content-type", "text/css");
                reply.body = Body::Blob(blob(300_000));
            }
            "/torn" => {
                reply.headers.set("content-type", "application/octet-stream");
                reply.body = Body::Blob(Blob { digest: Digest([9; 32]), bytes: 300_000 });
            }
            "/cookies" => {
                reply.headers.add("set-cookie", "a=1");
                reply.headers.add("set-cookie", "b=2");
                reply.headers.set("connection", "close");
                reply.headers.set("transfer-encoding", "chunked");
                reply.headers.set("content-length", "999");
            }
            "/bad-header" => reply.headers.set("x-split", "a\r\nset-cookie: stolen=1"),
            "/bad-status" => reply.status = 101,
            "/busy" => {
                let retry_after = Some(std::time::Duration::from_secs(3));
                return Outcome::Rejected(Refusal { retry_after, ..refusal(Code::Busy) });
            }
            "/invalid" => return Outcome::Rejected(refusal(Code::MessageInvalid)),
            "/no-route" => return Outcome::Rejected(refusal(Code::NoRoute)),
            "/cycle" => return Outcome::Rejected(refusal(Code::CycleDetected)),
            "/unreachable" => return Outcome::Rejected(refusal(Code::Unreachable)),
            "/unknown" => return Outcome::Unknown(refusal(Code::Timeout)),
            "/trap" => return Outcome::Failed(refusal(Code::Trapped)),
            "/failed-late" => return Outcome::Failed(refusal(Code::NotFound)),
            "/never" => std::future::pending().await,
            "/gate" => {
                self.hear("at the gate");
                self.gate.notified().await;
                return text(200, "through the gate");
            }
            other => return text(404, &format!("the bind knows no {other}")),
        }
        Outcome::Ok(reply)
    }

    async fn send(&self, message: Message) -> Result<MessageId, Problem> {
        let Payload::Signal(signal) = &message.payload else { panic!("not a signal") };
        if self.pools.serves(&message.header.to) {
            return Ok(self.pools.send(message).map(|()| MessageId(43))?);
        }
        if let ("Ext<SocketClosed>", Body::Bytes(body)) = (&*signal.method.to_string(), &signal.body) {
            let Message { header, .. } = &message;
            let (from, to) = (&header.from, &header.to);
            self.hear(format!("{from} to {to}: closed {}", String::from_utf8_lossy(body)));
            return Ok(MessageId(44));
        }
        self.hear(format!("{} {} to {}", signal.method, signal.path, message.header.to));
        if message.header.to == point("missing") {
            Err(not_found(&message.header.to))
        } else {
            Ok(MessageId(42))
        }
    }

    fn socket(&self) -> Result<Socket, Problem> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        Ok(self.sockets.0.open(u128::from(id))?)
    }

    /// `/live` accepts, with the protocol that the query says; whatever else is answered as any request.
    async fn upgrade(&self, message: Message) -> (Outcome, Point) {
        let by = point("shop:chat");
        let Payload::Request(request) = &message.payload else { panic!("not a request") };
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if path != "/live" {
            return (self.request(message).await, by);
        }
        let told = ["starlane-socket", "upgrade", "origin", "sec-websocket-protocol", "sec-websocket-key"]
            .map(|name| request.headers.get(name).unwrap_or("-").to_owned());
        self.hear(told.join(" "));
        let mut reply = Reply::new(101, "text/plain", if query == "hello" { "hello" } else { "" });
        if let Some(protocol) = query.strip_prefix("protocol=") {
            reply.headers.set("sec-websocket-protocol", protocol);
        }
        if query == "gate" {
            self.hear("at the gate");
            self.gate.notified().await;
        }
        (Outcome::Ok(reply), by)
    }

    fn seat(&self) -> (Seat, tokio::sync::mpsc::Receiver<Order>) {
        self.pools.seat()
    }

    async fn serve(
        &self,
        _agent: Agent,
        point: Point,
        kind: Option<Kind>,
        seat: Seat,
    ) -> Result<(), Problem> {
        self.hear(format!("serve {point} as {}", kind.map(|kind| kind.to_string()).unwrap_or_default()));
        if point.space() == Some("missing") {
            return Err(not_found(&point));
        }
        Ok(seat.join(&point)?)
    }

    async fn publish_event(&self, message: Message) -> Result<(), Problem> {
        self.topics.tell(message);
        Ok(())
    }

    async fn subscribe(&self, _agent: Agent, topic: Point) -> Result<Subscription, Problem> {
        if topic.space() == Some("missing") {
            return Err(not_found(&topic));
        }
        Ok(self.topics.subscribe(&topic)?)
    }

    async fn exec(&self, agent: Agent, script: String) -> Result<Vec<Output>, ExecProblem> {
        self.hear(format!("{agent}: {script}"));
        let done = vec![
            Output::Created { resource: resource("shop", 4), outcome: CreateOutcome::Created },
            Output::Resource { resource: resource("shop", 4) },
            Output::Properties { point: point("shop"), properties: resource("shop", 4).properties },
            Output::List {
                resources: vec![Arc::new(resource("shop:a", 4))],
                revision: Revision(9),
                next: None,
            },
            Output::Deleted {
                deleted: vec![Deleted { point: point("shop:a"), kind: "Order".parse().unwrap() }],
            },
            Output::Content {
                point: point("shop:files:/a"),
                content_type: "image/png".into(),
                bytes: 2,
                data: Data::of(&[0xff, 0xfe]),
            },
            Output::Reply { status: 200, headers: vec![("a".into(), "b".into())], data: Data::of(b"hi") },
            Output::Sent { id: MessageId(1).to_string() },
        ];
        let Some(at) = script.find("Mechatron") else { return Ok(done) };
        let span = Span { start: at, end: at + 9 };
        let problem = Problem::new(Code::KindUnknown, "no kind `Mechatron`")
            .in_text(script, span, "not a kind")
            .help("did you mean `Mechtron`?");
        Err(ExecProblem { problem, done })
    }

    async fn create(&self, _agent: Agent, create: Create) -> Result<Created, Problem> {
        self.hear(format!("{create:?}"));
        match create.point.as_str() {
            "shop" if create.mode == CreateMode::New => Err(Problem::new(Code::Exists, "`shop` exists")
                .at(&point("shop"))
                .help("`create?` ensures it")),
            "shop" => Ok(Created { resource: resource("shop", 4), outcome: CreateOutcome::Existed }),
            other => match other.parse::<Point>() {
                Ok(_) => Ok(Created { resource: resource(other, 20), outcome: CreateOutcome::Created }),
                Err(error) => Err(Problem::new(Code::PointSyntax, error.reason)),
            },
        }
    }

    async fn scatter(&self, agent: Agent, scatter: Scatter) -> Result<Gathering, Problem> {
        let Scatter { selector, request, from, timeout, points_max, .. } = scatter;
        self.hear(format!(
            "{} {} to each of {selector} from {from} for {agent} in {timeout:?}, {points_max} at most",
            request.method, request.path
        ));
        if selector.contains('(') {
            return Err(Problem::new(Code::Syntax, "not a selector"));
        }
        if selector == "nothing" {
            return Ok(Gathering { asked: 0, answers: stream::empty().boxed() });
        }
        let refusal = |code| Refusal::new(code, "because");
        let torn = Body::Blob(Blob { digest: Digest([9; 32]), bytes: 300_000 });
        let gathered = [
            ("shop:a", Some("cloud"), Outcome::Ok(Reply::new(200, "text/plain", "hi"))),
            ("shop:b", Some("edge-1"), Outcome::Ok(Reply::new(409, "application/json", "{}"))),
            ("shop:c", None, Outcome::Rejected(refusal(Code::NotReady))),
            ("shop:d", Some("edge-1"), Outcome::Failed(refusal(Code::Trapped))),
            ("shop:e", Some("edge-1"), Outcome::Unknown(refusal(Code::Timeout))),
            ("shop:f", Some("cloud"), Outcome::Ok(Reply::new(101, "text/plain", ""))),
            ("shop:g", Some("cloud"), Outcome::Ok(Reply { body: torn, ..Reply::new(200, "image/png", "") })),
            (
                "shop:h",
                Some("cloud"),
                Outcome::Ok(Reply { body: Body::Blob(blob(1 << 32)), ..Reply::new(200, "image/png", "") }),
            ),
            (
                "shop:i",
                Some("cloud"),
                Outcome::Ok(Reply { body: Body::Blob(blob(300)), ..Reply::new(200, "image/png", "") }),
            ),
        ];
        let asked = gathered.len() as u64;
        let gathered =
            gathered.map(|(at, node, outcome)| Gathered { point: point(at), node: node.map(name), outcome });
        let rest = GivenUp(Arc::clone(&self.heard));
        let answers = stream::iter(gathered).map(move |gathered| {
            let _ = &rest;
            gathered
        });
        Ok(Gathering { asked, answers: answers.boxed() })
    }

    async fn get(&self, _agent: Agent, point: Point, freshness: Freshness) -> Result<Resource, Problem> {
        self.hear(format!("{point} {freshness:?}"));
        if point.space() == Some("missing") {
            Err(not_found(&point))
        } else {
            Ok(resource(point.as_str(), 17))
        }
    }

    async fn patch(
        &self,
        _agent: Agent,
        point: Point,
        changes: Vec<PropertyChange>,
        expect: Option<Revision>,
    ) -> Result<Resource, Problem> {
        self.hear(format!("{point} {changes:?} at {expect:?}"));
        if expect.is_some_and(|expect| expect != Revision(17)) {
            let detail = format!("`{point}` is at 17");
            return Err(Problem::new(Code::RevisionConflict, detail).at(&point));
        }
        Ok(resource(point.as_str(), 18))
    }

    async fn delete(
        &self,
        _agent: Agent,
        point: Point,
        recursive: bool,
        expect: Option<Revision>,
    ) -> Result<Vec<Deleted>, Problem> {
        self.hear(format!("{point} {recursive} at {expect:?}"));
        if !recursive && point.as_str() == "shop" {
            return Err(Problem::new(Code::HasChildren, "`shop` has 2 children")
                .at(&point)
                .help("`delete -r shop`"));
        }
        Ok(vec![Deleted { point, kind: "Space".parse().unwrap() }])
    }

    async fn select(
        &self,
        _agent: Agent,
        selection: Selection,
        freshness: Freshness,
    ) -> Result<Page, Problem> {
        self.hear(format!("{selection:?} {freshness:?}"));
        if selection.selector.contains('(') {
            let span = Span { start: 0, end: 1 };
            return Err(Problem::new(Code::Syntax, "not a selector").in_text(
                selection.selector,
                span,
                "here",
            ));
        }
        let next = selection.cursor.is_none().then(|| "c1".to_owned());
        Ok(Page { resources: vec![Arc::new(resource("shop:a", 4))], revision: Revision(9), next })
    }

    async fn history(&self, _agent: Agent, point: Point, limit: usize) -> Result<History, Problem> {
        self.hear(format!("history {point} {limit}"));
        let difference = Difference::new(point.clone(), None, Some(Arc::new(resource(point.as_str(), 4))));
        let agent = self::point("mesh:users:ann");
        let entry = HistoryEntry { revision: Revision(4), time: Timestamp(1_000), agent, difference };
        Ok(History { point, entries: vec![entry], oldest: Revision(2) })
    }

    async fn backup(&self, _agent: Agent) -> Result<Upload, Problem> {
        let whole = ["starlane-", "backup"].map(|part| Ok(Bytes::from_static(part.as_bytes())));
        Ok(stream::iter(whole).boxed())
    }

    async fn diff(&self, _agent: Agent, comparison: Comparison) -> Result<Diff, Problem> {
        self.hear(format!("{comparison:?}"));
        let [before, after] = [4, 5].map(|revision| Some(Arc::new(resource("shop:a", revision))));
        let differences = vec![
            Difference::new(point("shop:a"), before.clone(), after),
            Difference::new(point("shop:b"), before, None),
        ];
        Ok(Diff { differences, from: Revision(4), to: Revision(5), next: None })
    }

    async fn describe(
        &self,
        _agent: Agent,
        point: Point,
        freshness: Freshness,
    ) -> Result<Description, Problem> {
        self.hear(format!("describe {point} {freshness:?}"));
        Ok(Description {
            resource: resource(point.as_str(), 4),
            children: vec![],
            more: false,
            contract: Some(serde_json::json!({"AddItem": {"type": "object"}})),
            activation: None,
        })
    }

    async fn watch(
        &self,
        _agent: Agent,
        selector: String,
        since: Option<ResumeToken>,
        freshness: Freshness,
    ) -> Result<BoxStream<'static, (Event, ResumeToken)>, Problem> {
        self.hear(format!(
            "watch {selector} since {} {freshness:?}",
            since.map(|token| token.to_string()).unwrap_or_default()
        ));
        if since.is_some_and(|token| token.selector != ResumeToken::new(token.revision, &selector).selector) {
            return Err(Problem::new(Code::WatchMismatch, "the token is another selector's"));
        }
        let page = |text, last| Event::Listed {
            resources: vec![Arc::new(resource(text, 4))],
            revision: Revision(10),
            last,
        };
        let mut events = match since {
            None => vec![page("shop:a", false), page("shop:b", true)],
            Some(token) if token.revision < Revision(10) => vec![Event::Gone { oldest: Revision(10) }],
            Some(_) => vec![],
        };
        let gone = matches!(events[..], [Event::Gone { .. }]);
        let from = since.map_or(Revision(10), |token| token.revision);
        events.extend(history().into_iter().filter(|event| !gone && revision_of(event) > from));
        let events = events.into_iter().map(move |event| {
            let token = ResumeToken::new(revision_of(&event), &selector);
            (event, token)
        });
        let events = stream::iter(events);
        Ok(if gone { events.boxed() } else { events.chain(stream::pending()).boxed() })
    }

    async fn logs(
        &self,
        _agent: Agent,
        point: Point,
        tail: usize,
        follow: bool,
    ) -> Result<BoxStream<'static, LogLine>, Problem> {
        let line = move |at: usize| LogLine {
            time: Timestamp(at as u64),
            level: "info".into(),
            point: point.clone(),
            line: format!("line {at}"),
            trace: None,
        };
        let lines = stream::iter((0..tail.min(3)).map(line));
        Ok(if follow { lines.chain(stream::pending()).boxed() } else { lines.boxed() })
    }

    async fn publish(&self, _agent: Agent, point: Point, body: Upload) -> Result<Published, Problem> {
        let bytes = body.try_fold(0, async |sum, part: Bytes| Ok(sum + part.len() as u64)).await?;
        self.hear(format!("published {bytes} bytes at {point}"));
        Ok(Published { bundle: resource(point.as_str(), 30), artifacts: 2, bytes })
    }

    async fn write_file(
        &self,
        _agent: Agent,
        point: Point,
        body: Upload,
        expect: Expect,
    ) -> Result<Content, Problem> {
        let bytes = body.try_fold(0, async |sum, part: Bytes| Ok(sum + part.len() as u64)).await;
        self.hear(format!("wrote {bytes:?} bytes at {point} expecting {expect:?}"));
        let blob = blob(bytes?);
        Ok(Content { blob, content_type: "image/svg+xml".into(), etag: "new".into(), modified: Timestamp(0) })
    }

    async fn content(&self, _agent: Agent, point: Point) -> Result<Content, Problem> {
        if point.space() == Some("missing") {
            return Err(not_found(&point));
        }
        let content_type = "application/octet-stream".to_owned();
        Ok(Content {
            blob: blob(1000),
            content_type,
            etag: "tag1".into(),
            modified: Timestamp(784_111_777_000),
        })
    }

    async fn blob(
        &self,
        blob: Blob,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Problem>>, Problem> {
        assert!(range.start < range.end && range.end <= blob.bytes);
        let torn = blob.digest == Digest([9; 32]);
        let parts = stream::unfold(range, |range| async move {
            let end = range.end.min(range.start + 65_536);
            let from = (range.start % 251) as usize;
            let part = || PATTERN.slice(from..from + (end - range.start) as usize);
            (range.start < end).then(|| (part(), end..range.end))
        });
        let parts = parts.enumerate().map(move |(at, part)| {
            if torn && at == 2 { Err(Problem::new(Code::Corrupt, "the blob is damaged")) } else { Ok(part) }
        });
        Ok(parts.boxed())
    }

    async fn space(&self, space: Point) -> SpaceState {
        match space.as_str() {
            "missing" => SpaceState::Missing,
            "unbound" => SpaceState::NoBind,
            _ => SpaceState::Ready,
        }
    }

    async fn nodes(&self, _agent: Agent) -> Result<Vec<NodeInfo>, Problem> {
        Ok(vec![node("cloud", Some(0)), node("edge-1", Some(1)), node("desktop", None)])
    }

    async fn patch_node(&self, _agent: Agent, name: NodeName, patch: NodePatch) -> Result<NodeInfo, Problem> {
        self.hear(format!("{name} {patch:?}"));
        if name.as_str() == "nobody" {
            return Err(Problem::new(Code::NotFound, "no node is called `nobody`"));
        }
        let mut node = node(name.as_str(), Some(1));
        node.draining = patch.draining.unwrap_or_default();
        for (key, value) in patch.labels {
            match value {
                Some(value) => node.labels.insert(key.to_string(), value),
                None => node.labels.remove(key.as_str()),
            };
        }
        Ok(node)
    }

    async fn revoke(&self, _agent: Agent, name: NodeName) -> Result<(), Problem> {
        self.hear(format!("revoke {name}"));
        if name.as_str() == "cloud" {
            return Err(Problem::new(Code::Forbidden, "`cloud` keeps the registry"));
        }
        Ok(())
    }

    async fn graph(&self, _agent: Agent) -> Result<Graph, Problem> {
        let node =
            |text: &str, hops| GraphNode { name: name(text), role: Role::Relay, hops, seen_ms: Some(400) };
        let link = |a, b, rtt_us| GraphLink { a: name(a), b: name(b), rtt_us };
        Ok(Graph {
            from: name("cloud"),
            nodes: vec![node("cloud", Some(0)), node("edge-1", Some(1)), node("desktop", None)],
            links: vec![link("cloud", "edge-1", Some(400)), link("edge-1", "edge-2", None)],
        })
    }

    async fn new_token(&self, agent: Agent, terms: TokenTerms) -> Result<Token, Problem> {
        self.hear(format!("{agent} {terms:?}"));
        let TokenTerms { role, labels, name, ttl } = terms;
        let info =
            TokenInfo { id: "t1".into(), role, expires: Timestamp(ttl.as_millis() as u64), labels, name };
        Ok(Token { token: "sl1.pin.t1.secret".into(), address: Some("203.0.113.7:4343".into()), info })
    }

    async fn tokens(&self, _agent: Agent) -> Result<Vec<TokenInfo>, Problem> {
        let labels = [("tier".parse().unwrap(), "edge".to_owned())].into();
        let expires = Timestamp(600_000);
        Ok(vec![TokenInfo { id: "t1".into(), role: Role::Leaf, expires, labels, name: Some(name("edge-1")) }])
    }

    async fn delete_token(&self, _agent: Agent, id: String) -> Result<(), Problem> {
        self.hear(format!("delete token {id}"));
        if id == "t1" { Ok(()) } else { Err(Problem::new(Code::NotFound, "no token has this id")) }
    }

    async fn trace(
        &self,
        _agent: Agent,
        point: Point,
        timeout: std::time::Duration,
    ) -> Result<Route, Problem> {
        self.hear(format!("trace {point} in {timeout:?}"));
        if point.space() == Some("missing") {
            return Err(not_found(&point));
        }
        let hop = |text, rtt_us| Hop { node: name(text), rtt_us };
        let hops = vec![hop("cloud", Some(0)), hop("edge-1", Some(412)), hop("desktop", None)];
        Ok(Route { point, hops, reached: false, reason: Some("`desktop` did not answer".into()) })
    }

    async fn dead_letters(&self, _agent: Agent, space: Point) -> Result<DeadLetterList, Problem> {
        if space.space() == Some("missing") {
            return Err(not_found(&space));
        }
        let letter = DeadLetter {
            time: Timestamp(1_700_000_000_000),
            node: name("edge-1"),
            id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
            from: point("shop:cart"),
            to: point("shop:mailer"),
            method: "Ext<Note>".into(),
            path: "/".into(),
            bytes: 12,
            code: Code::Busy,
            reason: "it has 1000 messages waiting".into(),
        };
        Ok(DeadLetterList { count: 3, letters: vec![letter], missing: vec![name("desktop")] })
    }

    async fn why(&self, _agent: Agent, point: Point) -> Result<Why, Problem> {
        let missing = point.space() == Some("missing");
        let candidate =
            |text, chosen, reason: &str| Candidate { node: name(text), chosen, reason: reason.into() };
        Ok(Why {
            state: if missing { WhyState::Missing } else { WhyState::Running },
            node: (!missing).then(|| name("edge-1")),
            epoch: (!missing).then_some(Epoch(42)),
            reason: if missing { "nothing is there" } else { "it is in memory" }.into(),
            place: (!missing).then(|| "[tier = \"edge\"]".into()),
            candidates: vec![
                candidate("edge-1", true, "it has the fewest"),
                candidate("cloud", false, "tier is cloud"),
            ],
            help: missing.then(|| "`starlane create` makes it".into()),
            point,
        })
    }

    async fn move_to(
        &self,
        _agent: Agent,
        point: Point,
        to: NodeName,
        timeout: std::time::Duration,
    ) -> Result<Moved, Problem> {
        self.hear(format!("move {point} to {to} in {timeout:?}"));
        Ok(Moved { point, node: to, from: Some(name("edge-1")), epoch: Epoch(43) })
    }

    fn info(&self) -> Info {
        Info { version: "0.1.0".into(), node: "cloud".into(), cluster: "c".into(), api: "v1".into() }
    }

    fn ready(&self) -> Result<(), Problem> {
        if self.unready.load(Ordering::Relaxed) {
            Err(Problem::new(Code::NotReady, "the store opens"))
        } else {
            Ok(())
        }
    }

    fn metrics(&self, text: &mut String) {
        text.push_str("# TYPE fake gauge\nfake 1\n");
    }
}
