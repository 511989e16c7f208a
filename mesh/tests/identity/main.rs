//! Who is a member, and who becomes one: on real connections.

mod forged;
mod joining;
mod keeping;
mod members;
mod revoking;
mod world;
