//! What the mechtrons of this node watch: which of them do, and what the registry tells each, from the place on that its state
//! knows of.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use mechtron_host::{Change, ChangeKind, Changes, Host, Place, Step};
use parking_lot::Mutex;
use resource_registry::{Error, Registry, Watch};
use starlane_core::{
    Change as Changed, Code, Event, Point, Problem, Resource, ResumeToken, Revision, Selector,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::artifacts::Artifacts;
use super::follow::{Follow, News};
use super::homes::{Home, Homes};
use super::hosting::MECHTRONS;

/// How many resources of a list are read at a time.
const PAGE: usize = 256;
/// How long to wait before a registry or a host that cannot be asked is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest wait before it is tried again to read what a mechtron watches.
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// Of how many mechtrons it is read at a time what they watch.
const READS_MAX: usize = 16;

/// Lets the host tell mechtrons what they watch.
#[derive(Clone)]
pub(super) struct Watching {
    pub(super) registry: Registry,
    pub(super) homes: Homes,
    pub(super) host: Host,
    pub(super) artifacts: Artifacts,
}

impl Watching {
    /// Lets the host attend to all that live here and watch something, until the registry is closed.
    pub(super) async fn keep_up(self) -> Result<(), Problem> {
        let mut follow = Follow::new(self.registry.clone(), MECHTRONS)?;
        let watching = Arc::new(Mutex::new(HashSet::new()));
        let reads = Arc::new(Semaphore::new(READS_MAX));
        let mut lease = self.homes.lease();
        let mut ends = *lease.borrow_and_update();
        loop {
            tokio::select! {
                news = follow.next() => match news {
                    None => return Ok(()),
                    Some(News::Is { now, before }) => {
                        let is_other = before.is_none_or(|before| before.properties != now.properties);
                        match self.homes.assigned(&now) {
                            Home::Here if is_other => {
                                tokio::spawn(self.clone().look(now, watching.clone(), reads.clone()));
                            }
                            Home::Here => {}
                            Home::There(_) | Home::Nowhere => drop(watching.lock().remove(&now.point)),
                        }
                    }
                    Some(News::Gone(last)) => drop(watching.lock().remove(&last.point)),
                    Some(News::Complete) => {}
                },
                changed = lease.changed(), if ends.is_some() => {
                    let was_over = ends.is_some_and(|ends| ends <= Instant::now());
                    ends = match changed {
                        Ok(()) => *lease.borrow_and_update(),
                        Err(_) => None,
                    };
                    if was_over {
                        // What stopped when the lease was over is told on.
                        let all = watching.lock().iter().cloned().collect();
                        let (host, watching) = (self.host.clone(), watching.clone());
                        tokio::spawn(async move { attend(&host, &watching, all).await });
                    }
                }
            }
        }
    }

    /// Lets the host attend to a mechtron if it watches something.
    async fn look(
        self,
        resource: Arc<Resource>,
        watching: Arc<Mutex<HashSet<Point>>>,
        reads: Arc<Semaphore>,
    ) {
        let point = &resource.point;
        let is_still = || {
            let is_same =
                |now: Arc<Resource>| now.created == resource.created && now.properties == resource.properties;
            self.registry.get(point).is_some_and(is_same)
        };
        let mut wait = AGAIN;
        loop {
            let turn = reads.acquire().await;
            let watches = self.watches(&resource).await;
            drop(turn);
            match watches {
                Ok(watches) => {
                    if note(&watching, point, watches, is_still) {
                        attend(&self.host, &watching, vec![point.clone()]).await;
                    }
                    return;
                }
                Err(error) => tracing::debug!(%point, "what it watches is not known yet: {error}"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(AGAIN_MAX);
            if !is_still() {
                // Whoever follows looks at that.
                return;
            }
        }
    }

    async fn watches(&self, resource: &Resource) -> Result<bool, Problem> {
        let Some(source) = resource.point_property("wasm.src") else { return Ok(false) };
        let contract = self.artifacts.contract(&source).await?;
        let name = resource.property("mechtron.name").map(ToString::to_string).unwrap_or_default();
        Ok(!contract.watches(&name).is_empty())
    }
}

/// Takes note of whether a mechtron watches something, unless it was changed or went elsewhere while that was found out; tells
/// whether it is to be attended to. Whoever follows hears of a change when the registry shows it, so with the lock held for
/// both, what is taken out is not put in again.
fn note(
    watching: &Mutex<HashSet<Point>>,
    point: &Point,
    watches: bool,
    is_still: impl FnOnce() -> bool,
) -> bool {
    let mut watching = watching.lock();
    if !is_still() {
        return false;
    }
    match watches {
        true => watching.insert(point.clone()),
        false => watching.remove(point),
    };
    watches
}

/// Lets the host attend to mechtrons. Those that it has no room for are tried again for as long as they watch something here.
async fn attend(host: &Host, watching: &Mutex<HashSet<Point>>, mut points: Vec<Point>) {
    let mut wait = AGAIN;
    loop {
        let mut refused = Vec::new();
        for point in points {
            if !watching.lock().contains(&point) {
                continue;
            }
            match host.attend(&point).await {
                Err(refusal) if refusal.code == Code::Busy => {
                    if wait == AGAIN {
                        tracing::warn!(%point, "a mechtron is not told what it watches for now: {refusal}");
                    }
                    refused.push(point);
                }
                // A host that is gone tells nobody anything.
                Ok(()) | Err(_) => {}
            }
        }
        if refused.is_empty() {
            return;
        }
        points = refused;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(AGAIN_MAX);
    }
}

/// How far a mechtron was told. Each change is told by itself, so a place may be amid a list or a commit.
#[derive(Debug, Clone, PartialEq)]
enum At {
    /// Of the list as it was at a revision, up to a point; of nothing yet without one.
    List { at: Revision, after: Option<Point> },
    /// All that came up to a revision.
    After(Revision),
    /// All that came up to a revision, and so many changes of the commit that came next.
    Amid { after: Revision, commit: Revision, told: usize },
}

impl At {
    fn place(&self) -> Place {
        Place(self.to_string().into())
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::List { at, after: None } => write!(f, "list {at}"),
            At::List { at, after: Some(after) } => write!(f, "list {at} {after}"),
            At::After(revision) => write!(f, "after {revision}"),
            At::Amid { after, commit, told } => write!(f, "amid {after} {commit} {told}"),
        }
    }
}

/// How far a mechtron was told, as its users read it. `revision`: of all that came up to there. Amid a list: `list`, of which
/// revision it is, and `after`, the last point of it. Amid a commit: `commit`, and `changes`, how many of it.
pub(super) fn how_far(place: &Place) -> serde_json::Value {
    match place.0.parse() {
        Ok(At::List { at, after: None }) => serde_json::json!({ "list": at }),
        Ok(At::List { at, after: Some(after) }) => serde_json::json!({ "list": at, "after": after }),
        Ok(At::After(revision)) => serde_json::json!({ "revision": revision }),
        Ok(At::Amid { after, commit, told }) => {
            serde_json::json!({ "revision": after, "commit": commit, "changes": told })
        }
        Err(()) => serde_json::json!({}),
    }
}

impl FromStr for At {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let revision = |text: &str| text.parse().map(Revision).map_err(drop);
        let (form, rest) = text.split_once(' ').ok_or(())?;
        match (form, rest.split_once(' ')) {
            ("list", None) => Ok(At::List { at: revision(rest)?, after: None }),
            ("list", Some((at, after))) => {
                Ok(At::List { at: revision(at)?, after: Some(after.parse().map_err(drop)?) })
            }
            ("after", None) => Ok(At::After(revision(rest)?)),
            ("amid", Some((after, rest))) => {
                let (commit, told) = rest.split_once(' ').ok_or(())?;
                let told = told.parse().map_err(drop)?;
                Ok(At::Amid { after: revision(after)?, commit: revision(commit)?, told })
            }
            _ => Err(()),
        }
    }
}

/// What is ready to be told, as the registry has it: it becomes JSON one by one, when it is told, so that many who wait with much
/// of it take little memory.
enum Ready {
    /// A step without a resource; one that begins again tells so.
    One(At, Option<Change>),
    /// A page of a list, and whether it is the last.
    List { at: Revision, resources: Vec<Arc<Resource>>, ends: bool },
    /// A commit.
    Commit { after: Revision, commit: Revision, changes: Vec<Changed> },
}

impl Ready {
    /// The step after so many of them; `None` when there is no more.
    fn step(&self, told: usize) -> Option<Result<Step, Problem>> {
        let (what, revision, resource, at) = match self {
            Ready::One(at, change) => {
                return (told == 0).then(|| Ok(Step { place: at.place(), change: change.clone() }));
            }
            Ready::List { at, resources, ends } => {
                let resource = resources.get(told)?;
                let place = match *ends && told + 1 == resources.len() {
                    true => At::After(*at),
                    false => At::List { at: *at, after: Some(resource.point.clone()) },
                };
                (ChangeKind::Entered, at, resource, place)
            }
            Ready::Commit { after, commit, changes } => {
                let (what, resource) = match changes.get(told)? {
                    Changed::Entered(resource) => (ChangeKind::Entered, resource),
                    Changed::Updated(resource) => (ChangeKind::Updated, resource),
                    Changed::Left(resource) => (ChangeKind::Left, resource),
                };
                let place = match told + 1 == changes.len() {
                    true => At::After(*commit),
                    false => At::Amid { after: *after, commit: *commit, told: told + 1 },
                };
                (what, commit, resource, place)
            }
        };
        Some(json(resource).map(|resource| {
            let change = Change { what, revision: revision.0, resource };
            Step { place: at.place(), change: Some(change) }
        }))
    }
}

/// Tells a mechtron what changes of what a selector selects.
pub(super) struct Telling {
    registry: Registry,
    by: Point,
    selector: Result<Selector, Problem>,
    /// Where it is with all that is ready; `None` before the beginning.
    at: Option<At>,
    watch: Option<Watch>,
    /// What is told next, after so many of it.
    ready: Option<(Ready, usize)>,
}

impl Telling {
    pub(super) fn new(registry: Registry, by: Point, selector: &str, after: Option<&Place>) -> Self {
        // What cannot be read was written by a later version: nobody knows what came since.
        let at = after.map(|place| place.0.parse().unwrap_or(At::After(Revision(0))));
        Self { registry, by, selector: selector.parse(), at, watch: None, ready: None }
    }

    /// Finds out what comes next. Something is ready then, or it is to be asked again.
    async fn go_on(&mut self) -> Result<(), Problem> {
        let selector = self.selector.clone()?;
        match self.at.clone() {
            None => self.begin(false).await,
            // There is no such commit.
            Some(At::After(Revision(0))) => self.begin(true).await,
            Some(At::List { at, after }) => self.list(&selector, at, after).await,
            Some(At::After(after)) => self.follow(&selector, after, None).await,
            Some(At::Amid { after, commit, told }) => {
                self.follow(&selector, after, Some((commit, told))).await
            }
        }
    }

    /// Begins with the list as it is now.
    async fn begin(&mut self, again: bool) -> Result<(), Problem> {
        self.watch = None;
        self.registry.fresh().await?;
        let at = At::List { at: self.registry.revision(), after: None };
        if again {
            tracing::warn!(point = %self.by, "a mechtron was not told for longer than the history is kept");
            let revision = self.registry.revision().0;
            let change = Change { what: ChangeKind::Again, revision, resource: Bytes::new() };
            self.ready = Some((Ready::One(at.clone(), Some(change)), 0));
        }
        self.at = Some(at);
        Ok(())
    }

    /// A page of the list, and where the watch begins after the last.
    async fn list(&mut self, selector: &Selector, at: Revision, after: Option<Point>) -> Result<(), Problem> {
        self.registry.fresh().await?;
        let mut cursor = after.map(|after| Registry::cursor(selector, &after));
        let page = loop {
            match self.registry.select_at(selector, at, PAGE, cursor.as_deref()).await {
                // All of this page came later; there is more.
                Ok(page) if page.resources.is_empty() && page.next.is_some() => cursor = page.next,
                Ok(page) => break page,
                Err(Error::Gone { .. } | Error::NotYet { .. }) => return self.begin(true).await,
                Err(error) => return Err(error.into()),
            }
        };
        let ends = page.next.is_none();
        let ready = match page.resources.last() {
            Some(last) => {
                let amid = || At::List { at, after: Some(last.point.clone()) };
                self.at = Some(if ends { At::After(at) } else { amid() });
                Ready::List { at, resources: page.resources, ends }
            }
            None => {
                self.at = Some(At::After(at));
                Ready::One(At::After(at), None)
            }
        };
        self.ready = Some((ready, 0));
        Ok(())
    }

    /// The next of the watch; `begun` is the commit of which some changes were told already.
    async fn follow(
        &mut self,
        selector: &Selector,
        after: Revision,
        begun: Option<(Revision, usize)>,
    ) -> Result<(), Problem> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            None => {
                // On another node than before, it may not have been seen yet how far the mechtron was told.
                self.registry.fresh().await?;
                let token = ResumeToken::new(after, &selector.to_string());
                self.watch.insert(self.registry.watch(selector, Some(token))?)
            }
        };
        let Some(event) = watch.next().await else {
            // The registry is closed, and the node is about to be.
            return std::future::pending().await;
        };
        match event {
            // The commit of which some was told is gone: nobody knows what the rest of it was.
            Event::Changed { revision, .. } if begun.is_some_and(|(commit, _)| commit != revision) => {
                self.begin(true).await
            }
            Event::Bookmark { .. } if begun.is_some() => self.begin(true).await,
            Event::Changed { revision, changes } => {
                let told = begun.map_or(0, |(_, told)| told);
                self.at = Some(At::After(revision));
                self.ready = Some((Ready::Commit { after, commit: revision, changes }, told));
                Ok(())
            }
            Event::Bookmark { revision } => {
                self.at = Some(At::After(revision));
                self.ready = Some((Ready::One(At::After(revision), None), 0));
                Ok(())
            }
            Event::Gone { .. } => self.begin(true).await,
            // A watch of a selector that goes on neither lists, counts nor ranks.
            Event::Listed { .. } | Event::Counted { .. } | Event::Ranked { .. } => Ok(()),
        }
    }
}

impl Changes for Telling {
    fn next(&mut self) -> BoxFuture<'_, Step> {
        Box::pin(async move {
            let mut refused = false;
            loop {
                let next = self.ready.as_mut().and_then(|(ready, told)| {
                    let step = ready.step(*told)?;
                    *told += usize::from(step.is_ok());
                    Some(step)
                });
                let problem = match next {
                    Some(Ok(step)) => return step,
                    Some(Err(problem)) => problem,
                    None => {
                        self.ready = None;
                        match self.go_on().await {
                            Ok(()) => continue,
                            Err(problem) => problem,
                        }
                    }
                };
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(point = %self.by, "a mechtron is not told what it watches for now: {problem}");
                }
                tokio::time::sleep(AGAIN).await;
            }
        })
    }
}

/// A resource as mechtrons see it.
fn json(resource: &Resource) -> Result<Bytes, Problem> {
    let json = serde_json::to_vec(resource)
        .map_err(|error| Problem::new(Code::Internal, format!("a resource as JSON: {error}")))?;
    Ok(json.into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures::FutureExt as _;
    use resource_registry::{Config, Create, Delete, MeshStates, StateStore};
    use starlane_core::{Agent, NodeName, Phase, Status, Timestamp};

    use super::super::dead_letters::DeadLetters;
    use super::super::keeping::Keeping;
    use super::super::outside::{NodeOutside, Surroundings};
    use super::*;

    fn registry() -> Registry {
        Registry::open(Config::in_memory(Arc::new(|| Timestamp(1)))).unwrap()
    }

    fn by() -> Agent {
        Agent("mesh:users:ann".parse().unwrap())
    }

    async fn create(registry: &Registry, text: &str) {
        registry.create(&by(), Create::new(text.parse().unwrap(), "Space".parse().unwrap())).await.unwrap();
    }

    async fn delete(registry: &Registry, text: &str) {
        registry.delete(&by(), Delete::point(text.parse().unwrap(), false)).await.unwrap();
    }

    fn telling(registry: &Registry, after: Option<&Place>) -> Telling {
        Telling::new(registry.clone(), "shop:a".parse().unwrap(), "*<Space>", after)
    }

    /// The next change, passing over what says only that nothing changed.
    async fn told(telling: &mut Telling) -> (String, Place) {
        loop {
            let step = telling.next().await;
            let Some(change) = step.change else { continue };
            let json: serde_json::Value = serde_json::from_slice(&change.resource).unwrap_or_default();
            return (format!("{:?} {}", change.what, json["point"].as_str().unwrap_or("-")), step.place);
        }
    }

    #[test]
    fn a_place_reads_as_it_prints() {
        let point: Point = "shop:files:/a b.txt".parse().unwrap();
        for at in [
            At::List { at: Revision(7), after: None },
            At::List { at: Revision(7), after: Some(point) },
            At::After(Revision(9)),
            At::Amid { after: Revision(9), commit: Revision(12), told: 3 },
        ] {
            assert_eq!(at.to_string().parse(), Ok(at));
        }
        let how_far = |place: &str| super::how_far(&Place(place.into())).to_string();
        assert_eq!(how_far("list 7 shop:a"), r#"{"after":"shop:a","list":7}"#);
        assert_eq!(how_far("list 7"), r#"{"list":7}"#);
        assert_eq!(how_far("after 9"), r#"{"revision":9}"#);
        assert_eq!(how_far("amid 9 12 3"), r#"{"changes":3,"commit":12,"revision":9}"#);
        assert_eq!(how_far("later 3"), "{}");
        for wrong in ["", "after", "after x", "amid 1 2", "later 3", "list 7 "] {
            assert!(wrong.parse::<At>().is_err(), "{wrong}");
        }
    }

    /// Whoever begins anew after each step hears the same as who goes on: nothing twice, nothing missed, in order.
    #[tokio::test]
    async fn it_goes_on_from_any_place() {
        for begins_anew in [false, true] {
            let registry = registry();
            for name in ["a", "b", "c"] {
                create(&registry, name).await;
            }
            let mut telling = telling(&registry, None);
            let mut heard = Vec::new();
            for count in 0..8 {
                match count {
                    // Amid the list: what is deleted was there when the list was begun.
                    1 => {
                        delete(&registry, "c").await;
                        create(&registry, "aa").await;
                    }
                    // One commit with two changes.
                    5 => {
                        let both: Selector = "*<Space>".parse().unwrap();
                        registry.delete(&by(), Delete::selector(both, false)).await.unwrap();
                    }
                    _ => {}
                }
                let (what, place) = told(&mut telling).await;
                heard.push(what);
                if begins_anew {
                    telling = self::telling(&registry, Some(&place));
                }
            }
            let expected = [
                "Entered a",
                "Entered b",
                "Entered c",
                "Left c",
                "Entered aa",
                "Left a",
                "Left aa",
                "Left b",
            ];
            assert_eq!(heard, expected, "{begins_anew}");
        }
    }

    /// Every page of the list but the last is full of what came after it was begun.
    #[tokio::test]
    async fn a_list_is_told_to_its_end_whatever_came_meanwhile() {
        let registry = registry();
        create(&registry, "z").await;
        let begun = At::List { at: registry.revision(), after: None }.place();
        for number in 0..=PAGE {
            create(&registry, &format!("a{number}")).await;
        }
        let mut telling = telling(&registry, Some(&begun));
        let heard = tokio::time::timeout(Duration::from_secs(60), told(&mut telling)).await;
        assert_eq!(heard.expect("the list ends").0, "Entered z");
        assert_eq!(told(&mut telling).await.0, "Entered a0");
    }

    #[tokio::test]
    async fn what_is_forgotten_is_said_and_listed_again() {
        let registry = registry();
        create(&registry, "a").await;
        let (_, place) = told(&mut telling(&registry, None)).await;
        for name in ["b", "c"] {
            create(&registry, name).await;
        }
        delete(&registry, "b").await;
        registry.compact(registry.revision()).await.unwrap();
        let mut later = telling(&registry, Some(&place));
        let (what, amid) = told(&mut later).await;
        assert_eq!(what, "Again -");
        for expected in ["Entered a", "Entered c"] {
            assert_eq!(told(&mut later).await.0, expected);
        }
        // Who heard that it begins again is not told so once more.
        let mut after = telling(&registry, Some(&amid));
        assert_eq!(told(&mut after).await.0, "Entered a");
    }

    #[tokio::test]
    async fn what_changes_is_an_update() {
        let registry = registry();
        create(&registry, "a").await;
        let mut telling = telling(&registry, None);
        assert_eq!(told(&mut telling).await.0, "Entered a");
        let status = Status::because(Phase::Ready, "it is looked after");
        registry.set_status(&by(), &"a".parse().unwrap(), status).await.unwrap();
        assert_eq!(told(&mut telling).await.0, "Updated a");
    }

    /// A host that knows one mechtron at most, of a node that is starting for ever.
    fn small_host(registry: &Registry, folder: &Path) -> Host {
        let name: NodeName = "cloud".parse().unwrap();
        let homes = Homes::new(name.clone(), name.clone(), true);
        let states = StateStore::open(folder.join("state.redb")).unwrap();
        let keeping = Keeping::new(states.clone(), MeshStates::Here(states));
        let dead = DeadLetters::new(registry.clone(), name);
        let (node, _) = Surroundings::new(registry.clone(), homes, keeping, dead);
        let config = mechtron_host::Config {
            shards: 1,
            known_max: 1,
            ..mechtron_host::Config::new(tokio::runtime::Handle::current())
        };
        Host::start(config, Arc::new(NodeOutside(node))).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_at_the_host_is_tried_again_for_as_long_as_it_watches() {
        let folder = tempfile::tempdir().unwrap();
        let host = small_host(&registry(), folder.path());
        let [first, second]: [Point; 2] = ["shop:a", "shop:b"].map(|text| text.parse().unwrap());
        host.attend(&first).await.unwrap();
        let watching = Mutex::new(HashSet::from([second.clone()]));
        let mut attending = std::pin::pin!(attend(&host, &watching, vec![second.clone()]));
        assert!(tokio::time::timeout(AGAIN, &mut attending).await.is_err());
        host.remove(&first);
        attending.await;
        assert!(host.info(&second).await.is_some());
        // Nothing is waited for that is not here to watch any more.
        let attending = attend(&host, &watching, vec![first.clone()]);
        watching.lock().clear();
        attending.await;
        assert!(host.info(&first).await.is_none());
    }

    #[test]
    fn what_was_found_out_of_a_mechtron_that_went_elsewhere_meanwhile_counts_no_more() {
        let (watching, point) = (Mutex::new(HashSet::new()), "shop:a".parse().unwrap());
        for (watches, is_still, noted) in
            [(true, false, false), (true, true, true), (false, false, true), (false, true, false)]
        {
            assert_eq!(note(&watching, &point, watches, || is_still), watches && is_still);
            assert_eq!(watching.lock().contains(&point), noted);
        }
    }

    /// Who waits to tell holds the registry's own resources, however many wait.
    #[tokio::test]
    async fn what_waits_to_be_told_is_no_copy() {
        let registry = registry();
        for name in ["a", "b"] {
            create(&registry, name).await;
        }
        let held = || Arc::strong_count(&registry.get(&"b".parse().unwrap()).unwrap());
        let before = held();
        let mut all: Vec<Telling> = (0..3).map(|_| telling(&registry, None)).collect();
        for telling in &mut all {
            assert_eq!(told(telling).await.0, "Entered a");
        }
        assert_eq!(held(), before + all.len());
        for telling in &mut all {
            assert_eq!(told(telling).await.0, "Entered b");
            // Asked once more, it begins to wait for what comes.
            while telling.next().now_or_never().is_some() {}
        }
        assert_eq!(held(), before);
        // Of a commit it is the same.
        let both: Selector = "*<Space>".parse().unwrap();
        let last = registry.get(&"b".parse().unwrap()).unwrap();
        registry.delete(&by(), Delete::selector(both, false)).await.unwrap();
        let held = || Arc::strong_count(&last);
        assert_eq!(told(&mut all[0]).await.0, "Left a");
        let (one, _) = (held(), told(&mut all[1]).await);
        assert_eq!(held(), one + 1);
    }
}
