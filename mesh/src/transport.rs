//! How links use QUIC: one endpoint for both directions, on a thread of its own.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    AckFrequencyConfig, AsyncUdpSocket, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use socket2::SockRef;
use starlane_core::frame::LANES;
use tokio::runtime::{Builder, Handle as Runtime};
use tokio::sync::{Notify, watch};

use crate::config::{Config, Congestion};
use crate::control::{OnJoin, Plane, Random};
use crate::credentials::Credentials;
use crate::local::Local;
use crate::node::Node;
use crate::routing::Routing;
use crate::time::Clock;
use crate::{Handle, identity, resets};

/// Bodies that may come on streams of their own at once.
const BODY_STREAMS_MAX: u32 = 64;
/// How many packets are acknowledged at once.
const ACK_THRESHOLD: u32 = 10;
/// After so many packets out of order the next word is an acknowledgement.
const ACK_REORDERED: u32 = 1;
/// How long an acknowledgement may wait for something to go along with. A packet that was lost behind which nothing came is
/// sent again so much later, which every frame behind it waits for.
const ACK_DELAY: Duration = Duration::from_millis(2);
/// What is kept of a connection before it is accepted.
const INCOMING_BYTES_MAX: u64 = 64 * 1024;
/// What any network carries; received packets may have this much at least.
const UDP_PAYLOAD_MIN: u16 = 1_472;

/// What links are made from, beside what may be chosen.
pub struct Parts {
    /// Who the node is, and who is a member.
    pub credentials: Arc<dyn Credentials>,
    /// What arrives for the node.
    pub local: Arc<dyn Local>,
    /// Where frames go.
    pub routing: Box<dyn Routing>,
    /// Takes the connections of nodes that join; without it they are closed.
    pub on_join: Option<OnJoin>,
    /// What links send and receive over.
    pub socket: Socket,
    /// Where links run.
    pub place: Place,
    /// Randomness, for the spread of dials and for names of connections and calls.
    pub seed: u64,
}

/// What links send and receive over. Whoever can be reached there is accepted; a node that only dials out binds any port.
pub enum Socket {
    /// A socket to be bound to an address.
    Bind(SocketAddr),
    /// A socket that is bound already.
    Bound(UdpSocket),
    /// Anything else, for tests: with the seed of the connections' own randomness.
    Abstract(Arc<dyn AsyncUdpSocket>, [u8; 32]),
}

/// Where links run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a thread of their own, apart from the caller's runtime.
    OwnThread,
    /// On the caller's runtime, for tests with their own time.
    Here,
}

/// Starts the links of a node. It is called on a tokio runtime, where calls of other nodes will run.
///
/// # Errors
/// When the socket cannot be bound, the thread not be started, or the certificate not be used.
pub fn start(config: Config, parts: Parts) -> io::Result<Handle> {
    let caller = Runtime::try_current().map_err(io::Error::other)?;
    let socket = match parts.socket {
        Socket::Bind(address) => Socket::Bound(UdpSocket::bind(address)?),
        socket => socket,
    };
    let parts = Parts { socket, ..parts };
    match parts.place {
        Place::Here => {
            let (handle, plane) = build(config, parts, caller)?;
            let done = handle.done();
            tokio::spawn(async move {
                plane.run().await;
                done.send_replace(true);
            });
            Ok(handle)
        }
        Place::OwnThread => {
            let (started, start) = mpsc::sync_channel(1);
            thread::Builder::new().name("mesh-links".into()).spawn(move || {
                let runtime = match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    // Whoever starts waits for it.
                    Err(error) => return drop(started.send(Err(error))),
                };
                runtime.block_on(async move {
                    match build(config, parts, caller) {
                        Ok((handle, plane)) => {
                            let done = handle.done();
                            drop(started.send(Ok(handle)));
                            plane.run().await;
                            done.send_replace(true);
                        }
                        Err(error) => drop(started.send(Err(error))),
                    }
                });
            })?;
            start.recv().map_err(io::Error::other)?
        }
    }
}

fn build(config: Config, parts: Parts, caller: Runtime) -> io::Result<(Handle, Plane)> {
    let mut random = Random::new(parts.seed);
    let transport = Arc::new(transport(&config)?);
    let server = server(&*parts.credentials, transport.clone())?;
    let mut endpoint = EndpointConfig::default();
    endpoint.max_udp_payload_size(config.mtu_max.max(UDP_PAYLOAD_MIN)).map_err(io::Error::other)?;
    if let Some(secret) = parts.credentials.secret() {
        resets::answer(secret, identity::random().map_err(io::Error::other)?, &mut endpoint);
    }
    let runtime = Arc::new(TokioRuntime);
    let endpoint = match parts.socket {
        Socket::Abstract(socket, seed) => {
            endpoint.rng_seed(Some(seed));
            Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime)?
        }
        Socket::Bound(socket) => {
            make_room(&socket, config.socket_bytes);
            Endpoint::new(endpoint, Some(server), socket, runtime)?
        }
        Socket::Bind(_) => return Err(io::Error::other("the socket is bound before this")),
    };
    let address = endpoint.local_addr()?;
    let (addresses, known) = watch::channel(config.addresses.clone());
    let (stop, stopped) = watch::channel(false);
    let poke = Arc::new(Notify::new());
    let process = identity::random().map(u128::from_le_bytes).map_err(io::Error::other)?;
    let (clock, calls) = (Clock::start(), random.next());
    let me = parts.credentials.me();
    let node = Node::new(me, config, parts.local, Runtime::current(), caller, clock, calls);
    let node = Arc::new(node);
    let handle = Handle::new(node.clone(), address, addresses, poke.clone(), stop);
    let plane = Plane {
        node,
        endpoint,
        credentials: parts.credentials,
        routing: parts.routing,
        on_join: parts.on_join,
        addresses: known,
        poke,
        stop: stopped,
        transport,
        random,
        process,
    };
    Ok((handle, plane))
}

/// Lets more packets wait than the system does by itself, so that it loses none when many dial at once.
fn make_room(socket: &UdpSocket, bytes: usize) {
    let socket = SockRef::from(socket);
    let sized = socket.set_recv_buffer_size(bytes).and_then(|()| socket.set_send_buffer_size(bytes));
    match sized.and_then(|()| Ok((socket.recv_buffer_size()?, socket.send_buffer_size()?))) {
        Ok((receive, send)) => tracing::debug!(bytes, receive, send, "room in the socket"),
        // It works with less.
        Err(error) => tracing::warn!(%error, "the system gives the socket no more room"),
    }
}

fn transport(config: &Config) -> io::Result<TransportConfig> {
    let window = VarInt::from_u32(config.window_bytes);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD))
        .reordering_threshold(VarInt::from_u32(ACK_REORDERED))
        .max_ack_delay(Some(ACK_DELAY));
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(config.mtu_max);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(LANES as u32 + 1))
        .max_concurrent_uni_streams(VarInt::from_u32(BODY_STREAMS_MAX))
        .max_idle_timeout(Some(config.idle.try_into().map_err(io::Error::other)?))
        .keep_alive_interval(Some(config.keep_alive))
        .receive_window(window)
        .stream_receive_window(window)
        .send_window(config.window_bytes.into())
        .ack_frequency_config(Some(acks))
        .mtu_discovery_config(Some(mtu))
        .datagram_receive_buffer_size(None);
    match config.congestion {
        Congestion::Cubic => transport.congestion_controller_factory(Arc::new(CubicConfig::default())),
        Congestion::Bbr => transport.congestion_controller_factory(Arc::new(BbrConfig::default())),
    };
    Ok(transport)
}

/// How a node accepts, by its newest certificate.
pub(crate) fn server(
    credentials: &dyn Credentials,
    transport: Arc<TransportConfig>,
) -> io::Result<ServerConfig> {
    let crypto = QuicServerConfig::try_from(credentials.server()).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport);
    config.incoming_buffer_size(INCOMING_BYTES_MAX);
    config.incoming_buffer_size_total(INCOMING_BYTES_MAX * 64);
    Ok(config)
}
