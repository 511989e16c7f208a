use mechtron_sdk::prelude::*;

pub struct Counter;

#[handlers]
impl Counter {
    #[http(GET, "/")]
    async fn page(&self, _cx: &mut Cx) -> Result<String> {
        Ok(String::new())
    }
}

fn main() {}
