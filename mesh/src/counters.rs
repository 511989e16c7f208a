//! What is counted, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use starlane_core::Code;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident)+) => {
        /// What a node counted since its start.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counted { $($(#[doc = $doc])+ pub $name: u64,)+ }

        /// Counts while the node runs.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)+ }

        impl Counters {
            pub(crate) fn read(&self) -> Counted {
                Counted { $($name: self.$name.get(),)+ }
            }
        }

        impl Counted {
            /// All of them by name, for metrics.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Frames that came over links.
    frames_in
    /// Frames that were written to links.
    frames_out
    /// Frames of others that were passed on.
    frames_relayed
    /// Bytes that came over links, without those of large bodies.
    bytes_in
    /// Bytes that were written to links, without those of large bodies.
    bytes_out
    /// Large bodies that came over links.
    bodies_in
    /// Large bodies that were written to links.
    bodies_out
    /// Refused since something was full.
    refused_busy
    /// Refused since no way leads there, or none that may be taken.
    refused_unreachable
    /// Refused since no time was left.
    refused_expired
    /// Refused since it is larger than it may be.
    refused_too_large
    /// Refused since it is no message.
    refused_malformed
    /// Refused for another reason.
    refused_other
    /// Requests and calls of this node whose outcome is not known.
    unknown
    /// Answers that could not be sent back.
    answers_lost
    /// Answers that nobody waited for.
    answers_late
    /// Signals that were taken from this node or one before it and surely did not arrive.
    signals_lost
    /// Links that ended without anybody knowing how many signals went with them.
    signals_unsure
    /// Frames of a kind that is not known here.
    kinds_unknown
    /// Frames that came back to the node that sent them.
    frames_looped
    /// Links that began.
    links_begun
    /// Links that were lost.
    links_lost
    /// Links that began again after one between the same nodes was lost.
    reconnects
    /// Connections that were closed since what came was not the wire.
    malformed
    /// Connections that were refused since the other end is no member.
    strangers
    /// Handshakes that were not begun since too many were under way.
    handshakes_refused
    /// Panics of the local side, each of which ended one request, call or signal.
    panics
    /// Dials that failed.
    dials_failed
}

/// One number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Counts a refusal by its reason.
    pub(crate) fn refused(&self, code: Code) {
        match code {
            Code::Busy => &self.refused_busy,
            Code::Unreachable => &self.refused_unreachable,
            Code::Expired => &self.refused_expired,
            Code::TooLarge => &self.refused_too_large,
            Code::MessageInvalid => &self.refused_malformed,
            _ => &self.refused_other,
        }
        .one();
    }
}
