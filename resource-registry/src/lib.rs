//! Resources: create, find, change and watch them; bundles and files.

pub mod blob;
pub mod store;
