//! How a handler, or a call to another mechtron, does not succeed.

use std::borrow::Cow;
use std::fmt;

use mechtron_abi::{ErrorHead, OutcomeKind};
use serde::{Deserialize, Serialize};

use crate::http::Response;

/// What handlers and calls return.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// The code of a message that says something that cannot be.
pub const INVALID_MESSAGE: &str = "E-MESSAGE-INVALID";
/// The code of a question for something that is not there.
pub const NOT_FOUND: &str = "E-NOT-FOUND";
/// The code of an error that was given none.
pub(crate) const HANDLER: &str = "E-HANDLER";

/// Why a handler does not succeed, or why a call did not.
///
/// A *refusal* ([`Error::reject`], `ensure!`) is an answer: the caller gets status 422 with the reason. A *failure*
/// ([`Error::fail`], and every error that `?` converts) says that the handler broke. Either way the mechtron's
/// fields are put back to what they were before the handler.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    code: Cow<'static, str>,
    detail: Cow<'static, str>,
}

/// What is known of something that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It was answered, with a status outside of 2xx.
    Refused {
        /// The status.
        status: u16,
    },
    /// It surely did not run.
    Rejected,
    /// It ran and failed.
    Failed,
    /// Nobody knows: it may have run.
    Unknown,
}

impl Error {
    /// Refuses a message, with status 422.
    pub fn reject(code: impl Into<Cow<'static, str>>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::status(422, code, detail)
    }

    /// Refuses a message with a status of its own, 400 to 599; others become 422.
    pub fn status(
        status: u16,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let status = if (400..600).contains(&status) { status } else { 422 };
        Self::new(ErrorKind::Refused { status }, code, detail)
    }

    /// Refuses a question for something that is not there, with status 404.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::status(404, NOT_FOUND, detail)
    }

    /// Fails.
    pub fn fail(code: impl Into<Cow<'static, str>>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Failed, code, detail)
    }

    pub(crate) fn new(
        kind: ErrorKind,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Inner { kind, code: code.into(), detail: detail.into() }))
    }

    /// What is known of it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable name of the reason.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The reason in words.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The same with words before it that say what was tried.
    #[must_use]
    pub fn context(mut self, tried: impl fmt::Display) -> Self {
        self.0.detail = format!("{tried}: {}", self.0.detail).into();
        self
    }

    /// The error of a handler that did not succeed because of this one: whatever is known of a call that it made, the
    /// handler itself ran.
    pub(crate) fn of_handler(mut self) -> Self {
        if !matches!(self.0.kind, ErrorKind::Refused { .. }) {
            self.0.kind = ErrorKind::Failed;
        }
        self
    }

    pub(crate) fn from_head(head: &ErrorHead<'_>) -> Self {
        let kind = match head.outcome {
            OutcomeKind::Rejected => ErrorKind::Rejected,
            OutcomeKind::Failed => ErrorKind::Failed,
            OutcomeKind::Unknown => ErrorKind::Unknown,
        };
        Self::new(kind, head.code.clone().into_owned(), head.detail.clone().into_owned())
    }

    /// The error that an answer outside of 2xx is.
    pub(crate) fn from_response(response: &Response) -> Self {
        let kind = ErrorKind::Refused { status: response.status };
        match serde_json::from_slice::<ProblemBody<'_>>(&response.body) {
            Ok(problem) => Self::new(kind, problem.code.into_owned(), problem.detail.into_owned()),
            Err(_) => Self::new(kind, HANDLER, format!("it answered with status {}", response.status)),
        }
    }

    /// The answer that a refusal is.
    pub(crate) fn to_response(&self, status: u16) -> Response {
        let problem = ProblemBody {
            code: Cow::Borrowed(self.code()),
            detail: Cow::Borrowed(self.detail()),
            status: Some(status),
        };
        // Two strings and a number always make JSON.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        Response::new(status, "application/problem+json", body)
    }
}

/// The parts of `application/problem+json` (RFC 9457) that a mechtron reads and writes.
#[derive(Serialize, Deserialize)]
struct ProblemBody<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow)]
    detail: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.detail())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {self}", self.kind())
    }
}

/// Any other error that `?` meets in a handler is a failure with code `E-HANDLER`.
impl<E: core::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self::fail(HANDLER, error.to_string())
    }
}
