//! The key of a node: made where it is used, and never anywhere else.

use std::fmt;
use std::sync::Arc;

use rcgen::PublicKeyData;
use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKey};
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use super::files::Folder;
use super::{Error, Fingerprint};

const FILE: &str = "node.key";

/// The bytes of a point on P-256, uncompressed.
const POINT_BYTES: usize = 65;

/// The key of a node, on P-256.
#[derive(Clone)]
pub(crate) struct NodeKey {
    pair: Arc<KeyPair>,
    signs: Arc<dyn rustls::sign::SigningKey>,
}

impl NodeKey {
    /// The key in a folder, made when there is none.
    pub(super) fn open(folder: &Folder) -> Result<Self, Error> {
        let pair = match folder.read(FILE)? {
            Some(pem) => KeyPair::from_pem(&pem)
                .ok()
                .filter(|pair| pair.is_compatible(&PKCS_ECDSA_P256_SHA256))
                .ok_or_else(|| Error::Broken { path: folder.path(FILE), why: "it holds no P-256 key" })?,
            None => {
                let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                folder.write(FILE, &pair.serialize_pem())?;
                pair
            }
        };
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let signs = rustls::crypto::ring::sign::any_ecdsa_type(&der)?;
        Ok(Self { pair: Arc::new(pair), signs })
    }

    /// What signs in handshakes.
    pub(super) fn signs(&self) -> Arc<dyn rustls::sign::SigningKey> {
        self.signs.clone()
    }

    /// The public half.
    pub(super) fn public(&self) -> &impl PublicKeyData {
        &*self.pair
    }

    /// By what the public half is recognised.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        fingerprint(&*self.pair)
    }

    /// A secret for one use, that tells nothing of the private half.
    pub(super) fn secret(&self, what_for: &[u8]) -> [u8; 32] {
        // The length before it, so that no two uses run into each other.
        let length = (what_for.len() as u64).to_le_bytes();
        let hash = Sha256::new().chain_update(length).chain_update(what_for);
        hash.chain_update(self.pair.serialize_der()).finalize().into()
    }

    /// A request to certify the public half. It asks for nothing else: what a certificate says, its authority decides.
    pub(crate) fn request(&self) -> Result<Vec<u8>, Error> {
        let request = CertificateParams::default().serialize_request(&*self.pair)?;
        Ok(request.der().to_vec())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeKey").field(&self.fingerprint()).finish()
    }
}

/// The key that a request asks to certify and that signed it: so whoever asks holds the other half. `None` unless all
/// of that is so.
pub(crate) fn requested(request: &[u8]) -> Option<PublicKey> {
    let request = CertificateSigningRequestDer::from(request);
    let key = CertificateSigningRequestParams::from_der(&request).ok()?.public_key;
    // The signature's algorithm alone does not tell the curve.
    let right = key.algorithm() == &PKCS_ECDSA_P256_SHA256 && key.der_bytes().len() == POINT_BYTES;
    right.then_some(key)
}

/// By what a public key is recognised: the hash of its SPKI.
pub(crate) fn fingerprint(key: &impl PublicKeyData) -> Fingerprint {
    Fingerprint::of(&key.subject_public_key_info())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_shows_that_the_key_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::open(folder.path()).unwrap();
        let key = NodeKey::open(&folder).unwrap();
        let request = key.request().unwrap();
        assert_eq!(fingerprint(&requested(&request).unwrap()), key.fingerprint());
        assert_eq!(NodeKey::open(&folder).unwrap().fingerprint(), key.fingerprint(), "the key is kept");
        for at in 0..request.len() {
            let mut forged = request.clone();
            forged[at] ^= 1;
            // What is not signed may be read in more than one way, and says nothing of the key.
            let other = requested(&forged).filter(|found| fingerprint(found) != key.fingerprint());
            assert!(other.is_none(), "with byte {at} changed");
            assert!(requested(&request[..at]).is_none(), "cut at {at}");
        }
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let other = CertificateParams::default().serialize_request(&other).unwrap();
        assert!(requested(other.der()).is_none(), "another curve");
    }

    #[test]
    fn a_key_is_shown_by_its_public_half_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::open(folder.path()).unwrap();
        let key = NodeKey::open(&folder).unwrap();
        assert_eq!(format!("{key:?}"), format!("NodeKey({})", key.fingerprint()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(folder.path(FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
