//! What handlers take out of a request, each with errors that say what to do.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, IF_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use starlane_core::{Code, NodeName, Place, Point, PointError, PointerError, Problem, Revision, Span};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use crate::body::{Reserved, collect, upload};
use crate::config::Limits;
use crate::mesh::{Freshness, Mesh, Upload};
use crate::problem::Failure;

/// The point in the path.
pub(crate) struct At(pub(crate) Point);

impl<S: Send + Sync> FromRequestParts<S> for At {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = segment(parts, state, "point", Code::PointSyntax).await?;
        text.parse().map(At).map_err(|error| point_problem(&text, &error).into())
    }
}

/// A segment of the path.
async fn segment<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
    code: Code,
) -> Result<String, Failure> {
    let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| {
        let problem = Problem::new(code, format!("the {name} in the path is not UTF-8"));
        problem.help("percent-encode the bytes of its UTF-8 form")
    })?;
    Ok(params.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value).to_owned())
}

/// The name of a node in the path.
pub(crate) struct Named(pub(crate) NodeName);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = segment(parts, state, "name", Code::Usage).await?;
        text.parse().map(Named).map_err(|error: starlane_core::NodeNameError| {
            Problem::new(Code::Usage, error.to_string()).help("`GET /v1/nodes` lists the nodes").into()
        })
    }
}

/// The id of a token in the path.
pub(crate) struct TokenId(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for TokenId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        segment(parts, state, "id", Code::Usage).await.map(TokenId)
    }
}

/// The problem of a text that is no point.
pub(crate) fn point_problem(text: &str, error: &PointError) -> Problem {
    let span = Span { start: error.at, end: error.at + error.length };
    let mut problem = Problem::new(Code::PointSyntax, format!("`{text}` is not a point: {}", error.reason));
    problem.place = Some(Box::new(Place {
        name: String::new(),
        source: text.to_owned(),
        span,
        label: error.reason.clone(),
    }));
    problem.help("a point looks like `shop:orders:o-17` or `shop:files:/img/logo.svg`")
}

/// The parameters of the query; one that is not known is an error.
pub(crate) struct Asks<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asks<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let Query(asks) = Query::<T>::try_from_uri(&parts.uri).map_err(|error| {
            let reason =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Problem::new(Code::Usage, format!("the query of the request is wrong: {reason}"))
                .help("the parameters of each path are in `/openapi.json`")
        })?;
        Ok(Asks(asks))
    }
}

/// The body, in memory.
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: Option<String>,
    /// The place of the body in the budget, for as long as the body is used.
    pub(crate) _reserved: Option<Reserved>,
}

impl<M: Mesh> FromRequest<Arc<Shared<M>>> for Whole {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &Arc<Shared<M>>) -> Result<Self, Failure> {
        refuse_encoding(request.headers())?;
        let content_type = text(request.headers(), &CONTENT_TYPE)?.map(str::to_owned);
        let (bytes, reserved) = collect(request.into_body(), &state.config.limits, &state.budget).await?;
        Ok(Self { bytes, content_type, _reserved: reserved })
    }
}

/// A JSON document.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, M: Mesh> FromRequest<Arc<Shared<M>>> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &Arc<Shared<M>>) -> Result<Self, Failure> {
        let kind = text(request.headers(), &CONTENT_TYPE)?.map(media_type).unwrap_or_default();
        if kind != "application/json" {
            let detail = format!("the body must be `application/json`, and is `{kind}`");
            let help = "send it with `content-type: application/json`";
            return Err(Failure::usage(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail, help));
        }
        let whole = Whole::from_request(request, state).await?;
        let mut reader = serde_json::Deserializer::from_slice(&whole.bytes);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let pointer = pointer(error.path());
            json_problem(error.into_inner(), pointer)
        })?;
        reader.end().map_err(|error| json_problem(error, String::new()))?;
        Ok(Json(value))
    }
}

fn json_problem(error: serde_json::Error, pointer: String) -> Problem {
    let mut problem = Problem::new(Code::Usage, format!("the body is wrong: {error}"));
    problem.errors = vec![PointerError { pointer, detail: error.to_string() }];
    problem.help("the schema of each body is in `/openapi.json`")
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        let part = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&part);
    }
    pointer
}

/// The body, read as it comes.
pub(crate) struct Streamed(pub(crate) Upload);

impl<M: Mesh> FromRequest<Arc<Shared<M>>> for Streamed {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &Arc<Shared<M>>) -> Result<Self, Failure> {
        refuse_encoding(request.headers())?;
        Ok(Self(upload(request.into_body(), &state.config.limits)?))
    }
}

fn refuse_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    match text(headers, &CONTENT_ENCODING)? {
        None | Some("identity") => Ok(()),
        Some(other) => {
            let detail = format!("a body in the encoding `{other}` is not read");
            Err(Failure::usage(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail, "send the body as it is"))
        }
    }
}

/// The media type without its parameters, in lower case.
pub(crate) fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A header as text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value
        .to_str()
        .map_err(|_| Problem::new(Code::Usage, format!("the header `{name}` is not plain text")))?;
    Ok(Some(text))
}

/// The revision that `If-Match` asks for.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<Revision>, Problem> {
    let Some(text) = text(headers, &IF_MATCH)? else { return Ok(None) };
    if text.trim() == "*" {
        return Ok(None);
    }
    let revision = text.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"')?.parse().ok());
    revision.map(|revision| Some(Revision(revision))).ok_or_else(|| {
        Problem::new(Code::Usage, format!("`If-Match: {text}` is not the `ETag` of a resource"))
            .help("send the `ETag` as it came, as `If-Match: \"17\"`")
    })
}

/// Whether what this node last heard is fresh enough.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stale {
    /// It is.
    Ok,
}

impl Stale {
    /// How fresh an answer must be.
    pub(crate) fn freshness(asked: Option<Self>) -> Freshness {
        asked.map_or(Freshness::Latest, |Stale::Ok| Freshness::Stale)
    }
}

/// What is asked of a path that reads one resource.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadAsks {
    /// `ok` reads what this node last heard, also when the registry is out of reach.
    #[param(inline)]
    pub(crate) stale: Option<Stale>,
}

/// What is asked of a path that waits for something.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitAsks {
    /// How long to wait: `500ms`, `10s`, `2m`, or seconds.
    #[param(example = "10s")]
    pub(crate) timeout: Option<String>,
}

/// How long a path waits, within what it may.
pub(crate) fn timeout(asked: Option<&str>, limits: &Limits) -> Result<Duration, Problem> {
    let timeout = asked.map_or(Ok(limits.request_timeout), duration)?;
    if timeout > limits.request_timeout_max {
        let most = limits.request_timeout_max.as_secs();
        return Err(Problem::new(Code::Usage, format!("`timeout` is longer than {most} seconds")));
    }
    Ok(timeout)
}

/// A length of time: `500ms`, `10s`, `2m`, or seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, Problem> {
    let read = || {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: f64 = digits.parse().ok()?;
        let seconds = match &text[digits.len()..] {
            "ms" => number / 1000.0,
            "" | "s" => number,
            "m" => number * 60.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(seconds).ok()
    };
    read().filter(|time| !time.is_zero()).ok_or_else(|| {
        Problem::new(Code::Usage, format!("`{text}` is not a length of time"))
            .help("write `500ms`, `10s` or `2m`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1.5", 1_500)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "0", "-1s", "1h", "s", "nan", "inf", "1e400s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
