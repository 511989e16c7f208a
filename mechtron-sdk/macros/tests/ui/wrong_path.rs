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
    #[http(GET, "total")]
    async fn page(&self, _cx: &mut Cx) -> Result<String> {
        Ok(String::new())
    }

    #[http(FETCH, "/total")]
    async fn fetch(&self, _cx: &mut Cx) -> Result<String> {
        Ok(String::new())
    }

    #[http(GET, "/users/u{id}")]
    async fn user(&self, _cx: &mut Cx) -> Result<String> {
        Ok(String::new())
    }
}

fn main() {}
