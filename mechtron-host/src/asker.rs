//! Who waits outside of the shards for the outcome of a request.

use std::fmt;

use starlane_core::{Message, Outcome};
use tokio::sync::oneshot;

use crate::mailbox::{Answer, NotHere};

/// Who asks the host, and is called when the outcome is there: on the thread of a shard, so it hands it on and computes
/// elsewhere. To drop it says that nobody knows what became of the request.
pub trait Caller: Send + 'static {
    /// What to call when nobody waits for the outcome any more. It comes before anything else.
    fn asked(&self, give_up: Box<dyn FnOnce() + Send>);

    /// How the request ended, or that its mechtron does not live on this host.
    fn answer(self: Box<Self>, answer: Result<Outcome, NotHere>);
}

/// Who waits for the answer to a message. To drop it says that nobody knows what became of the message.
#[derive(Debug)]
pub struct Asker(Waits);

enum Waits {
    /// A future.
    Future(oneshot::Sender<Answer>),
    Called(Box<dyn Caller>),
}

impl Asker {
    pub(crate) fn future() -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Waits::Future(sender)), receiver)
    }

    pub(crate) fn called(caller: Box<dyn Caller>) -> Self {
        Self(Waits::Called(caller))
    }

    /// Answers; whoever asked may have left.
    pub fn answer(self, outcome: Outcome) {
        self.end(Ok(outcome));
    }

    /// Lets whoever asked find another way for the message, which surely did not run.
    pub fn give_back(self, message: Message) {
        self.end(Err(NotHere(Box::new(message))));
    }

    fn end(self, answer: Answer) {
        match self.0 {
            // Who asked may have left.
            Waits::Future(sender) => drop(sender.send(answer)),
            Waits::Called(caller) => caller.answer(answer),
        }
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Waits::Future(_) => "Future",
            Waits::Called(_) => "Called",
        })
    }
}
