//! Signals that could not be delivered: the last of each space, and how many there were since the node started.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use gateway::shapes::DeadLetter;
use parking_lot::Mutex;
use resource_registry::Registry;
use starlane_core::{Body, Message, MessageId, Method, NodeName, Payload, Point, Refusal, Timestamp};

/// How many letters of a space are kept; the oldest go first.
const LETTERS_MAX: usize = 100;
/// Of how many spaces letters are kept; those of the space that had none for longest go first. Their number stays.
const SPACES_MAX: usize = 256;
/// How many spaces are counted before it is looked which of them are still there.
const COUNTED_MAX: usize = 1_024;

/// The dead letters of this node. Clones share them.
#[derive(Clone)]
pub(super) struct DeadLetters(Arc<Inner>);

struct Inner {
    registry: Registry,
    node: NodeName,
    total: AtomicU64,
    spaces: Mutex<Spaces>,
}

struct Spaces {
    rings: HashMap<Box<str>, Ring>,
    /// How many spaces may be counted before those that are gone are left out.
    counted_max: usize,
}

#[derive(Default)]
struct Ring {
    count: u64,
    /// The number of its last letter, of all.
    last: u64,
    letters: VecDeque<DeadLetter>,
}

/// What is told of a signal, should it not be delivered: everything but its content.
pub(super) struct Letter {
    id: MessageId,
    from: Point,
    to: Point,
    method: Option<Method>,
    path: Arc<str>,
    bytes: u64,
}

impl Letter {
    pub(super) fn of(message: &Message) -> Self {
        let header = &message.header;
        let request = match &message.payload {
            Payload::Signal(request) | Payload::Request(request) => Some(request),
            Payload::Reply(_) => None,
        };
        Self {
            id: header.id,
            from: header.from.clone(),
            to: header.to.clone(),
            method: request.map(|request| request.method.clone()),
            path: request.map_or_else(|| "/".into(), |request| request.path.clone()),
            bytes: request.map_or(0, |request| match &request.body {
                Body::Bytes(bytes) => bytes.len() as u64,
                Body::Blob(blob) => blob.bytes,
            }),
        }
    }
}

impl DeadLetters {
    pub(super) fn new(registry: Registry, node: NodeName) -> Self {
        let spaces = Mutex::new(Spaces { rings: HashMap::new(), counted_max: COUNTED_MAX });
        Self(Arc::new(Inner { registry, node, total: AtomicU64::new(0), spaces }))
    }

    /// Keeps a signal that surely does not arrive: in the space of its receiver, or in that of its sender when there is no
    /// such space.
    pub(super) fn take(&self, letter: Letter, refusal: &Refusal) {
        let Letter { id, from, to, method, path, bytes } = letter;
        tracing::debug!(%from, %to, code = %refusal.code, "a signal was not delivered: {refusal}");
        let number = self.0.total.fetch_add(1, Ordering::Relaxed);
        let space = if self.is_there(to.space()) { to.space() } else { from.space() };
        let space = space.unwrap_or_default().to_owned();
        let letter = DeadLetter {
            time: now(),
            node: self.0.node.clone(),
            id: id.to_string(),
            from,
            to,
            method: method.map(|method| method.to_string()).unwrap_or_default(),
            path: path.to_string(),
            bytes,
            code: refusal.code,
            reason: refusal.detail.to_string(),
        };
        let mut spaces = self.0.spaces.lock();
        if spaces.rings.len() >= spaces.counted_max && !spaces.rings.contains_key(&*space) {
            spaces.rings.retain(|space, _| self.is_there(Some(space)));
            spaces.counted_max = COUNTED_MAX.max(spaces.rings.len() * 2);
        }
        let ring = spaces.rings.entry(space.into()).or_default();
        let is_first = ring.letters.is_empty();
        ring.push(number, letter);
        if is_first {
            spaces.make_room();
        }
    }

    /// How many there were in a space, and the last of them, the latest first.
    pub(super) fn of(&self, space: &str) -> (u64, Vec<DeadLetter>) {
        let spaces = self.0.spaces.lock();
        let ring = spaces.rings.get(space);
        ring.map(|ring| (ring.count, ring.letters.iter().rev().cloned().collect())).unwrap_or_default()
    }

    /// How many there were in all spaces.
    pub(super) fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    fn is_there(&self, space: Option<&str>) -> bool {
        let point = space.and_then(|space| space.parse().ok());
        point.is_some_and(|point: Point| self.0.registry.get(&point).is_some())
    }
}

impl Spaces {
    /// Empties the ring that had no letter for longest, when letters of too many spaces are kept.
    fn make_room(&mut self) {
        let full = self.rings.values().filter(|ring| !ring.letters.is_empty()).count();
        if full <= SPACES_MAX {
            return;
        }
        let kept = self.rings.values_mut().filter(|ring| !ring.letters.is_empty());
        if let Some(oldest) = kept.min_by_key(|ring| ring.last) {
            oldest.letters = VecDeque::new();
        }
    }
}

impl Ring {
    fn push(&mut self, number: u64, letter: DeadLetter) {
        self.count += 1;
        self.last = number;
        if self.letters.len() == LETTERS_MAX {
            self.letters.pop_front();
        }
        self.letters.push_back(letter);
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use resource_registry::{Config, Reserved};
    use starlane_core::{Agent, Code, Header, Kind, Request, Status};

    use super::*;

    async fn letters(spaces: &[String]) -> DeadLetters {
        let registry = Registry::open(Config::in_memory(Arc::new(now))).unwrap();
        let by = Agent("mesh:users:admin".parse().unwrap());
        for space in spaces {
            let kind: Kind = "Space".parse().unwrap();
            let space = Reserved::new(space.parse().unwrap(), kind, Vec::new(), Status::ready());
            registry.put_reserved(&by, space).await.unwrap();
        }
        DeadLetters::new(registry, "node-1".parse().unwrap())
    }

    fn lose(letters: &DeadLetters, from: &str, to: &str, body: &'static str) {
        let [from, to] = [from, to].map(|point| point.parse::<Point>().unwrap());
        let header = Header::new(MessageId(7), from.clone(), to, Agent(from), std::time::Duration::ZERO);
        let request = Request {
            method: Method::ext("Note").unwrap(),
            path: "/".into(),
            headers: starlane_core::Headers::default(),
            body: Body::Bytes(body.into()),
        };
        let message = Message { header, payload: Payload::Signal(request) };
        letters.take(Letter::of(&message), &Refusal::new(Code::Busy, "full"));
    }

    #[tokio::test]
    async fn the_last_of_each_space_are_kept_and_all_are_counted() {
        let letters = letters(&["shop".into(), "crm".into()]).await;
        for _ in 0..LETTERS_MAX {
            lose(&letters, "shop:a", "shop:first", "x");
        }
        lose(&letters, "shop:a", "shop:b", "secret");
        lose(&letters, "shop:a", "crm:b", "");
        lose(&letters, "crm:a", "nowhere:b", "");
        let (count, shop) = letters.of("shop");
        assert_eq!((count, shop.len()), (101, LETTERS_MAX));
        assert_eq!((shop[0].to.as_str(), shop[0].bytes, &*shop[0].method), ("shop:b", 6, "Ext<Note>"));
        assert_eq!((shop[0].code, &*shop[0].reason), (Code::Busy, "full"));
        let told = serde_json::to_string(&shop).unwrap();
        assert!(!told.contains("secret"), "what it said is nobody's business: {told}");
        // Without such a space it is the sender's.
        assert_eq!((letters.of("crm").0, letters.of("nowhere").0), (2, 0));
        assert_eq!(letters.total(), 103);
    }

    #[tokio::test]
    async fn many_spaces_are_counted_and_letters_of_some_are_kept() {
        let spaces: Vec<String> = (0..SPACES_MAX + 10).map(|number| format!("s{number}")).collect();
        let letters = letters(&spaces).await;
        for space in &spaces {
            lose(&letters, &format!("{space}:a"), &format!("{space}:b"), "");
        }
        let of = |space: &String| letters.of(space);
        assert!(spaces.iter().all(|space| of(space).0 == 1));
        assert_eq!(spaces.iter().filter(|space| of(space).1.len() == 1).count(), SPACES_MAX);
        assert_eq!(of(&spaces[SPACES_MAX + 9]).1.len(), 1, "the latest is there");
    }
}
