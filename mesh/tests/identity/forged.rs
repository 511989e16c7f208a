//! Certificates that are not quite right, and ends of connections that show them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh::Identity;
use quinn::Endpoint;
use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use tokio::sync::mpsc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The authority of a folder, in the hands of a forger.
pub(crate) fn stolen(folder: &Path) -> (Issuer<'static, KeyPair>, CertificateDer<'static>) {
    let text = fs::read_to_string(folder.join("authority.pem")).unwrap();
    let certificate = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    let key = KeyPair::from_pem(&text).unwrap();
    (Issuer::from_ca_cert_der(&certificate, key).unwrap(), certificate)
}

/// The URI in a member's certificate.
pub(crate) fn uri(identity: &Identity) -> String {
    let certificate = identity.certificate();
    let (_, read) = X509Certificate::from_der(&certificate).unwrap();
    let names = read.subject_alternative_name().unwrap().unwrap();
    let [GeneralName::URI(uri)] = names.value.general_names[..] else { panic!() };
    uri.to_owned()
}

/// What a right certificate says: `lasts` is from when to when, in seconds from now.
pub(crate) fn right(uri: &str, lasts: std::ops::Range<i64>) -> CertificateParams {
    let now = mesh::identity::system_clock()().0;
    let date = |offset: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.checked_add_signed(offset).unwrap())
    };
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "forged");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    (params.not_before, params.not_after) = (date(lasts.start), date(lasts.end));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// What one end of a connection shows.
#[derive(Clone, Debug)]
pub(crate) struct Shows(pub(crate) Arc<CertifiedKey>);

impl Shows {
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Self(Arc::new(CertifiedKey::new(chain, ring::sign::any_supported_type(&der).unwrap())))
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Believes anybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Dials as whoever it shows, and believes whoever answers.
pub(crate) fn client(shows: Option<Shows>, protocols: &[&[u8]]) -> rustls::ClientConfig {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shows {
        Some(shows) => config.with_client_cert_resolver(Arc::new(shows)),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// Listens as whoever it shows, and counts what it is told by those who believe it.
pub(crate) struct Impostor {
    pub(crate) address: SocketAddr,
    bytes: Arc<AtomicU64>,
    ends: mpsc::Receiver<()>,
    _endpoint: Endpoint,
}

impl Impostor {
    pub(crate) fn open(shows: Shows, protocols: &[&[u8]]) -> Self {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_cert_resolver(Arc::new(shows));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config.max_early_data_size = u32::MAX;
        let crypto = QuicServerConfig::try_from(config).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let bytes = Arc::new(AtomicU64::new(0));
        let (ended, ends) = mpsc::channel(8);
        let address = endpoint.local_addr().unwrap();
        tokio::spawn({
            let (endpoint, bytes) = (endpoint.clone(), bytes.clone());
            async move {
                while let Some(incoming) = endpoint.accept().await {
                    if let Ok(connection) = incoming.await {
                        let count = |read: Vec<u8>| bytes.fetch_add(read.len() as u64, Ordering::SeqCst);
                        loop {
                            tokio::select! {
                                Ok(mut stream) = connection.accept_uni() => {
                                    count(stream.read_to_end(65_536).await.unwrap_or_default());
                                }
                                Ok((_, mut stream)) = connection.accept_bi() => {
                                    count(stream.read_to_end(65_536).await.unwrap_or_default());
                                }
                                else => break,
                            }
                        }
                    }
                    if ended.send(()).await.is_err() {
                        break;
                    }
                }
            }
        });
        Self { address, bytes, ends, _endpoint: endpoint }
    }

    /// How many bytes of an application it was told, when one more connection to it has ended.
    pub(crate) async fn told(&mut self) -> u64 {
        self.ends.recv().await.unwrap();
        self.bytes.load(Ordering::SeqCst)
    }
}
