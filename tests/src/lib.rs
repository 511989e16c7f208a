//! What the tests of the whole system share: the repository's own files, and node processes that are really started.
//!
//! A test that cannot do its work says so by a panic; nothing here returns errors.
#![expect(
    clippy::expect_used,
    reason = "a harness for tests ends the test when the machine does not play along"
)]

mod api;
pub mod book;
pub mod certificates;
#[cfg(unix)]
pub mod etcd;
pub mod linear;
#[cfg(target_os = "linux")]
pub mod mesh;
#[cfg(target_os = "linux")]
pub mod net;
mod node;
#[cfg(target_os = "linux")]
pub mod registry;
#[cfg(unix)]
pub mod relay;
pub mod seeded;
mod shell;
pub mod soak;

use std::path::{Path, PathBuf};

pub use api::{Api, Asked};
pub use node::{Answer, Node, Serve, binary, http, unstarted};
pub use shell::{Running, shell};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}
