//! What web people expect of an answer: HEAD, conditions, ranges, compression (RFC 9110).

use std::io::{self, Write as _};
use std::ops::Range;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use starlane_core::{Blob, Body, Problem};

use crate::body::Answer;
use crate::mesh::Mesh;

/// A smaller body is not worth compressing.
const GZIP_BYTES_MIN: u64 = 1024;

/// What a request says about the form of its answer.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Whether the method is GET or HEAD; nothing else has conditions or ranges here.
    reads: bool,
    head: bool,
    gzip: bool,
    if_none_match: Option<HeaderValue>,
    if_modified_since: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
    range: Option<HeaderValue>,
}

impl Asked {
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let head = *method == Method::HEAD;
        let get = |name| headers.get(name).cloned();
        Self {
            reads: head || *method == Method::GET,
            head,
            gzip: accepts_gzip(headers),
            if_none_match: get(IF_NONE_MATCH),
            if_modified_since: get(IF_MODIFIED_SINCE),
            if_range: get(IF_RANGE),
            range: if head { None } else { get(RANGE) },
        }
    }
}

/// Makes the answer from what the mesh gave: as much of the body as is asked for, in the form that is asked for.
///
/// # Errors
/// When the blob of the body cannot be read.
pub(crate) async fn answer<M: Mesh>(
    mesh: &M,
    asked: &Asked,
    status: StatusCode,
    mut headers: HeaderMap,
    body: Body,
) -> Result<Response<Answer>, Problem> {
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(respond(status, headers, Answer::empty()));
    }
    if let Body::Blob(blob) = &body {
        headers.entry(ETAG).or_insert_with(|| digest_tag(blob));
    }
    let length = body.len();
    let mut part = 0..length;
    let mut status = status;
    if asked.reads && status == StatusCode::OK {
        if unchanged(asked, &headers) {
            headers.remove(CONTENT_TYPE);
            return Ok(respond(StatusCode::NOT_MODIFIED, headers, Answer::empty()));
        }
        if can_be_ranged(&body, &headers) {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            match range(asked, &headers, length) {
                Ranged::Whole => {}
                Ranged::Part(range) => {
                    let text = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                    set(&mut headers, CONTENT_RANGE, &text);
                    status = StatusCode::PARTIAL_CONTENT;
                    part = range;
                }
                Ranged::Outside => {
                    set(&mut headers, CONTENT_RANGE, &format!("bytes */{length}"));
                    headers.remove(CONTENT_TYPE);
                    return Ok(respond(StatusCode::RANGE_NOT_SATISFIABLE, headers, Answer::empty()));
                }
            }
        }
        if status == StatusCode::OK && compressible(&headers, length) {
            headers.append(VARY, HeaderValue::from_static("accept-encoding"));
            if asked.gzip {
                return gzipped(mesh, asked, status, headers, body).await;
            }
        }
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    if asked.head || part.is_empty() {
        return Ok(respond(status, headers, Answer::empty()));
    }
    let body = match body {
        Body::Bytes(bytes) if part.end - part.start == bytes.len() as u64 => Answer::whole(bytes),
        // A range of bytes at hand lies within what memory can address.
        Body::Bytes(bytes) => Answer::whole(bytes.slice(part.start as usize..part.end as usize)),
        Body::Blob(blob) => Answer::parts(stream(mesh, blob, part).await?),
    };
    Ok(respond(status, headers, body))
}

fn respond(status: StatusCode, headers: HeaderMap, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn set(headers: &mut HeaderMap, name: http::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn digest_tag(blob: &Blob) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", blob.digest)).unwrap_or(HeaderValue::from_static("\"\""))
}

async fn stream<M: Mesh>(
    mesh: &M,
    blob: Blob,
    part: Range<u64>,
) -> Result<BoxStream<'static, io::Result<Bytes>>, Problem> {
    Ok(mesh.blob(blob, part).await?.map_err(io::Error::other).boxed())
}

/// Whether the client has this answer already.
fn unchanged(asked: &Asked, headers: &HeaderMap) -> bool {
    if let Some(known) = &asked.if_none_match {
        return headers.get(ETAG).is_some_and(|tag| lists_tag(known, tag));
    }
    let times = |value: Option<&HeaderValue>| {
        value.and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
    };
    match (times(asked.if_modified_since.as_ref()), times(headers.get(LAST_MODIFIED))) {
        (Some(known), Some(modified)) => modified <= known,
        _ => false,
    }
}

/// Whether a list of entity tags holds this one, compared weakly.
pub(crate) fn lists_tag(list: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(list), Ok(tag)) = (list.to_str(), tag.to_str()) else { return false };
    let opaque = |tag: &str| tag.trim().strip_prefix("W/").unwrap_or(tag.trim()).to_owned();
    list.trim() == "*" || list.split(',').any(|known| opaque(known) == opaque(tag))
}

/// Whether parts of this answer fit together when they come from several requests.
fn can_be_ranged(body: &Body, headers: &HeaderMap) -> bool {
    let fixed =
        matches!(body, Body::Blob(_)) || headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
    fixed && !headers.contains_key(CONTENT_RANGE) && !headers.contains_key(CONTENT_ENCODING)
}

#[derive(Debug, PartialEq, Eq)]
enum Ranged {
    Whole,
    Part(Range<u64>),
    Outside,
}

fn range(asked: &Asked, headers: &HeaderMap, length: u64) -> Ranged {
    let Some(range) = asked.range.as_ref().and_then(|range| range.to_str().ok()) else {
        return Ranged::Whole;
    };
    if let Some(known) = &asked.if_range {
        let strong = |value: &HeaderValue| !value.as_bytes().starts_with(b"W/");
        let same = [ETAG, LAST_MODIFIED].iter().any(|name| headers.get(name) == Some(known)) && strong(known);
        if !same {
            return Ranged::Whole;
        }
    }
    parse_range(range, length)
}

/// Reads a range of bytes. Several ranges at once, other units and what cannot be read give the whole, as RFC 9110
/// lets a server do.
fn parse_range(text: &str, length: u64) -> Ranged {
    let Some((from, to)) = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Ranged::Whole;
    };
    let number = |digits: &str| -> Option<u64> {
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let range = match (from.trim(), to.trim()) {
        ("", "") => return Ranged::Whole,
        ("", last) => match number(last) {
            Some(0) => return Ranged::Outside,
            Some(last) => length.saturating_sub(last)..length,
            None => return Ranged::Whole,
        },
        (first, "") => match number(first) {
            Some(first) => first..length,
            None => return Ranged::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
            _ => return Ranged::Whole,
        },
    };
    if range.start >= length { Ranged::Outside } else { Ranged::Part(range) }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

fn compressible(headers: &HeaderMap, length: u64) -> bool {
    if length < GZIP_BYTES_MIN || headers.contains_key(CONTENT_ENCODING) {
        return false;
    }
    let text =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    if text(CACHE_CONTROL).contains("no-transform") {
        return false;
    }
    let kind = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind != "text/event-stream"
        && (kind.starts_with("text/")
            || kind.ends_with("+json")
            || kind.ends_with("+xml")
            || matches!(
                kind.as_str(),
                "application/json" | "application/javascript" | "application/xml" | "application/wasm"
            ))
}

async fn gzipped<M: Mesh>(
    mesh: &M,
    asked: &Asked,
    status: StatusCode,
    mut headers: HeaderMap,
    body: Body,
) -> Result<Response<Answer>, Problem> {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.remove(ACCEPT_RANGES);
    // The tag names the content in its first form; compared weakly, it still serves.
    let weak = headers.get(ETAG).and_then(|tag| tag.to_str().ok()).filter(|tag| !tag.starts_with("W/"));
    if let Some(weak) = weak.map(|tag| format!("W/{tag}")) {
        set(&mut headers, ETAG, &weak);
    }
    if asked.head {
        return Ok(respond(status, headers, Answer::empty()));
    }
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let body = match body {
        Body::Bytes(bytes) => {
            let mut encoder = encoder;
            let packed = encoder.write_all(&bytes).and_then(|()| encoder.finish());
            let packed = packed.map_err(|error| {
                Problem::new(starlane_core::Code::Internal, format!("cannot compress the answer: {error}"))
            })?;
            headers.insert(CONTENT_LENGTH, HeaderValue::from(packed.len()));
            Answer::whole(packed)
        }
        Body::Blob(blob) => Answer::parts(gzip(stream(mesh, blob, 0..blob.bytes).await?, encoder)),
    };
    Ok(respond(status, headers, body))
}

/// Compresses a stream as it passes, a chunk at a time.
fn gzip(
    parts: BoxStream<'static, io::Result<Bytes>>,
    encoder: GzEncoder<Vec<u8>>,
) -> BoxStream<'static, io::Result<Bytes>> {
    futures::stream::try_unfold(Some((parts, encoder)), |state| async {
        let Some((mut parts, mut encoder)) = state else { return Ok(None) };
        while let Some(part) = parts.try_next().await? {
            encoder.write_all(&part)?;
            let packed = std::mem::take(encoder.get_mut());
            if !packed.is_empty() {
                return Ok(Some((packed.into(), Some((parts, encoder)))));
            }
        }
        Ok(Some((encoder.finish()?.into(), None)))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        for (text, range) in [
            ("bytes=0-4", Ranged::Part(0..5)),
            ("bytes=5-", Ranged::Part(5..10)),
            ("bytes=-3", Ranged::Part(7..10)),
            ("bytes=-30", Ranged::Part(0..10)),
            ("bytes=8-99999999999999999999999", Ranged::Part(8..10)),
            ("bytes=10-", Ranged::Outside),
            ("bytes=-0", Ranged::Outside),
            ("bytes=4-2", Ranged::Whole),
            ("bytes=0-1,3-4", Ranged::Whole),
            ("bytes=+1-2", Ranged::Whole),
            ("lines=0-1", Ranged::Whole),
            ("bytes=-", Ranged::Whole),
        ] {
            assert_eq!(parse_range(text, 10), range, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Ranged::Outside);
    }

    #[test]
    fn gzip_is_used_only_when_it_is_welcome() {
        let accepts = |text| {
            let headers = [(ACCEPT_ENCODING, HeaderValue::from_static(text))].into_iter().collect();
            accepts_gzip(&headers)
        };
        assert!(accepts("gzip") && accepts("br, GZIP;q=0.5"));
        assert!(!accepts("br") && !accepts("gzip;q=0") && !accepts("identity, gzip; q=0.0"));
    }

    #[test]
    fn tags_are_compared_weakly() {
        let lists = |list, tag| lists_tag(&HeaderValue::from_static(list), &HeaderValue::from_static(tag));
        assert!(lists("\"a\", W/\"b\"", "\"b\"") && lists("*", "\"x\"") && lists("\"b\"", "W/\"b\""));
        assert!(!lists("\"a\"", "\"b\"") && !lists("", "\"b\""));
    }
}
