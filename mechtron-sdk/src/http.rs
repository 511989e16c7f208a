//! Requests and answers in the form of HTTP, which all messages of the mesh have.

use std::borrow::Cow;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::from_json;
use crate::{Error, Result};

/// The methods of HTTP, for `#[http]` and for tests.
pub const GET: &str = "GET";
/// The method that creates or does.
pub const POST: &str = "POST";
/// The method that replaces.
pub const PUT: &str = "PUT";
/// The method that changes a part.
pub const PATCH: &str = "PATCH";
/// The method that deletes.
pub const DELETE: &str = "DELETE";

/// Names and values, in order; names are lowercase.
pub(crate) type Headers = Vec<(Cow<'static, str>, Cow<'static, str>)>;

const JSON: &str = "application/json";

fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
}

/// What an `#[http]` handler is asked.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// What is asked for, without the query; begins with `/`.
    pub path: String,
    /// What came after `?`, as it was sent; empty when nothing did.
    pub query: String,
    /// More about it; names are lowercase.
    pub headers: Headers,
    /// What is given along.
    pub body: Vec<u8>,
    pub(crate) params: Vec<(&'static str, String)>,
}

impl Request {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// What the `{name}` of the handler's path stands for, percent-decoded; empty when the path has none of that
    /// name.
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The same as a number or another type that is read from text.
    ///
    /// # Errors
    /// A refusal with status 400 when it cannot be read.
    pub fn parse_param<T: FromStr>(&self, name: &str) -> Result<T> {
        let value = self.param(name);
        value.parse().map_err(|_| {
            Error::status(400, crate::INVALID_MESSAGE, format!("`{value}` cannot be `{name}` in the path"))
        })
    }

    /// The first value of a name in the query, percent-decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true)? == name).then(|| decode(value, true))?
        })
    }

    /// The body as text.
    ///
    /// # Errors
    /// A refusal with status 400 when it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body)
            .map_err(|_| Error::status(400, crate::INVALID_MESSAGE, "the body is not UTF-8 text"))
    }

    /// The body read as JSON.
    ///
    /// # Errors
    /// A refusal with status 400 that says where it is wrong.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        from_json(&self.body)
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 100 to 599, as in HTTP.
    pub status: u16,
    /// More about it; names are lowercase.
    pub headers: Headers,
    /// What is answered.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer with a body of a content type.
    pub fn new(status: u16, content_type: impl Into<Cow<'static, str>>, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type".into(), content_type.into())], body: body.into() }
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Text, with status 200.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(200, "text/plain; charset=utf-8", text.into())
    }

    /// A page, with status 200. What users wrote must be escaped before.
    pub fn html(html: impl Into<String>) -> Self {
        Self::new(200, "text/html; charset=utf-8", html.into())
    }

    /// A value as JSON, with status 200.
    ///
    /// # Errors
    /// When the value cannot be JSON, such as a map whose keys are not text.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Ok(Self::new(200, JSON, serde_json::to_vec(value)?))
    }

    /// Sends the reader elsewhere (303).
    pub fn see_other(location: impl Into<String>) -> Self {
        Self::empty(303).with_header("location", location.into())
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text; what is not UTF-8 in it is replaced.
    pub fn body_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body read as JSON.
    ///
    /// # Errors
    /// A failure when it is something else.
    pub fn body_json<T: DeserializeOwned>(&self) -> Result<T> {
        if self.body.is_empty() { from_json(&self.body) } else { Ok(serde_json::from_slice(&self.body)?) }
    }
}

/// A value whose body is JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// A text whose body is a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Html<T>(pub T);

/// What an `#[http]` handler may return.
pub trait IntoResponse {
    /// The answer that it is.
    ///
    /// # Errors
    /// When it cannot be one.
    fn into_response(self) -> Result<Response>;
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response> {
        Ok(self)
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Result<Response> {
        Ok(Response::text(self))
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Result<Response> {
        Ok(Response::text(self))
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Result<Response> {
        Ok(Response::new(200, "application/octet-stream", self))
    }
}

impl<T: IntoResponse> IntoResponse for Option<T> {
    /// Nothing is 204.
    fn into_response(self) -> Result<Response> {
        self.map_or_else(|| Ok(Response::empty(204)), T::into_response)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Result<Response> {
        Ok(Response::empty(204))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Result<Response> {
        Response::json(&self.0)
    }
}

impl<T: Into<String>> IntoResponse for Html<T> {
    fn into_response(self) -> Result<Response> {
        Ok(Response::html(self.0))
    }
}

impl<T: IntoResponse> IntoResponse for (u16, T) {
    fn into_response(self) -> Result<Response> {
        Ok(self.1.into_response()?.with_status(self.0))
    }
}

/// Matches a path against a pattern: segments in braces stand for any one segment. The path may carry a query.
pub(crate) fn match_path(pattern: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let mut params = Vec::new();
    let mut given = path.split('/');
    for wanted in pattern.split('/') {
        let segment = given.next()?;
        match wanted.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(_) if segment.is_empty() => return None,
            Some(name) => params.push((name, decode(segment, false)?)),
            None if wanted == segment => {}
            None => return None,
        }
    }
    given.next().is_none().then_some(params)
}

/// Percent-decodes; `None` for what is no UTF-8 or not encoded rightly.
fn decode(text: &str, form: bool) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' if form => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_by_segments() {
        let params = |pattern, path| match_path(pattern, path);
        assert_eq!(params("/", "/"), Some(vec![]));
        assert_eq!(params("/", "/?q=1"), Some(vec![]));
        assert_eq!(params("/", ""), None);
        assert_eq!(params("/total", "/total"), Some(vec![]));
        assert_eq!(params("/total", "/total/"), None);
        assert_eq!(params("/users/{id}", "/users/b%C3%B6b?x"), Some(vec![("id", "böb".to_owned())]));
        assert_eq!(params("/users/{id}", "/users/"), None);
        assert_eq!(params("/users/{id}", "/users/a/b"), None);
        assert_eq!(params("/users/{id}", "/users/%ff"), None);
        assert_eq!(params("/users/{id}", "/users/%4"), None);
    }

    #[test]
    fn a_query_is_decoded() {
        let request = Request { query: "a=1&name=A+b%26c&flag".to_owned(), ..Request::default() };
        assert_eq!(request.query("name").as_deref(), Some("A b&c"));
        assert_eq!(request.query("flag").as_deref(), Some(""));
        assert_eq!(request.query("none"), None);
    }
}
