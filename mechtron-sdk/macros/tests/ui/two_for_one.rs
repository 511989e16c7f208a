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
    async fn add(&mut self, _cx: &mut Cx, m: Add) -> Result<u64> {
        Ok(m.by)
    }

    #[cast]
    async fn add_too(&mut self, _cx: &mut Cx, _m: Add) -> Result<()> {
        Ok(())
    }
}

fn main() {}
