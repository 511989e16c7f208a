//! Calls of the API that come over a session, answered by the same handlers.

use axum::Router;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request};
use starlane_core::portal::HeaderPairs;
use starlane_core::{Blob, Code, Problem, Trace};
use tower::Service as _;

use super::finish;
use crate::mesh::Mesh;
use crate::portal::pairs_of;

/// Paths whose answers have no end, or are none of HTTP.
const ENDLESS: [&str; 4] = ["/v1/watch", "/v1/subscribe", "/v1/logs", "/v1/ws"];

/// A call of the API.
///
/// # Errors
/// `Usage` when it is none.
pub(crate) fn call(
    method: &str,
    path: &str,
    headers: HeaderPairs,
    body: Bytes,
) -> Result<Request<Body>, Problem> {
    if !path.starts_with("/v1/") {
        let problem = Problem::new(Code::Usage, format!("`{}` is not a path of `/v1`", path.escape_debug()));
        return Err(problem.help("all paths are in `/openapi.json`"));
    }
    if let Some(endless) = ENDLESS.iter().find(|endless| path.starts_with(**endless)) {
        let problem = Problem::new(Code::Usage, format!("the answer of `{endless}` has no end"));
        return Err(problem.help("use `watch` or `subscribe`; read logs over HTTP"));
    }
    let mut call = Request::builder().method(method).uri(path);
    for (name, value) in &headers {
        call = call.header(name, value);
    }
    let call = call.body(Body::from(body));
    let mut call = call.map_err(|error| Problem::new(Code::Usage, format!("the call is none: {error}")))?;
    call.headers_mut().entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    Ok(call)
}

/// Answers a call: its status, headers and body.
///
/// # Errors
/// `TooLarge` when the answer does not fit a frame.
pub(crate) async fn ask(
    mut api: Router,
    mut call: Request<Body>,
    trace: Trace,
    bytes_max: usize,
) -> Result<(u16, HeaderPairs, Bytes), Problem> {
    call.extensions_mut().insert(trace);
    let response = match api.call(call).await {
        Ok(response) => finish(response, trace),
        Err(never) => match never {},
    };
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(Body::new(body), bytes_max).await.map_err(|_| too_large(bytes_max))?;
    Ok((parts.status.as_u16(), pairs_of(&parts.headers), body))
}

/// All of a blob.
///
/// # Errors
/// `TooLarge` when it does not fit a frame, and when it cannot be read.
pub(crate) async fn whole<M: Mesh>(mesh: &M, blob: Blob, bytes_max: usize) -> Result<Bytes, Problem> {
    if blob.bytes > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    let mut parts = mesh.blob(blob, 0..blob.bytes).await?;
    let mut whole = BytesMut::with_capacity(blob.bytes as usize);
    while let Some(part) = parts.next().await {
        whole.extend_from_slice(&part?);
    }
    Ok(whole.freeze())
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(Code::TooLarge, format!("the answer has more than {bytes_max} bytes"))
        .help("ask for smaller pages, and read files over HTTP: `GET /v1/files/{point}`")
}
