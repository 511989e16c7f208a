//! One instance of a module: frames in, frames out. The Wasm exports and the [`TestKit`](crate::TestKit) both
//! drive this.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use mechtron_abi::{
    ChangeHead, ErrorHead, Frame, Frames, Header, InitHead, Kind, MessageHead, OutcomeKind, ReplyHead,
    StartHead, flags,
};

use crate::cx::{Cx, Level, Origin};
use crate::error::{ErrorKind, HANDLER};
use crate::http::Response;
use crate::mechtron::{Answer, Dispatched, Entry, Incoming, Object, Turn, Turned};
use crate::shared::Shared;
use crate::{Change, Error, Result};

/// How many bytes the inbox has at first, and at least.
const INBOX_BYTES: usize = 4 * 1_024;

/// An instance of a module, with at most one mechtron in it.
pub struct Guest {
    entries: &'static [Entry],
    shared: Rc<Shared>,
    actor: Option<Actor>,
}

/// Why an instance cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestError {
    /// What came in is not in the format of the ABI.
    Format,
    /// A message came before `START`, or a second `START`.
    Order,
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GuestError::Format => "the host's frames are not in the format of the ABI",
            GuestError::Order => "a mechtron is started once, before its first message",
        })
    }
}

impl std::error::Error for GuestError {}

impl Guest {
    /// An instance that has the mechtrons of a module.
    #[doc(hidden)]
    pub fn new(entries: &'static [Entry]) -> Self {
        Self { entries, shared: Rc::new(Shared::new()), actor: None }
    }

    /// Takes the configuration: an [`InitHead`].
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn init(&mut self, head: &[u8]) -> Result<(), GuestError> {
        let head = InitHead::read(head).map_err(|_| GuestError::Format)?;
        self.shared.random.set(head.seed);
        self.shared.config.replace((&*head.config).into());
        Ok(())
    }

    /// Handles frames; what it writes meanwhile is given to `outbox`.
    ///
    /// # Errors
    /// When the frames are none, or come in an order that cannot be. The instance is of no use then.
    pub fn run<T>(&mut self, frames: &[u8], outbox: impl FnOnce(&[u8]) -> T) -> Result<T, GuestError> {
        self.shared.out.borrow_mut().clear();
        for frame in Frames::new(frames) {
            self.frame(&frame.map_err(|_| GuestError::Format)?)?;
        }
        if let Some(actor) = &mut self.actor {
            actor.put_state(&self.shared);
        }
        Ok(outbox(self.shared.out.borrow().bytes()))
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<(), GuestError> {
        let id = frame.header.id;
        match frame.kind() {
            Some(Kind::Clock) => self.shared.now_ms.set(id),
            Some(Kind::Start) => self.start(frame)?,
            Some(Kind::Message) => self.actor()?.give(&MessageFrame::of(frame))?,
            Some(Kind::Change) => {
                let (head, body) = frame.split().map_err(|_| GuestError::Format)?;
                let head = ChangeHead::read(head).map_err(|_| GuestError::Format)?;
                let change = Change::read(&head, body);
                self.actor()?.take(Work::Change { id, watch: head.watch.into_owned(), change })?;
            }
            Some(Kind::Reply) => {
                let (head, body) = frame.split().map_err(|_| GuestError::Format)?;
                let head = ReplyHead::read(head).map_err(|_| GuestError::Format)?;
                let headers = head.headers.into_iter();
                let response = Response {
                    status: head.status,
                    headers: headers
                        .map(|(name, value)| (name.into_owned().into(), value.into_owned().into()))
                        .collect(),
                    body: body.to_vec(),
                };
                self.shared.slots.borrow_mut().answer(id, Ok(response));
                self.actor()?.go_on()?;
            }
            Some(Kind::Error) => {
                let head = ErrorHead::read(frame.payload).map_err(|_| GuestError::Format)?;
                self.shared.slots.borrow_mut().answer(id, Err(Error::from_head(&head)));
                self.actor()?.go_on()?;
            }
            Some(Kind::Timer) => self.actor()?.take(Work::Timer(id))?,
            Some(Kind::Cancel) => self.actor()?.cancel(id)?,
            Some(Kind::Stop) => {}
            _ if frame.has(flags::OPTIONAL) => {}
            _ => {
                let detail = format!("this guest does not know frames of kind {}", frame.header.kind);
                fail(&self.shared, id, &Error::new(ErrorKind::Rejected, "E-UNSUPPORTED", detail));
            }
        }
        Ok(())
    }

    fn actor(&mut self) -> Result<&mut Actor, GuestError> {
        self.actor.as_mut().ok_or(GuestError::Order)
    }

    fn start(&mut self, frame: &Frame<'_>) -> Result<(), GuestError> {
        if self.actor.is_some() {
            return Err(GuestError::Order);
        }
        let (head, state) = frame.split().map_err(|_| GuestError::Format)?;
        let head = StartHead::read(head).map_err(|_| GuestError::Format)?;
        self.shared.point.replace((&*head.point).into());
        let actor = match self.entry(&head.name) {
            Ok(entry) => {
                let state = frame.has(flags::HAS_STATE).then_some(state);
                Actor::start(entry, &self.shared, state)?
            }
            Err(error) => Actor::broken(&self.shared, &error),
        };
        self.actor = Some(actor);
        Ok(())
    }

    /// The mechtron that is meant by a name; without a name, the only one.
    fn entry(&self, name: &str) -> Result<&'static Entry> {
        let entries = self.entries;
        if let ([only], "") = (entries, name) {
            return Ok(only);
        }
        entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known: Vec<_> = entries.iter().map(|entry| entry.name).collect();
            let detail = format!("the module has no mechtron `{name}`; it has {}", known.join(", "));
            Error::fail(crate::NOT_FOUND, detail)
        })
    }
}

/// What waits for its turn.
enum Work {
    Message(MessageFrame<'static>),
    Change { id: u64, watch: String, change: Result<Change> },
    Timer(u64),
}

impl Work {
    /// The number of a message or change.
    fn id(&self) -> Option<u64> {
        match self {
            Work::Message(MessageFrame { id, .. }) | Work::Change { id, .. } => Some(*id),
            Work::Timer(_) => None,
        }
    }
}

/// A message that wants its turn.
struct MessageFrame<'a> {
    id: u64,
    wants_reply: bool,
    head_bytes: usize,
    payload: Cow<'a, [u8]>,
}

impl<'a> MessageFrame<'a> {
    fn of(frame: &Frame<'a>) -> Self {
        Self {
            id: frame.header.id,
            wants_reply: frame.has(flags::WANTS_REPLY),
            head_bytes: frame.header.aux as usize,
            payload: Cow::Borrowed(frame.payload),
        }
    }

    fn kept(&self) -> MessageFrame<'static> {
        MessageFrame { payload: Cow::Owned(self.payload.to_vec()), ..*self }
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq)]
enum Turning {
    Message { id: u64, wants_reply: bool, body: bool },
    Change { id: u64 },
    Timer,
    Init,
}

struct Current {
    turning: Turning,
    turn: Turn,
    /// Whether the handler may change the fields.
    writes: bool,
}

/// A started mechtron: its fields between turns, or the handler that has them.
struct Actor {
    shared: Rc<Shared>,
    entry: Option<&'static Entry>,
    /// `None` while a handler has it, and for good when it is broken.
    mechtron: Option<Box<dyn Object>>,
    /// Why there is none.
    broken: String,
    current: Option<Current>,
    queue: VecDeque<Work>,
    /// The fields after the last handler that ended well.
    saved: Vec<u8>,
    /// Whether the host does not know `saved` yet.
    unsaved: bool,
    scratch: Vec<u8>,
    /// Of the last message; the next one often has the same.
    origin: Rc<Origin>,
}

impl Actor {
    fn start(entry: &'static Entry, shared: &Rc<Shared>, state: Option<&[u8]>) -> Result<Self, GuestError> {
        let mut saved = Vec::new();
        let mechtron = match state {
            Some(state) => (entry.load)(state).inspect(|_| saved.extend_from_slice(state)),
            None => {
                let fresh = (entry.fresh)();
                fresh.save(&mut saved).map(|()| fresh)
            }
        };
        let mechtron = match mechtron {
            Ok(mechtron) => mechtron,
            Err(error) => return Ok(Self::broken(shared, &error)),
        };
        let mut actor = Self::empty(shared);
        actor.entry = Some(entry);
        actor.saved = saved;
        let cx = actor.cx(&*mechtron, Rc::default());
        match mechtron.init(cx) {
            Ok(turn) => {
                actor.current = Some(Current { turning: Turning::Init, turn, writes: true });
                actor.go_on()?;
            }
            Err(mechtron) => actor.mechtron = Some(mechtron),
        }
        Ok(actor)
    }

    /// One that refuses to start, and everything after it.
    fn broken(shared: &Rc<Shared>, error: &Error) -> Self {
        fail(shared, 0, error);
        Self { broken: error.detail().to_owned(), ..Self::empty(shared) }
    }

    fn empty(shared: &Rc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            entry: None,
            mechtron: None,
            broken: String::new(),
            current: None,
            queue: VecDeque::new(),
            saved: Vec::new(),
            unsaved: false,
            scratch: Vec::new(),
            origin: Rc::default(),
        }
    }

    fn cx(&self, mechtron: &dyn Object, origin: Rc<Origin>) -> Cx {
        Cx::new(self.shared.clone(), origin, mechtron.type_of())
    }

    /// Takes a message, without a copy when its turn is now.
    fn give(&mut self, message: &MessageFrame<'_>) -> Result<(), GuestError> {
        if self.current.is_some() || !self.queue.is_empty() {
            self.queue.push_back(Work::Message(message.kept()));
            return Ok(());
        }
        self.message(message)?;
        self.go_on()
    }

    fn take(&mut self, work: Work) -> Result<(), GuestError> {
        self.queue.push_back(work);
        self.next()
    }

    /// Begins what waits, until a handler has to wait itself.
    fn next(&mut self) -> Result<(), GuestError> {
        while self.current.is_none() {
            let Some(work) = self.queue.pop_front() else { return Ok(()) };
            match work {
                Work::Message(message) => self.message(&message)?,
                Work::Change { id, watch, change } => self.change(id, &watch, change),
                Work::Timer(token) => self.timer(token),
            }
            self.poll();
        }
        Ok(())
    }

    fn message(&mut self, frame: &MessageFrame<'_>) -> Result<(), GuestError> {
        let (head, body) = frame.payload.split_at_checked(frame.head_bytes).ok_or(GuestError::Format)?;
        let head = MessageHead::read(head).map_err(|_| GuestError::Format)?;
        let Some(mechtron) = self.taken(frame.id) else { return Ok(()) };
        if !self.origin.is_of(&head) {
            self.origin = Rc::new(Origin::of(&head));
        }
        let cx = self.cx(&*mechtron, self.origin.clone());
        let incoming = Incoming { head, body };
        let turning = Turning::Message {
            id: frame.id,
            wants_reply: frame.wants_reply,
            body: incoming.head.method != "Http<Head>",
        };
        let dispatched = mechtron.dispatch(cx, &incoming);
        self.begin(turning, dispatched);
        Ok(())
    }

    fn change(&mut self, id: u64, watch: &str, change: Result<Change>) {
        let Some(mechtron) = self.taken(id) else { return };
        let turning = Turning::Change { id };
        let cx = self.cx(&*mechtron, Rc::default());
        let dispatched = match change {
            Ok(change) => mechtron.changed(cx, watch, change),
            Err(error) => Dispatched::Refused { mechtron, error },
        };
        self.begin(turning, dispatched);
    }

    /// The mechtron, for a message or change; when there is none, that is the answer.
    fn taken(&mut self, id: u64) -> Option<Box<dyn Object>> {
        let mechtron = self.mechtron.take();
        if mechtron.is_none() {
            let detail = format!("the mechtron did not start: {}", self.broken);
            fail(&self.shared, id, &Error::new(ErrorKind::Rejected, "E-NOT-READY", detail));
        }
        mechtron
    }

    fn begin(&mut self, turning: Turning, dispatched: Dispatched) {
        match dispatched {
            Dispatched::Turn { turn, writes } => self.current = Some(Current { turning, turn, writes }),
            Dispatched::Refused { mechtron, error } => {
                self.mechtron = Some(mechtron);
                self.answer(turning, Err(error));
            }
        }
    }

    fn timer(&mut self, token: u64) {
        let job = self.shared.slots.borrow_mut().due(token);
        let (Some(job), Some(mechtron)) = (job, self.mechtron.take()) else { return };
        let cx = self.cx(&*mechtron, Rc::default());
        match mechtron.timer(cx, job) {
            Ok(turn) => self.current = Some(Current { turning: Turning::Timer, turn, writes: true }),
            Err(mechtron) => self.mechtron = Some(mechtron),
        }
    }

    fn go_on(&mut self) -> Result<(), GuestError> {
        self.poll();
        self.next()
    }

    fn poll(&mut self) {
        let Some(current) = &mut self.current else { return };
        // Everything that can be waited for comes by a frame, after which the handler is polled anyway.
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Turned { mechtron, result }) = current.turn.as_mut().poll(&mut context) else {
            return;
        };
        let Current { turning, writes, .. } = *current;
        self.current = None;
        let result = match result {
            Ok(answer) if writes => self.save(&*mechtron).map(|()| answer),
            result => result.map_err(Error::of_handler),
        };
        self.mechtron = match (&result, writes) {
            (Err(_), true) => self.restored(),
            _ => Some(mechtron),
        };
        self.answer(turning, result);
    }

    fn save(&mut self, mechtron: &dyn Object) -> Result<()> {
        mechtron.save(&mut self.scratch)?;
        if self.scratch != self.saved {
            std::mem::swap(&mut self.scratch, &mut self.saved);
            self.unsaved = true;
        }
        Ok(())
    }

    /// The mechtron as it was after the last handler that ended well.
    fn restored(&mut self) -> Option<Box<dyn Object>> {
        // What is read here was written by this very code or read by it before, so only a serializer that does not read
        // what it writes gets an error.
        match (self.entry?.load)(&self.saved) {
            Ok(mechtron) => Some(mechtron),
            Err(error) => {
                self.broken = error.detail().to_owned();
                None
            }
        }
    }

    fn put_state(&mut self, shared: &Shared) {
        if std::mem::take(&mut self.unsaved) {
            shared.out.borrow_mut().frame(Header::new(Kind::StatePut, 0), &self.saved);
        }
    }

    fn answer(&mut self, turning: Turning, result: Result<Answer>) {
        match (turning, result) {
            (Turning::Message { id, wants_reply, body }, Ok(Answer(mut response))) => {
                if !wants_reply {
                    response = Response::empty(204);
                } else if !body {
                    response.body = Vec::new();
                }
                answer(&self.shared, id, &response);
            }
            (Turning::Message { id, wants_reply, .. }, Err(error)) => match error.kind() {
                ErrorKind::Refused { status } if wants_reply => {
                    answer(&self.shared, id, &error.to_response(status));
                }
                _ => fail(&self.shared, id, &error),
            },
            (Turning::Change { id }, Ok(_)) => answer(&self.shared, id, &Response::empty(204)),
            (Turning::Change { id }, Err(error)) => fail(&self.shared, id, &error),
            (Turning::Init, Err(error)) => {
                self.mechtron = None;
                let error = error.context("`#[init]`");
                fail(&self.shared, 0, &error);
                self.broken = error.detail().to_owned();
            }
            (Turning::Timer, Err(error)) => {
                let cx = Cx::new(self.shared.clone(), Rc::default(), std::any::TypeId::of::<()>());
                cx.log(Level::Error, format_args!("a timer's handler failed: {error}"));
            }
            (Turning::Init | Turning::Timer, Ok(_)) => {}
        }
    }

    fn cancel(&mut self, id: u64) -> Result<(), GuestError> {
        let is_current = |current: &Current| match current.turning {
            Turning::Message { id: mine, .. } | Turning::Change { id: mine } => mine == id,
            Turning::Timer | Turning::Init => false,
        };
        if self.current.take_if(|current| is_current(current)).is_some() {
            self.mechtron = self.restored();
            let error = Error::new(ErrorKind::Unknown, "E-TIMEOUT", "nobody waited any more");
            fail(&self.shared, id, &error);
            return self.next();
        }
        let is_waiting = |work: &Work| work.id() == Some(id);
        if let Some(at) = self.queue.iter().position(is_waiting) {
            self.queue.remove(at);
            let error = Error::new(ErrorKind::Rejected, "E-TIMEOUT", "nobody waited any more");
            fail(&self.shared, id, &error);
        }
        Ok(())
    }
}

fn answer(shared: &Shared, id: u64, response: &Response) {
    let headers = response.headers.iter();
    let head = ReplyHead {
        status: response.status,
        headers: headers.map(|(name, value)| ((&**name).into(), (&**value).into())).collect(),
    };
    shared.out.borrow_mut().frame_with_head(Header::new(Kind::Answer, id), &head, &response.body);
}

fn fail(shared: &Shared, id: u64, error: &Error) {
    let outcome = match error.kind() {
        ErrorKind::Rejected => OutcomeKind::Rejected,
        ErrorKind::Unknown => OutcomeKind::Unknown,
        ErrorKind::Failed | ErrorKind::Refused { .. } => OutcomeKind::Failed,
    };
    let code = if error.code().is_empty() { HANDLER } else { error.code() };
    let head = ErrorHead { outcome, code: code.into(), detail: error.detail().into() };
    shared.out.borrow_mut().frame_with_head(Header::new(Kind::Fail, id), &head, &[]);
}

/// What the exported functions do.
pub mod exports {
    use std::cell::RefCell;

    use super::{Guest, INBOX_BYTES};
    use crate::mechtron::Entry;

    /// What `mechtron_abi` returns.
    pub const ABI: i32 = mechtron_abi::VERSION;

    const FAILED: i64 = -1;

    struct Module {
        guest: Guest,
        /// Whose first multiple of 8 is where the host writes.
        inbox: Vec<u8>,
    }

    thread_local! {
        static MODULE: RefCell<Option<Module>> = const { RefCell::new(None) };
    }

    /// The address of an inbox of at least `min` bytes; 0 when there cannot be one.
    pub fn inbox(entries: &'static [Entry], min: i32) -> i32 {
        let Ok(min) = usize::try_from(min) else { return 0 };
        let bytes = min.max(INBOX_BYTES);
        MODULE.with_borrow_mut(|module| {
            let module =
                module.get_or_insert_with(|| Module { guest: Guest::new(entries), inbox: Vec::new() });
            if module.inbox.len() < bytes + 8 {
                // The old one goes first, so that both need not fit at once.
                module.inbox = Vec::new();
                let mut larger = Vec::new();
                if larger.try_reserve_exact(bytes + 8).is_err() {
                    return 0;
                }
                larger.resize(bytes + 8, 0);
                module.inbox = larger;
            }
            (module.inbox.as_mut_ptr() as usize).next_multiple_of(8) as i32
        })
    }

    /// Handles the [`InitHead`](mechtron_abi::InitHead) in the inbox.
    pub fn init(length: i32) -> i64 {
        #[cfg(target_arch = "wasm32")]
        crate::log::panics();
        with_inbox(length, |guest, bytes| guest.init(bytes).map_or(FAILED, |()| 0))
    }

    /// Handles the frames in the inbox.
    pub fn run(length: i32) -> i64 {
        with_inbox(length, |guest, bytes| {
            guest
                .run(bytes, |out| mechtron_abi::pack(out.as_ptr() as usize as u32, out.len() as u32))
                .unwrap_or(FAILED)
        })
    }

    fn with_inbox(length: i32, act: impl FnOnce(&mut Guest, &[u8]) -> i64) -> i64 {
        MODULE.with_borrow_mut(|module| {
            let Some(Module { guest, inbox }) = module else { return FAILED };
            // The host wrote there, which the compiler cannot know of.
            let inbox = std::hint::black_box(&*inbox);
            let start = (inbox.as_ptr() as usize).next_multiple_of(8) - inbox.as_ptr() as usize;
            let bytes = usize::try_from(length).ok().and_then(|length| inbox.get(start..start + length));
            bytes.map_or(FAILED, |bytes| act(guest, bytes))
        })
    }
}
