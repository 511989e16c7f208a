//! Promises under faults, each as a function with a size: small in the tests, large as `soak NAME`.

mod kill;
mod report;

pub use kill::{KillFigures, kill_during_creates};
pub use report::Report;
