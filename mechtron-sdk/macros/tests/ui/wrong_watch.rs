use mechtron_sdk::prelude::*;

#[mechtron]
pub struct Ledger {
    seen: u64,
}

#[handlers]
impl Ledger {
    #[on(watch = "shop:*[total > 1")]
    async fn open(&mut self, _cx: &mut Cx, _change: Change) -> Result<()> {
        Ok(())
    }

    #[on(change = "shop:*")]
    async fn other(&mut self, _cx: &mut Cx, _change: Change) -> Result<()> {
        Ok(())
    }

    #[on(watch = "shop:*")]
    async fn late(&mut self, _cx: &mut Cx) -> Result<()> {
        Ok(())
    }
}

fn main() {}
