//! Where a client connects, and as whom.

use std::path::{Path, PathBuf};
use std::time::Duration;

use starlane_core::Digest;

use crate::{Error, Trust};

/// Where a client connects, and as whom.
#[derive(Clone)]
pub struct Config {
    /// The API of a node, or of several of one mesh, each as `http://HOST:PORT`, or as `https://HOST:PORT` when it
    /// speaks TLS: another is tried when one is out of reach.
    pub nodes: Vec<String>,
    /// The token of the API.
    pub token: String,
    /// Which certificates are believed of nodes that speak TLS.
    pub trust: Trust,
    /// What the client calls itself, for the node's logs.
    pub name: String,
    /// How many messages its services handle at a time.
    pub concurrency: u32,
    /// How long the answer to a request is waited for, unless the request says otherwise.
    pub timeout: Duration,
}

impl std::fmt::Debug for Config {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("nodes", &self.nodes).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Config {
    /// A node by its API, `http://127.0.0.1:4343` or `https://node.example.com:4343`.
    pub fn new(node: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            nodes: vec![node.into()],
            token: token.into(),
            trust: Trust::Machine,
            name: env!("CARGO_PKG_NAME").to_owned(),
            concurrency: 64,
            timeout: Duration::from_secs(30),
        }
    }

    /// The same, which believes the certificates that the authorities in a PEM file signed, and no others.
    #[must_use]
    pub fn ca(self, file: impl Into<PathBuf>) -> Self {
        Self { trust: Trust::Authorities(file.into()), ..self }
    }

    /// What `STARLANE_API`, `STARLANE_TOKEN` and, for a file of authorities, `STARLANE_CA` say or, without them, the node of the data folder that `STARLANE_DATA` names.
    ///
    /// # Errors
    /// [`Error::Connect`] when neither is there.
    pub fn local() -> Result<Self, Error> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let (Some(api), Some(token)) = (set("STARLANE_API"), set("STARLANE_TOKEN")) {
            let config = Self::new(api, token);
            return Ok(match set("STARLANE_CA") {
                Some(file) => config.ca(file),
                None => config,
            });
        }
        let folder = set("STARLANE_DATA").map(PathBuf::from).ok_or_else(|| {
            Error::Connect(
                "no node is known: set STARLANE_DATA to the data folder of a node of this machine, or STARLANE_API \
                 and STARLANE_TOKEN"
                    .to_owned(),
            )
        })?;
        Self::of_data(&folder)
    }

    /// The node that runs in a data folder of this machine; its own certificate alone is believed when it speaks TLS.
    ///
    /// # Errors
    /// [`Error::Connect`] when none does, or the folder cannot be read.
    pub fn of_data(folder: &Path) -> Result<Self, Error> {
        #[derive(serde::Deserialize)]
        struct Running {
            api: String,
            #[serde(default)]
            certificate: Option<Digest>,
        }
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|error| {
                Error::Connect(format!("{}: {error}; does `starlane serve` run there?", path.display()))
            })
        };
        let running: Running = serde_json::from_str(&read("node.json")?)
            .map_err(|error| Error::Connect(format!("{}: {error}", folder.join("node.json").display())))?;
        let token = read("admin.token")?;
        Ok(match running.certificate {
            None => Self::new(format!("http://{}", running.api), token.trim()),
            Some(certificate) => Self {
                trust: Trust::Certificate(certificate),
                ..Self::new(format!("https://{}", running.api), token.trim())
            },
        })
    }

    /// The address of a node's portal.
    pub(crate) fn portal(node: &str) -> Result<String, Error> {
        match node.split_once("://") {
            Some(("http", rest)) => Ok(format!("ws://{}/v1/ws", rest.trim_end_matches('/'))),
            Some(("https", rest)) => Ok(format!("wss://{}/v1/ws", rest.trim_end_matches('/'))),
            _ => Err(Error::Connect(format!("`{node}` is no `http://HOST:PORT` or `https://HOST:PORT`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_tells_where_its_node_is_and_the_token_stays_out_of_logs() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Config::of_data(folder.path()).unwrap_err().to_string().contains("node.json"));
        std::fs::write(folder.path().join("node.json"), r#"{"api":"127.0.0.1:4343","pid":7}"#).unwrap();
        assert!(Config::of_data(folder.path()).unwrap_err().to_string().contains("admin.token"));
        std::fs::write(folder.path().join("admin.token"), "secret\n").unwrap();
        let config = Config::of_data(folder.path()).unwrap();
        assert_eq!((&*config.nodes[0], &*config.token), ("http://127.0.0.1:4343", "secret"));
        assert!(!format!("{config:?}").contains("secret"));
        assert_eq!(Config::portal(&config.nodes[0]), Ok("ws://127.0.0.1:4343/v1/ws".to_owned()));
        assert_eq!(Config::portal("https://[::1]:1/"), Ok("wss://[::1]:1/v1/ws".to_owned()));
        for wrong in ["127.0.0.1:4343", "ftp://x"] {
            assert!(Config::portal(wrong).is_err(), "{wrong}");
        }
    }
}
