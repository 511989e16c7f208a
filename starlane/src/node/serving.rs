//! Who answers and who hears from outside the mesh: what the sessions of this node want is written into the registry, so that
//! all nodes know where messages and events go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gateway::portal::{Pools, Topics};
use resource_registry::{Error, Registry};
use starlane_core::{
    Agent, Code, Interest, Message, NodeName, Phase, Point, Problem, PropertyChange, Resource, Status,
};

use super::follow::{Follow, News};
use super::homes::{Home, nearest};
use super::links::Links;
use super::members::NODES;

/// All that somebody serves or subscribes to, at whichever node.
const INTERESTING: &str = "**[exists(served) or exists(subscribed)]";
/// How often a resource is read anew that somebody else changed meanwhile.
const ATTEMPTS_MAX: usize = 16;
/// How long to wait before what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the last of it may take when the node stops.
const LEAVE: Duration = Duration::from_secs(2);
/// What a point says of itself that nobody serves any more.
const UNSERVED: &str = "nobody serves it";

/// The services and subscribers of this node, and where those of others are. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Serving(Arc<Parts>);

struct Parts {
    registry: Registry,
    by: Agent,
    me: NodeName,
    links: Links,
    pools: Pools,
    topics: Topics,
}

impl Serving {
    pub(super) fn new(registry: Registry, by: Agent, me: NodeName, links: Links) -> Self {
        let (pools, topics) = (Pools::new(), Topics::new());
        Self(Arc::new(Parts { registry, by, me, links, pools, topics }))
    }

    /// The points that are served here.
    pub(super) fn pools(&self) -> &Pools {
        &self.0.pools
    }

    /// The topics that are heard here.
    pub(super) fn topics(&self) -> &Topics {
        &self.0.topics
    }

    /// Where the messages of a resource go that are answered from outside; `None` when nobody serves it. Here if it can be,
    /// else always to the same node that can be reached.
    pub(super) fn home(&self, resource: &Resource) -> Option<Home> {
        if self.0.pools.serves(&resource.point) {
            return Some(Home::Here);
        }
        let mut nodes = Interest::Serves.nodes(resource);
        nodes.retain(|node| *node != self.0.me);
        let routes = self.0.links.map.routes();
        let reached: Vec<_> =
            nodes.iter().filter(|node| routes.next_hop(node.id()).is_some()).cloned().collect();
        let chosen = nearest(&self.0.me, &reached).or_else(|| nearest(&self.0.me, &nodes))?;
        Some(Home::There(chosen.clone()))
    }

    /// Tells all who subscribe to an event's topic, here and elsewhere.
    pub(super) fn publish(&self, topic: &Resource, event: Message) {
        for node in Interest::Subscribes.nodes(topic).into_iter().filter(|node| *node != self.0.me) {
            if let Err(refusal) = self.0.links.handle.send(node.id(), event.clone()) {
                let topic = &topic.point;
                tracing::warn!(%topic, %node, code = %refusal.code, "an event was not delivered: {refusal}");
            }
        }
        self.0.topics.tell(event);
    }

    /// Writes down what is wanted of a point here, if that is not written already.
    ///
    /// # Errors
    /// `NotFound` when nothing is there, `Unreachable` when the registry is out of reach.
    pub(super) async fn settle(&self, point: &Point) -> Result<(), Problem> {
        let has = |interest| match interest {
            Interest::Serves => self.0.pools.serves(point),
            Interest::Subscribes => self.0.topics.hears(point),
        };
        self.write(point, &self.0.me, has).await
    }

    /// Writes what a node has of a point, if that is not written already.
    async fn write(
        &self,
        point: &Point,
        node: &NodeName,
        has: impl Fn(Interest) -> bool,
    ) -> Result<(), Problem> {
        let Parts { registry, by, .. } = &*self.0;
        for _ in 0..ATTEMPTS_MAX {
            let Some(resource) = registry.get(point) else {
                registry.fresh().await?;
                if registry.get(point).is_none() {
                    return Err(Problem::new(Code::NotFound, format!("nothing is at `{point}`")).at(point));
                }
                continue;
            };
            let interests = Interest::ALL.into_iter();
            let changes: Vec<PropertyChange> =
                interests.filter_map(|interest| interest.change(&resource, node, has(interest))).collect();
            if changes.is_empty() {
                return Ok(());
            }
            let status = status_after(&resource, &changes);
            match registry.note(by, point, &changes, status.as_ref(), resource.modified).await {
                Ok(_) => return Ok(()),
                Err(Error::RevisionConflict { .. }) => registry.fresh().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Problem::new(Code::Busy, format!("`{point}` is changed all the time")).at(point))
    }

    /// Keeps what is written as it is, for as long as the node runs: when sessions come and go, and when the registry says
    /// something else.
    pub(super) async fn keep_up(self) -> Result<(), Problem> {
        let mut follow = Follow::new(self.0.registry.clone(), INTERESTING)?;
        let mut open: BTreeSet<Point> = BTreeSet::new();
        loop {
            let again = async {
                match open.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(AGAIN).await,
                }
            };
            tokio::select! {
                points = self.0.pools.changed() => open.extend(points),
                points = self.0.topics.changed() => open.extend(points),
                news = follow.next() => match news {
                    Some(News::Is { now, .. }) => drop(open.insert(now.point.clone())),
                    Some(News::Gone(last)) => drop(open.insert(last.point.clone())),
                    Some(News::Complete) => {}
                    None => return Ok(()),
                },
                () = again => {}
            }
            let mut left = BTreeSet::new();
            for point in std::mem::take(&mut open) {
                match self.settle(&point).await {
                    // What is gone is served no more, whoever still waits for its messages.
                    Ok(()) => {}
                    Err(problem) if problem.code == Code::NotFound => {}
                    Err(problem) => {
                        tracing::warn!(%point, "who serves it is not written down yet: {problem}");
                        left.insert(point);
                    }
                }
            }
            open = left;
        }
    }

    /// Takes nodes that are dead out of what is written, for as long as the node runs: for the registry's node.
    pub(super) async fn forget_the_dead(self) -> Result<(), Problem> {
        let mut follow = Follow::new(self.0.registry.clone(), NODES)?;
        while let Some(news) = follow.next().await {
            let node = match &news {
                News::Is { now, .. } if now.status.phase != Phase::Ready => now,
                News::Gone(last) => last,
                News::Is { .. } | News::Complete => continue,
            };
            let Some(name) = NodeName::of_point(&node.point).filter(|name| *name != self.0.me) else {
                continue;
            };
            self.forget(&name).await?;
        }
        Ok(())
    }

    async fn forget(&self, node: &NodeName) -> Result<(), Problem> {
        let all = self.0.registry.select(&INTERESTING.parse()?, usize::MAX, None)?;
        for resource in all.resources {
            match self.write(&resource.point, node, |_| false).await {
                Err(problem) if problem.code != Code::NotFound => {
                    tracing::warn!(point = %resource.point, %node, "a dead node still serves it: {problem}");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes that nobody is served and nothing heard here any more, when the node stops.
    pub(super) async fn leave(&self) {
        let written = async {
            loop {
                let points = tokio::select! {
                    biased;
                    points = self.0.pools.changed() => points,
                    points = self.0.topics.changed() => points,
                    () = std::future::ready(()) => return,
                };
                for point in points {
                    // Who finds this node gone takes it out.
                    _ = self.settle(&point).await;
                }
            }
        };
        _ = tokio::time::timeout(LEAVE, written).await;
    }
}

/// Whether somebody serves a resource at some node.
pub(super) fn is_served(resource: &Resource) -> bool {
    resource.property(Interest::Serves.key()).is_some()
}

/// How a resource is after it began or ceased to be served; `None` when that says nothing of it.
fn status_after(resource: &Resource, changes: &[PropertyChange]) -> Option<Status> {
    let served = changes.iter().find(|change| change.key().as_str() == Interest::Serves.key())?;
    let waits = resource.status == Status::because(Phase::Pending, UNSERVED);
    match served {
        PropertyChange::Set { .. } if waits => Some(Status::ready()),
        PropertyChange::Unset(_) if resource.status.phase == Phase::Ready => {
            Some(Status::because(Phase::Pending, UNSERVED))
        }
        _ => None,
    }
}
