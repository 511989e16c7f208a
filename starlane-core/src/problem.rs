//! The one catalogue of errors that users see, in the API, on the command line and in the docs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Point;

macro_rules! catalogue {
    ($($(#[doc = $doc:literal])+ $name:ident $code:literal $http:literal $exit:literal;)+) => {
        /// The stable name of an error. Its documentation is its entry in the error index.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// The whole catalogue.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// The stable name: `E-POINT-SYNTAX`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code,)+ }
            }

            /// What it means, in one sentence that holds for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The HTTP status that it becomes.
            pub const fn http_status(self) -> u16 {
                match self { $(Code::$name => $http,)+ }
            }

            /// The exit code that it becomes on the command line.
            pub const fn exit_code(self) -> u8 {
                match self { $(Code::$name => $exit,)+ }
            }
        }
    };
}

catalogue! {
    /// The text is not a statement, a selector or a value of the language.
    Syntax "E-SYNTAX" 400 2;
    /// The text is not a point.
    PointSyntax "E-POINT-SYNTAX" 400 2;
    /// A variable is not known here.
    VariableUnknown "E-VARIABLE-UNKNOWN" 400 2;
    /// The text is not a kind.
    KindSyntax "E-KIND-SYNTAX" 400 2;
    /// No kind of this name exists.
    KindUnknown "E-KIND-UNKNOWN" 400 2;
    /// A resource of this kind cannot stand there.
    KindParent "E-KIND-PARENT" 400 2;
    /// A resource of this kind is not made by hand.
    KindReserved "E-KIND-RESERVED" 400 2;
    /// The resource exists with another kind.
    KindMismatch "E-KIND-MISMATCH" 409 5;
    /// The text is not a property key.
    PropertyKey "E-PROPERTY-KEY" 400 2;
    /// The value does not fit the property.
    PropertyValue "E-PROPERTY-VALUE" 400 2;
    /// The property is locked.
    PropertyLocked "E-PROPERTY-LOCKED" 409 5;
    /// The text is not a bind.
    BindSyntax "E-BIND-SYNTAX" 400 2;
    /// The text is not a config.
    ConfigSyntax "E-CONFIG-SYNTAX" 400 2;
    /// The artifact cannot be used for this.
    ArtifactInvalid "E-ARTIFACT-INVALID" 400 2;
    /// The data does not match its schema.
    Schema "E-SCHEMA" 400 2;
    /// The message does not match the contract of its receiver.
    MessageInvalid "E-MESSAGE-INVALID" 400 2;
    /// The module cannot be run as a mechtron.
    WasmInvalid "E-WASM-INVALID" 400 2;
    /// The archive cannot be published.
    ArchiveInvalid "E-ARCHIVE-INVALID" 400 2;
    /// Something is larger than it may be.
    TooLarge "E-TOO-LARGE" 413 2;
    /// The request is not one that this API knows.
    Usage "E-USAGE" 400 2;
    /// The feature is part of the language but not supported yet.
    Unsupported "E-UNSUPPORTED" 501 2;
    /// No resource is at this point.
    NotFound "E-NOT-FOUND" 404 3;
    /// Nothing in the bind answers this request.
    NoRoute "E-NO-ROUTE" 404 3;
    /// The request carries no valid token.
    Unauthorized "E-UNAUTHORIZED" 401 4;
    /// The agent is not allowed to do this.
    Forbidden "E-FORBIDDEN" 403 4;
    /// A resource is already at this point.
    Exists "E-EXISTS" 409 5;
    /// The resource changed since it was read.
    RevisionConflict "E-REVISION-CONFLICT" 412 5;
    /// The resource has children.
    HasChildren "E-HAS-CHILDREN" 409 5;
    /// Somebody else acts for the point by now.
    EpochStale "E-EPOCH-STALE" 409 5;
    /// The history that the watch would resume from is no longer kept.
    WatchGone "E-WATCH-GONE" 410 1;
    /// The history does not reach back that far.
    HistoryGone "E-HISTORY-GONE" 410 1;
    /// The resume token belongs to another selector.
    WatchMismatch "E-WATCH-MISMATCH" 400 2;
    /// The receiver has too much waiting.
    Busy "E-BUSY" 503 1;
    /// The mechtron is not in a state to be reached.
    NotReady "E-NOT-READY" 503 1;
    /// The request would wait for itself.
    CycleDetected "E-CYCLE" 508 8;
    /// No node can be reached.
    Unreachable "E-UNREACHABLE" 503 6;
    /// The node is stopping.
    Draining "E-DRAINING" 503 6;
    /// The deadline passed before the request was handled; it did not run.
    Expired "E-EXPIRED" 504 7;
    /// The deadline passed before an answer; the request may have run.
    Timeout "E-TIMEOUT" 504 7;
    /// The handler answered with an error.
    HandlerFailed "E-HANDLER" 502 8;
    /// The mechtron trapped.
    Trapped "E-TRAP" 502 8;
    /// The mechtron used up the time of its turn.
    TimeBudget "E-TIME-BUDGET" 502 8;
    /// The mechtron broke the rules of the guest ABI.
    AbiViolation "E-ABI" 502 8;
    /// The store cannot take writes.
    StoreUnavailable "E-STORE" 503 1;
    /// The stored data is damaged.
    Corrupt "E-CORRUPT" 500 70;
    /// A bug in starlane.
    Internal "E-INTERNAL" 500 70;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        // A newer node may know codes that this build does not.
        Ok(Code::ALL.iter().copied().find(|code| code.as_str() == text).unwrap_or(Code::Internal))
    }
}

/// A stretch of a source text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The first byte after it.
    pub end: usize,
}

/// The place in a text that an error is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Whose text it is: a file name or a point; empty for what was typed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The whole text.
    pub source: String,
    /// The stretch that is wrong.
    pub span: Span,
    /// What is wrong with it, in a few words.
    pub label: String,
}

impl Place {
    /// The line of the place, from 1.
    pub fn line(&self) -> usize {
        self.before().bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    /// The column of the place in characters, from 1.
    pub fn column(&self) -> usize {
        let before = self.before();
        before[before.rfind('\n').map_or(0, |at| at + 1)..].chars().count() + 1
    }

    fn before(&self) -> &str {
        let mut end = self.span.start.min(self.source.len());
        while !self.source.is_char_boundary(end) {
            end -= 1;
        }
        &self.source[..end]
    }
}

/// One thing wrong inside a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointerError {
    /// Where (RFC 6901).
    pub pointer: String,
    /// What.
    pub detail: String,
}

/// An error as users see it: what is wrong, where, and what to do next (RFC 9457 in the API).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// Which of the known errors.
    pub code: Code,
    /// What is wrong this time.
    pub detail: String,
    /// The resource that it is about.
    pub point: Option<Point>,
    /// The place in a text that it is about.
    pub place: Option<Box<Place>>,
    /// What to do next.
    pub help: Option<String>,
    /// Each thing that is wrong inside a document.
    pub errors: Vec<PointerError>,
    /// After how many seconds it is worth trying again.
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem without a place, a point or help.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            point: None,
            place: None,
            help: None,
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// Says which resource it is about.
    #[must_use]
    pub fn at(mut self, point: &Point) -> Self {
        self.point = Some(point.clone());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says where in a text it is.
    #[must_use]
    pub fn in_text(mut self, source: impl Into<String>, span: Span, label: impl Into<String>) -> Self {
        self.place =
            Some(Box::new(Place { name: String::new(), source: source.into(), span, label: label.into() }));
        self
    }
}

impl Problem {
    /// Says whose text the place is in: a file name or a point.
    #[must_use]
    pub fn in_file(mut self, name: impl Into<String>) -> Self {
        if let Some(place) = &mut self.place {
            place.name = name.into();
        }
        self
    }
}

/// What to do next when a message was refused on its way: a refusal carries the reason alone.
fn next_step(code: Code) -> Option<&'static str> {
    match code {
        Code::MessageInvalid | Code::NoRoute => Some("`starlane describe POINT` shows what it takes"),
        Code::NotFound => Some("`starlane select 'SPACE:**'` shows what is there"),
        Code::NotReady => {
            Some("`starlane get POINT` tells its status, `starlane logs POINT` what it said last")
        }
        Code::Trapped | Code::HandlerFailed | Code::TimeBudget | Code::AbiViolation => {
            Some("`starlane logs POINT` shows what it said")
        }
        Code::TooLarge => Some("keep large content in a file, and send a part of it or its point"),
        Code::Busy => Some("try again in a moment"),
        _ => None,
    }
}

impl From<crate::Refusal> for Problem {
    fn from(refusal: crate::Refusal) -> Self {
        let mut problem = Problem::new(refusal.code, refusal.detail.to_string());
        problem.retry_after = refusal.retry_after.map(|after| after.as_secs().max(1));
        problem.help = next_step(refusal.code).map(str::to_owned);
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_told_apart() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn a_place_knows_its_line_and_column() {
        let place = Place {
            name: String::new(),
            source: "a\nbä c".into(),
            span: Span { start: 6, end: 7 },
            label: String::new(),
        };
        assert_eq!((place.line(), place.column()), (2, 4));
    }
}
