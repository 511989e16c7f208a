//! The authority of a mesh: whoever holds it decides who is a member.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;

use super::files::Folder;
use super::leaf::Root;
use super::name::{AuthorityName, MemberName};
use super::{ClusterId, Error, Fingerprint, Trust, UnixSeconds, pem};
use crate::Peer;

/// Holds the private key, the authority's certificate, and the certificates of others that are trusted beside it.
const FILE: &str = "authority.pem";

const DAY: u64 = 24 * 60 * 60;
/// The end of the year 9999, which is the last that a certificate can name.
const LAST_SECOND: u64 = 253_402_300_799;

/// The authority of a mesh, made at its first start and kept by the nodes of its registry. A clone is the same authority.
///
/// All of it is the file `authority.pem`, which only its owner may read: a copy of the file is a backup, and whoever has
/// a copy can make members.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    root: Root,
    trust: Trust,
    issued: AtomicU64,
}

impl Authority {
    /// For how many days an authority can certify.
    pub const LIFE_DAYS: u64 = 3_652;
    /// For how long a member's certificate holds, in seconds.
    pub const LEAF_LIFE_SECONDS: u64 = DAY;

    /// The authority in a folder; `None` when there is none.
    ///
    /// # Errors
    /// `Io`, and `Broken` when the file is not what was written.
    pub fn open(folder: &Path) -> Result<Option<Self>, Error> {
        let folder = Folder::open(folder)?;
        let Some(text) = folder.read(FILE)? else { return Ok(None) };
        let broken = |why| Error::Broken { path: folder.path(FILE), why };
        let key = KeyPair::from_pem(&text).map_err(|_| broken("its private key cannot be read"))?;
        let certificates = pem::read(&text).ok_or_else(|| broken("its certificates cannot be read"))?;
        Self::new(key, certificates).map(Some).map_err(|error| match error {
            Error::Refused(_) => broken("it does not hold a key and the certificate of an authority"),
            error => error,
        })
    }

    /// The authority in a folder, made when there is none: that of a new mesh.
    ///
    /// # Errors
    /// Those of [`Authority::open`], and `Certificate` or `Random` when none can be made.
    pub fn open_or_create(folder: &Path, now: UnixSeconds) -> Result<Self, Error> {
        if let Some(authority) = Self::open(folder)? {
            return Ok(authority);
        }
        let cluster = ClusterId(super::random()?);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = certify_itself(cluster, &key, now, super::random()?)?;
        let private = key.serialize_pem();
        let authority = Self::new(key, vec![certificate.clone()])?;
        // One file, so that a crash never leaves a key without its certificate.
        Folder::open(folder)?.write(FILE, &(private + &pem::print([&certificate])))?;
        Ok(authority)
    }

    fn new(key: KeyPair, certificates: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let trust = Trust::new(certificates)?;
        let certificate = trust.certificates().first().ok_or(super::Refused::NoCertificate)?.clone();
        let root = Root::read(&certificate)?;
        if super::key::fingerprint(&key) != root.key {
            return Err(super::Refused::Unreadable.into());
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { inner: Arc::new(Inner { issuer, root, trust, issued: AtomicU64::new(0) }) })
    }

    /// The authority as it is handed to another node of the registry, and kept there: with its private key.
    pub(crate) fn hand_over(&self) -> String {
        self.inner.issuer.key().serialize_pem() + &pem::print(self.trust().certificates())
    }

    /// Keeps an authority that was handed over, when it is one of those that are trusted already.
    ///
    /// # Errors
    /// `Refused`, `Io`
    pub(super) fn take_over(folder: &Folder, text: &str, trust: &Trust) -> Result<Self, Error> {
        let key = KeyPair::from_pem(text).map_err(|_| super::Refused::Unreadable)?;
        let certificates = pem::read(text).ok_or(super::Refused::Unreadable)?;
        let authority = Self::new(key, certificates)?;
        if authority.trust().fingerprint() != trust.fingerprint() {
            return Err(super::Refused::Untrusted.into());
        }
        folder.write(FILE, &authority.hand_over())?;
        Ok(authority)
    }

    /// Which mesh it is the authority of.
    pub fn cluster(&self) -> ClusterId {
        self.inner.root.cluster
    }

    /// Its key's fingerprint: what tokens pin.
    pub fn pin(&self) -> Fingerprint {
        self.inner.root.key
    }

    /// From when on it can certify nobody any more.
    pub fn expires(&self) -> UnixSeconds {
        self.inner.root.not_after
    }

    /// What the members of its mesh trust: itself, and the authorities that take over from it or give way to it.
    pub fn trust(&self) -> &Trust {
        &self.inner.trust
    }

    /// How many certificates were issued since it was opened.
    pub fn issued(&self) -> u64 {
        self.inner.issued.load(Ordering::Relaxed)
    }

    /// Certifies that a key is a member's, from now on for a day, or for as long as the authority itself lasts.
    ///
    /// # Errors
    /// `AuthorityExpired`, and `Certificate` or `Random` when none can be made.
    pub fn certify(
        &self,
        key: &impl PublicKeyData,
        peer: &Peer,
        now: UnixSeconds,
    ) -> Result<CertificateDer<'static>, Error> {
        let not_after = now.plus(Self::LEAF_LIFE_SECONDS).min(self.expires());
        if not_after <= now {
            return Err(Error::AuthorityExpired);
        }
        let name =
            MemberName { cluster: self.cluster(), peer: peer.clone(), trust: self.trust().fingerprint() };
        let mut params = params(&name.to_string(), peer.name.as_str(), super::random()?)?;
        set_life(&mut params, now, not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.inner.issuer)?;
        self.inner.issued.fetch_add(1, Ordering::Relaxed);
        Ok(certificate.into())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster()).field("pin", &self.pin()).finish()
    }
}

fn certify_itself(
    cluster: ClusterId,
    key: &KeyPair,
    now: UnixSeconds,
    serial: [u8; 16],
) -> Result<CertificateDer<'static>, Error> {
    let mut params = params(&AuthorityName(cluster).to_string(), &format!("starlane {cluster}"), serial)?;
    set_life(&mut params, now, now.plus(Authority::LIFE_DAYS * DAY));
    // It certifies members and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.into())
}

fn params(uri: &str, common_name: &str, serial: [u8; 16]) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri)?)];
    // A serial number is positive, and its length is that of all others.
    let mut serial = serial;
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn set_life(params: &mut CertificateParams, from: UnixSeconds, to: UnixSeconds) {
    let date =
        |at: UnixSeconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at.0.min(LAST_SECOND));
    (params.not_before, params.not_after) = (date(from), date(to));
}
