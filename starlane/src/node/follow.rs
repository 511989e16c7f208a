//! What a selector means, kept up with for as long as the node runs.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use resource_registry::{Registry, Watch};
use starlane_core::{Change, Event, Point, Problem, Resource, Selector};

/// How long to wait before a watch that was refused is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// One thing that is new.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum News {
    /// It is so now, and was so before.
    Is { now: Arc<Resource>, before: Option<Arc<Resource>> },
    /// It matches no more; as it was last.
    Gone(Arc<Resource>),
    /// All that matched at the beginning was told.
    Complete,
}

/// Tells what is new of a selector's answer, from the answer on. What is missed while the history is too short is made up
/// for by comparing.
pub(super) struct Follow {
    registry: Registry,
    selector: Selector,
    watch: Option<Watch>,
    known: HashMap<Point, Arc<Resource>>,
    /// What was known before a list began and is not in it so far.
    missing: HashMap<Point, Arc<Resource>>,
    ready: VecDeque<News>,
}

impl Follow {
    /// # Errors
    /// When the selector cannot be read.
    pub(super) fn new(registry: Registry, selector: &str) -> Result<Self, Problem> {
        let selector = selector.parse()?;
        let (known, missing, ready) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Ok(Self { registry, selector, watch: None, known, missing, ready })
    }

    /// The next of it; `None` when the registry is closed. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<News> {
        loop {
            if let Some(news) = self.ready.pop_front() {
                return Some(news);
            }
            let Some(watch) = &mut self.watch else {
                match self.registry.watch(&self.selector, None) {
                    Ok(watch) => {
                        self.missing = std::mem::take(&mut self.known);
                        self.watch = Some(watch);
                    }
                    Err(error) => {
                        tracing::warn!(selector = %self.selector, "a watch is refused: {error}");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                continue;
            };
            let event = watch.next().await?;
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Listed { resources, last, .. } => {
                for resource in resources {
                    let before = self.missing.remove(&resource.point);
                    self.put(resource, before);
                }
                if last {
                    let gone = std::mem::take(&mut self.missing).into_values();
                    self.ready.extend(gone.map(News::Gone));
                    self.ready.push_back(News::Complete);
                }
            }
            Event::Changed { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Entered(resource) | Change::Updated(resource) => self.put(resource, None),
                        Change::Left(resource) => {
                            let last = self.known.remove(&resource.point).unwrap_or(resource);
                            self.ready.push_back(News::Gone(last));
                        }
                    }
                }
            }
            // A watch of a selector neither counts nor ranks.
            Event::Counted { .. } | Event::Ranked { .. } | Event::Bookmark { .. } => {}
            Event::Gone { .. } => self.watch = None,
        }
    }

    fn put(&mut self, now: Arc<Resource>, listed: Option<Arc<Resource>>) {
        let before = self.known.insert(now.point.clone(), now.clone()).or(listed);
        if before.as_ref() != Some(&now) {
            self.ready.push_back(News::Is { now, before });
        }
    }
}

#[cfg(test)]
mod tests {
    use resource_registry::{Config, Create, Delete};
    use starlane_core::{Agent, Timestamp};

    use super::*;

    fn registry() -> Registry {
        Registry::open(Config::in_memory(Arc::new(|| Timestamp(1)))).unwrap()
    }

    async fn create(registry: &Registry, text: &str) {
        let by = Agent("mesh:users:ann".parse().unwrap());
        let create = Create::new(text.parse().unwrap(), "Space".parse().unwrap());
        registry.create(&by, create).await.unwrap();
    }

    fn told(news: Option<News>) -> String {
        match news.unwrap() {
            News::Is { now, before } => {
                format!("{} {}", now.point, if before.is_some() { "again" } else { "new" })
            }
            News::Gone(last) => format!("{} gone", last.point),
            News::Complete => "complete".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_was_missed_between_two_watches_is_made_up_for() {
        let registry = registry();
        for name in ["a", "b"] {
            create(&registry, name).await;
        }
        let mut follow = Follow::new(registry.clone(), "*<Space>").unwrap();
        for expected in ["a new", "b new", "complete"] {
            assert_eq!(told(follow.next().await), expected);
        }
        create(&registry, "c").await;
        assert_eq!(told(follow.next().await), "c new");
        // The history is gone: the next watch begins with a list.
        follow.watch = None;
        let by = Agent("mesh:users:ann".parse().unwrap());
        registry.delete(&by, Delete::point("b".parse().unwrap(), false)).await.unwrap();
        create(&registry, "d").await;
        for expected in ["d new", "b gone", "complete"] {
            assert_eq!(told(follow.next().await), expected);
        }
    }
}
