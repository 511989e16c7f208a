//! The stream to a node, and which certificates are believed when it speaks TLS.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_platform_verifier::BuilderVerifierExt as _;
use sha2::{Digest as _, Sha256};
use starlane_core::Digest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_tungstenite::tungstenite::http::Uri;

/// Which certificates of nodes are believed, for those at `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that this machine believes.
    Machine,
    /// Those that the authorities in a PEM file signed.
    Authorities(PathBuf),
    /// The one with this SHA-256, whatever it says.
    Certificate(Digest),
}

/// What a WebSocket is spoken over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens a connection to the address of a portal. Says in words for people what went wrong.
pub(crate) async fn open(portal: &str, trust: &Trust) -> Result<Box<dyn Stream>, String> {
    let uri: Uri = portal.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().ok_or("it names no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let speaks_tls = uri.scheme_str() == Some("wss");
    let port = uri.port_u16().unwrap_or(if speaks_tls { 443 } else { 80 });
    let connect = async || TcpStream::connect((host, port)).await.map_err(|error| error.to_string());
    if !speaks_tls {
        return Ok(Box::new(connect().await?));
    }
    let config = config(trust)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, connect().await?).await;
    Ok(Box::new(stream.map_err(|error| unbelieved(&error))?))
}

fn config(trust: &Trust) -> Result<ClientConfig, String> {
    let unusable = |error: rustls::Error| format!("TLS cannot be spoken: {error}");
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
    let builder = match trust {
        Trust::Machine => builder.with_platform_verifier().map_err(unusable)?,
        Trust::Authorities(file) => builder.with_root_certificates(authorities(file)?),
        Trust::Certificate(digest) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Only(*digest, provider())))
        }
    };
    Ok(builder.with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let text = std::fs::read(file).map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() { Err(wrong(&"no certificate in PEM form")) } else { Ok(roots) }
}

/// What to do about it, when it is for the certificate that there is no connection.
fn unbelieved(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            format!(
                "its certificate is not believed ({why}): name the file of its authority, with `Config::ca`"
            )
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("it does not speak TLS ({error}): name it as `http://`")
        }
        _ => error.to_string(),
    }
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
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Digest(Sha256::digest(end_entity).into()) == self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.1.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.1.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}
