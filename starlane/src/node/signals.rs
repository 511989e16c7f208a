//! The signals of mechtrons on their way out of their shard: in order between two points, and never more than fit.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use starlane_core::{Code, Message, Point, Refusal};
use tokio::sync::{Semaphore, mpsc};

use super::router::Router;

/// Signals between the same two points go one after the other; those of others need not wait for them.
const LANES: usize = 16;
/// How many signals of one lane may wait; one more is lost, and logged.
const WAITING_MAX: usize = 1_024;
/// How many signals may be asked through binds and files at a time; one more is lost, and logged.
const ASKED_MAX: usize = 1_024;

/// Brings signals to their receivers.
pub(super) struct Signals {
    lanes: Vec<mpsc::Sender<Message>>,
    place: RandomState,
}

impl Signals {
    /// Starts the lanes, on the runtime that it is called on. They end when this is dropped.
    pub(super) fn start(router: &Router) -> Self {
        let asked = Arc::new(Semaphore::new(ASKED_MAX));
        let lanes = (0..LANES).map(|_| {
            let (lane, signals) = mpsc::channel(WAITING_MAX);
            tokio::spawn(carry(router.clone(), asked.clone(), signals));
            lane
        });
        Self { lanes: lanes.collect(), place: RandomState::new() }
    }

    /// Takes a signal along. Never waits.
    pub(super) fn send(&self, message: Message) {
        let (from, to) = (message.header.from.clone(), message.header.to.clone());
        let lane = self.place.hash_one((&from, &to)) as usize % self.lanes.len();
        if self.lanes.get(lane).is_none_or(|lane| lane.try_send(message).is_err()) {
            lost(&from, &to, &Refusal::new(Code::Busy, "too many signals wait between these points"));
        }
    }
}

async fn carry(router: Router, asked: Arc<Semaphore>, mut signals: mpsc::Receiver<Message>) {
    while let Some(message) = signals.recv().await {
        let (from, to) = (message.header.from.clone(), message.header.to.clone());
        let sent = match router.has_own_code(&message).await {
            Ok(true) => router.send(message).await,
            // A bind or a file is asked, which takes its time: the others do not wait for it.
            Ok(false) => match asked.clone().try_acquire_owned() {
                Ok(room) => {
                    let router = router.clone();
                    tokio::spawn(async move {
                        if let Err(refusal) = router.send(message).await {
                            lost(&from, &to, &refusal);
                        }
                        drop(room);
                    });
                    continue;
                }
                Err(_) => Err(Refusal::new(Code::Busy, "too many signals are asked through binds")),
            },
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = sent {
            lost(&from, &to, &refusal);
        }
    }
}

fn lost(from: &Point, to: &Point, refusal: &Refusal) {
    tracing::warn!(%from, %to, code = %refusal.code, "a signal was not delivered: {refusal}");
}
