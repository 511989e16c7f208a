//! What arrives over links: frames for this node are delivered, those for others are passed on by their header alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starlane_core::frame::{self, Close, Ending, Frame, HEADER_BYTES, Head, Header, Heads, Hop, Kind};
use starlane_core::{Body, Code, Headers, Outcome, Refusal, Reply, Role};

use super::outbound::{head_of, not_taken};
use super::{Node, Place, refusal};
use crate::answer::{Answer, Way};
use crate::link::{Content, Front, Held, Link, NotTaken, SHARED_BYTES_MIN};
use crate::local::Call;
use crate::room::Room;

/// A frame, as it came or after it waited.
enum Arrived<'a> {
    Now(&'a Frame<'a>),
    Later(&'a Held),
}

impl<'a> Arrived<'a> {
    fn front(&self) -> &'a [u8] {
        match self {
            Arrived::Now(frame) => frame.front(),
            Arrived::Later(held) => &held.front,
        }
    }

    fn head(&self) -> &'a [u8] {
        self.front().get(HEADER_BYTES..).unwrap_or_default()
    }

    fn body(&self) -> Bytes {
        match self {
            Arrived::Now(frame) => frame.body(),
            Arrived::Later(held) => held.body.clone(),
        }
    }

    fn content(&self) -> Content<'a> {
        match self {
            Arrived::Now(frame) if frame.inline().len() < SHARED_BYTES_MIN => Content::Copied(frame.inline()),
            _ => Content::Shared(self.body()),
        }
    }
}

impl Node {
    /// Whether a frame is to be looked at.
    ///
    /// # Errors
    /// When the neighbour may not send it: a leaf carries nobody's frames but its own.
    pub(crate) fn may_send(&self, link: &Link, lane: usize, frame: &Frame<'_>) -> Result<bool, Close> {
        let from = frame.header.from;
        if link.peer.role == Role::Leaf && from != link.id {
            return Err(Close::Malformed);
        }
        if from == self.id {
            self.counters.frames_looped.one();
            if frame.header.kind == Kind::Signal {
                link.take_signal(lane);
            }
            self.give_back(frame.front(), Code::Unreachable, "the way to the node led back");
            return Ok(false);
        }
        Ok(true)
    }

    /// Takes a frame in its turn.
    pub(crate) fn take(
        self: &Arc<Self>,
        link: &Arc<Link>,
        lane: usize,
        frame: &Frame<'_>,
        heads: &mut Heads,
    ) {
        self.route(link, lane, &frame.header, &Arrived::Now(frame), heads);
    }

    /// Takes a frame that had to wait.
    pub(crate) fn go_on(self: &Arc<Self>, link: &Arc<Link>, lane: usize, held: &Held) {
        if held.refused {
            return self.refuse_held(link, lane, &held.header);
        }
        let waited_ms = self.clock.now_ms().saturating_sub(held.since_ms);
        let waited_ms = u32::try_from(waited_ms).unwrap_or(u32::MAX);
        let header =
            Header { remaining_ms: held.header.remaining_ms.saturating_sub(waited_ms), ..held.header };
        self.route(link, lane, &header, &Arrived::Later(held), &mut Heads::default());
    }

    /// Refuses a frame that would have to wait where too much waits.
    pub(crate) fn refuse_held(&self, link: &Arc<Link>, lane: usize, header: &Header) {
        if header.kind == Kind::Signal {
            link.take_signal(lane);
        }
        self.refuse(Some(link), lane, header, Code::Busy, "too much waits for a large body before it");
    }

    fn route(
        self: &Arc<Self>,
        link: &Arc<Link>,
        lane: usize,
        header: &Header,
        arrived: &Arrived<'_>,
        heads: &mut Heads,
    ) {
        if header.kind == Kind::Signal {
            link.take_signal(lane);
        }
        if header.to == self.id {
            self.deliver(link, lane, header, arrived, heads);
        } else if let Err((code, detail)) = self.pass_on(link, lane, header, arrived) {
            self.refuse(Some(link), lane, header, code, &detail);
        }
    }

    /// Sends a frame on its way: the header is all that is looked at.
    fn pass_on(
        &self,
        link: &Arc<Link>,
        lane: usize,
        header: &Header,
        arrived: &Arrived<'_>,
    ) -> Result<(), (Code, std::borrow::Cow<'static, str>)> {
        if self.me.role == Role::Leaf {
            return Err((Code::Unreachable, "a leaf carries nobody's frames but its own".into()));
        }
        let Some(hops_left) = header.hops_left.checked_sub(1) else {
            return Err((Code::Unreachable, "it crossed too many nodes".into()));
        };
        let timed = header.kind.is_asking() || header.kind == Kind::Signal;
        if timed && header.remaining_ms == 0 {
            return Err((Code::Expired, "no time was left on the way".into()));
        }
        let content = match header.kind {
            Kind::Trace => Content::Shared(self.with_hop(link, &arrived.body())),
            _ => arrived.content(),
        };
        let table = self.table.read();
        let Some(next) = table.toward(header.to) else {
            return Err((Code::Unreachable, format!("{} knows no way to the node", self.me.name).into()));
        };
        if next.id == link.id {
            return Err((Code::Unreachable, format!("the way from {} leads back", self.me.name).into()));
        }
        let front = Front::Passed { front: arrived.front(), hops_left, remaining_ms: header.remaining_ms };
        next.push(lane, self.clock.now_ms(), header.kind, front, content).map_err(|why| {
            let refusal = not_taken(why);
            (refusal.code, refusal.detail.to_string().into())
        })?;
        self.counters.frames_relayed.one();
        Ok(())
    }

    /// The hops of a trace with this node at their end.
    fn with_hop(&self, link: &Link, hops: &[u8]) -> Bytes {
        let mut hops = hops.to_vec();
        Hop { node: self.id, rtt: link.rtt() }.write(&mut hops);
        hops.into()
    }

    fn deliver(
        self: &Arc<Self>,
        link: &Arc<Link>,
        lane: usize,
        header: &Header,
        arrived: &Arrived<'_>,
        heads: &mut Heads,
    ) {
        match header.kind {
            Kind::Request => self.run_request(link, lane, header, arrived, heads),
            Kind::Call => self.run_call(link, lane, header, arrived),
            Kind::Signal if header.remaining_ms == 0 => {
                self.refuse(Some(link), lane, header, Code::Expired, "no time was left when it arrived");
            }
            Kind::Signal => match heads.message(header, arrived.head(), arrived.body()) {
                // Whether it was taken nobody knows; it arrived.
                Ok(message) => drop(self.guarded(|| self.local.send(message))),
                Err(error) => {
                    self.refuse(Some(link), lane, header, Code::MessageInvalid, &error.to_string());
                }
            },
            Kind::Cancel => self.running.cancel(header.from, header.id),
            Kind::Reply | Kind::Refusal => {
                let outcome = heads.outcome(header, arrived.head(), arrived.body());
                self.complete(
                    header,
                    outcome.unwrap_or_else(|error| {
                        Outcome::Unknown(Refusal::new(Code::MessageInvalid, error.to_string()))
                    }),
                );
            }
            Kind::Answer | Kind::Traced => {
                let reply =
                    Reply { status: 200, headers: Headers::default(), body: Body::Bytes(arrived.body()) };
                self.complete(header, Outcome::Ok(reply));
            }
            Kind::Trace => {
                let hops = Content::Shared(self.with_hop(link, &arrived.body()));
                // It is small.
                let _ = self.send_back(Some(link), lane, &header.back(Kind::Traced), Head::None, hops);
            }
            Kind::Lost => self.counters.signals_lost.one(),
            Kind::Other(_) => {
                self.counters.kinds_unknown.one();
                if header.kind.is_asking() {
                    let detail = format!("{} runs an older version, which does not know this", self.me.name);
                    self.refuse(Some(link), lane, header, Code::Unsupported, &detail);
                }
            }
        }
    }

    fn complete(&self, header: &Header, outcome: Outcome) {
        if !self.requests.complete(header.id, header.kind, header.from, outcome) {
            self.counters.answers_late.one();
        }
    }

    /// A place for something to run, unless it may not run.
    fn admit(&self, link: &Arc<Link>, lane: usize, header: &Header) -> Option<(Place, Room)> {
        if header.remaining_ms == 0 {
            self.refuse(Some(link), lane, header, Code::Expired, "no time was left when it arrived");
            return None;
        }
        // Whoever asked hears the outcome of the one that runs.
        let place = self.running.begin(header)?;
        let room = Room::take(&link.running, self.config.running_max);
        if room.is_none() {
            self.refuse(Some(link), lane, header, Code::Busy, "too many requests run here");
        }
        Some((place, room?))
    }

    fn run_request(
        self: &Arc<Self>,
        link: &Arc<Link>,
        lane: usize,
        header: &Header,
        arrived: &Arrived<'_>,
        heads: &mut Heads,
    ) {
        let Some((place, room)) = self.admit(link, lane, header) else { return };
        let message = match heads.message(header, arrived.head(), arrived.body()) {
            Ok(message) => message,
            Err(error) => {
                return self.refuse(Some(link), lane, header, Code::MessageInvalid, &error.to_string());
            }
        };
        let way = Way::Link { link: link.clone(), lane, asked: *header };
        let answer = Answer::new(self.clone(), way, place, Some(room));
        // A panic drops the answer, and so tells whoever asked.
        _ = self.guarded(|| self.local.request(message, answer));
    }

    fn run_call(self: &Arc<Self>, link: &Arc<Link>, lane: usize, header: &Header, arrived: &Arrived<'_>) {
        let Some((place, room)) = self.admit(link, lane, header) else { return };
        let service = match frame::read_call(arrived.head()) {
            Ok(service) => service,
            Err(error) => {
                return self.refuse(Some(link), lane, header, Code::MessageInvalid, &error.to_string());
            }
        };
        let remaining = Duration::from_millis(header.remaining_ms.into());
        let call = Call { from: header.from, service, remaining, body: arrived.body() };
        let (node, link, asked) = (self.clone(), link.clone(), *header);
        let place = Arc::new(place);
        let held = place.clone();
        let task = self.caller.spawn(async move {
            // Whoever asked gives up at the same time and needs no word.
            let answer = node.guard(async { node.local.call(call).await });
            match tokio::time::timeout(remaining, answer).await {
                Ok(Ok(Ok(body))) => node.answer(&link, lane, &asked, body),
                Ok(Ok(Err(refusal))) => node.reply(&link, lane, &asked, Outcome::Failed(refusal)),
                Ok(Err(panicked)) => node.reply(&link, lane, &asked, panicked.outcome()),
                Err(_) => {}
            }
            drop((held, room));
        });
        let task = task.abort_handle();
        place.end_by(Box::new(move || task.abort()));
    }

    /// Sends an outcome back to whoever asked over a link.
    pub(crate) fn reply(&self, link: &Arc<Link>, lane: usize, asked: &Header, outcome: Outcome) {
        let (kind, head) = head_of(&outcome);
        let body = match &outcome {
            Outcome::Ok(reply) => frame::body_of(&reply.body),
            _ => Bytes::new(),
        };
        let sent = self.send_back(Some(link), lane, &asked.back(kind), head, Content::Shared(body));
        if let Err(error) = sent {
            self.answer_too_large(link, lane, asked, error);
        }
    }

    fn answer(&self, link: &Arc<Link>, lane: usize, asked: &Header, body: Bytes) {
        let header = asked.back(Kind::Answer);
        if let Err(error) = self.send_back(Some(link), lane, &header, Head::None, Content::Shared(body)) {
            self.answer_too_large(link, lane, asked, error);
        }
    }

    fn answer_too_large(&self, link: &Arc<Link>, lane: usize, asked: &Header, error: frame::Error) {
        let refusal = Refusal::new(Code::TooLarge, error.to_string());
        let head = Head::Refusal(Ending::Failed, &refusal);
        // It is small.
        let _ = self.send_back(Some(link), lane, &asked.back(Kind::Refusal), head, Content::Copied(&[]));
    }

    /// Tells whoever sent a frame that it surely does nothing. What goes back itself is dropped: whoever waits for it
    /// hears from the deadline.
    pub(super) fn refuse(
        &self,
        link: Option<&Arc<Link>>,
        lane: usize,
        header: &Header,
        code: Code,
        detail: &str,
    ) {
        self.counters.refused(code);
        let kind = match header.kind {
            Kind::Signal => Kind::Lost,
            asking if asking.is_asking() => Kind::Refusal,
            Kind::Cancel | Kind::Other(_) => return,
            _ => return self.counters.answers_lost.one(),
        };
        let refusal = refusal(code, detail);
        let header = Header { from: self.id, ..header.back(kind) };
        let head = Head::Refusal(Ending::Rejected, &refusal);
        // It is small.
        let _ = self.send_back(link, lane, &header, head, Content::Copied(&[]));
    }

    /// Sends something back to whoever asked: over the link it came from when that is the neighbour, else as the routes say, or
    /// over the link it came from after all when they lead over one that ended: those of a node that stops change no more.
    ///
    /// # Errors
    /// When it is larger than it may be. What cannot be sent otherwise is counted.
    fn send_back(
        &self,
        link: Option<&Arc<Link>>,
        lane: usize,
        header: &Header,
        head: Head<'_>,
        body: Content<'_>,
    ) -> Result<(), frame::Error> {
        let front = Front::New { header, head };
        let pushed = match link.filter(|link| link.id == header.to) {
            Some(link) => match link.push(lane, self.clock.now_ms(), header.kind, front, body.clone()) {
                Err(NotTaken::Closed) => self.push(header.to, lane, header, front, body),
                pushed => pushed,
            },
            None => match (self.push(header.to, lane, header, front, body.clone()), link) {
                (Err(NotTaken::Closed), Some(link)) => {
                    link.push(lane, self.clock.now_ms(), header.kind, front, body)
                }
                (pushed, _) => pushed,
            },
        };
        match pushed {
            Ok(()) => Ok(()),
            Err(NotTaken::TooLarge(error)) => Err(error),
            Err(NotTaken::Closed | NotTaken::Full) => {
                self.counters.answers_lost.one();
                Ok(())
            }
        }
    }
}
