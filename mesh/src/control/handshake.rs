//! How a connection becomes a link: who is there, and what both sides say first. Nothing of it is read before it is known
//! who sent it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig};
use quinn::{ClientConfig, Connecting, Connection, Endpoint, RecvStream, SendStream, TransportConfig};
use rustls::pki_types::CertificateDer;
use starlane_core::frame::{Close, Control, Hello, LANES, Slicer};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Event, OnJoin, Proposed};
use crate::control::dials::Address;
use crate::link::{ControlStream, Streams, close};
use crate::room::Room;
use crate::{ALPN_JOIN, ALPN_LINK, Credentials, Peer};

/// The name that TLS wants of whoever is dialled. A node is known by its certificate; this means nothing.
const SERVER_NAME: &str = "starlane";
/// What the routing says goes before all messages.
const CONTROL_PRIORITY: i32 = 1;

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Resolve(#[from] io::Error),
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("no cipher suite for the first packets")]
    Cipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    #[error("it took too long")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("{}", .0.as_str())]
    Refused(Close),
    #[error("the connection broke")]
    Broken,
}

impl From<quinn::WriteError> for Failure {
    fn from(_: quinn::WriteError) -> Self {
        Failure::Broken
    }
}

impl Failure {
    /// Whether the two nodes speak no version in common, as either end found.
    pub(crate) fn is_version(&self) -> bool {
        match self {
            Failure::Refused(why) => *why == Close::Version,
            Failure::Connection(quinn::ConnectionError::ApplicationClosed(close)) => {
                close.error_code == Close::Version.code().into()
            }
            _ => false,
        }
    }

    /// Whether the other end is no member, as TLS or this node found.
    pub(crate) fn is_stranger(&self) -> bool {
        match self {
            Failure::Refused(why) => matches!(why, Close::NoMember | Close::Revoked | Close::Protocol),
            Failure::Connection(error) => matches!(error, quinn::ConnectionError::TransportError(_)),
            _ => false,
        }
    }
}

/// What dialling needs.
pub(crate) struct Dialler {
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Arc<dyn Credentials>,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) handshake: Duration,
}

/// Dials an address, until it is known who is there.
pub(crate) async fn dial(dialler: Dialler, address: Address, events: mpsc::Sender<Event>) {
    let reached = reach(&dialler, &address).await;
    let event = match reached {
        Ok((connection, peer)) => Event::Reached { address, connection, peer },
        Err(failure) => Event::Failed { address: Some(address), of: None, failure },
    };
    // The control plane is gone only when the node stops.
    let _ = events.send(event).await;
}

async fn reach(dialler: &Dialler, address: &str) -> Result<(Connection, Peer), Failure> {
    let crypto = QuicClientConfig::try_from(dialler.credentials.client())?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(dialler.transport.clone());
    let mut failure = Failure::Resolve(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for at in tokio::net::lookup_host(address).await? {
        let connecting = match dialler.endpoint.connect_with(config.clone(), at, SERVER_NAME) {
            Ok(connecting) => connecting,
            Err(error) => {
                failure = error.into();
                continue;
            }
        };
        match timeout(dialler.handshake, connecting).await {
            Ok(Ok(connection)) => {
                let peer =
                    known(&connection, &*dialler.credentials).inspect_err(|why| close(&connection, *why));
                return Ok((connection, peer.map_err(Failure::Refused)?));
            }
            Ok(Err(error)) => failure = error.into(),
            Err(slow) => failure = slow.into(),
        }
    }
    Err(failure)
}

/// What accepting needs.
pub(crate) struct Acceptor {
    pub(crate) credentials: Arc<dyn Credentials>,
    pub(crate) on_join: Option<OnJoin>,
    pub(crate) handshake: Duration,
    pub(crate) room: Room,
}

/// Accepts a connection, until it is known who dialled and what it says first.
pub(crate) async fn accept(acceptor: Acceptor, connecting: Connecting, events: mpsc::Sender<Event>) {
    let _room = acceptor.room;
    let accepted = timeout(acceptor.handshake, async {
        let connection = connecting.await?;
        match protocol(&connection).as_deref() {
            Some(ALPN_LINK) => {}
            Some(ALPN_JOIN) => {
                match &acceptor.on_join {
                    Some(on_join) => on_join(connection),
                    None => close(&connection, Close::Protocol),
                }
                return Ok(None);
            }
            _ => {
                close(&connection, Close::Protocol);
                return Err(Failure::Refused(Close::Protocol));
            }
        }
        let peer = match known(&connection, &*acceptor.credentials) {
            Ok(peer) => peer,
            Err(why) => {
                close(&connection, why);
                return Err(Failure::Refused(why));
            }
        };
        let (send, receive) = connection.accept_bi().await?;
        let (hello, control) =
            read_hello(send, receive).await.inspect_err(|_| close(&connection, Close::Malformed))?;
        Ok(Some(Proposed { connection, peer, hello, control }))
    });
    let event = match accepted.await {
        Ok(Ok(Some(proposed))) => Event::Accepted(Box::new(proposed)),
        Ok(Ok(None)) => return,
        Ok(Err(failure)) => Event::Failed { address: None, of: None, failure },
        Err(slow) => Event::Failed { address: None, of: None, failure: slow.into() },
    };
    // The control plane is gone only when the node stops.
    let _ = events.send(event).await;
}

/// Says hello to whoever was dialled, and opens the streams.
pub(crate) async fn greet(connection: &Connection, hello: &Hello) -> Result<(Hello, Streams), Failure> {
    let (mut send, receive) = connection.open_bi().await?;
    let _ = send.set_priority(CONTROL_PRIORITY);
    send.write_all(&written(hello)?).await?;
    let mut lanes = Vec::with_capacity(LANES);
    for lane in 0..LANES {
        let (mut send, receive) = connection.open_bi().await?;
        send.write_all(&[lane as u8]).await?;
        lanes.push((send, receive));
    }
    let (hello, control) = read_hello(send, receive).await?;
    Ok((hello, Streams { control, lanes }))
}

/// Says hello to whoever dialled, once all streams are there.
pub(crate) async fn welcome(
    connection: &Connection,
    mut control: ControlStream,
    hello: &Hello,
) -> Result<Streams, Failure> {
    let _ = control.send.set_priority(CONTROL_PRIORITY);
    let mut lanes = Vec::with_capacity(LANES);
    for lane in 0..LANES {
        let (send, mut receive) = connection.accept_bi().await?;
        let mut number = [0];
        receive.read_exact(&mut number).await.map_err(|_| Failure::Broken)?;
        if usize::from(number[0]) != lane {
            return Err(Failure::Refused(Close::Malformed));
        }
        lanes.push((send, receive));
    }
    control.send.write_all(&written(hello)?).await?;
    Ok(Streams { control, lanes })
}

fn written(hello: &Hello) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    Control::Hello(Box::new(hello.clone())).write(&mut out).map_err(|_| Failure::Broken)?;
    Ok(out)
}

async fn read_hello(send: SendStream, mut receive: RecvStream) -> Result<(Hello, ControlStream), Failure> {
    let mut slicer = Slicer::controls();
    loop {
        let control = match slicer.next() {
            Ok(None) => None,
            Ok(Some(piece)) => Some(Control::read(piece).map_err(|_| Failure::Refused(Close::Malformed))?),
            Err(_) => return Err(Failure::Refused(Close::Malformed)),
        };
        match control {
            Some(Control::Hello(hello)) => return Ok((*hello, ControlStream { send, receive, slicer })),
            Some(_) => return Err(Failure::Refused(Close::Malformed)),
            None => {}
        }
        match receive.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => slicer.push(chunk.bytes),
            Ok(None) => return Err(Failure::Broken),
            Err(quinn::ReadError::ConnectionLost(error)) => return Err(error.into()),
            Err(_) => return Err(Failure::Broken),
        }
    }
}

/// Who is at the other end, as its certificate says.
fn known(connection: &Connection, credentials: &dyn Credentials) -> Result<Peer, Close> {
    if protocol(connection).as_deref() != Some(ALPN_LINK) {
        return Err(Close::Protocol);
    }
    let certificates = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(Close::NoMember)?;
    let peer = credentials.peer(&certificates).ok_or(Close::NoMember)?;
    if credentials.is_revoked(&peer) { Err(Close::Revoked) } else { Ok(peer) }
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}
