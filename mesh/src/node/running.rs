//! What runs here for other nodes, so that it can be ended when they do not wait any more.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use starlane_core::frame::Header;
use starlane_core::{MessageId, NodeId};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::room::Room;

/// Requests and calls of other nodes that run here.
#[derive(Default)]
pub(crate) struct Running {
    tasks: Mutex<HashMap<Asked, Task, RandomState>>,
}

enum Task {
    /// It is about to run.
    Starting,
    /// It was to be ended before it began.
    Over,
    Begun(AbortHandle),
}

/// Who asked, and what.
type Asked = (NodeId, MessageId);

struct Registered {
    running: Arc<Running>,
    asked: Asked,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.running.tasks.lock().remove(&self.asked);
    }
}

impl Running {
    /// Whether the same runs for the node already.
    pub(crate) fn holds(&self, asked: &Header) -> bool {
        self.tasks.lock().contains_key(&(asked.from, asked.id))
    }

    /// Runs something for a node until it is done or the node does not wait any more.
    pub(crate) fn run(
        self: &Arc<Self>,
        on: &Handle,
        asked: &Header,
        room: Room,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let asked = (asked.from, asked.id);
        self.tasks.lock().insert(asked, Task::Starting);
        let registered = Registered { running: self.clone(), asked };
        // Without the lock: a runtime that ends drops the work, which takes it.
        let task = on.spawn(async move {
            work.await;
            drop((registered, room));
        });
        let mut tasks = self.tasks.lock();
        // It may be over by now.
        if let Some(known) = tasks.get_mut(&asked) {
            let over = matches!(known, Task::Over);
            *known = Task::Begun(task.abort_handle());
            drop(tasks);
            if over {
                task.abort();
            }
        }
    }

    /// A node does not wait any more: what runs for it is dropped where it stands.
    pub(crate) fn cancel(&self, from: NodeId, id: MessageId) {
        let task = {
            let mut tasks = self.tasks.lock();
            match tasks.get_mut(&(from, id)) {
                Some(Task::Begun(task)) => Some(task.clone()),
                Some(starting) => {
                    *starting = Task::Over;
                    None
                }
                None => None,
            }
        };
        if let Some(task) = task {
            task.abort();
        }
    }

    /// How much runs.
    pub(crate) fn len(&self) -> usize {
        self.tasks.lock().len()
    }
}
