//! How one request runs through a rule.

use std::sync::Arc;

use bytes::Bytes;

use super::check::Check;
use super::route::{Destination, Leg, Route};
use crate::{Blob, Body, Code, Headers, Method, Point, Problem, Reply, Request};

/// One request on its way through a rule: ask [`next`](Pipeline::next) what to do, and [`answer`](Pipeline::answer)
/// what came of it, until there is an answer or a refusal.
#[derive(Debug, Clone)]
pub struct Pipeline {
    legs: Vec<Leg>,
    at: usize,
    request: Request,
    last: Option<Reply>,
    end: Option<End>,
}

#[derive(Debug, Clone)]
enum End {
    Answered(Reply),
    Refused(Box<Problem>),
}

/// What is to be done next for a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask a point, and hand its answer to the pipeline. A point that holds content answers with it.
    Ask {
        /// Whom.
        to: Point,
        /// What: the caller's method, unless the stop is a call.
        method: Method,
        /// Of what: the caller's path with its query, unless the stop is a call, which keeps the query alone.
        path: Arc<str>,
        /// The caller's headers; those that describe the body are the body's.
        headers: Headers,
        /// The caller's body, or that of the last answer.
        body: Body,
    },
    /// Let the resource's own code answer, and hand that to the pipeline.
    Own {
        /// The caller's method.
        method: Method,
        /// The caller's path with its query.
        path: Arc<str>,
        /// As in `Ask`.
        headers: Headers,
        /// As in `Ask`.
        body: Body,
    },
    /// Done: this goes to the caller.
    Answer(Reply),
    /// Done: the request goes no further.
    Refuse(Problem),
}

impl Pipeline {
    pub(super) fn new(route: Route, request: Request) -> Self {
        let end = route.needs_auth().then(|| {
            let problem = Problem::new(Code::Unsupported, "the rule asks for a caller who is signed in")
                .help("`Route(auth)` is part of the language and not supported yet; leave out `(auth)` to let anybody in");
            End::Refused(Box::new(problem))
        });
        Self { legs: route.legs, at: 0, request, last: None, end }
    }

    /// What to do now. Says the same again until it is answered.
    #[expect(clippy::should_implement_trait, reason = "a pipeline waits for an answer between two actions")]
    pub fn next(&mut self) -> Action {
        if self.end.is_none() {
            let Some(leg) = self.legs.get(self.at) else {
                // Every rule ends with the caller, so that this is never reached.
                return Action::Refuse(Problem::new(Code::Internal, "a rule of a bind does not end"));
            };
            if let Err(problem) = self.check(leg) {
                self.end = Some(End::Refused(Box::new(problem)));
            } else if leg.to == Destination::Caller {
                self.end = self.last.take().map(End::Answered);
            }
        }
        match &self.end {
            Some(End::Answered(reply)) => return Action::Answer(reply.clone()),
            Some(End::Refused(problem)) => return Action::Refuse((**problem).clone()),
            None => {}
        }
        let Request { method, path, headers, body } = self.request.clone();
        match &self.legs[self.at].to {
            Destination::Point(to) => Action::Ask { to: to.clone(), method, path, headers, body },
            Destination::Call { to, method, path: own } => Action::Ask {
                to: to.clone(),
                method: method.clone(),
                path: with_query(own, &path),
                headers,
                body,
            },
            Destination::Own | Destination::Caller => Action::Own { method, path, headers, body },
        }
    }

    /// Tells what the last action was answered. A 2xx answer goes on, with its body as the next request's; any other
    /// goes to the caller at once.
    pub fn answer(&mut self, reply: Reply) {
        if self.end.is_some() {
            return;
        }
        if !reply.is_success() {
            self.end = Some(End::Answered(reply));
            return;
        }
        let headers = &mut self.request.headers;
        headers.remove("content-length");
        for name in ["content-type", "content-encoding", "content-language"] {
            match reply.headers.get(name) {
                Some(value) => headers.set(name, value),
                None => headers.remove(name),
            }
        }
        self.request.body = reply.body.clone();
        self.last = Some(reply);
        self.at += 1;
    }

    /// The content that the next check looks into: to be handed over with [`read`](Pipeline::read) before
    /// [`next`](Pipeline::next) is asked.
    pub fn to_read(&self) -> Option<Blob> {
        let leg = self.legs.get(self.at).filter(|_| self.end.is_none())?;
        match &self.request.body {
            Body::Blob(blob) if leg.check.is_some_and(Check::reads) => Some(*blob),
            _ => None,
        }
    }

    /// Hands over the bytes of the content that was to be read; it goes on as a body at hand.
    pub fn read(&mut self, bytes: Bytes) {
        self.request.body = Body::Bytes(bytes);
    }

    fn check(&self, leg: &Leg) -> Result<(), Problem> {
        let Some(check) = leg.check else { return Ok(()) };
        let whose = if self.last.is_some() { "answer" } else { "request" };
        check.holds(&self.request.body).map_err(|reason| {
            let name = check.as_str();
            Problem::new(Code::MessageInvalid, format!("the body of the {whose} {reason}"))
                .help(format!("the bind lets only `{name}` through here"))
        })
    }
}

/// A path with the query of the caller's.
fn with_query(path: &Arc<str>, original: &str) -> Arc<str> {
    match original.split_once('?') {
        None => Arc::clone(path),
        Some((_, query)) => {
            let joint = if path.contains('?') { '&' } else { '?' };
            format!("{path}{joint}{query}").into()
        }
    }
}
