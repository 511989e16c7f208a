//! Who a node is: the first of a mesh, which keeps its authority and its registry, or a member that joined one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh::Credentials;
use mesh::identity::{Authority, Config as Keep, Error, Newcomer, system_clock};
use mesh::join::{Contact, JoinError, Wish, authority_at, join_at};
use mesh::token::Token;
use serde::{Deserialize, Serialize};
use starlane_core::{Code, NodeName, Problem, Role};

use super::{Config, Join};
use crate::data::{read_bounded, write_private};

/// How many addresses of other nodes are kept.
pub(super) const ADDRESSES_MAX: usize = 64;

/// How often a node that joins tries again where too many ask at once, and how long it waits at most each time.
const BUSY_TRIES: usize = 30;
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5);

/// Who a node is.
pub(super) struct Membership {
    pub(super) identity: mesh::Identity,
    /// Kept by the nodes of the registry alone.
    pub(super) authority: Option<Authority>,
    pub(super) contacts: ContactsFile,
    pub(super) known: Contacts,
}

/// Where a member finds the others when it starts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contacts {
    /// The first node of the registry.
    pub(super) registry: NodeName,
    /// Where nodes can be dialled, as `host:port`.
    pub(super) addresses: Vec<String>,
}

/// The file of the contacts.
#[derive(Debug, Clone)]
pub(super) struct ContactsFile(PathBuf);

impl ContactsFile {
    fn read(&self) -> io::Result<Option<Contacts>> {
        let Some(text) = read_bounded(&self.0)? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Keeps them for the next start.
    pub(super) fn write(&self, contacts: &Contacts) -> io::Result<()> {
        write_private(&self.0, &serde_json::to_string_pretty(contacts).map_err(io::Error::other)?)
    }
}

/// Finds out who the node of a folder is: what it was, or what it is told to become.
///
/// # Errors
/// When it is told to be somebody else, cannot join, or a file cannot be used.
pub(super) async fn open(folder: &Path, config: &Config) -> Result<Membership, Problem> {
    let contacts = ContactsFile(folder.join("contacts.json"));
    let keep = Keep { folder: folder.to_owned(), clock: system_clock() };
    let authority = Authority::open(folder).map_err(broken)?;
    let was = mesh::Identity::certified_in(folder).map_err(broken)?;
    let joined = was.is_some_and(|peer| peer.role == Role::Registry);
    if authority.is_some() && !joined {
        if let Some(join) = &config.links.join {
            let what = format!(
                "this node is the first of its own mesh, so it cannot join the one at {}",
                join.address
            );
            return Err(Problem::new(Code::Usage, what)
                .help("start another node for it, with a folder of its own: `--data FOLDER`"));
        }
        return first(keep, config, contacts);
    }
    if let Some(identity) = mesh::Identity::open(keep.clone()).map_err(broken)? {
        let is = identity.me().name;
        if let Some(asked) = config.name.clone().filter(|asked| *asked != is) {
            return Err(broken(Error::OtherNode { is, asked }));
        }
        if config.links.join.is_some() {
            tracing::warn!("this node is a member already: it goes on as it was, and the token is not used");
        }
        let known = contacts.read().map_err(|error| unreadable(&contacts.0, &error))?;
        let known = known.ok_or_else(|| unreadable(&contacts.0, &"it is missing"))?;
        return with_authority(Membership { identity, authority, contacts, known }).await;
    }
    match &config.links.join {
        Some(join) => with_authority(enrol(keep, config, join, contacts).await?).await,
        None => first(keep, config, contacts),
    }
}

/// Sees to it that a node which serves the registry has the authority: another one tells it, once.
async fn with_authority(mut membership: Membership) -> Result<Membership, Problem> {
    let Membership { identity, authority, known, .. } = &mut membership;
    if identity.me().role != Role::Registry || authority.is_some() {
        return Ok(membership);
    }
    let mut tries = 0..BUSY_TRIES;
    *authority = loop {
        match authority_at(&known.addresses, identity).await {
            Ok(told) => break Some(told),
            Err(JoinError::Busy { retry_after, .. }) if tries.next().is_some() => {
                tokio::time::sleep(retry_after.min(BUSY_WAIT_MAX)).await;
            }
            Err(error) => {
                let mut problem = not_joined(error);
                problem.detail =
                    format!("no node of the registry tells the mesh's authority: {}", problem.detail);
                let help =
                    "one of them must be dialled from here itself, and run: start this node again then";
                problem.help = Some(help.to_owned());
                return Err(problem);
            }
        }
    };
    Ok(membership)
}

/// The first node of a mesh: it certifies itself.
fn first(keep: Keep, config: &Config, contacts: ContactsFile) -> Result<Membership, Problem> {
    let authority = Authority::open_or_create(&keep.folder, (keep.clock)()).map_err(broken)?;
    let known = match &config.name {
        Some(name) => Some(name.clone()),
        None => mesh::Identity::open(keep.clone()).map_err(broken)?.map(|identity| identity.me().name),
    };
    let name = known.or_else(super::default_name).ok_or_else(no_name)?;
    let role = config.links.role.unwrap_or(Role::Relay);
    let identity = mesh::Identity::of_authority(keep, &authority, name.clone(), role).map_err(broken)?;
    let known = Contacts { registry: name, addresses: Vec::new() };
    Ok(Membership { identity, authority: Some(authority), contacts, known })
}

async fn enrol(
    keep: Keep,
    config: &Config,
    join: &Join,
    contacts: ContactsFile,
) -> Result<Membership, Problem> {
    let token: Token = join.token.parse().map_err(|_| {
        Problem::new(Code::Usage, "that is not a token")
            .help("take it whole, as `starlane token` printed it: `sl1.…`")
    })?;
    let name = config.name.clone().or_else(super::default_name).ok_or_else(no_name)?;
    let wish = Wish { name, role: config.links.role, labels: config.labels.clone() };
    let newcomer = Newcomer::open(keep).map_err(broken)?;
    tracing::info!(name = %wish.name, address = %join.address, "joins");
    let mut tries = 0..BUSY_TRIES;
    let joined = loop {
        match join_at(&join.address, &token, &wish, &newcomer).await {
            Ok(joined) => break joined,
            Err(JoinError::Busy { retry_after, .. }) if tries.next().is_some() => {
                tracing::info!("many nodes join there at once: tries again in {retry_after:?}");
                tokio::time::sleep(retry_after.min(BUSY_WAIT_MAX)).await;
            }
            Err(error) => return Err(not_joined(error)),
        }
    };
    let known = contacts_of(joined.contacts(), &join.address).ok_or_else(|| {
        Problem::new(Code::Internal, "the node that was joined does not say who keeps the registry")
    })?;
    contacts.write(&known).map_err(|error| unreadable(&contacts.0, &error))?;
    let identity = joined.identity(newcomer).map_err(broken)?;
    Ok(Membership { identity, authority: None, contacts, known })
}

/// The address that was joined at comes first: it is known to work from here.
pub(super) fn contacts_of(told: &[Contact], joined_at: &str) -> Option<Contacts> {
    let registry = told.first()?.name.clone();
    let mut addresses = vec![joined_at.to_owned()];
    for address in told.iter().flat_map(|contact| &contact.addresses) {
        if !addresses.contains(address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address.clone());
        }
    }
    Some(Contacts { registry, addresses })
}

fn no_name() -> Problem {
    Problem::new(Code::Usage, "the name of this machine cannot be that of a node")
        .help("choose one: `--name NAME`")
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> Problem {
    Problem::new(Code::StoreUnavailable, format!("{}: {why}", path.display()))
        .help("bring the folder back from a backup, or join again with an empty folder")
}

pub(super) fn broken(error: Error) -> Problem {
    let code = match error {
        Error::OtherNode { .. } => Code::Usage,
        Error::Io { .. } | Error::Broken { .. } => Code::StoreUnavailable,
        Error::Refused(_)
        | Error::AuthorityExpired
        | Error::Certificate(_)
        | Error::Tls(_)
        | Error::Random => Code::Internal,
    };
    Problem::new(code, error.to_string())
}

/// What the words of the error say at their end is what to do next.
pub(super) fn not_joined(error: JoinError) -> Problem {
    let code = match &error {
        JoinError::Here(_) => Code::Internal,
        JoinError::NoAddress { .. }
        | JoinError::Unreachable { .. }
        | JoinError::Lost { .. }
        | JoinError::NoJoining { .. }
        | JoinError::OutOfReach { .. }
        | JoinError::NotUnderstood { .. } => Code::Unreachable,
        JoinError::Busy { .. } => Code::Busy,
        JoinError::TokenUnknown
        | JoinError::TokenExpired
        | JoinError::Revoked
        | JoinError::CertificateRefused
        | JoinError::OtherMesh { .. }
        | JoinError::NotTrusted { .. }
        | JoinError::WrongAnswer { .. } => Code::Forbidden,
        JoinError::WrongRole { .. } | JoinError::WrongName { .. } => Code::Usage,
        JoinError::NameTaken { .. } | JoinError::HashTaken { .. } => Code::Exists,
    };
    let error = match error {
        JoinError::Here(error) => return broken(error),
        other => other,
    };
    let whole = error.to_string();
    if let JoinError::WrongAnswer { .. } = error {
        return Problem::new(code, whole).help("check that both nodes run the same version of starlane");
    }
    // The last part of the words is what to do.
    match whole.rsplit_once("; ").or_else(|| whole.rsplit_once(": ")) {
        Some((detail, help)) => Problem::new(code, detail).help(help),
        None => Problem::new(code, whole),
    }
}
