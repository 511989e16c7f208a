//! Only members are let in, and only members are believed.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;

use mesh::identity::{
    ALPN_JOIN, ALPN_LINK, Authority, Identity, RENEWABLE_SECONDS, SKEW_SECONDS, UnixSeconds,
};
use mesh::proof::{Door, is_welcome, knock, member, shown};
use mesh::{Credentials, Peer};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Endpoint, VarInt};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use starlane_core::Generation;

use crate::forged::{Impostor, Shows, client, right, stolen, uri};
use crate::world::{World, endpoint};

const DAY: i64 = 24 * 60 * 60;
const SKEW: i64 = SKEW_SECONDS as i64;

/// A certificate, and what is wrong with it.
struct Forgery {
    wrong: &'static str,
    shows: Shows,
}

/// A mesh, a right certificate beside its members', and many wrong ones.
fn forgeries(world: &World) -> (Forgery, Vec<Forgery>) {
    let (issuer, root) = stolen(&world.path("first"));
    let other = world.path("other");
    Authority::open_or_create(&other, world.hands.now()).unwrap();
    let (other_issuer, other_root) = stolen(&other);
    let (known, _) = member(&world.path("known"), &world.authority, "known").unwrap();
    let known_key =
        KeyPair::from_pem(&std::fs::read_to_string(world.path("known/node.key")).unwrap()).unwrap();
    let known_issuer = Issuer::from_ca_cert_der(&known.certificate(), known_key).unwrap();
    let pretended = Issuer::from_ca_cert_der(&root, KeyPair::generate().unwrap()).unwrap();

    let name = uri(&known);
    let key = KeyPair::generate().unwrap();
    let now = || right(&name, -DAY / 2..DAY / 2);
    let with = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = now();
        change(&mut params);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Shows::new(vec![certificate.into(), root.clone()], &key)
    };
    let lasting = |lasts| {
        let certificate = right(&name, lasts).signed_by(&key, &issuer).unwrap();
        Shows::new(vec![certificate.into(), root.clone()], &key)
    };
    let called = |name: &str| {
        let name = SanType::URI(name.try_into().unwrap());
        with(&move |params| params.subject_alt_names = vec![name.clone()])
    };
    let used_for = |uses: &[ExtendedKeyUsagePurpose]| {
        let uses = uses.to_vec();
        with(&move |params| params.extended_key_usages = uses.clone())
    };
    let by = |issuer: &Issuer<'_, KeyPair>, behind: &[&CertificateDer<'static>]| {
        let certificate = now().signed_by(&key, issuer).unwrap();
        let chain = [certificate.into()].into_iter().chain(behind.iter().map(|der| (*der).clone()));
        Shows::new(chain.collect(), &key)
    };
    let dns = SanType::DnsName("first".try_into().unwrap());
    let uri = now().subject_alt_names.remove(0);
    let two = [uri.clone(), uri.clone()];
    let beside = [uri, dns.clone()];
    let mut cut = with(&|_| {}).0.cert[0].to_vec();
    cut.truncate(cut.len() - 1);
    let mut longer = with(&|_| {}).0.cert[0].to_vec();
    longer.push(0);
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let on_p384 = now().signed_by(&p384, &issuer).unwrap();
    let cluster = world.first.cluster().to_string();
    let self_signed = now().self_signed(&key).unwrap();

    let wrong = vec![
        ("signed by itself", Shows::new(vec![self_signed.into(), root.clone()], &key)),
        ("of another authority", by(&other_issuer, &[&other_root])),
        ("of another authority, with ours behind it", by(&other_issuer, &[&root, &other_root])),
        ("of another key under our authority's name", by(&pretended, &[&root])),
        ("expired", lasting(-DAY..-SKEW - 5)),
        ("not valid yet", lasting(SKEW + 60..DAY)),
        ("without a name", with(&|params| params.subject_alt_names.clear())),
        ("with a host's name", with(&|params| params.subject_alt_names = vec![dns.clone()])),
        ("with a host's name beside ours", with(&|params| params.subject_alt_names = beside.to_vec())),
        ("with two names", with(&|params| params.subject_alt_names = two.to_vec())),
        ("with a name of another scheme", called(&name.replace("starlane://", "spiffe://"))),
        ("with the name of no node", called(&name.replace("/node/", "/user/"))),
        ("with the name of an authority", called(&format!("starlane://{cluster}"))),
        ("with a role that there is not", called(&name.replace("/leaf?", "/root?"))),
        ("of another mesh", called(&name.replace(&cluster, &"0".repeat(32)))),
        ("for servers alone", used_for(&[ExtendedKeyUsagePurpose::ServerAuth])),
        ("for clients alone", used_for(&[ExtendedKeyUsagePurpose::ClientAuth])),
        ("for signing code", used_for(&[ExtendedKeyUsagePurpose::CodeSigning])),
        ("for nothing", used_for(&[])),
        ("an authority's", with(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("signed by a member", by(&known_issuer, &[&known.certificate(), &root])),
        ("cut", Shows::new(vec![cut.into(), root.clone()], &key)),
        ("longer than it says", Shows::new(vec![longer.into(), root.clone()], &key)),
        ("no certificate at all", Shows::new(vec![b"certificate".to_vec().into()], &key)),
        ("another's, without its key", Shows::new(vec![known.certificate(), root.clone()], &key)),
        ("on another curve", Shows::new(vec![on_p384.into(), root.clone()], &p384)),
    ];
    let wrong = wrong.into_iter().map(|(wrong, shows)| Forgery { wrong, shows }).collect();
    (Forgery { wrong: "nothing", shows: with(&|_| {}) }, wrong)
}

#[tokio::test]
async fn only_members_get_in() {
    let world = World::new();
    let (right, forgeries) = forgeries(&world);
    let (door, endpoint) = (&world.door, &world.endpoint);
    assert!(forgeries.len() >= 26, "a run that tries little proves nothing");
    for Forgery { wrong, shows } in forgeries {
        for protocol in [ALPN_LINK, ALPN_JOIN] {
            let end =
                knock(endpoint, door.address(), client(Some(shows.clone()), &[protocol])).await.unwrap();
            // Who may still renew gets through TLS, as does who finds that it can show nothing; and not further.
            let gets_further = ["expired", "on another curve"].contains(&wrong);
            let is_closed_by_tls = matches!(end, quinn::ConnectionError::ConnectionClosed(_));
            assert!(is_closed_by_tls != gets_further && !is_welcome(&end), "{wrong}: {end}");
        }
        assert_eq!((door.links(), door.bytes()), (0, 0), "with a certificate that is {wrong}");
    }
    let end = knock(endpoint, door.address(), client(None, &[ALPN_LINK])).await.unwrap();
    assert!(!is_welcome(&end), "without a certificate: {end}");
    for protocols in [&[b"h3".as_slice()] as &[&[u8]], &[b"starlane-mesh/2"], &[b"starlane-mesh"], &[]] {
        let shows = Some(right.shows.clone());
        let end = knock(endpoint, door.address(), client(shows, protocols)).await.unwrap();
        assert!(!is_welcome(&end), "{protocols:?}: {end}");
    }
    not_quic(door);
    assert_eq!((door.links(), door.bytes()), (0, 0));
    // What was refused was refused for what was wrong with it.
    let end = knock(endpoint, door.address(), client(Some(right.shows), &[ALPN_LINK])).await.unwrap();
    assert!(is_welcome(&end), "{end}");
    assert_eq!((door.links(), door.bytes()), (1, "let me in".len() as u64));
}

/// TLS without QUIC, garbage, and what looks like the beginning of QUIC.
fn not_quic(door: &Door) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let config = Arc::new(client(None, &[ALPN_LINK]));
    let name = rustls::pki_types::ServerName::try_from("starlane").unwrap();
    let mut tls = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    socket.send_to(&hello, door.address()).unwrap();
    assert!(std::net::TcpStream::connect(door.address()).is_err(), "nobody listens but over QUIC");
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for length in (0..1_400).step_by(7) {
        let mut datagram: Vec<u8> = (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        // Half of them as QUIC's own.
        if let Some(first) = datagram.first_mut().filter(|_| length % 2 == 0) {
            *first |= 0xc0;
        }
        socket.send_to(&datagram, door.address()).unwrap();
    }
}

/// What a link does when it dials: it looks who is there before it says anything.
async fn dial(identity: &Identity, endpoint: &Endpoint, impostor: &Impostor) -> Option<Peer> {
    let crypto = QuicClientConfig::try_from(identity.client()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connection = endpoint.connect_with(config, impostor.address, "nobody").unwrap().await.ok()?;
    let peer = identity.peer(&shown(&connection))?;
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(b"a secret").await.unwrap();
    stream.finish().unwrap();
    stream.stopped().await.unwrap();
    connection.close(VarInt::from_u32(0), b"");
    Some(peer)
}

#[tokio::test]
async fn only_members_are_believed() {
    let world = World::new();
    let (right, forgeries) = forgeries(&world);
    assert!(forgeries.len() >= 26, "a run that tries little proves nothing");
    for Forgery { wrong, shows } in forgeries {
        let mut impostor = Impostor::open(shows, &[ALPN_LINK]);
        assert_eq!(dial(&world.first, &world.endpoint, &impostor).await, None, "{wrong}");
        assert_eq!(impostor.told().await, 0, "{wrong}");
    }
    for protocols in [&[b"h3".as_slice()] as &[&[u8]], &[ALPN_JOIN], &[]] {
        let mut impostor = Impostor::open(right.shows.clone(), protocols);
        assert_eq!(dial(&world.first, &world.endpoint, &impostor).await, None, "{protocols:?}");
        assert_eq!(impostor.told().await, 0, "{protocols:?}");
    }
    let mut impostor = Impostor::open(right.shows, &[ALPN_LINK]);
    let peer = dial(&world.first, &world.endpoint, &impostor).await.unwrap();
    assert_eq!(peer.name.as_str(), "known");
    assert_eq!(impostor.told().await, "a secret".len() as u64);
}

#[tokio::test]
async fn a_certificate_that_ended_gets_no_link() {
    let world = World::new();
    let late = world.member("late").await;
    let (_, ends) = late.validity();
    let authority = &world.authority;
    for (after, expected) in [
        (0, true),
        (SKEW_SECONDS, true),
        (SKEW_SECONDS + 1, false),
        (RENEWABLE_SECONDS, false),
        (RENEWABLE_SECONDS + 1, false),
    ] {
        world.hands.forward(ends.plus(after).since(world.hands.now()));
        world.first.renew_from(authority).unwrap();
        let before = (world.door.links(), world.door.bytes());
        let end = knock(&world.endpoint, world.door.address(), (*late.client()).clone()).await.unwrap();
        assert_eq!(is_welcome(&end), expected, "{after} s after its end: {end}");
        let grew = (world.door.links() - before.0, world.door.bytes() - before.1);
        assert_eq!(grew, if expected { (1, 9) } else { (0, 0) });
        let peer = world.first.peer(&[late.certificate()]);
        assert_eq!(peer.is_some(), expected);
    }
    // Nor is anybody believed who shows one: there is nothing to renew at such a node.
    let overslept = Door::open(&late).unwrap();
    world.first.renew_from(authority).unwrap();
    let end = knock(&world.endpoint, overslept.address(), (*world.first.client()).clone()).await.unwrap();
    assert!(matches!(end, quinn::ConnectionError::TransportError(_)), "{end}");
    assert_eq!((overslept.links(), overslept.bytes()), (0, 0));
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let world = World::new();
    let (fast, peer) = {
        let now = world.hands.now();
        let clock = Arc::new(move || UnixSeconds(now.0 + SKEW_SECONDS));
        let at = mesh::identity::Config { folder: world.path("fast"), clock };
        let name = "fast".parse().unwrap();
        let fast = Identity::of_authority(at, &world.authority, name, starlane_core::Role::Relay).unwrap();
        let peer = fast.me();
        (fast, peer)
    };
    assert_eq!(world.first.peer(&[fast.certificate()]), Some(peer));
    assert_eq!(fast.peer(&[world.first.certificate()]), Some(world.first.me()));
    let faster = right(&uri(&fast), SKEW + 30..DAY);
    let (issuer, _) = stolen(&world.path("first"));
    let faster = faster.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    assert_eq!(world.first.peer(&[faster.into()]), None);
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let world = World::new();
    let joined = world.member("edge-1").await;
    let door = Door::open(&joined).unwrap();
    for (from, door) in [(&joined, &world.door), (&world.first, &door)] {
        let end = knock(&endpoint(), door.address(), (*from.client()).clone()).await.unwrap();
        assert!(is_welcome(&end), "{end}");
    }
    let seen = world.first.peer(&[joined.certificate()]).unwrap();
    assert_eq!((seen.name.as_str(), seen.generation), ("edge-1", Generation(1)));
    assert_eq!(seen, joined.me());
    assert_eq!(world.first.peer(&[]), None, "without a certificate nobody is anybody");
}
