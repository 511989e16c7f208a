//! What a node process does about its certificate: it gets one with a token, and keeps it renewed.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use parking_lot::Mutex;
use quinn::Endpoint;
use starlane_core::frame::Service;

use super::carrier::{Carrier, NotCarried};
use super::client::{renewal, take_over};
use super::{Contact, JoinError, Joined, Wish, authority, join, renew};
use crate::identity::{Authority, Final, Newcomer};
use crate::token::Token;
use crate::{Handle, Identity, Map};

/// Joins the mesh of a token at an address, given as `host:port`: at each that its name has, until one answers.
///
/// # Errors
/// Those of [`join`]; `NoAddress` when the name has none.
pub async fn join_at(
    address: &str,
    token: &Token,
    wish: &Wish,
    newcomer: &Newcomer,
) -> Result<Joined, JoinError> {
    let mut last = JoinError::NoAddress { name: address.to_owned() };
    for at in resolve(address).await {
        let Some(endpoint) = endpoint(at) else { continue };
        match join(&endpoint, at, token, wish, newcomer).await {
            // Whoever answered has decided; a token may be spent.
            Err(error @ JoinError::Unreachable { .. }) => last = error,
            ended => return ended,
        }
    }
    Err(last)
}

/// Asks for the authority of a mesh at some addresses, given as `host:port`, until a node tells it; see [`authority`].
///
/// # Errors
/// Why the last that was asked does not tell it.
pub async fn authority_at(addresses: &[String], identity: &Identity) -> Result<Authority, JoinError> {
    let mut last = JoinError::NoAddress { name: addresses.join(", ") };
    for address in addresses {
        for at in resolve(address).await {
            let Some(endpoint) = endpoint(at) else { continue };
            match authority(&endpoint, at, identity).await {
                Ok(authority) => return Ok(authority),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// Keeps a node's certificate renewed for as long as it is polled: at once after a restart, then at half of each
/// certificate's life. It asks a node of the registry over links, by the service that [`super::Service::answer`] answers
/// there. Where none can be reached it asks at the addresses that the links dial, and where the registry was last, by
/// connections of their own, which need no valid certificate. `heard` is told where the nodes of the registry can be
/// dialled from now on.
///
/// It ends when only a person can help: with a `Revoked` or `CertificateRefused`, a new token has to be made.
pub async fn keep_renewed(
    links: Handle,
    map: Map,
    identity: Identity,
    service: Service,
    heard: impl Fn(&[Contact]) + Send,
) -> JoinError {
    let carrier = Carrier::new(map, service);
    carrier.set_links(links.clone());
    let contacts = Mutex::new(Vec::<Contact>::new());
    let renewed = identity.keep_renewed(|| async {
        let known = contacts.lock().clone();
        let now = renew_once(&links, &carrier, &identity, &known).await?;
        heard(&now);
        *contacts.lock() = now;
        Ok::<_, JoinError>(())
    });
    match renewed.await {
        Err(error) => error,
        // It does not end otherwise.
        Ok(()) => JoinError::Lost { address: links.address() },
    }
}

async fn renew_once(
    links: &Handle,
    carrier: &Carrier,
    identity: &Identity,
    contacts: &[Contact],
) -> Result<Vec<Contact>, JoinError> {
    let here = links.address();
    let mut last = match carrier.carry(&renewal(identity)?).await {
        Ok(answer) => match take_over(answer, here, identity).await {
            Err(error) if !error.is_final() => error,
            ended => return ended,
        },
        Err(NotCarried::OutOfReach) => JoinError::OutOfReach { address: here },
        Err(NotCarried::Unknown) => JoinError::Lost { address: here },
    };
    let mut addresses = links.addresses();
    addresses.extend(contacts.iter().flat_map(|contact| contact.addresses.iter().cloned()));
    for address in addresses {
        for at in resolve(&address).await {
            let Some(endpoint) = endpoint(at) else { continue };
            match renew(&endpoint, at, identity).await {
                Err(error) if !error.is_final() => last = error,
                ended => return ended,
            }
        }
    }
    Err(last)
}

async fn resolve(address: &str) -> Vec<SocketAddr> {
    match tokio::net::lookup_host(address).await {
        Ok(found) => found.collect(),
        Err(error) => {
            tracing::debug!(address, %error, "a name has no address");
            Vec::new()
        }
    }
}

/// What an address can be asked from; `None` when this machine has nothing that leads there.
fn endpoint(to: SocketAddr) -> Option<Endpoint> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let opened = Endpoint::client(SocketAddr::new(any, 0));
    opened.inspect_err(|error| tracing::debug!(%error, "no socket can be opened")).ok()
}
