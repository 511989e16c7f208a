//! Certificates that are made for a test.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Writes an authority as `ca.pem`, and as `cert.pem` and `key.pem` a certificate of it for one name and its key.
pub fn write(folder: &Path, name: &str) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Some take a certificate for its own issuer when both are called the same.
    authority.distinguished_name.push(DnType::CommonName, "An authority");
    let authority_pem = authority.self_signed(&authority_key).expect("a certificate").pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
    for (name, text) in
        [("ca.pem", authority_pem), ("cert.pem", certificate), ("key.pem", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).expect("a file can be written");
    }
}
