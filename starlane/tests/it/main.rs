//! The command line and its client from outside: without a node, against an API that is told what to answer, and against
//! the docs.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, which is what it should do")]

mod commands;
mod mesh;
mod pretend;
mod reference;
mod support;
