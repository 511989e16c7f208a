//! What nodes ask each other beside messages, and how it is written: users can make none of these calls.
//!
//! A call's body is the length of a JSON document as four bytes, lowest first, the document, and bytes that belong to it: the
//! state of a mechtron on its way. The answer is written the same way; its document is what was asked for, or the problem.

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
        Some((Err(details), _)) => Err(problem(details)),
        None => Err(Problem::new(Code::Unsupported, "the other node's answer cannot be read")
            .help("run the same version of starlane on both")),
    }
}

fn problem(details: ProblemDetails) -> Problem {
    let mut problem = Problem::new(details.code, details.detail);
    problem.point = details.point;
    problem.help = details.help;
    problem.errors = details.errors;
    problem.retry_after = details.retry_after;
    problem
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
