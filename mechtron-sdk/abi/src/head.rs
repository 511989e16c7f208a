//! Heads: the control parts of payloads, in postcard's format (<https://postcard.jamesmunns.com/wire-format>).

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// Names and values, in order.
type Headers<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

macro_rules! head {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $ty:ty,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name<'a> { $($(#[$field_meta])* pub $field: $ty,)+ }

        impl<'a> $name<'a> {
            /// Reads the head.
            ///
            /// # Errors
            /// When the bytes are not exactly one.
            pub fn read(bytes: &'a [u8]) -> Result<Self, HeadError> {
                match postcard::take_from_bytes(bytes) {
                    Ok((head, [])) => Ok(head),
                    _ => Err(HeadError),
                }
            }
        }
    )+};
}

head! {
    /// What a message is, before its body.
    MessageHead {
        /// The point that sent it.
        #[serde(borrow)]
        from: Cow<'a, str>,
        /// The point on whose authority.
        #[serde(borrow)]
        agent: Cow<'a, str>,
        /// What is asked: `Ext<AddItem>`, `Http<Get>`.
        #[serde(borrow)]
        method: Cow<'a, str>,
        /// Of what; begins with `/`.
        #[serde(borrow)]
        path: Cow<'a, str>,
        /// More about it; names are lowercase.
        #[serde(borrow)]
        headers: Headers<'a>,
        /// How much time is left, in milliseconds.
        remaining_ms: u64,
    }

    /// What an answer is, before its body.
    ReplyHead {
        /// 100 to 599.
        status: u16,
        /// More about it; names are lowercase.
        #[serde(borrow)]
        headers: Headers<'a>,
    }

    /// What a guest asks of another, before the body.
    CallHead {
        /// The point that it is for.
        #[serde(borrow)]
        to: Cow<'a, str>,
        /// What is asked: `Ext<AddItem>`, `Http<Get>`.
        #[serde(borrow)]
        method: Cow<'a, str>,
        /// Of what; begins with `/`.
        #[serde(borrow)]
        path: Cow<'a, str>,
        /// More about it.
        #[serde(borrow)]
        headers: Headers<'a>,
        /// How long the guest waits for the answer, in milliseconds; 0 for as long as its own caller does.
        timeout_ms: u64,
    }

    /// How something ended without an answer.
    ErrorHead {
        /// Whether it ran.
        outcome: OutcomeKind,
        /// The stable name of the error: `E-BUSY`.
        #[serde(borrow)]
        code: Cow<'a, str>,
        /// The reason in words.
        #[serde(borrow)]
        detail: Cow<'a, str>,
    }

    /// What `mechtron_init` finds in the inbox.
    InitHead {
        /// See [`features`](crate::features).
        features: u64,
        /// Random bits that the guest may seed its own randomness with.
        seed: u64,
        /// The variables of the mechtron's config, a JSON object.
        #[serde(borrow)]
        config: Cow<'a, str>,
    }

    /// What a change is, before the resource.
    ChangeHead {
        /// The name of the handler whose watch tells it, as the contract has it.
        #[serde(borrow)]
        watch: Cow<'a, str>,
        /// What happened.
        what: ChangeKind,
        /// The commit that it came with, or that the list shows.
        revision: u64,
    }

    /// What begins with a `START`.
    StartHead {
        /// The mechtron's own point.
        #[serde(borrow)]
        point: Cow<'a, str>,
        /// Which of the mechtrons of the module it is; empty when there is one.
        #[serde(borrow)]
        name: Cow<'a, str>,
    }
}

/// Whether something without an answer ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutcomeKind {
    /// Surely not.
    Rejected,
    /// It ran and failed.
    Failed,
    /// It may have run.
    Unknown,
}

/// What happened to a resource, relative to what the watched selector selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It is selected, and was not before or was when the watch began.
    Entered,
    /// It was selected before and is, and changed.
    Updated,
    /// It was selected before and is not; the body is the last value that was.
    Left,
    /// What happened for a while is not known any more: all that is selected now follows as [`ChangeKind::Entered`]. There
    /// is no body.
    Again,
}

/// Bytes that are not the head they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadError;

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a frame's head is not in its format")
    }
}

impl core::error::Error for HeadError {}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::{Frames, Header, Kind, Writer};

    #[test]
    fn a_head_reads_as_it_was_written_and_borrows() {
        let head = MessageHead {
            from: "shop:a".into(),
            agent: "mesh:users:admin".into(),
            method: "Ext<Add>".into(),
            path: "/".into(),
            headers: vec![("content-type".into(), "application/json".into())],
            remaining_ms: 5_000,
        };
        let mut writer = Writer::new();
        writer.frame_with_head(Header::new(Kind::Message, 1), &head, b"{}");
        let frame = Frames::new(writer.bytes()).next().unwrap().unwrap();
        let (bytes, body) = frame.split().unwrap();
        let read = MessageHead::read(bytes).unwrap();
        assert_eq!((&read, body), (&head, &b"{}"[..]));
        assert!(matches!(read.from, Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_cut_or_too_long_is_refused() {
        let mut writer = Writer::new();
        let head = ReplyHead { status: 200, headers: vec![] };
        writer.frame_with_head(Header::new(Kind::Answer, 1), &head, b"");
        let frame = Frames::new(writer.bytes()).next().unwrap().unwrap();
        let bytes = frame.split().unwrap().0;
        assert_eq!(bytes, [200, 1, 0]);
        assert!(ReplyHead::read(&bytes[..2]).is_err());
        assert!(ReplyHead::read(&[200, 1, 0, 0]).is_err());
        assert!(ReplyHead::read(&[200, 1, 255, 255, 255, 255, 15]).is_err());
    }
}
