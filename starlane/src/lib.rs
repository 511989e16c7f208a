//! The composition root of Starlane: the node, the command line and its client in one binary.
//!
//! The command line ([`cli`]) talks to a node only through its HTTP API ([`client`]), finds it by the files in a
//! data folder ([`data`]) or by a named context ([`context`]), and turns every result and error into text in one
//! place ([`output`]). Where the registry of a mesh is kept is decided in [`registry_place`]. The environment and the configuration are read here and nowhere below.

pub mod cli;
pub mod client;
pub mod context;
pub mod data;
pub mod demo;
pub mod node;
pub mod output;
pub mod registry_place;
