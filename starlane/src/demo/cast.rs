//! The processes of a story, which end with it however it ends.

use std::collections::BTreeMap;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The processes of a story, which end with it however it ends.
#[derive(Debug, Default)]
pub(super) struct Cast(Mutex<Processes>);

#[derive(Debug, Default)]
struct Processes {
    nodes: BTreeMap<String, Child>,
    watch: Option<Child>,
    /// Nothing is started any more.
    over: bool,
}

impl Cast {
    fn lock(&self) -> MutexGuard<'_, Processes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all processes; one that is started later ends at once.
    pub(super) fn end(&self) {
        let mut processes = self.lock();
        processes.over = true;
        let (nodes, watch) = (std::mem::take(&mut processes.nodes), processes.watch.take());
        watch.into_iter().chain(nodes.into_values()).for_each(end);
    }

    /// Whether no node runs any more.
    pub(super) fn is_alone(&self) -> bool {
        self.lock().nodes.values_mut().all(|node| !matches!(node.try_wait(), Ok(None)))
    }

    /// A node is started.
    pub(super) fn enter(&self, name: &str, node: Child) {
        let mut processes = self.lock();
        if processes.over {
            return end(node);
        }
        processes.nodes.insert(name.to_owned(), node);
    }

    /// A node is to be ended otherwise.
    pub(super) fn leave(&self, name: &str) -> Option<Child> {
        self.lock().nodes.remove(name)
    }

    /// A watch is started.
    pub(super) fn set_watch(&self, watch: Child) {
        let mut processes = self.lock();
        if processes.over {
            return end(watch);
        }
        processes.watch = Some(watch);
    }

    /// Ends the watch.
    pub(super) fn end_watch(&self) {
        let watch = self.lock().watch.take();
        watch.into_iter().for_each(end);
    }
}

fn end(mut child: Child) {
    // It may have ended by itself.
    _ = child.kill();
    _ = child.wait();
}
