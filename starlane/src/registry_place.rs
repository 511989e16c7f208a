//! Where the registry of a mesh is kept: in a file of its node, or in an etcd.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use resource_registry::store::{self, EtcdConfig, EtcdStore, Store};
use resource_registry::{Backing, Error};
use starlane_core::{Code, Problem, Revision};

use crate::data::DataFolder;

/// The file of an embedded registry, in the data folder.
pub(crate) const FILE: &str = "registry.redb";
/// The file of the states of mechtrons, beside it.
pub(crate) const STATES: &str = "state.redb";

/// Where a registry is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file of the data folder.
    Embedded,
    /// In an etcd, at an address as [`EtcdConfig::at`] takes it.
    Etcd(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let wrong = |error| {
            format!(
                "{error}; write `etcd://HOST:PORT,HOST:PORT/PREFIX`, `etcds://HOST:PORT/PREFIX?ca=FILE`, or `embedded`"
            )
        };
        let config = EtcdConfig::at(text).map_err(wrong)?;
        // It is remembered, and may be read again in another folder.
        let here = std::env::current_dir().map_err(|error| format!("no current folder: {error}"))?;
        Ok(Self::Etcd(config.within(&here).to_string()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Etcd(address) => f.write_str(address),
        }
    }
}

/// A registry that was opened where it is kept.
pub(crate) struct Opened {
    pub(crate) backing: Backing,
    /// The same, when it is in an etcd, so that several nodes can have it.
    pub(crate) etcd: Option<EtcdStore>,
}

/// Who opens a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opener {
    /// The first node of a mesh: it makes the registry.
    First,
    /// A later one, which serves the same registry.
    Later,
}

/// Opens the registry of a mesh where it was told to be, or else where it was told the last time. Never begins an empty one
/// in one place while there is one in the other, nor on a node that is not the first.
pub(crate) async fn open(
    data: &DataFolder,
    told: Option<Place>,
    mesh: &str,
    opener: Opener,
) -> Result<Opened, Problem> {
    let io = |error: std::io::Error| {
        Problem::new(
            Code::StoreUnavailable,
            format!("where the registry is, in {}: {error}", data.path().display()),
        )
    };
    let known = match data.registry_place().map_err(io)? {
        Some(text) => text.parse().map_err(|reason| Problem::new(Code::Corrupt, reason))?,
        None => Place::Embedded,
    };
    let place = told.unwrap_or_else(|| known.clone());
    let file = data.path().join(FILE);
    let opened = match &place {
        Place::Embedded if opener == Opener::Later => {
            let detail = "this node serves the registry beside others, and was not told where that is";
            return Err(Problem::new(Code::Usage, detail).help(
                "name the etcd that the others name: `starlane serve --registry etcd://HOST:PORT/PREFIX`",
            ));
        }
        Place::Embedded if known != Place::Embedded && !file.exists() => {
            return Err(elsewhere(&known, file.display()));
        }
        Place::Embedded => Opened { backing: Backing::File(file.clone()), etcd: None },
        Place::Etcd(address) => {
            let store = open_etcd(address, Some(mesh.to_owned())).await?;
            let empty = store.revisions().newest == Revision(0);
            if empty && opener == Opener::Later {
                return Err(Problem::new(
                    Code::NotFound,
                    format!("the registry of this mesh is not in {address}"),
                )
                .help("name the etcd and the prefix that the other nodes of the registry name"));
            }
            if empty && known == Place::Embedded && file.exists() {
                return Err(elsewhere(file.display(), address));
            }
            if empty && matches!(known, Place::Etcd(_)) && place != known {
                return Err(elsewhere(&known, address));
            }
            Opened { backing: Backing::Store(Arc::new(store.clone())), etcd: Some(store) }
        }
    };
    if place != known {
        data.set_registry_place(&place.to_string()).map_err(io)?;
    }
    Ok(opened)
}

/// Opens a store in etcd, which waits for it.
pub(crate) async fn open_etcd(address: &str, owner: Option<String>) -> Result<EtcdStore, Problem> {
    let config = EtcdConfig::at(address).map_err(|error| Problem::new(Code::Usage, error.to_string()))?;
    let opened = tokio::task::spawn_blocking(move || EtcdStore::open(EtcdConfig { owner, ..config })).await;
    let opened = opened.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    opened.map_err(|error| match error {
        store::Error::Unreachable { .. } => {
            let help = match address.starts_with("etcds") {
                true => "start etcd, or say where it is; `ca` names who its certificate is of, `cert` and `key` what it asks for",
                false => "start etcd, or say where it is; one that speaks TLS is at `etcds://`",
            };
            Problem::new(Code::Unreachable, error.to_string())
                .help(format!("{help}: it was looked for at {address}"))
        }
        error => Error::Store(error).into(),
    })
}

fn elsewhere(known: impl fmt::Display, asked: impl fmt::Display) -> Problem {
    Problem::new(
        Code::Usage,
        format!("the registry of this node is in {known}, and there is none in {asked}"),
    )
    .help(format!("move it first: `starlane registry migrate --from {known} --to {asked}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_printed() {
        for text in [
            "embedded",
            "etcd://a:1,b:2/mesh/one",
            "etcd://a:2379/starlane",
            "etcds://a:2379/mesh?ca=/ca.pem",
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert_eq!("etcd://a".parse(), Ok(Place::Etcd("etcd://a:2379/starlane".to_owned())));
        for wrong in ["", "file", "etcd:/a", "etcd://"] {
            assert!(wrong.parse::<Place>().unwrap_err().contains("etcd://HOST:PORT"), "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_empty_registry_never_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::at(folder.path());
        data.set_registry_place("etcd://a:1/mesh").unwrap();
        let Err(problem) = open(&data, Some(Place::Embedded), "mesh", Opener::First).await else {
            panic!("it was opened")
        };
        assert!(problem.help.unwrap().contains("migrate --from etcd://a:1/mesh --to"));
        assert_eq!(data.registry_place().unwrap().as_deref(), Some("etcd://a:1/mesh"), "nothing changed");
    }
}
