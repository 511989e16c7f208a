use mechtron_sdk::prelude::*;

#[derive(Message)]
pub struct Add {
    #[serde(flatten)]
    pub more: std::collections::BTreeMap<String, u64>,
}

#[derive(Message)]
pub struct Generic<T> {
    pub by: T,
}

fn main() {}
