//! Messages: asked and sent.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use starlane_core::{Body, Code, Header, Headers, Message, Method, Payload, Point, Problem, Request, Trace};
use utoipa::IntoParams;

use super::Shared;
use super::extract::{Asks, At, Whole, timeout};
use crate::content::{self, Asked};
use crate::mesh::Mesh;
use crate::problem::{Failure, OUTCOME, reply};
use crate::schema;
use crate::shapes::{DeadLetterList, Sent};
use crate::web::{HOP_BY_HOP, TRACEPARENT, read_reply};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RequestAsks {
    /// What is asked: `Ext<AddItem>` or `AddItem`, `Http<Get>` or `GET`. Without it, `Http<Post>` when there is a
    /// body, else `Http<Get>`.
    #[param(example = "AddItem")]
    method: Option<String>,
    /// Of what; `/` without it.
    #[param(example = "/")]
    path: Option<String>,
    /// How long to wait: `500ms`, `10s`, `2m`, or seconds.
    #[param(example = "10s")]
    timeout: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SendAsks {
    /// What is said: `Ext<AddItem>` or `AddItem`, `Http<Post>` or `POST`. Without it, `Http<Post>` when there is a
    /// body, else `Http<Get>`.
    #[param(example = "AddItem")]
    method: Option<String>,
    /// Of what; `/` without it.
    #[param(example = "/")]
    path: Option<String>,
}

/// Asks the resource at a point. The body and its content type are the message's.
#[utoipa::path(post, path = "/v1/request/{point}", tag = "messages",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"), RequestAsks),
    request_body(content = Vec<u8>, content_type = "*/*", description = "The message"),
    responses(
        (status = "2XX", description = "The reply as it is; so are 3XX, 4XX and 5XX with `Starlane-Outcome: ok`",
            body = Vec<u8>, content_type = "*/*",
            headers(("starlane-outcome" = String, description = "`ok`; with a problem `rejected`, `failed` or `unknown`")))))]
pub(crate) async fn request<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Asks(asks): Asks<RequestAsks>,
    Extension(trace): Extension<Trace>,
    headers: HeaderMap,
    body: Whole,
) -> Result<Response, Failure> {
    let timeout =
        timeout(asks.timeout.as_deref(), &shared.config.limits).map_err(|problem| match problem.help {
            Some(_) => problem,
            None => problem.help("send a message that wants no answer, and watch for its effect"),
        })?;
    // The reply comes as it is: ranges and conditions are for content.
    let asked = Asked::default();
    let (method, path) = (asks.method, asks.path);
    let message = message(&shared, point, method, path, timeout, trace, &headers, body)?;
    let reply = reply(shared.mesh.request(message).await)?;
    let (status, headers, body) = read_reply(reply)?;
    let mut response = content::answer(&*shared.mesh, &asked, status, headers, body).await?;
    response.headers_mut().insert(OUTCOME, HeaderValue::from_static("ok"));
    Ok(response.map(axum::body::Body::new))
}

/// The messages to a space that were sent and could not be delivered: the last of them, and how many there were.
#[utoipa::path(get, path = "/v1/dead-letters/{point}", tag = "messages",
    params(("point" = schema::Point, Path, description = "The space")),
    responses((status = 200, description = "Those of all nodes that answer", body = DeadLetterList)))]
pub(crate) async fn dead_letters<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(space): At,
) -> Result<Json<DeadLetterList>, Failure> {
    Ok(Json(shared.mesh.dead_letters(shared.agent(), space).await?))
}

/// Sends a message to a point, and does not wait for it to be handled.
#[utoipa::path(post, path = "/v1/send/{point}", tag = "messages",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"), SendAsks),
    request_body(content = Vec<u8>, content_type = "*/*", description = "The message"),
    responses((status = 202, description = "It is on its way", body = Sent)))]
pub(crate) async fn send<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Asks(asks): Asks<SendAsks>,
    Extension(trace): Extension<Trace>,
    headers: HeaderMap,
    body: Whole,
) -> Result<Response, Failure> {
    let timeout = shared.config.limits.request_timeout;
    let mut message = message(&shared, point, asks.method, asks.path, timeout, trace, &headers, body)?;
    if let Payload::Request(signal) = message.payload {
        message.payload = Payload::Signal(signal);
    }
    let id = shared.mesh.send(message).await?;
    Ok((StatusCode::ACCEPTED, Json(Sent { id: id.to_string() })).into_response())
}

#[expect(
    clippy::too_many_arguments,
    reason = "each is one part of a request, and both callers have them apart"
)]
pub(super) fn message<M: Mesh>(
    shared: &Shared<M>,
    to: Point,
    method: Option<String>,
    path: Option<String>,
    timeout: Duration,
    trace: Trace,
    headers: &HeaderMap,
    body: Whole,
) -> Result<Message, Problem> {
    let request = content(method.as_deref(), path, headers, body)?;
    let id = shared.mesh.new_message_id();
    let mut header = Header::new(id, shared.config.point.clone(), to, shared.agent(), timeout);
    header.trace = trace;
    Ok(Message { header, payload: Payload::Request(request) })
}

/// What is said in a message, whoever it goes to.
pub(super) fn content(
    method: Option<&str>,
    path: Option<String>,
    headers: &HeaderMap,
    body: Whole,
) -> Result<Request, Problem> {
    let mut known = headers_of(headers)?;
    if let Some(content_type) = &body.content_type {
        known.set("content-type", content_type);
    }
    said(method, path, known, body.bytes)
}

/// What is said in a message, by whichever door.
pub(crate) fn said(
    method: Option<&str>,
    path: Option<String>,
    headers: Headers,
    body: Bytes,
) -> Result<Request, Problem> {
    let method = read_method(method.unwrap_or(if body.is_empty() { "GET" } else { "POST" }))?;
    let path = path.unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') || path.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let problem = Problem::new(Code::Usage, format!("`{}` is not a path", path.escape_debug()));
        return Err(problem.help("a path begins with `/` and holds no white space"));
    }
    Ok(Request { method, path: path.into(), headers, body: Body::Bytes(body) })
}

/// The headers of the message: those of the call, without what is between the caller and this door.
fn headers_of(headers: &HeaderMap) -> Result<Headers, Problem> {
    let mut list = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        if [AUTHORIZATION, HOST, TRACEPARENT].contains(name) || HOP_BY_HOP.contains(&name.as_str()) {
            continue;
        }
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
            let problem = Problem::new(Code::Usage, format!("the header `{name}` is not UTF-8"));
            return Err(problem.help("send text, percent-encoded where it is not ASCII"));
        };
        list.push((name.as_str(), value));
    }
    Ok(list.into_iter().collect())
}

/// Reads `Ext<AddItem>`, `AddItem`, `Http<Get>` or `GET`.
fn read_method(text: &str) -> Result<Method, Problem> {
    let upper = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    let read = if text.contains('<') {
        text.parse().ok()
    } else if upper {
        Method::http(text)
    } else {
        Method::ext(text).ok()
    };
    read.ok_or_else(|| {
        Problem::new(Code::Usage, format!("`{text}` is not a method"))
            .help("write `Ext<AddItem>` or `AddItem`, `Http<Get>` or `GET`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_a_short_form() {
        for (text, method) in [
            ("GET", "Http<Get>"),
            ("Http<Post>", "Http<Post>"),
            ("AddItem", "Ext<AddItem>"),
            ("Msg<AddItem>", "Ext<AddItem>"),
        ] {
            assert_eq!(read_method(text).unwrap().to_string(), method);
        }
        for text in ["", "add", "Ext<", "Foo<Bar>", "GE T"] {
            assert!(read_method(text).is_err(), "{text}");
        }
    }
}
