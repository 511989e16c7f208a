//! Errors on their way out: as RFC 9457 has it, or as a page for people.

use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use starlane_core::{Code, Outcome, Problem, Refusal, Reply, Trace};

use crate::shapes::{ExecProblem, Output, ProblemDetails};

/// How a request ended that was sent through `/v1/request`.
pub(crate) const OUTCOME: HeaderName = HeaderName::from_static("starlane-outcome");

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A problem as an answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) problem: Box<Problem>,
    pub(crate) status: StatusCode,
    /// How the request ended, when it was one to the mesh.
    pub(crate) outcome: Option<&'static str>,
    /// The methods that the path has, when the one asked for is not among them.
    pub(crate) allow: Option<HeaderValue>,
    results: Vec<Output>,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.code.http_status());
        Self {
            problem: Box::new(problem),
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            outcome: None,
            allow: None,
            results: Vec::new(),
        }
    }
}

impl From<ExecProblem> for Failure {
    fn from(ExecProblem { problem, done }: ExecProblem) -> Self {
        Self { results: done, ..Self::from(problem) }
    }
}

impl Failure {
    /// A request that this API does not know, with an HTTP status more exact than 400.
    pub(crate) fn usage(status: StatusCode, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { status, ..Self::from(Problem::new(Code::Usage, detail).help(help)) }
    }

    /// The document and the headers that go with it.
    pub(crate) fn render(self, trace: Option<Trace>) -> (StatusCode, HeaderMap, Bytes) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        self.headers(&mut headers);
        let status = self.status;
        let details = self.details(trace);
        let body = serde_json::to_vec(&details).unwrap_or_default();
        (status, headers, body.into())
    }

    /// What the document says.
    pub(crate) fn details(self, trace: Option<Trace>) -> ProblemDetails {
        ProblemDetails {
            status: self.status.as_u16(),
            trace_id: trace.map(|trace| format!("{:032x}", trace.trace_id)),
            results: self.results,
            ..ProblemDetails::from(*self.problem)
        }
    }

    /// The headers that go with it whatever its form.
    pub(crate) fn headers(&self, headers: &mut HeaderMap) {
        if let Some(after) = self.problem.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after));
        } else if self.problem.code == Code::Busy {
            headers.insert(RETRY_AFTER, HeaderValue::from(1));
        }
        if self.problem.code == Code::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(outcome) = self.outcome {
            headers.insert(OUTCOME, HeaderValue::from_static(outcome));
        }
        if let Some(allow) = &self.allow {
            headers.insert(ALLOW, allow.clone());
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
    }
}

impl IntoResponse for Failure {
    /// Leaves the document to the door, which knows the trace.
    fn into_response(self) -> axum::response::Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The reply of an outcome, or the problem that stands for it.
pub(crate) fn reply(outcome: Outcome) -> Result<Reply, Failure> {
    let ended = |refusal: Refusal, outcome, status: fn(u16) -> u16| {
        let mut failure = Failure::from(Problem::from(refusal));
        failure.status = StatusCode::from_u16(status(failure.status.as_u16())).unwrap_or(failure.status);
        failure.outcome = Some(outcome);
        Err(failure)
    };
    match outcome {
        Outcome::Ok(reply) => Ok(reply),
        Outcome::Rejected(refusal) => ended(refusal, "rejected", |status| status),
        // It ran, so it is not the asker's fault any more.
        Outcome::Failed(refusal) => {
            ended(refusal, "failed", |status| if status < 500 { 502 } else { status })
        }
        Outcome::Unknown(refusal) => ended(refusal, "unknown", |_| 504),
    }
}
