//! A node as small as can be, and guests in text form.

#![expect(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use std::collections::{HashMap, HashSet};
use std::future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use mechtron_abi::{CallHead, Header as FrameHeader, Kind, ReplyHead, Writer};
use mechtron_host::{
    Activation, Change, ChangeKind, Changes, Config, Durability, EngineKind, Host, ManualClock, Module,
    Outside, Place, Runs, Step,
};
use starlane_core::{
    Agent, Body, CallChain, Code, Epoch, Header, Headers, Message, MessageId, Method, Outcome, Payload,
    Phase, Point, Refusal, Reply, Request, Status,
};
use tokio::sync::{mpsc, watch};

pub const ECHO: &str = include_str!("../guests/echo.wat");
pub const PROBE: &str = include_str!("../guests/probe.wat");

/// How long a request may take when the test is not about time.
pub const LONG: Duration = Duration::from_secs(600);

pub fn point(text: &str) -> Point {
    text.parse().unwrap()
}

/// What a host finds outside.
pub struct Node {
    pub activations: Mutex<HashMap<Point, Activation>>,
    /// Why what is not placed does not run.
    pub missing: Mutex<Code>,
    /// Points that live elsewhere.
    pub elsewhere: Mutex<HashSet<Point>>,
    /// Who asks what runs at a point waits while this is false, and is answered as it was when he asked.
    pub may_answer: watch::Sender<bool>,
    /// The points that it was asked about, in order.
    pub asked: Mutex<Vec<Point>>,
    pub states: Mutex<HashMap<Point, Bytes>>,
    /// Under which epochs and durabilities states were loaded and saved.
    pub loads: Mutex<Vec<(Epoch, Durability)>>,
    pub saved: Mutex<Vec<(Epoch, Durability)>>,
    pub saves: Mutex<usize>,
    pub save_fails: Mutex<Option<Refusal>>,
    /// What begins to be saved while this is false waits until it is true.
    pub may_save: watch::Sender<bool>,
    /// Loading waits while this is false, and then answers what was there when it was asked.
    pub may_load: watch::Sender<bool>,
    pub statuses: mpsc::Sender<(Point, Status)>,
    pub sent: Mutex<Vec<Message>>,
    /// Signals to what does not live here.
    pub not_here: Mutex<Vec<Message>>,
    /// Signals that were given up, and why.
    pub undelivered: Mutex<Vec<(Message, Refusal)>>,
    /// What was asked outside, in order.
    pub requests: Mutex<Vec<Message>>,
    /// `out:gate` answers while this is true.
    pub gate: watch::Sender<bool>,
    /// What watches tell.
    pub changes: watch::Sender<Log>,
    /// How many steps watches told.
    pub steps: Arc<AtomicUsize>,
    /// The watches that were begun, each with its selector and how much of the log was told before.
    pub watched: Mutex<Vec<(String, usize)>>,
    /// Requests to the outside that somebody waits for.
    pub open: Arc<AtomicUsize>,
}

/// Counts a request for as long as somebody waits for it.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Outside for Node {
    fn activation(&self, point: Point) -> BoxFuture<'static, Result<Runs, Refusal>> {
        self.asked.lock().unwrap().push(point.clone());
        let found = match self.elsewhere.lock().unwrap().contains(&point) {
            true => Some(Runs::Elsewhere),
            false => self.activations.lock().unwrap().get(&point).cloned().map(Runs::Here),
        };
        let code = *self.missing.lock().unwrap();
        let missing = || Refusal::new(code, format!("nothing is at {point}"));
        let answer = found.ok_or_else(missing);
        let mut may = self.may_answer.subscribe();
        async move {
            let _ = may.wait_for(|may| *may).await;
            answer
        }
        .boxed()
    }

    fn load_state(
        &self,
        point: Point,
        epoch: Epoch,
        durability: Durability,
    ) -> BoxFuture<'static, Result<Option<Bytes>, Refusal>> {
        self.loads.lock().unwrap().push((epoch, durability));
        let state = self.states.lock().unwrap().get(&point).cloned();
        let mut may = self.may_load.subscribe();
        async move {
            let _ = may.wait_for(|may| *may).await;
            Ok(state)
        }
        .boxed()
    }

    fn save_state(
        &self,
        point: Point,
        epoch: Epoch,
        durability: Durability,
        state: Bytes,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let mut may = self.may_save.subscribe();
        // One that begins while it may is not held up later.
        let goes_on = *may.borrow();
        let failure = self.save_fails.lock().unwrap().clone();
        *self.saves.lock().unwrap() += 1;
        if failure.is_none() {
            self.saved.lock().unwrap().push((epoch, durability));
            self.states.lock().unwrap().insert(point, state);
        }
        async move {
            if !goes_on {
                let _ = may.wait_for(|may| *may).await;
            }
            failure.map_or(Ok(()), Err)
        }
        .boxed()
    }

    fn request(&self, message: Message) -> BoxFuture<'static, Outcome> {
        self.open.fetch_add(1, Ordering::AcqRel);
        let open = Open(Arc::clone(&self.open));
        let to = message.header.to.clone();
        self.requests.lock().unwrap().push(message);
        let mut gate = self.gate.subscribe();
        async move {
            let _open = open;
            match to.as_str() {
                "out:never" => future::pending().await,
                "out:gate" => drop(gate.wait_for(|open| *open).await),
                _ => {}
            }
            Outcome::Ok(Reply::new(200, "text/plain", format!("outside saw {to}")))
        }
        .boxed()
    }

    fn send(&self, message: Message) {
        self.sent.lock().unwrap().push(message);
    }

    fn not_here(&self, message: Message) {
        self.not_here.lock().unwrap().push(message);
    }

    fn undelivered(&self, message: Message, refusal: Refusal) {
        self.undelivered.lock().unwrap().push((message, refusal));
    }

    fn select(&self, by: Point, selector: String) -> BoxFuture<'static, Result<(Bytes, bool), Refusal>> {
        future::ready(Ok((Bytes::from(format!("[\"{by}\",\"{selector}\"]")), true))).boxed()
    }

    fn watch(&self, _by: Point, selector: Arc<str>, after: Option<Place>) -> Box<dyn Changes> {
        let after = after.map_or(0, |place| place.0.parse().unwrap());
        self.watched.lock().unwrap().push((selector.to_string(), after));
        let (changes, steps) = (self.changes.subscribe(), Arc::clone(&self.steps));
        Box::new(Told { changes, steps, selector, after })
    }

    fn status(&self, point: &Point, status: Status) {
        let _ = self.statuses.try_send((point.clone(), status));
    }
}

/// What a test lets watches tell: the selector, and what is told in order; `None` is a step without a change.
pub type Log = Vec<(String, Option<String>)>;

/// A watch that tells what its selector is for. A place is how many of the log were looked at.
struct Told {
    changes: watch::Receiver<Log>,
    steps: Arc<AtomicUsize>,
    selector: Arc<str>,
    after: usize,
}

impl Changes for Told {
    fn next(&mut self) -> BoxFuture<'_, Step> {
        async move {
            loop {
                let next = self.changes.borrow_and_update().get(self.after).cloned();
                let Some((selector, body)) = next else {
                    let _ = self.changes.changed().await;
                    continue;
                };
                self.after += 1;
                if selector == *self.selector {
                    let change = body.map(|body| Change {
                        what: ChangeKind::Entered,
                        revision: self.after as u64,
                        resource: body.into(),
                    });
                    self.steps.fetch_add(1, Ordering::AcqRel);
                    return Step { place: Place(self.after.to_string().into()), change };
                }
            }
        }
        .boxed()
    }
}

/// A host with its node and its time.
pub struct World {
    pub host: Host,
    pub node: Arc<Node>,
    pub clock: Arc<ManualClock>,
    pub statuses: mpsc::Receiver<(Point, Status)>,
    pub cache: tempfile::TempDir,
}

impl World {
    pub fn new(engine: EngineKind) -> Self {
        Self::with(engine, |_| {})
    }

    pub fn with(engine: EngineKind, change: impl FnOnce(&mut Config)) -> Self {
        let (clock, manual) = mechtron_host::Clock::manual();
        let (sender, statuses) = mpsc::channel(1_024);
        let node = Arc::new(Node {
            activations: Mutex::default(),
            missing: Mutex::new(Code::NotFound),
            elsewhere: Mutex::default(),
            may_answer: watch::Sender::new(true),
            asked: Mutex::default(),
            states: Mutex::default(),
            loads: Mutex::default(),
            saved: Mutex::default(),
            saves: Mutex::default(),
            save_fails: Mutex::default(),
            may_save: watch::Sender::new(true),
            may_load: watch::Sender::new(true),
            statuses: sender,
            sent: Mutex::default(),
            not_here: Mutex::default(),
            undelivered: Mutex::default(),
            requests: Mutex::default(),
            gate: watch::Sender::new(true),
            open: Arc::default(),
            changes: watch::Sender::default(),
            steps: Arc::default(),
            watched: Mutex::default(),
        });
        let cache = tempfile::tempdir().unwrap();
        let mut config = Config::new(tokio::runtime::Handle::current());
        config.engine = engine;
        config.shards = 2;
        config.clock = clock;
        config.cache = Some(cache.path().to_owned());
        // Debug and shared machines are slow; what is tested is the refusal, not the machine.
        config.compile_time = Duration::from_secs(120);
        change(&mut config);
        let host = Host::start(config, Arc::clone(&node) as Arc<dyn Outside>).unwrap();
        Self { host, node, clock: manual, statuses, cache }
    }

    pub async fn module(&self, wat: &str) -> Arc<Module> {
        self.host.compile(wat::parse_str(wat).unwrap().into()).await.unwrap()
    }

    pub fn place(&self, at: &str, module: &Arc<Module>, durability: Durability) {
        self.place_with(at, module, durability, |_| {});
    }

    pub fn place_with(
        &self,
        at: &str,
        module: &Arc<Module>,
        durability: Durability,
        change: impl FnOnce(&mut Activation),
    ) {
        let mut activation = Activation {
            module: Arc::clone(module),
            name: String::new(),
            epoch: Epoch(1),
            since: Epoch::default(),
            durability,
            config: "{}".into(),
            reentrant: None,
            limits: None,
            bound: false,
        };
        change(&mut activation);
        self.node.activations.lock().unwrap().insert(point(at), activation);
    }

    /// Asks with a body.
    pub async fn ask(&self, to: &str, body: impl Into<Bytes>) -> Outcome {
        self.request(message(to, body, LONG)).await
    }

    /// Asks; what does not live here rejects the message with the reason of [`NotHere`].
    pub fn request(&self, message: Message) -> impl Future<Output = Outcome> + Send + 'static {
        let asked = self.host.request(message);
        async move { asked.await.unwrap_or_else(|not_here| Outcome::Rejected(not_here.into())) }
    }

    /// The number that a probe answers.
    pub async fn number(&self, to: &str, op: &'static str) -> u32 {
        number(&self.ask(to, op).await)
    }

    /// Waits until a mechtron has a message in its hands.
    pub async fn handles(&self, at: &str) {
        while self.host.info(&point(at)).await.unwrap().handling == 0 {}
    }

    pub async fn next_status(&mut self) -> (Phase, String) {
        let (_, status) = self.statuses.recv().await.unwrap();
        (status.phase, status.reason)
    }
}

pub fn message(to: &str, body: impl Into<Bytes>, remaining: Duration) -> Message {
    let id = MessageId(1);
    let header =
        Header::new(id, point("test:client"), point(to), Agent(point("mesh:users:tester")), remaining);
    let request = Request {
        method: Method::ext("Ask").unwrap(),
        path: "/".into(),
        headers: Headers::default(),
        body: Body::Bytes(body.into()),
    };
    Message { header, payload: Payload::Request(request) }
}

/// A message that nobody waits for.
pub fn signal(to: &str, body: &'static str) -> Message {
    let mut signal = message(to, body, LONG);
    if let Payload::Request(request) = signal.payload {
        signal.payload = Payload::Signal(request);
    }
    signal
}

pub fn with_chain(mut message: Message, points: &[&str]) -> Message {
    message.header.chain =
        points.iter().fold(CallChain::default(), |chain, waiting| chain.with(point(waiting)));
    message
}

pub fn body(outcome: &Outcome) -> Bytes {
    match outcome {
        Outcome::Ok(Reply { body: Body::Bytes(bytes), .. }) => bytes.clone(),
        other => panic!("no answer but {other:?}"),
    }
}

pub fn number(outcome: &Outcome) -> u32 {
    u32::from_le_bytes(body(outcome)[..].try_into().unwrap())
}

/// The outcome without its words: `Ok`, or the kind and the code.
pub fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok(reply) => format!("Ok {}", reply.status),
        Outcome::Rejected(refusal) => format!("Rejected {}", refusal.code),
        Outcome::Failed(refusal) => format!("Failed {}", refusal.code),
        Outcome::Unknown(refusal) => format!("Unknown {}", refusal.code),
    }
}

/// A script for the probe: the frames that it puts out. The id -1 is that of the message.
#[derive(Default)]
pub struct Script(Writer);

pub const OWN: u64 = u64::MAX;

impl Script {
    pub fn frame(mut self, kind: Kind, id: u64, payload: &[u8]) -> Self {
        self.0.frame(FrameHeader::new(kind, id), payload);
        self
    }

    pub fn answer(mut self, text: &str) -> Self {
        let head = ReplyHead { status: 200, headers: vec![] };
        self.0.frame_with_head(FrameHeader::new(Kind::Answer, OWN), &head, text.as_bytes());
        self
    }

    pub fn request(self, id: u64, to: &str, body: &[u8]) -> Self {
        self.call(Kind::Request, id, to, body, 0)
    }

    pub fn call(mut self, kind: Kind, id: u64, to: &str, body: &[u8], timeout_ms: u64) -> Self {
        let head = CallHead {
            to: to.into(),
            method: "Ext<Ask>".into(),
            path: "/".into(),
            headers: vec![],
            timeout_ms,
        };
        self.0.frame_with_head(FrameHeader::new(kind, id), &head, body);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"=0000000".to_vec();
        bytes.extend_from_slice(self.0.bytes());
        bytes
    }
}
