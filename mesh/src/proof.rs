//! What this crate promises of members and tokens, as functions with a size: small in the tests, large in a soak. They
//! use real connections on the loopback interface.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, Endpoint, VarInt};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use starlane_core::{NodeName, Role};
use tokio::task::JoinHandle;

use crate::identity::{
    ALPN_JOIN, ALPN_LINK, Authority, Config, Identity, Newcomer, Revocations, system_clock,
};
use crate::join::{self, Desk, Enrolment, JoinError, MemoryMembers, MemoryTokens, Service, Wish, join};
use crate::token::{TTL_SECONDS, Token, TokenRecord};
use crate::{Credentials, Peer};

/// What goes wrong in a proof itself.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// With this code a [`Door`] closes the connection of a member, when it has read all of a stream.
pub const WELCOME: VarInt = VarInt::from_u32(100);
/// With this code a [`Door`] closes the connection of who is no member.
pub const UNWELCOME: VarInt = VarInt::from_u32(101);

/// A node that listens, and does with a connection what links do: it looks at who is there before it reads a byte.
pub struct Door {
    endpoint: Endpoint,
    address: SocketAddr,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    links: AtomicU64,
    bytes: AtomicU64,
}

impl Door {
    /// Listens as a member that lets nobody join.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open(identity: &Identity) -> Result<Self, Failure> {
        Self::with(identity, None::<Service<Enrolment<MemoryTokens, MemoryMembers>>>)
    }

    /// Listens as a member that lets others join.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn joining<D: Desk>(identity: &Identity, service: Service<D>) -> Result<Self, Failure> {
        Self::with(identity, Some(service))
    }

    fn with<D: Desk>(identity: &Identity, service: Option<Service<D>>) -> Result<Self, Failure> {
        let crypto = QuicServerConfig::try_from(identity.server())?;
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
        let address = endpoint.local_addr()?;
        let counts = Arc::new(Counts::default());
        let accepting = tokio::spawn({
            let (endpoint, identity, counts) = (endpoint.clone(), identity.clone(), counts.clone());
            async move {
                while let Some(incoming) = endpoint.accept().await {
                    let (identity, counts, service) = (identity.clone(), counts.clone(), service.clone());
                    tokio::spawn(async move {
                        let Ok(connection) = incoming.await else { return };
                        match (protocol(&connection).as_deref(), service) {
                            (Some(ALPN_LINK), _) => counts.link(&identity, &connection).await,
                            (Some(ALPN_JOIN), Some(service)) => service.serve(connection).await,
                            _ => connection.close(UNWELCOME, b""),
                        }
                    });
                }
            }
        });
        Ok(Self { endpoint, address, counts, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections of members there were.
    pub fn links(&self) -> u64 {
        self.counts.links.load(Ordering::SeqCst)
    }

    /// How many bytes of an application were read.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
        self.endpoint.close(UNWELCOME, b"");
    }
}

impl Counts {
    async fn link(&self, identity: &Identity, connection: &Connection) {
        if identity.peer(&shown(connection)).is_none() {
            connection.close(UNWELCOME, b"");
            return;
        }
        self.links.fetch_add(1, Ordering::SeqCst);
        let Ok((_answer, mut stream)) = connection.accept_bi().await else { return };
        let bytes = stream.read_to_end(1024).await.map_or(0, |bytes| bytes.len());
        self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        connection.close(WELCOME, b"");
    }
}

/// What the two ends of a connection agreed to speak.
pub fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// The certificates that the other end of a connection showed.
pub fn shown(connection: &Connection) -> Vec<CertificateDer<'static>> {
    let shown = connection.peer_identity().and_then(|shown| shown.downcast().ok());
    shown.map(|shown| *shown).unwrap_or_default()
}

/// Dials, says something, and tells how the connection ended.
///
/// # Errors
/// When it cannot be dialled at all.
pub async fn knock(
    endpoint: &Endpoint,
    address: SocketAddr,
    config: rustls::ClientConfig,
) -> Result<ConnectionError, Failure> {
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?));
    // Without waiting for the other end, when it was met before and handed something out for that.
    let connection = match endpoint.connect_with(config, address, "nobody")?.into_0rtt() {
        Ok((connection, _)) => connection,
        Err(connecting) => match connecting.await {
            Ok(connection) => connection,
            Err(error) => return Ok(error),
        },
    };
    if let Ok((mut stream, _answer)) = connection.open_bi().await {
        // Whoever does not want it closes the connection, which is what is told.
        let _ = stream.write_all(b"let me in").await;
        let _ = stream.finish();
    }
    Ok(connection.closed().await)
}

/// Whether a connection ended as that of a member.
pub fn is_welcome(end: &ConnectionError) -> bool {
    matches!(end, ConnectionError::ApplicationClosed(close) if close.error_code == WELCOME)
}

/// The mesh of one node, made anew in a folder.
///
/// # Errors
/// Those of its files.
pub fn first_node(folder: &Path, name: &str) -> Result<(Identity, Authority), Failure> {
    let clock = system_clock();
    let authority = Authority::open_or_create(folder, clock())?;
    let config = Config { folder: folder.to_owned(), clock };
    let identity = Identity::of_authority(config, &authority, name.parse()?, Role::Relay)?;
    Ok((identity, authority))
}

/// What [`one_use`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneUse {
    /// How many tokens there were.
    pub tokens: u64,
    /// How often each was used at the same time.
    pub uses: u64,
    /// How many joined.
    pub joined: u64,
    /// The most that joined with one token.
    pub joined_max: u64,
    /// How many were told that the token is not known.
    pub refused: u64,
    /// How many got no answer.
    pub unanswered: u64,
    /// How many certificates were issued.
    pub certificates: u64,
}

/// Uses each of so many tokens so often at the same time.
///
/// # Errors
/// Any outcome but joining, `TokenUnknown`, and no answer from a machine that is too busy.
pub async fn one_use(folder: &Path, tokens: u64, uses: u64) -> Result<OneUse, Failure> {
    let (identity, authority) = first_node(&folder.join("first"), "first")?;
    let before = authority.issued();
    let desk = Enrolment::new(
        identity.clone(),
        authority.clone(),
        MemoryTokens::default(),
        MemoryMembers::default(),
    );
    // All come from one address and at once, and those of the round before may still be taking their leave.
    let at_once_max = usize::try_from(uses)?.saturating_mul(2);
    let config = join::Config { every: Duration::ZERO, at_once_max, ..join::Config::default() };
    let service = Service::new(config, identity.clone(), desk);
    let door = Door::joining(&identity, service.clone())?;
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let newcomer = Newcomer::open(Config { folder: folder.join("newcomer"), clock: system_clock() })?;
    let mut found =
        OneUse { tokens, uses, joined: 0, joined_max: 0, refused: 0, unanswered: 0, certificates: 0 };
    for round in 0..tokens {
        let token = Token::draw(authority.pin())?;
        let record = TokenRecord::new(&token, Role::Leaf, system_clock()(), TTL_SECONDS);
        service.desk().tokens().keep(token.id(), record);
        let wishes: Vec<_> = (0..uses)
            .map(|use_| {
                let name: NodeName = format!("node-{round}-{use_}").parse()?;
                Ok(Wish { name, role: None, labels: BTreeMap::new() })
            })
            .collect::<Result<_, Failure>>()?;
        let joins = wishes.iter().map(|wish| join(&endpoint, door.address(), &token, wish, &newcomer));
        let mut joined = 0;
        for outcome in join_all(joins).await {
            match outcome {
                Ok(_) => joined += 1,
                Err(JoinError::TokenUnknown) => found.refused += 1,
                Err(JoinError::Unreachable { .. } | JoinError::Lost { .. }) => found.unanswered += 1,
                Err(error) => return Err(error.into()),
            }
        }
        found.joined += joined;
        found.joined_max = found.joined_max.max(joined);
    }
    found.certificates = authority.issued() - before;
    Ok(found)
}

/// What [`revocation`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// How often the node connected before it was revoked.
    pub before: u64,
    /// How often it tried afterwards.
    pub tries: u64,
    /// How often it got in afterwards.
    pub accepted: u64,
    /// How often the changes were told to who holds links.
    pub told: u64,
}

/// Connects as a member, revokes it, and tries so often again: with all that TLS has for coming back without being
/// asked.
///
/// # Errors
/// When the member did not get in before it was revoked.
pub async fn revocation(folder: &Path, tries: u64) -> Result<Revocation, Failure> {
    let (identity, authority) = first_node(&folder.join("first"), "first")?;
    let (member, peer) = member(&folder.join("member"), &authority, "member")?;
    let door = Door::open(&identity)?;
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let mut config = (*member.client()).clone();
    config.resumption = Resumption::in_memory_sessions(256);
    config.enable_early_data = true;
    config.enable_sni = true;
    for _ in 0..2 {
        let end = knock(&endpoint, door.address(), config.clone()).await?;
        if !is_welcome(&end) {
            return Err(end.into());
        }
    }
    let before = door.links();
    let mut changes = identity.changes();
    let told = *changes.borrow_and_update();
    let mut revocations = Revocations::default();
    revocations.revoke(peer.name.clone(), peer.generation);
    identity.set_revoked(revocations)?;
    changes.changed().await?;
    let mut accepted = 0;
    for _ in 0..tries {
        accepted += u64::from(is_welcome(&knock(&endpoint, door.address(), config.clone()).await?));
    }
    // What the door counted is the truth; what the node heard has to agree.
    accepted = accepted.max(door.links() - before);
    let told = *changes.borrow() - told;
    Ok(Revocation { before, tries, accepted, told })
}

/// A member that an authority certifies without a token.
///
/// # Errors
/// Those of its files.
pub fn member(folder: &Path, authority: &Authority, name: &str) -> Result<(Identity, Peer), Failure> {
    let config = Config { folder: folder.to_owned(), clock: system_clock() };
    let identity = Identity::of_authority(config, authority, name.parse()?, Role::Leaf)?;
    let peer = identity.me();
    Ok((identity, peer))
}
