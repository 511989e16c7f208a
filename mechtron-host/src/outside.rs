//! What the host needs of its node.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use starlane_core::{Epoch, Message, Outcome, Phase, Point, Refusal, Status};

use crate::changes::{Changes, Place};
use crate::limits::Limits;
use crate::module::Module;

/// What the host needs of its node. Futures run on the runtime of [`Config`](crate::Config); nothing here blocks.
pub trait Outside: Send + Sync + 'static {
    /// What runs at a point, if it lives here: asked at its first message, after [`Host::swap`](crate::Host::swap), and when
    /// a state of it was refused as that of an older epoch. An epoch that was refused, or let go of, is taken as
    /// [`Runs::Elsewhere`]. A refusal goes to all who wait.
    fn activation(&self, point: Point) -> BoxFuture<'static, Result<Runs, Refusal>>;
    /// The state that a mechtron begins with: the last that was saved, or that another node handed over. Asked once in an
    /// epoch and after each sleep; with [`Durability::Memory`] only once in an epoch, and `None` leaves it what it has.
    fn load_state(
        &self,
        point: Point,
        epoch: Epoch,
        durability: Durability,
    ) -> BoxFuture<'static, Result<Option<Bytes>, Refusal>>;
    /// Saves a state where its durability says, which is never [`Durability::Memory`]; resolves when it is durable. One
    /// of an older epoch than another that was saved, or was handed over, is refused with `E-EPOCH-STALE`.
    fn save_state(
        &self,
        point: Point,
        epoch: Epoch,
        durability: Durability,
        state: Bytes,
    ) -> BoxFuture<'static, Result<(), Refusal>>;
    /// Asks a point that is no mechtron of this host, or whose messages pass a bind. Called in the order in which the
    /// messages were sent; the futures are polled in any order, so that what keeps the order happens in the call.
    fn request(&self, message: Message) -> BoxFuture<'static, Outcome>;
    /// The same without an answer.
    fn send(&self, message: Message);
    /// A message without an answer came to this host, whose mechtron does not live here; it surely did not run. It may cross
    /// one node less than before, so that one that comes back again and again ends. Those of one mechtron come in the order
    /// in which they were sent.
    fn not_here(&self, message: Message);
    /// A message without an answer was taken and surely does not run: its receiver has too much waiting, does not start, is
    /// gone, or its time is over. Nobody else hears of it.
    fn undelivered(&self, message: Message, refusal: Refusal);
    /// The answer of a selector for a mechtron: a JSON array of at most 1,000 resources, and whether there are more.
    fn select(&self, by: Point, selector: String) -> BoxFuture<'static, Result<(Bytes, bool), Refusal>>;
    /// Begins a watch of a mechtron's contract: what changes of what a selector selects after a place that an earlier watch was
    /// told up to; without one, what is selected now comes first, as entered.
    fn watch(&self, by: Point, selector: Arc<str>, after: Option<Place>) -> Box<dyn Changes>;
    /// A mechtron is `Ready`, or `Panic` with its reason. Not called when one goes to sleep or wakes up.
    fn status(&self, point: &Point, status: Status);
    /// A mechtron did not start with what was set last, and goes on as it ran before; the reason is in words.
    fn rolled_back(&self, point: &Point, to: &Activation, reason: String) {
        _ = to;
        self.status(point, Status::because(Phase::Ready, reason));
    }
}

/// Where a point lives.
#[derive(Debug, Clone)]
pub enum Runs {
    /// On this host.
    Here(Activation),
    /// On another, or on none for now. Nothing of it is kept here, so that its next message asks again.
    Elsewhere,
}

impl From<Activation> for Runs {
    fn from(activation: Activation) -> Self {
        Runs::Here(activation)
    }
}

/// What runs at a point.
#[derive(Debug, Clone)]
pub struct Activation {
    /// The code.
    pub module: Arc<Module>,
    /// Which of the module's mechtrons; empty when it has one.
    pub name: String,
    /// Under which assignment this node acts for the point. Under another it begins with the state that is loaded then,
    /// since somebody else may have acted for it in between.
    pub epoch: Epoch,
    /// The first epoch of the resource at the point: what acted under an earlier one was another resource's.
    pub since: Epoch,
    /// Where its state is kept.
    pub durability: Durability,
    /// The variables of its config, a JSON object.
    pub config: String,
    /// Whether it takes the next message while a handler waits; `None` for what its contract says.
    pub reentrant: Option<bool>,
    /// Its limits; `None` for the host's.
    pub limits: Option<Limits>,
    /// Whether messages of other mechtrons to it go through [`Outside`], because it has a bind.
    pub bound: bool,
}

impl Activation {
    pub(crate) fn is_reentrant(&self) -> bool {
        self.reentrant.unwrap_or_else(|| self.module.contract().is_reentrant(&self.name))
    }

    /// Whether a mechtron that runs by this one need not be started again to run by `other`.
    pub(crate) fn runs_like(&self, other: &Activation) -> bool {
        self.epoch == other.epoch
            && self.module.digest() == other.module.digest()
            && self.name == other.name
            && self.durability == other.durability
            && self.config == other.config
            && self.reentrant == other.reentrant
            && self.limits == other.limits
    }
}

/// Where the state of a mechtron is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// In the memory of its host: survives sleep, a trap and a swap.
    Memory,
    /// On its node.
    Node,
    /// In the mesh: survives the loss of its node.
    Mesh,
}
