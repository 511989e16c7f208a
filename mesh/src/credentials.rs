//! What links need to know of who may be whom.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use starlane_core::{Generation, NodeName, Role};
use tokio::sync::watch;

/// Who is at the other end of a link, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which node.
    pub name: NodeName,
    /// In which of its lives. As a certificate says it: in the one that it was issued for, which a node that started again
    /// may have left behind until it is renewed. A later one that the node itself tells is believed.
    pub generation: Generation,
    /// As what it was enrolled.
    pub role: Role,
}

/// What links need to know of who may be whom.
pub trait Credentials: Send + Sync + 'static {
    /// Who this node is.
    fn me(&self) -> Peer;
    /// How it accepts: offers the protocols of links and of joining, asks for a certificate and verifies what is given.
    /// Without tickets, resumption and early data.
    fn server(&self) -> Arc<rustls::ServerConfig>;
    /// How it dials a node that it knows as a member: with its certificate, the protocol of links alone, and without
    /// resumption.
    fn client(&self) -> Arc<rustls::ClientConfig>;
    /// Who shows these certificates; `None` for who is no member, or is revoked.
    fn peer(&self, certificates: &[CertificateDer<'_>]) -> Option<Peer>;
    /// Whether a member was thrown out.
    fn is_revoked(&self, peer: &Peer) -> bool;
    /// A secret that stays when the node starts again, and that nobody else has. With it, neighbours of a node that crashed
    /// and came back notice at its first word, else by the silence of the links that they still believe in.
    fn secret(&self) -> Option<[u8; 32]> {
        None
    }
    /// Changes whenever the certificate, the authorities or the revocations do.
    fn changes(&self) -> watch::Receiver<u64>;
}
