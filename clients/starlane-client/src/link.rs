//! The connection: one task that makes it, speaks over it, and makes it anew when it breaks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use starlane_core::portal::{
    Answer, Ask, Framed, Framing, HeaderPairs, Tell, VERSION, decode_binary, decode_text, encode,
};
use starlane_core::{Kind, Point};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::error::Problem;
use crate::service::{Failed, Handler};
use crate::tls;
use crate::topic::Heard;
use crate::watch::{STEPS_MAX, Told};
use crate::{Call, Config, Error, Incoming, Reply, Step};

/// How much may wait to be done; whoever asks for more waits.
pub(crate) const COMMANDS_MAX: usize = 1_024;
/// How many frames wait to be written.
const FRAMES_MAX: usize = 256;
/// So much room there is for what one command says.
const FRAMES_A_COMMAND: usize = 16;
/// How long a connection, and then the first word of the node, may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a node may be silent: it asks every few seconds whether the client lives.
const SILENT_MAX: Duration = Duration::from_secs(20);
/// How often it is looked after what is to be tried again, and what nobody listens to any more.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to wait before the second try, and at most; half of each wait is by chance.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

type Socket = WebSocketStream<Box<dyn tls::Stream>>;

/// What a node answers.
pub(crate) type Answered = Result<(Answer, Bytes), Error>;

/// One thing that is asked, once.
pub(crate) enum Operation {
    Request(Point, Call),
    Send(Point, Call),
    Publish(Point, Call),
    Api { method: &'static str, path: String, headers: HeaderPairs, body: Bytes },
}

pub(crate) enum Command {
    Ask {
        operation: Operation,
        sent: Arc<AtomicBool>,
        answer: oneshot::Sender<Answered>,
    },
    Serve {
        point: Point,
        kind: Option<Kind>,
        handler: Handler,
        answer: oneshot::Sender<Result<(), Error>>,
    },
    Unserve(Point),
    Watch(Watching, oneshot::Sender<u64>),
    Subscribe {
        topic: Point,
        events: mpsc::Sender<Heard>,
        answer: oneshot::Sender<Result<u64, Error>>,
    },
    Grant {
        id: u64,
        more: u32,
    },
    /// A handler has ended.
    Handled {
        connection: u64,
        id: Option<u64>,
        result: Result<Reply, Failed>,
    },
}

/// A watch as it is asked for, and how far it is.
pub(crate) struct Watching {
    pub(crate) select: String,
    pub(crate) since: Option<String>,
    pub(crate) stale: bool,
    pub(crate) steps: mpsc::Sender<(Step, String)>,
    pub(crate) failed: Arc<Mutex<Option<Error>>>,
}

struct Flow<T> {
    what: T,
    /// What was granted and did not come so far.
    granted: u32,
    /// Whether the node knows of it.
    is_asked: bool,
}

impl<T> Flow<T> {
    fn new(what: T) -> Self {
        Self { what, granted: 0, is_asked: false }
    }
}

struct Subscribed {
    topic: Point,
    events: mpsc::Sender<Heard>,
    /// Who waits for the first answer.
    answer: Option<oneshot::Sender<Result<u64, Error>>>,
}

struct Served {
    kind: Option<Kind>,
    handler: Handler,
    /// The operation that asked for it on this connection.
    asked_as: Option<u64>,
    /// Who waits for the first answer.
    answer: Option<oneshot::Sender<Result<(), Error>>>,
}

/// What goes on, whether or not there is a connection.
pub(crate) struct Link {
    config: Config,
    commands: mpsc::WeakSender<Command>,
    last: u64,
    /// Which connection this is.
    connection: u64,
    pending: HashMap<u64, oneshot::Sender<Answered>>,
    served: BTreeMap<Point, Served>,
    /// The messages that are being handled, by the number that the node gave to those that want an answer.
    handling: HashMap<u64, AbortHandle>,
    handlers: u32,
    watches: HashMap<u64, Flow<Watching>>,
    topics: HashMap<u64, Flow<Subscribed>>,
}

/// Why a connection ended.
enum End {
    /// It broke, or the node left.
    Broke,
    /// Nobody has the client any more.
    Closed,
}

/// Where frames go.
struct Out(mpsc::Sender<(Ask, Bytes)>);

impl Out {
    /// There is room for what a command says: none is taken before.
    fn say(&self, ask: Ask, body: Bytes) {
        // One who has ended takes nothing, and that ends the connection.
        _ = self.0.try_send((ask, body));
    }
}

impl Link {
    pub(crate) fn new(config: Config, commands: mpsc::WeakSender<Command>) -> Self {
        Self {
            config,
            commands,
            last: 0,
            connection: 0,
            pending: HashMap::new(),
            served: BTreeMap::new(),
            handling: HashMap::new(),
            handlers: 0,
            watches: HashMap::new(),
            topics: HashMap::new(),
        }
    }

    /// Connects, until nobody has the client any more. `first` is told how the first try ended.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        first: oneshot::Sender<Result<(), Error>>,
    ) {
        let mut first = Some(first);
        let mut attempt = 0;
        loop {
            let node = self.config.nodes[attempt as usize % self.config.nodes.len()].clone();
            match connect(&self.config, &node).await {
                Ok(socket) => {
                    attempt = 0;
                    self.connection += 1;
                    if let Some(first) = first.take() {
                        // Whoever gave up waiting drops the client.
                        _ = first.send(Ok(()));
                    }
                    let end = self.converse(socket, &mut commands).await;
                    self.lose();
                    if let End::Closed = end {
                        return;
                    }
                }
                Err(error) => {
                    let is_last = attempt as usize + 1 >= self.config.nodes.len();
                    if is_last && let Some(first) = first.take() {
                        _ = first.send(Err(error));
                        return;
                    }
                    tracing::debug!(%node, "no connection: {error}");
                    attempt += 1;
                }
            }
            if commands.is_closed() && commands.is_empty() {
                return;
            }
            sleep(wait_before(attempt)).await;
        }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// What was asked and not answered may have been done.
    fn lose(&mut self) {
        for (_, answer) in self.pending.drain() {
            _ = answer.send(Err(Error::lost()));
        }
        for (_, task) in self.handling.drain() {
            task.abort();
        }
        for served in self.served.values_mut() {
            served.asked_as = None;
        }
        self.watches.values_mut().for_each(|watch| (watch.granted, watch.is_asked) = (0, false));
        self.topics.values_mut().for_each(|topic| (topic.granted, topic.is_asked) = (0, false));
    }

    async fn converse(&mut self, socket: Socket, commands: &mut mpsc::Receiver<Command>) -> End {
        let (sink, mut stream) = socket.split();
        let (frames, taken) = mpsc::channel(FRAMES_MAX);
        let mut writer = tokio::spawn(write(sink, taken));
        let out = Out(frames);
        let concurrency = self.config.concurrency.saturating_sub(self.handlers);
        if concurrency > 0 {
            out.say(Ask::Grant { more: concurrency, id: None }, Bytes::new());
        }
        let mut heard = Instant::now();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            let has_room = out.0.capacity() > FRAMES_A_COMMAND;
            tokio::select! {
                frame = stream.next() => {
                    heard = Instant::now();
                    let told = match frame {
                        Some(Ok(Message::Binary(bytes))) => decode_binary::<Tell>(bytes),
                        Some(Ok(Message::Text(text))) => decode_text(&text),
                        Some(Ok(Message::Close(_)) | Err(_)) | None => break End::Broke,
                        Some(Ok(_)) => continue,
                    };
                    match told {
                        Ok((Tell::Bye { reason }, _)) => {
                            tracing::debug!("the node leaves: {reason}");
                            if self.pending.is_empty() && self.handling.is_empty() {
                                break End::Broke;
                            }
                        }
                        Ok((told, body)) => self.hear(told, body, &out),
                        // A newer node may say what this client does not know.
                        Err(unread) => tracing::debug!("a frame cannot be read: {unread}"),
                    }
                }
                command = commands.recv(), if has_room => match command {
                    Some(command) => self.take(command, &out),
                    None => break End::Closed,
                },
                _ = out.0.reserve_many(2 * FRAMES_A_COMMAND), if !has_room => {}
                _ = looks.tick() => {
                    if heard.elapsed() > SILENT_MAX {
                        break End::Broke;
                    }
                    self.look(&out);
                }
                _ = &mut writer => break End::Broke,
            }
        };
        drop(out);
        if !writer.is_finished() {
            // What was said last may still be on its way, as the answers of a service that ends.
            _ = timeout(LOOK_EVERY, &mut writer).await;
            writer.abort();
        }
        end
    }

    fn take(&mut self, command: Command, out: &Out) {
        match command {
            Command::Ask { answer, .. } if answer.is_closed() => {}
            Command::Ask { operation, sent, answer } => {
                let id = self.next();
                let patience = self.config.timeout;
                let (ask, body) = match operation {
                    Operation::Request(to, call) => {
                        let (say, body) = call.say(id, to, patience);
                        (Ask::Request(say), body)
                    }
                    Operation::Send(to, call) => {
                        let (say, body) = call.say(id, to, patience);
                        (Ask::Send(say), body)
                    }
                    Operation::Publish(to, call) => {
                        let (say, body) = call.say(id, to, patience);
                        (Ask::Publish(say), body)
                    }
                    Operation::Api { method, path, headers, body } => {
                        (Ask::Api { id, method: method.to_owned(), path, headers }, body)
                    }
                };
                sent.store(true, Ordering::Release);
                self.pending.insert(id, answer);
                out.say(ask, body);
            }
            Command::Serve { point, kind, handler, answer } => {
                let served = Served { kind, handler, asked_as: None, answer: Some(answer) };
                self.served.insert(point, served);
                self.ask_again(out);
            }
            Command::Unserve(point) => {
                if self.served.remove(&point).is_some() {
                    let id = self.next();
                    out.say(Ask::Unserve { id, point }, Bytes::new());
                }
            }
            Command::Watch(watching, answer) => {
                let id = self.next();
                self.watches.insert(id, Flow::new(watching));
                _ = answer.send(id);
                self.ask_again(out);
            }
            Command::Subscribe { topic, events, answer } => {
                let id = self.next();
                let subscribed = Subscribed { topic, events, answer: Some(answer) };
                self.topics.insert(id, Flow::new(subscribed));
                self.ask_again(out);
            }
            Command::Grant { id, more } => self.grant(id, more, out),
            Command::Handled { connection, id, result } => {
                self.handlers -= 1;
                // What was begun on a connection before is not answered on this one.
                if connection == self.connection
                    && let Some(id) = id
                    && self.handling.remove(&id).is_some()
                {
                    let (ask, body) = match result {
                        Ok(Reply { status, headers, body }) => {
                            (Ask::Reply(Answer { id, status, headers }), body)
                        }
                        Err(Failed { detail, ran }) => (Ask::Fail { id, detail, ran }, Bytes::new()),
                    };
                    out.say(ask, body);
                }
                // Its place is free again.
                out.say(Ask::Grant { more: 1, id: None }, Bytes::new());
            }
        }
    }

    fn grant(&mut self, id: u64, more: u32, out: &Out) {
        let granted = if let Some(watch) = self.watches.get_mut(&id) {
            Some((&mut watch.granted, watch.what.steps.capacity(), watch.is_asked))
        } else {
            let topic = self.topics.get_mut(&id);
            topic.map(|topic| (&mut topic.granted, topic.what.events.capacity(), topic.is_asked))
        };
        if let Some((granted, capacity, true)) = granted {
            let room = (capacity as u32).saturating_sub(*granted + 1);
            let more = more.min(room);
            if more > 0 {
                *granted += more;
                out.say(Ask::Grant { more, id: Some(id) }, Bytes::new());
            }
        }
    }

    /// Asks for what goes on and this connection does not know of yet, as far as there is room to say it.
    fn ask_again(&mut self, out: &Out) {
        let mut last = self.last;
        for (point, served) in &mut self.served {
            if served.asked_as.is_none() && out.0.capacity() > 1 {
                last += 1;
                served.asked_as = Some(last);
                let (point, kind) = (point.clone(), served.kind.clone());
                out.say(Ask::Serve { id: last, point, kind }, Bytes::new());
            }
        }
        self.last = last;
        for (id, watch) in &mut self.watches {
            if !watch.is_asked && out.0.capacity() > 1 {
                (watch.is_asked, watch.granted) = (true, room(&watch.what.steps));
                let Watching { select, since, stale, .. } = &watch.what;
                let (select, since, stale, grant) = (select.clone(), since.clone(), *stale, watch.granted);
                out.say(Ask::Watch { id: *id, select, since, stale, grant }, Bytes::new());
            }
        }
        for (id, topic) in &mut self.topics {
            if !topic.is_asked && out.0.capacity() > 1 {
                (topic.is_asked, topic.granted) = (true, room(&topic.what.events));
                let (topic, grant) = (topic.what.topic.clone(), topic.granted);
                out.say(Ask::Subscribe { id: *id, topic, grant }, Bytes::new());
            }
        }
    }

    /// Looks after what is to be tried again, and what nobody listens to any more.
    fn look(&mut self, out: &Out) {
        let mut ended: Vec<u64> =
            self.watches.extract_if(|_, watch| watch.what.steps.is_closed()).map(|(id, _)| id).collect();
        ended.extend(self.topics.extract_if(|_, topic| topic.what.events.is_closed()).map(|(id, _)| id));
        for id in ended.into_iter().take(out.0.capacity()) {
            out.say(Ask::Cancel { id }, Bytes::new());
        }
        self.ask_again(out);
    }

    fn hear(&mut self, told: Tell, body: Bytes, out: &Out) {
        match told {
            Tell::Welcome { .. } | Tell::Bye { .. } => {}
            Tell::Done { id } => self.done(id),
            Tell::Error { id: Some(id), outcome, problem } => self.failed(id, outcome.as_deref(), problem),
            Tell::Error { id: None, problem, .. } => {
                tracing::warn!("the node did not understand: {}", Problem::read(problem).detail);
            }
            Tell::Reply(answer) => {
                if let Some(pending) = self.pending.remove(&answer.id) {
                    // Whoever does not wait any more is not told.
                    _ = pending.send(Ok((answer, body)));
                }
            }
            Tell::Request { id, heard, timeout_ms } => {
                self.handle(Incoming::new(Some(id), heard, body, Duration::from_millis(timeout_ms)), out);
            }
            Tell::Signal { heard } => self.handle(Incoming::new(None, heard, body, Duration::ZERO), out),
            Tell::Cancel { id } => {
                // Its end is told by whoever ran it.
                if let Some(task) = self.handling.remove(&id) {
                    task.abort();
                }
            }
            Tell::Change { id, event } => self.step(id, event, out),
            Tell::Event { id, from, path, headers } => {
                self.event(id, Heard::Event { from, path, headers, body }, out);
            }
            Tell::Gap { id, missed } => self.event(id, Heard::Gap { missed }, out),
            Tell::End { id } => {
                // It is asked for again at the next look.
                if let Some(watch) = self.watches.get_mut(&id) {
                    (watch.granted, watch.is_asked) = (0, false);
                }
                if let Some(topic) = self.topics.get_mut(&id) {
                    (topic.granted, topic.is_asked) = (0, false);
                }
            }
        }
    }

    fn done(&mut self, id: u64) {
        if let Some(pending) = self.pending.remove(&id) {
            _ = pending.send(Ok((Answer { id, status: 204, headers: Vec::new() }, Bytes::new())));
        } else if let Some(topic) = self.topics.get_mut(&id) {
            match topic.what.answer.take() {
                Some(answer) => _ = answer.send(Ok(id)),
                // One place is kept for it.
                None => _ = topic.what.events.try_send(Heard::Reconnected),
            }
        } else if let Some(served) = self.served.values_mut().find(|served| served.asked_as == Some(id))
            && let Some(answer) = served.answer.take()
        {
            _ = answer.send(Ok(()));
        }
    }

    fn failed(&mut self, id: u64, outcome: Option<&str>, problem: serde_json::Value) {
        let problem = Problem::read(problem);
        let passes = ["E-UNREACHABLE", "E-BUSY", "E-NOT-READY", "E-TIMEOUT"].contains(&&*problem.code);
        let error = match outcome {
            Some("failed") => Error::Failed(problem),
            Some("unknown") => Error::Unknown(problem),
            _ => Error::Rejected(problem),
        };
        if let Some(pending) = self.pending.remove(&id) {
            _ = pending.send(Err(error));
        } else if let Some(watch) = self.watches.get_mut(&id) {
            (watch.granted, watch.is_asked) = (0, false);
            if !passes {
                *watch.what.failed.lock() = Some(error);
                self.watches.remove(&id);
            }
        } else if let Some(topic) = self.topics.get_mut(&id) {
            (topic.granted, topic.is_asked) = (0, false);
            let answer = topic.what.answer.take();
            if answer.is_some() || !passes {
                self.topics.remove(&id);
            }
            if let Some(answer) = answer {
                _ = answer.send(Err(error));
            }
        } else {
            let served = self.served.iter_mut().find(|(_, served)| served.asked_as == Some(id));
            let Some((point, served)) = served else { return };
            served.asked_as = None;
            let (point, answer) = (point.clone(), served.answer.take());
            match answer {
                Some(answer) => {
                    self.served.remove(&point);
                    _ = answer.send(Err(error));
                }
                None => tracing::warn!(%point, "it is not served again yet: {error}"),
            }
        }
    }

    fn step(&mut self, id: u64, event: serde_json::Value, out: &Out) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        watch.granted = watch.granted.saturating_sub(1);
        let told = match serde_json::from_value::<Told>(event) {
            Ok(told) => told,
            Err(error) => return tracing::warn!("a step of a watch cannot be read: {error}"),
        };
        let token = told.token.clone();
        // After `gone` the list follows by itself, and after a connection that breaks meanwhile too.
        watch.what.since = Some(token.clone()).filter(|token| !token.is_empty());
        if watch.what.steps.try_send((told.into_step(), token)).is_err() {
            // Nobody takes them any more: not more come than there is room for.
            self.watches.remove(&id);
            out.say(Ask::Cancel { id }, Bytes::new());
        }
    }

    fn event(&mut self, id: u64, heard: Heard, out: &Out) {
        let Some(topic) = self.topics.get_mut(&id) else { return };
        if matches!(heard, Heard::Event { .. }) {
            topic.granted = topic.granted.saturating_sub(1);
        }
        if topic.what.events.try_send(heard).is_err() && topic.what.events.is_closed() {
            self.topics.remove(&id);
            out.say(Ask::Cancel { id }, Bytes::new());
        }
    }

    fn handle(&mut self, incoming: Incoming, out: &Out) {
        let (id, connection) = (incoming.id, self.connection);
        let (Some(served), Some(commands)) = (self.served.get(&incoming.point), self.commands.upgrade())
        else {
            if let Some(id) = id {
                let detail = format!("`{}` is served no more", incoming.point);
                out.say(Ask::Fail { id, detail, ran: false }, Bytes::new());
            }
            return out.say(Ask::Grant { more: 1, id: None }, Bytes::new());
        };
        let handler = served.handler.clone();
        let task = tokio::spawn(async move { handler(incoming).await });
        if let Some(id) = id {
            self.handling.insert(id, task.abort_handle());
        }
        self.handlers += 1;
        tokio::spawn(async move {
            let result = task.await.unwrap_or_else(|error| {
                let why = if error.is_panic() { "the handler panicked" } else { "it was called off" };
                Err(Failed::new(why))
            });
            // When nobody has the client any more, nobody is answered.
            _ = commands.send(Command::Handled { connection, id, result }).await;
        });
    }
}

/// As many as there is room for, and one place for the word that a connection is there again.
fn room<T>(channel: &mpsc::Sender<T>) -> u32 {
    (channel.capacity() as u32).saturating_sub(1).min(STEPS_MAX)
}

/// Opens a connection and says hello.
async fn connect(config: &Config, node: &str) -> Result<Socket, Error> {
    let address = Config::portal(node)?;
    let failed = |error: &dyn std::fmt::Display| Error::Connect(format!("`{node}`: {error}"));
    let opened = async {
        let stream = tls::open(&address, &config.trust).await.map_err(|error| failed(&error))?;
        client_async(&address, stream).await.map_err(|error| failed(&error))
    };
    let (mut socket, _) = timeout(CONNECT_MAX, opened).await.map_err(|error| failed(&error))??;
    let hello =
        Ask::Hello { version: VERSION, token: Some(config.token.clone()), name: Some(config.name.clone()) };
    let Ok(Framed::Binary(hello)) = encode(Framing::Binary, &hello, b"") else {
        return Err(Error::usage("the name of the client cannot be said"));
    };
    socket.send(Message::Binary(hello)).await.map_err(|error| failed(&error))?;
    loop {
        let frame = timeout(CONNECT_MAX, socket.next()).await.map_err(|error| failed(&error))?;
        let told = match frame {
            Some(Ok(Message::Binary(bytes))) => decode_binary::<Tell>(bytes),
            Some(Ok(Message::Text(text))) => decode_text(&text),
            Some(Ok(Message::Close(_))) | None => return Err(failed(&"the node closed the connection")),
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(failed(&error)),
        };
        return match told {
            Ok((Tell::Welcome { .. }, _)) => Ok(socket),
            Ok((Tell::Error { problem, .. }, _)) => Err(failed(&Problem::read(problem).detail)),
            Ok(_) => Err(failed(&"the first word is no welcome")),
            Err(unread) => Err(failed(&unread)),
        };
    }
}

async fn write(
    mut sink: futures::stream::SplitSink<Socket, Message>,
    mut frames: mpsc::Receiver<(Ask, Bytes)>,
) {
    while let Some((ask, body)) = frames.recv().await {
        let Ok(Framed::Binary(bytes)) = encode(Framing::Binary, &ask, &body) else { continue };
        let frame = Message::Binary(bytes);
        // What is ready goes in one write.
        let written = match frames.is_empty() {
            true => sink.send(frame).await,
            false => sink.feed(frame).await,
        };
        if written.is_err() {
            return;
        }
    }
    // A node that is gone needs no farewell.
    _ = sink.close().await;
}

/// Longer with each attempt, and not the same for all.
fn wait_before(attempt: u32) -> Duration {
    let wait = AGAIN[0].saturating_mul(1 << attempt.min(10)).min(AGAIN[1]);
    let mut chance = [0; 2];
    // Without randomness, all wait the same.
    _ = getrandom::fill(&mut chance);
    wait / 2 + wait / 2 * u32::from(u16::from_le_bytes(chance)) / u32::from(u16::MAX)
}
