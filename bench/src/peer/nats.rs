//! Request and reply over NATS: a server, and a responder that is a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use async_nats::ConnectOptions;
use bytes::Bytes;
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tests::net::Space;

use super::{Client, Peer};

/// The role of the process that answers: `nats-responder ADDRESS [FOLDER]`, where the folder has the certificates.
pub(crate) const RESPONDER: &str = "nats-responder";

const SUBJECT: &str = "echo";

/// A NATS server and a responder.
pub(crate) struct Nats {
    address: SocketAddr,
    folder: TempDir,
    secure: bool,
    server: Child,
    responder: Child,
}

/// Where a server and its responder run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The server's address.
    pub(crate) address: IpAddr,
    /// The network namespace of the server and that of the responder; none for this machine's own network.
    pub(crate) spaces: Option<[&'a Space; 2]>,
}

impl Nats {
    /// Starts both; with `secure` all connections are TLS with certificates on both sides.
    pub(crate) fn start(program: &Path, secure: bool, place: Place<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let mut config = format!("listen: \"{}:-1\"\n", place.address);
        if secure {
            certify(folder.path(), place.address);
            let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(at);
            config +=
                &format!("tls {{ ca_file: {ca:?}, cert_file: {cert:?}, key_file: {key:?}, verify: true }}\n");
        }
        std::fs::write(at("nats.conf"), config).expect("a file can be written");
        let mut command = Command::new(program);
        command.arg("--config").arg(at("nats.conf")).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut server = start(&mut command, place.spaces.map(|spaces| spaces[0]));
        let log = server.stderr.take().expect("it is piped");
        let port = told(log, "Listening for client connections on ", "Server is ready");
        let port: SocketAddr = port.parse().expect("an address");
        let address = SocketAddr::new(place.address, port.port());

        let mut command = Command::new(std::env::current_exe().expect("a program knows where it is"));
        command.args([RESPONDER, &address.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
        if secure {
            command.arg(folder.path());
        }
        let mut responder = start(&mut command, place.spaces.map(|spaces| spaces[1]));
        told(responder.stdout.take().expect("it is piped"), "ready", "ready");
        Self { address, folder, secure, server, responder }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        for process in [&mut self.responder, &mut self.server] {
            _ = process.kill();
            _ = process.wait();
        }
    }
}

impl Peer for Nats {
    type Client = async_nats::Client;

    fn name(&self) -> String {
        if self.secure { "NATS, TLS both ways".into() } else { "NATS, plaintext".into() }
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.server.id(), self.responder.id()]
    }

    async fn connect(&self) -> async_nats::Client {
        connect(self.address, self.secure.then(|| self.folder.path())).await
    }
}

impl Client for async_nats::Client {
    async fn request(&self, body: Bytes) -> Result<Bytes, String> {
        let answer = async_nats::Client::request(self, SUBJECT, body).await;
        answer.map(|message| message.payload).map_err(|error| error.to_string())
    }
}

/// Answers each request with its own body, for ever. One thread, as it is the fastest for NATS.
pub(crate) fn respond(words: &mut dyn Iterator<Item = String>) {
    let address: SocketAddr = words.next().and_then(|word| word.parse().ok()).expect("an address");
    let folder = words.next().map(PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = connect(address, folder.as_deref()).await;
        let mut requests = client.subscribe(SUBJECT).await.expect("it subscribes");
        client.flush().await.expect("the server knows");
        println!("ready");
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                client.publish(reply, request.payload).await.expect("the server is there");
            }
        }
    });
}

async fn connect(address: SocketAddr, folder: Option<&Path>) -> async_nats::Client {
    let mut options = ConnectOptions::new();
    if let Some(folder) = folder {
        options = options
            .add_root_certificates(folder.join("ca.pem"))
            .add_client_certificate(folder.join("cert.pem"), folder.join("key.pem"))
            .require_tls(true);
    }
    options.connect(address.to_string()).await.expect("the server is there")
}

/// Writes an authority's certificate, and one that it issued for an address with its key.
fn certify(folder: &Path, address: IpAddr) {
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("a certificate");
    let leaf = CertificateParams::new([address.to_string()]).expect("an address is a name");
    let own = key();
    let leaf = leaf.signed_by(&own, &authority).expect("a certificate");
    for (name, text) in
        [("ca.pem", authority.pem()), ("cert.pem", leaf.pem()), ("key.pem", own.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).expect("a file can be written");
    }
}

fn start(command: &mut Command, space: Option<&Space>) -> Child {
    match space {
        Some(space) => space.spawn(command),
        None => command.spawn(),
    }
    .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a process says behind some words, once it said others; then all it says is read and forgotten.
pub(crate) fn told(output: impl Read + Send + 'static, wanted: &str, last: &str) -> String {
    let mut lines = BufReader::new(output);
    let (mut found, mut all) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        let read = lines.read_line(&mut line).expect("it says something");
        assert!(read > 0, "it ended:\n{all}");
        if let Some((_, rest)) = line.split_once(wanted) {
            found = rest.trim().to_owned();
        }
        all += &line;
        if line.contains(last) {
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return found;
        }
    }
}
