//! The authorities that a node trusts.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::leaf::Root;
use super::{ClusterId, Fingerprint, Refused};

/// The authorities that a node trusts: all of one mesh. More than one while a new one takes over: it is added, everybody's
/// certificate is renewed, and the old one is dropped.
#[derive(Debug, Clone)]
pub struct Trust {
    certificates: Arc<[CertificateDer<'static>]>,
    anchors: Arc<RootCertStore>,
    cluster: ClusterId,
}

impl Trust {
    /// The most authorities at a time.
    pub const AUTHORITIES_MAX: usize = 8;

    /// Trusts these authorities.
    ///
    /// # Errors
    /// The first that is no authority of the same mesh as the others; `NoCertificate` when there is none, or more than
    /// [`Trust::AUTHORITIES_MAX`].
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, Refused> {
        let mut anchors = RootCertStore::empty();
        let mut clusters = Vec::new();
        for certificate in certificates.iter().take(Self::AUTHORITIES_MAX + 1) {
            clusters.push(Root::read(certificate)?.cluster);
            anchors.add(certificate.clone()).map_err(|_| Refused::Unreadable)?;
        }
        let cluster = *clusters.first().ok_or(Refused::NoCertificate)?;
        if clusters.len() > Self::AUTHORITIES_MAX {
            return Err(Refused::NoCertificate);
        }
        if clusters.iter().any(|other| *other != cluster) {
            return Err(Refused::OtherMesh);
        }
        Ok(Self { certificates: certificates.into(), anchors: Arc::new(anchors), cluster })
    }

    /// Of which mesh they are.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Their certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    pub(super) fn anchors(&self) -> &RootCertStore {
        &self.anchors
    }

    /// What a certificate says of the authorities that its authority trusted.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for certificate in self.certificates() {
            hash.update((certificate.len() as u64).to_le_bytes());
            hash.update(certificate);
        }
        Fingerprint(hash.finalize().into())
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

impl Eq for Trust {}
