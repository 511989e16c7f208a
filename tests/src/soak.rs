//! Promises under faults, each as a function with a size: small in the tests, large as `soak NAME`.

mod kill;
#[cfg(target_os = "linux")]
mod outcome;
mod report;

pub use kill::{KillFigures, kill_during_creates};
#[cfg(target_os = "linux")]
pub use outcome::requests_under_kills;
pub use report::Report;
