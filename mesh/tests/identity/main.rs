//! Who is a member, and who becomes one: on real connections.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails ends there")]

mod forged;
mod joining;
mod keeping;
mod members;
mod revoking;
mod world;
