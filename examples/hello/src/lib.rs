//! A mechtron that answers HTTP.

use mechtron_sdk::prelude::*;

/// Greets whoever asks.
#[mechtron]
pub struct Hello;

#[handlers]
impl Hello {
    /// Greets the world.
    #[http(GET, "/")]
    async fn world(&self, _cx: &mut Cx) -> Result<&'static str> {
        Ok("Hello, world!\n")
    }

    /// Greets by name.
    #[http(GET, "/{name}")]
    async fn by_name(&self, cx: &mut Cx, request: Request) -> Result<String> {
        let name = request.param("name");
        ensure!(name.chars().count() <= 40, INVALID_MESSAGE, "a name has at most 40 letters");
        info!(cx, "greeted {name}");
        Ok(format!("Hello, {name}!\n"))
    }
}

mechtrons![Hello];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greets() -> Result<()> {
        let kit = TestKit::new();
        kit.spawn("localhost:hello", Hello);
        assert_eq!(kit.http("localhost:hello", GET, "/")?.body_text(), "Hello, world!\n");
        assert_eq!(kit.http("localhost:hello", GET, "/B%C3%B6b")?.body_text(), "Hello, Böb!\n");
        assert_eq!(kit.log().last().map(|log| log.line.as_str()), Some("greeted Böb"));
        Ok(())
    }

    #[test]
    fn says_what_is_not_there() -> Result<()> {
        let kit = TestKit::new();
        kit.spawn("localhost:hello", Hello);
        assert_eq!(kit.http("localhost:hello", GET, "/a/b")?.status, 404);
        assert_eq!(kit.http("localhost:hello", POST, "/")?.status, 405);
        let long = format!("/{}", "x".repeat(41));
        assert_eq!(kit.http("localhost:hello", GET, &long)?.status, 422);
        Ok(())
    }
}
