//! The two doors: listening, accepting, draining.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Api;
use crate::body::Answer;
use crate::config::{Config, Limits, Protection};
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::pace::{Paced, Phase};
use crate::web::Web;

/// Refused connections that are being told so at once; more are closed without a word.
const REFUSALS_MAX: usize = 64;

/// How long a refused connection may take to hear that it is.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait after the system has run out of something, before accepting again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
content-type: application/problem+json\r\ncontent-length: 167\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
{\"type\":\"urn:starlane:error:E-BUSY\",\"title\":\"The receiver has too much waiting.\",\"status\":503,\
\"detail\":\"too many connections are open\",\"code\":\"E-BUSY\",\"retryAfter\":1}\n";

/// What TLS begins with: a record of the handshake. No method of HTTP does.
const HANDSHAKE: u8 = 0x16;

const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
content-type: application/problem+json\r\ncontent-length: 173\r\nconnection: close\r\n\r\n\
{\"type\":\"urn:starlane:error:E-USAGE\",\"title\":\"The request is not one that this API knows.\",\"status\":400,\
\"detail\":\"this door speaks TLS: ask it with https\",\"code\":\"E-USAGE\"}\n";

/// The two doors of a node, listening and not yet open.
pub struct Doors<M> {
    listeners: [TcpListener; 2],
    config: Arc<Config>,
    mesh: Arc<M>,
}

/// Where the doors listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The users' web.
    pub web: SocketAddr,
    /// The API.
    pub api: SocketAddr,
}

/// Why the doors cannot open.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Others could read along.
    #[error("{address} can be reached by others, and nothing protects what is said there")]
    Unprotected {
        /// Which.
        address: SocketAddr,
    },
    /// The token is empty.
    #[error("the token of the API is empty: anybody could use it")]
    TokenEmpty,
}

impl<M: Mesh> Doors<M> {
    /// Listens on both addresses; nobody is let in before [`Doors::run`].
    ///
    /// # Errors
    /// When an address is taken or may not be used.
    pub async fn bind(config: Config, mesh: Arc<M>) -> Result<(Self, Addresses), BindError> {
        check(&config)?;
        let (web, web_address) = listen(config.web).await?;
        let (api, api_address) = listen(config.api).await?;
        let doors = Self { listeners: [web, api], config: Arc::new(config), mesh };
        Ok((doors, Addresses { web: web_address, api: api_address }))
    }

    /// Serves both doors until `shutdown` is ready; then lets running requests end, for `drain_timeout` at most.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { listeners: [web_listener, api_listener], config, mesh } = self;
        let (registry, [web_metrics, api_metrics]) = Metrics::doors();
        let drain = Arc::new(Drain::default());
        let tasks = TaskTracker::new();

        let web = Web::new(Arc::clone(&mesh), Arc::clone(&config), drain.token.clone(), tasks.clone());
        let api = Api::new(
            mesh,
            Arc::clone(&config),
            registry,
            Arc::clone(&api_metrics),
            drain.token.clone(),
            tasks.clone(),
        );
        let tls = match &config.protection {
            Protection::Tls(tls) => Some(tls.acceptor()),
            Protection::LoopbackOnly | Protection::BehindProxy => None,
        };
        let door = |listener, metrics| Door {
            listener,
            tls: tls.clone(),
            limits: config.limits.clone(),
            metrics,
            census: Arc::default(),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            drain: Arc::clone(&drain),
            tasks: tasks.clone(),
        };
        tasks.spawn(door(web_listener, web_metrics).serve(web));
        tasks.spawn(door(api_listener, api_metrics).serve(api));

        shutdown.await;
        drain.begun.store(true, Ordering::Release);
        drain.token.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

fn check(config: &Config) -> Result<(), BindError> {
    if config.token.is_empty() {
        return Err(BindError::TokenEmpty);
    }
    match config.protection {
        Protection::Tls(_) | Protection::BehindProxy => Ok(()),
        Protection::LoopbackOnly => {
            match [config.web, config.api].into_iter().find(|address| !address.ip().is_loopback()) {
                Some(address) => Err(BindError::Unprotected { address }),
                None => Ok(()),
            }
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |error| BindError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// What answers the requests of a door.
pub(crate) trait Host: Send + Sync + 'static {
    /// What is known of one connection.
    type Visit: Send + Sync + 'static;

    /// A connection begins. It counts among those that are open for as long as `counted` is held.
    fn visit(
        self: &Arc<Self>,
        peer: IpAddr,
        phase: Arc<Phase>,
        metrics: Arc<Metrics>,
        counted: Arc<Counted>,
    ) -> Self::Visit;

    /// Answers one request of a connection.
    fn answer(
        visit: Arc<Self::Visit>,
        request: http::Request<Incoming>,
    ) -> impl Future<Output = http::Response<Answer>> + Send;
}

/// Tells all connections that the doors close.
#[derive(Debug, Default)]
struct Drain {
    /// Read at every turn of a connection, where asking the token would take a lock that all share.
    begun: AtomicBool,
    token: CancellationToken,
}

struct Door {
    listener: TcpListener,
    /// What is spoken below HTTP, if it is not plain.
    tls: Option<TlsAcceptor>,
    limits: Limits,
    metrics: Arc<Metrics>,
    census: Arc<Census>,
    refusals: Arc<Semaphore>,
    drain: Arc<Drain>,
    tasks: TaskTracker,
}

impl Door {
    async fn serve<H: Host>(self, host: Arc<H>) {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            // The stream under it watches the head's time, without a timer for each request.
            .header_read_timeout(None)
            .max_headers(self.limits.headers_max)
            .max_header_size(self.limits.head_bytes_max)
            // Never `pipeline_flush`: with it hyper buffers a body without end while its reader does not read, and
            // loses the 400 to a malformed head.
            .max_buf_size(self.limits.head_bytes_max.max(64 * 1024));
        let closing = self.drain.token.clone();
        let mut closing = pin!(closing.cancelled());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closing => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &host, &http),
                Err(error) if belongs_to_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections for now");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit<H: Host>(&self, stream: TcpStream, peer: SocketAddr, host: &Arc<H>, http: &http1::Builder) {
        let Some(counted) = Counted::admit(&self.census, peer.ip(), &self.limits, &self.metrics) else {
            self.metrics.refused.inc();
            // Saying so inside TLS would cost as much as what is refused.
            if self.tls.is_none()
                && let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned()
            {
                self.tasks.spawn(async move {
                    let _permit = permit;
                    // A peer that does not listen has nothing to lose.
                    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, say_last(stream, REFUSAL)).await;
                });
            }
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot send small answers at once");
        }
        let (phase, counted) = (Arc::new(Phase::default()), Arc::new(counted));
        let metrics = Arc::clone(&self.metrics);
        let visit = Arc::new(host.visit(peer.ip(), Arc::clone(&phase), metrics, Arc::clone(&counted)));
        let paced = Paced::new(stream, phase, &self.limits);
        let service = service_fn(move |request| {
            let visit = Arc::clone(&visit);
            async move { Ok::<_, Infallible>(H::answer(visit, request).await) }
        });
        let (http, tls) = (http.clone(), self.tls.clone());
        let (drain, drain_timeout) = (Arc::clone(&self.drain), self.limits.drain_timeout);
        let metrics = Arc::clone(&self.metrics);
        self.tasks.spawn(async move {
            let _counted = counted;
            let ended = match tls {
                None => {
                    let connection = http.serve_connection(TokioIo::new(paced), service).with_upgrades();
                    until_drained(connection, &drain, drain_timeout).await.is_ok()
                }
                Some(tls) => match shake_hands(&tls, paced, &drain).await {
                    Some(stream) => {
                        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
                        until_drained(connection, &drain, drain_timeout).await.is_ok()
                    }
                    None => false,
                },
            };
            if !ended {
                metrics.broken.inc();
            }
        });
    }
}

/// Agrees on TLS with whoever connected, in the time that the head of a request has. `None` when that fails, or the doors
/// begin to close.
async fn shake_hands(
    tls: &TlsAcceptor,
    mut stream: Paced<TcpStream>,
    drain: &Drain,
) -> Option<TlsStream<Paced<TcpStream>>> {
    let agreed = async {
        match stream.peek().await {
            Ok(Some(HANDSHAKE)) => tls.accept(stream).await.ok(),
            Ok(Some(byte)) if byte.is_ascii_alphabetic() => {
                // A peer that does not listen has nothing to lose.
                let _ = tokio::time::timeout(REFUSAL_TIMEOUT, say_last(stream, PLAIN)).await;
                None
            }
            _ => None,
        }
    };
    tokio::select! {
        agreed = agreed => agreed,
        () = drain.token.cancelled() => None,
    }
}

/// Serves a connection to its end, which comes soon after the doors begin to close.
async fn until_drained<I, S>(
    connection: http1::UpgradeableConnection<TokioIo<I>, S>,
    drain: &Drain,
    drain_timeout: Duration,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<
            http::Request<Incoming>,
            Response = http::Response<Answer>,
            Error = Infallible,
        >,
{
    let mut connection = pin!(connection);
    {
        let mut closing = pin!(drain.token.cancelled());
        let mut asked = false;
        let ended = std::future::poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            // Asked once, the token wakes this task for good.
            if !asked || drain.begun.load(Ordering::Acquire) {
                asked = true;
                return closing.as_mut().poll(cx).map(|()| None);
            }
            Poll::Pending
        });
        if let Some(ended) = ended.await {
            return ended;
        }
    }
    Pin::as_mut(&mut connection).graceful_shutdown();
    tokio::time::timeout(drain_timeout, connection).await.unwrap_or(Ok(()))
}

/// Whether an error of accepting is about the one connection, and not about all to come.
fn belongs_to_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Says one last thing to a connection, and reads on so that it is not lost with what the other side sent.
async fn say_last(mut stream: impl AsyncRead + AsyncWrite + Unpin, what: &[u8]) -> io::Result<()> {
    stream.write_all(what).await?;
    stream.shutdown().await?;
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

/// Who is connected.
#[derive(Debug, Default)]
struct Census {
    total: AtomicUsize,
    by_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection in a census; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    census: Arc<Census>,
    /// Absent for the addresses that are not counted.
    ip: Option<IpAddr>,
    metrics: Arc<Metrics>,
}

impl Counted {
    fn admit(census: &Arc<Census>, ip: IpAddr, limits: &Limits, metrics: &Arc<Metrics>) -> Option<Self> {
        let ip = ip.to_canonical();
        let ip = (!ip.is_loopback()).then_some(ip);
        if census.total.load(Ordering::Relaxed) >= limits.connections_max {
            return None;
        }
        if let Some(ip) = ip {
            let mut by_ip = census.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
            let open = by_ip.entry(ip).or_default();
            if *open >= limits.connections_per_ip_max {
                return None;
            }
            *open += 1;
        }
        census.total.fetch_add(1, Ordering::Relaxed);
        metrics.connections.inc();
        Some(Self { census: Arc::clone(census), ip, metrics: Arc::clone(metrics) })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.census.total.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
        let Some(ip) = self.ip else { return };
        let mut by_ip = self.census.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = by_ip.get_mut(&ip) {
            *open -= 1;
            if *open == 0 {
                by_ip.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_last_is_as_long_as_it_says() {
        for said in [REFUSAL, PLAIN] {
            let text = std::str::from_utf8(said).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
            let details: crate::shapes::ProblemDetails = serde_json::from_str(body).unwrap();
            assert_eq!(details.title, details.code.title());
        }
    }

    #[test]
    fn an_address_may_open_only_so_many() {
        let (census, metrics) = (Arc::default(), Arc::default());
        let limits = Limits { connections_max: 4, connections_per_ip_max: 2, ..Limits::default() };
        let admit = |ip: [u8; 4]| Counted::admit(&census, ip.into(), &limits, &metrics);
        let first = admit([192, 0, 2, 1]).unwrap();
        let second = admit([192, 0, 2, 1]).unwrap();
        assert!(admit([192, 0, 2, 1]).is_none());
        let others = [admit([127, 0, 0, 1]), admit([127, 0, 0, 1])];
        assert!(others.iter().all(Option::is_some));
        assert!(admit([127, 0, 0, 1]).is_none(), "the total holds for all");
        drop((first, others));
        assert!(admit([192, 0, 2, 1]).is_some());
        drop(second);
        assert!(census.by_ip.lock().unwrap().is_empty());
    }
}
