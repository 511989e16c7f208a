//! Who leads a mesh, as its registry says, and the loop around [`Election`] on the nodes of a registry in etcd. A registry in
//! a file is led by its own node, and says nothing of it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use resource_registry::store::{self, LeaseId};
use resource_registry::{Error, Provided, Registry, Reserved};
use starlane_core::{
    Agent, Base, Code, Kind, NodeName, Point, Problem, PropertyChange, Resource, Status, Value,
};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::election::{Action, Beaten, Election, Mandate, Seen, TTL};
use super::follow::{Follow, News};

/// The resource that says who leads.
const LEADER: &str = "mesh:leader";
/// Its property that names the node.
const NODE: &str = "node";
/// Its property that names the lease which it hangs on.
const LEASE: &str = "lease";
/// How many answers may wait for the loop: there is one question of each kind at a time.
const ANSWERS_MAX: usize = 8;
/// How long it may take to give the lead up when the node stops.
const RESIGN: Duration = Duration::from_secs(2);

/// The node that leads, as far as this one knows: home, while nobody was elected.
pub(super) fn leader(registry: &Registry, home: &NodeName) -> NodeName {
    let named = || registry.get(&LEADER.parse().ok()?).and_then(|leader| seen(&leader));
    named().map_or_else(|| home.clone(), |seen| seen.node)
}

fn seen(resource: &Resource) -> Option<Seen> {
    let text = |key: &str| resource.property(key).and_then(Value::as_text);
    let lease = u64::from_str_radix(text(LEASE)?, 16).ok()?;
    Some(Seen { node: text(NODE)?.parse().ok()?, made: resource.created, lease: LeaseId(lease) })
}

/// What must hold for what a leader writes.
pub(super) fn provided(mandate: Mandate) -> Option<Provided> {
    Some(Provided::MadeBy(LEADER.parse().ok()?, mandate.made))
}

/// Takes part in elections until the node stops. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Leadership(Arc<Inner>);

struct Inner {
    registry: Registry,
    by: Agent,
    leads: Mutex<Option<Mandate>>,
    task: Mutex<Option<AbortHandle>>,
}

enum Answer {
    Claimed(Option<Mandate>),
    Beaten(LeaseId, Beaten),
}

impl Leadership {
    /// Takes part from now on. `lead` is run for as long as this node leads, and dropped when that ends. It is told who led
    /// before, and was not heard by the registry or gave it up.
    pub(super) fn begin<F>(
        registry: Registry,
        by: Agent,
        me: NodeName,
        lead: impl Fn(Mandate, Option<NodeName>) -> F + Send + 'static,
    ) -> Result<Self, Problem>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let follow = Follow::new(registry.clone(), LEADER)?;
        let inner = Inner { registry, by, leads: Mutex::new(None), task: Mutex::new(None) };
        let leadership = Self(Arc::new(inner));
        let task = tokio::spawn(leadership.clone().run(follow, me, lead));
        *leadership.0.task.lock() = Some(task.abort_handle());
        Ok(leadership)
    }

    /// Gives the lead up, if this node has it, so that another need not wait until it is missed; takes part no more.
    pub(super) async fn resign(&self) {
        if let Some(task) = self.0.task.lock().take() {
            task.abort();
        }
        let Some(mandate) = self.0.leads.lock().take() else { return };
        let revoked = self.0.registry.revoke(&self.0.by, mandate.lease);
        if !matches!(tokio::time::timeout(RESIGN, revoked).await, Ok(Ok(()))) {
            tracing::warn!("the lead was not given up: another node leads when this one is missed");
        }
    }

    async fn run<F>(
        self,
        mut follow: Follow,
        me: NodeName,
        lead: impl Fn(Mandate, Option<NodeName>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, mut answers) = mpsc::channel(ANSWERS_MAX);
        let mut election = Election::new(me.clone());
        let mut term: Option<Term> = None;
        loop {
            let due = async {
                match election.poll_timeout() {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                news = follow.next() => match news {
                    Some(News::Is { now, .. }) => {
                        if let Some(seen) = seen(&now) {
                            election.handle_seen(seen, Instant::now());
                        }
                    }
                    Some(News::Gone(last)) => election.handle_gone(last.created, Instant::now()),
                    Some(News::Complete) => election.handle_told(Instant::now()),
                    None => return,
                },
                Some(answer) = answers.recv() => match answer {
                    Answer::Claimed(mandate) => election.handle_claimed(mandate, Instant::now()),
                    Answer::Beaten(lease, beaten) => election.handle_beaten(lease, beaten, Instant::now()),
                },
                () = due => election.handle_timeout(Instant::now()),
            }
            while let Some(action) = election.poll_action() {
                match action {
                    Action::Claim => self.spawn(&sender, |own| own.claim(me.clone())),
                    Action::Beat(lease) => self.spawn(&sender, |own| own.beat(lease)),
                    Action::Clear(lease) => {
                        let own = self.clone();
                        tokio::spawn(async move { drop(own.0.registry.revoke(&own.0.by, lease).await) });
                    }
                    Action::Begin(mandate, former) => {
                        tracing::info!("this node leads the mesh");
                        *self.0.leads.lock() = Some(mandate);
                        term = Some(Term(tokio::spawn(lead(mandate, former)).abort_handle()));
                    }
                    Action::End(_) => {
                        tracing::warn!("this node does not lead the mesh any more");
                        *self.0.leads.lock() = None;
                        drop(term.take());
                    }
                }
            }
        }
    }

    fn spawn<F>(&self, sender: &mpsc::Sender<Answer>, ask: impl FnOnce(Self) -> F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let (sender, asked) = (sender.clone(), ask(self.clone()));
        // The loop ends with the node.
        tokio::spawn(async move { drop(sender.send(asked.await).await) });
    }

    async fn claim(self, me: NodeName) -> Answer {
        let Inner { registry, by, .. } = &*self.0;
        let Ok(lease) = registry.grant(TTL).await else { return Answer::Claimed(None) };
        match put(registry, by, &me, lease).await {
            Ok(mandate) => Answer::Claimed(Some(mandate)),
            Err(problem) => {
                tracing::debug!("this node was not elected: {problem}");
                // Also when it is not known whether it was; it ends by itself if this is lost too.
                drop(registry.revoke(by, lease).await);
                Answer::Claimed(None)
            }
        }
    }

    async fn beat(self, lease: LeaseId) -> Answer {
        let beaten = match self.0.registry.keep_alive(lease).await {
            Ok(()) => Beaten::Done,
            Err(Error::Store(store::Error::LeaseUnknown(_))) => Beaten::Over,
            Err(error) => {
                tracing::warn!("that this node leads is not written: {error}");
                Beaten::Lost
            }
        };
        Answer::Beaten(lease, beaten)
    }
}

fn leaders_point() -> Result<Point, Problem> {
    LEADER.parse().map_err(|error: starlane_core::PointError| Problem::new(Code::Internal, error.to_string()))
}

async fn put(registry: &Registry, by: &Agent, me: &NodeName, lease: LeaseId) -> Result<Mandate, Problem> {
    let point = leaders_point()?;
    let set = |key: &str, value: Value| {
        let key = key.parse().ok()?;
        Some(PropertyChange::Set { key, value, lock: false })
    };
    let changes = [set(NODE, Value::text(me.as_str())), set(LEASE, Value::text(lease.to_string()))];
    let changes = changes.into_iter().flatten().collect();
    let mut leader = Reserved::new(point.clone(), Kind::of(Base::Base), changes, Status::ready());
    leader.lease = Some(lease);
    let made = registry.put_all_reserved_if(by, vec![leader], Some(&Provided::Absent(point))).await?;
    let made = made.first().map(|created| created.resource.created).unwrap_or_default();
    Ok(Mandate { made, lease })
}

/// A time of leading, which ends when this is dropped.
struct Term(AbortHandle);

impl Drop for Term {
    fn drop(&mut self) {
        self.0.abort();
    }
}
