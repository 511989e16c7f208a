//! Promises under faults, each as a function with a size: small in the tests, large as `soak NAME`.

mod kill;

pub use kill::{KillFigures, kill_during_creates};
