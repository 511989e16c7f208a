//! Topics: who hears here what is published to a point.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use starlane_core::{Code, Message, Method, MethodFamily, Payload, Point, Refusal};
use tokio::sync::mpsc;

use super::changed::Changed;

/// How many events wait for one who hears them; of one more it misses the newest, and is told how many.
const WAITING_MAX: usize = 1_024;
/// How many may subscribe to one topic here.
const SUBSCRIBERS_MAX: usize = 10_000;

/// The method of a signal that is an event of the topic that it is sent to.
const PUBLISH: &str = "Cmd<Publish>";

/// What makes a signal an event: it goes to all who subscribe to its receiver, and not to the receiver's code.
///
/// # Panics
/// Never: the method is one.
#[expect(clippy::expect_used, reason = "a text of ours that is a method")]
pub fn event_method() -> Method {
    PUBLISH.parse().expect("it is a method")
}

/// Whether a message is an event.
pub fn is_event(message: &Message) -> bool {
    matches!(&message.payload, Payload::Signal(said)
        if said.method.family == MethodFamily::Cmd && said.method.name.as_str() == "Publish")
}

/// All topics that somebody subscribes to here. Clones are the same.
#[derive(Clone, Default)]
pub struct Topics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Topics that the first came to, or the last left.
    changed: Changed,
}

#[derive(Default)]
struct State {
    topics: HashMap<Point, HashMap<u64, Listener>>,
    last: u64,
}

struct Listener {
    events: mpsc::Sender<Arc<Message>>,
    missed: Arc<AtomicU64>,
}

/// What one hears of a topic; dropping it ends that.
pub struct Subscription {
    topics: Topics,
    topic: Point,
    id: u64,
    events: mpsc::Receiver<Arc<Message>>,
    missed: Arc<AtomicU64>,
}

impl Topics {
    /// Nobody subscribes to anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hears what is published to a topic from now on.
    ///
    /// # Errors
    /// `Busy` when too many do.
    pub fn subscribe(&self, topic: &Point) -> Result<Subscription, Refusal> {
        let mut state = self.0.state.lock();
        state.last += 1;
        let id = state.last;
        let listeners = state.topics.entry(topic.clone()).or_default();
        if listeners.len() >= SUBSCRIBERS_MAX {
            let detail = format!("{SUBSCRIBERS_MAX} subscribe to `{topic}` on this node already");
            return Err(Refusal::new(Code::Busy, detail));
        }
        let (sender, events) = mpsc::channel(WAITING_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        listeners.insert(id, Listener { events: sender, missed: missed.clone() });
        if listeners.len() == 1 {
            self.0.changed.tell(topic);
        }
        drop(state);
        Ok(Subscription { topics: self.clone(), topic: topic.clone(), id, events, missed })
    }

    /// Whether anybody hears a topic here.
    pub fn hears(&self, topic: &Point) -> bool {
        self.0.state.lock().topics.contains_key(topic)
    }

    /// Waits until the first came to topics or the last left them, and tells which.
    pub async fn changed(&self) -> Vec<Point> {
        self.0.changed.next().await
    }

    /// Tells all who hear the message's receiver here. Never waits.
    pub fn tell(&self, message: Message) {
        let state = self.0.state.lock();
        let Some(listeners) = state.topics.get(&message.header.to) else { return };
        let message = Arc::new(message);
        for listener in listeners.values() {
            if listener.events.try_send(message.clone()).is_err() {
                listener.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Subscription {
    /// The next event.
    pub async fn next(&mut self) -> Option<Arc<Message>> {
        self.events.recv().await
    }

    /// How many events were missed since this was asked last: they would come after those that wait.
    pub fn missed(&self) -> u64 {
        if self.events.is_empty() { self.missed.swap(0, Ordering::Relaxed) } else { 0 }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.topics.0.state.lock();
        let Some(listeners) = state.topics.get_mut(&self.topic) else { return };
        listeners.remove(&self.id);
        if listeners.is_empty() {
            state.topics.remove(&self.topic);
            self.topics.0.changed.tell(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use starlane_core::{Agent, Body, Header, MessageId, Request};

    use super::*;

    fn event(number: usize) -> Message {
        let agent = Agent("mesh:users:ann".parse().unwrap());
        let (from, to) = ("shop".parse().unwrap(), "shop:prices".parse().unwrap());
        let header = Header::new(MessageId(1), from, to, agent, Duration::from_secs(1));
        let said = Request {
            method: event_method(),
            path: format!("/{number}").into(),
            headers: Default::default(),
            body: Body::default(),
        };
        Message { header, payload: Payload::Signal(said) }
    }

    fn number(message: &Message) -> usize {
        let Payload::Signal(said) = &message.payload else { panic!() };
        said.path[1..].parse().unwrap()
    }

    #[tokio::test]
    async fn all_who_subscribe_hear_all_in_order_or_how_many_they_missed() {
        assert!(is_event(&event(0)));
        let (topics, prices) = (Topics::new(), "shop:prices".parse().unwrap());
        topics.tell(event(0));
        let mut all = [topics.subscribe(&prices).unwrap(), topics.subscribe(&prices).unwrap()];
        assert_eq!(topics.changed().await, std::slice::from_ref(&prices));
        for n in 1..=WAITING_MAX + 5 {
            topics.tell(event(n));
        }
        for subscription in &mut all {
            for n in 1..=WAITING_MAX {
                assert_eq!(subscription.missed(), 0, "those that wait come first");
                assert_eq!(number(&subscription.next().await.unwrap()), n);
            }
            assert_eq!(subscription.missed(), 5);
            assert_eq!(subscription.missed(), 0);
        }
        topics.tell(event(9_999));
        assert_eq!(number(&all[0].next().await.unwrap()), 9_999);
        assert!(topics.hears(&prices));
        drop(all);
        assert!(!topics.hears(&prices));
        assert_eq!(topics.changed().await, [prices]);
    }
}
