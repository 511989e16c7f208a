//! A watch that never ends by itself: cut connections are made again and resumed where they were.

use std::time::Duration;

use gateway::shapes::{WatchEvent, WatchStep};
use reqwest::{Method as HttpMethod, header};
use starlane_core::{Code, Problem};

use super::lines::{JsonLines, LinesError};
use super::{Client, SILENCE_MAX, encode};

/// How long to wait between attempts to connect again: twice as long each time, up to an end.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(5) }
    }
}

/// A watch that goes on over cut connections and restarts of the node, without a gap and without repeating a change.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    selector: String,
    backoff: Backoff,
    /// Up to where everything was seen. A list that is not complete moves it not: it is asked for again.
    token: Option<String>,
    wait: Duration,
    failures: u64,
    stream: Option<JsonLines<WatchEvent>>,
}

/// What a watch tells.
#[derive(Debug)]
pub enum WatchNews {
    /// The connection stands; after a cut this says whether the watch goes on or begins again with a list.
    Connected {
        /// How many attempts failed since it was cut.
        failures: u64,
        /// Whether nothing is listed again.
        resumed: bool,
    },
    /// A step of the watch.
    Event(WatchEvent),
    /// The connection was cut or could not be made; the next attempt begins after a while.
    Cut {
        /// Why.
        problem: Problem,
        /// How long the next attempt waits.
        retry_in: Duration,
        /// How many attempts failed since the last good connection.
        failures: u64,
    },
}

impl Watch {
    pub(super) fn new(client: Client, selector: String, since: Option<String>, backoff: Backoff) -> Self {
        let wait = backoff.first;
        Self { client, selector, backoff, token: since, wait, failures: 0, stream: None }
    }

    /// What to resume with: everything up to here was told. `None` before a list was complete.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// What comes next. Waits for ever; safe to drop while it waits.
    ///
    /// # Errors
    /// What no further attempt can cure: a selector or a token that the node does not take, or no permission.
    pub async fn next(&mut self) -> Result<WatchNews, Problem> {
        let Some(stream) = &mut self.stream else {
            if self.failures > 0 {
                tokio::time::sleep(self.wait).await;
            }
            return self.connect().await;
        };
        match stream.next().await {
            Ok(Some(event)) => {
                self.note(&event);
                Ok(WatchNews::Event(event))
            }
            Ok(None) => Ok(self.cut(Problem::new(Code::Unreachable, "the node ended the watch"))),
            Err(LinesError::Broken(error)) => Ok(self.cut(self.client.no_answer(&error))),
            Err(error @ LinesError::Silent(_)) => {
                Ok(self.cut(Problem::new(Code::Unreachable, error.to_string())))
            }
            Err(error @ (LinesError::Unreadable(_) | LinesError::TooLong)) => {
                Err(Problem::new(Code::Internal, error.to_string())
                    .help("is the node of the same version? See `starlane --version` on both sides"))
            }
        }
    }

    async fn connect(&mut self) -> Result<WatchNews, Problem> {
        let mut path = format!("/v1/watch?select={}", encode(&self.selector));
        if let Some(token) = &self.token {
            path.push_str("&since=");
            path.push_str(&encode(token));
        }
        let call = self.client.call(HttpMethod::GET, &self.client.fresh(path));
        match self.client.ok(call.header(header::ACCEPT, "application/x-ndjson")).await {
            Ok(response) => {
                let news = WatchNews::Connected { failures: self.failures, resumed: self.token.is_some() };
                self.stream = Some(JsonLines::new(response, Some(SILENCE_MAX)));
                Ok(news)
            }
            Err(problem) if problem.code == Code::WatchGone && self.token.is_some() => {
                self.token = None;
                Ok(self.cut(problem))
            }
            Err(problem) if is_passing(&problem) => Ok(self.cut(problem)),
            Err(problem) => Err(problem),
        }
    }

    /// Moves the token, and takes the connection for good: only an event proves it.
    fn note(&mut self, event: &WatchEvent) {
        self.failures = 0;
        self.wait = self.backoff.first;
        match &event.event {
            WatchStep::Listed { last: false, .. } => {}
            WatchStep::Listed { .. }
            | WatchStep::Changed { .. }
            | WatchStep::Counted { .. }
            | WatchStep::Ranked { .. }
            | WatchStep::Bookmark { .. } => {
                self.token = Some(event.token.clone());
            }
            WatchStep::Gone { .. } => self.token = None,
        }
    }

    fn cut(&mut self, problem: Problem) -> WatchNews {
        self.stream = None;
        if self.failures > 0 {
            self.wait = (self.wait * 2).min(self.backoff.max);
        }
        self.failures += 1;
        WatchNews::Cut { problem, retry_in: self.wait, failures: self.failures }
    }
}

/// Whether another attempt can end better.
fn is_passing(problem: &Problem) -> bool {
    matches!(
        problem.code,
        Code::Unreachable
            | Code::Draining
            | Code::Busy
            | Code::NotReady
            | Code::Timeout
            | Code::Expired
            | Code::StoreUnavailable
    )
}
