//! The mechtrons of this node as other nodes ask for them: let go of, taken over, told of.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gateway::shapes::LogLine;
use mechtron_host::{Host, LogStream};
use parking_lot::Mutex;
use resource_registry::Registry;
use starlane_core::placement::epoch_of;
use starlane_core::{Code, Epoch, NodeName, Point, Problem, Refusal, Resource};
use tokio::time::Instant;

use super::commands::not_found;
use super::dead_letters::DeadLetters;
use super::follow::{Follow, News};
use super::fresh::there;
use super::homes::{Home, Homes};
use super::keeping::Keeping;
use super::leadership::leader;
use super::mesh::activation_json;
use super::outside::durability;
use super::provision::Provision;
use super::router::has_code;
use super::services::{self, HostAsk, Logged};

/// How many others follow logs of this node; the next is refused as busy.
const FOLLOWERS_MAX: usize = 256;
/// How many lines are told at a time.
const LINES_MAX: usize = 256;
/// How long whoever follows waits for the next line at a time.
const LINES_WAIT: Duration = Duration::from_secs(5);
/// Whoever follows and does not ask for so long is forgotten.
const FOLLOWER_IDLE: Duration = Duration::from_secs(30);
/// Of how many mechtrons another node is told how much waits for them.
const WAITING_MAX: usize = 10_000;
/// All that has code, so that it lives somewhere.
pub(super) const MECHTRONS: &str = "**[exists(wasm.src)]";

/// The mechtrons of this node. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Hosting(Arc<Inner>);

struct Inner {
    host: Host,
    homes: Homes,
    registry: Registry,
    keeping: Keeping,
    dead: DeadLetters,
    followers: Mutex<HashMap<u64, Follower>>,
    last: AtomicU64,
}

/// Another node that reads the log of a mechtron.
struct Follower {
    lines: Arc<tokio::sync::Mutex<LogStream>>,
    asked: Instant,
}

impl Hosting {
    pub(super) fn new(
        host: Host,
        homes: Homes,
        registry: Registry,
        keeping: Keeping,
        dead: DeadLetters,
    ) -> Self {
        let (followers, last) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { host, homes, registry, keeping, dead, followers, last }))
    }

    /// How many messages wait for each mechtron here that some wait for.
    async fn waiting(&self) -> Result<Vec<(Point, u64)>, Problem> {
        let waiting = self.0.host.waiting().await;
        if waiting.len() <= WAITING_MAX {
            return Ok(waiting);
        }
        let detail = format!("messages wait for {} mechtrons, too many to tell another node", waiting.len());
        Err(Problem::new(Code::TooLarge, detail).help("ask the node itself"))
    }

    /// Answers another node.
    pub(super) fn answer(
        &self,
        from: NodeName,
        (ask, rest): (HostAsk, Bytes),
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let hosting = self.clone();
        async move {
            if matches!(ask, HostAsk::Release { .. } | HostAsk::Adopt { .. })
                && !hosting.is_led_by(&from).await
            {
                return Err(Refusal::new(Code::Forbidden, "only the leader moves mechtrons"));
            }
            match ask {
                HostAsk::Release { point, epoch, within_ms } => {
                    let within = Duration::from_millis(within_ms);
                    let released = hosting.release(&point, epoch, within).await;
                    services::answer_with(released.map(|state| (state.is_some(), state.unwrap_or_default())))
                }
                HostAsk::Adopt { point, epoch, state } => {
                    services::answer(hosting.adopt(&point, epoch, state.then_some(rest)).await)
                }
                HostAsk::Info { point } => {
                    services::answer(Ok(hosting.0.host.info(&point).await.map(activation_json)))
                }
                HostAsk::Logs { point, tail, follow } => {
                    services::answer(hosting.logs(&point, tail, follow).await)
                }
                HostAsk::MoreLogs { follower } => services::answer(hosting.more_logs(follower).await),
                HostAsk::DeadLetters { space } => services::answer(Ok(hosting.0.dead.of(&space))),
                HostAsk::Waiting => services::answer(hosting.waiting().await),
            }
        }
        .boxed()
    }

    /// Whether a node leads, as far as this one knows by now.
    async fn is_led_by(&self, node: &NodeName) -> bool {
        let Inner { registry, homes, .. } = &*self.0;
        // When the registry is out of reach, what is known here has to do.
        leader(registry, homes.home()) == *node
            || registry.fresh().await.is_ok() && leader(registry, homes.home()) == *node
    }

    /// Lets go of a mechtron. What its handlers do comes to its end within a time; its messages find the way to its next
    /// node by themselves. Tells its state when only this node has it. Asked again, the same again.
    pub(super) async fn release(
        &self,
        point: &Point,
        epoch: Epoch,
        within: Duration,
    ) -> Result<Option<Bytes>, Problem> {
        let Inner { host, homes, registry, keeping, .. } = &*self.0;
        let resource = there(registry, point).await?;
        let resource = match epoch_of(&resource) < epoch {
            // Whoever asks knows of a later assignment than this node.
            true => newest(registry, point).await?,
            false => resource,
        };
        if epoch_of(&resource) > epoch {
            let detail = format!("`{point}` was assigned anew, under the epoch {}", epoch_of(&resource).0);
            return Err(Problem::new(Code::EpochStale, detail).at(point));
        }
        // Before the host is asked, so that no message finds it there any more.
        homes.let_go(point, epoch, None);
        let released = host.release(point, within).await.map_err(Problem::from)?;
        // Only of one that wants it in memory, and once. It may have been assigned anew meanwhile.
        if registry.get(point).is_some_and(|now| epoch_of(&now) <= epoch) {
            homes.let_go(point, epoch, released.state);
        }
        drop(released.waiting);
        let durability = durability(point, resource.property("durability"))?;
        if let Some(held) = homes.held(point, epoch).and_then(|held| held.state) {
            return Ok(Some(held));
        }
        Ok(keeping.give(&resource, durability)?)
    }

    /// Takes the state of a mechtron over that will live here.
    pub(super) async fn adopt(
        &self,
        point: &Point,
        epoch: Epoch,
        state: Option<Bytes>,
    ) -> Result<(), Problem> {
        let Inner { registry, keeping, .. } = &*self.0;
        let known = there(registry, point).await?;
        // The epoch is one more than the revision that was decided on.
        let resource = match known.modified.0.saturating_add(1) < epoch.0 {
            true => newest(registry, point).await?,
            false => known,
        };
        if epoch_of(&resource) >= epoch {
            // It acts for it already: what is given by a leader that is no more must not take the place of what came since.
            let detail = format!("`{point}` was assigned already, under the epoch {}", epoch_of(&resource).0);
            return Err(Problem::new(Code::EpochStale, detail).at(point));
        }
        let durability = durability(point, resource.property("durability"))?;
        Ok(keeping.adopt(point, epoch, durability, state).await?)
    }

    async fn logs(&self, point: &Point, tail: usize, follow: bool) -> Result<Logged, Problem> {
        let stream = self.0.host.logs(point, tail.min(LINES_MAX), follow);
        let stream = Arc::new(tokio::sync::Mutex::new(stream));
        let mut follower = None;
        if follow {
            let mut followers = self.0.followers.lock();
            followers.retain(|_, follower| follower.asked.elapsed() < FOLLOWER_IDLE);
            if followers.len() >= FOLLOWERS_MAX {
                let mut problem = Problem::new(Code::Busy, "too many follow the logs of this node")
                    .help("end some of the other `starlane logs --follow`");
                problem.retry_after = Some(10);
                return Err(problem);
            }
            let id = self.0.last.fetch_add(1, Ordering::Relaxed);
            followers.insert(id, Follower { lines: stream.clone(), asked: Instant::now() });
            follower = Some(id);
        }
        let (lines, _) = read(&stream, Duration::ZERO).await;
        Ok(Logged { lines, follower })
    }

    async fn more_logs(&self, id: u64) -> Result<Logged, Problem> {
        let stream = {
            let mut followers = self.0.followers.lock();
            followers.get_mut(&id).map(|follower| {
                follower.asked = Instant::now();
                follower.lines.clone()
            })
        };
        let gone =
            || Problem::new(Code::NotFound, "nobody follows by this number any more").help("begin again");
        let stream = stream.ok_or_else(gone)?;
        let (lines, ended) = read(&stream, LINES_WAIT).await;
        let mut followers = self.0.followers.lock();
        if ended {
            followers.remove(&id);
        } else if let Some(follower) = followers.get_mut(&id) {
            follower.asked = Instant::now();
        }
        Ok(Logged { lines, follower: (!ended).then_some(id) })
    }

    /// Keeps up with where mechtrons live and what they are, until the registry is closed.
    pub(super) async fn follow(self, provision: Provision) -> Result<(), Problem> {
        let mut follow = Follow::new(self.0.registry.clone(), MECHTRONS)?;
        while let Some(news) = follow.next().await {
            match news {
                News::Is { now, before } => self.is(&provision, &now, before).await,
                News::Gone(last) => self.gone(&last).await,
                News::Complete => {}
            }
        }
        Ok(())
    }

    async fn is(&self, provision: &Provision, now: &Arc<Resource>, before: Option<Arc<Resource>>) {
        let Inner { host, homes, .. } = &*self.0;
        let point = &now.point;
        let lived_here = before.as_deref().is_some_and(|before| homes.assigned(before) == Home::Here);
        let lives_here = homes.assigned(now) == Home::Here;
        let is_other = before.as_ref().is_none_or(|before| before.properties != now.properties);
        if let Some(before) = before.filter(|_| lives_here && is_other) {
            provision.remember(before);
        }
        if lives_here && is_other || lived_here && !lives_here {
            // Before messages go on that waited for this.
            host.swap(point);
        }
        homes.changed(point, Some(now));
    }

    async fn gone(&self, last: &Resource) {
        let Inner { host, homes, registry, keeping, .. } = &*self.0;
        let point = &last.point;
        homes.changed(point, None);
        match registry.get(point) {
            // Another stands there by now: it is told apart by its epoch.
            Some(now) if has_code(&now) => return host.swap(point),
            Some(_) => return host.remove(point),
            None => host.remove(point),
        }
        if let Err(error) = keeping.forget(point, Some(last.modified)).await {
            tracing::warn!(%point, "the state of a mechtron that is gone stays: {error}");
        }
    }
}

/// The resource at a point as the registry has it now.
async fn newest(registry: &Registry, point: &Point) -> Result<Arc<Resource>, Problem> {
    registry.fresh().await?;
    registry.get(point).ok_or_else(|| not_found(registry, point))
}

/// What can be read now, or the first that comes within a time; and whether that was the last.
async fn read(stream: &tokio::sync::Mutex<LogStream>, wait: Duration) -> (Vec<LogLine>, bool) {
    let mut stream = stream.lock().await;
    let mut lines = Vec::new();
    let mut wait = wait;
    while lines.len() < LINES_MAX {
        match tokio::time::timeout(wait, stream.next()).await {
            Ok(Some(line)) => lines.push(super::mesh::log_line(line)),
            Ok(None) => return (lines, true),
            Err(_) => break,
        }
        wait = Duration::ZERO;
    }
    (lines, false)
}
