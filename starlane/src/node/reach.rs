//! The leader and the hosts of other nodes, asked in the same way wherever they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use gateway::TokenTerms;
use gateway::shapes::{DeadLetter, DeadLetterList, LogLine, TokenInfo, Why};
use mechtron_host::Host;
use resource_registry::Registry;
use serde::Serialize;
use serde::de::DeserializeOwned;
use starlane_core::{Agent, Code, NodeName, Point, Problem, Resource};

use super::dead_letters::DeadLetters;
use super::homes::{Home, Homes};
use super::leader::Leader;
use super::leadership::leader;
use super::links::{ASK_TIMEOUT, Links};
use super::mesh::{activation_json, log_line};
use super::services::{HOST, HostAsk, LEADER, LeaderAsk, Logged, MadeToken, NodeLife, Placed, Terms};

/// Reaches the leader and the hosts.
#[derive(Clone)]
pub(super) struct Reach {
    /// On the nodes of the registry.
    pub(super) leader: Option<Leader>,
    pub(super) registry: Registry,
    pub(super) links: Links,
    pub(super) homes: Homes,
    pub(super) host: Host,
    pub(super) dead: DeadLetters,
}

/// How many messages wait for mechtrons.
pub(super) struct Waiting {
    /// Of those that some wait for.
    counts: HashMap<Point, u64>,
    /// The other nodes that told theirs.
    told: HashSet<NodeName>,
}

impl Waiting {
    /// How many wait for a mechtron; `None` when its node did not tell, or it lives nowhere.
    pub(super) fn of(&self, resource: &Arc<Resource>, homes: &Homes) -> Option<u64> {
        let known = match homes.of(resource) {
            Home::Here => true,
            Home::There(node) => self.told.contains(&node),
            Home::Nowhere => false,
        };
        known.then(|| self.counts.get(&resource.point).copied().unwrap_or_default())
    }
}

impl Reach {
    /// The leader, when it is this node.
    fn leads_here(&self) -> Result<&Leader, NodeName> {
        let leads = leader(&self.registry, self.homes.home());
        self.leader.as_ref().filter(|_| leads == *self.homes.me()).ok_or(leads)
    }

    async fn lead<T: DeserializeOwned>(
        &self,
        leads: &NodeName,
        ask: &LeaderAsk,
        timeout: Duration,
    ) -> Result<T, Problem> {
        Ok(self.links.ask(leads, LEADER, ask, &[], timeout).await?.0)
    }

    /// Asks what any node of the registry can do.
    async fn any<T: DeserializeOwned>(&self, ask: &LeaderAsk) -> Result<T, Problem> {
        self.links.ask_registry(LEADER, ask, ASK_TIMEOUT).await
    }

    /// How the nodes are, as the leader knows.
    pub(super) async fn nodes(&self) -> Result<Vec<NodeLife>, Problem> {
        match self.leads_here() {
            Ok(leader) => leader.nodes().await,
            Err(leads) => self.lead(&leads, &LeaderAsk::Nodes, ASK_TIMEOUT).await,
        }
    }

    /// Why a point lives where it does.
    pub(super) async fn why(&self, point: Point) -> Result<Why, Problem> {
        match self.leads_here() {
            Ok(leader) => leader.why(point).await,
            Err(leads) => self.lead(&leads, &LeaderAsk::Why { point }, ASK_TIMEOUT).await,
        }
    }

    /// Moves a mechtron; done when it lives there.
    pub(super) async fn move_to(
        &self,
        point: Point,
        to: NodeName,
        timeout: Duration,
    ) -> Result<Placed, Problem> {
        let late = || {
            Problem::new(Code::Timeout, format!("`{point}` is still on its way to `{to}`"))
                .at(&point)
                .help(format!("`starlane why {point}` says what it waits for"))
        };
        let moved = async {
            match self.leads_here() {
                Ok(leader) => leader.move_to(point.clone(), to.clone()).await,
                Err(leads) => {
                    let ask = LeaderAsk::Move { point: point.clone(), to: to.clone() };
                    self.lead(&leads, &ask, timeout).await
                }
            }
        };
        tokio::time::timeout(timeout, moved).await.unwrap_or_else(|_| Err(late()))
    }

    /// Shuts a node out.
    pub(super) async fn revoke(&self, agent: Agent, name: NodeName) -> Result<(), Problem> {
        match &self.leader {
            Some(leader) => leader.revoke(&agent, &name).await,
            None => self.any(&LeaderAsk::Revoke { agent, name }).await,
        }
    }

    /// Makes a token.
    pub(super) async fn make_token(&self, agent: Agent, terms: TokenTerms) -> Result<MadeToken, Problem> {
        let TokenTerms { role, ttl, labels, name } = terms;
        let terms = Terms { role, ttl_seconds: ttl.as_secs().max(1), labels, name };
        match &self.leader {
            Some(leader) => leader.make_token(&agent, terms).await,
            None => self.any(&LeaderAsk::MakeToken { agent, terms }).await,
        }
    }

    /// The tokens that can still be used.
    pub(super) async fn tokens(&self) -> Result<Vec<TokenInfo>, Problem> {
        match &self.leader {
            Some(leader) => leader.tokens(),
            None => self.any(&LeaderAsk::Tokens).await,
        }
    }

    /// Takes a token back.
    pub(super) async fn delete_token(&self, agent: Agent, id: String) -> Result<(), Problem> {
        match &self.leader {
            Some(leader) => leader.delete_token(&agent, &id).await,
            None => self.any(&LeaderAsk::DeleteToken { agent, id }).await,
        }
    }

    /// What the host of a mechtron knows of it; `None` for one that had no message yet, or lives nowhere.
    ///
    /// # Errors
    /// When its node does not answer.
    pub(super) async fn info(&self, resource: &Arc<Resource>) -> Result<Option<serde_json::Value>, Problem> {
        match self.homes.of(resource) {
            Home::Here => Ok(self.host.info(&resource.point).await.map(activation_json)),
            Home::There(node) => {
                let ask = HostAsk::Info { point: resource.point.clone() };
                Ok(self.links.ask(&node, HOST, &ask, &[], ASK_TIMEOUT).await?.0)
            }
            Home::Nowhere => Ok(None),
        }
    }

    /// The last lines of a mechtron and, when it is followed, those to come; the stream ends when its node is lost.
    ///
    /// # Errors
    /// When its node does not answer.
    pub(super) async fn logs(
        &self,
        resource: &Arc<Resource>,
        tail: usize,
        follow: bool,
    ) -> Result<BoxStream<'static, LogLine>, Problem> {
        let point = resource.point.clone();
        let Home::There(node) = self.homes.of(resource) else {
            let lines = self.host.logs(&point, tail, follow);
            let next = |mut lines: mechtron_host::LogStream| async move {
                lines.next().await.map(|line| (log_line(line), lines))
            };
            return Ok(stream::unfold(lines, next).boxed());
        };
        let first: Logged = self.ask_host(&node, &HostAsk::Logs { point, tail, follow }).await?;
        let more =
            stream::unfold((self.clone(), node, first.follower), |(reach, node, follower)| async move {
                let ask = HostAsk::MoreLogs { follower: follower? };
                let Logged { lines, follower } = reach.ask_host(&node, &ask).await.ok()?;
                Some((stream::iter(lines), (reach, node, follower)))
            });
        Ok(stream::iter(first.lines).chain(more.flatten()).boxed())
    }

    /// How many messages wait for mechtrons, on all nodes that answer.
    pub(super) async fn waiting(&self) -> Waiting {
        let there = self.ask_all::<Vec<(Point, u64)>>(&HostAsk::Waiting);
        let (here, there) = futures::future::join(self.host.waiting(), there).await;
        let mut waiting = Waiting { counts: here.into_iter().collect(), told: HashSet::new() };
        for (node, answer) in there {
            if let Ok(counts) = answer {
                waiting.counts.extend(counts);
                waiting.told.insert(node);
            }
        }
        waiting
    }

    /// The dead letters of a space, of all nodes.
    pub(super) async fn dead_letters(&self, space: &str) -> DeadLetterList {
        let ask = HostAsk::DeadLetters { space: space.to_owned() };
        let there = self.ask_all::<(u64, Vec<DeadLetter>)>(&ask).await;
        let (mut count, mut letters) = self.dead.of(space);
        let mut missing = Vec::new();
        for (node, answer) in there {
            match answer {
                Ok((more, theirs)) => {
                    count += more;
                    letters.extend(theirs);
                }
                Err(_) => missing.push(node),
            }
        }
        letters.sort_by_key(|letter| std::cmp::Reverse(letter.time));
        DeadLetterList { count, letters, missing }
    }

    /// Asks the hosts of all other nodes that can be reached.
    async fn ask_all<T: DeserializeOwned>(&self, ask: &HostAsk) -> Vec<(NodeName, Result<T, Problem>)> {
        let routes = self.links.map.routes();
        let me = self.homes.me();
        let nodes =
            routes.members().iter().filter(|member| member.is_reachable() && member.advert.name != *me);
        let asked = nodes.map(|member| {
            let node = member.advert.name.clone();
            async move {
                let answer = self.ask_host(&node, ask).await;
                (node, answer)
            }
        });
        futures::future::join_all(asked.collect::<Vec<_>>()).await
    }

    async fn ask_host<T: DeserializeOwned>(
        &self,
        node: &NodeName,
        ask: &impl Serialize,
    ) -> Result<T, Problem> {
        let (answer, _): (T, Bytes) = self.links.ask(node, HOST, ask, &[], ASK_TIMEOUT).await?;
        Ok(answer)
    }
}
