//! Links between nodes over QUIC: who a node is, how it joins, frames on the wire, and requests that have exactly one
//! outcome across any number of hops.
//!
//! The crate knows nothing of Wasm, of resources or of HTTP: what arrives for this node is handed to its
//! local side, and who may be whom is said by [`Credentials`].

mod credentials;
pub mod identity;
pub mod join;
pub mod proof;
pub mod token;

pub use credentials::{Credentials, Peer};
pub use identity::Identity;
