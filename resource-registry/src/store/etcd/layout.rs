//! What is where in etcd, and the bytes of it: a version, then postcard.
//!
//! | key, after the prefix | value |
//! |---|---|
//! | `head` | [`Head`]: how far the history goes; changed by every transaction but those that only tidy up |
//! | `owner` | the mesh that has the registry, as text |
//! | `k/KEY` | [`MainRow`]: a record |
//! | `l/LAST` | [`LogRow`]: the commits of one transaction, named by the last |
//! | `f/SCOPE` | the epoch of a fence |
//! | `t/LEASE` | [`LeaseRow`] |
//! | `h/LEASE ID` | keys that one transaction hung on a lease; a hint, since they may have been let go of |
//! | `b/BLOB` | a value that is too large to be in a row |
//! | `s/ID` | the blobs of a commit on its way; the commit takes this away |
//! | `m/POINT` | the state of a mechtron, which is no record: see `states.rs` |
//! | `d/LAST` | the blobs that are of no use when the commits of this transaction are forgotten |

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use starlane_core::Revision;

use crate::store::{Batch, LeaseId, Record};

/// The version of all of this.
pub(super) const FORMAT_VERSION: u8 = 1;

/// Names a value outside of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct BlobId(pub(super) u128);

/// How far the history goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The newest commit.
    pub(super) newest: Revision,
    /// The oldest commit that may be read.
    pub(super) oldest: Revision,
    /// Counts the changes of fences and leases, which are no commits.
    pub(super) aside: u64,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MainRow {
    /// Without its value when that is elsewhere.
    pub(super) record: Record,
    /// Where its value is.
    pub(super) blob: Option<BlobId>,
}

/// The commits of one transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LogRow {
    /// Which transaction: so whoever sent it and heard no answer can tell whether it happened.
    pub(super) id: u128,
    /// One or more commits, without the values that are elsewhere.
    pub(super) batches: Vec<Batch>,
    /// Where those are.
    pub(super) blobs: Vec<BlobAt>,
}

/// The place of a value in the commits of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlobAt {
    pub(super) batch: u32,
    pub(super) change: u32,
    /// Whether it is the value after the change, or before.
    pub(super) after: bool,
    pub(super) blob: BlobId,
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseRow {
    pub(super) ttl_ms: u64,
    /// How often it began anew: whoever sees this change knows that somebody holds the lease.
    pub(super) beats: u64,
    /// Nothing is hung on it any more; what hangs on it is being deleted.
    pub(super) ends: bool,
}

/// Bytes that are none of ours.
#[derive(Debug)]
pub(super) struct Unreadable;

pub(super) fn encode(value: &impl Serialize) -> Bytes {
    #[expect(clippy::expect_used, reason = "numbers, strings and lists of known length always serialise")]
    postcard::to_extend(value, vec![FORMAT_VERSION]).expect("a row serialises").into()
}

pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Unreadable> {
    match bytes.split_first() {
        Some((&FORMAT_VERSION, bytes)) => postcard::from_bytes(bytes).map_err(|_| Unreadable),
        _ => Err(Unreadable),
    }
}

/// Makes the keys under a prefix.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: Bytes,
}

impl Layout {
    pub(super) fn new(prefix: impl Into<Bytes>) -> Self {
        Self { prefix: prefix.into() }
    }

    fn under(&self, table: &[u8], rest: &[&[u8]]) -> Bytes {
        let length = rest.iter().map(|part| part.len()).sum::<usize>();
        let mut key = BytesMut::with_capacity(self.prefix.len() + table.len() + length);
        key.put_slice(&self.prefix);
        key.put_slice(table);
        for part in rest {
            key.put_slice(part);
        }
        key.freeze()
    }

    pub(super) fn head(&self) -> Bytes {
        self.under(b"head", &[])
    }

    pub(super) fn owner(&self) -> Bytes {
        self.under(b"owner", &[])
    }

    pub(super) fn main(&self, key: &[u8]) -> Bytes {
        self.under(b"k/", &[key])
    }

    /// The key of a row of the main table.
    pub(super) fn key_of(&self, row: &Bytes) -> Bytes {
        row.slice((self.prefix.len() + 2).min(row.len())..)
    }

    pub(super) fn log(&self, last: u64) -> Bytes {
        self.under(b"l/", &[&last.to_be_bytes()])
    }

    pub(super) fn log_end(&self) -> Bytes {
        self.under(b"l0", &[])
    }

    /// The number at the end of the key of a row of the log, or of one that says what is of no use after it.
    pub(super) fn last_of(row: &[u8]) -> Option<u64> {
        row.last_chunk().map(|number| u64::from_be_bytes(*number))
    }

    pub(super) fn fence(&self, scope: &str) -> Bytes {
        self.under(b"f/", &[scope.as_bytes()])
    }

    pub(super) fn fences(&self) -> (Bytes, Bytes) {
        (self.under(b"f/", &[]), self.under(b"f0", &[]))
    }

    pub(super) fn lease(&self, lease: LeaseId) -> Bytes {
        self.under(b"t/", &[&lease.0.to_be_bytes()])
    }

    pub(super) fn leases(&self) -> (Bytes, Bytes) {
        (self.under(b"t/", &[]), self.under(b"t0", &[]))
    }

    /// The lease that a row is of.
    pub(super) fn lease_of(row: &[u8]) -> Option<LeaseId> {
        Self::last_of(row).map(LeaseId)
    }

    pub(super) fn hint(&self, lease: LeaseId, id: u128) -> Bytes {
        self.under(b"h/", &[&lease.0.to_be_bytes(), &id.to_be_bytes()])
    }

    pub(super) fn hints(&self, lease: LeaseId) -> (Bytes, Bytes) {
        let from = self.under(b"h/", &[&lease.0.to_be_bytes()]);
        let end = end_of(&from);
        (from, end)
    }

    pub(super) fn blob(&self, blob: BlobId) -> Bytes {
        self.under(b"b/", &[&blob.0.to_be_bytes()])
    }

    pub(super) fn staged(&self, id: u128) -> Bytes {
        self.under(b"s/", &[&id.to_be_bytes()])
    }

    pub(super) fn all_staged(&self) -> (Bytes, Bytes) {
        (self.under(b"s/", &[]), self.under(b"s0", &[]))
    }

    pub(super) fn state(&self, point: &str) -> Bytes {
        self.under(b"m/", &[point.as_bytes()])
    }

    pub(super) fn states(&self) -> (Bytes, Bytes) {
        (self.under(b"m/", &[]), self.under(b"m0", &[]))
    }

    pub(super) fn useless(&self, last: u64) -> Bytes {
        self.under(b"d/", &[&last.to_be_bytes()])
    }
}

/// The first key after all that begin with `prefix`; a zero byte, which to etcd is the end of everything, when there is none.
pub(super) fn end_of(prefix: &[u8]) -> Bytes {
    let Some(at) = prefix.iter().rposition(|byte| *byte != u8::MAX) else { return Bytes::from_static(b"\0") };
    let mut end = prefix[..=at].to_vec();
    end[at] += 1;
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Change;

    #[test]
    fn a_range_ends_behind_its_last_key() {
        assert_eq!(end_of(b"p:"), &b"p;"[..]);
        assert_eq!(end_of(b"p\xff\xff"), &b"q"[..]);
        assert_eq!(end_of(b"\xff"), &b"\0"[..]);
        assert_eq!(end_of(b""), &b"\0"[..]);
        let layout = Layout::new("/x/");
        assert!(layout.log(u64::MAX) < layout.log_end());
        assert!(layout.log(1) < layout.log(256));
        assert_eq!(layout.key_of(&layout.main(b"a:b")), &b"a:b"[..]);
        assert_eq!(Layout::lease_of(&layout.lease(LeaseId(7))), Some(LeaseId(7)));
    }

    /// What is in etcds already. A change here is a change of the format: those must be thought of.
    #[test]
    fn the_bytes_are_those_that_are_kept() {
        let record = Record {
            value: "v".into(),
            created: Revision(3),
            modified: Revision(300),
            version: 2,
            lease: Some(LeaseId(9)),
        };
        let change = Change { key: "a".into(), before: None, after: Some(record.clone()) };
        let batch = Batch { revision: Revision(300), meta: "who".into(), changes: vec![change] };
        let at = BlobAt { batch: 0, change: 0, after: true, blob: BlobId(5) };
        let rows = [
            encode(&Head { newest: Revision(300), oldest: Revision(1), aside: 2 }),
            encode(&MainRow { record, blob: Some(BlobId(5)) }),
            encode(&LogRow { id: 7, batches: vec![batch], blobs: vec![at] }),
            encode(&LeaseRow { ttl_ms: 1_000, beats: 3, ends: false }),
            encode(&vec![BlobId(5), BlobId(6)]),
        ];
        let rows: Vec<String> = rows.iter().map(hex::encode).collect();
        assert_eq!(
            rows,
            [
                "01ac020102",
                "01017603ac020201090105",
                "010701ac020377686f0101610001017603ac020201090100000105",
                "01e8070300",
                "01020506",
            ]
        );
    }
}
