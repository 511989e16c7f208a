//! Resources, over the `/v1` API.

use serde::Serialize;
use serde_json::{Map, Value, json};
use starlane_core::{Resource, Revision};

use crate::client::{kind, point};
use crate::error::Problem;
use crate::{Client, Error, Reply};

/// How many resources are read at a time.
const PAGE: usize = 1_000;

impl Client {
    /// Makes a resource.
    ///
    /// # Errors
    /// When something is there already, or a rule or the schema of its kind refuses it.
    pub async fn create(&self, at: &str, kind: &str, properties: impl Serialize) -> Result<Resource, Error> {
        self.make(at, kind, properties, "new").await
    }

    /// Makes a resource unless one of the kind is there, which stays as it is.
    ///
    /// # Errors
    /// When something else is there, or a rule or the schema of its kind refuses it.
    pub async fn ensure(&self, at: &str, kind: &str, properties: impl Serialize) -> Result<Resource, Error> {
        self.make(at, kind, properties, "ensure").await
    }

    async fn make(
        &self,
        at: &str,
        of: &str,
        properties: impl Serialize,
        mode: &str,
    ) -> Result<Resource, Error> {
        let body = json!({
            "point": at, "kind": kind(of)?, "properties": members(properties)?, "mode": mode,
        });
        read(self.call("POST", "/v1/resources", Vec::new(), body.to_string()).await?)
    }

    /// The resource at a point.
    ///
    /// # Errors
    /// `E-NOT-FOUND` when nothing is there.
    pub async fn get(&self, at: &str) -> Result<Resource, Error> {
        read(self.call("GET", path(at)?, Vec::new(), "").await?)
    }

    /// Changes properties, all or none: `null` takes one away. With `expect` only when the resource was last changed then.
    ///
    /// # Errors
    /// `E-REVISION-CONFLICT` when somebody else changed it, and when a rule or the schema of its kind refuses it.
    pub async fn set(
        &self,
        at: &str,
        properties: impl Serialize,
        expect: Option<Revision>,
    ) -> Result<Resource, Error> {
        let (set, unset): (Map<_, _>, Map<_, _>) =
            members(properties)?.into_iter().partition(|(_, value)| !value.is_null());
        let unset: Vec<String> = unset.into_iter().map(|(key, _)| key).collect();
        let body = json!({ "set": set, "unset": unset }).to_string();
        let headers = expect.map(|Revision(at)| ("if-match".to_owned(), format!("\"{at}\"")));
        read(self.call("PATCH", path(at)?, headers.into_iter().collect(), body).await?)
    }

    /// Takes a resource away, with `recursive` all below it too.
    ///
    /// # Errors
    /// `E-NOT-FOUND` when nothing is there, `E-HAS-CHILDREN` when it has some and `recursive` is not said.
    pub async fn delete(&self, at: &str, recursive: bool) -> Result<(), Error> {
        let path = format!("{}?recursive={recursive}", path(at)?);
        let reply = self.call("DELETE", path, Vec::new(), "").await?;
        read::<Value>(reply).map(drop)
    }

    /// All that a selector means, in the order of points; read page by page, so that writers go on meanwhile.
    ///
    /// # Errors
    /// When the selector cannot be read.
    pub async fn select(&self, selector: &str) -> Result<Vec<Resource>, Error> {
        #[derive(serde::Deserialize)]
        struct Page {
            resources: Vec<Resource>,
            next: Option<String>,
        }
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut path = format!("/v1/resources?select={}&limit={PAGE}", encode(selector));
            if let Some(cursor) = &cursor {
                path.push_str(&format!("&cursor={}", encode(cursor)));
            }
            let page: Page = read(self.call("GET", path, Vec::new(), "").await?)?;
            all.extend(page.resources);
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Runs the statements of a script, as `starlane exec` does; answers what each of them answered.
    ///
    /// # Errors
    /// Of the first statement that fails; those before it were done.
    pub async fn exec(&self, script: &str) -> Result<Vec<Value>, Error> {
        #[derive(serde::Deserialize)]
        struct Results {
            results: Vec<Value>,
        }
        let headers = vec![("content-type".to_owned(), "text/plain".to_owned())];
        Ok(read::<Results>(self.call("POST", "/v1/exec", headers, script.to_owned()).await?)?.results)
    }
}

/// Properties as a JSON object; none for what is nothing.
fn members(properties: impl Serialize) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(properties) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(other) => Err(Error::usage(format!("properties are an object, not `{other}`"))),
        Err(error) => Err(Error::usage(format!("the properties cannot be written as JSON: {error}"))),
    }
}

fn path(at: &str) -> Result<String, Error> {
    Ok(format!("/v1/resources/{}", encode(point(at)?.as_str())))
}

/// Percent-encodes all but what never means anything in a part of a URL (RFC 3986, section 2.3).
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The document of an answer, or the problem in its place.
fn read<T: serde::de::DeserializeOwned>(reply: Reply) -> Result<T, Error> {
    let wrong = |error: serde_json::Error| {
        Error::Unknown(Problem::new("E-INTERNAL", format!("the node's answer cannot be read: {error}")))
    };
    if reply.is_success() {
        let body: &[u8] = if reply.body.is_empty() { b"null" } else { &reply.body };
        return serde_json::from_slice(body).map_err(wrong);
    }
    let problem = Problem::read(reply.read().map_err(wrong)?);
    // A write that was not acknowledged in time may have happened.
    Err(if reply.status == 504 { Error::Unknown(problem) } else { Error::Rejected(problem) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_fit_into_a_url() {
        assert_eq!(encode("shop:*[a = \"ä\"]"), "shop%3A%2A%5Ba%20%3D%20%22%C3%A4%22%5D");
        assert_eq!(path("shop:files:/a.txt").unwrap(), "/v1/resources/shop%3Afiles%3A%2Fa.txt");
    }
}
