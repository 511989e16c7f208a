//! Joins, and renews.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectError, Connection, ConnectionError, Endpoint, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use starlane_core::{Key, NodeName, Role};
use tokio::time::timeout;

use super::service::{BUSY, DONE, certificates};
use super::wire::ANSWER_BYTES_MAX;
use super::{Answer, Contact, Handover, Join, JoinError, Renew, Request};
use crate::identity::{
    self, Authority, Ended, Identity, Leaf, Newcomer, Refused, Revocations, Trust, UnixSeconds, member,
    newcomer, pinned,
};
use crate::token::Token;
use crate::{Credentials, Peer};

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(6);
/// How long connecting, and then asking, may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// A name has to be given to TLS; nobody is asked for it, and nobody is sent it.
const NO_NAME: &str = "starlane";

/// What a node wants to be.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its name.
    pub name: NodeName,
    /// Its role; `None` takes the token's.
    pub role: Option<Role>,
    /// What it says of itself: at most 64 labels of at most 255 bytes each.
    pub labels: BTreeMap<Key, String>,
}

/// What a node is given when it joins.
#[derive(Debug, Clone)]
pub struct Joined {
    certificate: CertificateDer<'static>,
    trust: Trust,
    peer: Peer,
    contacts: Vec<Contact>,
}

impl Joined {
    /// As what it was enrolled.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Where to go from here: the nodes of the registry, and where they can be dialled.
    pub fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authorities of the mesh.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Makes the newcomer that joined a member, and keeps that in its folder.
    ///
    /// # Errors
    /// `Io`, `Tls`, and `Refused` for a newcomer that did not join with this.
    pub fn identity(self, newcomer: Newcomer) -> Result<Identity, identity::Error> {
        newcomer.certified(self.certificate, self.trust)
    }
}

/// Joins the mesh of a token at one of its nodes. Nothing is sent before the other end is known to be certified by the
/// authority that the token pins.
///
/// # Errors
/// Why the node is no member; each says what to do next.
pub async fn join(
    endpoint: &Endpoint,
    address: SocketAddr,
    token: &Token,
    wish: &Wish,
    newcomer: &Newcomer,
) -> Result<Joined, JoinError> {
    let now = || (newcomer.clock())();
    let request = Request::Join(Join {
        token: token.id().bytes(),
        secret: token.secret().bytes(),
        name: wish.name.clone(),
        role: wish.role,
        labels: wish.labels.clone(),
        generation: newcomer.generation(),
        request: newcomer.node_key().request()?,
    });
    let (config, verifier) =
        self::newcomer(token.pin(), newcomer.clock().clone()).map_err(identity::Error::Tls)?;
    let (shown, answer) = ask(endpoint, address, Arc::new(config), &request)
        .await
        .map_err(|failure| failure.into_error(address, verifier.refused()))?;
    let wrong = |why| JoinError::WrongAnswer { address, why };
    let (_, pinned) = pinned(&shown, token.pin(), now()).map_err(wrong)?;
    match answer {
        Answer::Refused(refusal) => Err(JoinError::of_refusal(refusal, address, &wish.name)),
        Answer::Authority(_) => Err(JoinError::NotUnderstood { address }),
        Answer::Member { certificate, trust, contacts } => {
            let certificate = CertificateDer::from(certificate);
            let (leaf, trust) = check(&certificate, trust, &pinned, now()).map_err(wrong)?;
            let peer = leaf.name.peer;
            let is_right = leaf.key == newcomer.key()
                && peer.name == wish.name
                && wish.role.is_none_or(|role| role == peer.role);
            if !is_right {
                return Err(wrong(Refused::Name));
            }
            Ok(Joined { certificate, trust, peer, contacts })
        }
    }
}

/// Gets the next certificate of a member from one of the nodes of its mesh, and takes it over. The answer is where the
/// nodes of the registry can be dialled now.
///
/// # Errors
/// Why it has none; its certificate until now is what it was.
pub async fn renew(
    endpoint: &Endpoint,
    address: SocketAddr,
    identity: &Identity,
) -> Result<Vec<Contact>, JoinError> {
    let request = renewal(identity)?;
    let (_, answer) = ask(endpoint, address, identity.renewal(), &request)
        .await
        .map_err(|failure| failure.into_error(address, None))?;
    take_over(answer, address, identity).await
}

/// Asks a node for the authority of its mesh, and keeps it beside the identity. It is believed when its key is that of an
/// authority that the member trusts already.
///
/// # Errors
/// Why it is not told; [`JoinError::CertificateRefused`] to a member whose certificate does not say that it serves the
/// registry, and [`JoinError::OutOfReach`] by a node that does not have it.
pub async fn authority(
    endpoint: &Endpoint,
    address: SocketAddr,
    identity: &Identity,
) -> Result<Authority, JoinError> {
    let (_, answer) = ask(endpoint, address, identity.renewal(), &Request::Authority)
        .await
        .map_err(|failure| failure.into_error(address, None))?;
    match answer {
        Answer::Authority(Handover(text)) => {
            let identity = identity.clone();
            let keep = move || identity.keep_authority(&text);
            match tokio::task::spawn_blocking(keep).await {
                Ok(Ok(authority)) => Ok(authority),
                Ok(Err(identity::Error::Refused(why))) => Err(JoinError::WrongAnswer { address, why }),
                Ok(Err(error)) => Err(error.into()),
                // The runtime ends.
                Err(_) => Err(JoinError::Lost { address }),
            }
        }
        Answer::Refused(refusal) => Err(JoinError::of_refusal(refusal, address, &identity.me().name)),
        Answer::Member { .. } => Err(JoinError::NotUnderstood { address }),
    }
}

/// What a member asks to stay one.
pub(super) fn renewal(identity: &Identity) -> Result<Request, JoinError> {
    Ok(Request::Renew(Renew {
        certificate: identity.certificate().to_vec(),
        generation: identity.me().generation,
        request: identity.shared().key().request()?,
    }))
}

/// Takes over what a renewal was answered with, by who was asked at an address.
pub(super) async fn take_over(
    answer: Answer,
    address: SocketAddr,
    identity: &Identity,
) -> Result<Vec<Contact>, JoinError> {
    match answer {
        Answer::Refused(refusal) => Err(JoinError::of_refusal(refusal, address, &identity.me().name)),
        Answer::Authority(_) => Err(JoinError::NotUnderstood { address }),
        Answer::Member { certificate, trust, contacts } => {
            let wrong = |why| JoinError::WrongAnswer { address, why };
            let trust = Trust::new(trust.into_iter().map(CertificateDer::from).collect()).map_err(wrong)?;
            let identity = identity.clone();
            let adopt = move || identity.adopt(CertificateDer::from(certificate), trust);
            match tokio::task::spawn_blocking(adopt).await {
                Ok(Ok(())) => Ok(contacts),
                Ok(Err(identity::Error::Refused(why))) => Err(wrong(why)),
                Ok(Err(error)) => Err(error.into()),
                // The runtime ends.
                Err(_) => Err(JoinError::Lost { address }),
            }
        }
    }
}

/// What an answer says: a certificate by the pinned authority, and the authorities that it trusted when it signed.
fn check(
    certificate: &CertificateDer<'static>,
    trust: Vec<Vec<u8>>,
    pinned: &Trust,
    now: UnixSeconds,
) -> Result<(Leaf, Trust), Refused> {
    let certificates = std::slice::from_ref(certificate);
    let leaf = member(certificates, pinned, &Revocations::default(), now, Ended::Refused)?;
    let trust = Trust::new(trust.into_iter().map(CertificateDer::from).collect())?;
    leaf.check_trust(&trust)?;
    Ok((leaf, trust))
}

/// Where asking failed.
enum Failure {
    /// The connection was not made.
    Connecting(Option<ConnectionError>),
    /// It broke.
    Asking(Option<ConnectionError>),
    /// It was not answered in time.
    Late,
    /// What came is no answer.
    NoAnswer,
    /// The request is too long.
    TooLong,
}

async fn ask(
    endpoint: &Endpoint,
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    request: &Request,
) -> Result<(Vec<CertificateDer<'static>>, Answer), Failure> {
    let request = request.encode().map_err(|_| Failure::TooLong)?;
    let connecting = endpoint.connect_with(quic(config)?, address, NO_NAME);
    let connecting = connecting.map_err(|_: ConnectError| Failure::Connecting(None))?;
    let connecting = timeout(PATIENCE, connecting).await.map_err(|_| Failure::Connecting(None))?;
    let connection = connecting.map_err(|error| Failure::Connecting(Some(error)))?;
    // The other end is verified now.
    let shown = certificates(&connection);
    let answer = timeout(PATIENCE, exchange(&connection, &request)).await;
    // Asked before this end closes it too.
    let reason = connection.close_reason();
    connection.close(DONE, b"");
    match answer {
        Ok(Some(bytes)) => Ok((shown, Answer::decode(&bytes).map_err(|_| Failure::NoAnswer)?)),
        Ok(None) => Err(Failure::Asking(reason)),
        Err(_) => Err(Failure::Late),
    }
}

fn quic(config: Arc<rustls::ClientConfig>) -> Result<quinn::ClientConfig, Failure> {
    // Never happens: the suite that QUIC begins with is among those of our provider.
    let crypto = QuicClientConfig::try_from(config).map_err(|_| Failure::Connecting(None))?;
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(IDLE.try_into().ok());
    // Nobody opens streams to who joins.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// The answer's bytes; `None` when the connection broke.
async fn exchange(connection: &Connection, request: &[u8]) -> Option<Vec<u8>> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    send.write_all(request).await.ok()?;
    send.finish().ok()?;
    receive.read_to_end(ANSWER_BYTES_MAX).await.ok()
}

/// The alerts of TLS that tell something to who gets them.
const CERTIFICATE_ALERTS: std::ops::RangeInclusive<u64> = 42..=51;
const ALERT_REVOKED: u64 = 44;
const ALERT_EXPIRED: u64 = 45;

/// The alert of TLS that an error of QUIC stands for.
fn alert(code: quinn::TransportErrorCode) -> Option<u64> {
    let code = u64::from(code);
    (0x100..0x200).contains(&code).then_some(code & 0xff)
}

impl Failure {
    /// What a failure means. `refused` tells why the other end's certificate was refused, if that is known better than by
    /// the alert that was sent.
    fn into_error(self, address: SocketAddr, refused: Option<Refused>) -> JoinError {
        match self {
            Failure::Connecting(None | Some(ConnectionError::TimedOut)) => JoinError::Unreachable { address },
            Failure::Connecting(Some(ConnectionError::TransportError(error))) => {
                let of_alert = match alert(error.code) {
                    Some(ALERT_REVOKED) => Some(Refused::Revoked),
                    Some(ALERT_EXPIRED) => Some(Refused::Expired),
                    Some(alert) if CERTIFICATE_ALERTS.contains(&alert) => Some(Refused::Untrusted),
                    _ => None,
                };
                match refused.or(of_alert) {
                    Some(Refused::Untrusted | Refused::OtherMesh) => JoinError::OtherMesh { address },
                    Some(why) => JoinError::NotTrusted { address, why },
                    None => JoinError::NoJoining { address },
                }
            }
            Failure::Connecting(Some(ConnectionError::ApplicationClosed(close)))
            | Failure::Asking(Some(ConnectionError::ApplicationClosed(close)))
                if close.error_code == BUSY =>
            {
                let wait_ms = close.reason.as_ref().try_into().map_or(1_000, u32::from_le_bytes);
                JoinError::Busy { address, retry_after: Duration::from_millis(wait_ms.into()) }
            }
            Failure::Connecting(Some(_)) => JoinError::NoJoining { address },
            Failure::Asking(Some(ConnectionError::ConnectionClosed(close))) => {
                match alert(close.error_code) {
                    Some(ALERT_REVOKED) => JoinError::Revoked,
                    Some(alert) if CERTIFICATE_ALERTS.contains(&alert) => JoinError::CertificateRefused,
                    _ => JoinError::Lost { address },
                }
            }
            Failure::Asking(_) | Failure::Late => JoinError::Lost { address },
            Failure::NoAnswer | Failure::TooLong => JoinError::NotUnderstood { address },
        }
    }
}
