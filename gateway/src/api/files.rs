//! Content: bundles in, files in and out.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED,
    LOCATION,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use starlane_core::{Body, Code, Problem};

use super::Shared;
use super::extract::{At, Streamed, text};
use super::lent::lend;
use crate::content::{self, Asked};
use crate::mesh::{Content, Expect, Mesh};
use crate::problem::Failure;
use crate::schema;
use crate::segment::encode_point;
use crate::shapes::{Published, Written};

/// Publishes the zip in the body as an immutable bundle.
#[utoipa::path(put, path = "/v1/bundles/{point}", tag = "content",
    params(("point" = schema::Point, Path, description = "`SPACE:REPO:SERIES:VERSION`, as one segment")),
    request_body(content = Vec<u8>, content_type = "application/zip", description = "A zip"),
    responses((status = 201, description = "It is published", body = Published,
        headers(("location" = String, description = "The path of the bundle")))))]
pub(crate) async fn publish<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Streamed(body): Streamed,
) -> Result<Response, Failure> {
    let (body, rest) = lend(body);
    let published = rest.after(shared.mesh.publish(shared.agent(), point, body).await).await?;
    let location = format!("/v1/resources/{}", encode_point(&published.bundle.point));
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(published)).into_response())
}

/// The content of a File or an Artifact.
#[utoipa::path(get, path = "/v1/files/{point}", tag = "content",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"),
        ("range" = Option<String>, Header, description = "One range of bytes"),
        ("if-none-match" = Option<String>, Header, description = "Entity tags that are known")),
    responses(
        (status = 200, description = "All of it", body = Vec<u8>, content_type = "*/*",
            headers(("etag" = String, description = "Names this content"))),
        (status = 206, description = "The range that was asked for", body = Vec<u8>, content_type = "*/*"),
        (status = 304, description = "It did not change"),
        (status = 416, description = "The range lies outside of it")))]
pub(crate) async fn read<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let content = shared.mesh.content(shared.agent(), point).await?;
    let asked = Asked::of(&method, &headers);
    let headers = content_headers(&content);
    let body = Body::Blob(content.blob);
    let response = content::answer(&*shared.mesh, &asked, StatusCode::OK, headers, body).await?;
    Ok(response.map(axum::body::Body::new))
}

fn content_headers(content: &Content) -> HeaderMap {
    let modified = UNIX_EPOCH.checked_add(Duration::from_millis(content.modified.0)).unwrap_or(UNIX_EPOCH);
    let pairs = [
        (CONTENT_TYPE, content.content_type.clone()),
        (ETAG, quoted(&content.etag)),
        (LAST_MODIFIED, date(modified)),
        (CACHE_CONTROL, "no-cache".to_owned()),
        // Content that users wrote must not act as the API's own page.
        (CONTENT_SECURITY_POLICY, "sandbox".to_owned()),
    ];
    let values = pairs.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?)));
    values.collect()
}

/// A date as HTTP writes it; one that HTTP cannot write is the first that it can.
fn date(time: std::time::SystemTime) -> String {
    // The year 9999 is the last of the format.
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    httpdate::fmt_http_date(if time > last { UNIX_EPOCH } else { time })
}

fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

/// Replaces the content of a File; creates the File when it is not there.
#[utoipa::path(put, path = "/v1/files/{point}", tag = "content",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"),
        ("if-match" = Option<String>, Header, description = "Entity tags of which it must have one"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it must not be there")),
    request_body(content = Vec<u8>, content_type = "*/*", description = "The content"),
    responses((status = 200, description = "It is written", body = Written,
        headers(("etag" = String, description = "Names this content")))))]
pub(crate) async fn write<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    headers: HeaderMap,
    Streamed(body): Streamed,
) -> Result<Response, Failure> {
    let expect = expect(&headers)?;
    let (body, rest) = lend(body);
    let written = shared.mesh.write_file(shared.agent(), point.clone(), body, expect).await;
    let content = rest.after(written).await?;
    let tag = HeaderValue::try_from(quoted(&content.etag)).unwrap_or(HeaderValue::from_static("\"\""));
    let Content { blob, content_type, etag, .. } = content;
    let written = Written { point, content_type, bytes: blob.bytes, etag };
    Ok(([(ETAG, tag)], Json(written)).into_response())
}

fn expect(headers: &HeaderMap) -> Result<Expect, Problem> {
    let wrong = |name: HeaderName, text: &str, help: &str| {
        Problem::new(Code::Usage, format!("`{name}: {text}` cannot guard a write")).help(help)
    };
    match (text(headers, &IF_MATCH)?, text(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Expect::Any),
        (None, Some(text)) if text.trim() == "*" => Ok(Expect::Absent),
        (None, Some(text)) => Err(wrong(IF_NONE_MATCH, text, "`*` alone says that it must not be there")),
        (Some(text), None) if text.trim() == "*" => Ok(Expect::Present(Vec::new())),
        (Some(text), None) => {
            let tag = |tag: &str| Some(tag.trim().strip_prefix('"')?.strip_suffix('"')?.to_owned());
            let tags: Option<Vec<_>> = text.split(',').map(tag).collect();
            tags.map(Expect::Present).ok_or_else(|| wrong(IF_MATCH, text, "send the `ETag` as it came"))
        }
        (Some(text), Some(_)) => Err(wrong(IF_MATCH, text, "send either `If-Match` or `If-None-Match`")),
    }
}
