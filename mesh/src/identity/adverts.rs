//! What a node says of itself to all others is signed with the key that its certificate is for.

use bytes::Bytes;
use rustls::SignatureScheme;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use starlane_core::routing::{Advert, Sign, Verify};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Ended, Identity};

impl Sign for Identity {
    fn chain(&self) -> Bytes {
        Bytes::copy_from_slice(&self.certificate())
    }

    fn sign(&self, bytes: &[u8]) -> Bytes {
        let signer = self.shared.key.signs().choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        // A key on P-256 has this scheme; whoever gets an empty signature drops the advert.
        let signature = signer.and_then(|signer| signer.sign(bytes).ok()).unwrap_or_default();
        signature.into()
    }
}

impl Verify for Identity {
    fn verify(&self, advert: &Advert) -> bool {
        let certificate = CertificateDer::from(&*advert.chain);
        let shown = [certificate.clone()];
        let Ok(leaf) = self.shared.member(&shown, Ended::Refused) else { return false };
        let peer = &leaf.name.peer;
        // The certificate of an earlier life serves until the node has the next one.
        peer.name == advert.name
            && peer.role == advert.role
            && peer.generation <= advert.edition.generation
            && is_signed(&certificate, &advert.signed_bytes(), &advert.signature)
    }
}

fn is_signed(certificate: &CertificateDer<'_>, bytes: &[u8], signature: &[u8]) -> bool {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else { return false };
    let key = &read.public_key().subject_public_key.data;
    let known = ring::default_provider().signature_verification_algorithms.mapping;
    let algorithms = known.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
    let Some((_, algorithms)) = algorithms else { return false };
    algorithms.iter().any(|algorithm: &&dyn SignatureVerificationAlgorithm| {
        algorithm.verify_signature(key, bytes, signature).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use starlane_core::routing::Edition;

    use super::*;
    use crate::Credentials;
    use crate::proof::first_node;

    #[test]
    fn an_advert_is_believed_as_its_own_node_signed_it() {
        let [here, there] = ["first", "other"].map(|name| {
            let folder = tempfile::tempdir().unwrap();
            first_node(folder.path(), name).unwrap().0
        });
        let me = here.me();
        let mut advert = Advert {
            name: me.name,
            edition: Edition { generation: me.generation, sequence: 7 },
            role: me.role,
            registry: false,
            draining: false,
            labels: BTreeMap::new(),
            links: Vec::new(),
            more: Bytes::new(),
            chain: here.chain(),
            signature: Bytes::new(),
        };
        assert!(!here.verify(&advert), "not signed");
        advert.signature = here.sign(&advert.signed_bytes());
        assert!(here.verify(&advert));
        assert!(!there.verify(&advert), "another mesh");
        let changed = Advert { draining: true, ..advert.clone() };
        assert!(!here.verify(&changed), "changed on its way");
        let borrowed = Advert { name: "another".parse().unwrap(), ..advert.clone() };
        let borrowed = Advert { signature: here.sign(&borrowed.signed_bytes()), ..borrowed };
        assert!(!here.verify(&borrowed), "signed by a member, for another's name");
    }
}
