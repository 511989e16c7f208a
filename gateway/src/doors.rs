//! The two doors: listening, accepting, draining.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::config::{Config, Protection};
use crate::mesh::Mesh;

/// The two doors of a node, listening and not yet open.
pub struct Doors<M> {
    web: TcpListener,
    api: TcpListener,
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
    /// The doors cannot speak TLS yet.
    #[error("the doors do not speak TLS themselves yet: put a proxy in front of them")]
    TlsUnsupported,
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
        let web = listen(config.web).await?;
        let api = listen(config.api).await?;
        let addresses = Addresses {
            web: web.local_addr().map_err(|error| BindError::Listen { address: config.web, error })?,
            api: api.local_addr().map_err(|error| BindError::Listen { address: config.api, error })?,
        };
        Ok((Self { web, api, config: Arc::new(config), mesh }, addresses))
    }

    /// Serves both doors until `shutdown` is ready; then lets running requests end, for `drain_timeout` at most.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        shutdown.await;
    }
}

fn check(config: &Config) -> Result<(), BindError> {
    if config.token.is_empty() {
        return Err(BindError::TokenEmpty);
    }
    match config.protection {
        Protection::Tls { .. } => Err(BindError::TlsUnsupported),
        Protection::BehindProxy => Ok(()),
        Protection::LoopbackOnly => {
            match [config.web, config.api].into_iter().find(|a| !a.ip().is_loopback()) {
                Some(address) => Err(BindError::Unprotected { address }),
                None => Ok(()),
            }
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|error| BindError::Listen { address, error })
}
