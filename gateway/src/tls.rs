//! TLS: what the doors show, and what a client of the API believes.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_platform_verifier::BuilderVerifierExt as _;
use sha2::{Digest as _, Sha256};
use starlane_core::Digest;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

/// The longest file of certificates or keys that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// What is spoken inside.
const HTTP: &[u8] = b"http/1.1";

/// Why a certificate or a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what}: {why}", .file.display())]
    Malformed {
        /// Which.
        file: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// Why it was not found.
        why: String,
    },
    /// The key belongs to another certificate.
    #[error("the key in {} is not that of the certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// TLS cannot be spoken with what the files hold, or what this machine trusts cannot be had.
    #[error("TLS cannot be spoken: {0}")]
    Unusable(Error),
}

/// What the doors show to whoever comes: a certificate, and that they have its key.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    certificate: Digest,
}

impl Tls {
    /// Reads the chain of certificates, the doors' own first, and its key, each from a PEM file.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else, or they do not belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(certificate)?;
        let own = Digest(Sha256::digest(&chain[0]).into());
        let private = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|error| malformed(key, "private key in PEM form", &error))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| match error {
                Error::InconsistentKeys(_) => {
                    TlsError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
                }
                error => TlsError::Unusable(error),
            })?;
        config.alpn_protocols = vec![HTTP.to_vec()];
        Ok(Self { config: Arc::new(config), certificate: own })
    }

    /// The SHA-256 of the doors' own certificate.
    pub fn certificate(&self) -> Digest {
        self.certificate
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.config).into()
    }
}

/// Which certificates a client of the API believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// None: it is spoken without TLS.
    Nobody,
    /// Those that this machine believes.
    Machine,
    /// Those that the authorities in a PEM file signed.
    Authorities(PathBuf),
    /// The one with this SHA-256, whatever it says.
    Certificate(Digest),
}

/// How a client speaks TLS with a node.
///
/// # Errors
/// When the authorities' file cannot be used, or this machine's cannot be had.
pub fn client(trust: &Trust) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?;
    let builder = match trust {
        Trust::Nobody => builder.with_root_certificates(RootCertStore::empty()),
        Trust::Machine => builder.with_platform_verifier().map_err(TlsError::Unusable)?,
        Trust::Authorities(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .map_err(|error| malformed(file, "certificate of an authority", &error))?;
            }
            builder.with_root_certificates(roots)
        }
        Trust::Certificate(digest) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Only(*digest, provider())))
        }
    };
    Ok(builder.with_no_client_auth())
}

/// What an error says, when it is one of TLS.
pub fn failure(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<String> {
    error.downcast_ref::<Error>().map(Error::to_string)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates in a file; at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate in PEM form";
    let text = read(file)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| malformed(file, what, &error))?;
    if found.is_empty() { Err(malformed(file, what, &pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error| TlsError::Unreadable { file: file.to_owned(), error };
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("larger than {FILE_BYTES_MAX} bytes");
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    Ok(bytes)
}

fn malformed(file: &Path, what: &'static str, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Malformed { file: file.to_owned(), what, why: error.to_string() }
}

/// Believes one certificate alone. That its owner shows it is proved by the signatures of the handshake.
#[derive(Debug)]
struct Only(Digest, Arc<CryptoProvider>);

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if Digest(Sha256::digest(end_entity).into()) == self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.1.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.1.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}
