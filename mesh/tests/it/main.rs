//! Whole links, on a network in memory and on real sockets.
#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

mod bodies;
mod hostile;
mod leaving;
mod links;
mod members;
mod net;
mod order;
mod outcomes;
mod raw;
mod relays;
mod sockets;
mod versions;
mod world;
