//! Members of a mesh of the tests' own: an authority that certifies whoever is asked for.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use mesh::{ALPN_JOIN, ALPN_LINK, Credentials, Peer};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519,
    SanType,
};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use starlane_core::{Generation, NodeName, Role};
use tokio::sync::watch;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// An authority, and who was thrown out.
pub(crate) struct Members {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    revoked: Arc<Revoked>,
}

struct Revoked {
    names: Mutex<HashSet<NodeName>>,
    changes: watch::Sender<u64>,
}

/// What one member shows.
pub(crate) struct Member {
    me: Peer,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    revoked: Arc<Revoked>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Members {
    pub(crate) fn new() -> Arc<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        let revoked = Arc::new(Revoked { names: Mutex::new(HashSet::new()), changes: watch::Sender::new(0) });
        Arc::new(Self { issuer: Issuer::new(params, key), root, revoked })
    }

    /// A certificate of a name that stands in it as given, and its key.
    pub(crate) fn certify(&self, uri: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec!["starlane".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        Arc::new(roots)
    }

    pub(crate) fn member(&self, name: &str, role: Role, generation: u64) -> Arc<Member> {
        let me = Peer { name: name.parse().unwrap(), generation: Generation(generation), role };
        let (chain, key) = self.certify(&format!("mesh://test/{name}/{generation}/{role}"));
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .unwrap();
        server.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_JOIN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let client = self.client(Some((chain, key)), ALPN_LINK);
        Arc::new(Member {
            me,
            server: Arc::new(server),
            client: Arc::new(client),
            revoked: self.revoked.clone(),
        })
    }

    /// How somebody dials, with what they show and which protocol.
    pub(crate) fn client(
        &self,
        shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
        protocol: &[u8],
    ) -> ClientConfig {
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(self.roots());
        let mut client = match shown {
            Some((chain, key)) => client.with_client_auth_cert(chain, key).unwrap(),
            None => client.with_no_client_auth(),
        };
        client.alpn_protocols = vec![protocol.to_vec()];
        client.resumption = Resumption::disabled();
        client
    }

    pub(crate) fn revoke(&self, name: &str) {
        self.revoked.names.lock().unwrap().insert(name.parse().unwrap());
        self.revoked.changes.send_modify(|changes| *changes += 1);
    }
}

impl Credentials for Member {
    fn me(&self) -> Peer {
        self.me.clone()
    }

    fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    fn peer(&self, certificates: &[CertificateDer<'_>]) -> Option<Peer> {
        let (_, certificate) = X509Certificate::from_der(certificates.first()?).ok()?;
        let names =
            certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(names),
                _ => None,
            })?;
        let uri = names.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("mesh://test/"),
            _ => None,
        })?;
        let mut parts = uri.split('/');
        Some(Peer {
            name: parts.next()?.parse().ok()?,
            generation: Generation(parts.next()?.parse().ok()?),
            role: parts.next()?.parse().ok()?,
        })
    }

    fn is_revoked(&self, peer: &Peer) -> bool {
        self.revoked.names.lock().unwrap().contains(&peer.name)
    }

    fn secret(&self) -> Option<[u8; 32]> {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&self.me.name.id().0.to_le_bytes());
        Some(secret)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.revoked.changes.subscribe()
    }
}
