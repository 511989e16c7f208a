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
    async fn add(&mut self, _cx: &mut Cx, m: Add) -> u64 {
        m.by
    }

    #[timer]
    async fn idle(&self, _cx: &mut Cx, _m: Add) -> Result<()> {
        Ok(())
    }
}

fn main() {}
