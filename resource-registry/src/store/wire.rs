//! The bytes of calls to a store on another node: a version, then postcard.
//!
//! The shapes of [`super`] are part of them. A node may talk to one of the version before or after, so in this version
//! variants are only ever added at the end, and nothing is added to a struct; the test below holds the bytes fast.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use starlane_core::Revision;

use super::{Batch, Commit, Error, LeaseId, ReadAt, Reading, Record, Revisions};

const VERSION: u8 = 1;

/// How many bytes of commits one answer holds, unless a single commit has more.
pub(super) const BATCHES_BYTES: usize = 512 * 1024;
/// How many bytes of records one page of a snapshot holds before it ends.
pub(super) const PAGE_BYTES: usize = 768 * 1024;

/// What is asked of the store.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Request {
    Commit(Commit),
    Read {
        keys: Vec<Bytes>,
        at: ReadAt,
    },
    /// Pins a snapshot.
    Open {
        prefix: Bytes,
    },
    /// The next page of a snapshot, or the last one again.
    Page {
        snapshot: u64,
        number: u64,
    },
    /// What was committed after a revision; waits a while for it.
    Poll {
        prefix: Bytes,
        after: Revision,
        wait_ms: u32,
    },
    Compact {
        keep_from: Revision,
    },
    Grant {
        ttl_ms: u64,
    },
    KeepAlive {
        lease: LeaseId,
    },
    Revoke {
        lease: LeaseId,
        meta: Bytes,
    },
}

impl Request {
    /// Whether running it changes nothing, so that it may be asked again.
    pub(super) fn only_reads(&self) -> bool {
        match self {
            Request::Read { .. } | Request::Open { .. } | Request::Page { .. } | Request::Poll { .. } => true,
            Request::Commit(_)
            | Request::Compact { .. }
            | Request::Grant { .. }
            | Request::KeepAlive { .. }
            | Request::Revoke { .. } => false,
        }
    }
}

/// What came of it, and where the store is.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Response {
    pub(super) revisions: Revisions,
    pub(super) result: Result<Answer, Error>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Committed(Revision),
    Granted(LeaseId),
    Reading(Reading),
    Opened {
        snapshot: u64,
        revision: Revision,
    },
    Page {
        records: Vec<(Bytes, Record)>,
        last: bool,
    },
    /// The snapshot was pinned for too long without being read.
    Unpinned,
    /// Whole commits in order, and how far nothing else happened.
    Changes {
        batches: Vec<Arc<Batch>>,
        until: Revision,
    },
    Compacted {
        oldest: Revision,
    },
}

/// Bytes that are no request or answer of a version that is known.
#[derive(Debug)]
pub(super) struct Unreadable;

pub(super) fn encode(value: &impl Serialize) -> Bytes {
    #[expect(clippy::expect_used, reason = "numbers, strings and lists of known length always serialise")]
    postcard::to_extend(value, vec![VERSION]).expect("a call serialises").into()
}

pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Unreadable> {
    match bytes.split_first() {
        Some((&VERSION, bytes)) => postcard::from_bytes(bytes).map_err(|_| Unreadable),
        _ => Err(Unreadable),
    }
}

/// About how many bytes a record takes.
pub(super) fn weight(key: &[u8], record: &Record) -> usize {
    key.len() + record.value.len() + 56
}

/// About how many bytes a commit takes.
pub(super) fn batch_weight(batch: &Batch) -> usize {
    let change = |change: &super::Change| {
        let records = [&change.before, &change.after].into_iter().flatten();
        change.key.len() + 8 + records.map(|record| weight(&[], record)).sum::<usize>()
    };
    batch.meta.len() + 20 + batch.changes.iter().map(change).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use starlane_core::Epoch;

    use super::*;
    use crate::store::{Action, Change, Expect, Fence, Operation};

    fn record() -> Record {
        Record {
            value: "value".into(),
            created: Revision(3),
            modified: Revision(300),
            version: 2,
            lease: Some(LeaseId(9)),
        }
    }

    fn requests() -> Vec<Request> {
        let operations = vec![
            Operation {
                key: "a".into(),
                expect: Expect::Any,
                action: Action::Put { value: "v".into(), lease: None },
            },
            Operation {
                key: "b".into(),
                expect: Expect::Absent,
                action: Action::Put { value: "".into(), lease: Some(LeaseId(1)) },
            },
            Operation { key: "c".into(), expect: Expect::Present, action: Action::Delete },
            Operation { key: "d".into(), expect: Expect::At(Revision(7)), action: Action::Keep },
            Operation { key: "e".into(), expect: Expect::MadeBy(Revision(7)), action: Action::Keep },
            Operation { key: "f".into(), expect: Expect::Grows, action: Action::Keep },
            Operation { key: "g".into(), expect: Expect::QuietBelow(Revision(7)), action: Action::Keep },
        ];
        let fence = Some(Fence { scope: "shop".into(), epoch: Epoch(4) });
        vec![
            Request::Commit(Commit { fence, meta: "who".into(), operations }),
            Request::Read { keys: vec!["a".into()], at: ReadAt::Latest },
            Request::Read { keys: Vec::new(), at: ReadAt::AtLeast(Revision(5)) },
            Request::Open { prefix: "p:".into() },
            Request::Page { snapshot: 1 << 40, number: 2 },
            Request::Poll { prefix: "".into(), after: Revision(130), wait_ms: 5_000 },
            Request::Compact { keep_from: Revision(2) },
            Request::Grant { ttl_ms: 6_000 },
            Request::KeepAlive { lease: LeaseId(3) },
            Request::Revoke { lease: LeaseId(3), meta: "who".into() },
        ]
    }

    fn responses() -> Vec<Response> {
        let change = Change { key: "a".into(), before: None, after: Some(record()) };
        let batch = Batch { revision: Revision(300), meta: "who".into(), changes: vec![change] };
        let (file, reason): (Arc<str>, Arc<str>) = ("f".into(), "r".into());
        let results = vec![
            Ok(Answer::Done),
            Ok(Answer::Committed(Revision(300))),
            Ok(Answer::Granted(LeaseId(9))),
            Ok(Answer::Reading(Reading { revision: Revision(300), records: vec![None, Some(record())] })),
            Ok(Answer::Opened { snapshot: 5, revision: Revision(300) }),
            Ok(Answer::Page { records: vec![("a".into(), record())], last: true }),
            Ok(Answer::Unpinned),
            Ok(Answer::Changes { batches: vec![Arc::new(batch)], until: Revision(301) }),
            Ok(Answer::Compacted { oldest: Revision(12) }),
            Err(Error::Conflict { key: "a".into(), found: Some(Revision(1)), revision: Revision(2) }),
            Err(Error::FenceStale { scope: "shop".into(), epoch: Epoch(4) }),
            Err(Error::LeaseUnknown(LeaseId(9))),
            Err(Error::TooLarge("much".into())),
            Err(Error::Busy),
            Err(Error::Unavailable { file: file.clone(), reason: reason.clone() }),
            Err(Error::Halted { file: file.clone(), reason: reason.clone() }),
            Err(Error::Corrupt { file: file.clone(), reason: reason.clone() }),
            Err(Error::FormatNewer { file: file.clone(), found: 9, known: 1 }),
            Err(Error::InUse { file: file.clone() }),
            Err(Error::Closed),
            Err(Error::Unreachable { reason: reason.clone() }),
            Err(Error::Unknown { reason: reason.clone() }),
            Err(Error::Unsupported { reason: reason.clone() }),
            Err(Error::Foreign { file: file.clone(), owner: reason.clone() }),
            Err(Error::Denied { file, reason }),
        ];
        let revisions = Revisions { newest: Revision(300), oldest: Revision(1) };
        results.into_iter().map(|result| Response { revisions, result }).collect()
    }

    /// What nodes that run already understand. A change here is a change of the wire: old nodes must be thought of.
    const GOLDEN: &str = include_str!("wire.golden");

    #[test]
    fn the_bytes_are_those_that_other_nodes_know() {
        let requests = requests();
        let responses = responses();
        let lines = requests.iter().map(encode);
        let lines = lines.chain(responses.iter().map(encode));
        let now: Vec<String> = lines.map(hex::encode).collect();
        assert_eq!(now.join("\n"), GOLDEN.trim_end(), "the wire changed");
        for (request, line) in requests.iter().zip(&now) {
            assert_eq!(decode::<Request>(&hex::decode(line).unwrap()).unwrap(), *request);
        }
        for (response, line) in responses.iter().zip(&now[requests.len()..]) {
            assert_eq!(decode::<Response>(&hex::decode(line).unwrap()).unwrap(), *response);
        }
    }

    #[test]
    fn bytes_that_are_cut_or_of_another_version_are_refused() {
        for request in requests() {
            let bytes = encode(&request);
            for length in 0..bytes.len() {
                assert!(decode::<Request>(&bytes[..length]).is_err(), "{request:?} cut at {length}");
            }
            let mut other = bytes.to_vec();
            other[0] = VERSION + 1;
            assert!(decode::<Request>(&other).is_err());
        }
    }

    #[test]
    fn weights_are_no_less_than_bytes() {
        for response in responses() {
            let least = match &response.result {
                Ok(Answer::Page { records, .. }) => {
                    records.iter().map(|(key, record)| weight(key, record)).sum()
                }
                Ok(Answer::Changes { batches, .. }) => {
                    batches.iter().map(|batch| batch_weight(batch)).sum::<usize>()
                }
                _ => continue,
            };
            assert!(encode(&response).len() <= least + 20);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let framed = [&[VERSION][..], &bytes].concat();
            let _ = decode::<Request>(&framed);
            let _ = decode::<Response>(&framed);
        }
    }
}
