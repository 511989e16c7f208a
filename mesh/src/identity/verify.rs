//! Whether a certificate makes somebody a member: one set of rules, for both ends and all protocols.

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, crypto};

use super::leaf::{Leaf, Root};
use super::{Fingerprint, Revocations, Trust, UnixSeconds};

/// By how many seconds the clocks of two nodes may differ.
pub const SKEW_SECONDS: u64 = 60;
/// For how many seconds after its end a certificate still serves to ask for the next.
pub const RENEWABLE_SECONDS: u64 = 30 * 24 * 60 * 60;

/// Why a certificate makes nobody a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// None was shown, or too many.
    #[error("no certificate was shown")]
    NoCertificate,
    /// It is no X.509, or holds what it must not.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It is an authority's.
    #[error("the certificate is an authority's, not a node's")]
    Authority,
    /// It is not for what it is used for.
    #[error("the certificate is not for links between nodes")]
    Purpose,
    /// It names no node.
    #[error("the certificate names no node")]
    Name,
    /// It is for another mesh.
    #[error("the certificate is of another mesh")]
    OtherMesh,
    /// It was not signed by an authority that is trusted.
    #[error("the certificate is signed by nobody who is trusted")]
    Untrusted,
    /// It begins later.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// It ended.
    #[error("the certificate has expired")]
    Expired,
    /// Its node was thrown out.
    #[error("the node was revoked")]
    Revoked,
}

/// How a certificate that has ended is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It makes nobody a member.
    Refused,
    /// It still serves to ask for the next, for [`RENEWABLE_SECONDS`].
    Renewable,
}

/// What the certificates say, when they make somebody a member of the mesh of `trust`: the first was signed by one of its
/// authorities itself. What follows the first is not looked at.
///
/// # Errors
/// Why they do not.
pub(crate) fn member(
    certificates: &[CertificateDer<'_>],
    trust: &Trust,
    revocations: &Revocations,
    now: UnixSeconds,
    ended: Ended,
) -> Result<Leaf, Refused> {
    let certificate = certificates.first().ok_or(Refused::NoCertificate)?;
    let leaf = Leaf::read(certificate)?;
    if leaf.name.cluster != trust.cluster() {
        return Err(Refused::OtherMesh);
    }
    check_time(&leaf, now, ended)?;
    check_signature(certificate, &leaf, trust, now)?;
    if revocations.hold(&leaf.name.peer) {
        return Err(Refused::Revoked);
    }
    Ok(leaf)
}

/// What the certificates say, and the authority among them, when its key is the pinned one and it signed the first.
/// Nothing else is known yet of the mesh.
///
/// # Errors
/// `Untrusted` when there is no such authority among them, otherwise why they make nobody a member of its mesh.
pub(crate) fn pinned(
    certificates: &[CertificateDer<'_>],
    pin: Fingerprint,
    now: UnixSeconds,
) -> Result<(Leaf, Trust), Refused> {
    let is_pinned =
        |certificate: &&CertificateDer<'_>| Root::read(certificate).is_ok_and(|root| root.key == pin);
    let authority =
        certificates.iter().skip(1).take(Trust::AUTHORITIES_MAX).find(is_pinned).ok_or(Refused::Untrusted)?;
    let trust = Trust::new(vec![authority.clone().into_owned()])?;
    let leaf = member(certificates, &trust, &Revocations::default(), now, Ended::Refused)?;
    Ok((leaf, trust))
}

fn check_time(leaf: &Leaf, now: UnixSeconds, ended: Ended) -> Result<(), Refused> {
    if now.plus(SKEW_SECONDS) < leaf.not_before {
        return Err(Refused::NotYetValid);
    }
    let grace = match ended {
        Ended::Refused => SKEW_SECONDS,
        Ended::Renewable => RENEWABLE_SECONDS,
    };
    if now > leaf.not_after.plus(grace) { Err(Refused::Expired) } else { Ok(()) }
}

fn check_signature(
    certificate: &CertificateDer<'_>,
    leaf: &Leaf,
    trust: &Trust,
    now: UnixSeconds,
) -> Result<(), Refused> {
    // The time was checked above, with our tolerances: here it only has to lie within the certificate's life.
    let within = UnixSeconds(now.0.max(leaf.not_before.0).min(leaf.not_after.0));
    let within = UnixTime::since_unix_epoch(std::time::Duration::from_secs(within.0));
    let certificate = ParsedCertificate::try_from(certificate).map_err(|_| Refused::Unreadable)?;
    let algorithms = crypto::ring::default_provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(&certificate, trust.anchors(), &[], within, algorithms.all)
        .map_err(|error| match error {
            rustls::Error::InvalidCertificate(CertificateError::BadEncoding | CertificateError::Other(_)) => {
                Refused::Unreadable
            }
            _ => Refused::Untrusted,
        })
}

impl From<Refused> for rustls::Error {
    /// So that the other end is told what is wrong with its certificate.
    fn from(refused: Refused) -> Self {
        rustls::Error::InvalidCertificate(match refused {
            Refused::Unreadable => CertificateError::BadEncoding,
            Refused::Purpose => CertificateError::InvalidPurpose,
            Refused::NotYetValid => CertificateError::NotValidYet,
            Refused::Expired => CertificateError::Expired,
            Refused::Untrusted => CertificateError::UnknownIssuer,
            Refused::Revoked => CertificateError::Revoked,
            Refused::NoCertificate | Refused::Authority | Refused::Name | Refused::OtherMesh => {
                CertificateError::ApplicationVerificationFailure
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::first_node;

    /// No byte of a certificate can be changed, and none is missing, for it to be believed; and nothing panics.
    #[test]
    fn a_certificate_is_believed_as_it_was_signed() {
        let folder = tempfile::tempdir().unwrap();
        let (identity, _) = first_node(folder.path(), "first").unwrap();
        let certificate = identity.certificate();
        let now = crate::identity::system_clock()();
        let believed = |bytes: &[u8]| {
            let shown = [CertificateDer::from(bytes)];
            member(&shown, &identity.trust(), &Revocations::default(), now, Ended::Renewable).is_ok()
        };
        assert!(believed(&certificate));
        for at in 0..certificate.len() {
            for bit in 0..8 {
                let mut changed = certificate.to_vec();
                changed[at] ^= 1 << bit;
                assert!(!believed(&changed), "bit {bit} of byte {at}");
            }
            assert!(!believed(&certificate[..at]), "cut at {at}");
        }
    }
}
