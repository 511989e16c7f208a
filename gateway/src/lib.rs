//! The two doors of a node: the users' web and the `/v1` API with its watch streams.
//!
//! The gateway turns HTTP into messages and outcomes into answers, and holds off clients that are slow, many or
//! malicious. It never runs a bind, reads the registry or knows a mechtron: the node behind [`Mesh`] does.

mod config;
mod doors;
mod mesh;
mod schema;
pub mod shapes;

pub use config::{Config, Limits, Protection};
pub use doors::{Addresses, BindError, Doors};
pub use mesh::{Content, Expect, Mesh, Selection, SpaceState, Upload};
