//! What a watch tells.

use mechtron_abi::{ChangeHead, ChangeKind};

use crate::{Error, Resource, Result};

/// What happened to a resource, relative to what the selector of an `#[on(watch = "…")]` handler selects.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It is selected, and was not before. What is selected when a mechtron begins to watch is told this way first.
    Entered(Resource),
    /// It was selected before and is, and changed.
    Updated(Resource),
    /// It was selected before and is not; as it was last when it was.
    Left(Resource),
    /// What happened for a while is not known any more, since the mechtron was not told for longer than the registry keeps
    /// its history. All that is selected now follows as [`Change::Entered`]; what is not among it is not selected any more.
    Again,
}

impl Change {
    /// The resource; `None` for [`Change::Again`].
    pub fn resource(&self) -> Option<&Resource> {
        match self {
            Change::Entered(resource) | Change::Updated(resource) | Change::Left(resource) => Some(resource),
            Change::Again => None,
        }
    }

    pub(crate) fn read(head: &ChangeHead<'_>, body: &[u8]) -> Result<Self> {
        let resource = || serde_json::from_slice::<Resource>(body).map_err(Error::from);
        Ok(match head.what {
            ChangeKind::Entered => Change::Entered(resource()?),
            ChangeKind::Updated => Change::Updated(resource()?),
            // What is gone was changed last by what took it away.
            ChangeKind::Left => Change::Left(Resource { revision: head.revision, ..resource()? }),
            ChangeKind::Again => Change::Again,
        })
    }

    /// The head and the body of its frame, for the watch of a handler.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn frame<'a>(&self, watch: &'a str) -> Result<(ChangeHead<'a>, Vec<u8>)> {
        let (what, revision) = match self {
            Change::Entered(resource) => (ChangeKind::Entered, resource.revision),
            Change::Updated(resource) => (ChangeKind::Updated, resource.revision),
            Change::Left(resource) => (ChangeKind::Left, resource.revision),
            Change::Again => (ChangeKind::Again, 0),
        };
        let body = self.resource().map(serde_json::to_vec).transpose()?.unwrap_or_default();
        Ok((ChangeHead { watch: watch.into(), what, revision }, body))
    }
}
