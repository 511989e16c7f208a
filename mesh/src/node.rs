//! The node as its links see it: who it is, where frames go, who waits and what runs. The data plane: nothing here
//! waits for the control plane.

mod inbound;
mod outbound;
mod requests;
mod running;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::RwLock;
use starlane_core::{Code, MessageId, NodeId, Refusal};
use tokio::runtime::Handle;

pub use outbound::Request;
pub(crate) use outbound::answer;

use crate::Peer;
use crate::config::Config;
use crate::counters::Counters;
use crate::link::Link;
use crate::local::Local;
use crate::routing::NextHop;
use crate::time::Clock;
use requests::Requests;
pub(crate) use running::Place;
use running::Running;

/// When it is worth trying again after something was full.
const BUSY_RETRY: Duration = Duration::from_millis(100);

/// The node as its links see it.
pub(crate) struct Node {
    pub(crate) me: Peer,
    pub(crate) id: NodeId,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
    pub(crate) requests: Requests,
    running: Arc<Running>,
    local: Arc<dyn Local>,
    /// Where links run.
    transport: Handle,
    /// Where calls run.
    caller: Handle,
    table: RwLock<Arc<Table>>,
    /// Names this start of the node in the ids of calls.
    calls: u64,
    next_call: AtomicU64,
}

/// Where frames go. Replaced as a whole by the control plane.
pub(crate) struct Table {
    pub(crate) routes: Arc<dyn NextHop>,
    pub(crate) links: HashMap<NodeId, Arc<Link>>,
    /// Whether this node may ask others; it does not any more when it stops.
    pub(crate) asks: bool,
}

impl Table {
    /// The link that is next on the way to a node.
    fn toward(&self, to: NodeId) -> Option<&Arc<Link>> {
        self.routes.next_hop(to).and_then(|next| self.links.get(&next)).or_else(|| self.links.get(&to))
    }
}

impl Node {
    pub(crate) fn new(
        me: Peer,
        config: Config,
        local: Arc<dyn Local>,
        transport: Handle,
        caller: Handle,
        clock: Clock,
        calls: u64,
    ) -> Self {
        Self {
            id: me.name.id(),
            me,
            clock,
            counters: Counters::default(),
            requests: Requests::new(config.requests_max),
            running: Arc::default(),
            local,
            transport,
            caller,
            table: RwLock::new(Arc::new(Table {
                routes: Arc::new(HashMap::new()),
                links: HashMap::new(),
                asks: true,
            })),
            calls,
            next_call: AtomicU64::new(0),
            config,
        }
    }

    /// Where frames go from now on.
    pub(crate) fn set_table(&self, table: Table) {
        *self.table.write() = Arc::new(table);
    }

    /// Where frames go.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Where links run.
    pub(crate) fn transport(&self) -> &Handle {
        &self.transport
    }

    /// How much runs here for other nodes.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    fn new_call_id(&self) -> MessageId {
        let count = self.next_call.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        MessageId(u128::from(self.calls) << 64 | u128::from(count))
    }
}

/// A refusal by its reason, with advice on when to try again where there is any.
fn refusal(code: Code, detail: &str) -> Refusal {
    Refusal { retry_after: (code == Code::Busy).then_some(BUSY_RETRY), ..Refusal::new(code, detail) }
}
