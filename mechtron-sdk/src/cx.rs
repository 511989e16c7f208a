//! What a handler learns of the world, and how it acts on it.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use mechtron_abi::{CallHead, Header, Kind, MessageHead};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::Response;
use crate::mechtron::{Answer, Mechtron, Turn, Turned};
use crate::reference::Reply;
use crate::shared::{Pending, Shared};
use crate::time::millis;
use crate::{Error, Instant, Message, Resource, Result};

/// How many bytes of a line reach the log; the rest is cut.
const LOG_BYTES_MAX: usize = 8 * 1_024;

/// A handler's view of the world.
///
/// Calls are sent when they are made and answered by `.await`; several may be under way at once. While a handler
/// waits, no other handler of the same mechtron begins.
#[derive(Clone)]
pub struct Cx {
    shared: Rc<Shared>,
    origin: Rc<Origin>,
    timeout_ms: u64,
    mechtron: TypeId,
}

/// Where the message that is handled came from.
#[derive(Default, PartialEq)]
pub(crate) struct Origin {
    from: String,
    agent: String,
    headers: Vec<(String, String)>,
}

impl Origin {
    pub(crate) fn of(head: &MessageHead<'_>) -> Self {
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Self { from: head.from.to_string(), agent: head.agent.to_string(), headers: headers.collect() }
    }

    /// Whether a message came with exactly the same.
    pub(crate) fn is_of(&self, head: &MessageHead<'_>) -> bool {
        self.from == head.from
            && self.agent == head.agent
            && self.headers.len() == head.headers.len()
            && self.headers.iter().zip(&head.headers).all(|(mine, its)| mine.0 == its.0 && mine.1 == its.1)
    }
}

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Something is broken.
    Error = 1,
    /// Something may be.
    Warn = 2,
    /// Something happened.
    Info = 3,
    /// For who looks for a mistake.
    Debug = 4,
    /// For who looks closely.
    Trace = 5,
}

/// A timer that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerId(u64);

/// What a timer will do to a mechtron `M`.
pub(crate) type TimerJob<M> = Box<dyn FnOnce(Box<M>, Cx) -> Turn>;

impl Cx {
    pub(crate) fn new(shared: Rc<Shared>, origin: Rc<Origin>, mechtron: TypeId) -> Self {
        Self { shared, origin, timeout_ms: 0, mechtron }
    }

    /// The mechtron's own point.
    pub fn me(&self) -> Rc<str> {
        self.shared.point.borrow().clone()
    }

    /// Who sent the message; the mechtron itself in `#[init]` and `#[timer]` handlers.
    pub fn caller(&self) -> &str {
        &self.origin.from
    }

    /// On whose authority the message is; set by the edge that authenticated, never by the sender's word.
    pub fn agent(&self) -> &str {
        &self.origin.agent
    }

    /// The first value of one of the message's headers.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.origin.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The wall time at the beginning of the run.
    pub fn now(&self) -> Instant {
        Instant(self.shared.now_ms.get())
    }

    /// A random number, from the host's seed. Not for secrets.
    pub fn random(&self) -> u64 {
        self.shared.random()
    }

    /// The variables of the mechtron's config.
    ///
    /// # Errors
    /// A failure when they do not fit the type.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        let text = self.shared.config.borrow().clone();
        let text = if text.is_empty() { "{}" } else { &*text };
        serde_json::from_str(text)
            .map_err(|error| Error::fail("E-PROPERTY-VALUE", format!("config: {error}")))
    }

    /// Writes a line to the log. The macros `info!(cx, "…")` and its siblings are shorter.
    pub fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        let line = line.as_str().map_or_else(|| Cow::Owned(line.to_string()), Cow::Borrowed);
        let line = &line[..line.floor_char_boundary(LOG_BYTES_MAX)];
        // At once, so that it is there also when this run does not come to its end.
        #[cfg(target_arch = "wasm32")]
        crate::log::write(level, line);
        #[cfg(not(target_arch = "wasm32"))]
        {
            let mut header = Header::new(Kind::Log, 0);
            header.aux = level as u32;
            self.shared.out.borrow_mut().frame(header, line.as_bytes());
        }
    }

    /// The same view, but its calls wait no longer than this. Otherwise they wait as long as the caller does.
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Self {
        Self { timeout_ms: millis(timeout).max(1), ..self.clone() }
    }

    /// Calls a point with a message of which the type of the answer is known.
    pub fn call<M: Message, T: DeserializeOwned>(&self, point: &str, message: &M) -> Reply<T> {
        Reply::new(match serde_json::to_vec(message) {
            Ok(body) => self.ask(point, &ext(M::NAME), "/", Some(JSON), &body),
            Err(error) => Pending::refused(error.into()),
        })
    }

    /// Sends a message to a point and does not wait.
    ///
    /// # Errors
    /// When the message cannot be JSON. Whether it arrives is not known.
    pub fn cast<M: Message>(&self, point: &str, message: &M) -> Result<()> {
        let body = serde_json::to_vec(message)?;
        self.tell(point, &ext(M::NAME), JSON, &body);
        Ok(())
    }

    /// Asks a point anything: the method is `Ext<Add>` or `Http<Get>`. The answer comes as it is, whatever its status;
    /// an error only when there is none.
    pub fn request(&self, point: &str, method: &str, path: &str, body: &[u8]) -> Pending {
        self.ask(point, method, path, None, body)
    }

    /// The same with a JSON body.
    pub fn request_json<T: Serialize>(&self, point: &str, method: &str, path: &str, body: &T) -> Pending {
        match serde_json::to_vec(body) {
            Ok(body) => self.ask(point, method, path, Some(JSON), &body),
            Err(error) => Pending::refused(error.into()),
        }
    }

    /// Sends a message to a point and does not wait.
    pub(crate) fn tell(&self, point: &str, method: &str, content_type: &str, body: &[u8]) {
        let head = self.head(point, method, "/", Some(content_type));
        self.shared.out.borrow_mut().frame_with_head(Header::new(Kind::Send, 0), &head, body);
    }

    pub(crate) fn ask(
        &self,
        point: &str,
        method: &str,
        path: &str,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Pending {
        let head = self.head(point, method, path, content_type);
        Pending::ask(&self.shared, |out, token| {
            out.frame_with_head(Header::new(Kind::Request, token), &head, body);
        })
    }

    fn head<'a>(
        &self,
        point: &'a str,
        method: &'a str,
        path: &'a str,
        content_type: Option<&'a str>,
    ) -> CallHead<'a> {
        CallHead {
            to: point.into(),
            method: method.into(),
            path: path.into(),
            headers: content_type.map(|value| ("content-type".into(), value.into())).into_iter().collect(),
            timeout_ms: self.timeout_ms,
        }
    }

    /// The resources that a selector selects, at most 1,000.
    ///
    /// # Errors
    /// The host's, when it does not understand the selector or keeps no registry.
    pub async fn select(&self, selector: &str) -> Result<Vec<Resource>> {
        let answer = Pending::ask(&self.shared, |out, token| {
            out.frame(Header::new(Kind::Select, token), selector.as_bytes());
        });
        success(answer.await?)?.body_json()
    }

    /// Runs a `#[timer]` handler once, after a delay: `cx.after(60.secs(), Self::idle, Tick)`. It lives with the
    /// activation: sleep and restart unset it.
    ///
    /// # Errors
    /// A refusal when 1,024 answers and timers are waited for, or the handler is another mechtron's.
    pub fn after<M, T, F>(&self, delay: Duration, handler: F, message: T) -> Result<TimerId>
    where
        M: Mechtron,
        T: 'static,
        F: AsyncFnOnce(&mut M, &mut Cx, T) -> Result<()> + 'static,
    {
        if TypeId::of::<M>() != self.mechtron {
            return Err(Error::fail(
                "E-USAGE",
                format!("a timer of `{}` runs its own handlers only", M::NAME),
            ));
        }
        let job: TimerJob<M> = Box::new(move |mut mechtron, mut cx| {
            Box::pin(async move {
                let result = handler(&mut mechtron, &mut cx, message).await;
                Turned { mechtron, result: result.map(|()| Answer::done()) }
            })
        });
        let token = self.shared.slots.borrow_mut().timer(Box::new(job))?;
        let delay = millis(delay).to_le_bytes();
        self.shared.out.borrow_mut().frame(Header::new(Kind::SetTimer, token), &delay);
        Ok(TimerId(token))
    }

    /// Unsets a timer; nothing happens when it is over.
    pub fn unset(&self, timer: TimerId) {
        if self.shared.slots.borrow_mut().due(timer.0).is_some() {
            self.shared.out.borrow_mut().frame(Header::new(Kind::GiveUp, timer.0), &[]);
        }
    }
}

const JSON: &str = "application/json";

fn ext(name: &str) -> String {
    ["Ext<", name, ">"].concat()
}

pub(crate) fn success(response: Response) -> Result<Response> {
    if response.is_success() { Ok(response) } else { Err(Error::from_response(&response)) }
}
