//! The `/v1` API as a test speaks it: blocking, and honest about lost answers.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::Node;
#[cfg(target_os = "linux")]
use crate::net::Space;

/// How long after its deadline a request is given up.
const HUNG: Duration = Duration::from_secs(20);

/// How a request ended, as the node tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The status of the answer.
    pub status: u16,
    /// `ok`, `rejected`, `failed` or `unknown`.
    pub outcome: String,
    /// The reply, or the problem.
    pub json: Value,
}

impl Asked {
    /// Whether the mechtron answered with a success.
    pub fn is_ok(&self) -> bool {
        self.outcome == "ok" && (200..300).contains(&self.status)
    }
}

/// A request about resources.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    /// `GET`, `POST`, `PATCH` or `DELETE`.
    pub method: &'static str,
    /// With its query.
    pub path: String,
    /// JSON.
    pub body: Option<Value>,
    /// The revision that it is meant for.
    pub if_match: Option<u64>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nobody was there to be asked.
    Unsent,
    /// The node may have heard it, and done it, or do it later.
    Unheard,
}

/// The API of a node that may be killed in between.
#[derive(Debug)]
pub struct Api {
    agent: Agent,
    base: String,
    token: String,
    /// The network that the node is in.
    #[cfg(target_os = "linux")]
    space: Option<Space>,
}

impl Api {
    /// The API of a node, on its administrator's authority.
    pub fn of(node: &Node) -> Self {
        let token = std::fs::read_to_string(node.data().join("admin.token")).expect("the node made a token");
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_idle_connections(0)
            .timeout_connect(Some(Duration::from_secs(10)));
        let base = format!("http://{}", node.api());
        Self {
            agent: config.build().into(),
            base,
            token: format!("Bearer {}", token.trim()),
            #[cfg(target_os = "linux")]
            space: node.served().space.clone(),
        }
    }

    fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        #[cfg(target_os = "linux")]
        if let Some(space) = &self.space {
            return space.inside(work);
        }
        work()
    }

    /// The same for a thread that moves into the node's network for good, which spares a thread for each request.
    pub fn entered(mut self) -> Self {
        #[cfg(target_os = "linux")]
        if let Some(space) = self.space.take() {
            space.enter();
        }
        self
    }

    /// Asks once, and waits so long for the answer.
    pub(crate) fn ask(&self, request: &Request, patience: Duration) -> Result<(u16, Value), Lost> {
        let mut builder = ureq::http::Request::builder()
            .method(request.method)
            .uri(format!("{}{}", self.base, request.path))
            .header("authorization", &self.token);
        if let Some(revision) = request.if_match {
            builder = builder.header("if-match", format!("\"{revision}\""));
        }
        self.inside(|| {
            let answer = match &request.body {
                Some(body) => {
                    let asked = builder.header("content-type", "application/json").body(body.to_string());
                    let asked = self.agent.configure_request(asked.expect("a request can be written"));
                    self.agent.run(asked.timeout_global(Some(patience)).build())
                }
                None => {
                    let asked =
                        self.agent.configure_request(builder.body(()).expect("a request can be written"));
                    self.agent.run(asked.timeout_global(Some(patience)).build())
                }
            };
            let mut answer = answer.map_err(|error| match error {
                ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => Lost::Unsent,
                ureq::Error::Timeout(ureq::Timeout::Connect) | ureq::Error::ConnectionFailed => Lost::Unsent,
                _ => Lost::Unheard,
            })?;
            // An answer that breaks off tells nothing for sure.
            let json = answer.body_mut().read_json().map_err(|_| Lost::Unheard)?;
            Ok((answer.status().as_u16(), json))
        })
    }

    /// Posts JSON; `None` when no answer came.
    pub fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("authorization", &self.token);
        self.inside(|| {
            let mut answer = request.send_json(body).ok()?;
            let json = answer.body_mut().read_json().ok()?;
            Some((answer.status().as_u16(), json))
        })
    }

    /// Gets JSON; `None` when no answer came.
    pub fn get(&self, path: &str) -> Option<(u16, Value)> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.token);
        self.inside(|| {
            let mut answer = request.call().ok()?;
            let json = answer.body_mut().with_config().limit(u64::MAX).read_json().ok()?;
            Some((answer.status().as_u16(), json))
        })
    }

    /// Asks a mechtron and waits at most so long; `None` when no answer came from the node.
    pub fn request(&self, point: &str, method: &str, body: &Value, timeout: Duration) -> Option<Asked> {
        let path = format!("/v1/request/{point}?method={method}&timeout={}ms", timeout.as_millis());
        let request = self.agent.post(format!("{}{path}", self.base)).header("authorization", &self.token);
        // A node that does not answer at all is told from one that answers late.
        let request = request.config().timeout_global(Some(timeout + HUNG)).build();
        self.inside(|| {
            let mut answer = request.send_json(body).ok()?;
            let outcome = answer.headers().get("starlane-outcome");
            let outcome = outcome.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            let json = answer.body_mut().read_json().unwrap_or_default();
            Some(Asked { status: answer.status().as_u16(), outcome, json })
        })
    }

    /// Opens a stream of content, from some byte on; `None` when there is none.
    pub fn content(&self, point: &str, from: u64) -> Option<impl Read + use<>> {
        let path = format!("/v1/files/{}", point.replace('/', "%2F"));
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.token);
        let request = request.header("range", format!("bytes={from}-"));
        let answer = self.inside(|| request.call().ok())?;
        (answer.status().as_u16() == 206)
            .then(|| answer.into_body().into_with_config().limit(u64::MAX).reader())
    }

    /// Opens a stream of JSON lines; `None` when the node is not there.
    pub(crate) fn stream(&self, path: &str) -> Option<impl Read + use<>> {
        match self.try_stream(path) {
            Ok(stream) => Some(stream),
            Err(status) => {
                assert_eq!(status, None, "{path} is a stream");
                None
            }
        }
    }

    /// Opens a stream of JSON lines, or answers the status that came instead, if any.
    pub(crate) fn try_stream(&self, path: &str) -> Result<impl Read + use<>, Option<u16>> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.token);
        let request = request.header("accept", "application/x-ndjson");
        let answer = self.inside(|| request.call()).map_err(|_| None)?;
        match answer.status().as_u16() {
            200 => Ok(answer.into_body().into_with_config().limit(u64::MAX).reader()),
            status => Err(Some(status)),
        }
    }

    /// The events of a watch until the connection is lost; `None` when the node is not there.
    pub fn events(&self, path: &str) -> Option<impl Iterator<Item = Value> + use<>> {
        let lines = BufReader::new(self.stream(path)?).lines().map_while(Result::ok);
        let events = lines.filter(|line| !line.is_empty());
        Some(events.map(|line| serde_json::from_str(&line).expect("events are JSON")))
    }

    /// The points of a selector's whole answer.
    pub fn points(&self, selector: &str) -> BTreeSet<String> {
        let (mut points, mut cursor) = (BTreeSet::new(), String::new());
        loop {
            let (status, page) = self
                .get(&format!("/v1/resources?select={selector}&limit=1000{cursor}"))
                .expect("the node answers");
            assert_eq!(status, 200, "{page}");
            let resources = page["resources"].as_array().expect("a page has resources");
            points.extend(
                resources.iter().filter_map(|resource| resource["point"].as_str().map(str::to_owned)),
            );
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return points,
            }
        }
    }
}
