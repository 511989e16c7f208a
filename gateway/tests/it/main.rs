//! The doors as clients see them: over real sockets, in front of a mesh of a few lines.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod api;
mod client;
mod fake;
mod homes;
mod hostile;
mod nodes;
mod openapi;
mod patience;
mod portal;
mod scatter;
mod sockets;
mod streams;
mod tls;
mod web;
