//! The two doors of a node: the users' web and the `/v1` API with its watch streams.
//!
//! The gateway turns HTTP into messages and outcomes into answers, and holds off clients that are slow, many or
//! malicious. It never runs a bind, reads the registry or knows a mechtron: the node behind [`Mesh`] does.

mod api;
mod body;
mod config;
mod content;
mod doors;
mod mesh;
mod metrics;
mod pace;
mod page;
pub mod portal;
mod problem;
mod schema;
mod segment;
pub mod shapes;
mod sockets;
mod tls;
mod web;

pub use config::{Config, Limits, Protection};
pub use doors::{Addresses, BindError, Doors};
pub use mesh::{
    Comparison, Content, Expect, Freshness, Gathered, Gathering, IS_DIRECTORY, Mesh, Scatter, Selection,
    SpaceState, TokenTerms, Upload,
};
pub use segment::encode_point;
pub use sockets::{Socket, Sockets};
pub use tls::{Tls, TlsError, Trust, client as tls_client, failure as tls_failure};

/// The OpenAPI 3.1 document of the `/v1` API, as JSON.
pub fn openapi() -> String {
    api::document()
}
