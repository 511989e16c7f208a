//! A host for tests: mechtrons run natively, in one thread, with a clock that stands still until it is moved.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use mechtron_abi::{
    CallHead, ErrorHead, Frame, Frames, Header, InitHead, Kind, MessageHead, OutcomeKind, ReplyHead,
    StartHead, Writer, features, flags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cx::success;
use crate::error::ErrorKind;
use crate::http::Response;
use crate::mechtron::Entry;
use crate::socket::{self, Frame as SocketFrame};
use crate::time::millis;
use crate::{Change, Error, Guest, Instant, Mechtron, Message, Reference, Result, Socket};

/// When tests begin: 2023-11-14 22:13:20 UTC.
const BEGIN_MS: u64 = 1_700_000_000_000;
/// How long a request waits when nobody says.
const TIMEOUT_MS: u64 = 30_000;
/// How many messages one mechtron may have waiting.
const MAILBOX_MAX: usize = 1_000;
/// Who asks when a test does.
const TESTER: &str = "mesh:users:tester";

/// Runs mechtrons in a test, as a node would: the same frames, one message at a time, state saved after each handler
/// that ends well.
///
/// Time is virtual: [`advance`](Self::advance) moves it, and a call that waits for a timer moves it as far as it must.
/// When several mechtrons could go on, the seed decides which does; the same seed gives the same run.
#[derive(Clone)]
pub struct TestKit(Rc<RefCell<World>>);

/// What a test can let go wrong with the next message to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No way leads there: it surely does not run.
    Unreachable,
    /// Too much waits there: it surely does not run.
    Busy,
    /// It is lost on the way, and the sender cannot know.
    Timeout,
    /// It runs, but the answer is lost.
    AnswerLost,
    /// It fails, without running.
    Fails,
}

/// A message that was sent in a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Who sent it.
    pub from: String,
    /// Whom it was for.
    pub to: String,
    /// `Ext<Add>`, `Http<Get>`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// What was given along.
    pub body: Vec<u8>,
    /// When.
    pub at: Instant,
}

impl Sent {
    /// The body read as a message.
    ///
    /// # Errors
    /// When it is another.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        crate::message::from_json(&self.body)
    }
}

/// A line that a mechtron logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Which mechtron.
    pub point: String,
    /// 1 (error) to 5 (trace).
    pub level: u32,
    /// What.
    pub line: String,
}

/// What `#[handlers]` writes for tests.
pub trait Tested: Mechtron {
    /// The mechtron with a method for each message.
    type Handle;
    /// Wraps the plain handle.
    fn handle(handle: Handle<Self>) -> Self::Handle;
}

/// A mechtron of a known type in a test.
pub struct Handle<M> {
    kit: TestKit,
    reference: Reference,
    mechtron: PhantomData<fn() -> M>,
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self { kit: self.kit.clone(), reference: self.reference.clone(), mechtron: PhantomData }
    }
}

impl<M: Mechtron> Handle<M> {
    /// Its address.
    pub fn reference(&self) -> Reference {
        self.reference.clone()
    }

    /// Its fields, as they were last saved.
    pub fn state(&self) -> M {
        self.kit.state(self.reference.point())
    }

    /// Calls it and waits.
    ///
    /// # Errors
    /// What it answered, or what came instead.
    pub fn call<T: DeserializeOwned>(&self, message: &impl Message) -> Result<T> {
        success(self.kit.ask(self.reference.point(), message)?)?.body_json()
    }

    /// Casts to it and waits until it is handled, so that a test sees what came of it.
    ///
    /// # Errors
    /// What came of it otherwise.
    pub fn cast(&self, message: &impl Message) -> Result<()> {
        success(self.kit.ask(self.reference.point(), message)?).map(drop)
    }

    /// See [`TestKit::tell`].
    ///
    /// # Errors
    /// What the handler failed with, or what came instead.
    pub fn change(&self, watch: &str, change: &Change) -> Result<()> {
        self.kit.tell(self.reference.point(), watch, change)
    }
}

impl Default for TestKit {
    fn default() -> Self {
        Self::new()
    }
}

impl TestKit {
    /// A world with nothing in it.
    pub fn new() -> Self {
        Self::with_seed(1)
    }

    /// The same, with another order of what could happen in any order, and other random numbers.
    pub fn with_seed(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(World::new(seed))))
    }

    /// Puts a mechtron with some state at a point.
    ///
    /// # Panics
    /// When the text is no point, or one is there already.
    pub fn spawn<M: Tested>(&self, point: &str, state: M) -> M::Handle {
        self.spawn_with(point, state, serde_json::json!({}))
    }

    /// The same with a config, a JSON object.
    ///
    /// # Panics
    /// When the text is no point, one is there already, or state or config cannot be JSON.
    pub fn spawn_with<M: Tested>(&self, point: &str, state: M, config: impl Serialize) -> M::Handle {
        let config = must(serde_json::to_string(&config).map_err(Error::from), "the config");
        let state = must(serde_json::to_vec(&state).map_err(Error::from), "the state");
        assert!(!self.0.borrow().hosted.contains_key(point), "a mechtron is at `{point}` already");
        self.begin::<M>(point, Some(state), config)
    }

    /// Goes on with another version of a mechtron: the saved state is loaded into `M`.
    ///
    /// # Panics
    /// When none is at the point.
    pub fn upgrade<M: Tested>(&self, point: &str) -> M::Handle {
        let (state, config) = self.0.borrow_mut().leave(point);
        self.begin::<M>(point, state, config)
    }

    fn begin<M: Tested>(&self, point: &str, state: Option<Vec<u8>>, config: String) -> M::Handle {
        let reference = must(Reference::new(point), "the point");
        self.0.borrow_mut().begin(point, EntryOf::<M>::ENTRIES, state, config);
        M::handle(Handle { kit: self.clone(), reference, mechtron: PhantomData })
    }

    /// Saves a mechtron, drops it and loads it again, as sleep, a crash of its node or a restart do. Its timers are gone;
    /// the message that it was handling fails.
    ///
    /// # Panics
    /// When none is at the point.
    pub fn restart(&self, point: &str) {
        let mut world = self.0.borrow_mut();
        let entries = world.at(point).entries;
        let (state, config) = world.leave(point);
        world.begin(point, entries, state, config);
    }

    /// Why the mechtron at a point refused to start.
    pub fn refused(&self, point: &str) -> Option<String> {
        self.0.borrow().hosted.get(point)?.refused.clone()
    }

    /// Moves the clock, and lets happen what is due meanwhile.
    pub fn advance(&self, duration: Duration) {
        let mut world = self.0.borrow_mut();
        let until = world.now_ms.saturating_add(millis(duration));
        world.settle();
        while world.next_event().is_some_and(|at| at <= until) {
            world.step_time();
        }
        world.now_ms = until;
    }

    /// The time.
    pub fn now(&self) -> Instant {
        Instant(self.0.borrow().now_ms)
    }

    /// Lets something go wrong with the next message to a point. Several are used one after the other.
    pub fn fail_next(&self, point: &str, failure: Failure) {
        self.0.borrow_mut().failures.entry(point.to_owned()).or_default().push_back(failure);
    }

    /// What a selector selects from now on: `[{"point": …, "kind": …}, …]`.
    pub fn selects(&self, selector: &str, resources: serde_json::Value) {
        self.0.borrow_mut().selections.insert(selector.to_owned(), resources);
    }

    /// All messages that were sent to a point, in order.
    pub fn sent_to(&self, point: &str) -> Vec<Sent> {
        self.0.borrow().sent.iter().filter(|sent| sent.to == point).cloned().collect()
    }

    /// What all mechtrons logged, in order.
    pub fn log(&self) -> Vec<LogLine> {
        self.0.borrow().log.clone()
    }

    /// The fields of the mechtron at a point, as they were last saved.
    ///
    /// # Panics
    /// When none is at the point, or it is of another type.
    pub fn state<M: Mechtron>(&self, point: &str) -> M {
        match &self.0.borrow_mut().at(point).state {
            Some(state) => must(serde_json::from_slice(state).map_err(Error::from), "the state"),
            None => M::default(),
        }
    }

    /// Asks for a page: `kit.http("shop:counter", GET, "/total")`.
    ///
    /// # Errors
    /// What came instead of an answer. An answer with a status outside of 2xx is an answer.
    pub fn http(&self, point: &str, method: &str, path: &str) -> Result<Response> {
        self.http_with(point, method, path, "", &[])
    }

    /// The same with a body.
    ///
    /// # Errors
    /// As [`http`](Self::http).
    pub fn http_with(
        &self,
        point: &str,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Response> {
        let mut name = method.to_ascii_lowercase();
        if let Some(first) = name.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        self.request(point, &format!("Http<{name}>"), path, content_type, body)
    }

    /// Opens a WebSocket, as a browser would: `kit.connect("shop:chat", "/live")`.
    ///
    /// # Errors
    /// The answer of who did not accept it, or what came instead of an answer.
    pub fn connect(&self, point: &str, path: &str) -> Result<TestSocket> {
        self.connect_with(point, path, &[])
    }

    /// The same with headers, such as `origin` or `sec-websocket-protocol`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_with(&self, point: &str, path: &str, headers: &[(&str, &str)]) -> Result<TestSocket> {
        let socket = self.0.borrow_mut().open(point);
        let own = [("upgrade", "websocket"), (socket::HEADER, socket.point())];
        let headers =
            own.iter().chain(headers).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let letter = Letter {
            from: TESTER.to_owned(),
            to: point.to_owned(),
            method: "Http<Get>".to_owned(),
            path: path.to_owned(),
            headers: headers.collect(),
            body: Vec::new(),
            change: None,
        };
        let answer = self.post(letter).and_then(|response| match response.status {
            101 => Ok(response),
            _ => Err(Error::from_response(&response)),
        });
        let mut world = self.0.borrow_mut();
        match answer {
            Ok(response) => {
                world.hear(&socket, &response);
                drop(world);
                Ok(TestSocket { kit: self.clone(), socket })
            }
            Err(error) => {
                world.wires.remove(socket.point());
                Err(error)
            }
        }
    }

    /// Tells the `#[on(watch = "…")]` handler of a name that something changed, and waits until it is handled. The handle of
    /// the mechtron has a method for each: `auditor.paid(Change::Entered(order))`. A node tells a change that failed again;
    /// here that is up to the test.
    ///
    /// # Errors
    /// What the handler failed with, or what came instead.
    pub fn tell(&self, point: &str, watch: &str, change: &Change) -> Result<()> {
        let body = change.frame(watch)?.1;
        let letter = Letter {
            from: point.to_owned(),
            to: point.to_owned(),
            method: "Ext<Change>".to_owned(),
            path: "/".to_owned(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body,
            change: Some((watch.to_owned(), change.clone())),
        };
        success(self.post(letter)?).map(drop)
    }

    fn ask(&self, point: &str, message: &impl Message) -> Result<Response> {
        let body = serde_json::to_vec(message)?;
        self.request(point, &method_of(message), "/", "application/json", &body)
    }

    /// Asks anything, as the command line would.
    ///
    /// # Errors
    /// What came instead of an answer.
    pub fn request(
        &self,
        point: &str,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Response> {
        let mut headers = Vec::new();
        if !content_type.is_empty() {
            headers.push(("content-type".to_owned(), content_type.to_owned()));
        }
        self.post(Letter {
            from: TESTER.to_owned(),
            to: point.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers,
            body: body.to_vec(),
            change: None,
        })
    }

    fn post(&self, letter: Letter) -> Result<Response> {
        let mut world = self.0.borrow_mut();
        let deadline_ms = world.now_ms.saturating_add(TIMEOUT_MS);
        let id = world.post(letter, Source::Test, true, deadline_ms, Vec::new());
        world.settle();
        // Every message has its deadline, so this ends.
        while !world.answers.contains_key(&id) && world.next_event().is_some() {
            world.step_time();
        }
        world.answers.remove(&id).unwrap_or_else(|| Err(timeout()))
    }
}

/// A client with a WebSocket in a test. Dropping it does not close it.
#[derive(Clone)]
pub struct TestSocket {
    kit: TestKit,
    socket: Socket,
}

impl fmt::Debug for TestSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TestSocket").field(&self.socket).finish()
    }
}

impl TestSocket {
    /// Its address.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Says something, and waits until it is handled.
    ///
    /// # Errors
    /// What came of it otherwise; the connection is closed then, with 1011.
    pub fn say(&self, frame: impl Into<SocketFrame>) -> Result<()> {
        let frame = frame.into();
        let wire = self
            .kit
            .0
            .borrow()
            .wires
            .get(self.socket.point())
            .map(|wire| (wire.by.clone(), wire.closed.is_some()));
        let Some((by, false)) = wire else { return Err(Error::fail("E-USAGE", "the connection is closed")) };
        let letter = Letter {
            from: self.socket.point().to_owned(),
            to: by,
            method: socket::MESSAGE.to_owned(),
            path: "/".to_owned(),
            headers: vec![("content-type".to_owned(), frame.content_type().to_owned())],
            body: frame.bytes().to_vec(),
            change: None,
        };
        match self.kit.post(letter) {
            Ok(response) => {
                self.kit.0.borrow_mut().hear(&self.socket, &response);
                Ok(())
            }
            Err(error) => {
                self.kit.0.borrow_mut().close(&self.socket, 1011, error.code());
                self.gone(1011, error.code());
                Err(error)
            }
        }
    }

    /// What it was told since it was asked last, in order.
    pub fn heard(&self) -> Vec<SocketFrame> {
        let mut world = self.kit.0.borrow_mut();
        world
            .wires
            .get_mut(self.socket.point())
            .map(|wire| std::mem::take(&mut wire.heard))
            .unwrap_or_default()
    }

    /// The same, all of it text.
    ///
    /// # Panics
    /// When it was told bytes.
    pub fn heard_text(&self) -> Vec<String> {
        let frames = self.heard().into_iter();
        frames.map(|frame| must(frame.text().map(str::to_owned), "what was told")).collect()
    }

    /// With which code and reason it was closed, when it is.
    pub fn closed(&self) -> Option<(u16, String)> {
        self.kit.0.borrow().wires.get(self.socket.point())?.closed.clone()
    }

    /// Leaves, with 1000.
    pub fn leave(&self) {
        self.kit.0.borrow_mut().close(&self.socket, 1000, "");
        self.gone(1000, "");
    }

    /// Is lost without a word, and nobody is told: its node is gone.
    pub fn vanish(&self) {
        self.kit.0.borrow_mut().close(&self.socket, 1006, "");
    }

    /// Tells whoever accepted it that it is gone.
    fn gone(&self, code: u16, reason: &str) {
        self.kit.0.borrow_mut().tell_closed(&self.socket, code, reason);
    }
}

impl fmt::Debug for TestKit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.borrow().hosted.keys()).finish()
    }
}

fn method_of<M: Message>(_: &M) -> String {
    format!("Ext<{}>", M::NAME)
}

#[track_caller]
fn must<T>(result: Result<T>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {}", error.detail()),
    }
}

/// A module with one mechtron in it.
struct EntryOf<M>(PhantomData<M>);

impl<M: Mechtron> EntryOf<M> {
    const ENTRIES: &'static [Entry] = &[Entry::of::<M>()];
}

struct World {
    now_ms: u64,
    random: u64,
    last_id: u64,
    hosted: BTreeMap<String, Hosted>,
    in_flight: BTreeMap<u64, InFlight>,
    /// To what a test asked.
    answers: BTreeMap<u64, Result<Response>>,
    failures: BTreeMap<String, VecDeque<Failure>>,
    selections: BTreeMap<String, serde_json::Value>,
    sent: Vec<Sent>,
    log: Vec<LogLine>,
    /// The WebSockets that were opened, by their points.
    wires: BTreeMap<String, Wire>,
}

/// A WebSocket, and who accepted it.
struct Wire {
    by: String,
    heard: Vec<SocketFrame>,
    closed: Option<(u16, String)>,
}

/// A mechtron and what a node keeps for it.
struct Hosted {
    guest: Guest,
    entries: &'static [Entry],
    config: String,
    state: Option<Vec<u8>>,
    /// Counts the activations at all points; an answer to an earlier one finds nobody.
    activation: u64,
    refused: Option<String>,
    mailbox: VecDeque<u64>,
    handling: Option<u64>,
    /// Frames for the next run.
    frames: Writer,
    timers: BTreeMap<u64, u64>,
}

impl Hosted {
    fn due(&self, now_ms: u64) -> Option<u64> {
        self.timers
            .iter()
            .filter(|(_, at)| **at <= now_ms)
            .min_by_key(|(token, at)| (**at, **token))
            .map(|(t, _)| *t)
    }

    fn can_go_on(&self, now_ms: u64) -> bool {
        let may_begin = self.handling.is_none() && (!self.mailbox.is_empty() || self.due(now_ms).is_some());
        !self.frames.is_empty() || may_begin
    }
}

struct Letter {
    from: String,
    to: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What a watch tells, and which.
    change: Option<(String, Change)>,
}

struct InFlight {
    letter: Letter,
    source: Source,
    wants_reply: bool,
    deadline_ms: u64,
    /// Who waits for its answer.
    chain: Vec<String>,
    answer_lost: bool,
}

#[derive(Clone, PartialEq)]
enum Source {
    Test,
    Mechtron { point: String, activation: u64, token: u64 },
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            now_ms: BEGIN_MS,
            random: seed,
            last_id: 0,
            hosted: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            answers: BTreeMap::new(),
            failures: BTreeMap::new(),
            selections: BTreeMap::new(),
            sent: Vec::new(),
            log: Vec::new(),
            wires: BTreeMap::new(),
        }
    }

    /// A point for one client more.
    fn open(&mut self, by: &str) -> Socket {
        let number = self.next_id();
        let socket = must(Socket::at(format!("mesh:nodes:test:sockets:{number}")), "the socket");
        let wire = Wire { by: by.to_owned(), heard: Vec::new(), closed: None };
        self.wires.insert(socket.point().to_owned(), wire);
        socket
    }

    /// A client is told what was answered.
    fn hear(&mut self, socket: &Socket, response: &Response) {
        if response.body.is_empty() {
            return;
        }
        let content_type = response.header("content-type").unwrap_or(socket::TEXT);
        let frame = must(SocketFrame::of(content_type, &response.body), "the answer");
        if let Some(wire) = self.wires.get_mut(socket.point()) {
            wire.heard.push(frame);
        }
    }

    fn close(&mut self, socket: &Socket, code: u16, reason: &str) {
        if let Some(wire) = self.wires.get_mut(socket.point()) {
            wire.closed.get_or_insert((code, reason.to_owned()));
        }
    }

    fn tell_closed(&mut self, socket: &Socket, code: u16, reason: &str) {
        let Some(by) = self.wires.get(socket.point()).map(|wire| wire.by.clone()) else { return };
        let body = socket::CloseBody { code, reason: reason.to_owned() };
        let letter = Letter {
            from: socket.point().to_owned(),
            to: by,
            method: socket::CLOSED.to_owned(),
            path: "/".to_owned(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: must(serde_json::to_vec(&body).map_err(Error::from), "code and reason"),
            change: None,
        };
        let deadline_ms = self.now_ms.saturating_add(TIMEOUT_MS);
        self.post(letter, Source::Test, false, deadline_ms, Vec::new());
        self.settle();
    }

    /// What a WebSocket does with a message; `None` when none ever was at its point.
    fn wire(&mut self, letter: &Letter) -> Option<Result<Response>> {
        let wire = self.wires.get_mut(&letter.to)?;
        if wire.closed.is_some() {
            return Some(Err(rejected("E-NOT-FOUND", format!("no WebSocket is open at `{}`", letter.to))));
        }
        Some(match &*letter.method {
            socket::MESSAGE => {
                let content_type = letter.headers.iter().find(|(name, _)| name == "content-type");
                let frame =
                    SocketFrame::of(content_type.map_or(socket::TEXT, |(_, value)| value), &letter.body);
                frame.map(|frame| {
                    wire.heard.push(frame);
                    Response::empty(204)
                })
            }
            socket::CLOSE => self.close_by_order(letter),
            other => Err(rejected("E-NO-ROUTE", format!("a WebSocket takes no {other}"))),
        })
    }

    fn close_by_order(&mut self, letter: &Letter) -> Result<Response> {
        let socket::CloseBody { code, reason } = crate::message::from_json(&letter.body)?;
        let socket = Socket::at(letter.to.as_str())?;
        self.close(&socket, code, &reason);
        self.tell_closed(&socket, code, &reason);
        Ok(Response::empty(204))
    }

    #[track_caller]
    fn at(&mut self, point: &str) -> &mut Hosted {
        match self.hosted.get_mut(point) {
            Some(hosted) => hosted,
            None => panic!("no mechtron is at `{point}`: spawn one first"),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// SplitMix64, as in mechtrons.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn begin(&mut self, point: &str, entries: &'static [Entry], state: Option<Vec<u8>>, config: String) {
        let mut init = Writer::new();
        let head = InitHead {
            features: features::STATE | features::SELECT | features::WATCH,
            seed: self.random(),
            config: config.as_str().into(),
        };
        init.frame_with_head(Header::new(Kind::Start, 0), &head, &[]);
        let mut guest = Guest::new(entries);
        let payload =
            Frames::new(init.bytes()).next().and_then(|frame| frame.ok()).map(|frame| frame.payload);
        must(guest.init(payload.unwrap_or_default()).map_err(Error::from), "the init head");

        let mut frames = Writer::new();
        let mut header = Header::new(Kind::Start, 0);
        if state.is_some() {
            header.flags |= flags::HAS_STATE;
        }
        let head = StartHead { point: point.into(), name: "".into() };
        frames.frame_with_head(header, &head, state.as_deref().unwrap_or_default());
        let activation = self.next_id();
        let hosted = Hosted {
            guest,
            entries,
            config,
            state,
            activation,
            refused: None,
            mailbox: VecDeque::new(),
            handling: None,
            frames,
            timers: BTreeMap::new(),
        };
        self.hosted.insert(point.to_owned(), hosted);
        self.settle();
    }

    /// Stops the mechtron at a point; what it was asked and did not answer fails.
    #[track_caller]
    fn leave(&mut self, point: &str) -> (Option<Vec<u8>>, String) {
        self.at(point).frames.frame(Header::new(Kind::Stop, 0), &[]);
        self.run(point);
        let Some(hosted) = self.hosted.remove(point) else { return (None, String::new()) };
        let unanswered = hosted.handling.into_iter().chain(hosted.mailbox);
        for id in unanswered {
            self.complete(id, Err(Error::fail("E-NOT-READY", "the mechtron was restarted")));
        }
        (hosted.state, hosted.config)
    }

    fn post(
        &mut self,
        letter: Letter,
        source: Source,
        wants_reply: bool,
        deadline_ms: u64,
        chain: Vec<String>,
    ) -> u64 {
        let id = self.next_id();
        // What a watch tells is no message that anybody sent.
        if letter.change.is_none() {
            self.sent.push(Sent {
                from: letter.from.clone(),
                to: letter.to.clone(),
                method: letter.method.clone(),
                path: letter.path.clone(),
                body: letter.body.clone(),
                at: Instant(self.now_ms),
            });
        }
        let failure = self.failures.get_mut(&letter.to).and_then(VecDeque::pop_front);
        let refusal = self.refusal(&letter.to, &chain, failure);
        let on_the_wire = if refusal.is_none() { self.wire(&letter) } else { None };
        let to = letter.to.clone();
        let answer_lost = failure == Some(Failure::AnswerLost);
        self.in_flight.insert(id, InFlight { letter, source, wants_reply, deadline_ms, chain, answer_lost });
        if let Some(result) = on_the_wire {
            self.complete(id, result);
            return id;
        }
        match (refusal, self.hosted.get_mut(&to)) {
            (None, Some(hosted)) => hosted.mailbox.push_back(id),
            (refusal, _) => {
                let error =
                    refusal.unwrap_or_else(|| rejected("E-NOT-FOUND", format!("nothing is at `{to}`")));
                self.complete(id, Err(error));
            }
        }
        id
    }

    fn refusal(&self, to: &str, chain: &[String], failure: Option<Failure>) -> Option<Error> {
        match failure {
            Some(Failure::Unreachable) => return Some(rejected("E-UNREACHABLE", "no way leads there")),
            Some(Failure::Busy) => return Some(rejected("E-BUSY", "too much waits there")),
            Some(Failure::Timeout) => return Some(timeout()),
            Some(Failure::Fails) => return Some(Error::fail("E-HANDLER", "the test lets it fail")),
            Some(Failure::AnswerLost) | None => {}
        }
        if chain.iter().any(|waiting| waiting == to) {
            let way: Vec<_> = chain.iter().map(String::as_str).chain([to]).collect();
            return Some(rejected(
                "E-CYCLE",
                format!("the request would wait for itself: {}", way.join(" -> ")),
            ));
        }
        let hosted = self.hosted.get(to)?;
        if let Some(reason) = &hosted.refused {
            return Some(rejected("E-NOT-READY", format!("the mechtron did not start: {reason}")));
        }
        (hosted.mailbox.len() >= MAILBOX_MAX).then(|| rejected("E-BUSY", "too much waits there"))
    }

    /// Ends a message; whoever waits for the answer gets it.
    fn complete(&mut self, id: u64, result: Result<Response>) {
        let Some(message) = self.in_flight.remove(&id) else { return };
        if let Some(hosted) = self.hosted.get_mut(&message.letter.to) {
            hosted.handling.take_if(|handling| *handling == id);
            hosted.mailbox.retain(|waiting| *waiting != id);
        }
        if !message.wants_reply {
            return;
        }
        let result = if message.answer_lost { Err(timeout()) } else { result };
        match message.source {
            Source::Test => _ = self.answers.insert(id, result),
            Source::Mechtron { point, activation, token } => {
                if let Some(hosted) = self.hosted.get_mut(&point).filter(|h| h.activation == activation) {
                    reply(&mut hosted.frames, token, &result);
                }
            }
        }
    }

    /// Lets everybody go on until nobody can.
    fn settle(&mut self) {
        loop {
            let now_ms = self.now_ms;
            let ready: Vec<_> = self
                .hosted
                .iter()
                .filter(|(_, hosted)| hosted.can_go_on(now_ms))
                .map(|(point, _)| point.clone())
                .collect();
            if ready.is_empty() {
                return;
            }
            let chosen = (self.random() % ready.len() as u64) as usize;
            self.run(&ready[chosen]);
        }
    }

    /// The next moment at which something is due.
    fn next_event(&self) -> Option<u64> {
        let timers = self.hosted.values().filter(|h| h.handling.is_none()).flat_map(|h| h.timers.values());
        timers.copied().chain(self.in_flight.values().map(|message| message.deadline_ms)).min()
    }

    /// Moves the clock to the next event and lets it happen.
    fn step_time(&mut self) {
        let Some(at) = self.next_event() else { return };
        self.now_ms = self.now_ms.max(at);
        let late: Vec<_> =
            self.in_flight.iter().filter(|(_, m)| m.deadline_ms <= self.now_ms).map(|(id, _)| *id).collect();
        for id in late {
            self.give_up(id);
        }
        self.settle();
    }

    /// Nobody waits for a message any more.
    fn give_up(&mut self, id: u64) {
        let Some(message) = self.in_flight.get(&id) else { return };
        let began = self.hosted.get_mut(&message.letter.to).filter(|hosted| hosted.handling == Some(id));
        let error = match began {
            Some(hosted) => {
                hosted.frames.frame(Header::new(Kind::Cancel, id), &[]);
                timeout()
            }
            None => rejected("E-EXPIRED", "the deadline passed before it was handled"),
        };
        self.complete(id, Err(error));
    }

    /// One run of a mechtron, with at most one new message or timer.
    fn run(&mut self, point: &str) {
        let now_ms = self.now_ms;
        let Some(hosted) = self.hosted.get_mut(point) else { return };
        let mut clock = Header::new(Kind::Clock, now_ms);
        clock.flags |= flags::OPTIONAL;
        let mut inbox = Writer::new();
        inbox.frame(clock, &[]);
        let mut bytes = inbox.bytes().to_vec();
        bytes.extend_from_slice(hosted.frames.bytes());
        hosted.frames.clear();
        if hosted.handling.is_none() {
            let mut given = Writer::new();
            if let Some(token) = hosted.due(now_ms) {
                hosted.timers.remove(&token);
                given.frame(Header::new(Kind::Timer, token), &[]);
            } else if let Some(id) = hosted.mailbox.pop_front() {
                hosted.handling = Some(id);
                if let Some(message) = self.in_flight.get(&id) {
                    give(&mut given, id, message, now_ms);
                }
            }
            bytes.extend_from_slice(given.bytes());
        }
        let activation = hosted.activation;
        let outbox = must(hosted.guest.run(&bytes, <[u8]>::to_vec).map_err(Error::from), point);
        for frame in Frames::new(&outbox) {
            let frame = must(frame.map_err(Error::from), "a frame of the outbox");
            must(self.outward(point, activation, &frame), "a frame of the outbox");
        }
    }

    /// Does what a frame from a mechtron says.
    fn outward(&mut self, point: &str, activation: u64, frame: &Frame<'_>) -> Result<()> {
        let id = frame.header.id;
        match frame.kind() {
            Some(Kind::Answer) => {
                let (head, body) = frame.split()?;
                let head = ReplyHead::read(head)?;
                let headers = head.headers.into_iter();
                let response = Response {
                    status: head.status,
                    headers: headers.map(|(n, v)| (n.into_owned().into(), v.into_owned().into())).collect(),
                    body: body.to_vec(),
                };
                self.complete(id, Ok(response));
            }
            Some(Kind::Fail) => {
                let error = Error::from_head(&ErrorHead::read(frame.payload)?);
                match id {
                    0 => self.at(point).refused = Some(error.detail().to_owned()),
                    id => self.complete(id, Err(error)),
                }
            }
            Some(Kind::StatePut) => self.at(point).state = Some(frame.payload.to_vec()),
            Some(Kind::Request | Kind::Send) => self.call(point, activation, frame)?,
            Some(Kind::SetTimer) => {
                let delay_ms = u64::from_le_bytes(frame.payload.try_into()?);
                let at = self.now_ms.saturating_add(delay_ms);
                self.at(point).timers.insert(id, at);
            }
            Some(Kind::GiveUp) => {
                self.at(point).timers.remove(&id);
                let source = Source::Mechtron { point: point.to_owned(), activation, token: id };
                let call =
                    self.in_flight.iter().find(|(_, message)| message.source == source).map(|(id, _)| *id);
                if let Some(call) = call {
                    self.give_up(call);
                }
            }
            Some(Kind::Select) => {
                let selector = std::str::from_utf8(frame.payload)?;
                let answer = match self.selections.get(selector) {
                    Some(resources) => Response::json(resources),
                    None => Response::json(&[(); 0]),
                };
                reply(&mut self.at(point).frames, id, &answer);
            }
            Some(Kind::Log) => self.log.push(LogLine {
                point: point.to_owned(),
                level: frame.header.aux,
                line: String::from_utf8_lossy(frame.payload).into_owned(),
            }),
            kind => panic!("mechtrons do not send {kind:?}"),
        }
        Ok(())
    }

    fn call(&mut self, point: &str, activation: u64, frame: &Frame<'_>) -> Result<()> {
        let (head, body) = frame.split()?;
        let head = CallHead::read(head)?;
        let handled = self.at(point).handling.and_then(|id| self.in_flight.get(&id));
        let mut chain = handled.map_or_else(Vec::new, |message| message.chain.clone());
        chain.push(point.to_owned());
        let left_ms = handled.map_or(self.now_ms.saturating_add(TIMEOUT_MS), |message| message.deadline_ms);
        let deadline_ms = match head.timeout_ms {
            0 => left_ms,
            own => left_ms.min(self.now_ms.saturating_add(own)),
        };
        let wants_reply = frame.kind() == Some(Kind::Request);
        let letter = Letter {
            from: point.to_owned(),
            to: head.to.into_owned(),
            method: head.method.into_owned(),
            path: head.path.into_owned(),
            headers: head.headers.into_iter().map(|(n, v)| (n.into_owned(), v.into_owned())).collect(),
            body: body.to_vec(),
            change: None,
        };
        let source = Source::Mechtron { point: point.to_owned(), activation, token: frame.header.id };
        // Who sends waits for nothing, so a cycle of sends is none.
        let (chain, deadline_ms) = if wants_reply {
            (chain, deadline_ms)
        } else {
            (Vec::new(), self.now_ms.saturating_add(TIMEOUT_MS))
        };
        self.post(letter, source, wants_reply, deadline_ms, chain);
        Ok(())
    }
}

fn rejected(code: &'static str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Rejected, code, detail)
}

fn timeout() -> Error {
    Error::new(ErrorKind::Unknown, "E-TIMEOUT", "the deadline passed before an answer; it may have run")
}

fn give(frames: &mut Writer, id: u64, message: &InFlight, now_ms: u64) {
    if let Some((watch, change)) = &message.letter.change {
        let (head, body) = must(change.frame(watch), "the change");
        return frames.frame_with_head(Header::new(Kind::Change, id), &head, &body);
    }
    let mut header = Header::new(Kind::Message, id);
    if message.wants_reply {
        header.flags |= flags::WANTS_REPLY;
    }
    let letter = &message.letter;
    let head = MessageHead {
        from: letter.from.as_str().into(),
        agent: TESTER.into(),
        method: letter.method.as_str().into(),
        path: letter.path.as_str().into(),
        headers: letter.headers.iter().map(|(n, v)| (n.as_str().into(), v.as_str().into())).collect(),
        remaining_ms: message.deadline_ms.saturating_sub(now_ms),
    };
    frames.frame_with_head(header, &head, &letter.body);
}

fn reply(frames: &mut Writer, token: u64, result: &Result<Response>) {
    match result {
        Ok(response) => {
            let headers = response.headers.iter();
            let head = ReplyHead {
                status: response.status,
                headers: headers.map(|(n, v)| (n.as_ref().into(), v.as_ref().into())).collect(),
            };
            frames.frame_with_head(Header::new(Kind::Reply, token), &head, &response.body);
        }
        Err(error) => {
            let outcome = match error.kind() {
                ErrorKind::Rejected => OutcomeKind::Rejected,
                ErrorKind::Unknown => OutcomeKind::Unknown,
                ErrorKind::Failed | ErrorKind::Refused { .. } => OutcomeKind::Failed,
            };
            let head = ErrorHead { outcome, code: error.code().into(), detail: error.detail().into() };
            frames.frame_with_head(Header::new(Kind::Error, token), &head, &[]);
        }
    }
}
