//! Single decisions, one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use starlane_core::placement::{
    Action, Config, HEARTBEAT, Handle, Life, Lives, Load, MoveError, Placement, Reason, Ticket, Verdict,
};
use starlane_core::{
    Assignment, Epoch, Generation, NodeName, Phase, Point, PropertyChange, Resource, Revision, Status, Value,
};

use super::world::{name, point};

/// A leader, and the registry as it would be when everything that it wants were done at once.
struct Desk {
    placement: Placement,
    now: Instant,
    revision: u64,
    nodes: Vec<(NodeName, Generation, Load)>,
    /// What the leader asked for since it was looked at.
    log: Vec<String>,
    /// What waits to be answered.
    open: Vec<Action>,
    resources: std::collections::BTreeMap<Point, Resource>,
}

impl Desk {
    /// A leader on `cloud`, and nodes that are all heard.
    fn new(nodes: &[(&str, &str)]) -> Self {
        Self::with(Config::default(), nodes)
    }

    fn with(config: Config, nodes: &[(&str, &str)]) -> Self {
        let now = Instant::now();
        let mut desk = Self {
            placement: Placement::new(config, name("cloud"), now),
            now,
            revision: 0,
            nodes: Vec::new(),
            log: Vec::new(),
            open: Vec::new(),
            resources: std::collections::BTreeMap::new(),
        };
        desk.placement.handle_listed(now);
        for (node, tier) in [&("cloud", "cloud")].into_iter().chain(nodes) {
            desk.put(&format!("mesh:nodes:{node}"), "Node", &[("tier", tier)]);
            desk.nodes.push((name(node), Generation(1), Load::default()));
        }
        desk.beat();
        desk.log.clear();
        desk
    }

    /// Writes a resource as people do.
    fn put(&mut self, at: &str, kind: &str, properties: &[(&str, &str)]) {
        let changes = properties.iter().map(|(key, value)| PropertyChange::Set {
            key: key.parse().unwrap(),
            value: (*value).into(),
            lock: false,
        });
        self.write(&point(at), kind, changes.collect(), None);
    }

    fn mechtron(&mut self, at: &str, properties: &[(&str, &str)]) {
        let code = [("wasm.src", "a:b:c:1.0.0:/x.wasm")];
        self.put(at, "Mechtron", &[properties, &code].concat());
    }

    fn write(&mut self, at: &Point, kind: &str, changes: Vec<PropertyChange>, status: Option<Status>) {
        self.revision += 1;
        let resource = self.resources.entry(at.clone()).or_insert_with(|| Resource {
            point: at.clone(),
            kind: kind.parse().unwrap(),
            properties: starlane_core::Properties::new(),
            status: Status::ready(),
            created: Revision(self.revision),
            modified: Revision(0),
            version: 0,
        });
        for change in changes {
            match change {
                PropertyChange::Set { key, value, lock } => {
                    resource.properties.insert(key, starlane_core::Property { value, locked: lock });
                }
                PropertyChange::Unset(key) => {
                    resource.properties.remove(&key);
                }
            }
        }
        resource.modified = Revision(self.revision);
        resource.version += 1;
        if let Some(status) = status {
            resource.status = status;
        }
        let resource = resource.clone();
        if NodeName::of_point(at).is_some() {
            self.placement.handle_node(&Arc::new(resource), self.now);
        } else {
            self.placement.handle_mechtron(&resource, self.now);
        }
        self.collect();
    }

    /// Every node is heard.
    fn beat(&mut self) {
        for (node, generation, load) in self.nodes.clone() {
            self.placement.handle_heard(&node, generation, load, self.now);
        }
        self.collect();
    }

    /// Time passes, and every node but one is heard all the while.
    fn pass_without(&mut self, silent: &str, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += HEARTBEAT / 2;
            for (node, generation, load) in self.nodes.clone() {
                if node.as_str() != silent {
                    self.placement.handle_heard(&node, generation, load, self.now);
                }
            }
            self.placement.handle_timeout(self.now);
            self.collect();
        }
    }

    fn collect(&mut self) {
        while let Some(action) = self.placement.poll_action() {
            self.log.push(match &action {
                Action::SetNodeStatus { node, status } => format!("{node} is {}", status.phase),
                Action::Release { point, from, epoch, .. } => {
                    format!("{from} lets go of {point} at {}", epoch.0)
                }
                Action::Adopt { point, from, to, epoch, handle, .. } => {
                    let state = handle.map_or(String::new(), |handle| format!(" with {}", handle.0));
                    format!("{to} takes {point} of {from} at {}{state}", epoch.0)
                }
                Action::Assign { point, nodes, epoch, expect, status, .. } => {
                    let nodes: Vec<_> = nodes.iter().map(NodeName::as_str).collect();
                    let status = status.as_ref().map_or(String::new(), |status| format!(" {}", status.phase));
                    format!("{point} on {} at {} from {expect}{status}", nodes.join(" "), epoch.0)
                }
                Action::SetStatus { point, status, .. } => {
                    format!("{point} is {}: {}", status.phase, status.reason)
                }
                Action::MoveDone { point, to, result } => match result {
                    Ok(()) => format!("{point} moved to {to}"),
                    Err(error) => format!("{point} did not move to {to}: {error}"),
                },
                Action::DrainDone(node) => format!("{node} is empty"),
            });
            self.open.push(action);
        }
    }

    /// What the leader asked for since the last time.
    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// Does everything that the leader wants, until it wants nothing.
    fn do_all(&mut self) {
        while !self.open.is_empty() {
            self.do_one();
        }
    }

    /// Does what the leader wants first.
    fn do_one(&mut self) {
        let action = self.open.remove(0);
        let now = self.now;
        match action {
            Action::SetNodeStatus { node, status } => {
                self.write(&node.point().unwrap(), "Node", Vec::new(), Some(status));
            }
            Action::Release { ticket, point, .. } => {
                self.placement.handle_released(&point, ticket, Ok(Some(Handle(7))), now);
            }
            Action::Adopt { ticket, point, .. } => {
                self.placement.handle_adopted(&point, ticket, Ok(()), now);
            }
            Action::Assign { ticket, point, nodes, epoch, expect, status } => {
                self.commit(ticket, &point, expect, Assignment { nodes, epoch }.changes(), status);
            }
            Action::SetStatus { ticket, point, status, expect } => {
                self.commit(ticket, &point, expect, Vec::new(), Some(status));
            }
            Action::MoveDone { .. } | Action::DrainDone(_) => {}
        }
        self.collect();
    }

    fn commit(
        &mut self,
        ticket: Ticket,
        at: &Point,
        expect: Revision,
        changes: Vec<PropertyChange>,
        status: Option<Status>,
    ) {
        let fits = self.resources[at].modified == expect;
        if fits {
            self.write(at, "Mechtron", changes, status);
        }
        let resource = fits.then(|| self.resources[at].clone());
        self.placement.handle_written(at, ticket, resource.as_ref(), self.now);
    }

    fn lives(&self, at: &str) -> String {
        match Lives::of(&self.resources[&point(at)]) {
            Lives::On(nodes) => nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        }
    }

    /// What `why` says of each node.
    fn why(&self, at: &str) -> Vec<(String, String)> {
        let why = self.placement.why(&point(at), self.now).unwrap();
        let tell = |reasons: &[Reason]| reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join(", ");
        let candidate = |candidate: &starlane_core::placement::Candidate| {
            let verdict = match &candidate.verdict {
                Verdict::Chosen => "chosen".to_owned(),
                Verdict::Fits => "fits".to_owned(),
                Verdict::Stays(reasons) => format!("stays though {}", tell(reasons)),
                Verdict::Refused(reasons) => tell(reasons),
            };
            (candidate.node.to_string(), verdict)
        };
        why.candidates.iter().map(candidate).collect()
    }
}

const EDGE: (&str, &str) = ("place", "[tier = \"edge\"]");
const LONG: Duration = Duration::from_secs(12);

#[test]
fn what_says_nothing_lives_at_home_and_is_never_assigned() {
    let mut desk = Desk::new(&[("a", "edge")]);
    desk.mechtron("shop:m", &[]);
    desk.pass_without("a", LONG);
    assert_eq!(desk.log(), ["a is Unknown"]);
    assert_eq!(desk.lives("shop:m"), "AtHome");
    desk.put("shop:other", "Base", &[EDGE]);
    assert!(desk.placement.why(&point("shop:other"), desk.now).is_none(), "nothing without code is placed");
}

/// The leader is on `b`, and `cloud` is home: only what keeps its state in the mesh can live elsewhere when that is lost.
#[test]
fn what_says_nothing_goes_to_another_registry_node_when_home_is_lost_and_its_state_is_not() {
    let registry = ("node.role", "registry");
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge")]);
    desk.placement = Placement::new(Config::default(), name("cloud"), desk.now).led_by(name("b"), None);
    desk.placement.handle_listed(desk.now);
    for node in ["cloud", "a"] {
        desk.put(&format!("mesh:nodes:{node}"), "Node", &[]);
    }
    desk.put("mesh:nodes:b", "Node", &[registry]);
    desk.beat();
    desk.mechtron("shop:kept", &[("durability", "mesh")]);
    desk.mechtron("shop:there", &[]);
    desk.do_all();
    assert_eq!([desk.lives("shop:kept"), desk.lives("shop:there")], ["AtHome", "AtHome"]);
    desk.pass_without("cloud", LONG);
    desk.do_all();
    assert_eq!([desk.lives("shop:kept"), desk.lives("shop:there")], ["b", "AtHome"]);
    let waits = desk.resources[&point("shop:there")].status.clone();
    assert_eq!((waits.phase, &*waits.reason), (Phase::Pending, "`cloud` is lost, and has its state"));
    // It stays where it is, and the other goes on, when home is back.
    desk.pass_without("", LONG);
    desk.do_all();
    assert_eq!([desk.lives("shop:kept"), desk.lives("shop:there")], ["b", "AtHome"]);
    assert_eq!(desk.resources[&point("shop:there")].status.phase, Phase::Ready);
}

#[test]
fn mechtrons_go_where_the_fewest_are_and_stay() {
    let mut desk = Desk::new(&[("b", "edge"), ("a", "edge"), ("c", "desk")]);
    for number in 1..=4 {
        desk.mechtron(&format!("shop:m-{number}"), &[EDGE]);
        desk.do_all();
    }
    let lives: Vec<_> = (1..=4).map(|number| desk.lives(&format!("shop:m-{number}"))).collect();
    assert_eq!(lives, ["a", "b", "a", "b"]);
    desk.log();
    // One more node is no reason to move.
    desk.put("mesh:nodes:d", "Node", &[("tier", "edge")]);
    desk.nodes.push((name("d"), Generation(1), Load::default()));
    desk.pass_without("", LONG);
    assert!(desk.log().is_empty());
    desk.mechtron("shop:m-5", &[EDGE]);
    desk.do_all();
    assert_eq!(desk.lives("shop:m-5"), "d");
    // Of those with as many, the one with less to do.
    for (node, _, load) in &mut desk.nodes {
        load.queue = if node.as_str() == "b" { 1 } else { 5 };
    }
    desk.mechtron("shop:m-6", &[EDGE]);
    desk.do_all();
    desk.beat();
    desk.mechtron("shop:m-7", &[EDGE]);
    desk.do_all();
    assert_eq!((desk.lives("shop:m-6"), desk.lives("shop:m-7")), ("d".to_owned(), "b".to_owned()));
}

#[test]
fn a_dead_nodes_mechtrons_are_assigned_again_and_stay_there() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    desk.log();
    let died = desk.now;
    while desk.log.is_empty() {
        desk.pass_without("a", HEARTBEAT / 2);
    }
    assert!(desk.now - died <= Duration::from_secs(9), "{:?}", desk.now - died);
    // Nobody is asked to let go: nobody could.
    let before = desk.resources[&point("shop:m")].modified.0;
    assert_eq!(
        desk.log(),
        ["a is Unknown".to_owned(), format!("shop:m on b at {} from {before}", before + 1)]
    );
    desk.do_all();
    desk.pass_without("", LONG);
    assert_eq!((desk.lives("shop:m").as_str(), desk.log().concat().as_str()), ("b", "a is Ready"));
}

/// The registry waited for `a` already; `c` may only not have found the new leader yet.
#[test]
fn a_leader_waits_less_for_the_node_that_led_before_it() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge"), ("c", "desk")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "a");
    desk.log();
    let leader = Placement::new(Config::default(), name("cloud"), desk.now);
    desk.placement = leader.led_by(name("cloud"), Some(name("a")));
    for resource in desk.resources.values().cloned().collect::<Vec<_>>() {
        let resource = Arc::new(resource);
        desk.placement.handle_node(&resource, desk.now);
        desk.placement.handle_mechtron(&resource, desk.now);
    }
    desk.placement.handle_listed(desk.now);
    let began = desk.now;
    desk.nodes.retain(|(node, ..)| node.as_str() == "b");
    while desk.lives("shop:m") == "a" {
        desk.pass_without("", HEARTBEAT / 4);
        desk.do_all();
    }
    assert!(desk.now - began < Duration::from_secs(4), "{:?}", desk.now - began);
    assert_eq!(desk.lives("shop:m"), "b");
    assert_eq!(desk.placement.life(&name("c")), Some(Life::Doubt));
    desk.pass_without("", LONG);
    assert!(matches!(desk.placement.life(&name("c")), Some(Life::Dead { .. })));
}

#[test]
fn a_mechtron_that_nothing_can_take_waits_and_says_why() {
    let mut desk = Desk::new(&[("a", "edge")]);
    desk.mechtron("shop:m", &[("place", "[gpu = true]")]);
    assert_eq!(desk.log(), ["shop:m is Pending: no node matches `[gpu = true]`"]);
    desk.do_all();
    desk.put("mesh:nodes:a", "Node", &[("gpu", "true")]);
    let revision = desk.resources[&point("shop:m")].modified.0;
    desk.do_all();
    assert_eq!(
        desk.log(),
        [
            format!("cloud lets go of shop:m at {}", desk.resources[&point("shop:m")].created.0),
            format!("a takes shop:m of cloud at {} with 7", revision + 1),
            format!("shop:m on a at {} from {revision} Ready", revision + 1),
        ]
    );
    desk.pass_without("a", LONG);
    assert_eq!(
        desk.log(),
        [
            "a is Unknown",
            "shop:m is Pending: `a` is lost; no node that matches `[gpu = true]` is alive and free"
        ]
    );
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "a", "it stays assigned");
    let epoch = starlane_core::placement::epoch_of(&desk.resources[&point("shop:m")]);
    desk.beat();
    desk.do_all();
    assert_eq!(desk.log(), ["a is Ready", "shop:m is Ready: "]);
    assert_eq!(starlane_core::placement::epoch_of(&desk.resources[&point("shop:m")]), epoch);
}

#[test]
fn a_node_that_does_not_match_any_more_lets_go_first() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    desk.log();
    desk.put("mesh:nodes:a", "Node", &[("tier", "desk")]);
    let resource = desk.resources[&point("shop:m")].clone();
    let (epoch, at) = (starlane_core::placement::epoch_of(&resource).0, resource.modified.0);
    desk.do_all();
    assert_eq!(
        desk.log(),
        [
            format!("a lets go of shop:m at {epoch}"),
            format!("b takes shop:m of a at {} with 7", at + 1),
            format!("shop:m on b at {} from {at}", at + 1),
        ]
    );
    // With nothing better it stays where it is, and runs.
    desk.put("mesh:nodes:b", "Node", &[("tier", "desk")]);
    desk.do_all();
    assert_eq!((desk.lives("shop:m").as_str(), desk.log().len()), ("b", 0));
    let why = desk.placement.why(&point("shop:m"), desk.now).unwrap();
    assert_eq!(why.waiting, "no node matches `[tier = \"edge\"]`");
    assert_eq!(
        desk.why("shop:m")[1],
        ("b".to_owned(), "stays though `tier = \"edge\"` is not so: its `tier` is `desk`".to_owned())
    );
}

#[test]
fn why_names_each_node_and_its_reason() {
    let mut desk = Desk::new(&[
        ("a", "edge"),
        ("b", "edge"),
        ("c", "edge"),
        ("d", "edge"),
        ("e", "edge"),
        ("f", "edge"),
    ]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    desk.put("mesh:nodes:b", "Node", &[("draining", "true")]);
    desk.put("mesh:nodes:c", "Node", &[("revoked", "true")]);
    desk.nodes.retain(|(node, _, _)| node.as_str() != "f");
    desk.nodes[5].2.mechtrons_max = 0;
    desk.pass_without("d", LONG);
    let expected = [
        ("a", "chosen"),
        ("b", "it is draining"),
        ("c", "it was revoked, it is dead for 4 s"),
        ("cloud", "`tier = \"edge\"` is not so: its `tier` is `cloud`"),
        ("d", "it is dead for 4 s"),
        ("e", "it is full: it has 0 mechtrons and can have 0"),
        ("f", "it is dead for 4 s"),
    ];
    assert_eq!(desk.why("shop:m"), expected.map(|(node, why)| (node.to_owned(), why.to_owned())));
    desk.mechtron("shop:n", &[]);
    assert_eq!(desk.why("shop:n")[3], ("cloud".to_owned(), "chosen".to_owned()));
    assert_eq!(desk.why("shop:n")[0].1, "no `place` is set, so it lives on the registry's node");
    desk.placement.handle_unreachable(&name("a"), desk.now);
    assert_eq!(
        desk.why("shop:n")[0].1,
        "no `place` is set, so it lives on the registry's node, there is no way to it for 0 s"
    );
    desk.mechtron("shop:w", &[("place", "here")]);
    assert_eq!(desk.why("shop:w")[0].1, "`here` is not a place, there is no way to it for 0 s");
    desk.do_all();
    let status = &desk.resources[&point("shop:w")].status;
    assert_eq!((status.phase, status.reason.as_str()), (Phase::Pending, "`here` is not a place"));
}

#[test]
fn that_there_is_no_way_is_no_death() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    desk.log();
    desk.placement.handle_unreachable(&name("a"), desk.now);
    desk.placement.handle_unreachable(&name("b"), desk.now);
    desk.collect();
    desk.mechtron("shop:n", &[EDGE]);
    desk.do_all();
    assert_eq!((desk.lives("shop:m").as_str(), desk.lives("shop:n").as_str()), ("a", "Nowhere"));
    desk.placement.handle_heard(&name("b"), Generation(1), Load::default(), desk.now);
    desk.collect();
    desk.do_all();
    assert_eq!(desk.lives("shop:n"), "b");
}

#[test]
fn a_revoked_nodes_mechtrons_leave_at_once_and_it_is_not_believed() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    desk.log();
    desk.put("mesh:nodes:a", "Node", &[("revoked", "true")]);
    assert_eq!(desk.log()[0], "a is Fatal");
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "b");
    assert!(!desk.placement.handle_heard(&name("a"), Generation(2), Load::default(), desk.now));
    assert!(!desk.placement.handle_heard(&name("none"), Generation(1), Load::default(), desk.now));
}

#[test]
fn an_earlier_life_of_a_node_is_not_believed() {
    let mut desk = Desk::new(&[("a", "edge")]);
    assert!(desk.placement.handle_heard(&name("a"), Generation(3), Load::default(), desk.now));
    assert!(!desk.placement.handle_heard(&name("a"), Generation(2), Load::default(), desk.now));
    desk.nodes[1].1 = Generation(2);
    desk.pass_without("", LONG);
    assert!(matches!(desk.placement.life(&name("a")), Some(Life::Dead { .. })));
}

#[test]
fn replicas_live_on_as_many_nodes_as_there_are() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge")]);
    desk.mechtron("shop:m", &[EDGE, ("replicas", "3")]);
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "a b");
    desk.put("mesh:nodes:c", "Node", &[("tier", "edge")]);
    desk.nodes.push((name("c"), Generation(1), Load::default()));
    desk.beat();
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "a b c");
    desk.pass_without("b", LONG);
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "a c");
    desk.log();
    desk.put("shop:m", "Mechtron", &[("replicas", "1")]);
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "a");
    assert!(desk.log()[0].starts_with("c lets go of shop:m"));
    // Without a place it may live anywhere.
    desk.mechtron("shop:n", &[("replicas", "2")]);
    desk.do_all();
    assert_eq!(desk.lives("shop:n"), "c cloud");
}

#[test]
fn a_move_keeps_the_state_and_ends_once() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge"), ("c", "desk")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.mechtron("shop:n", &[]);
    desk.do_all();
    desk.log();
    let now = desk.now;
    let (m, n) = (point("shop:m"), point("shop:n"));
    desk.placement.move_to(&m, &name("b"), now).unwrap();
    desk.collect();
    desk.do_all();
    let log = desk.log();
    assert!(log[0].starts_with("a lets go") && log[1].starts_with("b takes shop:m of a"), "{log:?}");
    assert_eq!((log.len(), log[3].as_str()), (4, "shop:m moved to b"));
    assert!(matches!(
        desk.placement.move_to(&m, &name("c"), now),
        Err(MoveError::Refused(Reason::Mismatch(_)))
    ));
    assert_eq!(desk.placement.move_to(&m, &name("x"), now), Err(MoveError::NoNode));
    assert_eq!(desk.placement.move_to(&point("shop:x"), &name("a"), now), Err(MoveError::NoMechtron));
    // One that says nothing may be moved too, and goes home when its node is lost.
    desk.placement.move_to(&n, &name("c"), now).unwrap();
    desk.collect();
    desk.do_all();
    assert_eq!(desk.lives("shop:n"), "c");
    desk.pass_without("c", LONG);
    desk.do_all();
    assert_eq!(desk.lives("shop:n"), "cloud");
    // The node dies before it is there.
    desk.log();
    let now = desk.now;
    desk.placement.move_to(&m, &name("a"), now).unwrap();
    desk.collect();
    desk.do_one();
    desk.pass_without("a", LONG);
    desk.do_all();
    let log = desk.log();
    assert!(log.iter().any(|line| line.starts_with("shop:m did not move to a: the node cannot")), "{log:?}");
    assert_eq!(desk.lives("shop:m"), "b", "who let go takes it back under a new epoch");
}

#[test]
fn draining_empties_a_node_and_says_so_once() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge")]);
    for number in 0..6 {
        desk.mechtron(&format!("shop:m-{number}"), &[EDGE]);
    }
    desk.do_all();
    desk.log();
    desk.put("mesh:nodes:a", "Node", &[("draining", "true")]);
    desk.do_all();
    desk.pass_without("", LONG);
    let log = desk.log();
    assert_eq!(log[0], "a is Paused");
    assert_eq!(log.iter().filter(|line| *line == "a is empty").count(), 1, "{log:?}");
    assert_eq!((desk.placement.assigned(&name("a")), desk.placement.assigned(&name("b"))), (0, 6));
    // What can go nowhere else stays, and runs.
    desk.put("mesh:nodes:b", "Node", &[("draining", "true")]);
    desk.do_all();
    assert!(!desk.log().iter().any(|line| line == "b is empty"));
    assert_eq!(desk.lives("shop:m-0"), "b");
    desk.put("mesh:nodes:a", "Node", &[("draining", "false")]);
    desk.do_all();
    assert!(desk.log().iter().any(|line| line == "b is empty"));
    assert_eq!(desk.lives("shop:m-0"), "a");
}

#[test]
fn a_new_leader_trusts_what_is_there_and_ends_what_was_begun() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    let now = desk.now;
    desk.placement.move_to(&point("shop:m"), &name("b"), now).unwrap();
    desk.collect();
    desk.do_one();
    // Another leader begins: nobody is dead, and nobody is heard yet.
    let mut placement = Placement::new(Config::default(), name("cloud"), now);
    for resource in desk.resources.values() {
        match NodeName::of_point(&resource.point) {
            Some(_) => placement.handle_node(&Arc::new(resource.clone()), now),
            None => placement.handle_mechtron(resource, now),
        }
    }
    placement.handle_listed(now);
    desk.placement = placement;
    desk.open.clear();
    desk.log();
    desk.collect();
    assert!(desk.log().is_empty());
    desk.beat();
    desk.placement.handle_held(&name("a"), &point("shop:m"), desk.now);
    desk.collect();
    desk.do_all();
    let log = desk.log();
    assert!(
        log[0].starts_with("a lets go of shop:m") && log[1].starts_with("a takes shop:m of a"),
        "{log:?}"
    );
    assert_eq!((log.len(), desk.lives("shop:m").as_str()), (3, "a"));
    assert!(log[2].starts_with("shop:m on a at"), "{log:?}");
}

#[test]
fn what_another_leader_writes_ends_a_change_that_was_begun_later() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge"), ("c", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    let (m, now) = (point("shop:m"), desk.now);
    let of_the_other = Epoch(desk.resources[&m].modified.0 + 1);
    // Another leader decides here; this one does after one more change, so that its epoch is newer.
    desk.put("shop:m", "Mechtron", &[("title", "x")]);
    desk.put("shop:m", "Mechtron", &[("title", "y")]);
    desk.placement.move_to(&m, &name("b"), now).unwrap();
    desk.collect();
    desk.do_one();
    desk.log();
    desk.write(&m, "Mechtron", Assignment { nodes: vec![name("c")], epoch: of_the_other }.changes(), None);
    desk.open.retain(|action| !matches!(action, Action::Adopt { .. }));
    desk.do_all();
    let log = desk.log();
    assert!(log[0].starts_with("c lets go of shop:m"), "{log:?}");
    assert!(log[1].starts_with("b takes shop:m of c"), "what `a` gave is too old by now: {log:?}");
    assert_eq!((log.len(), log[3].as_str()), (4, "shop:m moved to b"));
}

#[test]
fn a_leader_that_begins_waits_for_the_nodes_before_it_assigns() {
    let mut desk = Desk::new(&[]);
    for node in ["a", "b"] {
        desk.put(&format!("mesh:nodes:{node}"), "Node", &[("tier", "edge")]);
        desk.nodes.push((name(node), Generation(1), Load::default()));
    }
    let begun = |desk: &mut Desk| {
        let mut placement = Placement::new(Config::default(), name("cloud"), desk.now);
        for resource in desk.resources.values() {
            match NodeName::of_point(&resource.point) {
                Some(_) => placement.handle_node(&Arc::new(resource.clone()), desk.now),
                None => placement.handle_mechtron(resource, desk.now),
            }
        }
        placement.handle_listed(desk.now);
        desk.placement = placement;
        desk.open.clear();
        desk.log();
    };
    for number in 0..4 {
        desk.mechtron(&format!("shop:m-{number}"), &[EDGE]);
    }
    begun(&mut desk);
    let now = desk.now;
    desk.placement.handle_heard(&name("a"), Generation(1), Load::default(), now);
    desk.collect();
    assert!(desk.log().is_empty());
    desk.placement.handle_heard(&name("b"), Generation(1), Load::default(), now);
    desk.collect();
    desk.do_all();
    assert_eq!((desk.placement.assigned(&name("a")), desk.placement.assigned(&name("b"))), (2, 2));
    // It does not wait for ever.
    desk.mechtron("shop:m-5", &[EDGE]);
    desk.open.clear();
    begun(&mut desk);
    desk.pass_without("b", Duration::from_secs(4));
    desk.do_all();
    assert_eq!(desk.lives("shop:m-5"), "a");
}

#[test]
fn a_leader_that_stood_still_blames_nobody() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    desk.log();
    desk.now += Duration::from_secs(60);
    desk.placement.handle_timeout(desk.now);
    desk.collect();
    assert!(desk.log().is_empty());
    desk.pass_without("a", LONG);
    assert!(desk.log().contains(&"a is Unknown".to_owned()));
}

#[test]
fn a_commit_that_fails_is_tried_again_on_what_is_there() {
    let mut desk = Desk::new(&[("a", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    let Some(Action::Release { .. }) = desk.open.first() else { panic!("{:?}", desk.open) };
    desk.do_one();
    desk.do_one();
    desk.log();
    // Somebody writes in between.
    desk.put("shop:m", "Mechtron", &[("title", "x")]);
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "Nowhere");
    desk.pass_without("", Duration::from_secs(2));
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "a");
    assert_eq!(desk.log().len(), 1, "and only that is done again");
    // An answer to something older says nothing.
    desk.put("mesh:nodes:a", "Node", &[("draining", "true")]);
    desk.put("mesh:nodes:b", "Node", &[("tier", "edge")]);
    desk.placement.handle_heard(&name("b"), Generation(1), Load::default(), desk.now);
    desk.collect();
    let released = desk.open.iter().find_map(|action| match action {
        Action::Release { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let (m, now) = (point("shop:m"), desk.now);
    desk.placement.handle_adopted(&m, released.unwrap(), Ok(()), now);
    desk.placement.handle_released(&m, released.unwrap(), Err("busy".into()), now);
    desk.placement.handle_released(&m, released.unwrap(), Ok(None), now);
    desk.collect();
    assert!(!desk.log().iter().any(|line| line.contains("takes")));
    let why = desk.placement.why(&m, now).unwrap();
    assert_eq!(why.moving, Some((vec![name("b")], Some("`a` does not let go: busy".to_owned()))));
}

#[test]
fn a_node_that_fails_to_take_over_is_passed_over() {
    let mut desk = Desk::new(&[("a", "edge"), ("b", "edge"), ("c", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    desk.put("mesh:nodes:a", "Node", &[("draining", "true")]);
    desk.log();
    for _ in 0..10 {
        while let Some(at) = desk
            .open
            .iter()
            .position(|action| matches!(action, Action::Adopt { to, .. } if to.as_str() == "b"))
        {
            let Action::Adopt { ticket, point, .. } = desk.open.remove(at) else { panic!() };
            desk.placement.handle_adopted(&point, ticket, Err("its disk is full".into()), desk.now);
            desk.collect();
        }
        if !desk.open.is_empty() {
            desk.do_one();
        } else {
            desk.pass_without("", Duration::from_secs(1));
        }
    }
    desk.do_all();
    assert_eq!(desk.lives("shop:m"), "c");
}

#[test]
fn not_everything_moves_at_once() {
    let config = Config { changes_max: 3, ..Config::default() };
    let mut desk = Desk::with(config, &[("a", "edge")]);
    for number in 0..10 {
        desk.mechtron(&format!("shop:m-{number}"), &[EDGE]);
    }
    assert_eq!(desk.open.len(), 3);
    desk.mechtron("shop:w", &[("place", "[gpu = true]")]);
    assert_eq!(desk.open.len(), 3);
    let mut most = 0;
    while !desk.open.is_empty() {
        most = most.max(desk.open.len());
        desk.do_one();
    }
    assert_eq!((most, desk.placement.assigned(&name("a"))), (3, 10));
    assert_eq!(desk.resources[&point("shop:w")].status.phase, Phase::Pending);
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut desk = Desk::new(&[("a", "edge")]);
    desk.mechtron("shop:m", &[EDGE]);
    desk.do_all();
    assert_eq!(desk.placement.assigned(&name("a")), 1);
    desk.placement.handle_removed(&point("shop:m"), desk.now);
    assert_eq!(desk.placement.assigned(&name("a")), 0);
    // What is made again at the point is another one.
    desk.resources.clear();
    desk.mechtron("shop:m", &[EDGE]);
    let made = desk.resources[&point("shop:m")].created.0;
    desk.do_all();
    let epoch = desk.resources[&point("shop:m")].property("epoch").cloned();
    assert_eq!(epoch, Some(Value::Number((made + 1).into())));
    assert!(Epoch(made + 1) > Epoch(made));
    desk.placement.handle_node_removed(&name("a"), desk.now);
    desk.collect();
    desk.do_all();
    assert_eq!(desk.resources[&point("shop:m")].status.phase, Phase::Pending);
}
