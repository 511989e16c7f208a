//! One session: what a client says, and what it is told.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::extract::State;
use axum::extract::ws::{self, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue};
use starlane_core::portal::{
    Answer, Ask, Bounds, Framed, Framing, HeaderPairs, Heard, Say, Tell, Unread, VERSION, decode_binary,
    decode_text, encode,
};
use starlane_core::{
    Body, CallChain, Code, Header, Headers, Message, Outcome, Payload, Problem, Refusal, Reply, ResumeToken,
    Trace,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::{GRANTED_MAX, Order, Seat};
use crate::api::{self, Shared};
use crate::mesh::{Freshness, Mesh};
use crate::pace::Serving;
use crate::problem::{Failure, reply};
use crate::shapes::WatchEvent;
use crate::web::read_reply;

/// How many operations of a session may be under way; one more is refused as busy.
const OPERATIONS_MAX: usize = 1_024;
/// How many frames wait until the client reads; then whoever has more to tell waits.
const FRAMES_MAX: usize = 64;
/// What a frame may have besides its body.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Messages without an answer to different points need not wait for each other.
const LANES: usize = 8;
/// How many of them may wait in each.
const LANE_MAX: usize = 256;
/// How often a client is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a client may be silent before it is taken for dead.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// How long the last words to a client may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a session needs of the door that it came through.
#[derive(Clone)]
pub(crate) struct Door {
    /// All of the API, for calls of it.
    pub(crate) api: Router,
    /// Whether whoever opened it had the token.
    pub(crate) authorized: bool,
    /// Keeps the connection from being taken for idle.
    pub(crate) _serving: Arc<Serving>,
}

/// Opens a session.
#[utoipa::path(get, path = "/v1/ws", tag = "messages",
    responses((status = 101, description = "A WebSocket that speaks the portal's protocol, version 1")))]
pub(crate) async fn open<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    Extension(door): Extension<Door>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let upgrade = upgrade.map_err(|error| {
        Problem::new(Code::Usage, format!("this path takes WebSockets alone: {error}"))
            .help("open it with `Connection: Upgrade`, `Upgrade: websocket` and `Sec-WebSocket-Version: 13`")
    })?;
    let permit = shared.session()?;
    let frame_max = shared.config.limits.body_bytes_max + HEAD_BYTES_MAX;
    let tasks = shared.tasks.clone();
    Ok(upgrade
        .max_message_size(frame_max)
        .max_frame_size(frame_max)
        .on_upgrade(move |socket| tasks.track_future(run(socket, shared, door, permit))))
}

async fn run<M: Mesh>(socket: WebSocket, shared: Arc<Shared<M>>, door: Door, _permit: OwnedSemaphorePermit) {
    shared.metrics.sessions.inc();
    let (sink, mut stream) = socket.split();
    let hello = timeout(shared.config.limits.head_timeout, hello(&mut stream, &shared, &door)).await;
    let hello = hello.unwrap_or_else(|_| {
        Err((Framing::Json, Box::new(Problem::new(Code::Timeout, "no `hello` came in time"))))
    });
    match hello {
        Ok(framing) => Session::new(shared.clone(), door, sink, framing).run(stream).await,
        Err((framing, problem)) => {
            let farewell = async {
                let mut sink = sink;
                let frame = error(None, None, (*problem).into());
                let said = encode(framing, &frame, b"").map(message);
                if let Ok(said) = said {
                    _ = sink.send(said).await;
                }
                _ = sink.close().await;
            };
            // A client that does not listen has nothing to lose.
            _ = timeout(LAST_WORDS, farewell).await;
        }
    }
    shared.metrics.sessions.dec();
}

/// Reads the first frame; answers the framing to go on in.
async fn hello<M: Mesh>(
    stream: &mut SplitStream<WebSocket>,
    shared: &Shared<M>,
    door: &Door,
) -> Result<Framing, (Framing, Box<Problem>)> {
    let wrong = |framing, code, detail: String| {
        let help = r#"say `{"op":"hello","version":1,"token":"TOKEN"}` first: see docs/portal.md"#;
        (framing, Box::new(Problem::new(code, detail).help(help)))
    };
    loop {
        let (framing, ask) = match stream.next().await {
            Some(Ok(ws::Message::Text(text))) => (Framing::Json, decode_text::<Ask>(&text)),
            Some(Ok(ws::Message::Binary(bytes))) => (Framing::Binary, decode_binary(bytes)),
            Some(Ok(ws::Message::Ping(_) | ws::Message::Pong(_))) => continue,
            Some(Ok(ws::Message::Close(_)) | Err(_)) | None => {
                return Err(wrong(Framing::Json, Code::Usage, "the client left without a word".to_owned()));
            }
        };
        return match ask {
            Ok((Ask::Hello { version, token, name }, _)) => {
                if version != VERSION {
                    let detail = format!("the client speaks version {version}, this node version {VERSION}");
                    return Err(wrong(framing, Code::Unsupported, detail));
                }
                let known = token.is_some_and(|token| shared.knows(&token));
                if !known && !door.authorized {
                    return Err(wrong(framing, Code::Unauthorized, "the token is not valid".to_owned()));
                }
                tracing::debug!(client = name.as_deref().unwrap_or("?"), "a session begins");
                Ok(framing)
            }
            Ok(_) => Err(wrong(framing, Code::Usage, "the first frame is no `hello`".to_owned())),
            Err(unread) => {
                Err(wrong(framing, Code::Usage, format!("the first frame cannot be read: {unread}")))
            }
        };
    }
}

/// What is written to the client.
enum Out {
    Frame(Tell, Bytes),
    /// A message of the mesh, of which so many bytes were on their way.
    Handed(Tell, Bytes, usize),
    Ping,
}

struct Session<M> {
    shared: Arc<Shared<M>>,
    door: Door,
    seat: Seat,
    orders: mpsc::Receiver<Order>,
    out: mpsc::Sender<Out>,
    writer: tokio::task::JoinHandle<()>,
    operations: JoinSet<u64>,
    running: HashMap<u64, Running>,
    lanes: [Option<mpsc::Sender<Laned>>; LANES],
    /// The requests that were handed over and are not answered, with what belongs to whatever is asked for their sake.
    handed: HashMap<u64, (CallChain, Trace)>,
}

struct Running {
    task: AbortHandle,
    /// What is granted of a watch or a subscription.
    granted: Option<Arc<Semaphore>>,
}

/// A message without an answer, on its way.
struct Laned {
    id: u64,
    message: Message,
    publish: bool,
}

/// Whether a session goes on.
enum Next {
    On,
    Over,
}

impl<M: Mesh> Session<M> {
    fn new(
        shared: Arc<Shared<M>>,
        door: Door,
        sink: SplitSink<WebSocket, ws::Message>,
        framing: Framing,
    ) -> Self {
        let (seat, orders) = shared.mesh.seat();
        let (out, frames) = mpsc::channel(FRAMES_MAX);
        let writer = tokio::spawn(write(sink, frames, framing, seat.clone()));
        Self {
            shared,
            door,
            seat,
            orders,
            out,
            writer,
            operations: JoinSet::new(),
            running: HashMap::new(),
            lanes: Default::default(),
            handed: HashMap::new(),
        }
    }

    async fn run(mut self, mut stream: SplitStream<WebSocket>) {
        let info = self.shared.mesh.info();
        let limits = Bounds {
            frame_bytes: (self.shared.config.limits.body_bytes_max + HEAD_BYTES_MAX) as u64,
            operations: OPERATIONS_MAX as u32,
            granted: GRANTED_MAX,
        };
        let welcome = Tell::Welcome { version: VERSION, node: info.node, cluster: info.cluster, limits };
        self.say(welcome, Bytes::new()).await;

        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        // By when the session ends, once the node stops.
        let mut stops: Option<Instant> = None;
        let closing = self.shared.closing.clone();
        loop {
            if stops.is_some() && self.seat.unanswered() == 0 && self.running.is_empty() {
                break;
            }
            let over = async {
                match stops {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = closing.cancelled(), if stops.is_none() => {
                    stops = Some(Instant::now() + self.shared.config.limits.drain_timeout);
                    self.take_leave().await;
                }
                () = over => break,
                said = stream.next() => {
                    heard = Instant::now();
                    match said {
                        Some(Ok(said)) => if let Next::Over = self.hear(said).await { break },
                        Some(Err(_)) | None => break,
                    }
                }
                order = self.orders.recv() => if let Some(order) = order { self.hand(order).await },
                Some(ended) = self.operations.join_next_with_id() => {
                    let (task, id) = match ended {
                        Ok((task, id)) => (task, Some(id)),
                        // One that was aborted, or panicked.
                        Err(error) => (error.id(), None),
                    };
                    self.ended(task, id);
                }
                _ = pings.tick() => {
                    if heard.elapsed() > SILENT_MAX || self.out.send(Out::Ping).await.is_err() {
                        break;
                    }
                }
            }
            if self.writer.is_finished() {
                break;
            }
        }
        self.end().await;
    }

    /// An operation has ended; the same number may name another by now.
    fn ended(&mut self, task: tokio::task::Id, id: Option<u64>) {
        match id {
            Some(id) if self.running.get(&id).is_some_and(|running| running.task.id() == task) => {
                self.running.remove(&id);
            }
            Some(_) => {}
            None => self.running.retain(|_, running| running.task.id() != task),
        }
    }

    /// Tells that the node stops: nothing more is begun, and what was begun may end.
    async fn take_leave(&mut self) {
        for point in self.seat.points() {
            self.seat.leave(&point);
        }
        for running in self.running.values().filter(|running| running.granted.is_some()) {
            running.task.abort();
        }
        self.say(Tell::Bye { reason: "the node is stopping".to_owned() }, Bytes::new()).await;
    }

    async fn end(mut self) {
        self.seat.give_up();
        self.operations.shutdown().await;
        let Self { out, lanes, mut writer, .. } = self;
        drop((out, lanes));
        if timeout(LAST_WORDS, &mut writer).await.is_err() {
            writer.abort();
        }
    }

    async fn say(&self, told: Tell, body: Bytes) {
        // When nobody writes any more, the session is about to end.
        _ = self.out.send(Out::Frame(told, body)).await;
    }

    /// Hands a message of the mesh to the client.
    async fn hand(&mut self, order: Order) {
        match order {
            Order::GiveUp(ticket) => {
                self.handed.remove(&ticket);
                self.say(Tell::Cancel { id: ticket }, Bytes::new()).await;
            }
            Order::Take { ticket, message, bytes, until } => {
                let Message { header, payload } = *message;
                let (asks, said) = match payload {
                    Payload::Request(said) => (true, said),
                    Payload::Signal(said) => (false, said),
                    // Replies find their own way.
                    Payload::Reply(_) => return self.seat.sent(bytes),
                };
                let heard = Heard {
                    point: header.to.clone(),
                    from: header.from,
                    agent: header.agent,
                    method: said.method.to_string(),
                    path: said.path.to_string(),
                    headers: pairs(&said.headers),
                    trace: header.trace.to_traceparent(),
                };
                let told = if asks {
                    self.handed.insert(ticket, (header.chain.with(header.to), header.trace));
                    let left = until.saturating_duration_since(Instant::now());
                    let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                    Tell::Request { id: ticket, heard, timeout_ms }
                } else {
                    Tell::Signal { heard }
                };
                let body = match said.body {
                    Body::Bytes(bytes) => bytes,
                    // The router reads what is to be at hand.
                    Body::Blob(_) => Bytes::new(),
                };
                _ = self.out.send(Out::Handed(told, body, bytes)).await;
            }
        }
    }

    async fn hear(&mut self, said: ws::Message) -> Next {
        let read = match said {
            ws::Message::Text(text) => decode_text::<Ask>(&text),
            ws::Message::Binary(bytes) => decode_binary(bytes),
            ws::Message::Ping(_) | ws::Message::Pong(_) => return Next::On,
            ws::Message::Close(_) => return Next::Over,
        };
        match read {
            Ok((ask, body)) => self.ask(ask, body).await,
            Err(Unread { id, detail }) => {
                let problem = Problem::new(Code::Usage, format!("a frame cannot be read: {detail}"));
                self.say(error(id, None, problem.help("see docs/portal.md").into()), Bytes::new()).await;
            }
        }
        Next::On
    }

    async fn ask(&mut self, ask: Ask, body: Bytes) {
        let id = match &ask {
            Ask::Hello { .. } => None,
            Ask::Serve { id, .. }
            | Ask::Unserve { id, .. }
            | Ask::Subscribe { id, .. }
            | Ask::Watch { id, .. }
            | Ask::Api { id, .. } => Some(*id),
            Ask::Request(say) | Ask::Send(say) | Ask::Publish(say) => Some(say.id),
            Ask::Grant { .. } | Ask::Cancel { .. } | Ask::Reply(_) | Ask::Fail { .. } => {
                return self.answer(ask, body);
            }
        };
        if let Err(problem) = self.begin(id, ask, body) {
            self.say(error(id, None, problem.into()), Bytes::new()).await;
        }
    }

    /// Takes what wants no answer.
    fn answer(&mut self, ask: Ask, body: Bytes) {
        match ask {
            Ask::Grant { more, id: None } => self.seat.grant(more),
            Ask::Grant { more, id: Some(id) } => {
                if let Some(granted) = self.running.get(&id).and_then(|running| running.granted.as_ref()) {
                    grant(granted, more);
                }
            }
            Ask::Cancel { id } => {
                if let Some(running) = self.running.remove(&id) {
                    running.task.abort();
                }
            }
            Ask::Reply(Answer { id, status, headers }) => {
                self.handed.remove(&id);
                let headers: Headers = headers.into_iter().collect();
                self.seat.answer(id, Outcome::Ok(Reply { status, headers, body: Body::Bytes(body) }));
            }
            Ask::Fail { id, detail, ran } => {
                self.handed.remove(&id);
                let outcome = match ran {
                    true => Outcome::Failed(Refusal::new(Code::HandlerFailed, detail)),
                    false => Outcome::Rejected(Refusal::new(Code::NotReady, detail)),
                };
                self.seat.answer(id, outcome);
            }
            _ => {}
        }
    }

    /// Begins an operation.
    fn begin(&mut self, id: Option<u64>, ask: Ask, body: Bytes) -> Result<(), Problem> {
        let Some(id) = id else { return Err(Problem::new(Code::Usage, "`hello` is said once")) };
        if self.running.contains_key(&id) {
            let problem = Problem::new(Code::Usage, format!("an operation {id} is under way"));
            return Err(problem.help("number operations from 1 on, each with another number"));
        }
        if self.running.len() >= OPERATIONS_MAX {
            let problem = Problem::new(Code::Busy, format!("{OPERATIONS_MAX} operations are under way"));
            return Err(problem.help("wait until some are done"));
        }
        let (shared, out) = (self.shared.clone(), self.out.clone());
        match ask {
            Ask::Serve { point, kind, .. } => {
                let seat = self.seat.clone();
                self.spawn(id, None, async move {
                    let served = shared.mesh.serve(shared.agent(), point, kind, seat).await;
                    tell(&out, done(id, served)).await;
                });
            }
            Ask::Unserve { point, .. } => {
                self.seat.leave(&point);
                self.spawn(id, None, async move { tell(&out, Tell::Done { id }).await });
            }
            Ask::Request(say) => {
                let message = self.message(say, body, Payload::Request)?;
                let mut asked = Box::pin(async move { (shared.mesh.request(message).await, shared) });
                // One that needs nothing is on its way at once, so that requests keep their order.
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                let ready = asked.as_mut().poll(&mut context);
                self.spawn(id, None, async move {
                    let (outcome, shared) = match ready {
                        std::task::Poll::Ready(answered) => answered,
                        std::task::Poll::Pending => asked.await,
                    };
                    let (told, body) = answered(&*shared, id, outcome).await;
                    _ = out.send(Out::Frame(told, body)).await;
                });
            }
            Ask::Send(say) => self.lane(say, body, false)?,
            Ask::Publish(say) => self.lane(say, body, true)?,
            Ask::Subscribe { topic, grant, .. } => {
                let granted = granted(grant);
                let open = api::Open::new(&shared)?;
                self.spawn(id, Some(granted.clone()), async move {
                    let _open = open;
                    match shared.mesh.subscribe(shared.agent(), topic).await {
                        Ok(subscription) => hear_topic(id, subscription, granted, out).await,
                        Err(problem) => tell(&out, error(Some(id), None, problem.into())).await,
                    }
                });
            }
            Ask::Watch { select, since, stale, grant, .. } => {
                let granted = granted(grant);
                let since = since.as_deref().map(api::read_token).transpose()?;
                let freshness = if stale { Freshness::Stale } else { Freshness::Latest };
                let open = api::Open::new(&shared)?;
                self.spawn(id, Some(granted.clone()), async move {
                    let _open = open;
                    let watch = Watch { id, select, freshness, granted, out };
                    watch.run(&shared, since).await;
                });
            }
            Ask::Api { method, path, headers, .. } => {
                let call = api::call(&method, &path, headers, body)?;
                let (door, trace) = (self.door.clone(), Trace::root(shared.mesh.new_message_id()));
                self.spawn(id, None, async move {
                    let limits = &shared.config.limits;
                    let bytes_max = limits.body_bytes_max;
                    let asked = api::ask(door.api, call, trace, bytes_max);
                    let (told, body) = match timeout(limits.request_timeout_max, asked).await {
                        Ok(Ok((status, headers, body))) => {
                            (Tell::Reply(Answer { id, status, headers }), body)
                        }
                        Ok(Err(problem)) => (error(Some(id), None, problem.into()), Bytes::new()),
                        Err(_) => {
                            let problem = Problem::new(Code::Timeout, "the call took too long");
                            (error(Some(id), None, problem.into()), Bytes::new())
                        }
                    };
                    _ = out.send(Out::Frame(told, body)).await;
                });
            }
            Ask::Hello { .. } | Ask::Grant { .. } | Ask::Cancel { .. } | Ask::Reply(_) | Ask::Fail { .. } => {
            }
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        id: u64,
        granted: Option<Arc<Semaphore>>,
        operation: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = self.operations.spawn(async move {
            operation.await;
            id
        });
        self.running.insert(id, Running { task, granted });
    }

    /// Sends or publishes, after all before it to the same point.
    fn lane(&mut self, say: Say, body: Bytes, publish: bool) -> Result<(), Problem> {
        let id = say.id;
        let mut message = self.message(say, body, Payload::Signal)?;
        if publish && let Payload::Signal(said) = &mut message.payload {
            said.method = super::event_method();
        }
        let mut hasher = DefaultHasher::new();
        message.header.to.hash(&mut hasher);
        let lane = &mut self.lanes[hasher.finish() as usize % LANES];
        let lane = lane.get_or_insert_with(|| {
            let (sender, laned) = mpsc::channel(LANE_MAX);
            tokio::spawn(carry(self.shared.clone(), laned, self.out.clone()));
            sender
        });
        lane.try_send(Laned { id, message, publish }).map_err(|_| {
            Problem::new(Code::Busy, "too many messages wait on their way to this point")
                .help("wait for the `done` of those before")
        })
    }

    /// The message that a client says.
    fn message(
        &self,
        say: Say,
        body: Bytes,
        payload: fn(starlane_core::Request) -> Payload,
    ) -> Result<Message, Problem> {
        let limits = &self.shared.config.limits;
        let timeout = say.timeout_ms.map_or(limits.request_timeout, Duration::from_millis);
        if timeout.is_zero() || timeout > limits.request_timeout_max {
            let most = limits.request_timeout_max.as_millis();
            return Err(Problem::new(Code::Usage, format!("`timeoutMs` is not from 1 to {most}")));
        }
        let from = match say.from {
            Some(from) if self.seat.serves(&from) => from,
            Some(from) => {
                let problem = Problem::new(Code::Forbidden, format!("this session does not serve `{from}`"));
                return Err(problem.at(&from).help("serve the point first, or leave `from` out"));
            }
            None => self.shared.config.point.clone(),
        };
        let id = self.shared.mesh.new_message_id();
        let mut header = Header::new(id, from, say.to, self.shared.agent(), timeout);
        if let Some((chain, trace)) = say.within.and_then(|within| self.handed.get(&within)) {
            (header.chain, header.trace) = (chain.clone(), *trace);
        }
        let headers: Headers = say.headers.into_iter().collect();
        let request = api::said(say.method.as_deref(), say.path, headers, body)?;
        Ok(Message { header, payload: payload(request) })
    }
}

/// Brings messages without an answer on their way, one after the other.
async fn carry<M: Mesh>(shared: Arc<Shared<M>>, mut laned: mpsc::Receiver<Laned>, out: mpsc::Sender<Out>) {
    while let Some(Laned { id, message, publish }) = laned.recv().await {
        let sent = match publish {
            true => shared.mesh.publish_event(message).await,
            false => shared.mesh.send(message).await.map(drop),
        };
        tell(&out, done(id, sent)).await;
    }
}

async fn hear_topic(
    id: u64,
    mut subscription: super::Subscription,
    granted: Arc<Semaphore>,
    out: mpsc::Sender<Out>,
) {
    tell(&out, Tell::Done { id }).await;
    loop {
        let missed = subscription.missed();
        if missed > 0 {
            tell(&out, Tell::Gap { id, missed }).await;
        }
        let Ok(permit) = granted.acquire().await else { return };
        permit.forget();
        let Some(event) = subscription.next().await else { return tell(&out, Tell::End { id }).await };
        let Payload::Signal(said) = &event.payload else { continue };
        let body = match &said.body {
            Body::Bytes(bytes) => bytes.clone(),
            Body::Blob(_) => Bytes::new(),
        };
        let told = Tell::Event {
            id,
            from: event.header.from.clone(),
            path: said.path.to_string(),
            headers: pairs(&said.headers),
        };
        if out.send(Out::Frame(told, body)).await.is_err() {
            return;
        }
    }
}

/// A watch of a client's.
struct Watch {
    id: u64,
    select: String,
    freshness: Freshness,
    granted: Arc<Semaphore>,
    out: mpsc::Sender<Out>,
}

impl Watch {
    /// Tells the list and the changes; when the history is gone, the list again.
    async fn run<M: Mesh>(self, shared: &Shared<M>, mut since: Option<ResumeToken>) {
        loop {
            let (agent, select) = (shared.agent(), self.select.clone());
            let mut events = match shared.mesh.watch(agent, select, since.take(), self.freshness).await {
                Ok(events) => events,
                Err(problem) => return tell(&self.out, error(Some(self.id), None, problem.into())).await,
            };
            loop {
                let Ok(permit) = self.granted.acquire().await else { return };
                permit.forget();
                let Some((event, token)) = events.next().await else {
                    return tell(&self.out, Tell::End { id: self.id }).await;
                };
                let over = matches!(event, starlane_core::Event::Gone { .. });
                let token = if over { String::new() } else { token.to_string() };
                let event = serde_json::to_value(WatchEvent { event: event.into(), token });
                let Ok(event) = event else { return tell(&self.out, Tell::End { id: self.id }).await };
                let told = Tell::Change { id: self.id, event };
                if self.out.send(Out::Frame(told, Bytes::new())).await.is_err() {
                    return;
                }
                if over {
                    break;
                }
            }
        }
    }
}

async fn tell(out: &mpsc::Sender<Out>, told: Tell) {
    // When nobody writes any more, the session is about to end.
    _ = out.send(Out::Frame(told, Bytes::new())).await;
}

fn done(id: u64, result: Result<(), Problem>) -> Tell {
    match result {
        Ok(()) => Tell::Done { id },
        Err(problem) => error(Some(id), None, problem.into()),
    }
}

fn error(id: Option<u64>, outcome: Option<&'static str>, failure: Failure) -> Tell {
    let problem = serde_json::to_value(failure.details(None)).unwrap_or_default();
    Tell::Error { id, outcome: outcome.map(str::to_owned), problem }
}

/// What became of a request.
async fn answered<M: Mesh>(shared: &Shared<M>, id: u64, outcome: Outcome) -> (Tell, Bytes) {
    let answer = async {
        let (status, headers, body) = read_reply(reply(outcome)?)?;
        let body = match body {
            Body::Bytes(bytes) => bytes,
            Body::Blob(blob) => api::whole(&*shared.mesh, blob, shared.config.limits.body_bytes_max).await?,
        };
        Ok::<_, Failure>((Answer { id, status: status.as_u16(), headers: pairs_of(&headers) }, body))
    };
    match answer.await {
        Ok((answer, body)) => (Tell::Reply(answer), body),
        Err(failure) => (error(Some(id), failure.outcome, failure), Bytes::new()),
    }
}

/// Writes frames until there are no more, and closes.
async fn write(
    mut sink: SplitSink<WebSocket, ws::Message>,
    mut frames: mpsc::Receiver<Out>,
    framing: Framing,
    seat: Seat,
) {
    while let Some(out) = frames.recv().await {
        let (frame, handed) = match out {
            Out::Ping => (Ok(ws::Message::Ping(Bytes::new())), 0),
            Out::Frame(told, body) => (encode(framing, &told, &body).map(message), 0),
            Out::Handed(told, body, handed) => (encode(framing, &told, &body).map(message), handed),
        };
        let Ok(frame) = frame else { continue };
        // What is ready goes in one write.
        let written = match frames.is_empty() {
            true => sink.send(frame).await,
            false => sink.feed(frame).await,
        };
        if written.is_err() {
            return;
        }
        if handed > 0 {
            seat.sent(handed);
        }
    }
    _ = sink.close().await;
}

fn message(framed: Framed) -> ws::Message {
    match framed {
        Framed::Text(text) => ws::Message::Text(text.into()),
        Framed::Binary(bytes) => ws::Message::Binary(bytes),
    }
}

fn granted(more: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(more.min(GRANTED_MAX) as usize))
}

fn grant(granted: &Semaphore, more: u32) {
    let room = (GRANTED_MAX as usize).saturating_sub(granted.available_permits());
    granted.add_permits(room.min(more as usize));
}

fn pairs(headers: &Headers) -> HeaderPairs {
    headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Headers as text; what is none is left out.
pub(crate) fn pairs_of(headers: &HeaderMap) -> HeaderPairs {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.as_str().to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
    };
    headers.iter().filter_map(pair).collect()
}
