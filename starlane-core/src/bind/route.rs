//! Which rule a request takes, and what its captures make of the stops.

use std::sync::Arc;

use regex::Captures;

use super::check::Check;
use super::{Address, Pipeline, Rule, Stop};
use crate::cursor::shorten;
use crate::template::Template;
use crate::{Code, Method, Point, Problem, Request};

/// The rule that applies to a request, with everything in it known.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    needs_auth: bool,
    pub(super) legs: Vec<Leg>,
}

/// One step of a route.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leg {
    pub(super) check: Option<Check>,
    pub(super) to: Destination,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Destination {
    Caller,
    Own,
    Point(Point),
    Call { to: Point, method: Method, path: Arc<str> },
}

impl Route {
    /// Whether the rule asks for a caller who is signed in. Such a route only ever refuses, as that is not supported
    /// yet.
    pub fn needs_auth(&self) -> bool {
        self.needs_auth
    }

    /// Begins to run a request through the rule.
    pub fn start(self, request: Request) -> Pipeline {
        Pipeline::new(self, request)
    }
}

pub(super) fn find(rules: &[Rule], method: &Method, path: &str) -> Result<Option<Route>, Problem> {
    let path = path.split('?').next().unwrap_or_default();
    for rule in rules {
        if !rule.is_for(method) {
            continue;
        }
        let captures = match &rule.path {
            None => None,
            Some(pattern) => match pattern.regex.captures(path) {
                Some(captures) => Some(captures),
                None => continue,
            },
        };
        return rule.route(path, captures.as_ref()).map(Some);
    }
    Ok(None)
}

impl Rule {
    fn is_for(&self, method: &Method) -> bool {
        self.family.is_none_or(|family| family == method.family)
            && self.method.as_ref().is_none_or(|name| *name == method.name)
    }

    fn route(&self, path: &str, captures: Option<&Captures<'_>>) -> Result<Route, Problem> {
        let legs = self.steps.iter().map(|step| {
            let to = match &step.stop {
                Stop::Caller => Destination::Caller,
                Stop::Own => Destination::Own,
                Stop::Point(to) => Destination::Point(point(to, path, captures)?),
                Stop::Call { to, method, path: template } => Destination::Call {
                    to: point(to, path, captures)?,
                    method: method.clone(),
                    path: call_path(template, captures)?,
                },
            };
            Ok(Leg { check: step.arrow.check, to })
        });
        Ok(Route { needs_auth: self.auth, legs: legs.collect::<Result<_, Problem>>()? })
    }
}

/// The point of a stop. A capture is decoded once; before `:/` it must be one segment, after it a safe path.
fn point(address: &Address, path: &str, captures: Option<&Captures<'_>>) -> Result<Point, Problem> {
    if let Some(point) = &address.point {
        return Ok(point.clone());
    }
    let refuse = |reason: &str| {
        let detail = format!("the path `{}` leads to no point: {reason}", shorten(path));
        Problem::new(Code::MessageInvalid, detail)
    };
    let text = address.template.fill(|before, name, _| {
        let value = decode(capture(name, captures)).ok_or_else(|| refuse("it is not UTF-8 when decoded"))?;
        if !before.contains(":/") && (value.is_empty() || value.contains([':', '/'])) {
            return Err(refuse(&format!("`{}` is not one segment", shorten(&value))));
        }
        Ok(value)
    })?;
    text.parse().map_err(|error: crate::PointError| refuse(&error.reason))
}

/// The path of a call. Its captures stay encoded: whoever is called decodes them, once.
fn call_path(template: &Template, captures: Option<&Captures<'_>>) -> Result<Arc<str>, Problem> {
    let path = template.fill(|_, name, _| Ok(capture(name, captures).to_owned()))?;
    Ok(if path.starts_with('/') { path.into() } else { format!("/{path}").into() })
}

/// The text of a capture; empty when its part of the pattern was not needed.
fn capture<'a>(name: &str, captures: Option<&Captures<'a>>) -> &'a str {
    let found = captures.and_then(|captures| match name.parse() {
        Ok(number) => captures.get(number),
        Err(_) => captures.name(name),
    });
    found.map_or("", |found| found.as_str())
}

/// Decodes percent encoding (RFC 3986); `%` before anything but two hexadecimal digits stands for itself.
fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}
