//! Tokens and members in memory: for tests, and for nothing that has to last.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use starlane_core::{Generation, Key, NodeName};

use super::{Admission, Admitted, Applicant, Contact, Denied};
use crate::identity::Fingerprint;
use crate::token::{Found, OutOfReach, TokenId, TokenRecord, Tokens};

/// Tokens in memory.
#[derive(Debug, Default)]
pub struct MemoryTokens(Mutex<BTreeMap<TokenId, Found>>);

impl MemoryTokens {
    /// Keeps a token.
    pub fn keep(&self, id: TokenId, record: TokenRecord) {
        self.0.lock().insert(id, Found { record, revision: 1 });
    }
}

impl Tokens for MemoryTokens {
    async fn find(&self, id: TokenId) -> Result<Option<Found>, OutOfReach> {
        let found = self.0.lock().get(&id).cloned();
        // Others come in between, as they do where tokens are kept elsewhere.
        tokio::task::yield_now().await;
        Ok(found)
    }

    async fn take(&self, id: TokenId, revision: u64) -> Result<bool, OutOfReach> {
        let mut all = self.0.lock();
        let is_same = all.get(&id).is_some_and(|found| found.revision == revision);
        Ok(is_same && all.remove(&id).is_some())
    }
}

#[derive(Debug)]
struct Member {
    key: Fingerprint,
    generation: Generation,
    labels: BTreeMap<Key, String>,
}

/// Members in memory.
#[derive(Debug, Default)]
pub struct MemoryMembers {
    members: Mutex<BTreeMap<NodeName, Member>>,
    contacts: Vec<Contact>,
}

impl MemoryMembers {
    /// Nobody yet; everybody who comes is told of these.
    pub fn new(contacts: Vec<Contact>) -> Self {
        Self { members: Mutex::default(), contacts }
    }

    /// Removes a member.
    pub fn remove(&self, name: &NodeName) {
        self.members.lock().remove(name);
    }

    /// The labels of a member.
    pub fn labels(&self, name: &NodeName) -> Option<BTreeMap<Key, String>> {
        self.members.lock().get(name).map(|member| member.labels.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.members.lock().len()
    }

    fn admitted(&self, generation: Generation) -> Admitted {
        Admitted { generation, contacts: self.contacts.clone() }
    }
}

impl Admission for MemoryMembers {
    async fn may_join(&self, applicant: &Applicant) -> Result<(), Denied> {
        may_join(&self.members.lock(), applicant)
    }

    async fn admit(&self, applicant: &Applicant) -> Result<Admitted, Denied> {
        let mut members = self.members.lock();
        may_join(&members, applicant)?;
        let next = |generation: Generation| Generation(generation.0.saturating_add(1));
        let known = members.get(&applicant.name).map_or(Generation(0), |known| next(known.generation));
        let generation = applicant.generation.max(known);
        let member = Member { key: applicant.key, generation, labels: applicant.labels.clone() };
        members.insert(applicant.name.clone(), member);
        Ok(self.admitted(generation))
    }

    async fn stay(&self, applicant: &Applicant) -> Result<Admitted, Denied> {
        let mut members = self.members.lock();
        let member = members.get_mut(&applicant.name).filter(|member| member.key == applicant.key);
        let member = member.ok_or(Denied::Removed)?;
        member.generation = applicant.generation.max(member.generation);
        Ok(self.admitted(member.generation))
    }
}

fn may_join(members: &BTreeMap<NodeName, Member>, applicant: &Applicant) -> Result<(), Denied> {
    if members.get(&applicant.name).is_some_and(|member| member.key != applicant.key) {
        return Err(Denied::NameTaken);
    }
    let same_hash =
        |name: &&NodeName| name.id() == applicant.name.id() && name.as_str() != applicant.name.as_str();
    match members.keys().find(same_hash) {
        Some(by) => Err(Denied::HashTaken { by: by.clone() }),
        None => Ok(()),
    }
}
