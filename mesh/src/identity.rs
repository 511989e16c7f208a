//! Who a node is, and who is a member beside it.
//!
//! A mesh has an [`Authority`], which the nodes of its registry keep. It certifies the key of each member for a day, under
//! the member's name, generation and role. [`Identity`] is what a node is to others: it shows the certificate, verifies
//! those of others, and renews its own by the same key. A node that has no certificate yet is a [`Newcomer`].
//!
//! All that a node keeps of itself lies in one folder: `node.key` (its private key, made there), `node.pem` (its
//! certificate and the authorities that it trusts), `generation` (how often it was started), `revoked` (who was thrown
//! out), and on the nodes of the registry `authority.pem`.

mod adverts;
mod authority;
mod clock;
mod files;
mod key;
mod leaf;
mod name;
mod pem;
mod renewal;
mod revocations;
mod tls;
mod trust;
mod verify;

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use starlane_core::{Generation, NodeName, Role};
use tokio::sync::watch;

pub use authority::Authority;
pub use clock::{Clock, UnixSeconds, system_clock};
pub use name::{ClusterId, Fingerprint, Unreadable};
pub use renewal::renew_at;
pub use revocations::Revocations;
pub use tls::{ALPN_JOIN, ALPN_LINK};
pub use trust::Trust;
pub use verify::{RENEWABLE_SECONDS, Refused, SKEW_SECONDS};

use crate::{Credentials, Peer};
use files::Folder;
pub(crate) use key::{NodeKey, fingerprint, requested};
pub(crate) use leaf::Leaf;
use renewal::Step;
pub(crate) use tls::newcomer;
pub(crate) use verify::{Ended, member, pinned};

const CERTIFICATE_FILE: &str = "node.pem";
const GENERATION_FILE: &str = "generation";
const REVOKED_FILE: &str = "revoked";

/// Where a node keeps who it is, and what time it is there.
#[derive(Clone)]
pub struct Config {
    /// The folder, made when it is missing. Nobody but its owner may look into it.
    pub folder: PathBuf,
    /// The wall clock.
    pub clock: Clock,
}

/// What keeps a node from being somebody.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what was written to it.
    #[error("{}: {why}; bring it back from a backup", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The folder is another node's.
    #[error("this data folder belongs to the node `{is}`, not to `{asked}`: use another folder, or its name")]
    OtherNode {
        /// Whose it is.
        is: NodeName,
        /// Whose it was to be.
        asked: NodeName,
    },
    /// The certificate makes this node no member, or is not for its key and name.
    #[error("this node's own certificate is refused: {0}")]
    Refused(#[from] Refused),
    /// The authority's own time is over.
    #[error("the authority of this mesh has expired, so it certifies nobody: another one must take over")]
    AuthorityExpired,
    /// A certificate, a key or a request cannot be made.
    #[error("no certificate can be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// A node that has a key and no certificate.
#[derive(Clone)]
pub struct Newcomer {
    config: Config,
    folder: Folder,
    key: NodeKey,
    generation: Generation,
}

/// Who this node is, and who it knows as members. A clone is the same identity.
///
/// Its generation grows with each start. The certificate carries the generation that it was issued for: after a restart
/// an earlier one, until it is renewed, which [`Identity::keep_renewed`] does first. What others read in it is therefore
/// the least that the node's generation can be; they believe a later one that the node itself tells over a link, since
/// it harms nobody else. Revocations hold against the certificate's.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
    renewal: Arc<rustls::ClientConfig>,
}

/// What handshakes look at.
pub(crate) struct Shared {
    folder: Folder,
    clock: Clock,
    key: NodeKey,
    me: Peer,
    state: RwLock<State>,
    /// Held by whoever writes a file and changes the state to what it holds.
    writes: Mutex<()>,
    changes: watch::Sender<u64>,
}

struct State {
    leaf: Leaf,
    shown: Arc<CertifiedKey>,
    trust: Trust,
    revocations: Arc<Revocations>,
}

impl Newcomer {
    /// The newcomer that a folder holds: with the key that is there, or a new one, and one generation later than before.
    ///
    /// # Errors
    /// `Io`, `Broken`, `Certificate`, `Random`
    pub fn open(config: Config) -> Result<Self, Error> {
        let folder = Folder::open(&config.folder)?;
        let key = NodeKey::open(&folder)?;
        let generation = next_generation(&folder, Generation(0))?;
        Ok(Self { config, folder, key, generation })
    }

    /// The fingerprint of its key.
    pub fn key(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// What it is to be certified as, when nobody knows of a later life.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.config.clock
    }

    pub(crate) fn node_key(&self) -> &NodeKey {
        &self.key
    }

    /// Becomes a member by what an authority certified, which is known to be the right one. It is kept before this
    /// returns.
    ///
    /// # Errors
    /// `Refused` when it does not make a member of the node that has this key, `Io`, `Tls`
    pub(crate) fn certified(
        self,
        certificate: CertificateDer<'static>,
        trust: Trust,
    ) -> Result<Identity, Error> {
        let Self { config, folder, key, generation } = self;
        let leaf = own(&certificate, &trust, &key, (config.clock)(), None)?;
        leaf.check_trust(&trust)?;
        let generation = generation.max(leaf.name.peer.generation);
        folder.write(GENERATION_FILE, &format!("{generation}\n"))?;
        write_certificate(&folder, &certificate, &trust)?;
        Identity::new(config.clock, folder, key, generation, certificate, leaf, trust)
    }
}

impl Identity {
    /// As whom a folder was certified last; `None` when its node was never enrolled. Changes nothing there.
    ///
    /// # Errors
    /// `Io`, `Broken`, `Refused`
    pub fn certified_in(folder: &std::path::Path) -> Result<Option<Peer>, Error> {
        let folder = Folder::open(folder)?;
        let Some(text) = folder.read(CERTIFICATE_FILE)? else { return Ok(None) };
        let certificates = pem::read(&text).unwrap_or_default();
        let broken = || Error::Broken { path: folder.path(CERTIFICATE_FILE), why: "it holds no certificate" };
        Ok(Some(Leaf::read(certificates.first().ok_or_else(broken)?)?.name.peer))
    }

    /// The identity that a folder holds, one generation later than before; `None` when its node was never enrolled. The
    /// certificate may have ended.
    ///
    /// # Errors
    /// `Io`, `Broken`, `Refused`, `Tls`
    pub fn open(config: Config) -> Result<Option<Self>, Error> {
        let folder = Folder::open(&config.folder)?;
        let Some(text) = folder.read(CERTIFICATE_FILE)? else { return Ok(None) };
        let broken = |why| Error::Broken { path: folder.path(CERTIFICATE_FILE), why };
        let mut certificates = pem::read(&text).ok_or_else(|| broken("it cannot be read"))?.into_iter();
        let certificate = certificates.next().ok_or_else(|| broken("it holds no certificate"))?;
        let trust = Trust::new(certificates.collect()).map_err(|_| broken("it holds no authorities"))?;
        let key = NodeKey::open(&folder)?;
        let leaf = Leaf::read(&certificate)?;
        // Judged at its own time: whether it has ended is for those to judge who are shown it.
        let leaf = own(&certificate, &trust, &key, leaf.not_before, None)
            .and_then(|leaf| leaf.check_trust(&trust).map(|()| leaf))
            .map_err(|_| broken("its certificate is not for the key and the authorities beside it"))?;
        let generation = next_generation(&folder, leaf.name.peer.generation)?;
        Self::new(config.clock, folder, key, generation, certificate, leaf, trust).map(Some)
    }

    /// The identity of the node that keeps the authority: it certifies itself, for this start.
    ///
    /// # Errors
    /// `OtherNode` when the folder is another node's, `AuthorityExpired`, and those of [`Identity::open`].
    pub fn of_authority(
        config: Config,
        authority: &Authority,
        name: NodeName,
        role: Role,
    ) -> Result<Self, Error> {
        let known = Self::open(config.clone())?.map(|identity| identity.shared.me.clone());
        let newcomer = match known {
            Some(known) if known.name != name => {
                return Err(Error::OtherNode { is: known.name, asked: name });
            }
            // The generation was counted.
            Some(known) => {
                let folder = Folder::open(&config.folder)?;
                let key = NodeKey::open(&folder)?;
                Newcomer { config, folder, key, generation: known.generation }
            }
            None => Newcomer::open(config)?,
        };
        let peer = Peer { name, generation: newcomer.generation, role };
        let certificate = authority.certify(newcomer.key.public(), &peer, (newcomer.config.clock)())?;
        newcomer.certified(certificate, authority.trust().clone())
    }

    fn new(
        clock: Clock,
        folder: Folder,
        key: NodeKey,
        generation: Generation,
        certificate: CertificateDer<'static>,
        leaf: Leaf,
        trust: Trust,
    ) -> Result<Self, Error> {
        let revocations = match folder.read(REVOKED_FILE)? {
            Some(text) => Revocations::read(&text).map_err(|_| Error::Broken {
                path: folder.path(REVOKED_FILE),
                why: "it does not hold a name and a number in each line",
            })?,
            None => Revocations::default(),
        };
        let me = Peer { generation, ..leaf.name.peer.clone() };
        let shown = shown(certificate, &trust, &key);
        let state = State { leaf, shown, trust, revocations: Arc::new(revocations) };
        let (changes, _) = watch::channel(0);
        let state = RwLock::new(state);
        let shared = Arc::new(Shared { folder, clock, key, me, state, writes: Mutex::new(()), changes });
        Ok(Self {
            server: Arc::new(tls::server(&shared)?),
            client: Arc::new(tls::client(&shared, ALPN_LINK)?),
            renewal: Arc::new(tls::client(&shared, ALPN_JOIN)?),
            shared,
        })
    }

    /// Of which mesh it is a member.
    pub fn cluster(&self) -> ClusterId {
        self.trust().cluster()
    }

    /// The authorities that it trusts.
    pub fn trust(&self) -> Trust {
        self.shared.state.read().trust.clone()
    }

    /// The fingerprint of its key, which stays.
    pub fn key(&self) -> Fingerprint {
        self.shared.key.fingerprint()
    }

    /// Its certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.shared.certificate()
    }

    /// From when to when its certificate holds.
    pub fn validity(&self) -> (UnixSeconds, UnixSeconds) {
        let state = self.shared.state.read();
        (state.leaf.not_before, state.leaf.not_after)
    }

    /// For which of its lives the certificate was issued.
    pub fn certified(&self) -> Generation {
        self.shared.state.read().leaf.name.peer.generation
    }

    /// Who was thrown out, as this node knows.
    pub fn revocations(&self) -> Arc<Revocations> {
        self.shared.state.read().revocations.clone()
    }

    /// Learns who was thrown out: this is all of them, in place of what was known before. Handshakes heed it from now on,
    /// and [`Credentials::changes`] tells those who hold links. It is kept, so that it holds after a restart too, before
    /// the registry can be asked.
    ///
    /// # Errors
    /// `Io` when it cannot be kept; it holds until the next start nevertheless.
    pub fn set_revoked(&self, revocations: Revocations) -> Result<(), Error> {
        let _writing = self.shared.writes.lock();
        let text = revocations.print();
        let mut state = self.shared.state.write();
        if *state.revocations == revocations {
            return Ok(());
        }
        state.revocations = Arc::new(revocations);
        drop(state);
        self.shared.changes.send_modify(|count| *count += 1);
        self.shared.folder.write(REVOKED_FILE, &text)
    }

    /// Keeps the mesh's authority beside the identity, as whoever has it tells it.
    ///
    /// # Errors
    /// `Refused` when it is none that this node trusts, `Io`
    pub(crate) fn keep_authority(&self, text: &str) -> Result<Authority, Error> {
        Authority::take_over(&self.shared.folder, text, &self.trust())
    }

    /// Takes over a new certificate for the same key and name, and the authorities that are trusted from now on. It is
    /// kept before anybody sees it.
    ///
    /// # Errors
    /// `Refused` when it is not such a certificate, of an authority that was trusted until now, `Io`
    pub fn adopt(&self, certificate: CertificateDer<'static>, trust: Trust) -> Result<(), Error> {
        let shared = &self.shared;
        let _writing = shared.writes.lock();
        // What was trusted until now has to have signed it, and it says what is trusted from now on.
        let leaf = own(&certificate, &self.trust(), &shared.key, shared.now(), Some(&shared.me))?;
        leaf.check_trust(&trust)?;
        write_certificate(&shared.folder, &certificate, &trust)?;
        let shown = shown(certificate, &trust, &shared.key);
        let mut state = shared.state.write();
        (state.leaf, state.shown, state.trust) = (leaf, shown, trust);
        drop(state);
        shared.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Renews the certificate where the authority is at hand.
    ///
    /// # Errors
    /// `AuthorityExpired`, and those of [`Identity::adopt`].
    pub fn renew_from(&self, authority: &Authority) -> Result<(), Error> {
        let Shared { key, me, clock, .. } = &*self.shared;
        let certificate = authority.certify(key.public(), me, clock())?;
        self.adopt(certificate, authority.trust().clone())
    }

    /// Whether the certificate is still that of an earlier life.
    pub fn is_behind(&self) -> bool {
        self.certified() < self.shared.me.generation
    }

    /// Renews for as long as it runs: at once after a restart, then at half of each certificate's life, a tenth of it
    /// earlier or later. `renew` renews once, by [`crate::join::renew`] or [`Identity::renew_from`]; its failures are tried
    /// again, first after a second, later after five minutes at most. Ends when it says that trying again is useless.
    pub async fn keep_renewed<E, F>(&self, mut renew: impl FnMut() -> F) -> Result<(), E>
    where
        E: Final + fmt::Display,
        F: Future<Output = Result<(), E>>,
    {
        let mut failures = 0;
        let mut failed = UnixSeconds::default();
        // Drawn once for each certificate and each failure, so that looking at it again does not change the time.
        let mut random = draw();
        loop {
            let due = self.due(random);
            let step = renewal::next(self.shared.now(), due, failures, failed, random);
            if let Step::Wait(wait) = step {
                tokio::time::sleep(wait).await;
                continue;
            }
            let renewed = renew().await;
            random = draw();
            match renewed {
                Ok(()) if self.due(random) > self.shared.now() => failures = 0,
                Err(error) if error.is_final() => return Err(error),
                useless => {
                    failures = failures.saturating_add(1);
                    failed = self.shared.now();
                    let error =
                        useless.err().map_or("nothing was gained".to_owned(), |error| error.to_string());
                    tracing::warn!(error, failures, "the certificate is not renewed yet");
                }
            }
        }
    }

    /// When to renew.
    fn due(&self, random: u32) -> UnixSeconds {
        let (from, to) = self.validity();
        if self.is_behind() { UnixSeconds(0) } else { renew_at(from, to, random) }
    }

    /// How it dials the protocol of joining as a member, to renew.
    pub(crate) fn renewal(&self) -> Arc<rustls::ClientConfig> {
        self.renewal.clone()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// A failure that may be for good.
pub trait Final {
    /// Whether trying the same again is useless.
    fn is_final(&self) -> bool;
}

impl Final for Error {
    fn is_final(&self) -> bool {
        matches!(self, Error::AuthorityExpired)
    }
}

impl Shared {
    pub(crate) fn now(&self) -> UnixSeconds {
        (self.clock)()
    }

    pub(crate) fn key(&self) -> &NodeKey {
        &self.key
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        // What is shown begins with it.
        self.state.read().shown.cert.first().cloned().unwrap_or_else(|| CertificateDer::from(Vec::new()))
    }

    fn shown(&self) -> Arc<CertifiedKey> {
        self.state.read().shown.clone()
    }

    /// What the certificates say, when they make somebody a member.
    pub(crate) fn member(&self, certificates: &[CertificateDer<'_>], ended: Ended) -> Result<Leaf, Refused> {
        let (trust, revocations) = {
            let state = self.state.read();
            (state.trust.clone(), state.revocations.clone())
        };
        let found = member(certificates, &trust, &revocations, self.now(), ended);
        if let Err(refused) = &found {
            tracing::debug!(%refused, "a certificate makes nobody a member");
        }
        found
    }
}

impl Credentials for Identity {
    fn me(&self) -> Peer {
        // Later than it counted itself when others knew of a later life.
        let generation = self.shared.me.generation.max(self.certified());
        Peer { generation, ..self.shared.me.clone() }
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        self.server.clone()
    }

    fn client(&self) -> Arc<rustls::ClientConfig> {
        self.client.clone()
    }

    fn peer(&self, certificates: &[CertificateDer<'_>]) -> Option<Peer> {
        self.shared.member(certificates, Ended::Refused).ok().map(|leaf| leaf.name.peer)
    }

    fn is_revoked(&self, peer: &Peer) -> bool {
        self.shared.state.read().revocations.hold(peer)
    }

    fn secret(&self) -> Option<[u8; 32]> {
        Some(self.shared.key.secret(b"starlane links"))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("me", &self.shared.me).field("cluster", &self.cluster()).finish()
    }
}

impl fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Newcomer").field("key", &self.key).field("generation", &self.generation).finish()
    }
}

/// What a certificate says, when it is that of the node with this key, and of this name and role if they are known.
fn own(
    certificate: &CertificateDer<'static>,
    trust: &Trust,
    key: &NodeKey,
    now: UnixSeconds,
    me: Option<&Peer>,
) -> Result<Leaf, Refused> {
    let leaf =
        member(std::slice::from_ref(certificate), trust, &Revocations::default(), now, Ended::Refused)?;
    let is_me = me.is_none_or(|me| leaf.name.peer.name == me.name && leaf.name.peer.role == me.role);
    if leaf.key != key.fingerprint() || !is_me { Err(Refused::Name) } else { Ok(leaf) }
}

/// A certificate as it is shown: with the authorities behind it, for those who know one only by its fingerprint.
fn shown(certificate: CertificateDer<'static>, trust: &Trust, key: &NodeKey) -> Arc<CertifiedKey> {
    let chain = [certificate].into_iter().chain(trust.certificates().iter().cloned()).collect();
    Arc::new(CertifiedKey::new(chain, key.signs()))
}

fn write_certificate(
    folder: &Folder,
    certificate: &CertificateDer<'static>,
    trust: &Trust,
) -> Result<(), Error> {
    let certificates = [certificate].into_iter().chain(trust.certificates());
    folder.write(CERTIFICATE_FILE, &pem::print(certificates))
}

/// Counts a start: one later than what was counted last, and than what was certified.
fn next_generation(folder: &Folder, certified: Generation) -> Result<Generation, Error> {
    let counted = match folder.read(GENERATION_FILE)? {
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| Error::Broken { path: folder.path(GENERATION_FILE), why: "it holds no number" })?,
        None => 0,
    };
    let next = Generation(certified.0.max(counted).saturating_add(1));
    folder.write(GENERATION_FILE, &format!("{next}\n"))?;
    Ok(next)
}

/// A random number, for spreading times only.
fn draw() -> u32 {
    random().map_or(u32::MAX / 2, u32::from_le_bytes)
}
