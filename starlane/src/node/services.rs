//! What nodes ask each other beside messages, and how it is written: users can make none of these calls.
//!
//! A call's body is the length of a JSON document as four bytes, lowest first, the document, and bytes that belong to it: the
//! state of a mechtron on its way. The answer is written the same way; its document is what was asked for, or the problem.
//!
//! Nodes of neighbouring versions ask each other, so what is here stays as it is: a new question is a new variant, which an
//! older node refuses with `E-UNSUPPORTED`, and a new field has a default. `services.golden` holds all of it fast.

use bytes::{BufMut, Bytes, BytesMut};
use gateway::shapes::{LogLine, ProblemDetails, TokenInfo};
use mesh::Service;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use starlane_core::{Agent, Code, Epoch, Generation, Key, NodeName, Point, Problem, Refusal, Role};

/// The store of the registry.
pub(super) const STORE: Service = Service(1);
/// The contents of the registry's node.
pub(super) const BLOBS: Service = Service(2);
/// The states that the registry's node keeps for mechtrons.
pub(super) const STATES: Service = Service(3);
/// The leader, which decides where mechtrons live and who is a member: [`LeaderAsk`].
pub(super) const LEADER: Service = Service(4);
/// The host of a node: [`HostAsk`].
pub(super) const HOST: Service = Service(5);
/// The desk where nodes are enrolled: a request to join or to renew, and its answer.
pub(super) const DESK: Service = Service(6);

/// What the leader is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum LeaderAsk {
    /// A node tells that it is alive; answered with nothing.
    Heard(Heard),
    /// To move a mechtron; answered when it lives there, with [`Placed`].
    Move { point: Point, to: NodeName },
    /// Why a mechtron lives where it does; answered with [`gateway::shapes::Why`].
    Why { point: Point },
    /// How the nodes are; answered with a list of [`NodeLife`].
    Nodes,
    /// To shut a node out; answered with nothing.
    Revoke { agent: Agent, name: NodeName },
    /// To make a token; answered with [`MadeToken`].
    MakeToken { agent: Agent, terms: Terms },
    /// The tokens that can still be used.
    Tokens,
    /// To take a token back; answered with nothing.
    DeleteToken { agent: Agent, id: String },
}

/// What a node tells of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Load {
    /// Mechtrons in memory.
    pub(super) live: u64,
    /// Messages that wait or are being handled.
    pub(super) queue: u64,
}

/// That a node is alive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Heard {
    pub(super) generation: Generation,
    pub(super) load: Load,
    /// The mechtrons that it let go of and was not assigned anew, each with the epoch under which it did.
    pub(super) held: Vec<(Point, Epoch)>,
    /// The resources that it installs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) installing: Vec<Point>,
}

/// Where a mechtron lives now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Placed {
    pub(super) from: Option<NodeName>,
    pub(super) epoch: Epoch,
}

/// How a node is, as the leader knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NodeLife {
    pub(super) name: NodeName,
    /// Whether it lives.
    pub(super) alive: bool,
    /// Mechtrons that live there, or will.
    pub(super) assigned: u64,
    pub(super) load: Load,
    /// Milliseconds since it was heard; `None` when it never was.
    pub(super) seen_ms: Option<u64>,
}

/// What a token is to be good for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Terms {
    pub(super) role: Role,
    pub(super) ttl_seconds: u64,
    pub(super) labels: std::collections::BTreeMap<Key, String>,
    pub(super) name: Option<NodeName>,
}

/// A token, with its secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct MadeToken {
    pub(super) token: String,
    pub(super) address: Option<String>,
    pub(super) info: TokenInfo,
}

/// What the host of a node is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum HostAsk {
    /// To let go of a mechtron; answered with whether there is a state, and the state behind it.
    Release { point: Point, epoch: Epoch, within_ms: u64 },
    /// To take the state of a mechtron over, which follows if there is one; answered with nothing.
    Adopt { point: Point, epoch: Epoch, state: bool },
    /// What is known of a mechtron; answered with JSON, or `null`.
    Info { point: Point },
    /// What a mechtron logged; answered with [`Logged`].
    Logs { point: Point, tail: usize, follow: bool },
    /// What it logged since; answered with [`Logged`] after a while.
    MoreLogs { follower: u64 },
    /// The dead letters of a space; answered with how many there were, and the last of them.
    DeadLetters { space: String },
    /// How many messages wait for each mechtron that some wait for; answered with a list.
    Waiting,
}

/// Lines of a mechtron.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Logged {
    pub(super) lines: Vec<LogLine>,
    /// By which more is asked for; `None` at the end.
    pub(super) follower: Option<u64>,
}

/// Writes a document and what belongs to it.
fn encode(document: &impl Serialize, rest: &[u8]) -> Result<Bytes, Refusal> {
    let json = serde_json::to_vec(document)
        .map_err(|error| Refusal::new(Code::Internal, format!("a call as JSON: {error}")))?;
    let length =
        u32::try_from(json.len()).map_err(|_| Refusal::new(Code::TooLarge, "the call is too long"))?;
    let mut bytes = BytesMut::with_capacity(4 + json.len() + rest.len());
    bytes.put_u32_le(length);
    bytes.extend_from_slice(&json);
    bytes.extend_from_slice(rest);
    Ok(bytes.freeze())
}

fn decode<T: DeserializeOwned>(mut bytes: Bytes) -> Option<(T, Bytes)> {
    let length: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let end = usize::try_from(u32::from_le_bytes(length)).ok()?.checked_add(4)?;
    let document = serde_json::from_slice(bytes.get(4..end)?).ok()?;
    Some((document, bytes.split_off(end)))
}

/// A call with what belongs to it.
///
/// # Errors
/// `E-TOO-LARGE`
pub(super) fn ask(document: &impl Serialize, rest: &[u8]) -> Result<Bytes, Refusal> {
    encode(document, rest)
}

/// Reads a call.
///
/// # Errors
/// `E-UNSUPPORTED` for one that this version does not know.
pub(super) fn asked<T: DeserializeOwned>(bytes: Bytes) -> Result<(T, Bytes), Refusal> {
    decode(bytes).ok_or_else(|| Refusal::new(Code::Unsupported, "this node does not know the call"))
}

/// An answer that is a document alone, or the problem in its place.
///
/// # Errors
/// `E-TOO-LARGE`
pub(super) fn answer<T: Serialize>(result: Result<T, Problem>) -> Result<Bytes, Refusal> {
    answer_with(result.map(|document| (document, Bytes::new())))
}

/// An answer with what belongs to it, or the problem in its place.
///
/// # Errors
/// `E-TOO-LARGE`
pub(super) fn answer_with<T: Serialize>(result: Result<(T, Bytes), Problem>) -> Result<Bytes, Refusal> {
    match result {
        Ok((document, rest)) => encode(&Ok::<_, ()>(document), &rest),
        Err(problem) => encode(&Err::<(), _>(ProblemDetails::from(problem)), &[]),
    }
}

/// Reads an answer.
///
/// # Errors
/// The problem that was answered in its place.
pub(super) fn answered<T: DeserializeOwned>(bytes: Bytes) -> Result<(T, Bytes), Problem> {
    let read: Option<(Result<T, ProblemDetails>, Bytes)> = decode(bytes);
    match read {
        Some((Ok(document), rest)) => Ok((document, rest)),
        Some((Err(details), _)) => Err(details.into()),
        None => Err(Problem::new(Code::Unsupported, "the other node's answer cannot be read")
            .help("run the same version of starlane on both")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_and_its_answer_carry_a_document_and_bytes() {
        let release = HostAsk::Release { point: "shop:cart".parse().unwrap(), epoch: Epoch(7), within_ms: 5 };
        let (read, rest) = asked::<HostAsk>(ask(&release, b"state").unwrap()).unwrap();
        assert_eq!((read, &rest[..]), (release, &b"state"[..]));
        let (read, rest) = answered::<bool>(answer_with(Ok((true, "state".into()))).unwrap()).unwrap();
        assert_eq!((read, &rest[..]), (true, &b"state"[..]));
        let wrong = Problem::new(Code::NotFound, "nothing is there").help("look elsewhere");
        let told = answered::<bool>(answer::<bool>(Err(wrong.clone())).unwrap()).unwrap_err();
        assert_eq!(told, wrong);
    }

    /// A document as it is written, after a look whether it is read as the same.
    fn line<T: Serialize + DeserializeOwned>(document: &T) -> String {
        let json = serde_json::to_string(document).unwrap();
        let read: T = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        json
    }

    /// What nodes that run already understand. A change here is a change of the wire: old nodes must be thought of.
    const GOLDEN: &str = include_str!("services.golden");

    #[test]
    fn the_documents_are_those_that_other_nodes_know() {
        let point = || "shop:cart".parse::<Point>().unwrap();
        let edge = || "edge".parse::<NodeName>().unwrap();
        let agent = || Agent("mesh:users:ann".parse().unwrap());
        let load = Load { live: 3, queue: 7 };
        let labels = std::collections::BTreeMap::from([("tier".parse().unwrap(), "edge".to_owned())]);
        let terms = Terms { role: Role::Relay, ttl_seconds: 600, labels: labels.clone(), name: Some(edge()) };
        let expires = starlane_core::Timestamp(5);
        let info = TokenInfo { id: "t1".into(), role: Role::Leaf, expires, labels, name: Some(edge()) };
        let held = vec![(point(), Epoch(300))];
        let heard = Heard { generation: Generation(9), load, held, installing: Vec::new() };
        let installs = Heard { installing: vec![point()], ..heard.clone() };
        let life = NodeLife { name: edge(), alive: true, assigned: 2, load, seen_ms: Some(40) };
        let log_line = LogLine {
            time: starlane_core::Timestamp(5),
            level: "info".into(),
            point: point(),
            line: "hello".into(),
            trace: None,
        };
        let why = gateway::shapes::Why {
            point: point(),
            state: gateway::shapes::WhyState::Placed,
            node: Some(edge()),
            epoch: Some(Epoch(300)),
            reason: "it fits".into(),
            place: Some("[tier = \"edge\"]".into()),
            candidates: vec![gateway::shapes::Candidate {
                node: edge(),
                chosen: true,
                reason: "it fits".into(),
            }],
            help: None,
        };
        let mut problem = Problem::new(Code::Busy, "too much").help("wait").at(&point());
        problem.retry_after = Some(2);
        let leader = [
            LeaderAsk::Heard(heard),
            LeaderAsk::Heard(installs),
            LeaderAsk::Move { point: point(), to: edge() },
            LeaderAsk::Why { point: point() },
            LeaderAsk::Nodes,
            LeaderAsk::Revoke { agent: agent(), name: edge() },
            LeaderAsk::MakeToken { agent: agent(), terms },
            LeaderAsk::Tokens,
            LeaderAsk::DeleteToken { agent: agent(), id: "t1".into() },
        ];
        let host = [
            HostAsk::Release { point: point(), epoch: Epoch(300), within_ms: 5_000 },
            HostAsk::Adopt { point: point(), epoch: Epoch(301), state: true },
            HostAsk::Info { point: point() },
            HostAsk::Logs { point: point(), tail: 10, follow: true },
            HostAsk::MoreLogs { follower: 4 },
        ];
        let mut lines: Vec<String> = leader.iter().map(line).collect();
        lines.extend(host.iter().map(line));
        lines.extend([
            line(&Ok::<(), ()>(())),
            line(&Ok::<bool, ()>(true)),
            line(&Placed { from: Some(edge()), epoch: Epoch(300) }),
            line(&why),
            line(&vec![life]),
            line(&MadeToken {
                token: "sl1.a.b.c".into(),
                address: Some("cloud:4343".into()),
                info: info.clone(),
            }),
            line(&vec![info]),
            line(&Logged { lines: vec![log_line], follower: Some(4) }),
            line(&Err::<(), _>(ProblemDetails::from(problem))),
        ]);
        assert_eq!(lines.join("\n"), GOLDEN.trim_end(), "the wire changed");
        assert_eq!(ask(&LeaderAsk::Nodes, b"xy").unwrap()[..], b"\x07\0\0\0\"Nodes\"xy"[..]);
    }

    #[test]
    fn what_a_newer_node_adds_is_skipped_and_what_it_asks_anew_is_refused() {
        let more = serde_json::json!({ "Move": { "point": "shop:cart", "to": "edge", "gently": true } });
        let (read, _) = asked::<LeaderAsk>(ask(&more, b"").unwrap()).unwrap();
        assert_eq!(
            read,
            LeaderAsk::Move { point: "shop:cart".parse().unwrap(), to: "edge".parse().unwrap() }
        );
        for other in [serde_json::json!("Weather"), serde_json::json!({ "Weather": { "at": "edge" } })] {
            let refused = asked::<LeaderAsk>(ask(&other, b"").unwrap()).unwrap_err();
            assert_eq!(refused.code, Code::Unsupported);
            assert_eq!(asked::<HostAsk>(ask(&other, b"").unwrap()).unwrap_err(), refused);
        }
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_refused() {
        let whole = ask(&LeaderAsk::Nodes, b"").unwrap();
        for end in 0..whole.len() {
            assert_eq!(asked::<LeaderAsk>(whole.slice(..end)).unwrap_err().code, Code::Unsupported, "{end}");
        }
        let other = ask(&"Something", b"").unwrap();
        assert_eq!(asked::<LeaderAsk>(other).unwrap_err().code, Code::Unsupported);
        assert_eq!(asked::<LeaderAsk>(Bytes::from(vec![255; 8])).unwrap_err().code, Code::Unsupported);
    }
}
