//! What the doors are told once, at the start.

use std::net::SocketAddr;
use std::time::Duration;

use starlane_core::{Agent, Point};

use crate::tls::Tls;

/// What the doors are told once, at the start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the users' web is served.
    pub web: SocketAddr,
    /// Where the API is served.
    pub api: SocketAddr,
    /// What `Authorization: Bearer` must carry on the API; never empty.
    pub token: String,
    /// On whose authority the bearer of the token acts.
    pub api_agent: Agent,
    /// On whose authority the users' web acts.
    pub web_agent: Agent,
    /// Whom messages from the doors come from.
    pub point: Point,
    /// What protects the API, and the web, on addresses that others can reach.
    pub protection: Protection,
    /// Names besides `localhost` and plain addresses that the API may be called by, without port.
    pub api_hosts: Vec<String>,
    /// Origins of web pages besides the API's own that may call it, as browsers send them: `https://console.example`.
    pub api_origins: Vec<String>,
    /// What everything is bounded by.
    pub limits: Limits,
}

impl Config {
    /// Both doors on free ports of the loopback address, for an administrator with this token.
    pub fn local(token: impl Into<String>, api_agent: Agent, web_agent: Agent, point: Point) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            web: any,
            api: any,
            token: token.into(),
            api_agent,
            web_agent,
            point,
            protection: Protection::LoopbackOnly,
            api_hosts: Vec::new(),
            api_origins: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// What keeps others from reading along.
#[derive(Debug, Clone)]
pub enum Protection {
    /// Only this machine can reach the doors; any other address is refused.
    LoopbackOnly,
    /// A proxy in front of the doors speaks TLS; its `Forwarded` headers are believed.
    BehindProxy,
    /// The doors speak TLS themselves, and nothing else.
    Tls(Tls),
}

/// What everything is bounded by. The defaults hold for a machine of any size.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once on each door; the next is answered 503 and closed.
    pub connections_max: usize,
    /// Connections open at once from one address on each door; the next is answered 503 and closed. Loopback
    /// addresses are not counted: behind a proxy of the same machine all connections come from there.
    pub connections_per_ip_max: usize,
    /// How long a connection may take to send a request's head, from its first byte or from the start of the connection;
    /// a TLS handshake counts along.
    pub head_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// How many bytes the head of a request may have; a larger one is answered 431.
    pub head_bytes_max: usize,
    /// How many headers a request may have; more are answered 431.
    pub headers_max: usize,
    /// How many bytes the body of a request may have that is held in memory; a larger one is answered 413. A message of a
    /// WebSocket has no more either, or the connection is closed with 1009.
    pub body_bytes_max: usize,
    /// How many bytes of bodies may be held in memory at once on each door; the next is answered 503.
    pub bodies_bytes_max: usize,
    /// How many bytes an upload may have; a larger one is answered 413.
    pub upload_bytes_max: u64,
    /// How long a body or a reader may make no progress worth `pace_bytes_min` in this time; then it is closed.
    pub pace_window: Duration,
    /// How many bytes a sender or a reader must move in each `pace_window` in which it is waited for.
    pub pace_bytes_min: usize,
    /// How long the users' web waits for an answer of the mesh.
    pub request_timeout: Duration,
    /// The longest `timeout` that the API accepts.
    pub request_timeout_max: Duration,
    /// Watches, followed logs and scatters open at once; the next is answered 503.
    pub streams_max: usize,
    /// Sessions of the portal open at once; the next is answered 503.
    pub sessions_max: usize,
    /// WebSockets of the users' web open at once; the next is answered 503.
    pub sockets_max: usize,
    /// How often a silent stream says that it lives.
    pub heartbeat: Duration,
    /// How many resources a page has when not asked otherwise, and at most.
    pub page_default: usize,
    /// See `page_default`.
    pub page_max: usize,
    /// How many resources one question may be asked at once; none is asked when there are more.
    pub scatter_points_max: usize,
    /// How long requests may go on after the doors were asked to close.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 8_192,
            connections_per_ip_max: 512,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            head_bytes_max: 32 * 1024,
            headers_max: 100,
            body_bytes_max: 1024 * 1024,
            bodies_bytes_max: 256 * 1024 * 1024,
            upload_bytes_max: 16 * 1024 * 1024 * 1024,
            pace_window: Duration::from_secs(10),
            pace_bytes_min: 10 * 1024,
            request_timeout: Duration::from_secs(30),
            request_timeout_max: Duration::from_secs(300),
            streams_max: 2_048,
            sessions_max: 4_096,
            sockets_max: 4_096,
            heartbeat: Duration::from_secs(15),
            page_default: 100,
            page_max: 1_000,
            scatter_points_max: 10_000,
            drain_timeout: Duration::from_secs(10),
        }
    }
}
