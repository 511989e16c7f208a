//! What the model's calls are over `/v1`, and what the node's answers say.

use std::time::Duration;

use serde_json::{Value, json};

use super::pair::{Answer, CHILD, Call, Mode, PARENT, Refusal, Seen};
use crate::Api;
use crate::api::{Lost, Request};

/// What a client heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// It was answered.
    Answer(Answer),
    /// It was surely not done, for a reason that has nothing to do with the resources.
    NotDone,
    /// Nobody knows whether it was done.
    Nothing,
    /// Something that the API does not say for such a call.
    Strange(String),
}

/// Two resources, asked for at one node.
#[derive(Debug)]
pub struct Client<'a> {
    /// The node.
    pub api: &'a Api,
    /// Below which point the two are.
    pub base: &'a str,
    /// Whether reads may be old.
    pub stale: bool,
    /// How long an answer is waited for.
    pub patience: Duration,
}

impl Client<'_> {
    /// Asks, and says what was heard.
    pub fn ask(&self, call: &Call) -> Heard {
        let request = self.request(call);
        match self.api.ask(&request, self.patience) {
            Ok((status, answer)) => self.read(call, status, &answer),
            Err(Lost::Unsent) => Heard::NotDone,
            Err(Lost::Unheard) => Heard::Nothing,
        }
    }

    fn request(&self, call: &Call) -> Request {
        let stale = if self.stale { "stale=ok" } else { "" };
        let path = |of: usize| format!("/v1/resources/{}", self.point(of));
        let expect = |expected: Option<Seen>| expected.map(|seen| seen.revision);
        let request = |method, path| Request { method, path, body: None, if_match: None };
        match *call {
            Call::Get { of } => request("GET", format!("{}?{stale}", path(of))),
            Call::Both => request("GET", format!("/v1/resources?select={}:**&{stale}", self.base)),
            Call::Create { of, mode, value } => {
                let mode = match mode {
                    Mode::New => "new",
                    Mode::Ensure => "ensure",
                    Mode::Override => "override",
                };
                let properties = json!({ "last": value, "whole": value });
                let body = json!({ "point": self.point(of), "kind": "Base", "mode": mode, "properties": properties });
                Request { body: Some(body), ..request("POST", "/v1/resources".to_owned()) }
            }
            Call::Set { of, whole, value, expected } => {
                let set =
                    if whole { json!({ "last": value, "whole": value }) } else { json!({ "last": value }) };
                let body = Some(json!({ "set": set }));
                Request { body, if_match: expect(expected), ..request("PATCH", path(of)) }
            }
            Call::Delete { of, recursive, expected } => {
                let path = format!("{}?recursive={recursive}", path(of));
                Request { if_match: expect(expected), ..request("DELETE", path) }
            }
        }
    }

    fn point(&self, of: usize) -> String {
        let names = ["p", "p:c"];
        format!("{}:{}", self.base, names[of])
    }

    fn read(&self, call: &Call, status: u16, answer: &Value) -> Heard {
        let strange = || Heard::Strange(format!("{call:?} was answered {status} {answer}"));
        let told = match (call, status) {
            (Call::Both, 200) => self.both(answer).map(Answer::Are),
            (Call::Delete { .. }, 200) => self.deleted(answer).map(Answer::Deleted),
            (Call::Create { .. }, 201) => seen(answer).map(Answer::Made),
            (Call::Get { .. } | Call::Set { .. }, 200) => seen(answer).map(Answer::Is),
            (Call::Create { mode, .. }, 200) if *mode != Mode::New => seen(answer).map(Answer::Is),
            _ => return refused(answer).unwrap_or_else(strange),
        };
        told.map_or_else(strange, Heard::Answer)
    }

    fn place(&self, point: &Value) -> Option<usize> {
        let point = point.as_str()?;
        [PARENT, CHILD].into_iter().find(|of| self.point(*of) == point)
    }

    fn both(&self, page: &Value) -> Option<[Option<Seen>; 2]> {
        let mut both = [None; 2];
        for resource in page["resources"].as_array()? {
            both[self.place(&resource["point"])?] = Some(seen(resource)?);
        }
        Some(both)
    }

    fn deleted(&self, list: &Value) -> Option<[bool; 2]> {
        let mut both = [false; 2];
        for deleted in list["deleted"].as_array()? {
            both[self.place(&deleted["point"])?] = true;
        }
        Some(both)
    }
}

fn seen(resource: &Value) -> Option<Seen> {
    let property = |key: &str| resource["properties"][key]["value"].as_u64();
    Some(Seen {
        last: property("last")?,
        whole: property("whole")?,
        version: resource["version"].as_u64()?,
        revision: resource["modified"].as_u64()?,
    })
}

/// What a problem says; `None` when it is none that such calls have.
fn refused(problem: &Value) -> Option<Heard> {
    Some(match problem["code"].as_str()? {
        "E-NOT-FOUND" => Heard::Answer(Answer::Refused(Refusal::NotFound)),
        "E-EXISTS" => Heard::Answer(Answer::Refused(Refusal::Exists)),
        "E-REVISION-CONFLICT" => Heard::Answer(Answer::Refused(Refusal::Changed)),
        "E-HAS-CHILDREN" => Heard::Answer(Answer::Refused(Refusal::HasChildren)),
        // Of each of these the documentation says that nothing was changed.
        "E-BUSY" | "E-UNREACHABLE" | "E-NOT-READY" | "E-DRAINING" | "E-EXPIRED" => Heard::NotDone,
        // The store may have failed before or after.
        "E-TIMEOUT" | "E-STORE" => Heard::Nothing,
        _ => return None,
    })
}
