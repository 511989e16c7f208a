//! Points that are served from outside the mesh: who serves each, and the messages that wait for one of them to be ready.
//!
//! Those who serve the same point share its messages: each goes to the next of them that takes more. What is handed over is
//! in the order in which it came.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;
use starlane_core::{Body, Code, Header, Message, Outcome, Payload, Point, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::changed::Changed;

/// The messages of one point that may wait; as many as a mechtron's mailbox takes.
const WAITING_MAX: usize = 1_000;
/// How many bytes they may have together.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most that a session can be granted at a time, and the most requests that it has and did not answer.
pub(crate) const GRANTED_MAX: u32 = 4_096;
/// How many bytes may be on their way to a session before it is handed more.
const UNSENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most points that a session serves.
const POINTS_MAX: usize = 10_000;

/// All points that are served here. Clones are the same.
#[derive(Clone, Default)]
pub struct Pools(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Points that somebody began to serve, or nobody does any more.
    changed: Changed,
}

#[derive(Default)]
struct State {
    pools: HashMap<Point, Pool>,
    seats: HashMap<SeatId, Sitting>,
    /// The requests that were handed over and are not answered.
    taken: HashMap<Ticket, Taken>,
    /// The last number that was given out.
    last: u64,
}

/// What is known of one served point.
#[derive(Default)]
struct Pool {
    /// Those who serve it; the next to be asked first.
    seats: VecDeque<SeatId>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct SeatId(u64);

/// Names a message that was handed over.
pub type Ticket = u64;

struct Waiting {
    ticket: Ticket,
    message: Message,
    bytes: usize,
    until: Instant,
    /// Absent for a message that wants no answer.
    answer: Option<oneshot::Sender<Outcome>>,
}

/// What is known of one who serves.
struct Sitting {
    points: VecDeque<Point>,
    granted: u32,
    /// Requests that it has and did not answer.
    unanswered: u32,
    unsent_bytes: usize,
    orders: mpsc::Sender<Order>,
}

impl Sitting {
    fn takes_more(&self) -> bool {
        self.granted > 0 && self.unanswered < GRANTED_MAX && self.unsent_bytes < UNSENT_BYTES_MAX
    }
}

struct Taken {
    seat: SeatId,
    answer: oneshot::Sender<Outcome>,
}

/// What is asked of one who serves.
#[derive(Debug)]
pub enum Order {
    /// To take a message.
    Take {
        /// By which a request is answered.
        ticket: Ticket,
        /// What it says.
        message: Box<Message>,
        /// How many bytes of it are on their way until [`Seat::sent`] says that they are not.
        bytes: usize,
        /// By when it is to be answered.
        until: Instant,
    },
    /// To give up a request that it took: nobody waits for the answer.
    GiveUp(Ticket),
}

/// The place of one who serves points. Clones are the same place, which is given up with the last of them.
#[derive(Clone)]
pub struct Seat(Arc<Sat>);

struct Sat {
    pools: Pools,
    id: SeatId,
}

impl Pools {
    /// Nobody serves anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A place for one more who serves, and what it will be asked.
    pub fn seat(&self) -> (Seat, mpsc::Receiver<Order>) {
        // Whatever is handed over and given up fits, so that nobody who asks ever waits for a session.
        let (sender, orders) = mpsc::channel(2 * GRANTED_MAX as usize);
        let mut state = self.0.state.lock();
        let id = SeatId(state.next());
        state.seats.insert(
            id,
            Sitting { points: VecDeque::new(), granted: 0, unanswered: 0, unsent_bytes: 0, orders: sender },
        );
        drop(state);
        (Seat(Arc::new(Sat { pools: self.clone(), id })), orders)
    }

    /// Whether anybody serves a point here.
    pub fn serves(&self, point: &Point) -> bool {
        self.0.state.lock().pools.contains_key(point)
    }

    /// All points that are served here.
    pub fn points(&self) -> Vec<Point> {
        self.0.state.lock().pools.keys().cloned().collect()
    }

    /// Waits until points began or ceased to be served here, and tells which.
    pub async fn changed(&self) -> Vec<Point> {
        self.0.changed.next().await
    }

    /// Hands a request to one who serves its receiver, now or as soon as one takes more; it is in its turn when this
    /// returns. `Rejected` with `NotReady` when nobody serves the point, with `Busy` when too many wait, with `Timeout` when
    /// its time passed before anybody took it.
    pub fn request(&self, message: Message) -> impl Future<Output = Outcome> + Send + 'static + use<> {
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + message.header.remaining;
        let queued = self.put(message, until, Some(answer));
        // It is given up with the future, also one that was never asked.
        let queued = queued.map(|ticket| Asked { pools: self.clone(), ticket: Some(ticket) });
        async move {
            let mut asked = match queued {
                Ok(asked) => asked,
                Err(refusal) => return Outcome::Rejected(refusal),
            };
            match timeout_at(until, answered).await {
                Ok(Ok(outcome)) => {
                    asked.ticket = None;
                    outcome
                }
                Ok(Err(_)) => Outcome::Unknown(went_away()),
                Err(_) => asked.late(),
            }
        }
        .boxed()
    }

    /// Hands a message that wants no answer to one who serves its receiver, now or as soon as one takes more.
    ///
    /// # Errors
    /// `NotReady` when nobody serves the point, `Busy` when too many wait.
    pub fn send(&self, message: Message) -> Result<(), Refusal> {
        let until = Instant::now() + message.header.remaining;
        self.put(message, until, None).map(drop)
    }

    fn put(
        &self,
        message: Message,
        until: Instant,
        answer: Option<oneshot::Sender<Outcome>>,
    ) -> Result<Ticket, Refusal> {
        let bytes = bytes_of(&message);
        let point = message.header.to.clone();
        if answer.is_some() && message.header.chain.contains(&point) {
            let detail = format!("`{point}` waits for the answer to this request itself");
            return Err(Refusal::new(Code::CycleDetected, detail));
        }
        let mut state = self.0.state.lock();
        let ticket = state.next();
        let pool = state.pools.get_mut(&point).ok_or_else(|| unserved(&point))?;
        if pool.waiting.len() >= WAITING_MAX || pool.waiting_bytes + bytes > WAITING_BYTES_MAX {
            let detail = format!("too many messages wait for those who serve `{point}`");
            return Err(Refusal::new(Code::Busy, detail));
        }
        pool.waiting_bytes += bytes;
        pool.waiting.push_back(Waiting { ticket, message, bytes, until, answer });
        state.hand_out(&point);
        Ok(ticket)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Hands over what waits for a point, as long as one who serves it takes more.
    fn hand_out(&mut self, point: &Point) {
        let Some(pool) = self.pools.get_mut(point) else { return };
        while !pool.waiting.is_empty() {
            let takes_more = |id: &SeatId| self.seats.get(id).is_some_and(Sitting::takes_more);
            let Some(at) = pool.seats.iter().position(takes_more) else { return };
            pool.seats.rotate_left(at);
            let Some(id) = pool.seats.front().copied() else { return };
            pool.seats.rotate_left(1);
            let (Some(sitting), Some(waiting)) = (self.seats.get_mut(&id), pool.waiting.pop_front()) else {
                return;
            };
            pool.waiting_bytes -= waiting.bytes;
            let Waiting { ticket, message, bytes, until, answer } = waiting;
            if answer.as_ref().is_some_and(oneshot::Sender::is_closed) {
                continue;
            }
            if until <= Instant::now() {
                if let Some(answer) = answer {
                    // Who does not wait any more is not told.
                    drop(answer.send(Outcome::Rejected(too_late())));
                }
                continue;
            }
            sitting.granted -= 1;
            sitting.unsent_bytes += bytes;
            if let Some(answer) = answer {
                sitting.unanswered += 1;
                self.taken.insert(ticket, Taken { seat: id, answer });
            }
            let order = Order::Take { ticket, message: Box::new(message), bytes, until };
            if sitting.orders.try_send(order).is_err() {
                // The session has ended, and its seat is about to be given up.
                sitting.granted = 0;
                if let Some(Taken { answer, .. }) = self.taken.remove(&ticket) {
                    drop(answer.send(Outcome::Rejected(unserved(point))));
                }
            }
        }
    }

    /// Takes a request back that was handed over, and tells who has it.
    fn take_back(&mut self, ticket: Ticket) -> Option<Taken> {
        let taken = self.taken.remove(&ticket)?;
        if let Some(sitting) = self.seats.get_mut(&taken.seat) {
            sitting.unanswered -= 1;
        }
        Some(taken)
    }

    /// Hands over what waits for the points of a seat.
    fn serve(&mut self, id: SeatId) {
        let points = self.seats.get(&id).map_or(0, |sitting| sitting.points.len());
        for _ in 0..points {
            let Some(sitting) = self.seats.get_mut(&id).filter(|sitting| sitting.takes_more()) else {
                return;
            };
            // Another point comes first next time.
            sitting.points.rotate_left(1);
            if let Some(point) = sitting.points.back().cloned() {
                self.hand_out(&point);
            }
        }
    }

    /// Somebody serves a point no more; what waits is refused when nobody does.
    fn leave(&mut self, id: SeatId, point: &Point, changed: &Changed) {
        let Some(pool) = self.pools.get_mut(point) else { return };
        pool.seats.retain(|seat| *seat != id);
        if !pool.seats.is_empty() {
            return;
        }
        for waiting in self.pools.remove(point).into_iter().flat_map(|pool| pool.waiting) {
            if let Some(answer) = waiting.answer {
                // Who does not wait any more is not told.
                drop(answer.send(Outcome::Rejected(unserved(point))));
            }
        }
        changed.tell(point);
    }
}

impl Seat {
    /// Serves a point from now on.
    ///
    /// # Errors
    /// `TooLarge` when it serves too many.
    pub fn join(&self, point: &Point) -> Result<(), Refusal> {
        let mut state = self.0.pools.0.state.lock();
        let state = &mut *state;
        let Some(sitting) = state.seats.get_mut(&self.0.id) else { return Ok(()) };
        if sitting.points.contains(point) {
            return Ok(());
        }
        if sitting.points.len() >= POINTS_MAX {
            let detail = format!("a session serves at most {POINTS_MAX} points");
            return Err(Refusal::new(Code::TooLarge, detail));
        }
        sitting.points.push_back(point.clone());
        let pool = state.pools.entry(point.clone()).or_default();
        pool.seats.push_front(self.0.id);
        if pool.seats.len() == 1 {
            self.0.pools.0.changed.tell(point);
        }
        state.hand_out(point);
        Ok(())
    }

    /// Serves a point no more; what it took is still answered.
    pub fn leave(&self, point: &Point) {
        let mut state = self.0.pools.0.state.lock();
        if let Some(sitting) = state.seats.get_mut(&self.0.id) {
            sitting.points.retain(|served| served != point);
        }
        state.leave(self.0.id, point, &self.0.pools.0.changed);
    }

    /// The points that it serves.
    pub fn points(&self) -> Vec<Point> {
        let state = self.0.pools.0.state.lock();
        state.seats.get(&self.0.id).map_or_else(Vec::new, |sitting| sitting.points.iter().cloned().collect())
    }

    /// Whether it serves a point.
    pub fn serves(&self, point: &Point) -> bool {
        let state = self.0.pools.0.state.lock();
        state.seats.get(&self.0.id).is_some_and(|sitting| sitting.points.contains(point))
    }

    /// Takes so many messages more, of those granted not more than 4,096 count.
    pub fn grant(&self, more: u32) {
        let mut state = self.0.pools.0.state.lock();
        if let Some(sitting) = state.seats.get_mut(&self.0.id) {
            sitting.granted = sitting.granted.saturating_add(more).min(GRANTED_MAX);
        }
        state.serve(self.0.id);
    }

    /// Bytes of a message that was taken are on their way no more.
    pub fn sent(&self, bytes: usize) {
        let mut state = self.0.pools.0.state.lock();
        let Some(sitting) = state.seats.get_mut(&self.0.id) else { return };
        let was_full = sitting.unsent_bytes >= UNSENT_BYTES_MAX;
        sitting.unsent_bytes = sitting.unsent_bytes.saturating_sub(bytes);
        if was_full {
            state.serve(self.0.id);
        }
    }

    /// Answers a request that it took; `false` when nobody waits for it any more.
    pub fn answer(&self, ticket: Ticket, outcome: Outcome) -> bool {
        let mut state = self.0.pools.0.state.lock();
        if state.taken.get(&ticket).is_none_or(|taken| taken.seat != self.0.id) {
            return false;
        }
        let Some(taken) = state.take_back(ticket) else { return false };
        state.serve(self.0.id);
        drop(state);
        taken.answer.send(outcome).is_ok()
    }

    /// Gives the place up for all clones: what was taken and not answered is unknown to whoever asked.
    pub fn give_up(&self) {
        self.0.give_up();
    }

    /// How many requests it took and did not answer.
    pub fn unanswered(&self) -> u32 {
        self.0.pools.0.state.lock().seats.get(&self.0.id).map_or(0, |sitting| sitting.unanswered)
    }
}

impl Sat {
    fn give_up(&self) {
        let mut guard = self.pools.0.state.lock();
        let state = &mut *guard;
        let Some(sitting) = state.seats.remove(&self.id) else { return };
        for point in &sitting.points {
            state.leave(self.id, point, &self.pools.0.changed);
        }
        for (_, taken) in state.taken.extract_if(|_, taken| taken.seat == self.id) {
            drop(taken.answer.send(Outcome::Unknown(went_away())));
        }
    }
}

impl Drop for Sat {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A request that somebody waits for; given up when dropped.
struct Asked {
    pools: Pools,
    ticket: Option<Ticket>,
}

impl Asked {
    /// The time is over.
    fn late(mut self) -> Outcome {
        match self.give_up() {
            true => Outcome::Unknown(Refusal::new(Code::Timeout, "no answer came before the deadline")),
            false => Outcome::Rejected(too_late()),
        }
    }

    /// Whether somebody had it.
    fn give_up(&mut self) -> bool {
        let Some(ticket) = self.ticket.take() else { return false };
        let mut state = self.pools.0.state.lock();
        let Some(taken) = state.take_back(ticket) else {
            // Its turn comes soon enough, and then it is passed over.
            return false;
        };
        if let Some(sitting) = state.seats.get(&taken.seat) {
            // A session that has ended needs no word.
            drop(sitting.orders.try_send(Order::GiveUp(ticket)));
        }
        state.serve(taken.seat);
        true
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// What a message takes of the bounds.
fn bytes_of(message: &Message) -> usize {
    let Message { header: Header { from, to, .. }, payload } = message;
    let own = from.as_str().len() + to.as_str().len();
    let (headers, path, body) = match payload {
        Payload::Request(said) | Payload::Signal(said) => (&said.headers, said.path.len(), &said.body),
        Payload::Reply(reply) => (&reply.headers, 0, &reply.body),
    };
    let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let body = match body {
        Body::Bytes(bytes) => bytes.len(),
        Body::Blob(_) => 0,
    };
    own + headers + path + body
}

/// That nobody serves a point now.
pub fn unserved(point: &Point) -> Refusal {
    Refusal::new(Code::NotReady, format!("nobody serves `{point}` at the moment"))
}

fn too_late() -> Refusal {
    Refusal::new(Code::Timeout, "the deadline passed before anybody who serves the point took the request")
}

fn went_away() -> Refusal {
    Refusal::new(Code::Unreachable, "the service went away with the request; it may have run")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use starlane_core::{Agent, MessageId, Method, Reply, Request};

    use super::*;

    fn point(text: &str) -> Point {
        text.parse().unwrap()
    }

    fn message(to: &str, path: &str, body: usize) -> Message {
        let agent = Agent(point("mesh:users:ann"));
        let header = Header::new(MessageId(1), point("shop"), point(to), agent, Duration::from_secs(10));
        let request = Request {
            method: Method::ext("Pay").unwrap(),
            path: path.into(),
            headers: Default::default(),
            body: Body::Bytes(vec![0; body].into()),
        };
        Message { header, payload: Payload::Request(request) }
    }

    /// The paths of what a session was handed, and what it is to give up.
    fn orders(receiver: &mut mpsc::Receiver<Order>) -> Vec<(Ticket, String)> {
        let mut all = Vec::new();
        while let Ok(order) = receiver.try_recv() {
            all.push(match order {
                Order::Take { ticket, message, .. } => match message.payload {
                    Payload::Request(request) | Payload::Signal(request) => {
                        (ticket, request.path.to_string())
                    }
                    Payload::Reply(_) => panic!(),
                },
                Order::GiveUp(ticket) => (ticket, "give up".to_owned()),
            });
        }
        all
    }

    fn code(outcome: &Outcome) -> (&str, Code) {
        match outcome {
            Outcome::Ok(_) => panic!("{outcome:?}"),
            Outcome::Rejected(refusal) => ("rejected", refusal.code),
            Outcome::Failed(refusal) => ("failed", refusal.code),
            Outcome::Unknown(refusal) => ("unknown", refusal.code),
        }
    }

    fn paths(orders: &[(Ticket, String)]) -> Vec<&str> {
        orders.iter().map(|(_, path)| path.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_serve_a_point_share_its_messages_as_far_as_they_take_more() {
        let pools = Pools::new();
        let (one, mut to_one) = pools.seat();
        let (two, mut to_two) = pools.seat();
        for seat in [&one, &two] {
            seat.join(&point("shop:pay")).unwrap();
        }
        let asked: Vec<_> = (0..6).map(|n| pools.request(message("shop:pay", &format!("/{n}"), 0))).collect();
        assert!(orders(&mut to_one).is_empty() && orders(&mut to_two).is_empty());
        one.grant(2);
        two.grant(3);
        one.grant(1);
        let (first, second) = (orders(&mut to_one), orders(&mut to_two));
        assert_eq!(paths(&first), ["/0", "/1", "/5"]);
        assert_eq!(paths(&second), ["/2", "/3", "/4"]);
        for (seat, taken) in [(&one, &first), (&two, &second)] {
            for (ticket, path) in taken {
                assert!(seat.answer(*ticket, Outcome::Ok(Reply::new(200, "text/plain", path.clone()))));
                assert!(!seat.answer(*ticket, Outcome::Ok(Reply::new(200, "text/plain", path.clone()))));
            }
        }
        for (n, asked) in asked.into_iter().enumerate() {
            let Outcome::Ok(reply) = asked.await else { panic!() };
            assert_eq!(reply.body, Body::Bytes(format!("/{n}").into()));
        }
        // One whose answer belongs to another is not heard.
        let asked = pools.request(message("shop:pay", "/x", 0));
        one.grant(1);
        let ticket = orders(&mut to_one)[0].0;
        assert!(!two.answer(ticket, Outcome::Ok(Reply::new(200, "text/plain", ""))));
        assert!(one.answer(ticket, Outcome::Ok(Reply::new(200, "text/plain", ""))));
        assert!(matches!(asked.await, Outcome::Ok(_)));
        assert!(pools.0.state.lock().taken.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_what_it_took_unknown_and_what_waits_to_the_others() {
        let pools = Pools::new();
        let (one, mut to_one) = pools.seat();
        let (two, mut to_two) = pools.seat();
        one.join(&point("shop:pay")).unwrap();
        assert_eq!(pools.changed().await, [point("shop:pay")]);
        two.join(&point("shop:pay")).unwrap();
        one.grant(1);
        let taken = pools.request(message("shop:pay", "/taken", 0));
        let waits = pools.request(message("shop:pay", "/waits", 0));
        assert_eq!(paths(&orders(&mut to_one)), ["/taken"]);
        drop(one);
        assert_eq!(code(&taken.await), ("unknown", Code::Unreachable));
        assert!(pools.serves(&point("shop:pay")));
        two.grant(1);
        assert_eq!(paths(&orders(&mut to_two)), ["/waits"]);
        let last = pools.request(message("shop:pay", "/last", 0));
        two.leave(&point("shop:pay"));
        assert_eq!(code(&last.await), ("rejected", Code::NotReady));
        assert_eq!(code(&pools.request(message("shop:pay", "/", 0)).await), ("rejected", Code::NotReady));
        assert_eq!(pools.send(message("shop:pay", "/", 0)).unwrap_err().code, Code::NotReady);
        assert_eq!(pools.changed().await, [point("shop:pay")]);
        // It answers what it took all the same.
        drop(two);
        assert_eq!(code(&waits.await), ("unknown", Code::Unreachable));
        let state = pools.0.state.lock();
        assert!(state.pools.is_empty() && state.seats.is_empty() && state.taken.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_tells_whether_anybody_had_the_request() {
        let pools = Pools::new();
        let (seat, mut told) = pools.seat();
        seat.join(&point("shop:pay")).unwrap();
        seat.grant(1);
        let had = pools.request(message("shop:pay", "/had", 0));
        let waited = pools.request(message("shop:pay", "/waited", 0));
        let given_up = pools.request(message("shop:pay", "/given-up", 0));
        drop(given_up);
        let ticket = orders(&mut told)[0].0;
        let (had, waited) = tokio::join!(had, waited);
        assert_eq!(code(&had), ("unknown", Code::Timeout));
        assert_eq!(code(&waited), ("rejected", Code::Timeout));
        assert_eq!(orders(&mut told), [(ticket, "give up".to_owned())]);
        // One that is late when its turn comes did not run either, even if its turn comes first.
        let late = pools.request(message("shop:pay", "/late", 0));
        tokio::time::advance(Duration::from_secs(11)).await;
        seat.grant(1);
        assert_eq!(code(&late.await), ("rejected", Code::Timeout));
        // What nobody waits for is not handed over.
        seat.grant(8);
        assert!(orders(&mut told).is_empty());
        assert_eq!(seat.unanswered(), 0);
        // One that is given up while somebody has it is called off.
        let asked = pools.request(message("shop:pay", "/off", 0));
        let ticket = orders(&mut told)[0].0;
        drop(asked);
        assert_eq!(orders(&mut told), [(ticket, "give up".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_refused_and_a_session_is_not_drowned() {
        let pools = Pools::new();
        let (seat, mut told) = pools.seat();
        seat.join(&point("shop:pay")).unwrap();
        for _ in 0..WAITING_MAX {
            pools.send(message("shop:pay", "/", 0)).unwrap();
        }
        assert_eq!(pools.send(message("shop:pay", "/", 0)).unwrap_err().code, Code::Busy);
        seat.grant(u32::MAX);
        assert_eq!(orders(&mut told).len(), WAITING_MAX);
        // Large ones are handed over until so many bytes are on their way.
        let large = UNSENT_BYTES_MAX / 2;
        for _ in 0..3 {
            pools.send(message("shop:pay", "/large", large)).unwrap();
        }
        assert_eq!(orders(&mut told).len(), 2);
        let refused = pools.send(message("shop:pay", "/large", WAITING_BYTES_MAX)).unwrap_err();
        assert_eq!(refused.code, Code::Busy);
        seat.sent(large + 20);
        assert_eq!(orders(&mut told).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_back_to_who_waits_for_it_is_refused() {
        let pools = Pools::new();
        let (seat, mut told) = pools.seat();
        seat.join(&point("shop:pay")).unwrap();
        seat.grant(1);
        let mut comes_back = message("shop:pay", "/", 0);
        comes_back.header.chain = comes_back.header.chain.with(point("shop:pay")).with(point("shop:cart"));
        assert_eq!(code(&pools.request(comes_back).await), ("rejected", Code::CycleDetected));
        assert!(orders(&mut told).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_takes_of_all_its_points_in_turn() {
        let pools = Pools::new();
        let (seat, mut told) = pools.seat();
        for served in ["shop:a", "shop:b"] {
            seat.join(&point(served)).unwrap();
            for n in 0..3 {
                pools.send(message(served, &format!("/{}{n}", &served[5..]), 0)).unwrap();
            }
        }
        assert_eq!(seat.points(), [point("shop:a"), point("shop:b")]);
        let mut all = Vec::new();
        for _ in 0..6 {
            seat.grant(1);
            all.extend(orders(&mut told));
        }
        assert_eq!(paths(&all), ["/a0", "/b0", "/a1", "/b1", "/a2", "/b2"]);
    }
}
