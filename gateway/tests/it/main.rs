//! The doors as clients see them: over real sockets, in front of a mesh of a few lines.

mod api;
mod client;
mod fake;
mod hostile;
mod openapi;
mod patience;
mod streams;
mod web;
