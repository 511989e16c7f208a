//! What the macros make of a mechtron: something that takes a message and gives back itself and an answer.

use std::any::{Any, TypeId};
use std::future::Future;
use std::pin::Pin;

use mechtron_abi::MessageHead;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cx::{Cx, TimerJob};
use crate::error::ErrorKind;
use crate::http::{IntoResponse, Request, Response, match_path};
use crate::message::from_json;
use crate::{Change, Error, Result, SocketClosed, SocketMessage};

/// The part that `#[mechtron]` writes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a mechtron",
    label = "write `#[mechtron]` on the struct"
)]
pub trait State: Serialize + DeserializeOwned + Default + 'static {
    /// The documentation of the struct, escaped for JSON.
    const DOC: &'static str;
}

/// The part that `#[handlers]` writes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no handlers",
    label = "write `#[handlers]` on its `impl` block"
)]
pub trait Mechtron: State {
    /// What it is called in its module.
    const NAME: &'static str;
    /// Its record of the contract: one line of JSON.
    const CONTRACT: &'static str;

    /// Begins the handler for a message.
    #[doc(hidden)]
    fn dispatch(self: Box<Self>, cx: Cx, incoming: &Incoming<'_>) -> Dispatched;

    /// Begins the `#[on(watch = "…")]` handler of a name.
    #[doc(hidden)]
    fn changed(self: Box<Self>, cx: Cx, watch: &str, change: Change) -> Dispatched;

    /// Begins the `#[init]` handler, or gives the mechtron back when there is none.
    #[doc(hidden)]
    fn init(self: Box<Self>, cx: Cx) -> Result<Turn, Box<dyn Object>>;
}

/// A mechtron of any type, between turns.
pub trait Object {
    /// Writes the fields over what the buffer has.
    fn save(&self, into: &mut Vec<u8>) -> Result<()>;
    /// See [`Mechtron::dispatch`].
    fn dispatch(self: Box<Self>, cx: Cx, incoming: &Incoming<'_>) -> Dispatched;
    /// See [`Mechtron::changed`].
    fn changed(self: Box<Self>, cx: Cx, watch: &str, change: Change) -> Dispatched;
    /// See [`Mechtron::init`].
    fn init(self: Box<Self>, cx: Cx) -> Result<Turn, Box<dyn Object>>;
    /// Begins what a timer was set to do.
    fn timer(self: Box<Self>, cx: Cx, job: Box<dyn Any>) -> Result<Turn, Box<dyn Object>>;
    /// Which type it is.
    fn type_of(&self) -> TypeId;
}

impl<M: Mechtron> Object for M {
    fn save(&self, into: &mut Vec<u8>) -> Result<()> {
        into.clear();
        serde_json::to_writer(into, self)
            .map_err(|error| Error::from(error).context("the state cannot be saved"))
    }

    fn dispatch(self: Box<Self>, cx: Cx, incoming: &Incoming<'_>) -> Dispatched {
        Mechtron::dispatch(self, cx, incoming)
    }

    fn changed(self: Box<Self>, cx: Cx, watch: &str, change: Change) -> Dispatched {
        Mechtron::changed(self, cx, watch, change)
    }

    fn init(self: Box<Self>, cx: Cx) -> Result<Turn, Box<dyn Object>> {
        Mechtron::init(self, cx)
    }

    fn timer(self: Box<Self>, cx: Cx, job: Box<dyn Any>) -> Result<Turn, Box<dyn Object>> {
        match job.downcast::<TimerJob<M>>() {
            Ok(job) => Ok(job(self, cx)),
            Err(_) => Err(self),
        }
    }

    fn type_of(&self) -> TypeId {
        TypeId::of::<M>()
    }
}

/// A handler under way. It owns the mechtron, so that dropping it drops what it changed.
pub type Turn = Pin<Box<dyn Future<Output = Turned>>>;

/// How a handler ended.
pub struct Turned {
    /// The mechtron, with whatever the handler changed.
    pub mechtron: Box<dyn Object>,
    /// What is answered.
    pub result: Result<Answer>,
}

/// What became of a message.
pub enum Dispatched {
    /// A handler has it.
    Turn {
        /// The handler.
        turn: Turn,
        /// Whether it may change the fields.
        writes: bool,
    },
    /// None has.
    Refused {
        /// The mechtron, unchanged.
        mechtron: Box<dyn Object>,
        /// Why.
        error: Error,
    },
}

impl Dispatched {
    /// A handler that runs.
    pub fn turn<M: Mechtron, F>(writes: bool, handler: F) -> Self
    where
        F: Future<Output = (Box<M>, Result<Answer>)> + 'static,
    {
        Self::Turn { turn: Self::begin(handler), writes }
    }

    /// A handler under way.
    pub fn begin<M: Mechtron>(handler: impl Future<Output = (Box<M>, Result<Answer>)> + 'static) -> Turn {
        Box::pin(async {
            let (mechtron, result) = handler.await;
            Turned { mechtron, result }
        })
    }

    /// No handler for a watch: the contract that the host goes by is another module's.
    pub fn unwatched<M: Mechtron>(mechtron: Box<M>, watch: &str) -> Self {
        let detail = format!("`{}` has no watch `{watch}`", M::NAME);
        Self::refused(mechtron, Error::new(ErrorKind::Rejected, "E-NO-ROUTE", detail))
    }

    /// No handler.
    pub fn refused<M: Mechtron>(mechtron: Box<M>, error: Error) -> Self {
        Self::Refused { mechtron, error }
    }
}

/// What a handler that ended well says.
pub struct Answer(pub(crate) Response);

impl Answer {
    /// Of a call: the value as JSON.
    ///
    /// # Errors
    /// When the value cannot be JSON.
    pub fn call<T: Serialize>(value: &T) -> Result<Self> {
        Response::json(value).map(Self)
    }

    /// Of what has no answer.
    pub fn done() -> Self {
        Self(Response::empty(204))
    }

    /// Of an `#[http]` handler.
    ///
    /// # Errors
    /// When it cannot be an answer.
    pub fn http(value: impl IntoResponse) -> Result<Self> {
        value.into_response().map(Self)
    }
}

/// A message that asks for a handler.
pub struct Incoming<'a> {
    pub(crate) head: MessageHead<'a>,
    pub(crate) body: &'a [u8],
}

impl Incoming<'_> {
    /// The name in `Ext<NAME>`.
    pub fn ext(&self) -> Option<&str> {
        self.head.method.strip_prefix("Ext<")?.strip_suffix('>')
    }

    /// The name in `Http<NAME>`; what answers `Get` answers `Head` too.
    pub fn http(&self) -> Option<&str> {
        let name = self.head.method.strip_prefix("Http<")?.strip_suffix('>')?;
        Some(if name == "Head" { "Get" } else { name })
    }

    /// Reads the body as a message.
    ///
    /// # Errors
    /// A refusal with status 400 when it is not that message.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T> {
        from_json(self.body)
    }

    /// Reads what the client of a WebSocket said.
    ///
    /// # Errors
    /// A refusal with status 400 when it is no text though it should be.
    pub fn socket_message(&self) -> Result<SocketMessage> {
        SocketMessage::read(&self.head, self.body)
    }

    /// Reads that the client of a WebSocket is gone.
    ///
    /// # Errors
    /// A refusal with status 400 when it is something else.
    pub fn socket_closed(&self) -> Result<SocketClosed> {
        SocketClosed::read(&self.head, self.body)
    }

    /// The request, when the path matches a pattern.
    pub fn request(&self, pattern: &'static str) -> Option<Request> {
        let params = match_path(pattern, &self.head.path)?;
        let (path, query) = self.head.path.split_once('?').unwrap_or((&self.head.path, ""));
        let method = self.head.method.strip_prefix("Http<").and_then(|name| name.strip_suffix('>'));
        Some(Request {
            method: method.unwrap_or_default().to_ascii_uppercase(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: (self.head.headers.iter())
                .map(|(name, value)| (name.clone().into_owned().into(), value.clone().into_owned().into()))
                .collect(),
            body: self.body.to_vec(),
            params,
        })
    }

    /// Whether a path would match.
    pub fn is_at(&self, pattern: &'static str) -> bool {
        match_path(pattern, &self.head.path).is_some()
    }

    /// What a mechtron with pages says to who asks for another one.
    pub fn no_page(&self, path_is_known: bool) -> Error {
        if path_is_known {
            Error::status(
                405,
                "E-NO-ROUTE",
                format!("`{}` is not for `{}`", self.head.path, self.head.method),
            )
        } else {
            Error::status(404, "E-NO-ROUTE", format!("nothing is at `{}`", self.head.path))
        }
    }

    /// What a mechtron says to a method that it does not know.
    pub fn no_handler(&self, name: &str) -> Error {
        let detail = format!("`{name}` has no handler for `{}`", self.head.method);
        Error::new(ErrorKind::Rejected, "E-NO-ROUTE", detail)
    }
}

/// One of the mechtrons of a module.
pub struct Entry {
    pub(crate) name: &'static str,
    pub(crate) fresh: fn() -> Box<dyn Object>,
    pub(crate) load: fn(&[u8]) -> Result<Box<dyn Object>>,
}

impl Entry {
    /// The entry of a mechtron.
    pub const fn of<M: Mechtron>() -> Self {
        Self {
            name: M::NAME,
            fresh: || Box::new(M::default()),
            load: |state| match serde_json::from_slice::<M>(state) {
                Ok(mechtron) => Ok(Box::new(mechtron)),
                Err(error) => Err(Error::fail(
                    "E-SCHEMA",
                    format!("the saved state does not fit the fields of `{}`: {error}", M::NAME),
                )),
            },
        }
    }
}
