//! What a node keeps of itself, and how its certificate is renewed.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh::Credentials;
use mesh::identity::{
    Authority, Config, Error, Identity, Newcomer, RENEWABLE_SECONDS, Refused, Trust, UnixSeconds,
};
use mesh::join::JoinError;
use mesh::proof::{is_welcome, knock};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use starlane_core::{Generation, Role};
use tokio::time::Instant;

use crate::forged::{right, stolen, uri};
use crate::world::World;

const DAY: u64 = 24 * 60 * 60;

#[tokio::test]
async fn the_authority_is_made_once_and_is_one_file() {
    let world = World::new();
    let again = Authority::open(&world.path("first")).unwrap().unwrap();
    assert_eq!(again.pin(), world.authority.pin());
    assert_eq!(again.cluster(), world.first.cluster());
    assert_eq!(again.expires().since(world.hands.now()) / DAY, Authority::LIFE_DAYS);
    let copy = world.path("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(world.path("first/authority.pem"), copy.join("authority.pem")).unwrap();
    let copy = Authority::open_or_create(&copy, world.hands.now()).unwrap();
    assert_eq!(copy.pin(), world.authority.pin(), "a copy of the file is a backup");
    assert!(Authority::open(&world.path("nobody")).unwrap().is_none());
    let other = Authority::open_or_create(&world.path("other"), world.hands.now()).unwrap();
    assert_ne!((other.pin(), other.cluster()), (again.pin(), again.cluster()));
    #[cfg(unix)]
    for file in ["authority.pem", "node.key", "node.pem", "generation"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &str| fs::metadata(world.path(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("first"), mode(&format!("first/{file}"))), (0o700, 0o600), "{file}");
    }
    let shown = format!("{:?} {:?}", world.authority, world.first);
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test]
async fn broken_files_are_named_and_nothing_is_made_in_their_place() {
    let world = World::new();
    let folder = world.path("first");
    for (file, content) in [
        ("authority.pem", ""),
        ("authority.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("node.pem", ""),
        ("node.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("generation", "seven"),
        ("revoked", "edge"),
    ] {
        let kept = fs::read(folder.join(file)).ok();
        fs::write(folder.join(file), content).unwrap();
        let authority = Authority::open_or_create(&folder, world.hands.now());
        let error = match authority {
            Err(error) => error,
            Ok(authority) => {
                let name = "first".parse().unwrap();
                Identity::of_authority(world.at("first"), &authority, name, Role::Relay).unwrap_err()
            }
        };
        assert!(matches!(&error, Error::Broken { path, .. } if path.ends_with(file)), "{file}: {error}");
        assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), content);
        match kept {
            Some(kept) => fs::write(folder.join(file), kept).unwrap(),
            None => fs::remove_file(folder.join(file)).unwrap(),
        }
    }
    // Another's key beside the certificate.
    Newcomer::open(world.at("other")).unwrap();
    fs::copy(world.path("other/node.key"), folder.join("node.key")).unwrap();
    let error = Identity::open(world.at("first")).unwrap_err();
    assert!(matches!(&error, Error::Broken { path, .. } if path.ends_with("node.pem")), "{error}");
}

#[tokio::test]
async fn each_start_is_a_later_generation_of_the_same_node() {
    let world = World::new();
    let edge = world.member("edge").await;
    let (me, key) = (edge.me(), edge.key());
    assert_eq!(me.generation, Generation(1));
    let mut last = me.generation;
    for _ in 0..3 {
        let edge = Identity::open(world.at("edge")).unwrap().unwrap();
        assert_eq!((edge.me().name, edge.me().role, edge.key()), (me.name.clone(), me.role, key));
        assert!(edge.me().generation > last && edge.is_behind());
        last = edge.me().generation;
        // Until it is renewed, others see the life that it was certified for.
        let seen = world.first.peer(&[edge.certificate()]).unwrap();
        assert_eq!(seen.generation, edge.certified());
        let contacts = world.renew(&edge).await.unwrap();
        assert_eq!(contacts[0].name.as_str(), "first");
        assert!(!edge.is_behind());
        assert_eq!(world.first.peer(&[edge.certificate()]), Some(edge.me()));
    }
    fs::remove_file(world.path("edge/generation")).unwrap();
    let edge = Identity::open(world.at("edge")).unwrap().unwrap();
    assert!(edge.me().generation > last, "the certificate remembers it too");

    let name = "first".parse().unwrap();
    let first = Identity::of_authority(world.at("first"), &world.authority, name, Role::Relay).unwrap();
    assert!(first.me().generation > world.first.me().generation && !first.is_behind());
    let name = "second".parse().unwrap();
    let error = Identity::of_authority(world.at("first"), &world.authority, name, Role::Relay).unwrap_err();
    assert!(matches!(error, Error::OtherNode { .. }), "{error}");
}

/// Copies what a node keeps of itself.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_node_from_a_backup_goes_on_after_its_latest_life() {
    let world = World::new();
    drop(world.member("edge").await);
    copy(&world.path("edge"), &world.path("backup"));
    for _ in 0..3 {
        let edge = Identity::open(world.at("edge")).unwrap().unwrap();
        world.renew(&edge).await.unwrap();
    }
    let edge = Identity::open(world.at("backup")).unwrap().unwrap();
    assert_eq!(edge.me().generation, Generation(2), "as far as it can know");
    world.renew(&edge).await.unwrap();
    assert_eq!((edge.me().generation, edge.certified()), (Generation(4), Generation(4)));
    drop(edge);
    let edge = Identity::open(world.at("backup")).unwrap().unwrap();
    assert_eq!(edge.me().generation, Generation(5));
}

#[tokio::test]
async fn who_overslept_renews_by_the_same_key_for_thirty_days() {
    let world = World::new();
    let edge = world.member("edge").await;
    let (key, (_, ends)) = (edge.key(), edge.validity());
    let sleep_until = |at: UnixSeconds| {
        world.hands.forward(at.since(world.hands.now()));
        world.first.renew_from(&world.authority).unwrap();
    };
    sleep_until(ends.plus(RENEWABLE_SECONDS));
    let edge = Identity::open(world.at("edge")).unwrap().unwrap();
    assert_eq!(edge.key(), key);
    world.renew(&edge).await.unwrap();
    assert_eq!(edge.key(), key);
    let end = knock(&world.endpoint, world.door.address(), (*edge.client()).clone()).await.unwrap();
    assert!(is_welcome(&end), "{end}");
    let (_, ends) = edge.validity();
    sleep_until(ends.plus(RENEWABLE_SECONDS + 1));
    let refused = world.renew(&edge).await;
    assert!(matches!(refused, Err(JoinError::CertificateRefused)), "{refused:?}");
    // With a token it is a member again, as the same node.
    let again = world.member("edge").await;
    assert_eq!(again.key(), key);
    assert!(again.certified() > edge.certified());
}

#[tokio::test]
async fn who_was_removed_is_not_renewed() {
    let world = World::new();
    let edge = world.member("edge").await;
    world.members().remove(&edge.me().name);
    let issued = world.authority.issued();
    assert!(matches!(world.renew(&edge).await, Err(JoinError::CertificateRefused)));
    assert_eq!(world.authority.issued(), issued);
}

#[tokio::test]
async fn a_certificate_is_swapped_while_the_node_runs() {
    let world = World::new();
    let edge = world.member("edge").await;
    let (server, client, before) = (edge.server(), edge.client(), edge.certificate());
    let mut changes = edge.changes();
    changes.borrow_and_update();
    world.hands.forward(DAY / 2);
    world.first.renew_from(&world.authority).unwrap();
    world.renew(&edge).await.unwrap();
    assert!(changes.has_changed().unwrap());
    assert_ne!(edge.certificate(), before);
    // Configurations that were taken earlier show the new certificate too.
    assert!(Arc::ptr_eq(&server, &edge.server()));
    world.hands.forward(DAY * 3 / 4);
    world.first.renew_from(&world.authority).unwrap();
    assert_eq!(world.first.peer(&[before]), None);
    let end = knock(&world.endpoint, world.door.address(), (*client).clone()).await.unwrap();
    assert!(is_welcome(&end), "{end}");
    let again = Identity::open(world.at("edge")).unwrap().unwrap();
    assert_eq!(again.certificate(), edge.certificate(), "it was kept");
}

#[tokio::test]
async fn nobody_slips_in_another_authority() {
    let world = World::new();
    let edge = world.member("edge").await;
    let other = Authority::open_or_create(&world.path("other"), world.hands.now()).unwrap();
    let ours = world.authority.trust().certificates().to_vec();
    let (issuer, root) = stolen(&world.path("first"));
    let (other_issuer, other_root) = stolen(&world.path("other"));
    let key = rcgen::KeyPair::from_pem(&fs::read_to_string(world.path("edge/node.key")).unwrap()).unwrap();
    let day = DAY as i64;
    let by = |issuer, name: &str| -> CertificateDer<'static> {
        right(name, -60..day).signed_by(&key, issuer).unwrap().into()
    };
    let name = uri(&edge);
    let before = (edge.certificate(), edge.trust());
    assert_eq!(Trust::new([ours.clone(), vec![other_root.clone()]].concat()), Err(Refused::OtherMesh));
    assert_eq!(Trust::new(vec![]), Err(Refused::NoCertificate));
    assert_eq!(Trust::new(vec![root.clone(); Trust::AUTHORITIES_MAX + 1]), Err(Refused::NoCertificate));
    assert_eq!(Trust::new(vec![edge.certificate()]), Err(Refused::Purpose));
    let doubled = Trust::new(vec![root.clone(), root.clone()]).unwrap();
    let trust = world.authority.trust().clone();
    for (certificate, trust) in [
        (by(&other_issuer, &name), other.trust().clone()),
        (by(&other_issuer, &name), trust.clone()),
        (by(&issuer, &name), other.trust().clone()),
        (by(&issuer, &name), doubled),
        (by(&issuer, &name.replace("/node/edge/", "/node/first/")), trust.clone()),
        (by(&issuer, &name.replace("/leaf?", "/relay?")), trust.clone()),
        (world.first.certificate(), trust.clone()),
    ] {
        let refused = edge.adopt(certificate, trust).unwrap_err();
        assert!(matches!(refused, Error::Refused(_)), "{refused}");
        assert_eq!((edge.certificate(), edge.trust()), before);
    }
    edge.adopt(by(&issuer, &name), trust).unwrap();
}

/// A new authority takes over: it is added, everybody's certificate is renewed, it signs, the old one is dropped.
#[tokio::test]
async fn an_authority_gives_way_to_another() {
    let world = World::new();
    let edge = world.member("edge").await;
    let old = fs::read_to_string(world.path("first/authority.pem")).unwrap();
    let (_, root) = stolen(&world.path("first"));
    let new = {
        let cluster = format!("starlane://{}", world.authority.cluster());
        let mut params = right(&cluster, -60..DAY as i64 * 365);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages.clear();
        let key = rcgen::KeyPair::generate().unwrap();
        key.serialize_pem() + &params.self_signed(&key).unwrap().pem()
    };
    let certificates = |text: &str| text[text.find("-----BEGIN CERT").unwrap()..].to_owned();
    let mut pins = Vec::new();
    for (step, (text, trusted)) in
        [(old.clone() + &certificates(&new), 2), (new.clone() + &certificates(&old), 2), (new.clone(), 1)]
            .into_iter()
            .enumerate()
    {
        fs::write(world.path("first/authority.pem"), text).unwrap();
        let authority = Authority::open(&world.path("first")).unwrap().unwrap();
        assert_eq!(authority.cluster(), world.first.cluster());
        pins.push(authority.pin());
        for identity in [&edge, &world.first] {
            identity.renew_from(&authority).unwrap();
            assert_eq!(identity.trust().certificates().len(), trusted);
        }
        let end = knock(&world.endpoint, world.door.address(), (*edge.client()).clone()).await.unwrap();
        assert!(is_welcome(&end), "step {step}: {end}");
    }
    assert_eq!(pins[0], world.authority.pin());
    assert_ne!(pins[1], pins[0]);
    assert!(!edge.trust().certificates().contains(&root));
    assert!(edge.renew_from(&world.authority).is_err(), "the old one is trusted no more");
    let kept = fs::read(world.path("edge/node.pem")).unwrap();
    assert_eq!(CertificateDer::pem_slice_iter(&kept).count(), 2, "the certificate and one authority");
}

#[tokio::test]
async fn an_authority_that_expired_certifies_nobody() {
    let world = World::new();
    world.hands.forward(world.authority.expires().since(world.hands.now()) - 60);
    world.first.renew_from(&world.authority).unwrap();
    let (_, ends) = world.first.validity();
    assert_eq!(ends, world.authority.expires(), "nobody outlives their authority");
    world.hands.forward(60);
    assert!(matches!(world.first.renew_from(&world.authority), Err(Error::AuthorityExpired)));
}

/// A clock that goes with the runtime's, which is paused.
fn paused_clock() -> (mesh::identity::Clock, Instant) {
    let start = Instant::now();
    let base = mesh::identity::system_clock()();
    (Arc::new(move || base.plus(start.elapsed().as_secs())), start)
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_kept_renewed_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, start) = paused_clock();
    let authority = Authority::open_or_create(folder.path(), clock()).unwrap();
    let config = Config { folder: folder.path().to_owned(), clock: clock.clone() };
    let name = "first".parse().unwrap();
    let identity = Identity::of_authority(config, &authority, name, Role::Relay).unwrap();
    let key = identity.key();
    let times = Cell::new(Vec::new());
    let failing = Cell::new(0_u32);
    let renewals = 20;
    let ended: Result<(), Error> = identity
        .keep_renewed(async || {
            let (from, to) = identity.validity();
            let now = clock();
            let life = now.since(from) * 100 / to.since(from);
            // The third is only reached after an hour of failures.
            let mut seen = times.take();
            let fails = seen.len() == 2 && failing.get() < 20;
            let result = match (fails, seen.len()) {
                (true, _) => {
                    failing.set(failing.get() + 1);
                    Err(Error::Random)
                }
                (false, done) if done == renewals => Err(Error::AuthorityExpired),
                (false, done) => {
                    assert!((40..=60).contains(&life) || done == 2, "at {life} % of its life");
                    seen.push(start.elapsed());
                    identity.renew_from(&authority)
                }
            };
            times.set(seen);
            result
        })
        .await;
    assert!(matches!(ended, Err(Error::AuthorityExpired)), "{ended:?}");
    let times = times.take();
    assert_eq!((times.len(), failing.get()), (renewals, 20));
    let took = times[2] - times[1];
    assert!(took < Duration::from_secs(DAY * 6 / 10 + 20 * 301 + 120), "tried again often enough: {took:?}");
    assert_eq!(*identity.changes().borrow(), renewals as u64);
    assert_eq!(identity.key(), key);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_brings_nothing_is_not_tried_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, start) = paused_clock();
    let authority = Authority::open_or_create(folder.path(), clock()).unwrap();
    let config = Config { folder: folder.path().to_owned(), clock };
    let name = "first".parse().unwrap();
    drop(Identity::of_authority(config.clone(), &authority, name, Role::Relay).unwrap());
    let identity = Identity::open(config).unwrap().unwrap();
    let tries = Cell::new(0);
    let ended = identity
        .keep_renewed(async || {
            tries.set(tries.get() + 1);
            if tries.get() < 100 { Ok(()) } else { Err(Error::AuthorityExpired) }
        })
        .await;
    assert!(ended.is_err());
    assert!(start.elapsed() > Duration::from_secs(80 * 150), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_first_thing_is_to_renew() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, start) = paused_clock();
    let authority = Authority::open_or_create(folder.path(), clock()).unwrap();
    let config = Config { folder: folder.path().to_owned(), clock };
    let name = "first".parse().unwrap();
    drop(Identity::of_authority(config.clone(), &authority, name, Role::Relay).unwrap());
    let identity = Identity::open(config).unwrap().unwrap();
    let mut changes = identity.changes();
    let keep = identity.keep_renewed(async || identity.renew_from(&authority));
    tokio::select! {
        biased;
        ended = keep => panic!("{ended:?}"),
        changed = changes.changed() => changed.unwrap(),
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(identity.certified(), identity.me().generation);
}
