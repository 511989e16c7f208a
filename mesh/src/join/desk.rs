//! Who decides on joining: the token is spent first, and only then anything is certified.

use std::collections::BTreeMap;
use std::future::Future;

use rustls::pki_types::CertificateDer;
use starlane_core::{Generation, Key, NodeName, Role};

use super::wire::fit;
use super::{Answer, Contact, Handover, Join, Refusal, Renew, Request};
use crate::Peer;
use crate::identity::{Authority, Ended, Fingerprint, Identity, Refused};
use crate::token::{Asked, Found, OutOfReach, TokenRefused, Tokens, check};

/// Whoever answers requests to join and to renew.
pub trait Desk: Send + Sync + 'static {
    /// Answers one.
    fn answer(&self, request: Request) -> impl Future<Output = Answer> + Send;

    /// The authority, for a member that may know it; `None` where it is not.
    fn authority(&self) -> Option<Handover> {
        None
    }
}

/// A node that is about to become a member, or to stay one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// Its name.
    pub name: NodeName,
    /// Its role.
    pub role: Role,
    /// Its labels: what it says of itself, and over it what the token says. None when it renews.
    pub labels: BTreeMap<Key, String>,
    /// Its key's fingerprint: the same name with the same key is the same node.
    pub key: Fingerprint,
    /// The generation that it has counted itself.
    pub generation: Generation,
}

/// What a node is let in with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admitted {
    /// The least generation that it can have: later than any that others know of it. What it counted itself holds when
    /// that is later.
    pub generation: Generation,
    /// Where it goes from here: the nodes of the registry, and where they can be dialled.
    pub contacts: Vec<Contact>,
}

/// Why a node is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its name is that of a node with another key.
    #[error("the name is another node's")]
    NameTaken,
    /// The hash of its name is that of another node's name.
    #[error("the name's hash is that of `{by}`")]
    HashTaken {
        /// The other node.
        by: NodeName,
    },
    /// It is no member any more.
    #[error("the node was removed")]
    Removed,
    /// Nobody can decide now.
    #[error("out of reach")]
    OutOfReach,
}

/// Who may have which name: what enrolment needs to know of the members.
pub trait Admission: Send + Sync + 'static {
    /// Whether a node could be admitted now. Asked before its token is spent, and changes nothing.
    ///
    /// # Errors
    /// Why not.
    fn may_join(&self, applicant: &Applicant) -> impl Future<Output = Result<(), Denied>> + Send;

    /// Makes a node a member under its name, which nobody else gets from now on. A node that is a member already under this
    /// name and key stays one: it lost an answer, or its certificate ended.
    ///
    /// # Errors
    /// Why not; its token is spent nevertheless.
    fn admit(&self, applicant: &Applicant) -> impl Future<Output = Result<Admitted, Denied>> + Send;

    /// Whether a member stays one.
    ///
    /// # Errors
    /// Why not.
    fn stay(&self, applicant: &Applicant) -> impl Future<Output = Result<Admitted, Denied>> + Send;
}

/// The desk where the authority is.
pub struct Enrolment<T, A> {
    identity: Identity,
    authority: Authority,
    tokens: T,
    admission: A,
}

impl<T: Tokens, A: Admission> Enrolment<T, A> {
    /// A desk of the node that keeps the authority.
    pub fn new(identity: Identity, authority: Authority, tokens: T, admission: A) -> Self {
        Self { identity, authority, tokens, admission }
    }

    /// The tokens behind it.
    pub fn tokens(&self) -> &T {
        &self.tokens
    }

    /// The members behind it.
    pub fn admission(&self) -> &A {
        &self.admission
    }

    /// The authority behind it.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    async fn join(&self, join: Join) -> Result<Answer, Refusal> {
        let now = self.identity.shared().now();
        let token = join.token();
        let Some(Found { record, revision }) = self.tokens.find(token).await? else {
            return Err(Refusal::TokenUnknown);
        };
        let granted = check(Some(&record), &join.secret(), Asked { name: &join.name, role: join.role }, now)?;
        // Nothing is computed for those who hold no token.
        let (public, key) = join.key().ok_or(Refusal::Malformed)?;
        let mut labels = join.labels;
        labels.extend(granted.labels);
        if !fit(&labels) {
            return Err(Refusal::Malformed);
        }
        let after_revocation = self.after_revocation(&join.name)?;
        let applicant = Applicant {
            name: join.name,
            role: granted.role,
            labels,
            key,
            generation: join.generation.max(after_revocation),
        };
        self.admission.may_join(&applicant).await?;
        // From here on the token is spent, whatever happens: nobody is ever certified twice by it.
        if !self.tokens.take(token, revision).await? {
            return Err(Refusal::TokenUnknown);
        }
        let admitted = self.admission.admit(&applicant).await?;
        tracing::info!(name = %applicant.name, role = %applicant.role, "a node joins");
        self.certify(&public, applicant, admitted)
    }

    async fn renew(&self, renew: Renew) -> Result<Answer, Refusal> {
        let certificate = CertificateDer::from(renew.certificate.as_slice());
        let leaf =
            self.identity.shared().member(&[certificate], Ended::Renewable).map_err(
                |refused| match refused {
                    Refused::Revoked => Refusal::Revoked,
                    _ => Refusal::CertificateRefused,
                },
            )?;
        let (public, key) = renew.key().ok_or(Refusal::Malformed)?;
        if key != leaf.key {
            return Err(Refusal::CertificateRefused);
        }
        let Peer { name, generation, role } = leaf.name.peer;
        let generation = generation.max(renew.generation);
        let applicant = Applicant { name, role, labels: BTreeMap::new(), key, generation };
        let admitted = self.admission.stay(&applicant).await?;
        self.certify(&public, applicant, admitted)
    }

    /// The first generation that is not revoked.
    fn after_revocation(&self, name: &NodeName) -> Result<Generation, Refusal> {
        let revocations = self.identity.revocations();
        match revocations.iter().find(|(revoked, _)| *revoked == name) {
            Some((_, up_to)) => up_to.0.checked_add(1).map(Generation).ok_or(Refusal::Revoked),
            None => Ok(Generation(0)),
        }
    }

    fn certify(
        &self,
        key: &rcgen::PublicKey,
        applicant: Applicant,
        admitted: Admitted,
    ) -> Result<Answer, Refusal> {
        let generation = applicant.generation.max(admitted.generation);
        let peer = Peer { name: applicant.name, generation, role: applicant.role };
        // It may have been thrown out meanwhile.
        if self.identity.revocations().hold(&peer) {
            return Err(Refusal::Revoked);
        }
        let certified = self.authority.certify(key, &peer, self.identity.shared().now());
        let certificate = certified.map_err(|error| {
            tracing::error!(%error, name = %peer.name, "a node cannot be certified");
            Refusal::OutOfReach
        })?;
        let trust = self.authority.trust().certificates().iter().map(|root| root.to_vec()).collect();
        Ok(Answer::Member { certificate: certificate.to_vec(), trust, contacts: admitted.contacts })
    }
}

impl<T: Tokens, A: Admission> Desk for Enrolment<T, A> {
    async fn answer(&self, request: Request) -> Answer {
        let answer = match request {
            Request::Join(join) => self.join(join).await,
            Request::Renew(renew) => self.renew(renew).await,
            // It is told to who asks itself, and never over links, where others could read it.
            Request::Authority => Err(Refusal::CertificateRefused),
        };
        answer.unwrap_or_else(|refusal| {
            tracing::info!(?refusal, "a node is not certified");
            Answer::Refused(refusal)
        })
    }

    fn authority(&self) -> Option<Handover> {
        Some(Handover(self.authority.hand_over()))
    }
}

impl From<TokenRefused> for Refusal {
    fn from(refused: TokenRefused) -> Self {
        match refused {
            TokenRefused::Unknown => Refusal::TokenUnknown,
            TokenRefused::Expired => Refusal::TokenExpired,
            TokenRefused::WrongRole { token, .. } => Refusal::WrongRole { token },
            TokenRefused::WrongName { token, .. } => Refusal::WrongName { token },
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NameTaken => Refusal::NameTaken,
            Denied::HashTaken { by } => Refusal::HashTaken { by },
            Denied::Removed => Refusal::CertificateRefused,
            Denied::OutOfReach => Refusal::OutOfReach,
        }
    }
}

impl From<OutOfReach> for Refusal {
    fn from(_: OutOfReach) -> Self {
        Refusal::OutOfReach
    }
}
