//! Resources: create, find, change and watch them; bundles and files.
//!
//! A change is acknowledged when it is on the disk and every answer shows it. What a resource does (run, serve, link) is no
//! business of this crate, and it never opens a socket.

pub mod archive;
pub mod backup;
pub mod blob;
pub mod bundle;
pub mod content_type;
pub mod files;
pub mod pack;
pub mod store;

mod backoff;
mod content;
mod draft;
mod error;
mod exchange;
#[cfg(test)]
mod flaky;
mod hub;
mod locks;
mod packed;
mod registry;
mod schema;
mod state;
mod upstream;
mod view;
mod watch;

pub use archive::Limits;
pub use blob::{BlobService, BlobStore, CacheConfig};
pub use content::{CONTENT_KEYS, blob_of, named_blobs};
pub use error::Error;
pub use exchange::CALL_BYTES_MAX;
pub use registry::{
    BATCH_MAX, Backing, Clock, Config, Create, Created, Delete, Diff, Done, LogChange, LogEntry, LogOf, Op,
    Outcome, Provided, QueryWatch, RESERVED_BATCH_MAX, Registry, Reserved, Selection,
};
pub use schema::Schemas;
pub use starlane_core::{CreateMode, DeleteTarget, Sequence, Target};
pub use state::{MeshStates, RemoteStates, STATE_BYTES_MAX, StateService, StateStore};
pub use upstream::{Unanswered, Upstream};
pub use watch::Watch;
