//! Who is alive and where mechtrons live.
mod place;
pub use place::{Lives, Mismatch, Place, Replicas, assignment, check, epoch_of};
