//! How what is asked can end.

/// Why something was not done, or may not have been.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// It surely was not done.
    #[error("{}", .0.detail)]
    Rejected(Box<Problem>),
    /// It was begun, and failed.
    #[error("{}", .0.detail)]
    Failed(Box<Problem>),
    /// It may have been done: the deadline passed, or the connection broke.
    #[error("{}", .0.detail)]
    Unknown(Box<Problem>),
    /// There is no connection, and there will be none by itself: the configuration is wrong, or the token is.
    #[error("{0}")]
    Connect(String),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

/// What a node says of an error (RFC 9457).
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The stable name: `E-NOT-FOUND`.
    pub code: String,
    /// What is wrong this time.
    pub detail: String,
    /// The resource that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Each thing that is wrong inside a document, by its JSON pointer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<starlane_core::PointerError>,
    /// After how many seconds it is worth trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(code: &str, detail: impl Into<String>) -> Box<Self> {
        let (point, help, errors, retry_after) = (None, None, Vec::new(), None);
        Box::new(Self { code: code.to_owned(), detail: detail.into(), point, help, errors, retry_after })
    }

    /// As a node tells it.
    pub(crate) fn read(problem: serde_json::Value) -> Box<Self> {
        serde_json::from_value(problem)
            .map(Box::new)
            .unwrap_or_else(|error| Self::new("E-INTERNAL", format!("the problem cannot be read: {error}")))
    }
}

impl Error {
    /// What the node says, if it was a node.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Error::Rejected(problem) | Error::Failed(problem) | Error::Unknown(problem) => Some(&**problem),
            Error::Connect(_) | Error::Closed => None,
        }
    }

    /// The stable name of the error, if a node said it.
    pub fn code(&self) -> Option<&str> {
        self.problem().map(|problem| problem.code.as_str())
    }

    pub(crate) fn usage(detail: impl Into<String>) -> Self {
        Error::Rejected(Problem::new("E-USAGE", detail))
    }

    pub(crate) fn lost() -> Self {
        Error::Unknown(Problem::new("E-UNREACHABLE", "the connection broke before the answer came"))
    }
}
