//! The `/v1` API as a test speaks it: blocking, and honest about lost answers.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::Node;

/// The API of a node that may be killed in between.
#[derive(Debug)]
pub struct Api {
    agent: Agent,
    base: String,
    token: String,
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
        Self { agent: config.build().into(), base, token: format!("Bearer {}", token.trim()) }
    }

    /// Posts JSON; `None` when no answer came.
    pub fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("authorization", &self.token);
        let mut answer = request.send_json(body).ok()?;
        let json = answer.body_mut().read_json().ok()?;
        Some((answer.status().as_u16(), json))
    }

    /// Gets JSON; `None` when no answer came.
    pub fn get(&self, path: &str) -> Option<(u16, Value)> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.token);
        let mut answer = request.call().ok()?;
        let json = answer.body_mut().with_config().limit(u64::MAX).read_json().ok()?;
        Some((answer.status().as_u16(), json))
    }

    /// Opens a stream of JSON lines; `None` when the node is not there.
    pub fn stream(&self, path: &str) -> Option<impl Read + use<>> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.token);
        let answer = request.header("accept", "application/x-ndjson").call().ok()?;
        assert_eq!(answer.status().as_u16(), 200, "{path} is a stream");
        Some(answer.into_body().into_reader())
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
