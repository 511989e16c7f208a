//! The bytes of calls for content: a version, then postcard. A call or an answer is never longer than a call may be.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use starlane_core::{Blob, Code, Digest, Refusal};

const VERSION: u8 = 1;
/// How much content goes with one call: whole chunks.
pub(super) const PIECE_BYTES: u64 = 1024 * 1024;

/// What is asked. Variants are only ever added at the end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Request<'a> {
    /// A range of some content.
    Read { blob: WireBlob, offset: u64, length: u64 },
    /// How much is there of content that is going to be sent.
    Begin { blob: WireBlob },
    /// A piece of some content: whole chunks, unless it is the last.
    Write { blob: WireBlob, offset: u64, piece: &'a [u8] },
}

/// What is answered. Variants are only ever added at the end.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer<'a> {
    Piece(&'a [u8]),
    /// No such content is there.
    Missing,
    /// What is there is not what was put there.
    Damaged,
    /// This much is there, from the beginning.
    Have(u64),
    /// All is there.
    Whole,
    /// What came is not what its name says. It was thrown away.
    Mismatch,
    Failed(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct WireBlob {
    digest: [u8; 32],
    bytes: u64,
}

impl From<Blob> for WireBlob {
    fn from(blob: Blob) -> Self {
        Self { digest: blob.digest.0, bytes: blob.bytes }
    }
}

impl From<WireBlob> for Blob {
    fn from(blob: WireBlob) -> Self {
        Self { digest: Digest(blob.digest), bytes: blob.bytes }
    }
}

pub(super) fn encode(value: &impl Serialize) -> Bytes {
    #[expect(clippy::expect_used, reason = "numbers, strings and slices always serialise")]
    postcard::to_extend(value, vec![VERSION]).expect("a call serialises").into()
}

pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refusal> {
    match bytes.split_first() {
        Some((&VERSION, bytes)) => postcard::from_bytes(bytes)
            .map_err(|_| Refusal::new(Code::Unsupported, "this kind of call for content is not known here")),
        _ => Err(Refusal::new(Code::Unsupported, "a call for content of another version")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_that_other_nodes_know() {
        let blob = || WireBlob { digest: [0xab; 32], bytes: 300 };
        let name = "ab".repeat(32);
        let requests = [
            (Request::Read { blob: blob(), offset: 1, length: 2 }, format!("0100{name}ac020102")),
            (Request::Begin { blob: blob() }, format!("0101{name}ac02")),
            (Request::Write { blob: blob(), offset: 1, piece: b"xy" }, format!("0102{name}ac0201027879")),
        ];
        for (request, bytes) in requests {
            assert_eq!(hex::encode(encode(&request)), bytes, "the wire changed");
            assert_eq!(decode::<Request<'_>>(&hex::decode(bytes).unwrap()).unwrap(), request);
        }
        let answers = [
            (Answer::Piece(b"xy"), "0100027879"),
            (Answer::Missing, "0101"),
            (Answer::Damaged, "0102"),
            (Answer::Have(300), "0103ac02"),
            (Answer::Whole, "0104"),
            (Answer::Mismatch, "0105"),
            (Answer::Failed("no"), "0106026e6f"),
        ];
        for (answer, bytes) in answers {
            assert_eq!(hex::encode(encode(&answer)), bytes, "the wire changed");
            assert_eq!(decode::<Answer<'_>>(&hex::decode(bytes).unwrap()).unwrap(), answer);
        }
        for unknown in [&[][..], &[VERSION], &[VERSION, 99], &[VERSION + 1, 0]] {
            assert_eq!(decode::<Request<'_>>(unknown).unwrap_err().code, Code::Unsupported, "{unknown:?}");
        }
        let longest = encode(&Answer::Piece(&vec![0; PIECE_BYTES as usize]));
        assert!(longest.len() < crate::CALL_BYTES_MAX);
        let piece = vec![0; PIECE_BYTES as usize];
        let blob = WireBlob { digest: [0; 32], bytes: u64::MAX };
        let longest = encode(&Request::Write { blob, offset: u64::MAX, piece: &piece });
        assert!(longest.len() < crate::CALL_BYTES_MAX);
    }
}
