//! What a mechtron and its host say to each other, as rules: which frames go into a run, and what the frames that
//! come out of it mean. Nothing here runs, waits or knows Wasm.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use mechtron_abi::{
    CallHead, ChangeHead, ErrorHead, Frames, Header, Kind, MessageHead, OutcomeKind, ReplyHead, StartHead,
    Writer, flags,
};
use starlane_core::{Body, Code, Headers, Outcome, Point, Refusal, Reply, Request};

use crate::changes::Place;
use crate::clock::Moment;
use crate::instance::Ended;
use crate::limits::Limits;
use crate::mailbox::{Gauge, Mail, Mailbox, ReplyTo};
use crate::names::Names;

/// What a request waits at most when nothing else says how long.
pub(crate) const TIMEOUT_MS: u64 = 30_000;
/// Bytes of messages or answers in one run, unless a single one is larger.
const RUN_BYTES: u64 = 256 << 10;
/// Bytes of answers that wait for their mechtron; what is beyond is refused.
const INPUT_BYTES_MAX: u64 = 16 << 20;

/// What goes on between a mechtron and its host.
pub(crate) struct Conversation {
    gauge: Gauge,
    /// Messages that were given and are not complete, in the order they were given.
    given: VecDeque<Given>,
    /// What the mechtron waits for, by its tokens.
    pub(crate) requests: HashMap<u64, Pending, RandomState>,
    timers: Vec<(u64, Moment)>,
    /// What goes into the next run before any message.
    inputs: VecDeque<Input>,
    input_bytes: u64,
    next_id: u64,
    runs: u64,
}

/// A message that was given to the guest.
struct Given {
    id: u64,
    mail: Mail,
    run: u64,
    /// Nobody waits for it any more; the guest was told, or will be.
    cancelled: bool,
    done: bool,
}

/// What a mechtron waits for.
pub(crate) struct Pending {
    pub(crate) to: Waits,
    /// When the host gives up; `None` when somebody else does.
    pub(crate) deadline: Option<Moment>,
}

pub(crate) enum Waits {
    /// A mechtron of this host.
    Mechtron(Point),
    /// A task on the runtime.
    Task(tokio::task::AbortHandle),
}

#[derive(Debug)]
enum Input {
    Reply(u64, Reply),
    Error(u64, OutcomeKind, Refusal),
    Timer(u64),
    Cancel(u64),
}

/// What a frame of the guest asks the host to do. Numbers `at` count the messages that were given.
#[derive(Debug)]
pub(crate) enum Action {
    Answer {
        at: usize,
        outcome: Outcome,
    },
    /// `token` is `None` for a message without answer; `at` is the message that is being handled.
    Call {
        token: Option<u64>,
        at: Option<usize>,
        to: Point,
        request: Request,
        timeout_ms: u64,
    },
    /// A call that cannot be one.
    Refuse {
        token: u64,
        refusal: Refusal,
    },
    SetTimer {
        token: u64,
        delay_ms: u64,
    },
    StateGet(u64),
    Select {
        token: u64,
        selector: String,
    },
    Log {
        level: u8,
        line: String,
    },
    GiveUp(u64),
}

/// What a run put out.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) actions: Vec<Action>,
    /// The last state in it.
    pub(crate) state: Option<Bytes>,
    /// Why it refuses to start.
    pub(crate) refused: Option<String>,
    pub(crate) answered: bool,
}

/// What becomes of the messages when an instance ends.
pub(crate) struct Remains {
    /// Those that failed with it.
    pub(crate) failed: Vec<Mail>,
    /// Those that are given again, in order, each alone.
    pub(crate) again: Vec<Mail>,
    /// Whether it is only found out which of several messages is to blame.
    pub(crate) is_search: bool,
}

impl Conversation {
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self {
            gauge,
            given: VecDeque::new(),
            requests: HashMap::default(),
            timers: Vec::new(),
            inputs: VecDeque::new(),
            input_bytes: 0,
            next_id: 1,
            runs: 0,
        }
    }

    /// Whether a handler waits or the host owes it something.
    pub(crate) fn is_quiet(&self) -> bool {
        self.given.is_empty() && self.requests.is_empty() && self.inputs.is_empty()
    }

    /// Whether it may be put to sleep: timers live with the activation.
    pub(crate) fn may_sleep(&self) -> bool {
        self.is_quiet() && self.timers.is_empty()
    }

    pub(crate) fn given_len(&self) -> usize {
        self.given.len()
    }

    /// The earliest moment at which something is due.
    pub(crate) fn earliest(&self) -> Option<Moment> {
        let given = self.given.iter().filter(|given| !given.cancelled).map(|given| given.mail.deadline);
        let requests = self.requests.values().filter_map(|pending| pending.deadline);
        // A timer that is due while a message is handled waits for the message, not for the clock.
        let timers = self.timers.iter().map(|(_, due)| *due).filter(|_| self.given.is_empty());
        given.chain(requests).chain(timers).min()
    }

    /// Writes `START`, alone in its run.
    pub(crate) fn start(
        &mut self,
        writer: &mut Writer,
        wall_ms: u64,
        head: &StartHead<'_>,
        state: Option<&[u8]>,
    ) {
        self.begin(writer, wall_ms);
        let mut header = Header::new(Kind::Start, 0);
        if state.is_some() {
            header.flags = flags::HAS_STATE;
        }
        writer.frame_with_head(header, head, state.unwrap_or_default());
    }

    /// Writes `STOP`.
    pub(crate) fn stop(&mut self, writer: &mut Writer, wall_ms: u64) {
        self.begin(writer, wall_ms);
        writer.frame(Header::new(Kind::Stop, 0), &[]);
    }

    fn begin(&mut self, writer: &mut Writer, wall_ms: u64) {
        self.runs += 1;
        writer.clear();
        let mut clock = Header::new(Kind::Clock, wall_ms);
        clock.flags = flags::OPTIONAL;
        writer.frame(clock, &[]);
    }

    /// Writes what the next run begins with: answers, errors, cancellations, then timers that are due. Tells whether
    /// there is anything.
    pub(crate) fn inputs(&mut self, writer: &mut Writer, wall_ms: u64, now: Moment) -> bool {
        self.begin(writer, wall_ms);
        if self.given.is_empty() && self.timers.iter().any(|(_, due)| *due <= now) {
            self.timers.sort_by_key(|(_, due)| *due);
            let due = self.timers.partition_point(|(_, due)| *due <= now);
            self.inputs.extend(self.timers.drain(..due).map(|(token, _)| Input::Timer(token)));
        }
        let mut any = false;
        while let Some(input) = self.inputs.front() {
            if any && writer.bytes().len() as u64 + input.bytes() > RUN_BYTES {
                break;
            }
            let Some(input) = self.inputs.pop_front() else { break };
            self.input_bytes -= input.bytes();
            if let Input::Cancel(id) = &input
                && !self.given.iter().any(|given| given.id == *id)
            {
                continue;
            }
            any = true;
            input.write(writer);
        }
        any
    }

    /// Whether another message may be given.
    pub(crate) fn takes_messages(&self, reentrant: bool, limits: &Limits) -> bool {
        self.given.is_empty() || (reentrant && self.given.len() < limits.requests)
    }

    /// Writes a message and remembers it.
    pub(crate) fn give(&mut self, writer: &mut Writer, mail: Mail, now: Moment, method: &mut String) {
        let id = self.next_id;
        self.next_id += 1;
        self.gauge.add(1);
        if let Some(change) = &mail.change {
            let head = ChangeHead {
                watch: (&*change.watch.name).into(),
                what: change.what,
                revision: change.revision,
            };
            let body = mail.request().map(|request| bytes(&request.body)).unwrap_or_default();
            writer.frame_with_head(Header::new(Kind::Change, id), &head, body);
            return self.given.push_back(Given { id, mail, run: self.runs, cancelled: false, done: false });
        }
        let mut header = Header::new(Kind::Message, id);
        if mail.reply.is_awaited() {
            header.flags = flags::WANTS_REPLY;
        }
        if let Some(request) = mail.request() {
            method.clear();
            // Writing to a String does not fail.
            let _ = write!(method, "{}", request.method);
            let head = MessageHead {
                from: mail.message.header.from.as_str().into(),
                agent: mail.message.header.agent.0.as_str().into(),
                method: method.as_str().into(),
                path: (&*request.path).into(),
                headers: borrow(&request.headers),
                remaining_ms: mail.deadline.saturating_sub(now),
            };
            writer.frame_with_head(header, &head, bytes(&request.body));
        }
        self.given.push_back(Given { id, mail, run: self.runs, cancelled: false, done: false });
    }

    /// Whether more fits into the run.
    pub(crate) fn fits(writer: &Writer, mail: &Mail) -> bool {
        writer.bytes().len() as u64 + mail.request().map_or(0, |request| request.body.len()) <= RUN_BYTES
    }

    /// The number of messages given in the run that is being written.
    pub(crate) fn in_run(&self) -> usize {
        self.given.iter().rev().take_while(|given| given.run == self.runs).count()
    }

    /// Takes an answer to what the mechtron waits for. Tells whether it did.
    pub(crate) fn answer(&mut self, token: u64, outcome: Outcome, limits: &Limits) -> bool {
        if self.requests.remove(&token).is_none() {
            return false;
        }
        self.push_outcome(token, outcome, limits);
        true
    }

    /// Tells the guest how a token ended that it just chose.
    pub(crate) fn push_outcome(&mut self, token: u64, outcome: Outcome, limits: &Limits) {
        let input = match outcome {
            Outcome::Ok(reply) => {
                let length = reply.body.len();
                let room = matches!(reply.body, Body::Bytes(_))
                    && length <= limits.body_bytes
                    && self.input_bytes + length <= INPUT_BYTES_MAX;
                if room {
                    Input::Reply(token, reply)
                } else {
                    let detail =
                        format!("the answer of {length} bytes is too large for the mechtron that asked");
                    Input::Error(token, OutcomeKind::Failed, Refusal::new(Code::TooLarge, detail))
                }
            }
            Outcome::Rejected(refusal) => Input::Error(token, OutcomeKind::Rejected, refusal),
            Outcome::Failed(refusal) => Input::Error(token, OutcomeKind::Failed, refusal),
            Outcome::Unknown(refusal) => Input::Error(token, OutcomeKind::Unknown, refusal),
        };
        self.input_bytes += input.bytes();
        self.inputs.push_back(input);
    }

    pub(crate) fn has_input(&self, now: Moment) -> bool {
        !self.inputs.is_empty() || (self.given.is_empty() && self.timers.iter().any(|(_, due)| *due <= now))
    }

    /// Takes who waits away from the given messages that match; the guest is told.
    pub(crate) fn cancel(&mut self, matches: impl Fn(&Mail) -> bool) -> Vec<ReplyTo> {
        let mut replies = Vec::new();
        for given in self.given.iter_mut().filter(|given| !given.cancelled && matches(&given.mail)) {
            given.cancelled = true;
            self.inputs.push_back(Input::Cancel(given.id));
            if given.mail.change.is_some() {
                // Nobody waits for it; it has failed when the guest says so.
                continue;
            }
            replies.push(std::mem::replace(&mut given.mail.reply, ReplyTo::Nobody));
        }
        replies
    }

    /// The requests whose time is over, which are told to the guest.
    pub(crate) fn expire_requests(&mut self, now: Moment, limits: &Limits) -> Vec<Pending> {
        let due = |pending: &Pending| pending.deadline.is_some_and(|deadline| deadline <= now);
        let tokens: Vec<_> =
            self.requests.iter().filter(|(_, pending)| due(pending)).map(|(token, _)| *token).collect();
        let mut over = Vec::new();
        for token in tokens {
            over.extend(self.requests.remove(&token));
            self.push_outcome(token, Outcome::Unknown(timed_out()), limits);
        }
        over
    }

    pub(crate) fn set_timer(&mut self, token: u64, due: Moment) {
        self.timers.retain(|(known, _)| *known != token);
        self.timers.push((token, due));
    }

    pub(crate) fn unset_timer(&mut self, token: u64) {
        self.timers.retain(|(known, _)| *known != token);
    }

    /// Reads what a run put out. Nothing has happened yet when it is refused.
    ///
    /// # Errors
    /// When the guest broke a rule.
    pub(crate) fn read(&mut self, bytes: &[u8], names: &mut Names, limits: &Limits) -> Result<Output, Ended> {
        let result = self.parse(bytes, names, limits);
        if result.is_err() {
            self.given.iter_mut().for_each(|given| given.done = false);
        }
        result
    }

    fn parse(&mut self, bytes: &[u8], names: &mut Names, limits: &Limits) -> Result<Output, Ended> {
        let mut output = Output::default();
        let (mut requests, mut timers) = (self.requests.len(), self.timers.len());
        for frame in Frames::new(bytes) {
            let frame = frame.map_err(|error| Ended::violation(error.to_string()))?;
            let id = frame.header.id;
            if output.actions.len() >= limits.outbox_frames {
                let detail = format!("it put out more than {} frames in one run", limits.outbox_frames);
                return Err(Ended::violation(detail));
            }
            let actions = &mut output.actions;
            match frame.kind() {
                Some(Kind::Answer) => {
                    let (head, body) = split(&frame)?;
                    let head = ReplyHead::read(head).map_err(|error| Ended::violation(error.to_string()))?;
                    if !(100..600).contains(&head.status) {
                        return Err(Ended::violation(format!("it answered with status {}", head.status)));
                    }
                    let at = self.complete(id)?;
                    output.answered = true;
                    let body = Body::Bytes(Bytes::copy_from_slice(body));
                    let reply = Reply { status: head.status, headers: own(&head.headers)?, body };
                    actions.push(Action::Answer { at, outcome: Outcome::Ok(reply) });
                }
                Some(Kind::Fail) => {
                    let head = ErrorHead::read(frame.payload)
                        .map_err(|error| Ended::violation(error.to_string()))?;
                    if id == 0 {
                        output.refused = Some(head.detail.into_owned());
                        continue;
                    }
                    let at = self.complete(id)?;
                    output.answered = true;
                    actions.push(Action::Answer { at, outcome: failed(&head) });
                }
                Some(kind @ (Kind::Send | Kind::Request)) => {
                    let token = (kind == Kind::Request).then_some(id);
                    if let Some(token) = token {
                        requests += 1;
                        let twice = self.requests.contains_key(&token)
                            || actions.iter().any(|action| action.token() == Some(token));
                        if twice {
                            return Err(Ended::violation(format!("it used the token {token} twice")));
                        }
                    }
                    let (head, body) = split(&frame)?;
                    let head = CallHead::read(head).map_err(|error| Ended::violation(error.to_string()))?;
                    let refusal = if requests > limits.requests {
                        let detail = format!("more than {} requests are waiting", limits.requests);
                        Some(Refusal::new(Code::Busy, detail))
                    } else {
                        None
                    };
                    actions.push(match refusal.map_or_else(|| call(&head, body, names, limits), Err) {
                        Ok((to, request)) => {
                            let at = self.current();
                            Action::Call { token, at, to, request, timeout_ms: head.timeout_ms }
                        }
                        Err(refusal) => match token {
                            Some(token) => Action::Refuse { token, refusal },
                            None => {
                                Action::Log { level: 2, line: format!("a message was not sent: {refusal}") }
                            }
                        },
                    });
                }
                Some(Kind::SetTimer) => {
                    let delay = <[u8; 8]>::try_from(frame.payload)
                        .map_err(|_| Ended::violation("a timer's delay has not eight bytes"))?;
                    timers += 1;
                    if timers > limits.timers {
                        return Err(Ended::violation(format!("it set more than {} timers", limits.timers)));
                    }
                    actions.push(Action::SetTimer { token: id, delay_ms: u64::from_le_bytes(delay) });
                }
                Some(Kind::StateGet) => actions.push(Action::StateGet(id)),
                Some(Kind::StatePut) => {
                    if frame.payload.len() > limits.state_bytes as usize {
                        let detail = format!("its state is larger than {} bytes", limits.state_bytes);
                        return Err(Ended::violation(detail));
                    }
                    output.state = Some(Bytes::copy_from_slice(frame.payload));
                }
                Some(Kind::Select) => {
                    requests += 1;
                    let text = std::str::from_utf8(frame.payload)
                        .map_err(|_| Ended::violation("a selector is not UTF-8"))?;
                    actions.push(if requests > limits.requests || self.requests.contains_key(&id) {
                        let detail = format!("more than {} requests are waiting", limits.requests);
                        Action::Refuse { token: id, refusal: Refusal::new(Code::Busy, detail) }
                    } else {
                        Action::Select { token: id, selector: text.to_owned() }
                    });
                }
                Some(Kind::Log) => {
                    let line = String::from_utf8_lossy(frame.payload).into_owned();
                    actions.push(Action::Log { level: frame.header.aux.clamp(1, 5) as u8, line });
                }
                Some(Kind::GiveUp) => actions.push(Action::GiveUp(id)),
                _ if frame.has(flags::OPTIONAL) => {}
                _ => {
                    let detail = format!("this host does not know frames of kind {}", frame.header.kind);
                    actions
                        .push(Action::Refuse { token: id, refusal: Refusal::new(Code::Unsupported, detail) });
                }
            }
        }
        // A cancelled message is completed in the run that says so: its handler is gone.
        let told = |given: &Given| {
            !self.inputs.iter().any(|input| matches!(input, Input::Cancel(id) if *id == given.id))
        };
        if let Some(given) = self.given.iter().find(|given| given.cancelled && !given.done && told(given)) {
            return Err(Ended::violation(format!("it did not complete the cancelled message {}", given.id)));
        }
        Ok(output)
    }

    /// Which message is being handled: they are handled in order, one after the other.
    fn current(&self) -> Option<usize> {
        self.given.iter().position(|given| !given.done)
    }

    fn complete(&mut self, id: u64) -> Result<usize, Ended> {
        match self.given.iter().position(|given| given.id == id && !given.done) {
            Some(at) => {
                self.given[at].done = true;
                Ok(at)
            }
            None => Err(Ended::violation(format!("it answered message {id}, which it was not given"))),
        }
    }

    /// A given message, by its number.
    pub(crate) fn mail(&self, at: usize) -> Option<&Mail> {
        self.given.get(at).map(|given| &given.mail)
    }

    /// The selector of the watch that tells a given change.
    pub(crate) fn watch(&self, at: usize) -> Option<Arc<str>> {
        self.mail(at)?.change.as_ref().map(|change| Arc::clone(&change.watch.selector))
    }

    /// How far watches are told with what a run put out.
    pub(crate) fn told(&self, actions: &[Action]) -> Vec<(Arc<str>, Place)> {
        let told = actions.iter().filter_map(|action| match action {
            Action::Answer { at, outcome } if is_told(outcome) => self.mail(*at)?.change.as_ref(),
            _ => None,
        });
        told.map(|change| (Arc::clone(&change.watch.selector), change.place.clone())).collect()
    }

    /// Who waits for a given message; nobody from now on.
    pub(crate) fn take_reply(&mut self, at: usize) -> ReplyTo {
        self.given
            .get_mut(at)
            .map_or(ReplyTo::Nobody, |given| std::mem::replace(&mut given.mail.reply, ReplyTo::Nobody))
    }

    /// Forgets the messages that are complete; tells how many.
    pub(crate) fn settle(&mut self) -> usize {
        let before = self.given.len();
        self.given.retain(|given| !given.done);
        let settled = before - self.given.len();
        self.gauge.take(settled);
        settled
    }

    /// What is left when the instance ended. A run with several new messages is repeated one by one, because the state
    /// knows nothing of any of them; a single one failed.
    pub(crate) fn end(&mut self, reentrant: bool) -> Remains {
        let runs = self.runs;
        let given = self.take_given();
        let news = given.iter().filter(|given| given.run == runs).count();
        let olds = given.len() - news;
        let begun = match (olds, news) {
            (0, 1) => 1,
            // Nobody knows which of them it was.
            (0, _) => 0,
            // The first was being handled; the others waited inside the guest.
            _ if !reentrant => 1,
            _ => olds,
        };
        let is_search = olds == 0 && news > 1;
        Remains { is_search, ..Remains::split(given, begun) }
    }

    /// What is left when a mechtron is stopped between two runs: those that it had begun, and those that it had not.
    pub(crate) fn cut(&mut self, reentrant: bool) -> Remains {
        self.settle();
        let given = self.take_given();
        // One that is not reentrant handles the first; the others wait inside the guest.
        let begun = if reentrant { given.len() } else { given.len().min(1) };
        Remains::split(given, begun)
    }

    fn take_given(&mut self) -> VecDeque<Given> {
        self.gauge.take(self.given.len());
        std::mem::take(&mut self.given)
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.gauge.take(self.given.len());
    }
}

impl Remains {
    fn split(mut given: VecDeque<Given>, begun: usize) -> Self {
        let failed = given.drain(..begun).map(|given| given.mail).collect();
        // Whoever asked for what was cancelled has its answer; a change that did not begin is told again.
        let again = given.into_iter().filter(|given| !given.cancelled || given.mail.change.is_some());
        let again = again.map(|given| given.mail).collect();
        Self { failed, again, is_search: false }
    }
}

impl Action {
    fn token(&self) -> Option<u64> {
        match self {
            Action::Call { token, .. } => *token,
            Action::Select { token, .. } | Action::Refuse { token, .. } | Action::StateGet(token) => {
                Some(*token)
            }
            _ => None,
        }
    }
}

impl Input {
    fn bytes(&self) -> u64 {
        match self {
            Input::Reply(_, reply) => reply.body.len(),
            _ => 0,
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Input::Reply(token, reply) => {
                let head = ReplyHead { status: reply.status, headers: borrow(&reply.headers) };
                writer.frame_with_head(Header::new(Kind::Reply, *token), &head, bytes(&reply.body));
            }
            Input::Error(token, outcome, refusal) => {
                let head = ErrorHead {
                    outcome: *outcome,
                    code: refusal.code.as_str().into(),
                    detail: (&*refusal.detail).into(),
                };
                let mut room = Writer::new();
                room.frame_with_head(Header::new(Kind::Error, *token), &head, &[]);
                // The payload is the head alone; `aux` says nothing in this kind.
                if let Some(Ok(frame)) = Frames::new(room.bytes()).next() {
                    writer.frame(Header::new(Kind::Error, *token), frame.payload);
                }
            }
            Input::Timer(token) => writer.frame(Header::new(Kind::Timer, *token), &[]),
            Input::Cancel(id) => writer.frame(Header::new(Kind::Cancel, *id), &[]),
        }
    }
}

/// Whether the handler of a change ended well.
pub(crate) fn is_told(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Ok(reply) if (200..300).contains(&reply.status))
}

/// Moves mails whose deadline passed out of a mailbox.
pub(crate) fn expire(mailbox: &mut Mailbox, now: Moment) -> Vec<Mail> {
    mailbox.take(|mail| mail.deadline <= now)
}

pub(crate) fn expired() -> Refusal {
    Refusal::new(Code::Expired, "the deadline passed before the mechtron could handle the message")
}

pub(crate) fn timed_out() -> Refusal {
    Refusal::new(
        Code::Timeout,
        "the deadline passed before the mechtron answered; it may have handled the message",
    )
}

fn split<'a>(frame: &mechtron_abi::Frame<'a>) -> Result<(&'a [u8], &'a [u8]), Ended> {
    frame.split().map_err(|error| Ended::violation(error.to_string()))
}

fn call(
    head: &CallHead<'_>,
    body: &[u8],
    names: &mut Names,
    limits: &Limits,
) -> Result<(Point, Request), Refusal> {
    let refuse = |code: Code, detail: String| Err(Refusal::new(code, detail));
    let Some(to) = names.point(&head.to) else {
        let reason = head.to.parse::<Point>().err().map(|error| error.to_string()).unwrap_or_default();
        return refuse(Code::PointSyntax, format!("`{}` is not a point: {reason}", head.to.escape_debug()));
    };
    let Some(method) = names.method(&head.method) else {
        return refuse(Code::Usage, format!("`{}` is not a method", head.method.escape_debug()));
    };
    if !head.path.starts_with('/') {
        return refuse(
            Code::Usage,
            format!("the path `{}` does not begin with `/`", head.path.escape_debug()),
        );
    }
    if body.len() as u64 > limits.body_bytes {
        return refuse(Code::TooLarge, format!("a body may have {} bytes at most", limits.body_bytes));
    }
    let headers = own(&head.headers).map_err(|ended| Refusal::new(Code::Usage, ended.detail))?;
    let path = names.path(&head.path);
    let body = if body.is_empty() { Body::default() } else { Body::Bytes(Bytes::copy_from_slice(body)) };
    Ok((to, Request { method, path, headers, body }))
}

fn failed(head: &ErrorHead<'_>) -> Outcome {
    let known = Code::ALL.iter().copied().find(|code| code.as_str() == head.code);
    // A handler's own code is told in the words; the catalogue has one for all of them.
    let detail = match known {
        Some(_) => head.detail.to_string(),
        None => format!("{}: {}", head.code, head.detail),
    };
    let refusal = Refusal::new(known.unwrap_or(Code::HandlerFailed), detail);
    match head.outcome {
        OutcomeKind::Rejected => Outcome::Rejected(refusal),
        OutcomeKind::Failed => Outcome::Failed(refusal),
        OutcomeKind::Unknown => Outcome::Unknown(refusal),
    }
}

fn bytes(body: &Body) -> &[u8] {
    match body {
        Body::Bytes(bytes) => bytes,
        Body::Blob(_) => &[],
    }
}

fn borrow(headers: &Headers) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    headers.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// Headers of a guest: what could end a line or a header of HTTP is no header.
fn own(headers: &[(Cow<'_, str>, Cow<'_, str>)]) -> Result<Headers, Ended> {
    let name_ok = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"():;,<>@[]{}=/?\\\"".contains(&byte))
    };
    let value_ok = |value: &str| !value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    if let Some((name, _)) = headers.iter().find(|(name, value)| !name_ok(name) || !value_ok(value)) {
        return Err(Ended::violation(format!(
            "`{}` is not a header, or its value not one",
            name.escape_debug()
        )));
    }
    Ok(headers.iter().map(|(name, value)| (name, value)).collect())
}

/// How much time a call has: what the guest asks for, within what the message that it handles has left.
pub(crate) fn call_time(handled: Option<&Mail>, timeout_ms: u64, now: Moment) -> Duration {
    let left = handled.map(|mail| mail.deadline.saturating_sub(now));
    let asked = (timeout_ms > 0).then_some(timeout_ms);
    Duration::from_millis(match (asked, left) {
        (Some(asked), Some(left)) => asked.min(left),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => TIMEOUT_MS,
    })
}

#[cfg(test)]
mod tests {
    use starlane_core::{Agent, Message, MessageId, Method, Payload};
    use tokio::sync::oneshot;

    use super::*;

    fn mail(deadline: Moment) -> (Mail, oneshot::Receiver<crate::mailbox::Answer>) {
        let [from, to, agent] = ["test:a", "test:b", "test:c"].map(|text| text.parse::<Point>().unwrap());
        let header =
            starlane_core::Header::new(MessageId(1), from, to, Agent(agent), Duration::from_millis(deadline));
        let request = Request {
            method: Method::ext("Ask").unwrap(),
            path: "/".into(),
            headers: Headers::default(),
            body: Body::default(),
        };
        let (asker, receiver) = crate::asker::Asker::future();
        let message = Message { header, payload: Payload::Request(request) };
        (Mail { message, reply: ReplyTo::Outside(1, asker), deadline, change: None }, receiver)
    }

    /// A conversation in whose last run this many messages were given.
    fn given(runs: &[usize]) -> Conversation {
        let mut conversation = Conversation::new(Gauge::default());
        let mut writer = Writer::new();
        for count in runs {
            conversation.inputs(&mut writer, 0, 0);
            for _ in 0..*count {
                conversation.give(&mut writer, mail(1_000).0, 0, &mut String::new());
            }
        }
        conversation
    }

    fn read(conversation: &mut Conversation, frames: &[(Kind, u64, &[u8])]) -> Result<Output, Ended> {
        let mut writer = Writer::new();
        for (kind, id, payload) in frames {
            writer.frame(Header::new(*kind, *id), payload);
        }
        conversation.read(writer.bytes(), &mut Names::new(), &Limits::default())
    }

    /// An `ErrorHead`: Failed, code `E`, no detail.
    const FAILED: &[u8] = &[1, 1, b'E', 0];

    #[test]
    fn what_becomes_of_messages_when_an_instance_ends() {
        let ends = |runs: &[usize], reentrant: bool| {
            let remains = given(runs).end(reentrant);
            (remains.failed.len(), remains.again.len(), remains.is_search)
        };
        assert_eq!(ends(&[1], false), (1, 0, false), "one alone is to blame");
        assert_eq!(ends(&[5], false), (0, 5, true), "of several nobody knows which");
        assert_eq!(ends(&[5, 0], false), (1, 4, false), "the first was being handled, the others waited");
        assert_eq!(ends(&[2, 3], true), (2, 3, false), "in a reentrant one all of an earlier run had begun");
        assert_eq!(ends(&[0], false), (0, 0, false));
    }

    #[test]
    fn a_broken_rule_leaves_everything_as_it_was() {
        let mut conversation = given(&[2]);
        assert!(read(&mut conversation, &[(Kind::Fail, 1, FAILED), (Kind::Fail, 1, FAILED)]).is_err());
        let output = read(&mut conversation, &[(Kind::Fail, 2, FAILED), (Kind::Fail, 1, FAILED)]).unwrap();
        assert_eq!(output.actions.len(), 2);
        assert_eq!(conversation.settle(), 2);
        assert!(conversation.is_quiet());
    }

    #[test]
    fn a_cancelled_message_must_be_completed_once_the_guest_knows() {
        let mut conversation = given(&[1]);
        assert_eq!(conversation.cancel(|mail| mail.deadline <= 1_000).len(), 1);
        assert!(read(&mut conversation, &[]).is_ok(), "it was not told yet");
        assert!(conversation.inputs(&mut Writer::new(), 0, 0));
        assert!(read(&mut conversation, &[]).is_err());
        assert!(read(&mut conversation, &[(Kind::Fail, 1, FAILED)]).is_ok());
    }

    #[test]
    fn timers_wait_for_the_messages_and_answers_are_taken_once() {
        let mut conversation = given(&[1]);
        conversation.set_timer(7, 10);
        assert!(!conversation.has_input(20));
        assert_eq!(read(&mut conversation, &[(Kind::Fail, 1, FAILED)]).unwrap().actions.len(), 1);
        conversation.settle();
        assert!(conversation.has_input(20));
        let pending = Pending { to: Waits::Mechtron("test:b".parse().unwrap()), deadline: None };
        conversation.requests.insert(3, pending);
        let outcome = || Outcome::Ok(Reply::new(200, "text/plain", ""));
        assert!(conversation.answer(3, outcome(), &Limits::default()));
        assert!(!conversation.answer(3, outcome(), &Limits::default()));
    }

    proptest::proptest! {
        #[test]
        fn no_output_of_a_guest_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = given(&[3]).read(&bytes, &mut Names::new(), &Limits::default());
        }

        #[test]
        fn no_payload_of_a_guest_panics(
            kind in 120_u16..145, id in 0_u64..4, aux in 0_u32..40,
            payload in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
        ) {
            let mut bytes = Vec::new();
            bytes.extend(kind.to_le_bytes());
            bytes.extend(0_u16.to_le_bytes());
            bytes.extend((payload.len() as u32).to_le_bytes());
            bytes.extend(id.to_le_bytes());
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend(aux.to_le_bytes());
            bytes.extend(payload);
            let _ = given(&[3]).read(&bytes, &mut Names::new(), &Limits::default());
        }
    }
}
