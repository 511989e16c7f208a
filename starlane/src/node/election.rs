//! Which node of a registry in etcd leads. Pure: what the registry says, how what was asked for ended, and time go in; what to
//! do comes out.
//!
//! Who leads is a resource that hangs on a lease of the registry, so that it goes when its node is not heard for
//! [`TTL`] by those who look after leases; then whoever makes it anew first leads next. A leader counts its time from when it
//! asked, and the others from when they saw that it did: so it ends by itself before anybody else can begin.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use resource_registry::store::LeaseId;
use starlane_core::{NodeName, Revision};

/// How long a leader that is not heard leads.
pub(super) const TTL: Duration = Duration::from_secs(5);
/// How often it says that it does.
const BEAT: Duration = Duration::from_secs(1);
/// How much earlier than the others think it ends by itself.
const MARGIN: Duration = Duration::from_millis(500);
/// How long to wait until what failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Who leads, as the registry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) node: NodeName,
    /// The commit that made it.
    pub(super) made: Revision,
    pub(super) lease: LeaseId,
}

/// A time of leading: it goes on while what this commit made is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mandate {
    pub(super) made: Revision,
    pub(super) lease: LeaseId,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Make the resource that says that this node leads, where none is; answered by [`Election::handle_claimed`].
    Claim,
    /// Let a lease begin anew; answered by [`Election::handle_beaten`].
    Beat(LeaseId),
    /// End a lease of this node that nobody leads by: of a life before, or of a time that is over.
    Clear(LeaseId),
    /// Lead, from now on, after the node that did before; `None` when this one did, or nobody that is known of.
    Begin(Mandate, Option<NodeName>),
    /// Lead no more.
    End(Mandate),
}

/// How a lease that was to begin anew is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beaten {
    Done,
    /// It is over.
    Over,
    /// Nobody knows.
    Lost,
}

/// Elects, from one node's point of view.
#[derive(Debug)]
pub(super) struct Election {
    me: NodeName,
    /// Whether all that the registry says was told.
    told: bool,
    seen: Option<Seen>,
    /// The last that was told to be gone.
    gone: Revision,
    /// Who led last.
    former: Option<NodeName>,
    state: State,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum State {
    /// Not before.
    Stands {
        due: Option<Instant>,
    },
    Claims {
        asked: Instant,
    },
    Leads {
        mandate: Mandate,
        ends: Instant,
        due: Instant,
        asked: Option<Instant>,
    },
}

impl Election {
    pub(super) fn new(me: NodeName) -> Self {
        let (seen, gone, former, actions) = (None, Revision(0), None, VecDeque::new());
        Self { me, told: false, seen, gone, former, state: State::Stands { due: None }, actions }
    }

    /// The next thing to do, until `None`.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Election::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Stands { due } => *due,
            State::Claims { .. } => None,
            State::Leads { ends, asked: Some(_), .. } => Some(*ends),
            State::Leads { ends, due, asked: None, .. } => Some(*ends.min(due)),
        }
    }

    /// The registry says that somebody leads.
    pub(super) fn handle_seen(&mut self, seen: Seen, now: Instant) {
        if seen.made > self.gone && self.seen.as_ref().is_none_or(|known| known.made <= seen.made) {
            if let State::Leads { mandate, .. } = self.state
                && seen.made > mandate.made
            {
                self.end(now);
            }
            self.seen = Some(seen);
        }
        self.look(now);
    }

    /// What the registry said is so no more.
    pub(super) fn handle_gone(&mut self, made: Revision, now: Instant) {
        self.gone = self.gone.max(made);
        if let Some(seen) = self.seen.take_if(|seen| seen.made <= made) {
            self.former = Some(seen.node).filter(|node| *node != self.me);
        }
        if let State::Leads { mandate, .. } = self.state
            && mandate.made <= made
        {
            self.end(now);
        }
        self.look(now);
    }

    /// All was told that the registry says.
    pub(super) fn handle_told(&mut self, now: Instant) {
        self.told = true;
        self.look(now);
    }

    /// This node leads by the registry, or does not.
    pub(super) fn handle_claimed(&mut self, claimed: Option<Mandate>, now: Instant) {
        let State::Claims { asked } = self.state else { return };
        let ends = asked + TTL - MARGIN;
        self.state = State::Stands { due: Some(now + AGAIN) };
        if let Some(mandate) = claimed.filter(|mandate| mandate.made > self.gone) {
            let lease = mandate.lease;
            self.seen = Some(Seen { node: self.me.clone(), made: mandate.made, lease });
            if now < ends {
                self.state = State::Leads { mandate, ends, due: now + BEAT, asked: None };
                self.actions.push_back(Action::Begin(mandate, self.former.clone()));
            }
        }
        self.look(now);
    }

    /// A lease began anew, or did not.
    pub(super) fn handle_beaten(&mut self, lease: LeaseId, beaten: Beaten, now: Instant) {
        let State::Leads { mandate, ends, due, asked } = &mut self.state else { return };
        let Some(asked_at) = asked.filter(|_| mandate.lease == lease) else { return };
        *asked = None;
        match beaten {
            Beaten::Done => {
                *ends = asked_at + TTL - MARGIN;
                *due = (asked_at + BEAT).max(now);
            }
            Beaten::Lost => *due = now + AGAIN,
            Beaten::Over => self.end(now),
        }
        self.look(now);
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let State::Leads { ends, .. } = self.state
            && ends <= now
        {
            self.end(now);
        }
        self.look(now);
    }

    fn end(&mut self, now: Instant) {
        if let State::Leads { mandate, .. } = self.state {
            self.state = State::Stands { due: Some(now + AGAIN) };
            self.actions.push_back(Action::End(mandate));
        }
    }

    fn look(&mut self, now: Instant) {
        match &mut self.state {
            State::Stands { due } if self.told && due.is_none_or(|due| due <= now) => match &self.seen {
                None => {
                    self.state = State::Claims { asked: now };
                    self.actions.push_back(Action::Claim);
                }
                Some(seen) if seen.node == self.me => {
                    *due = Some(now + AGAIN);
                    self.actions.push_back(Action::Clear(seen.lease));
                }
                // Whoever it is, its end will be told.
                Some(_) => *due = None,
            },
            State::Leads { mandate, ends, due, asked } if *due <= now && now < *ends && asked.is_none() => {
                *asked = Some(now);
                self.actions.push_back(Action::Beat(mandate.lease));
            }
            State::Stands { .. } | State::Claims { .. } | State::Leads { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn mandate(number: u64) -> Mandate {
        Mandate { made: Revision(number), lease: LeaseId(number) }
    }

    fn seen(node: &str, number: u64) -> Seen {
        Seen { node: name(node), made: Revision(number), lease: LeaseId(number) }
    }

    fn all(election: &mut Election) -> Vec<Action> {
        std::iter::from_fn(|| election.poll_action()).collect()
    }

    #[test]
    fn whoever_makes_it_leads_until_it_is_not_heard() {
        let mut now = Instant::now();
        let mut a = Election::new(name("a"));
        assert_eq!(all(&mut a), [], "nothing was told yet");
        a.handle_told(now);
        assert_eq!(all(&mut a), [Action::Claim]);
        let asked = now;
        now += Duration::from_millis(100);
        a.handle_claimed(Some(mandate(7)), now);
        assert_eq!(all(&mut a), [Action::Begin(mandate(7), None)]);
        a.handle_seen(seen("a", 7), now);
        now = a.poll_timeout().unwrap();
        a.handle_timeout(now);
        assert_eq!(all(&mut a), [Action::Beat(LeaseId(7))]);
        // Its answer is lost, again and again.
        while now < asked + TTL - MARGIN {
            a.handle_beaten(LeaseId(7), Beaten::Lost, now);
            now = a.poll_timeout().unwrap();
            a.handle_timeout(now);
        }
        assert_eq!(now, asked + TTL - MARGIN, "before anybody else can begin");
        let mut did = all(&mut a);
        did.retain(|action| *action != Action::Beat(LeaseId(7)));
        assert_eq!(did, [Action::End(mandate(7))]);
        // What it left behind is cleared before it claims anew.
        now = a.poll_timeout().unwrap();
        a.handle_timeout(now);
        assert_eq!(all(&mut a), [Action::Clear(LeaseId(7))]);
        a.handle_gone(Revision(7), now);
        now = a.poll_timeout().unwrap();
        a.handle_timeout(now);
        assert_eq!(all(&mut a), [Action::Claim]);
    }

    #[test]
    fn what_a_life_before_left_behind_is_cleared_and_another_is_waited_for() {
        let mut now = Instant::now();
        let mut a = Election::new(name("a"));
        a.handle_seen(seen("a", 3), now);
        a.handle_told(now);
        assert_eq!(all(&mut a), [Action::Clear(LeaseId(3))]);
        a.handle_seen(seen("b", 5), now);
        now += AGAIN;
        a.handle_timeout(now);
        // What is late says nothing new.
        a.handle_gone(Revision(3), now);
        a.handle_seen(seen("a", 3), now);
        assert_eq!((all(&mut a), a.poll_timeout()), (vec![], None));
        a.handle_gone(Revision(5), now);
        assert_eq!(all(&mut a), [Action::Claim]);
        a.handle_claimed(Some(mandate(6)), now);
        assert_eq!(all(&mut a), [Action::Begin(mandate(6), Some(name("b")))]);
        a.handle_gone(Revision(6), now);
        now += AGAIN;
        a.handle_timeout(now);
        assert_eq!(all(&mut a), [Action::End(mandate(6)), Action::Claim]);
        // It was made, and is gone before this node hears that it was.
        a.handle_gone(Revision(9), now);
        a.handle_claimed(Some(mandate(9)), now);
        assert_eq!(all(&mut a), []);
    }

    /// A store with leases as it is in etcd: they end when somebody saw no beat for their whole time.
    #[derive(Default)]
    struct Store {
        now: Revision,
        leader: Option<(usize, Mandate, u64)>,
    }

    struct Node {
        election: Election,
        leads: Option<Mandate>,
        /// Cut off from the store, or standing still, until then.
        away: Instant,
        still: Instant,
        /// What it has been told of, and the beats that it saw last, since when.
        told: Option<Mandate>,
        watched: Option<(LeaseId, u64, Instant)>,
    }

    /// Nodes are cut off, stand still and begin anew; no two ever lead, and when it is quiet one does.
    #[test]
    fn no_two_lead_and_one_does_in_the_end() {
        let (mut begun, mut ended, mut cut) = (0, 0, 0);
        for seed in 0..300_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut draw = move |below: u64| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % below
            };
            let start = Instant::now();
            let new = |at: usize| Election::new(name(["a", "b", "c"][at]));
            let mut nodes: Vec<Node> = (0..3)
                .map(|at| Node {
                    election: new(at),
                    leads: None,
                    away: start,
                    still: start,
                    told: None,
                    watched: None,
                })
                .collect();
            let (mut store, mut now) = (Store::default(), start);
            let storm = start + Duration::from_secs(120);
            let quiet = storm + Duration::from_secs(60);
            while now < quiet {
                now += Duration::from_millis(20 + draw(60));
                if now < storm && draw(60) == 0 {
                    let node = draw(3) as usize;
                    let long = Duration::from_millis(draw(15_000));
                    cut += 1;
                    match draw(3) {
                        0 => nodes[node].away = now + long,
                        1 => nodes[node].still = now + long,
                        _ => {
                            // Another life of it.
                            ended += u32::from(nodes[node].leads.take().is_some());
                            nodes[node] = Node {
                                election: new(node),
                                leads: None,
                                away: now,
                                still: now,
                                told: None,
                                watched: None,
                            };
                        }
                    }
                }
                for (at, node) in nodes.iter_mut().enumerate() {
                    if node.still > now {
                        continue;
                    }
                    node.election.handle_timeout(now);
                    let reached = node.away <= now;
                    if reached {
                        // What the registry says by now.
                        let is = store.leader.map(|(who, mandate, _)| (who, mandate));
                        if node.told != is.map(|(_, mandate)| mandate) {
                            if let Some(old) = node.told.take() {
                                node.election.handle_gone(old.made, now);
                            }
                            if let Some((who, Mandate { made, lease })) = is {
                                let who = name(["a", "b", "c"][who]);
                                node.election.handle_seen(Seen { node: who, made, lease }, now);
                                node.told = Some(Mandate { made, lease });
                            }
                        }
                        node.election.handle_told(now);
                        // It looks after leases.
                        match (store.leader, node.watched) {
                            (Some((_, mandate, beats)), Some((lease, seen, since)))
                                if (lease, seen) == (mandate.lease, beats) =>
                            {
                                if now.saturating_duration_since(since) >= TTL {
                                    store.leader = None;
                                }
                            }
                            (Some((_, mandate, beats)), _) => {
                                node.watched = Some((mandate.lease, beats, now))
                            }
                            (None, _) => node.watched = None,
                        }
                    } else {
                        node.watched = None;
                    }
                    while let Some(action) = node.election.poll_action() {
                        let lost = !reached || now < storm && draw(10) == 0;
                        match action {
                            Action::Claim => {
                                let mut claimed = None;
                                if reached && store.leader.is_none() {
                                    store.now.0 += 1;
                                    let mandate = mandate(store.now.0);
                                    store.leader = Some((at, mandate, 0));
                                    claimed = (!lost).then_some(mandate);
                                }
                                node.election.handle_claimed(claimed, now);
                            }
                            Action::Beat(lease) => {
                                let mut beaten = Beaten::Over;
                                if let Some((_, mandate, beats)) = &mut store.leader
                                    && mandate.lease == lease
                                    && reached
                                {
                                    *beats += 1;
                                    beaten = Beaten::Done;
                                }
                                let beaten = if lost { Beaten::Lost } else { beaten };
                                node.election.handle_beaten(lease, beaten, now);
                            }
                            Action::Clear(lease) => {
                                if !lost && store.leader.is_some_and(|(_, mandate, _)| mandate.lease == lease)
                                {
                                    store.leader = None;
                                }
                            }
                            Action::Begin(mandate, _) => {
                                begun += 1;
                                node.leads = Some(mandate);
                            }
                            Action::End(mandate) => {
                                ended += 1;
                                assert_eq!(node.leads.take(), Some(mandate), "seed {seed}");
                            }
                        }
                    }
                }
                // Whoever stands still does nothing, though it may believe that it leads.
                let leads = nodes.iter().filter(|node| node.still <= now && node.leads.is_some()).count();
                assert!(leads <= 1, "seed {seed}: {leads} lead");
            }
            let leads = nodes.iter().filter_map(|node| node.leads);
            assert_eq!(leads.count(), 1, "seed {seed}: nobody leads in the end");
        }
        println!("{begun} begun, {ended} ended, {cut} faults");
        assert!(begun > 1_000 && ended > 700 && cut > 3_000, "{begun} {ended} {cut}");
    }
}
