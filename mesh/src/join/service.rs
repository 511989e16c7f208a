//! Takes the connections of those who join and renew: one request each, and not too often.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{Connection, ConnectionError, VarInt};
use rustls::pki_types::CertificateDer;
use starlane_core::{Code, NodeName, Role};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::rates::Rates;
use super::wire::REQUEST_BYTES_MAX;
use super::{Answer, Desk, Refusal, Request};
use crate::identity::{Ended, Refused};
use crate::{Identity, OnJoin};

/// With this code a connection is closed when all is said.
pub(super) const DONE: VarInt = VarInt::from_u32(0);
/// With this code a connection is closed before anything is read from it; the reason is when to try again, in
/// milliseconds as four bytes, lowest first.
pub(super) const BUSY: VarInt = VarInt::from_u32(1);

/// How many may ask, and how often.
#[derive(Debug, Clone)]
pub struct Config {
    /// How often one address, or one member that renews, may ask at once.
    pub burst: u32,
    /// After a burst, it may ask once every so often.
    pub every: Duration,
    /// Of how many the last time is remembered; when there are more, strangers are refused for a moment.
    pub known_max: usize,
    /// How many are served at the same time; the next is told to come again.
    pub at_once_max: usize,
    /// How long one may take, from its connection to the end.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            burst: 5,
            every: Duration::from_secs(1),
            known_max: 4_096,
            at_once_max: 64,
            patience: Duration::from_secs(10),
        }
    }
}

/// Serves the connections of the protocol of joining. A clone is the same service.
pub struct Service<D> {
    inner: Arc<Inner<D>>,
}

struct Inner<D> {
    config: Config,
    identity: Identity,
    desk: D,
    rates: Mutex<Rates<Who>>,
    places: Semaphore,
}

/// Whose attempts are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    /// Those of one address; of IPv6, of one network.
    Address(IpAddr),
    /// Those of one member: many may be behind one address.
    Member(NodeName),
}

impl<D: Desk> Service<D> {
    /// A service of this node with a desk behind it.
    pub fn new(config: Config, identity: Identity, desk: D) -> Self {
        let rates = Mutex::new(Rates::new(config.burst, config.every, config.known_max));
        let places = Semaphore::new(config.at_once_max);
        Self { inner: Arc::new(Inner { config, identity, desk, rates, places }) }
    }

    /// The desk behind it.
    pub fn desk(&self) -> &D {
        &self.inner.desk
    }

    /// What takes the connections of newcomers from links, and serves them on the runtime that this is called on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn on_join(&self) -> OnJoin {
        let (service, runtime) = (self.clone(), tokio::runtime::Handle::current());
        Arc::new(move |connection| {
            let service = service.clone();
            // As many as may be are served at once; who comes after them is told so.
            runtime.spawn(async move { service.serve(connection).await });
        })
    }

    /// Answers what another node carries here over links: somebody who joins there, or the node itself, which renews.
    ///
    /// # Errors
    /// `Busy` when as many are served as may be, `Timeout` when the desk took too long.
    pub async fn answer(&self, request: &[u8]) -> Result<Bytes, starlane_core::Refusal> {
        let inner = &*self.inner;
        let Ok(_place) = inner.places.try_acquire() else {
            let busy = starlane_core::Refusal::new(Code::Busy, "too many ask for certificates at once");
            return Err(starlane_core::Refusal { retry_after: Some(inner.config.every), ..busy });
        };
        let answer = async {
            match Request::decode(request) {
                Ok(request) => inner.desk.answer(request).await,
                Err(_) => Answer::Refused(Refusal::Malformed),
            }
        };
        let Ok(answer) = timeout(inner.config.patience, answer).await else {
            return Err(starlane_core::Refusal::new(Code::Timeout, "the desk took too long"));
        };
        let bytes = answer.encode().map_err(|error| {
            starlane_core::Refusal::new(Code::Internal, format!("the answer is too long: {error}"))
        })?;
        Ok(bytes.into())
    }

    /// Serves one connection to its end, and closes it.
    pub async fn serve(&self, connection: Connection) {
        let inner = &*self.inner;
        let shown = certificates(&connection);
        let member = inner.identity.shared().member(&shown, Ended::Renewable).ok();
        let who = match member {
            Some(leaf) => Who::Member(leaf.name.peer.name),
            None => Who::Address(network(connection.remote_address().ip())),
        };
        let asked = inner.rates.lock().ask(who, Instant::now().into_std());
        let place = inner.places.try_acquire();
        let (Ok(()), Ok(_place)) = (asked, place) else {
            let wait = asked.err().unwrap_or(inner.config.every);
            let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
            connection.close(BUSY, &wait_ms.to_le_bytes());
            return;
        };
        // Whoever is too slow, or breaks off, is not answered.
        let _ = timeout(inner.config.patience, inner.exchange(&connection, &shown)).await;
        connection.close(DONE, b"");
    }
}

impl<D: Desk> Inner<D> {
    async fn exchange(
        &self,
        connection: &Connection,
        shown: &[CertificateDer<'static>],
    ) -> Result<(), Broken> {
        let (mut send, mut receive) = connection.accept_bi().await?;
        let answer = match receive.read_to_end(REQUEST_BYTES_MAX).await {
            Ok(bytes) => self.answer(&bytes, shown).await,
            Err(quinn::ReadToEndError::TooLong) => Answer::Refused(Refusal::Malformed),
            Err(quinn::ReadToEndError::Read(_)) => return Err(Broken),
        };
        let answer = answer.encode().map_err(|_| Broken)?;
        send.write_all(&answer).await.map_err(|_| Broken)?;
        send.finish().map_err(|_| Broken)?;
        // Closing throws away what the other end has not yet received.
        send.stopped().await.map_err(|_| Broken)?;
        Ok(())
    }

    /// Tells the authority to a member that serves the registry. That it has the key of what it showed, the handshake proved.
    fn hand_over(&self, shown: &[CertificateDer<'static>]) -> Answer {
        let leaf = match self.identity.shared().member(shown, Ended::Refused) {
            Ok(leaf) if leaf.name.peer.role == Role::Registry => leaf,
            Err(Refused::Revoked) => return Answer::Refused(Refusal::Revoked),
            Ok(_) | Err(_) => return Answer::Refused(Refusal::CertificateRefused),
        };
        match self.desk.authority() {
            Some(authority) => {
                tracing::info!(name = %leaf.name.peer.name, "a node that serves the registry is told the authority");
                Answer::Authority(authority)
            }
            None => Answer::Refused(Refusal::OutOfReach),
        }
    }

    async fn answer(&self, bytes: &[u8], shown: &[CertificateDer<'static>]) -> Answer {
        match Request::decode(bytes) {
            Err(_) => Answer::Refused(Refusal::Malformed),
            // Whoever renews shows the same certificate in the handshake.
            Ok(Request::Renew(renew))
                if shown.first().is_none_or(|shown| shown[..] != renew.certificate[..]) =>
            {
                Answer::Refused(Refusal::CertificateRefused)
            }
            Ok(Request::Authority) => self.hand_over(shown),
            Ok(request) => self.desk.answer(request).await,
        }
    }
}

impl<D> Clone for Service<D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

/// The connection ended before all was said; there is nobody left to tell.
struct Broken;

impl From<ConnectionError> for Broken {
    fn from(_: ConnectionError) -> Self {
        Broken
    }
}

/// What the other end of a connection showed.
pub(super) fn certificates(connection: &Connection) -> Vec<CertificateDer<'static>> {
    let shown = connection.peer_identity().map(<Box<dyn Any>>::downcast);
    shown.and_then(Result::ok).map(|shown| *shown).unwrap_or_default()
}

/// The address of an IPv4 host, or of a network of IPv6: who has one of its addresses has all.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            std::net::Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use starlane_core::Generation;

    use super::*;
    use crate::join::{Admission, Admitted, Applicant, Denied, Enrolment, MemoryTokens, Renew};
    use crate::proof::{first_node, member};

    /// Members in whose eyes everybody is one.
    struct Everybody;

    impl Admission for Everybody {
        async fn may_join(&self, _: &Applicant) -> Result<(), Denied> {
            Ok(())
        }

        async fn admit(&self, _: &Applicant) -> Result<Admitted, Denied> {
            Ok(Admitted::default())
        }

        async fn stay(&self, _: &Applicant) -> Result<Admitted, Denied> {
            Ok(Admitted::default())
        }
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_for_who_shows_it_and_for_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (first, authority) = first_node(&at("first"), "first").unwrap();
        let [(a, _), (b, _)] = ["a", "b"].map(|name| member(&at(name), &authority, name).unwrap());
        let desk = Enrolment::new(first.clone(), authority.clone(), MemoryTokens::default(), Everybody);
        let service = Service::new(Config::default(), first, desk);
        let ask = async |certificate: &Identity, key: &Identity, shown: &[&Identity]| {
            let request = Request::Renew(Renew {
                certificate: certificate.certificate().to_vec(),
                generation: Generation(1),
                request: key.shared().key().request().unwrap(),
            });
            let shown: Vec<_> = shown.iter().map(|identity| identity.certificate()).collect();
            service.inner.answer(&request.encode().unwrap(), &shown).await
        };
        let before = authority.issued();
        let refused = Answer::Refused(Refusal::CertificateRefused);
        assert_eq!(ask(&a, &a, &[]).await, refused, "without showing it");
        assert_eq!(ask(&a, &a, &[&b]).await, refused, "showing another's");
        assert_eq!(ask(&a, &b, &[&a]).await, refused, "for another's key");
        let garbage = service.inner.answer(b"", &[a.certificate()]).await;
        assert_eq!(garbage, Answer::Refused(Refusal::Malformed));
        assert_eq!(authority.issued(), before);
        assert!(matches!(ask(&a, &a, &[&a]).await, Answer::Member { .. }));
    }

    #[test]
    fn the_addresses_of_one_network_count_as_one() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:3::4"), network("2001:db8:1:2:ffff::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
    }
}
