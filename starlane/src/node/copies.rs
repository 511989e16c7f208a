//! The content that other nodes of the registry have: copied here soon after a resource names it, so that it is not lost with the
//! node that took it in.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::time::Duration;

use resource_registry::{BlobStore, Registry, blob_of};
use starlane_core::{Blob, Digest, Problem};

use super::follow::{Follow, News};

/// All that names content.
const NAMES_CONTENT: &str = "**[exists(digest)]";
/// How long to wait before what could not be copied is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How much is copied at a time: the rest of what is listed at the start waits.
const AT_ONCE: usize = 2;

/// Copies what is missing here, for as long as the node runs.
pub(super) async fn keep_up(registry: Registry, blobs: BlobStore) -> Result<(), Problem> {
    let mut follow = Follow::new(registry, NAMES_CONTENT)?;
    let mut open = Open::default();
    let mut copying = tokio::task::JoinSet::new();
    let mut again = tokio::time::interval(AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while copying.len() < AT_ONCE
            && let Some(blob) = open.next()
        {
            let blobs = blobs.clone();
            copying.spawn(async move { (blob, blobs.bring(&blob).await) });
        }
        tokio::select! {
            news = follow.next() => match news {
                Some(News::Is { now, before }) => {
                    let (now, before) = (blob_of(&now), before.and_then(|before| blob_of(&before)));
                    if now != before {
                        open.extend(now);
                        open.gone(before);
                    }
                }
                Some(News::Gone(last)) => open.gone(blob_of(&last)),
                Some(News::Complete) => {}
                None => return Ok(()),
            },
            Some(copied) = copying.join_next() => {
                if let Ok((blob, result)) = copied {
                    if let Err(error) = &result {
                        tracing::debug!(digest = %blob.digest, "content is not copied yet: {error}");
                    }
                    open.done(blob, result.is_ok());
                }
            }
            _ = again.tick() => open.again(),
        }
    }
}

/// What is still to be copied.
#[derive(Debug, Default)]
struct Open {
    all: HashMap<Digest, Missing>,
    queue: VecDeque<Digest>,
}

#[derive(Debug)]
struct Missing {
    blob: Blob,
    /// How many resources name it, of those that were told since it is missing.
    named: usize,
    /// For its next try.
    waits: bool,
}

impl Open {
    fn extend(&mut self, blob: Option<Blob>) {
        let Some(blob) = blob else { return };
        match self.all.entry(blob.digest) {
            Entry::Vacant(entry) => {
                entry.insert(Missing { blob, named: 1, waits: false });
                self.queue.push_back(blob.digest);
            }
            Entry::Occupied(mut entry) => entry.get_mut().named += 1,
        }
    }

    /// A resource does not name it any more.
    fn gone(&mut self, blob: Option<Blob>) {
        let Some(blob) = blob else { return };
        if let Entry::Occupied(mut entry) = self.all.entry(blob.digest) {
            entry.get_mut().named -= 1;
            if entry.get().named == 0 {
                entry.remove();
            }
        }
    }

    fn next(&mut self) -> Option<Blob> {
        loop {
            let digest = self.queue.pop_front()?;
            if let Some(missing) = self.all.get(&digest) {
                return Some(missing.blob);
            }
        }
    }

    fn done(&mut self, blob: Blob, is_here: bool) {
        if is_here {
            self.all.remove(&blob.digest);
        } else if let Some(missing) = self.all.get_mut(&blob.digest) {
            missing.waits = true;
        }
    }

    /// Whatever failed is tried again.
    fn again(&mut self) {
        for (digest, missing) in &mut self.all {
            if std::mem::take(&mut missing.waits) {
                self.queue.push_back(*digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_tried_again_and_what_is_here_is_not() {
        let blob = |byte| Blob { digest: Digest([byte; 32]), bytes: 5 };
        let mut open = Open::default();
        for byte in [1, 2, 1] {
            open.extend(Some(blob(byte)));
        }
        assert_eq!([open.next(), open.next(), open.next()], [Some(blob(1)), Some(blob(2)), None]);
        open.extend(Some(blob(1)));
        open.done(blob(1), false);
        open.done(blob(2), true);
        assert_eq!(open.next(), None, "not at once");
        open.again();
        assert_eq!([open.next(), open.next()], [Some(blob(1)), None]);
        open.again();
        assert_eq!(open.next(), None, "it is under way");
        open.done(blob(1), true);
        open.again();
        assert_eq!(open.next(), None);
        // It may be needed anew when it is named anew, and not when nothing names it any more.
        open.extend(Some(blob(1)));
        open.extend(Some(blob(1)));
        open.gone(Some(blob(1)));
        assert_eq!(open.next(), Some(blob(1)));
        open.gone(Some(blob(1)));
        open.done(blob(1), false);
        open.again();
        assert_eq!(open.next(), None);
    }
}
