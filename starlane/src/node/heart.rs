//! What a member does for as long as it runs: it tells the leader that it is alive, renews its certificate, heeds who was
//! shut out, and dials those who can be dialled.

use std::collections::BTreeMap;
use std::time::Duration;

use mechtron_host::Host;
use mesh::identity::{Authority, Error, Revocations};
use mesh::join::keep_renewed;
use mesh::{Credentials, Identity};
use resource_registry::Registry;
use starlane_core::placement::HEARTBEAT;
use starlane_core::{Code, Generation, NodeName, Problem, Resource, Role, Value};
use tokio::time::Instant;

use super::follow::{Follow, News};
use super::homes::{Homes, weight};
use super::leader::Leader;
use super::leadership::leader;
use super::links::{ASK_TIMEOUT, Links};
use super::members::{self, NODES, Record};
use super::membership::{ADDRESSES_MAX, Contacts, ContactsFile, not_joined};
use super::provision::Provision;
use super::services::{DESK, Heard, LEADER, LeaderAsk, Load};

/// How many mechtrons that were let go of are told at once, and how many installs.
const TOLD_MAX: usize = 1_024;
/// How many relays a leaf has links to, beside nodes of the registry.
const LEAF_LINKS: usize = 1;
/// How many nodes of the registry a leaf has links to, beside the first: so that it does not hang on one.
const REGISTRY_LINKS: usize = 2;

/// What a node tells of itself, and to whom.
pub(super) struct Heart {
    pub(super) links: Links,
    pub(super) registry: Registry,
    /// On the nodes of the registry.
    pub(super) leader: Option<Leader>,
    pub(super) homes: Homes,
    pub(super) host: Host,
    pub(super) provision: Provision,
    pub(super) generation: Generation,
}

impl Heart {
    /// Tells the leader again and again that this node is alive, for ever.
    pub(super) async fn beat(self) {
        let mut beats = tokio::time::interval(HEARTBEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            // The leader counts from when it hears, which is later.
            let sent = Instant::now();
            match self.tell().await {
                Ok(()) => self.homes.renew_lease(sent),
                Err(problem) => {
                    tracing::debug!("the leader was not told that this node is alive: {problem}");
                }
            }
        }
    }

    async fn tell(&self) -> Result<(), Problem> {
        let stats = self.host.stats();
        let heard = Heard {
            generation: self.generation,
            load: Load { live: stats.live, queue: stats.queue },
            held: self.homes.all_held().into_iter().take(TOLD_MAX).collect(),
            installing: self.provision.installing().into_iter().take(TOLD_MAX).collect(),
        };
        let leads = leader(&self.registry, self.homes.home());
        match &self.leader {
            Some(leader) if leads == *self.homes.me() => leader.heard(leads, heard).await,
            _ => {
                let ask = LeaderAsk::Heard(heard);
                self.links.ask::<()>(&leads, LEADER, &ask, &[], HEARTBEAT).await.map(drop)
            }
        }
    }
}

/// Stops what keeps its state in the mesh when this node's lease ends, for ever: it may live elsewhere from then on.
pub(super) async fn heed_lease(homes: Homes, host: Host, registry: Registry) {
    let mut lease = homes.lease();
    loop {
        let Some(ends) = *lease.borrow_and_update() else { return };
        let renewed = tokio::time::timeout_at(ends, lease.changed()).await;
        match renewed {
            Ok(Ok(())) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        tracing::warn!("the leader does not hear this node: what keeps its state in the mesh stops here");
        for point in homes.kept_in_the_mesh(&registry) {
            host.swap(&point);
        }
        if lease.changed().await.is_err() {
            return;
        }
        tracing::info!("the leader hears this node again");
    }
}

/// Renews the certificate of a node that has the authority, for ever.
pub(super) async fn renew_own(identity: Identity, authority: Authority) {
    let renew = || {
        let (identity, authority) = (identity.clone(), authority.clone());
        async move {
            let renewed = tokio::task::spawn_blocking(move || identity.renew_from(&authority)).await;
            renewed.unwrap_or(Err(Error::Random))
        }
    };
    if let Err(error) = identity.keep_renewed(renew).await {
        tracing::error!("this node's certificate is not renewed any more: {error}");
    }
}

/// Waits until a node that has the authority is shut out, when it has to stop.
pub(super) async fn shut_out(identity: Identity) -> Problem {
    let mut changes = identity.changes();
    while !identity.revocations().hold(&identity.me()) {
        if changes.changed().await.is_err() {
            // The identity is gone with the node.
            std::future::pending::<()>().await;
        }
    }
    members::shut_out()
}

/// Renews the certificate of a member, for as long as it may stay one; answers why it may not.
pub(super) async fn renew(identity: Identity, links: Links) -> Problem {
    let Links { handle, map, .. } = links;
    not_joined(keep_renewed(handle, map, identity, DESK, |_| {}).await)
}

/// Heeds who was shut out, until the registry is closed.
pub(super) async fn heed_revocations(identity: Identity, registry: Registry) -> Result<(), Problem> {
    let mut follow = Follow::new(registry, "mesh:revoked:*")?;
    let mut all: BTreeMap<NodeName, Generation> = BTreeMap::new();
    let mut complete = false;
    while let Some(news) = follow.next().await {
        match news {
            News::Is { now, .. } => all.extend(revoked(&now)),
            News::Gone(last) => {
                if let Some((name, _)) = revoked(&last) {
                    all.remove(&name);
                }
            }
            News::Complete => complete = true,
        }
        if complete {
            let mut revocations = Revocations::default();
            for (name, generation) in &all {
                revocations.revoke(name.clone(), *generation);
            }
            let identity = identity.clone();
            let kept = tokio::task::spawn_blocking(move || identity.set_revoked(revocations)).await;
            if let Ok(Err(error)) = kept {
                tracing::error!("who was shut out is not kept: {error}");
            }
        }
    }
    Ok(())
}

fn revoked(resource: &Resource) -> Option<(NodeName, Generation)> {
    let name = resource.point.last().parse().ok()?;
    match resource.property("generation")? {
        Value::Number(generation) => Some((name, Generation(generation.as_u64()?))),
        _ => None,
    }
}

/// What is needed to keep up with the nodes of the mesh.
pub(super) struct Nodes {
    pub(super) links: Links,
    pub(super) me: NodeName,
    pub(super) role: Role,
    /// Those that are known to work from here: where it joined.
    pub(super) joined_at: Vec<String>,
    pub(super) file: ContactsFile,
}

impl Nodes {
    /// Dials those who can be dialled, and says of this node what its resource says, until the registry is closed.
    pub(super) async fn keep_up(self, registry: Registry) -> Result<(), Problem> {
        let mut follow = Follow::new(registry, NODES)?;
        let mut all: BTreeMap<NodeName, Record> = BTreeMap::new();
        let mut complete = false;
        let mut known = None;
        while let Some(news) = follow.next().await {
            match news {
                News::Is { now, .. } => {
                    let Some(name) = NodeName::of_point(&now.point) else { continue };
                    let record = Record::of(&now);
                    if name == self.me {
                        self.say(&record);
                    }
                    all.insert(name, record);
                }
                News::Gone(last) => drop(NodeName::of_point(&last.point).and_then(|name| all.remove(&name))),
                News::Complete => complete = true,
            }
            if complete {
                self.dial(&all, &mut known);
            }
        }
        Ok(())
    }

    /// What others see of this node.
    fn say(&self, record: &Record) {
        let (labels, draining) = (record.labels.clone(), record.draining);
        self.links.map.set_about(|about| {
            about.labels = labels;
            about.draining = draining;
        });
        self.links.handle.poke_routing();
    }

    fn dial(&self, all: &BTreeMap<NodeName, Record>, known: &mut Option<Contacts>) {
        let addresses = addresses(&self.me, self.role, &self.links.home, &self.joined_at, all);
        let contacts = Contacts { registry: self.links.home.clone(), addresses };
        if known.as_ref() == Some(&contacts) {
            return;
        }
        self.links.handle.set_addresses(contacts.addresses.clone());
        if let Err(error) = self.file.write(&contacts) {
            tracing::warn!("where other nodes can be dialled is not kept: {error}");
        }
        *known = Some(contacts);
    }
}

/// Whom a node dials: where it joined, the nodes of the registry, and relays: a leaf one more, a relay all of them.
fn addresses(
    me: &NodeName,
    role: Role,
    home: &NodeName,
    joined_at: &[String],
    all: &BTreeMap<NodeName, Record>,
) -> Vec<String> {
    let address = |name: &NodeName| {
        let record = all.get(name).filter(|record| !record.revoked && name != me)?;
        record.address.clone()
    };
    let of = |role: Role| {
        let of_role = all.iter().filter(move |(_, record)| record.role == Some(role)).map(|(name, _)| name);
        let mut of_role: Vec<&NodeName> =
            of_role.filter(|name| *name != home && address(name).is_some()).collect();
        // Leaves spread over them.
        of_role.sort_by_key(|name| weight(me, name));
        of_role
    };
    let (registries, relays) = (of(Role::Registry), of(Role::Relay));
    let [near, count] = match role {
        Role::Leaf => [REGISTRY_LINKS, LEAF_LINKS],
        Role::Relay | Role::Registry => [registries.len(), relays.len()],
    };
    let mut addresses: Vec<String> = Vec::new();
    let registries = registries.into_iter().take(near).filter_map(&address);
    let known = joined_at.iter().cloned().chain(address(home)).chain(registries);
    for address in known.chain(relays.into_iter().take(count).filter_map(address)) {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    addresses
}

/// How long to wait until what failed at the start is tried again.
pub(super) fn wait_before(attempt: u32) -> Duration {
    Duration::from_millis(200).saturating_mul(2_u32.saturating_pow(attempt.min(6))).min(ASK_TIMEOUT)
}

/// Waits until a later life of the same node is part of the mesh, when this one has to stop.
pub(super) async fn replaced(links: Links) -> Problem {
    let mut replaced = links.map.replaced();
    if replaced.wait_for(|replaced| *replaced).await.is_err() {
        // The links are gone with the node.
        std::future::pending::<()>().await;
    }
    Problem::new(Code::StoreUnavailable, "another process runs as this node by now")
        .help("run each node once: a copy of a data folder is the same node, not another one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn relay(address: Option<&str>) -> Record {
        Record { role: Some(Role::Relay), address: address.map(str::to_owned), ..Record::default() }
    }

    #[test]
    fn a_leaf_dials_where_it_joined_the_registry_and_one_relay_more() {
        let all: BTreeMap<_, _> = [
            (name("cloud"), relay(Some("cloud:1"))),
            (name("a"), relay(Some("a:1"))),
            (name("b"), relay(Some("b:1"))),
            (name("c"), relay(None)),
            (name("gone"), Record { revoked: true, ..relay(Some("gone:1")) }),
            (name("me"), relay(Some("me:1"))),
        ]
        .into();
        let joined = vec!["10.0.0.1:1".to_owned()];
        let of = |role| addresses(&name("me"), role, &name("cloud"), &joined, &all);
        let leaf = of(Role::Leaf);
        assert_eq!(&leaf[..2], ["10.0.0.1:1", "cloud:1"]);
        assert!(leaf.len() == 3 && ["a:1", "b:1"].contains(&leaf[2].as_str()), "{leaf:?}");
        let mut all_of_them = of(Role::Relay);
        all_of_them.sort();
        assert_eq!(all_of_them, ["10.0.0.1:1", "a:1", "b:1", "cloud:1"]);
        let first = addresses(&name("cloud"), Role::Relay, &name("cloud"), &[], &all);
        assert!(!first.contains(&"cloud:1".to_owned()) && first.len() == 3, "{first:?}");
    }
}
