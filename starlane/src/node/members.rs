//! The members of a mesh as the registry has them: a resource `mesh:nodes:NAME` for each, and who may become one.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::identity::Fingerprint;
use mesh::join::{Admission, Admitted, Applicant, Contact, Denied};
use resource_registry::{Error, Provided, Registry, Reserved};
use starlane_core::{
    Agent, Base, Code, Generation, Key, Kind, NodeName, Point, Problem, PropertyChange, Resource, Role,
    Status, Value,
};

/// The properties of a node that are not its labels, beside those that begin with [`OWN`].
const NOT_LABELS: [&str; 2] = [DRAINING, REVOKED];
/// With this begins what a node says of itself.
const OWN: &str = "node.";
const KEY: &str = "node.key";
const GENERATION: &str = "node.generation";
const ROLE: &str = "node.role";
const ADDRESS: &str = "node.address";
const VERSION: &str = "node.version";
/// Everything is to leave it.
const DRAINING: &str = "draining";
/// It is no member any more.
const REVOKED: &str = "revoked";

/// How often it is decided anew about a member of which something else was written meanwhile.
const ATTEMPTS_MAX: usize = 8;

/// All nodes.
pub(super) const NODES: &str = "mesh:nodes:*<Node>";

/// What the registry knows of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Record {
    /// The fingerprint of its key; `None` for one that was never enrolled.
    pub(super) key: Option<String>,
    pub(super) generation: Generation,
    pub(super) role: Option<Role>,
    /// Where others dial it; `None` when it only dials out.
    pub(super) address: Option<String>,
    pub(super) version: String,
    pub(super) draining: bool,
    pub(super) revoked: bool,
    pub(super) labels: BTreeMap<String, String>,
}

impl Record {
    /// What a node's resource says.
    pub(super) fn of(resource: &Resource) -> Self {
        let text = |key: &str| resource.property(key).and_then(Value::as_text).map(str::to_owned);
        let is = |key: &str| matches!(resource.property(key), Some(Value::Bool(true)));
        let generation = match resource.property(GENERATION) {
            Some(Value::Number(number)) => number.as_u64().unwrap_or_default(),
            _ => 0,
        };
        let labels = resource.properties.iter().filter(|(key, _)| is_label(key));
        Self {
            key: text(KEY),
            generation: Generation(generation),
            role: text(ROLE).and_then(|role| role.parse().ok()),
            address: text(ADDRESS),
            version: text(VERSION).unwrap_or_default(),
            draining: is(DRAINING),
            revoked: is(REVOKED),
            labels: labels.map(|(key, property)| (key.to_string(), property.value.to_string())).collect(),
        }
    }
}

/// Whether a property of a node is one of its labels.
pub(super) fn is_label(key: &Key) -> bool {
    !key.as_str().starts_with(OWN) && !NOT_LABELS.contains(&key.as_str())
}

/// The changes that give a node these labels.
///
/// # Errors
/// `E-PROPERTY-KEY` for a name that says something else of a node.
pub(super) fn label_changes<'a>(
    labels: impl IntoIterator<Item = (&'a Key, Option<&'a str>)>,
) -> Result<Vec<PropertyChange>, Problem> {
    labels
        .into_iter()
        .map(|(key, value)| match value {
            _ if !is_label(key) => {
                let detail = format!("`{key}` cannot be a label: the mesh itself says it of a node");
                Err(Problem::new(Code::PropertyKey, detail)
                    .help(format!("choose another name; those that begin with `{OWN}` are the mesh's")))
            }
            Some(value) => Ok(set(key.clone(), Value::text(value))),
            None => Ok(PropertyChange::Unset(key.clone())),
        })
        .collect()
}

/// What a node says of itself when it starts, or gets another certificate.
pub(super) fn told(key: Option<Fingerprint>, generation: Generation, role: Role) -> Vec<PropertyChange> {
    let key = key.map(|key| named(KEY, Value::text(key.to_string())));
    let more =
        [named(GENERATION, Value::Number(generation.0.into())), named(ROLE, Value::text(role.as_str()))];
    key.into_iter().chain(more).flatten().collect()
}

/// What a node that starts says: it drains no more, and where it can be dialled.
pub(super) fn started(address: Option<&str>, version: &str) -> Vec<PropertyChange> {
    let address = match address {
        Some(address) => named(ADDRESS, Value::text(address)),
        None => unset(ADDRESS),
    };
    [address, named(VERSION, Value::text(version)), unset(DRAINING)].into_iter().flatten().collect()
}

/// Begins or ends to drain a node.
pub(super) fn draining(drains: bool) -> Option<PropertyChange> {
    if drains { named(DRAINING, Value::Bool(true)) } else { unset(DRAINING) }
}

/// Says that a node is no member any more.
pub(super) fn revoked() -> Option<PropertyChange> {
    named(REVOKED, Value::Bool(true))
}

fn named(key: &str, value: Value) -> Option<PropertyChange> {
    Some(set(key.parse().ok()?, value))
}

fn unset(key: &str) -> Option<PropertyChange> {
    Some(PropertyChange::Unset(key.parse().ok()?))
}

fn set(key: Key, value: Value) -> PropertyChange {
    PropertyChange::Set { key, value, lock: false }
}

/// Brings a node's resource up to date.
///
/// # Errors
/// When the registry does not take it.
pub(super) async fn write(
    registry: &Registry,
    by: &Agent,
    point: Point,
    changes: Vec<PropertyChange>,
    status: Status,
) -> Result<(), resource_registry::Error> {
    registry.put_reserved(by, Reserved::new(point, Kind::of(Base::Node), changes, status)).await.map(drop)
}

/// Checks that a registry is the one that a later node of it joined.
///
/// # Errors
/// `E-FORBIDDEN` for a node that was shut out, `E-NOT-FOUND` for a registry that does not know it.
pub(super) async fn check_known(registry: &Registry, me: &NodeName, key: Fingerprint) -> Result<(), Problem> {
    registry.fresh().await?;
    check_welcome(registry, me)?;
    if record_of(registry, me).is_some_and(|node| node.key == Some(key.to_string())) {
        return Ok(());
    }
    Err(Problem::new(Code::NotFound, format!("the registry there does not know the node `{me}`"))
        .help("name the etcd and the prefix that the other nodes of the registry name"))
}

/// Checks that a node of the registry was not shut out: it has the authority, so nobody else keeps it from coming back.
///
/// # Errors
/// `E-FORBIDDEN`
pub(super) fn check_welcome(registry: &Registry, me: &NodeName) -> Result<(), Problem> {
    if record_of(registry, me).is_some_and(|node| node.revoked) { Err(shut_out()) } else { Ok(()) }
}

fn record_of(registry: &Registry, name: &NodeName) -> Option<Record> {
    name.point().and_then(|point| registry.get(&point)).map(|node| Record::of(&node))
}

/// What a node of the registry says that was shut out.
pub(super) fn shut_out() -> Problem {
    Problem::new(Code::Forbidden, "this node was shut out of its mesh")
        .help("join again with a new token, and an empty folder: `starlane token --role registry` makes one")
}

/// Checks that nobody else serves a registry which is in a file again: others would go on with what it was in etcd.
///
/// # Errors
/// `E-USAGE`
pub(super) fn check_alone(registry: &Registry, me: &NodeName) -> Result<(), Problem> {
    let nodes = registry.select(&NODES.parse()?, usize::MAX, None)?.resources;
    let others = nodes.iter().filter_map(|node| Some((NodeName::of_point(&node.point)?, Record::of(node))));
    let mut others =
        others.filter(|(name, record)| name != me && record.role == Some(Role::Registry) && !record.revoked);
    let Some((name, _)) = others.next() else { return Ok(()) };
    let detail = format!("`{name}` serves this registry too, which only a registry in etcd can be");
    Err(Problem::new(Code::Usage, detail)
        .help(format!("shut it out before the registry is moved into a file: `starlane node revoke {name}`")))
}

/// Who may become a member, by what the registry has: for the nodes of the registry, which alone decide.
pub(super) struct Members {
    registry: Registry,
    by: Agent,
    /// Where those who join go from here; the first node of the registry first.
    contact: NodeName,
    addresses: Vec<String>,
    /// Held by whoever decides about one member.
    deciding: Arc<tokio::sync::Mutex<()>>,
}

impl Members {
    /// `addresses` are those where this node can be dialled, `contact` is the first node of the registry.
    pub(super) fn new(registry: Registry, by: Agent, contact: NodeName, addresses: Vec<String>) -> Self {
        Self { registry, by, contact, addresses, deciding: Arc::default() }
    }

    /// Held by whoever decides about one member.
    pub(super) fn deciding(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.deciding.clone()
    }

    fn all(&self) -> Result<Vec<(NodeName, Record)>, Denied> {
        let nodes = NODES.parse().map_err(|_| Denied::OutOfReach)?;
        let nodes = self.registry.select(&nodes, usize::MAX, None).map_err(|_| Denied::OutOfReach)?;
        let named = |node: &Arc<Resource>| Some((NodeName::of_point(&node.point)?, Record::of(node)));
        Ok(nodes.resources.iter().filter_map(named).collect())
    }

    /// What is known under the applicant's name, when it may have that name.
    async fn known(&self, applicant: &Applicant) -> Result<Option<Record>, Denied> {
        self.registry.fresh().await.map_err(|_| Denied::OutOfReach)?;
        let mut known = None;
        for (name, record) in self.all()? {
            if name == applicant.name {
                let is_same = record.key.as_deref() == Some(applicant.key.to_string().as_str());
                // A name whose node was shut out is free for another.
                if !is_same && !record.revoked {
                    return Err(Denied::NameTaken);
                }
                known = Some(record);
            } else if name.id() == applicant.name.id() {
                return Err(Denied::HashTaken { by: name });
            }
        }
        Ok(known)
    }

    /// The first node of the registry with where this one can be dialled, the others of the registry, then whoever else can be.
    fn contacts(&self) -> Result<Vec<Contact>, Denied> {
        let mut first = Contact { name: self.contact.clone(), addresses: self.addresses.clone() };
        let mut others = self.all()?;
        others.retain(|(_, record)| !record.revoked);
        others.sort_by_key(|(_, record)| record.role != Some(Role::Registry));
        let mut contacts = Vec::new();
        for (name, record) in others {
            let Some(address) = record.address else { continue };
            if name != self.contact {
                contacts.push(Contact { name, addresses: vec![address] });
            } else if !first.addresses.contains(&address) {
                first.addresses.push(address);
            }
        }
        contacts.truncate(super::membership::ADDRESSES_MAX);
        Ok([first].into_iter().chain(contacts).collect())
    }

    /// Writes down what was decided by a resource as it was; `false` when it is another by now.
    async fn write(
        &self,
        applicant: &Applicant,
        generation: Generation,
        mut changes: Vec<PropertyChange>,
        status: Status,
        before: Option<&Resource>,
    ) -> Result<bool, Denied> {
        let point = applicant.name.point().ok_or(Denied::OutOfReach)?;
        changes.extend(told(Some(applicant.key), generation, applicant.role));
        let provided = match before {
            Some(before) => Provided::At(point.clone(), before.modified),
            None => Provided::Absent(point.clone()),
        };
        let node = Reserved::new(point, Kind::of(Base::Node), changes, status);
        match self.registry.put_all_reserved_if(&self.by, vec![node], Some(&provided)).await {
            Ok(_) => Ok(true),
            Err(Error::Exists { .. } | Error::NotFound(_) | Error::RevisionConflict { .. }) => Ok(false),
            Err(error) => {
                tracing::warn!(name = %applicant.name, "a node cannot be written down: {error}");
                Err(Denied::OutOfReach)
            }
        }
    }
}

impl Admission for Members {
    async fn may_join(&self, applicant: &Applicant) -> Result<(), Denied> {
        self.known(applicant).await.map(drop)
    }

    async fn admit(&self, applicant: &Applicant) -> Result<Admitted, Denied> {
        let _one = self.deciding.lock().await;
        let point = applicant.name.point().ok_or(Denied::OutOfReach)?;
        let labels = applicant.labels.iter().map(|(key, value)| (key, Some(value.as_str())));
        // A label that says something else would have been refused with the token, or is the newcomer's own mistake.
        let labels = labels.filter(|(key, _)| is_label(key));
        let mut changes = label_changes(labels).map_err(|_| Denied::OutOfReach)?;
        changes.extend(unset(REVOKED));
        // Another node of the registry may decide about the same name at the same time: the first that is written holds.
        for _ in 0..ATTEMPTS_MAX {
            let known = self.known(applicant).await?;
            let before = self.registry.get(&point);
            if known != before.as_deref().map(Record::of) {
                continue;
            }
            let later = known.map_or(Generation(0), |known| Generation(known.generation.0.saturating_add(1)));
            let generation = applicant.generation.max(later);
            let status = Status::because(starlane_core::Phase::Pending, "it joined, and was not heard yet");
            if self.write(applicant, generation, changes.clone(), status, before.as_deref()).await? {
                return Ok(Admitted { generation, contacts: self.contacts()? });
            }
        }
        Err(Denied::OutOfReach)
    }

    async fn stay(&self, applicant: &Applicant) -> Result<Admitted, Denied> {
        let _one = self.deciding.lock().await;
        let point = applicant.name.point().ok_or(Denied::Removed)?;
        for _ in 0..ATTEMPTS_MAX {
            self.registry.fresh().await.map_err(|_| Denied::OutOfReach)?;
            let node = self.registry.get(&point).ok_or(Denied::Removed)?;
            let known = Record::of(&node);
            if known.revoked || known.key.as_deref() != Some(applicant.key.to_string().as_str()) {
                return Err(Denied::Removed);
            }
            let generation = applicant.generation.max(known.generation);
            let is_known = generation <= known.generation && known.role == Some(applicant.role);
            let status = node.status.clone();
            if is_known || self.write(applicant, generation, Vec::new(), status, Some(&node)).await? {
                return Ok(Admitted { generation, contacts: self.contacts()? });
            }
        }
        Err(Denied::OutOfReach)
    }
}
