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
    async fn add(_cx: &mut Cx, _m: Add) -> Result<()> {
        Ok(())
    }
}

fn main() {}
