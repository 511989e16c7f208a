//! What is asked, told and answered.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use starlane_core::portal::{self, HeaderPairs, Say};
use starlane_core::{Agent, Point};

use crate::Error;

const CONTENT_TYPE: &str = "content-type";
const JSON: &str = "application/json";

/// A message on its way to a point.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    method: Option<String>,
    path: Option<String>,
    headers: HeaderPairs,
    body: Bytes,
    timeout: Option<Duration>,
    from: Option<Point>,
    within: Option<u64>,
}

impl Call {
    /// With a method: `AddItem` or `Ext<AddItem>`, `GET` or `Http<Get>`.
    pub fn new(method: &str) -> Self {
        Self { method: Some(method.to_owned()), ..Self::empty() }
    }

    /// What is published has no method.
    pub fn event() -> Self {
        Self::empty()
    }

    fn empty() -> Self {
        let (headers, body) = (Vec::new(), Bytes::new());
        Self { method: None, path: None, headers, body, timeout: None, from: None, within: None }
    }

    /// Of a path; `/` without it.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// With one header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With bytes of a content type.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.headers.retain(|(name, _)| name != CONTENT_TYPE);
        self.body = body.into();
        self.header(CONTENT_TYPE, content_type)
    }

    /// With a document.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn json(self, document: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(document).map_err(|error| Error::usage(error.to_string()))?;
        Ok(self.body(JSON, body))
    }

    /// Waits so long for the answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Speaks as a point that this client serves.
    #[must_use]
    pub fn from(mut self, point: Point) -> Self {
        self.from = Some(point);
        self
    }

    /// For the sake of a request that this client was asked: in the same trace, and refused when it would come back to
    /// somebody who waits for it.
    #[must_use]
    pub fn within(mut self, asked: &Incoming) -> Self {
        self.within = asked.id;
        self.from = Some(asked.point.clone());
        self
    }

    pub(crate) fn say(self, id: u64, to: Point, timeout: Duration) -> (Say, Bytes) {
        let Self { method, path, headers, body, timeout: own, from, within } = self;
        let timeout = own.unwrap_or(timeout).as_millis().max(1);
        let timeout_ms = Some(u64::try_from(timeout).unwrap_or(u64::MAX));
        (Say { id, to, from, within, method, path, headers, timeout_ms }, body)
    }

    /// How long the answer is waited for.
    pub(crate) fn patience(&self, timeout: Duration) -> Duration {
        self.timeout.unwrap_or(timeout)
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// As HTTP's.
    pub status: u16,
    /// More about it.
    pub headers: HeaderPairs,
    /// Its bytes.
    pub body: Bytes,
}

impl Reply {
    /// An answer without a body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// 200 with text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(200).with("text/plain; charset=utf-8", text.into())
    }

    /// 200 with a document.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn json(document: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(document).map_err(|error| Error::usage(error.to_string()))?;
        Ok(Self::new(200).with(JSON, body))
    }

    /// With bytes of a content type.
    #[must_use]
    pub fn with(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.headers.push((CONTENT_TYPE.to_owned(), content_type.to_owned()));
        self.body = body.into();
        self
    }

    /// With another status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Its body as a document.
    ///
    /// # Errors
    /// When it is none of this shape.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// Its body as text, as far as it is.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A message to a point that this client serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// By which it is answered; absent when it wants no answer.
    pub(crate) id: Option<u64>,
    /// Which point.
    pub point: Point,
    /// Who sent it.
    pub from: Point,
    /// On whose authority.
    pub agent: Agent,
    /// `Ext<AddItem>`, `Http<Get>`.
    pub method: String,
    /// Of what; may carry a query after `?`.
    pub path: String,
    /// More about it.
    pub headers: HeaderPairs,
    /// Its bytes.
    pub body: Bytes,
    /// How much time was left for the answer when it came.
    pub remaining: Duration,
    /// The trace that it belongs to (W3C Trace Context).
    pub trace: String,
}

impl Incoming {
    pub(crate) fn new(id: Option<u64>, heard: portal::Heard, body: Bytes, remaining: Duration) -> Self {
        let portal::Heard { point, from, agent, method, path, headers, trace } = heard;
        Self { id, point, from, agent, method, path, headers, body, remaining, trace }
    }

    /// Whether it wants an answer.
    pub fn wants_answer(&self) -> bool {
        self.id.is_some()
    }

    /// Its body as a document.
    ///
    /// # Errors
    /// When it is none of this shape.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}
