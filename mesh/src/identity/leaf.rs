//! What a certificate says, before anybody believes it.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::name::{AuthorityName, MemberName};
use super::{ClusterId, Fingerprint, Refused, Trust, UnixSeconds};

/// What the certificate of a member says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) name: MemberName,
    /// The key that it certifies.
    pub(crate) key: Fingerprint,
    pub(crate) not_before: UnixSeconds,
    pub(crate) not_after: UnixSeconds,
}

/// What the certificate of an authority says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) cluster: ClusterId,
    /// Its key: what a token pins.
    pub(crate) key: Fingerprint,
    pub(crate) not_after: UnixSeconds,
}

impl Leaf {
    /// Reads a member's certificate. It is no authority, is for both ends of a connection, and has one name.
    ///
    /// # Errors
    /// `Unreadable`, `Authority`, `Purpose`, `Name`
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, Refused> {
        let read = read(certificate)?;
        if read.basic_constraints().map_err(|_| Refused::Unreadable)?.is_some_and(|basic| basic.value.ca) {
            return Err(Refused::Authority);
        }
        let uses = read.extended_key_usage().map_err(|_| Refused::Unreadable)?.ok_or(Refused::Purpose)?;
        if !(uses.value.client_auth && uses.value.server_auth) {
            return Err(Refused::Purpose);
        }
        let name = one_uri(&read)?.parse().map_err(|_| Refused::Name)?;
        let validity = read.validity();
        Ok(Self {
            name,
            key: Fingerprint::of(read.public_key().raw),
            not_before: seconds(validity.not_before.timestamp()),
            not_after: seconds(validity.not_after.timestamp()),
        })
    }

    /// Checks that its authority trusted these authorities, and no others beside them.
    ///
    /// # Errors
    /// `Untrusted`
    pub(crate) fn check_trust(&self, trust: &Trust) -> Result<(), Refused> {
        if self.name.trust == trust.fingerprint() { Ok(()) } else { Err(Refused::Untrusted) }
    }
}

impl Root {
    /// Reads an authority's certificate.
    ///
    /// # Errors
    /// `Unreadable`, `Name`, and `Purpose` when it is none.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, Refused> {
        let read = read(certificate)?;
        if !read.basic_constraints().map_err(|_| Refused::Unreadable)?.is_some_and(|basic| basic.value.ca) {
            return Err(Refused::Purpose);
        }
        let AuthorityName(cluster) = one_uri(&read)?.parse().map_err(|_| Refused::Name)?;
        Ok(Self {
            cluster,
            key: Fingerprint::of(read.public_key().raw),
            not_after: seconds(read.validity().not_after.timestamp()),
        })
    }
}

fn read<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refused> {
    match X509Certificate::from_der(certificate) {
        Ok(([], read)) => Ok(read),
        _ => Err(Refused::Unreadable),
    }
}

/// The only alternative name, which is a URI.
fn one_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, Refused> {
    let names =
        certificate.subject_alternative_name().map_err(|_| Refused::Unreadable)?.ok_or(Refused::Name)?;
    match names.value.general_names[..] {
        [GeneralName::URI(uri)] => Ok(uri),
        _ => Err(Refused::Name),
    }
}

fn seconds(timestamp: i64) -> UnixSeconds {
    UnixSeconds(u64::try_from(timestamp).unwrap_or(0))
}
