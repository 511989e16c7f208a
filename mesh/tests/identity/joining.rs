//! A token lets one node join, once, for ten minutes, at the right mesh.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use mesh::Credentials;
use mesh::identity::{ALPN_JOIN, ALPN_LINK, Authority, Identity, Newcomer, Refused};
use mesh::join::{
    self, Admission, Admitted, Answer, Applicant, Denied, Desk, Enrolment, JoinError, MemoryMembers,
    MemoryTokens, Refusal, Request, Service, Wish, join,
};
use mesh::proof::{Door, one_use};
use mesh::token::{Found, OutOfReach, TTL_SECONDS, Token, TokenId, TokenRecord, Tokens};
use parking_lot::Mutex;
use rcgen::KeyPair;
use starlane_core::{Generation, Role};

use crate::forged::{Impostor, Shows, right, stolen, uri};
use crate::world::{World, endpoint_at, wish};

#[tokio::test]
async fn a_node_joins_with_a_token() {
    let world = World::new();
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<_, _> {
        pairs.iter().map(|(key, value)| (key.parse().unwrap(), (*value).to_owned())).collect()
    };
    let token = world.token(|record| record.labels(labels(&[("tier", "edge")])));
    let newcomer = Newcomer::open(world.at("edge-1")).unwrap();
    let wish = Wish {
        name: "edge-1".parse().unwrap(),
        role: Some(Role::Leaf),
        labels: labels(&[("tier", "cloud"), ("room", "attic")]),
    };
    let joined = join(&world.endpoint, world.door.address(), &token, &wish, &newcomer).await.unwrap();
    assert_eq!((joined.peer().name.as_str(), joined.peer().role), ("edge-1", Role::Leaf));
    assert_eq!(joined.contacts()[0].addresses, ["first:4343"]);
    assert_eq!(joined.trust(), world.authority.trust());
    let identity = joined.identity(newcomer).unwrap();
    assert_eq!(identity.cluster(), world.first.cluster());
    assert_eq!(world.first.peer(&[identity.certificate()]), Some(identity.me()));
    let known = world.members().labels(&identity.me().name).unwrap();
    assert_eq!(known, labels(&[("tier", "edge"), ("room", "attic")]), "the token's word is the last");
}

#[tokio::test]
async fn of_many_who_use_a_token_at_once_one_joins() {
    let folder = tempfile::tempdir().unwrap();
    check_one_use(folder.path(), 3, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the full form, minutes: cargo test -p mesh --release -- --ignored"]
async fn of_many_who_use_a_token_at_once_one_joins_200_times() {
    let folder = tempfile::tempdir().unwrap();
    check_one_use(folder.path(), 200, 100).await;
}

async fn check_one_use(folder: &Path, tokens: u64, uses: u64) {
    let found = one_use(folder, tokens, uses).await.unwrap();
    println!("{found:?}");
    assert_eq!((found.joined_max, found.certificates), (1, tokens));
    assert_eq!(found.joined + found.refused + found.unanswered, tokens * uses);
    assert!(found.unanswered * 10 <= tokens * uses, "too few were answered to prove anything");
}

#[tokio::test]
async fn a_token_that_does_not_fit_is_refused_and_not_spent() {
    let world = World::new();
    let token = world.token(|record| record.only_for("edge".parse().unwrap()));
    let newcomer = Newcomer::open(world.at("edge")).unwrap();
    let ask = async |token: &Token, wish: &Wish| {
        join(&world.endpoint, world.door.address(), token, wish, &newcomer).await.map(|_| ())
    };
    let issued = world.authority.issued();
    let refused = ask(&token, &wish("other")).await;
    assert!(matches!(refused, Err(JoinError::WrongName { .. })), "{refused:?}");
    let refused = ask(&token, &Wish { role: Some(Role::Relay), ..wish("edge") }).await;
    assert!(matches!(refused, Err(JoinError::WrongRole { token: Role::Leaf })), "{refused:?}");
    let unknown = Token::draw(world.authority.pin()).unwrap();
    let refused = ask(&unknown, &wish("edge")).await;
    assert!(matches!(refused, Err(JoinError::TokenUnknown)), "{refused:?}");
    // Who knows only a token's public name can neither use nor spend it.
    let guessed = {
        let (real, other) = (token.reveal(), unknown.reveal());
        let (public, _) = real.rsplit_once('.').unwrap();
        let (_, secret) = other.rsplit_once('.').unwrap();
        format!("{public}.{secret}").parse().unwrap()
    };
    let refused = ask(&guessed, &wish("edge")).await;
    assert!(matches!(refused, Err(JoinError::TokenUnknown)), "{refused:?}");
    let long = Wish { labels: [("l".parse().unwrap(), "x".repeat(256))].into(), ..wish("edge") };
    let refused = ask(&token, &long).await;
    assert!(matches!(refused, Err(JoinError::NotUnderstood { .. })), "{refused:?}");
    let huge = Wish { labels: [("l".parse().unwrap(), "x".repeat(16_384))].into(), ..wish("edge") };
    let refused = ask(&token, &huge).await;
    assert!(matches!(refused, Err(JoinError::NotUnderstood { .. })), "{refused:?}");
    assert_eq!(world.authority.issued(), issued);

    ask(&token, &wish("edge")).await.unwrap();
    let replayed = ask(&token, &wish("edge")).await;
    assert!(matches!(replayed, Err(JoinError::TokenUnknown)), "{replayed:?}");
    assert_eq!(world.authority.issued(), issued + 1);
}

#[tokio::test]
async fn a_token_lasts_ten_minutes() {
    let world = World::new();
    let [early, late] = [(); 2].map(|()| world.token(|record| record));
    world.hands.forward(TTL_SECONDS - 1);
    world.join(&early, "early").await.unwrap();
    world.hands.forward(1);
    let refused = world.join(&late, "late").await.map(|_| ());
    assert!(matches!(refused, Err(JoinError::TokenExpired)), "{refused:?}");
}

#[tokio::test]
async fn a_name_is_given_once() {
    let world = World::new();
    let edge = world.member("edge").await;
    let token = world.token(|record| record);
    let stranger = Newcomer::open(world.at("stranger")).unwrap();
    let ask = async |name: &str| {
        join(&world.endpoint, world.door.address(), &token, &wish(name), &stranger).await.map(|_| ())
    };
    let refused = ask("edge").await;
    assert!(matches!(refused, Err(JoinError::NameTaken { .. })), "{refused:?}");
    ask("edge-2").await.expect("the token was not spent");
    // The same key is the same node: it lost its answer, or its folder in part.
    let again = world.member("edge").await;
    assert_eq!(again.key(), edge.key());
    assert!(again.certified() > edge.certified());
}

#[tokio::test]
async fn nothing_is_said_to_another_mesh() {
    let world = World::new();
    let other = world.path("other");
    Authority::open_or_create(&other, world.hands.now()).unwrap();
    let (_, root) = stolen(&world.path("first"));
    let (other_issuer, other_root) = stolen(&other);
    let (issuer, _) = stolen(&world.path("first"));
    let name = uri(&world.first);
    let key = KeyPair::generate().unwrap();
    let day = 24 * 60 * 60;
    let by = |issuer, lasts| right(&name, lasts).signed_by(&key, issuer).unwrap().into();
    let now = -60..day;
    let member = world.first.certificate();
    for (shown, chain, mesh) in [
        ("another mesh", vec![by(&other_issuer, now.clone()), other_root.clone()], true),
        (
            "another mesh with our authority behind it",
            vec![by(&other_issuer, now.clone()), root.clone()],
            true,
        ),
        (
            "another mesh with both behind it",
            vec![by(&other_issuer, now.clone()), other_root, root.clone()],
            true,
        ),
        ("our authority's own certificate", vec![root.clone(), root.clone()], false),
        ("no authority", vec![by(&issuer, now.clone())], true),
        ("a member's certificate without its key", vec![member, root.clone()], true),
        ("a certificate that ended", vec![by(&issuer, -day..-3_600), root.clone()], false),
        ("a certificate that has not begun", vec![by(&issuer, 3_600..day), root], false),
    ] {
        let mut impostor = Impostor::open(Shows::new(chain, &key), &[ALPN_JOIN]);
        let token = world.token(|record| record);
        let newcomer = Newcomer::open(world.at("newcomer")).unwrap();
        let refused = join(&world.endpoint, impostor.address, &token, &wish("edge"), &newcomer).await;
        let refused = refused.map(|_| ()).unwrap_err();
        let right = if mesh {
            matches!(refused, JoinError::OtherMesh { .. })
        } else {
            matches!(refused, JoinError::NotTrusted { .. })
        };
        assert!(right, "{shown}: {refused:?}");
        assert!(refused.to_string().contains("nothing was sent"), "{refused}");
        assert_eq!(impostor.told().await, 0, "{shown}");
        // The token was not spent.
        world.join(&token, "edge").await.unwrap();
    }
    // Nor to a mesh where nothing is wrong but that it is another one.
    let other = World::new();
    let token = world.token(|record| record);
    let newcomer = Newcomer::open(world.at("newcomer")).unwrap();
    let refused = join(&world.endpoint, other.door.address(), &token, &wish("edge"), &newcomer).await;
    assert!(matches!(refused, Err(JoinError::OtherMesh { .. })), "{refused:?}");
    // The same end, with the right authority, is told: so the count above would have seen it.
    let (issuer, root) = stolen(&world.path("first"));
    let chain = vec![right(&name, now).signed_by(&key, &issuer).unwrap().into(), root];
    let mut impostor = Impostor::open(Shows::new(chain, &key), &[ALPN_JOIN]);
    let token = world.token(|record| record);
    let newcomer = Newcomer::open(world.at("newcomer")).unwrap();
    let wish = wish("edge");
    let asks = join(&world.endpoint, impostor.address, &token, &wish, &newcomer);
    let (outcome, told) = tokio::join!(asks, impostor.told());
    assert!(outcome.is_err());
    assert!(told > 0);
}

#[tokio::test]
async fn who_lets_nobody_join_says_so() {
    let world = World::new();
    let (issuer, root) = stolen(&world.path("first"));
    let key = KeyPair::generate().unwrap();
    let chain = vec![right(&uri(&world.first), -60..3_600).signed_by(&key, &issuer).unwrap().into(), root];
    for protocols in [&[ALPN_LINK] as &[&[u8]], &[b"h3"], &[]] {
        let mut impostor = Impostor::open(Shows::new(chain.clone(), &key), protocols);
        let token = world.token(|record| record);
        let newcomer = Newcomer::open(world.at("newcomer")).unwrap();
        let refused = join(&world.endpoint, impostor.address, &token, &wish("edge"), &newcomer).await;
        assert!(matches!(refused, Err(JoinError::NoJoining { .. })), "{protocols:?}: {refused:?}");
        assert_eq!(impostor.told().await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_answers_it_is_said_after_a_while() {
    let world = World::new();
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let token = world.token(|record| record);
    let newcomer = Newcomer::open(world.at("edge")).unwrap();
    let address = silent.local_addr().unwrap();
    let refused = join(&world.endpoint, address, &token, &wish("edge"), &newcomer).await;
    assert!(matches!(refused, Err(JoinError::Unreachable { .. })), "{refused:?}");
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let hour = std::time::Duration::from_secs(3_600);
    let world = World::with(join::Config { every: hour, ..join::Config::default() });
    let guess = async |endpoint: &quinn::Endpoint| {
        let token = Token::draw(world.authority.pin()).unwrap();
        let newcomer = Newcomer::open(world.at("guesser")).unwrap();
        join(endpoint, world.door.address(), &token, &wish("edge"), &newcomer).await.map(|_| ())
    };
    for _ in 0..5 {
        assert!(matches!(guess(&world.endpoint).await, Err(JoinError::TokenUnknown)));
    }
    let Err(JoinError::Busy { retry_after, .. }) = guess(&world.endpoint).await else { panic!() };
    assert!(retry_after <= hour && retry_after > hour / 2, "{retry_after:?}");
    // Others are served, and members at the same address are.
    let elsewhere = endpoint_at(Ipv4Addr::new(127, 0, 0, 2));
    assert!(matches!(guess(&elsewhere).await, Err(JoinError::TokenUnknown)));
    let token = world.token(|record| record);
    let newcomer = Newcomer::open(world.at("edge")).unwrap();
    let joined = join(&elsewhere, world.door.address(), &token, &wish("edge"), &newcomer).await.unwrap();
    let edge = joined.identity(newcomer).unwrap();
    for _ in 0..5 {
        world.renew(&edge).await.unwrap();
    }
    assert!(matches!(world.renew(&edge).await, Err(JoinError::Busy { .. })));
}

#[tokio::test]
async fn when_all_places_are_taken_the_next_is_told_to_come_back() {
    let every = std::time::Duration::ZERO;
    let world = World::with(join::Config { every, at_once_max: 0, ..join::Config::default() });
    let token = world.token(|record| record);
    let refused = world.join(&token, "edge").await.map(|_| ());
    assert!(matches!(refused, Err(JoinError::Busy { .. })), "{refused:?}");
}

/// Tokens and members that let others run before and after everything they do.
#[derive(Default)]
struct Slow {
    tokens: MemoryTokens,
    members: MemoryMembers,
}

async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

struct SlowTokens(std::sync::Arc<Slow>);
struct SlowMembers(std::sync::Arc<Slow>);

impl Tokens for SlowTokens {
    async fn find(&self, id: TokenId) -> Result<Option<Found>, OutOfReach> {
        pause().await;
        let found = self.0.tokens.find(id).await;
        pause().await;
        found
    }

    async fn take(&self, id: TokenId, revision: u64) -> Result<bool, OutOfReach> {
        pause().await;
        let taken = self.0.tokens.take(id, revision).await;
        pause().await;
        taken
    }
}

impl Admission for SlowMembers {
    async fn may_join(&self, applicant: &Applicant) -> Result<(), Denied> {
        pause().await;
        let may = self.0.members.may_join(applicant).await;
        pause().await;
        may
    }

    async fn admit(&self, applicant: &Applicant) -> Result<Admitted, Denied> {
        pause().await;
        let admitted = self.0.members.admit(applicant).await;
        pause().await;
        admitted
    }

    async fn stay(&self, applicant: &Applicant) -> Result<Admitted, Denied> {
        self.0.members.stay(applicant).await
    }
}

/// Takes the request out of a connection, so that it can be answered here and again.
struct Overhears(std::sync::Arc<Mutex<Vec<Request>>>);

impl Desk for Overhears {
    async fn answer(&self, request: Request) -> Answer {
        self.0.lock().push(request);
        Answer::Refused(Refusal::OutOfReach)
    }
}

struct Overheard<'a> {
    world: &'a World,
    door: Door,
    heard: std::sync::Arc<Mutex<Vec<Request>>>,
}

impl<'a> Overheard<'a> {
    fn new(world: &'a World) -> Self {
        let heard = std::sync::Arc::new(Mutex::new(Vec::new()));
        let every = std::time::Duration::ZERO;
        let config = join::Config { every, ..join::Config::default() };
        let service = Service::new(config, world.first.clone(), Overhears(heard.clone()));
        let door = Door::joining(&world.first, service).unwrap();
        Self { world, door, heard }
    }

    /// What a node says that joins with a new token, and tokens and members who know the token.
    async fn request(&self) -> (Request, std::sync::Arc<Slow>) {
        let world = self.world;
        let newcomer = Newcomer::open(world.at("edge")).unwrap();
        let token = Token::draw(world.authority.pin()).unwrap();
        let refused = join(&world.endpoint, self.door.address(), &token, &wish("edge"), &newcomer).await;
        let Err(JoinError::OutOfReach { .. }) = refused else { panic!("{refused:?}") };
        let request = self.heard.lock().pop().unwrap();
        let slow = std::sync::Arc::new(Slow::default());
        let record = TokenRecord::new(&token, Role::Leaf, world.hands.now(), TTL_SECONDS);
        slow.tokens.keep(token.id(), record);
        (request, slow)
    }

    fn desk(&self, slow: &std::sync::Arc<Slow>) -> Enrolment<SlowTokens, SlowMembers> {
        let (tokens, members) = (SlowTokens(slow.clone()), SlowMembers(slow.clone()));
        Enrolment::new(self.world.first.clone(), self.world.authority.clone(), tokens, members)
    }
}

/// The node of the authority is killed at any moment of a join, and the same token is used again.
#[tokio::test]
async fn killed_at_any_moment_a_token_never_certifies_twice() {
    let world = World::new();
    let overheard = Overheard::new(&world);
    let (mut spent_without, mut moments, mut certified) = (0, 0, 0);
    for killed_after in 0.. {
        let (request, slow) = overheard.request().await;
        let before = world.authority.issued();
        let first = overheard.desk(&slow);
        let finished = {
            let mut answer = pin!(first.answer(request.clone()));
            let mut context = Context::from_waker(Waker::noop());
            (0..=killed_after).any(|_| answer.as_mut().poll(&mut context).is_ready())
        };
        let issued_before = world.authority.issued() - before;
        let second = overheard.desk(&slow).answer(request.clone()).await;
        let third = overheard.desk(&slow).answer(request).await;
        let issued = world.authority.issued() - before;
        assert!(issued <= 1, "killed at moment {killed_after}");
        assert_eq!(third, Answer::Refused(Refusal::TokenUnknown));
        let again = matches!(second, Answer::Member { .. });
        assert_eq!(u64::from(again), issued - issued_before);
        moments += 1;
        certified += issued;
        spent_without += u64::from(issued == 0);
        if finished {
            assert_eq!((issued_before, again), (1, false));
            break;
        }
    }
    println!("killed at {moments} moments: {certified} certified, {spent_without} spent without");
    assert!(moments >= 8 && spent_without >= 2 && certified >= 4, "every step was cut once");
}

/// All have found the token before the first of them takes it.
#[tokio::test]
async fn of_many_who_found_a_token_one_takes_it() {
    let world = World::new();
    let overheard = Overheard::new(&world);
    let (request, slow) = overheard.request().await;
    let before = world.authority.issued();
    let desk = overheard.desk(&slow);
    let answers = futures::future::join_all((0..100).map(|_| desk.answer(request.clone()))).await;
    let members = answers.iter().filter(|answer| matches!(answer, Answer::Member { .. })).count();
    let unknown = answers.iter().filter(|answer| **answer == Answer::Refused(Refusal::TokenUnknown)).count();
    assert_eq!((members, unknown, world.authority.issued() - before), (1, 99, 1));
}

#[tokio::test]
async fn after_a_lost_answer_another_token_makes_the_same_node_a_member() {
    let world = World::new();
    let token = world.token(|record| record);
    // It joined, and forgot.
    world.join(&token, "edge").await.unwrap();
    let refused = world.join(&token, "edge").await.map(|_| ());
    assert!(matches!(refused, Err(JoinError::TokenUnknown)), "{refused:?}");
    let edge = world.member("edge").await;
    assert!(edge.certified() > Generation(1));
    assert_eq!(world.members().count(), 1);
    assert!(Identity::open(world.at("edge")).unwrap().is_some());
}

#[test]
fn what_went_wrong_says_what_to_do() {
    let address = "10.0.0.1:4343".parse().unwrap();
    let name = || "edge".parse().unwrap();
    let texts: Vec<_> = [
        JoinError::OtherMesh { address },
        JoinError::NotTrusted { address, why: Refused::Expired },
        JoinError::Unreachable { address },
        JoinError::NoJoining { address },
        JoinError::Lost { address },
        JoinError::TokenUnknown,
        JoinError::TokenExpired,
        JoinError::WrongRole { token: Role::Leaf },
        JoinError::WrongName { token: name() },
        JoinError::NameTaken { name: name() },
        JoinError::HashTaken { name: name(), by: name() },
        JoinError::Revoked,
        JoinError::CertificateRefused,
        JoinError::Busy { address, retry_after: std::time::Duration::from_millis(500) },
        JoinError::OutOfReach { address },
        JoinError::NotUnderstood { address },
        JoinError::WrongAnswer { address, why: Refused::Name },
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    assert!(texts[0].starts_with("the node at 10.0.0.1:4343 belongs to another mesh: nothing was sent"));
    for text in &texts {
        assert!(text.contains([';', ':']), "it says no next step: {text}");
    }
}

#[tokio::test]
async fn the_authority_is_told_to_who_serves_the_registry_alone() {
    let world = World::new();
    let enrolled = async |name: &str, role: Role| {
        let token = Token::draw(world.authority.pin()).unwrap();
        let record = TokenRecord::new(&token, role, world.hands.now(), TTL_SECONDS);
        world.service.desk().tokens().keep(token.id(), record);
        let (joined, newcomer) = world.join(&token, name).await.unwrap();
        joined.identity(newcomer).unwrap()
    };
    let ask =
        async |identity: &Identity| join::authority(&world.endpoint, world.door.address(), identity).await;
    let serves = enrolled("two", Role::Registry).await;
    for (name, role) in [("edge", Role::Leaf), ("hub", Role::Relay)] {
        let other = enrolled(name, role).await;
        assert!(matches!(ask(&other).await, Err(JoinError::CertificateRefused)), "{name}");
        assert!(!world.path(name).join("authority.pem").exists());
    }
    // Nobody who carries requests ever sees it.
    let carried = world.service.answer(&Request::Authority.encode().unwrap()).await.unwrap();
    assert_eq!(Answer::decode(&carried), Ok(Answer::Refused(Refusal::CertificateRefused)));
    // A node that has none itself has none to tell.
    let door =
        Door::joining(&serves, Service::new(join::Config::default(), serves.clone(), Nothing)).unwrap();
    let refused = join::authority(&world.endpoint, door.address(), &serves).await;
    assert!(matches!(refused, Err(JoinError::OutOfReach { .. })), "{refused:?}");

    let told = ask(&serves).await.unwrap();
    assert_eq!((told.pin(), told.trust()), (world.authority.pin(), world.authority.trust()));
    let kept = Authority::open(&world.path("two")).unwrap().unwrap();
    assert_eq!(kept.pin(), told.pin());
    assert_eq!(Identity::certified_in(&world.path("two")).unwrap(), Some(serves.me()));
    serves.renew_from(&kept).unwrap();
    assert_eq!(
        world.first.peer(&[serves.certificate()]),
        Some(serves.me()),
        "it certifies as the other does"
    );

    // Thrown out, it is not told again.
    let mut revocations = (*world.first.revocations()).clone();
    revocations.revoke(serves.me().name, serves.me().generation);
    world.first.set_revoked(revocations).unwrap();
    assert!(ask(&serves).await.is_err());
}

/// A desk without an authority.
struct Nothing;

impl Desk for Nothing {
    async fn answer(&self, _request: Request) -> Answer {
        Answer::Refused(Refusal::OutOfReach)
    }
}
