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
    async fn add(&mut self, _cx: &mut Cx) -> Result<u64> {
        Ok(self.total)
    }
}

fn main() {}
