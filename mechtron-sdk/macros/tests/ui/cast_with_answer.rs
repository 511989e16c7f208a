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
    #[cast]
    async fn add(&mut self, _cx: &mut Cx, m: Add) -> Result<u64> {
        Ok(m.by)
    }
}

fn main() {}
