//! The desk of a node that keeps no authority: what is asked there goes on over links to a node of the registry.

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use starlane_core::frame::Service;
use starlane_core::{Code, NodeId, Outcome};

use super::{Answer, Desk, Refusal, Request};
use crate::node::answer;
use crate::{Handle, Map};

/// How long the registry's node may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Carries requests to join and to renew to a node of the registry, where [`super::Service::answer`] answers them. A clone
/// is the same.
#[derive(Clone)]
pub struct Carrier {
    map: Map,
    service: Service,
    links: Arc<OnceLock<Handle>>,
}

/// Why there is no answer.
pub(super) enum NotCarried {
    /// It surely was not asked: no node of the registry can be reached, or it is busy.
    OutOfReach,
    /// Nobody knows whether it was done.
    Unknown,
}

impl Carrier {
    /// A carrier that finds the nodes of the registry on a map, and asks them for a service. It carries nothing before it
    /// has links.
    pub fn new(map: Map, service: Service) -> Self {
        Self { map, service, links: Arc::default() }
    }

    /// Gives it the links of its node, which themselves begin with who takes connections of newcomers. The first ones stay.
    pub fn set_links(&self, links: Handle) {
        // Those are the same node's.
        let _ = self.links.set(links);
    }

    /// The nearest other node of the registry.
    fn registry(&self, links: &Handle) -> Option<NodeId> {
        let routes = self.map.routes();
        let me = links.me().name.id();
        let nodes = routes.members().iter().filter(|member| member.advert.registry && member.id != me);
        let nearest = nodes.filter_map(|member| Some((member.route?.cost, member.id))).min();
        nearest.map(|(_, node)| node)
    }

    pub(super) async fn carry(&self, request: &Request) -> Result<Answer, NotCarried> {
        let links = self.links.get().ok_or(NotCarried::OutOfReach)?;
        let registry = self.registry(links).ok_or(NotCarried::OutOfReach)?;
        let request = request.encode().map_err(|_| NotCarried::OutOfReach)?;
        match links.call_outcome(registry, self.service, request.into(), PATIENCE).await {
            Outcome::Unknown(_) => Err(NotCarried::Unknown),
            Outcome::Rejected(_) => Err(NotCarried::OutOfReach),
            asked => match answer(asked) {
                Ok(answer) => Answer::decode(&answer).map_err(|_| NotCarried::Unknown),
                Err(refusal) if refusal.code == Code::Busy => Err(NotCarried::OutOfReach),
                Err(_) => Err(NotCarried::Unknown),
            },
        }
    }
}

impl Desk for Carrier {
    async fn answer(&self, request: Request) -> Answer {
        match self.carry(&request).await {
            Ok(answer) => answer,
            Err(NotCarried::OutOfReach) => Answer::Refused(Refusal::OutOfReach),
            // A token may be used up. Whoever asked is told so when the service breaks off.
            Err(NotCarried::Unknown) => pending().await,
        }
    }
}
