//! Placement: what it decides, and whole worlds in which nodes pause, die, come back and are cut off.

#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

mod decisions;
mod simulation;
mod world;
