//! Where a client connects, and as whom.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// Where a client connects, and as whom.
#[derive(Clone)]
pub struct Config {
    /// The API of a node, or of several of one mesh, each as `http://HOST:PORT`: another is tried when one is out of reach.
    pub nodes: Vec<String>,
    /// The token of the API.
    pub token: String,
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
    /// A node by its API, `http://127.0.0.1:4343`.
    pub fn new(node: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            nodes: vec![node.into()],
            token: token.into(),
            name: env!("CARGO_PKG_NAME").to_owned(),
            concurrency: 64,
            timeout: Duration::from_secs(30),
        }
    }

    /// What `STARLANE_API` and `STARLANE_TOKEN` say or, without them, the node of the data folder that `STARLANE_DATA` names.
    ///
    /// # Errors
    /// [`Error::Connect`] when neither is there.
    pub fn local() -> Result<Self, Error> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let (Some(api), Some(token)) = (set("STARLANE_API"), set("STARLANE_TOKEN")) {
            return Ok(Self::new(api, token));
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

    /// The node that runs in a data folder of this machine.
    ///
    /// # Errors
    /// [`Error::Connect`] when none does, or the folder cannot be read.
    pub fn of_data(folder: &Path) -> Result<Self, Error> {
        #[derive(serde::Deserialize)]
        struct Running {
            api: String,
        }
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|error| {
                Error::Connect(format!("{}: {error}; does `starlane serve` run there?", path.display()))
            })
        };
        let running: Running = serde_json::from_str(&read("node.json")?)
            .map_err(|error| Error::Connect(format!("{}: {error}", folder.join("node.json").display())))?;
        Ok(Self::new(format!("http://{}", running.api), read("admin.token")?.trim()))
    }

    /// The address of a node's portal.
    pub(crate) fn portal(node: &str) -> Result<String, Error> {
        match node.split_once("://") {
            Some(("http", rest)) => Ok(format!("ws://{}/v1/ws", rest.trim_end_matches('/'))),
            _ => Err(Error::Connect(format!("`{node}` is no `http://HOST:PORT`"))),
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
        for wrong in ["127.0.0.1:4343", "ftp://x", "https://x"] {
            assert!(Config::portal(wrong).is_err(), "{wrong}");
        }
    }
}
