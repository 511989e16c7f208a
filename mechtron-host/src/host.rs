//! The host as its node sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use starlane_core::{Code, Message, Outcome, Payload, Point, Problem, Refusal};
use tokio::sync::{Semaphore, oneshot};

use crate::asker::{Asker, Caller};
use crate::limits::Config;
use crate::logs::{LogStream, Logs};
use crate::mailbox::{Mail, NotHere, ReplyTo, Waiter};
use crate::module::{Module, Modules};
use crate::outside::Outside;
use crate::shard::{Event, Info, Queue, Released, Shard, place};

/// Runs mechtrons. Clones are handles of the same host; with the last one its threads end.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    config: Config,
    queues: Arc<[Arc<Queue>]>,
    place: RandomState,
    logs: Arc<Logs>,
    modules: Modules,
    tickets: AtomicU64,
    /// Who may ask the shards what they know.
    questions: Semaphore,
}

/// How many questions wait for the shards at a time.
const QUESTIONS_MAX: usize = 256;

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder for compiled code cannot be used.
    #[error("the folder for compiled code cannot be used: {0}")]
    Cache(std::io::Error),
    /// A shard's thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let help = match &error {
            Error::Cache(_) => {
                "make sure that this user may write the node's data folder, and remove what is damaged"
            }
            Error::Thread(_) => "raise the limit of threads of this user, or start fewer shards",
        };
        Problem::new(Code::Internal, error.to_string()).help(help)
    }
}

/// What a host counts since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that mechtrons completed.
    pub handled: u64,
    /// Messages that were refused before they reached one.
    pub refused: u64,
    /// Signals that nobody handled.
    pub lost: u64,
    /// Instances that trapped or broke a rule.
    pub traps: u64,
    /// Mechtrons with an instance.
    pub live: u64,
    /// Mechtrons that are known, live or asleep.
    pub known: u64,
    /// Messages that wait for a mechtron or are being handled, as of the shards' last rounds.
    pub queue: u64,
}

impl Host {
    /// Starts the shards.
    ///
    /// # Errors
    /// When the cache's folder or a thread cannot be had.
    pub fn start(config: Config, outside: Arc<dyn Outside>) -> Result<Self, Error> {
        let modules = Modules::new(&config).map_err(Error::Cache)?;
        let shards = config.shards.max(1);
        let queues: Arc<[_]> = (0..shards).map(|_| Arc::new(Queue::new(config.shard_queue))).collect();
        let logs = Arc::new(Logs::new(config.logs.clone()));
        let place = RandomState::default();
        for (index, queue) in queues.iter().enumerate() {
            let (config, outside) = (config.clone(), Arc::clone(&outside));
            let (queues, place, logs) = (Arc::clone(&queues), place.clone(), Arc::clone(&logs));
            let listening = Arc::clone(queue);
            config.clock.on_move(move || listening.nudge());
            std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || Shard::new(index as u32, config, outside, queues, place, logs).run())
                .map_err(Error::Thread)?;
        }
        let (tickets, questions) = (AtomicU64::new(0), Semaphore::new(QUESTIONS_MAX));
        Ok(Self(Arc::new(Inner { config, queues, place, logs, modules, tickets, questions })))
    }

    /// Inspects and compiles a module, off the shards and only once for the same bytes.
    ///
    /// # Errors
    /// `E-WASM-INVALID` or `E-TOO-LARGE` with the reason; the same bytes are refused again at no cost.
    pub async fn compile(&self, wasm: Bytes) -> Result<Arc<Module>, Problem> {
        self.0.modules.compile(wasm).await
    }

    /// Asks a mechtron's own code, past any bind. There is exactly one outcome, by the deadline; who drops the future
    /// gives up, and the handler is told.
    ///
    /// # Errors
    /// [`NotHere`] with the message, which surely did not run, when the mechtron does not live on this host. Whoever holds a
    /// message of [`Released::waiting`](crate::Released::waiting) decides how that one ends.
    pub fn request(
        &self,
        message: Message,
    ) -> impl Future<Output = Result<Outcome, NotHere>> + Send + 'static {
        let (asker, receiver) = Asker::future();
        let (ticket, point) = (self.next_ticket(), message.header.to.clone());
        let guard = GiveUp { queue: Arc::clone(self.queue(&point)), point: Some(point), ticket };
        self.ask(ticket, message, asker);
        async move {
            let mut guard = guard;
            let outcome = receiver.await;
            guard.point = None;
            outcome.unwrap_or_else(|_| {
                let detail = "the host lost the request; it may have run";
                Ok(Outcome::Unknown(Refusal::new(Code::Internal, detail)))
            })
        }
    }

    /// The same for a caller that is no future.
    pub fn call(&self, message: Message, caller: impl Caller) {
        let (ticket, point) = (self.next_ticket(), message.header.to.clone());
        let queue = Arc::clone(self.queue(&point));
        caller.asked(Box::new(move || queue.tell(Event::GiveUp(point, Waiter::Outside(ticket)))));
        self.ask(ticket, message, Asker::called(Box::new(caller)));
    }

    fn ask(&self, ticket: u64, message: Message, asker: Asker) {
        let mail = self.mail(message, ReplyTo::Outside(ticket, asker));
        if let Err(mail) = self.queue(&mail.message.header.to).deliver(mail)
            && let ReplyTo::Outside(_, asker) = mail.reply
        {
            asker.answer(Outcome::Rejected(busy()));
        }
    }

    fn next_ticket(&self) -> u64 {
        self.0.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a mechtron's own code a message without an answer.
    ///
    /// # Errors
    /// `E-BUSY` when its shard has too much waiting. A full mailbox is counted in [`Stats::lost`]. When the mechtron does
    /// not live here, the message goes to [`Outside::not_here`].
    pub fn send(&self, message: Message) -> Result<(), Refusal> {
        let queue = self.queue(&message.header.to);
        queue.deliver(self.mail(message, ReplyTo::Nobody)).map_err(|_| busy())
    }

    /// Says that config, module, bind or node of a point changed: at its next turn the mechtron takes a new
    /// [`Activation`](crate::Activation) and keeps state and mailbox. One that does not start is rolled back.
    pub fn swap(&self, point: &Point) {
        self.queue(point).change(Event::Swap(point.clone()));
    }

    /// Lets go of a mechtron: it is given no new messages, what it handles comes to its end within a time, its state is saved.
    /// What is handled longer ends as `Unknown`; a commit that is under way is waited for. Those that wait until then, or
    /// come while it leaves, are given back in their order. From then on the point does not live here: requests end as
    /// [`NotHere`], signals go to [`Outside::not_here`]. So it stays until [`Host::swap`] finds a newer epoch than the one
    /// that was let go of; of a mechtron that this host did not know, `swap` asks for any.
    ///
    /// When the future is dropped the mechtron leaves all the same: what waits is given back, and a state that only this
    /// host had is what the next call answers.
    ///
    /// # Errors
    /// `E-BUSY` when the host knows as many mechtrons as it can or its shard has too much waiting, or when it was asked to let
    /// go once more meanwhile, and `E-NOT-FOUND` when the mechtron was removed. It may then run on.
    pub fn release(
        &self,
        point: &Point,
        within: Duration,
    ) -> impl Future<Output = Result<Released, Refusal>> + Send + 'static {
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let deadline = self.0.config.clock.now().saturating_add(within);
        let (sender, receiver) = oneshot::channel();
        let taken = self.queue(point).command(Event::Leave(point.clone(), deadline, sender));
        async move {
            if !taken {
                return Err(busy());
            }
            receiver.await.unwrap_or_else(|_| Err(gone()))
        }
    }

    /// Says that a mechtron lives here that watches something, so that it is told though nobody asks anything of it. Said
    /// again, it changes nothing.
    ///
    /// # Errors
    /// `E-BUSY` when the host knows as many mechtrons as it can or its shard has too much waiting: it is to be said again.
    pub fn attend(&self, point: &Point) -> impl Future<Output = Result<(), Refusal>> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        let taken = self.queue(point).command(Event::Attend(point.clone(), sender));
        async move {
            if !taken {
                return Err(busy());
            }
            receiver.await.unwrap_or_else(|_| Err(gone()))
        }
    }

    /// Ends a mechtron; all who wait are refused, its state in memory and its log lines are gone. When its shard has too much
    /// waiting, that happens as soon as [`Outside::activation`] says that nothing is there, which is asked at once.
    pub fn remove(&self, point: &Point) {
        self.queue(point).change(Event::Remove(point.clone()));
    }

    /// Puts a mechtron to sleep unless it is busy, or its shard has too much waiting.
    pub fn sleep(&self, point: &Point) {
        self.queue(point).command(Event::Sleep(point.clone()));
    }

    /// What is known of a mechtron; `None` for one that had no message yet. At most a number of these questions wait for a
    /// shard; others wait for their turn.
    pub async fn info(&self, point: &Point) -> Option<Info> {
        let _turn = self.0.questions.acquire().await.ok()?;
        let (sender, receiver) = oneshot::channel();
        self.queue(point).tell(Event::Info(point.clone(), sender));
        receiver.await.ok().flatten()
    }

    /// How many messages wait for each mechtron that some wait for, those included that it handles. Of all others that live
    /// here there are none.
    pub async fn waiting(&self) -> Vec<(Point, u64)> {
        let Ok(_turn) = self.0.questions.acquire().await else { return Vec::new() };
        let asked = self.0.queues.iter().map(|queue| {
            let (sender, receiver) = oneshot::channel();
            queue.tell(Event::Queues(sender));
            receiver
        });
        let answers = futures::future::join_all(asked.collect::<Vec<_>>()).await;
        answers.into_iter().flat_map(Result::unwrap_or_default).collect()
    }

    /// What the host counts.
    pub fn stats(&self) -> Stats {
        let sum = |count: fn(&crate::shard::Counters) -> &AtomicU64| {
            self.0.queues.iter().map(|queue| count(&queue.counters).load(Ordering::Relaxed)).sum()
        };
        Stats {
            handled: sum(|counters| &counters.handled),
            refused: sum(|counters| &counters.refused),
            lost: sum(|counters| &counters.lost),
            traps: sum(|counters| &counters.traps),
            live: sum(|counters| &counters.live),
            known: sum(|counters| &counters.known),
            queue: sum(|counters| &counters.queue),
        }
    }

    /// The last lines of a mechtron, and those to come when it is followed.
    pub fn logs(&self, point: &Point, tail: usize, follow: bool) -> LogStream {
        self.0.logs.read(point, tail, follow)
    }

    /// Lets everything that runs come to its end and saves it; new messages from outside are refused with
    /// `E-DRAINING`. Returns when all is done or the time is over.
    pub async fn drain(&self, deadline: Duration) {
        let waiting: Vec<_> = self
            .0
            .queues
            .iter()
            .map(|queue| {
                let (sender, receiver) = oneshot::channel();
                queue.tell(Event::Drain(sender));
                receiver
            })
            .collect();
        // Those that are not done by then are left as they are.
        let _ = tokio::time::timeout(deadline, futures::future::join_all(waiting)).await;
    }

    fn queue(&self, point: &Point) -> &Arc<Queue> {
        &self.0.queues[place(&self.0.place, point, self.0.queues.len())]
    }

    fn mail(&self, mut message: Message, reply: ReplyTo) -> Mail {
        let remaining = u64::try_from(message.header.remaining.as_millis()).unwrap_or(u64::MAX);
        // A mechtron that asks itself through a bind must not wait for itself.
        if let Payload::Signal(_) = &message.payload {
            message.header.chain = starlane_core::CallChain::default();
        }
        let deadline = self.0.config.clock.now().saturating_add(remaining);
        Mail { message, reply, deadline, change: None }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for queue in self.queues.iter() {
            queue.tell(Event::Stop);
        }
    }
}

/// Tells the shard when whoever waits is gone before the answer.
struct GiveUp {
    queue: Arc<Queue>,
    point: Option<Point>,
    ticket: u64,
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        if let Some(point) = self.point.take() {
            self.queue.tell(Event::GiveUp(point, Waiter::Outside(self.ticket)));
        }
    }
}

fn gone() -> Refusal {
    Refusal::new(Code::Internal, "the host is gone")
}

fn busy() -> Refusal {
    let mut refusal = Refusal::new(Code::Busy, "the node has too much waiting");
    refusal.retry_after = Some(Duration::from_millis(100));
    refusal
}
