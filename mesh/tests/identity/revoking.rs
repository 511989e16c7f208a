//! Who is thrown out stays out.

use std::io::{Read, Write};
use std::sync::Arc;

use mesh::identity::{Identity, Revocations};
use mesh::join::JoinError;
use mesh::proof::{Door, is_welcome, knock, revocation};
use mesh::{Credentials, Peer};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, HandshakeKind, ServerConnection};
use starlane_core::Generation;

use crate::world::World;

fn revoked(peer: &Peer) -> Revocations {
    [(peer.name.clone(), peer.generation)].into_iter().collect()
}

#[tokio::test]
async fn a_revoked_node_never_gets_in_again() {
    check_revocation(50).await;
}

#[tokio::test]
#[ignore = "the full form: cargo test -p mesh --release -- --ignored"]
async fn a_revoked_node_never_gets_in_again_1000_times() {
    check_revocation(1_000).await;
}

async fn check_revocation(tries: u64) {
    let folder = tempfile::tempdir().unwrap();
    let found = revocation(folder.path(), tries).await.unwrap();
    println!("{found:?}");
    assert_eq!((found.before, found.tries, found.accepted, found.told), (2, tries, 0, 1));
}

#[tokio::test]
async fn links_are_told_and_both_ends_refuse() {
    let world = World::new();
    let edge = world.member("edge").await;
    let door = Door::open(&edge).unwrap();
    let mut changes = world.first.changes();
    changes.borrow_and_update();
    let peer = world.first.peer(&[edge.certificate()]).unwrap();
    assert!(!world.first.is_revoked(&peer));

    world.first.set_revoked(revoked(&peer)).unwrap();
    assert!(changes.has_changed().unwrap(), "whoever holds a link is told");
    assert!(world.first.is_revoked(&peer));
    assert_eq!(world.first.peer(&[edge.certificate()]), None);
    let end = knock(&world.endpoint, world.door.address(), (*edge.client()).clone()).await.unwrap();
    assert!(matches!(end, quinn::ConnectionError::ConnectionClosed(_)), "as a client: {end}");
    let end = knock(&world.endpoint, door.address(), (*world.first.client()).clone()).await.unwrap();
    assert!(matches!(end, quinn::ConnectionError::TransportError(_)), "as a server: {end}");
    assert_eq!((world.door.links(), door.links()), (0, 0));

    changes.borrow_and_update();
    world.first.set_revoked(revoked(&peer)).unwrap();
    assert!(!changes.has_changed().unwrap(), "nothing changed");
    world.first.set_revoked(Revocations::default()).unwrap();
    let end = knock(&world.endpoint, world.door.address(), (*edge.client()).clone()).await.unwrap();
    assert!(is_welcome(&end), "it was revoked alone for what it was refused: {end}");
}

#[tokio::test]
async fn a_revoked_node_is_not_renewed_and_comes_back_by_a_token_alone() {
    let world = World::new();
    let edge = world.member("edge").await;
    world.first.set_revoked(revoked(&edge.me())).unwrap();
    let issued = world.authority.issued();
    assert!(matches!(world.renew(&edge).await, Err(JoinError::Revoked)));
    assert_eq!(world.authority.issued(), issued);
    // With a later life of its own counting neither.
    drop(edge);
    let edge = Identity::open(world.at("edge")).unwrap().unwrap();
    assert_eq!((edge.me().generation, edge.certified()), (Generation(2), Generation(1)));
    assert!(matches!(world.renew(&edge).await, Err(JoinError::Revoked)));
    assert_eq!(world.authority.issued(), issued);

    let edge = world.member("edge").await;
    assert!(edge.certified() > Generation(1));
    assert_eq!(world.first.peer(&[edge.certificate()]), Some(edge.me()));
    let all: Revocations = [("edge".parse().unwrap(), Generation(u64::MAX))].into_iter().collect();
    world.first.set_revoked(all).unwrap();
    let token = world.token(|record| record);
    let refused = world.join(&token, "edge").await.map(|_| ());
    assert!(matches!(refused, Err(JoinError::Revoked)), "{refused:?}");
    assert_eq!(world.authority.issued(), issued + 1);
}

#[tokio::test]
async fn who_is_let_in_again_comes_with_a_life_that_is_not_revoked() {
    let world = World::new();
    let name = "edge".parse().unwrap();
    world.first.set_revoked([(name, Generation(5))].into_iter().collect()).unwrap();
    let edge = world.member("edge").await;
    assert_eq!((edge.certified(), edge.me().generation), (Generation(6), Generation(6)));
    assert_eq!(world.first.peer(&[edge.certificate()]), Some(edge.me()));
    let again = Identity::open(world.at("edge")).unwrap().unwrap();
    assert_eq!(again.me().generation, Generation(7));
}

#[tokio::test]
async fn revocations_hold_over_a_restart() {
    let world = World::new();
    let edge = world.member("edge").await;
    world.first.set_revoked(revoked(&edge.me())).unwrap();
    let again = Identity::open(world.at("first")).unwrap().unwrap();
    assert!(again.is_revoked(&edge.me()));
    assert_eq!(again.peer(&[edge.certificate()]), None);
}

/// A whole handshake in memory; the kind of it as the server sees it.
fn handshake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<HandshakeKind, rustls::Error> {
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() && server.read_tls(&mut wire).unwrap() > 0 {
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() && client.read_tls(&mut wire).unwrap() > 0 {
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking());
    Ok(server.handshake_kind().unwrap())
}

#[tokio::test]
async fn no_session_is_resumed() {
    let world = World::new();
    let edge = world.member("edge").await;
    let mut config = (*edge.client()).clone();
    config.resumption = Resumption::in_memory_sessions(256);
    config.enable_early_data = true;
    config.enable_sni = true;
    let config = Arc::new(config);
    let connect = || {
        let name = ServerName::try_from("starlane").unwrap();
        let mut client = ClientConnection::new(config.clone(), name).unwrap();
        assert!(client.early_data().is_none(), "nothing is said before the handshake");
        let mut server = ServerConnection::new(world.first.server()).unwrap();
        let kind = handshake(&mut client, &mut server)?;
        client.writer().write_all(b"let me in").unwrap();
        handshake(&mut client, &mut server)?;
        let mut told = [0; 16];
        let told = server.reader().read(&mut told).unwrap_or(0);
        assert_eq!(client.tls13_tickets_received(), 0);
        Ok::<_, rustls::Error>((kind, told))
    };
    for _ in 0..3 {
        assert_eq!(connect(), Ok((HandshakeKind::Full, 9)));
    }
    world.first.set_revoked(revoked(&edge.me())).unwrap();
    let tries = 100;
    let refused = (0..tries)
        .filter(|_| connect() == Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked)));
    assert_eq!(refused.count(), tries);
}
