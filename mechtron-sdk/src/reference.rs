//! Addresses of other mechtrons that know what may be asked there.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::cx::success;
use crate::shared::Pending;
use crate::{Error, Result};

/// How long a point's text may be, in bytes.
const POINT_BYTES_MAX: usize = 4_096;

/// A point that is kept in state or sent in a message. The `…Ref` of each mechtron is one with methods.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Reference(String);

impl Reference {
    /// Reads a point's text. Whether something lives there, and the finer rules, are known by the mesh alone.
    ///
    /// # Errors
    /// A refusal when it cannot be one: empty, too long, or with white space or control characters in it.
    pub fn new(point: impl Into<String>) -> Result<Self> {
        let point = point.into();
        let wrong = point.is_empty()
            || point.len() > POINT_BYTES_MAX
            || point.chars().any(|c| c.is_control() || (c.is_whitespace() && !point.contains(":/")));
        if wrong {
            return Err(Error::status(400, "E-POINT-SYNTAX", format!("`{point}` is not a point")));
        }
        Ok(Self(point))
    }

    /// The point's text.
    pub fn point(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?)
            .map_err(|error| serde::de::Error::custom(error.detail()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The answer to a typed call: `.await` gives the value, or the error that came instead. A status outside of 2xx is
/// an error.
#[must_use = "a call's answer comes by `.await`"]
pub struct Reply<T> {
    pending: Pending,
    value: PhantomData<fn() -> T>,
}

impl<T> Reply<T> {
    pub(crate) fn new(pending: Pending) -> Self {
        Self { pending, value: PhantomData }
    }
}

impl<T: DeserializeOwned> Future for Reply<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.pending).poll(cx).map(|answer| success(answer?)?.body_json())
    }
}
