//! What the tests stand on: folders, clocks, a mesh of one node with a desk, and others beside it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh::identity::{Authority, Clock, Config, Identity, Newcomer, UnixSeconds, system_clock};
use mesh::join::{
    self, Contact, Enrolment, JoinError, Joined, MemoryMembers, MemoryTokens, Service, Wish, join,
};
use mesh::proof::Door;
use mesh::token::{TTL_SECONDS, Token, TokenRecord};
use quinn::Endpoint;
use starlane_core::Role;
use tempfile::TempDir;

pub(crate) type TestDesk = Enrolment<MemoryTokens, MemoryMembers>;

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub(crate) struct Hands(Arc<AtomicU64>);

impl Hands {
    pub(crate) fn now_here() -> Self {
        Self(Arc::new(AtomicU64::new(system_clock()().0)))
    }

    pub(crate) fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> UnixSeconds {
        UnixSeconds(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn clock(&self) -> Clock {
        let hands = self.clone();
        Arc::new(move || hands.now())
    }
}

/// A mesh of one node, which lets others join.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) hands: Hands,
    pub(crate) authority: Authority,
    pub(crate) first: Identity,
    pub(crate) service: Service<TestDesk>,
    pub(crate) door: Door,
    pub(crate) endpoint: Endpoint,
}

impl World {
    /// Nobody is held back for asking too often.
    pub(crate) fn new() -> Self {
        Self::with(join::Config { every: Duration::ZERO, ..join::Config::default() })
    }

    pub(crate) fn with(config: join::Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hands = Hands::now_here();
        let at = Config { folder: folder.path().join("first"), clock: hands.clock() };
        let authority = Authority::open_or_create(&at.folder, hands.now()).unwrap();
        let first = Identity::of_authority(at, &authority, "first".parse().unwrap(), Role::Relay).unwrap();
        let contact = Contact { name: "first".parse().unwrap(), addresses: vec!["first:4343".to_owned()] };
        let members = MemoryMembers::new(vec![contact]);
        let desk = Enrolment::new(first.clone(), authority.clone(), MemoryTokens::default(), members);
        let service = Service::new(config, first.clone(), desk);
        let door = Door::joining(&first, service.clone()).unwrap();
        Self { folder, hands, authority, first, service, door, endpoint: endpoint() }
    }

    /// A token that is kept as `change` makes it.
    pub(crate) fn token(&self, change: impl FnOnce(TokenRecord) -> TokenRecord) -> Token {
        let token = Token::draw(self.authority.pin()).unwrap();
        let record = TokenRecord::new(&token, Role::Leaf, self.hands.now(), TTL_SECONDS);
        self.service.desk().tokens().keep(token.id(), change(record));
        token
    }

    pub(crate) fn at(&self, name: &str) -> Config {
        Config { folder: self.path(name), clock: self.hands.clock() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn join(&self, token: &Token, name: &str) -> Result<(Joined, Newcomer), JoinError> {
        let newcomer = Newcomer::open(self.at(name)).unwrap();
        let joined = join(&self.endpoint, self.door.address(), token, &wish(name), &newcomer).await?;
        Ok((joined, newcomer))
    }

    /// A member that joined.
    pub(crate) async fn member(&self, name: &str) -> Identity {
        let token = self.token(|record| record);
        let (joined, newcomer) = self.join(&token, name).await.unwrap();
        joined.identity(newcomer).unwrap()
    }

    pub(crate) async fn renew(&self, identity: &Identity) -> Result<Vec<Contact>, JoinError> {
        join::renew(&self.endpoint, self.door.address(), identity).await
    }

    pub(crate) fn members(&self) -> &MemoryMembers {
        self.service.desk().admission()
    }
}

pub(crate) fn wish(name: &str) -> Wish {
    Wish { name: name.parse().unwrap(), role: None, labels: BTreeMap::new() }
}

pub(crate) fn endpoint() -> Endpoint {
    endpoint_at(Ipv4Addr::LOCALHOST)
}

pub(crate) fn endpoint_at(address: Ipv4Addr) -> Endpoint {
    Endpoint::client(SocketAddr::from((address, 0))).unwrap()
}
