//! Doors that speak TLS, over real handshakes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gateway::{Limits, Protection, Tls, TlsError, Trust};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use starlane_core::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::client::{Connection, TOKEN, World, within};

/// An authority and what it signed, as files.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    /// An authority, and the chain and key of a node that is called `cloud.example.com`.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["cloud.example.com".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let files = Self { folder };
        files.write("ca.pem", &authority_pem);
        files.write("cert.pem", &certificate);
        files.write("key.pem", &key.serialize_pem());
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, certificate: &str, key: &str) -> Result<Tls, TlsError> {
        Tls::read(&self.at(certificate), &self.at(key))
    }

    fn tls(&self) -> Tls {
        self.read("cert.pem", "key.pem").unwrap()
    }

    fn authority(&self) -> Trust {
        Trust::Authorities(self.at("ca.pem"))
    }
}

async fn world(files: &Files, limits: Limits) -> World {
    let tls = files.tls();
    World::with(move |config| (config.protection, config.limits) = (Protection::Tls(tls), limits)).await
}

async fn connect(to: SocketAddr, name: &str, trust: &Trust) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(gateway::tls_client(trust).unwrap()));
    let stream = TcpStream::connect(to).await.unwrap();
    within(connector.connect(ServerName::try_from(name.to_owned()).unwrap(), stream)).await
}

/// Says something over TLS and reads until the other side closes.
async fn say(to: SocketAddr, name: &str, trust: &Trust, text: &str) -> String {
    let mut stream = connect(to, name, trust).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn both_doors_speak_tls_with_who_believes_them() {
    let files = Files::new();
    let world = world(&files, Limits::default()).await;
    let name = "cloud.example.com";
    let hello = "GET /hello HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
    assert!(say(world.at.web, name, &files.authority(), hello).await.ends_with("\r\n\r\nhello\n"));
    // The name that the certificate is for is a name that the API may be called by.
    let info = format!(
        "GET /v1/info HTTP/1.1\r\nhost: {name}:4343\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
    );
    let pinned = Trust::Certificate(files.tls().certificate());
    for trust in [files.authority(), pinned.clone()] {
        assert!(say(world.at.api, name, &trust, &info).await.starts_with("HTTP/1.1 200"));
    }
    // Who believes this one certificate does not care for names; who believes an authority does.
    assert!(connect(world.at.api, "127.0.0.1", &pinned).await.is_ok());
    assert!(connect(world.at.api, "127.0.0.1", &files.authority()).await.is_err());
    for other in [
        Trust::Nobody,
        Trust::Machine,
        Trust::Certificate(Digest([7; 32])),
        Trust::Authorities(Files::new().at("ca.pem")),
    ] {
        let error = connect(world.at.api, name, &other).await.unwrap_err();
        let told = error.get_ref().and_then(gateway::tls_failure);
        assert!(told.is_some_and(|told| told.contains("certificate")), "{other:?}: {error}");
    }
}

#[tokio::test]
async fn who_speaks_plainly_is_told_so() {
    let files = Files::new();
    let world = world(&files, Limits::default()).await;
    let mut connection = Connection::open(world.at.api).await;
    connection.say("GET /v1/info HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let answer = String::from_utf8(connection.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("E-USAGE"), "{answer}");
    assert!(answer.contains("speaks TLS"), "{answer}");
}

#[tokio::test]
async fn half_a_handshake_is_closed_and_others_are_served_meanwhile() {
    let files = Files::new();
    let impatient = Limits { head_timeout: Duration::from_millis(200), ..Limits::default() };
    let world = world(&files, impatient).await;
    let mut stalled = Vec::new();
    for begin in ["", "\u{16}\u{3}\u{1}\u{2}"] {
        for _ in 0..100 {
            let mut connection = Connection::open(world.at.web).await;
            connection.say(begin).await;
            stalled.push(connection);
        }
    }
    let hello = "GET /hello HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
    assert!(say(world.at.web, "cloud.example.com", &files.authority(), hello).await.contains("hello"));
    for mut connection in stalled {
        assert!(connection.rest().await.is_empty());
    }
    // And so is who shook hands and then says nothing.
    let mut mute = connect(world.at.web, "cloud.example.com", &files.authority()).await.unwrap();
    let ended = within(mute.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_err() || ended.is_ok_and(|bytes| bytes == 0), "nothing was said to it");
}

#[tokio::test]
async fn doors_close_while_somebody_shakes_hands() {
    let files = Files::new();
    let world = world(&files, Limits::default()).await;
    let mut connection = Connection::open(world.at.web).await;
    connection.say("\u{16}\u{3}\u{1}\u{2}").await;
    // Accepted in order: when this one is answered, the other was let in.
    let hello = "GET /hello HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
    say(world.at.web, "cloud.example.com", &files.authority(), hello).await;
    within(world.close()).await.unwrap();
    assert!(connection.rest().await.is_empty());
}

#[test]
fn files_that_do_not_do_are_named() {
    let files = Files::new();
    files.write("empty.pem", "");
    files.write("text.pem", "no certificate at all\n");
    files.write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
    files.write("huge.pem", &"x".repeat(2 << 20));
    files.write("other-key.pem", &KeyPair::generate().unwrap().serialize_pem());
    for (certificate, key, named, expected) in [
        ("missing.pem", "key.pem", "missing.pem", "cannot be read"),
        ("empty.pem", "key.pem", "empty.pem", "holds no certificate"),
        ("text.pem", "key.pem", "text.pem", "holds no certificate"),
        ("broken.pem", "key.pem", "broken.pem", "holds no certificate"),
        ("huge.pem", "key.pem", "huge.pem", "larger than"),
        ("cert.pem", "missing.pem", "missing.pem", "cannot be read"),
        ("cert.pem", "cert.pem", "cert.pem", "holds no private key"),
        ("cert.pem", "other-key.pem", "other-key.pem", "is not that of the certificate"),
        ("key.pem", "cert.pem", "key.pem", "holds no certificate"),
    ] {
        let told = files.read(certificate, key).unwrap_err().to_string();
        assert!(told.contains(named) && told.contains(expected), "{certificate} and {key}: {told}");
    }
    assert!(matches!(files.read("cert.pem", "other-key.pem"), Err(TlsError::Mismatch { .. })));
    assert!(gateway::tls_client(&Trust::Authorities(files.at("text.pem"))).is_err());
}
