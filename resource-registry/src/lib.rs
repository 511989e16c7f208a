//! Resources: create, find, change and watch them; bundles and files.

pub mod archive;
pub mod blob;
pub mod content_type;
pub mod pack;
pub mod store;
