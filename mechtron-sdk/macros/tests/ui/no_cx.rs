use mechtron_sdk::prelude::*;

#[derive(Message)]
pub struct Add {
    pub by: u64,
}

#[mechtron]
pub struct Counter {
    total: u64,
}

#[handlers]
impl Counter {
    #[call]
    async fn add(&mut self, m: Add) -> Result<u64> {
        Ok(m.by)
    }
}

fn main() {}
