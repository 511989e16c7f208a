//! What this node sends: requests, calls and traces with their one outcome, and signals.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use starlane_core::frame::{self, Ending, Head, Header, Kind, Service, lane_of_id, to_ms};
use starlane_core::{Body, Code, Headers, Message, MessageId, NodeId, Outcome, Payload, Refusal, Reply};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

use super::requests::{NotWaiting, Waiting};
use super::{Node, refusal};
use crate::answer::{Answer, Way};
use crate::link::{Content, Front, NotTaken};
use crate::local::Call;

/// A request on its way. It was sent when it was made; its one outcome comes by its deadline. Dropping it tells the node
/// that was asked that nobody waits any more.
#[must_use = "a request that is dropped is taken back"]
pub struct Request {
    state: State,
}

enum State {
    /// A question to a service of this node.
    Here(BoxFuture<'static, Outcome>),
    /// On this node.
    Asked(Asked),
    /// Over a link.
    Sent(Sent),
    Over(Option<Outcome>),
}

struct Asked {
    node: Arc<Node>,
    id: MessageId,
    outcome: oneshot::Receiver<Outcome>,
}

struct Sent {
    node: Arc<Node>,
    to: NodeId,
    id: MessageId,
    lane: usize,
    outcome: oneshot::Receiver<Outcome>,
}

impl Request {
    fn over(outcome: Outcome) -> Self {
        Self { state: State::Over(Some(outcome)) }
    }

    pub(crate) fn rejected(code: Code, detail: &str) -> Self {
        Self::over(Outcome::Rejected(refusal(code, detail)))
    }
}

impl Future for Request {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = match &mut self.state {
            State::Here(future) => std::task::ready!(future.poll_unpin(cx)),
            State::Asked(Asked { outcome, .. }) | State::Sent(Sent { outcome, .. }) => {
                std::task::ready!(outcome.poll_unpin(cx)).unwrap_or_else(|_| gone())
            }
            State::Over(outcome) => outcome.take().unwrap_or_else(gone),
        };
        self.state = State::Over(None);
        Poll::Ready(outcome)
    }
}

/// A task that ends when nobody waits for it any more.
struct Own<T>(JoinHandle<T>);

impl<T> Future for Own<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx)
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn late() -> Outcome {
    Outcome::Unknown(Refusal::new(Code::Timeout, "no answer came before the deadline; the call may have run"))
}

/// Nobody is left who could tell.
fn gone() -> Outcome {
    Outcome::Unknown(Refusal::new(
        Code::Timeout,
        "the links of this node were stopped; the request may have run",
    ))
}

impl Drop for Request {
    fn drop(&mut self) {
        if let State::Asked(asked) = &self.state {
            asked.node.running.cancel(asked.node.id, asked.id);
        }
        if let State::Sent(sent) = &self.state
            && sent.node.requests.remove(sent.id)
        {
            let header = Header::new(Kind::Cancel, sent.node.id, sent.to, sent.id, 0);
            let front = Front::New { header: &header, head: Head::None };
            // A cancel that cannot be sent leaves the other end to its deadline.
            let _ = sent.node.push(sent.to, sent.lane, &header, front, Content::Copied(&[]));
        }
    }
}

impl Node {
    /// Sends a request to the node that its receiver lives on.
    pub(crate) fn request(self: &Arc<Self>, to: NodeId, message: Message) -> Request {
        if message.header.remaining.is_zero() {
            self.counters.refused(Code::Expired);
            return Request::rejected(Code::Expired, "no time is left");
        }
        if to == self.id {
            return self.request_here(message);
        }
        let Payload::Request(request) = &message.payload else {
            return Request::rejected(Code::Usage, "only a request can be answered");
        };
        let header = Header::of_message(&message.header, Kind::Request, self.id, to);
        let head = Head::Message(&message.header, request);
        let lane = frame::lane(&message.header.from, &message.header.to);
        self.ask(header, head, frame::body_of(&request.body), lane)
    }

    /// Asks this node itself.
    fn request_here(self: &Arc<Self>, message: Message) -> Request {
        let header = Header::of_message(&message.header, Kind::Request, self.id, self.id);
        let Some(place) = self.running.begin(&header) else {
            return Request::rejected(Code::Usage, "a request with this id is under way");
        };
        let (sender, outcome) = oneshot::channel();
        let answer = Answer::new(self.clone(), Way::Here(sender), place, None);
        // A panic drops the answer, and so tells whoever asked.
        _ = self.guarded(|| self.local.request(message, answer));
        Request { state: State::Asked(Asked { node: self.clone(), id: header.id, outcome }) }
    }

    /// Sends a signal to the node that its receiver lives on.
    pub(crate) fn send(self: &Arc<Self>, to: NodeId, message: Message) -> Result<(), Refusal> {
        if to == self.id {
            drop(self.guarded(|| self.local.send(message)));
            return Ok(());
        }
        let Payload::Signal(signal) = &message.payload else {
            return Err(Refusal::new(Code::Usage, "only a signal can be sent"));
        };
        let header = Header::of_message(&message.header, Kind::Signal, self.id, to);
        let front = Front::New { header: &header, head: Head::Message(&message.header, signal) };
        let lane = frame::lane(&message.header.from, &message.header.to);
        let body = Content::Shared(frame::body_of(&signal.body));
        self.push(to, lane, &header, front, body).map_err(|why| {
            let refusal = not_taken(why);
            self.counters.refused(refusal.code);
            refusal
        })
    }

    /// Asks a service of another node.
    pub(crate) fn call(
        self: &Arc<Self>,
        to: NodeId,
        service: Service,
        body: Bytes,
        timeout: Duration,
    ) -> Request {
        if to == self.id {
            return self.call_here(Call { from: self.id, service, remaining: timeout, body });
        }
        let id = self.new_call_id();
        let header = Header::new(Kind::Call, self.id, to, id, to_ms(timeout));
        self.ask(header, Head::Call(service), body, lane_of_id(id))
    }

    /// Asks a service of this node: where those of other nodes are answered, and with the same deadline.
    fn call_here(self: &Arc<Self>, call: Call) -> Request {
        let deadline = call.remaining;
        let node = self.clone();
        let answer = async move { node.guard(async { node.local.call(call).await }).await };
        let task = Own(self.caller.spawn(tokio::time::timeout(deadline, answer)));
        let outcome = task.map(|ended| match ended {
            Ok(Ok(Ok(answer))) => answered(answer),
            Ok(Ok(Err(panicked))) => panicked.outcome(),
            Ok(Err(_)) => late(),
            Err(_) => gone(),
        });
        Request { state: State::Here(outcome.boxed()) }
    }

    /// Asks which way frames go to a node; the body of the answer lists the hops.
    pub(crate) fn trace(self: &Arc<Self>, to: NodeId, timeout: Duration) -> Request {
        if to == self.id {
            return Request::over(answered(Ok(Bytes::new())));
        }
        let id = self.new_call_id();
        let header = Header::new(Kind::Trace, self.id, to, id, to_ms(timeout));
        self.ask(header, Head::None, Bytes::new(), lane_of_id(id))
    }

    fn ask(self: &Arc<Self>, header: Header, head: Head<'_>, body: Bytes, lane: usize) -> Request {
        let rejected = |code, detail: &str| {
            self.counters.refused(code);
            Request::rejected(code, detail)
        };
        let table = self.table.read();
        if !table.asks {
            return rejected(Code::Unreachable, "the links of this node are being stopped");
        }
        let Some(link) = table.toward(header.to) else {
            return rejected(Code::Unreachable, "no way leads to the node");
        };
        let now_ms = self.clock.now_ms();
        let (sender, outcome) = oneshot::channel();
        let waiting = Waiting {
            asked: header.kind,
            to: header.to,
            link: link.serial,
            ends_ms: now_ms + u64::from(header.remaining_ms),
            outcome: sender,
        };
        // Before it is sent, since the answer may be there at once.
        match self.requests.insert(header.id, waiting) {
            Ok(()) => {}
            Err(NotWaiting::Full) => return rejected(Code::Busy, "this node waits for too much already"),
            Err(NotWaiting::Twice) => return rejected(Code::Usage, "a request with this id is under way"),
        }
        let front = Front::New { header: &header, head };
        let pushed = link.push(lane, now_ms, header.kind, front, Content::Shared(body));
        drop(table);
        if let Err(why) = pushed {
            self.requests.remove(header.id);
            let refusal = not_taken(why);
            self.counters.refused(refusal.code);
            return Request::over(Outcome::Rejected(refusal));
        }
        let sent = Sent { node: self.clone(), to: header.to, id: header.id, lane, outcome };
        Request { state: State::Sent(sent) }
    }

    /// Puts a frame on the way to a node.
    pub(super) fn push(
        &self,
        to: NodeId,
        lane: usize,
        header: &Header,
        front: Front<'_>,
        body: Content<'_>,
    ) -> Result<(), NotTaken> {
        let table = self.table.read();
        let link = table.toward(to).ok_or(NotTaken::Closed)?;
        link.push(lane, self.clock.now_ms(), header.kind, front, body)
    }

    /// A frame was not sent, and surely does not arrive: whoever sent it hears of it. `front` begins with its header.
    pub(crate) fn give_back(&self, front: &[u8], code: Code, detail: &str) {
        let Ok(header) = frame::peek(front) else { return };
        if header.from != self.id {
            return self.refuse(None, lane_of_id(header.id), &header, code, detail);
        }
        if header.kind.is_asking() {
            self.counters.refused(code);
            let outcome = Outcome::Rejected(refusal(code, detail));
            self.requests.complete(header.id, Kind::Refusal, self.id, outcome);
        } else if header.kind == Kind::Signal {
            self.counters.signals_lost.one();
        } else if header.kind.is_back() {
            self.counters.answers_lost.one();
        }
    }
}

pub(super) fn not_taken(why: NotTaken) -> Refusal {
    match why {
        NotTaken::Closed => refusal(Code::Unreachable, "no way leads to the node"),
        NotTaken::Full => refusal(Code::Busy, "too much waits on the link"),
        NotTaken::TooLarge(error) => Refusal::new(Code::TooLarge, error.to_string()),
    }
}

/// The answer to a call as an outcome.
fn answered(answer: Result<Bytes, Refusal>) -> Outcome {
    match answer {
        Ok(body) => Outcome::Ok(Reply { status: 200, headers: Headers::default(), body: Body::Bytes(body) }),
        Err(refusal) => Outcome::Failed(refusal),
    }
}

/// An outcome as the answer to a call.
///
/// # Errors
/// Why there is none; `Timeout` when the call may have run.
pub(crate) fn answer(outcome: Outcome) -> Result<Bytes, Refusal> {
    match outcome {
        Outcome::Ok(Reply { body: Body::Bytes(body), .. }) => Ok(body),
        Outcome::Ok(_) => Err(Refusal::new(Code::Internal, "the answer holds no bytes")),
        Outcome::Rejected(refusal) | Outcome::Failed(refusal) | Outcome::Unknown(refusal) => Err(refusal),
    }
}

/// How something ended, as a head tells it.
pub(super) fn head_of(outcome: &Outcome) -> (Kind, Head<'_>) {
    match outcome {
        Outcome::Ok(reply) => (Kind::Reply, Head::Reply(reply)),
        Outcome::Rejected(refusal) => (Kind::Refusal, Head::Refusal(Ending::Rejected, refusal)),
        Outcome::Failed(refusal) => (Kind::Refusal, Head::Refusal(Ending::Failed, refusal)),
        Outcome::Unknown(refusal) => (Kind::Refusal, Head::Refusal(Ending::Unknown, refusal)),
    }
}
