//! Link state at one node: what it tells whom, when, and what it does not believe.

#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starlane_core::routing::{
    Action, Advert, CHAIN_BYTES_MAX, Carried, Config, Cost, Digest, Edition, Identity, LABELS_MAX, LINKS_MAX,
    Link, LinkState, LinksFull, MORE_BYTES_MAX, Malformed, Own, PACKET_BYTES_MAX, PACKETS_IN_FLIGHT_MAX,
    Packet, SEEN_MAX, SIGNATURE_BYTES_MAX, Seen, Sign, Verify,
};
use starlane_core::{Generation, Moment, NodeId, NodeName, Role};

struct Pen;

const SIGNED: Bytes = Bytes::from_static(b"signed");

impl Sign for Pen {
    fn chain(&self) -> Bytes {
        Bytes::from_static(b"chain")
    }

    fn sign(&self, _: &[u8]) -> Bytes {
        SIGNED
    }
}

impl Verify for Pen {
    fn verify(&self, advert: &Advert) -> bool {
        advert.signature == SIGNED
    }
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn id(text: &str) -> NodeId {
    name(text).id()
}

fn ms(ms: u64) -> Cost {
    Cost::from_rtt(Duration::from_millis(ms))
}

/// An advert of another node, its first life, a relay.
fn advert(node: &str, sequence: u64, links: &[&str]) -> Advert {
    let mut links: Vec<_> = links.iter().map(|to| Link { to: id(to), cost: ms(1) }).collect();
    links.sort_by_key(|link| link.to);
    Advert {
        name: name(node),
        edition: Edition { generation: Generation(1), sequence },
        role: Role::Relay,
        registry: false,
        draining: false,
        labels: BTreeMap::new(),
        links,
        more: Bytes::new(),
        chain: Bytes::new(),
        signature: SIGNED,
    }
}

fn packet(advert: Advert) -> Packet {
    Packet::Adverts(vec![Carried { age_ms: 0, advert: Arc::new(advert) }])
}

fn digest(seen: &[(&str, u64)]) -> Packet {
    let edition = |sequence| Edition { generation: Generation(1), sequence };
    let mut seen: Vec<_> =
        seen.iter().map(|(node, sequence)| Seen { node: id(node), edition: edition(*sequence) }).collect();
    seen.sort_by_key(|seen| seen.node);
    Packet::Digest(Digest { first: NodeId(0), last: NodeId(u64::MAX), seen })
}

/// The node `a`, and what it wants done.
struct A {
    state: LinkState,
    now: u64,
}

impl A {
    fn with(config: Config, role: Role) -> Self {
        let identity = Identity { name: name("a"), generation: Generation(1), role };
        let pen = Arc::new(Pen);
        let state = LinkState::new(config, identity, Own::default(), pen.clone(), pen, Moment(0)).unwrap();
        let mut a = Self { state, now: 0 };
        assert_eq!(a.does(), ["routes"]);
        a
    }

    /// A relay with links to some neighbours, who know of that and were told all.
    fn linked(neighbours: &[&str]) -> Self {
        let mut a = Self::with(Config::default(), Role::Relay);
        for neighbour in neighbours {
            a.up(neighbour);
            a.hears(neighbour, packet(advert(neighbour, 1, &["a"])));
        }
        a.pass(1_000);
        a.does();
        a
    }

    fn at(&self) -> Moment {
        Moment(self.now)
    }

    fn up(&mut self, peer: &str) {
        self.state.handle_link_up(id(peer), ms(1), self.at()).unwrap();
    }

    fn hears(&mut self, from: &str, packet: Packet) {
        self.state.handle_packet(id(from), packet, self.at()).unwrap();
    }

    /// Lets time pass, doing on its way what is due.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(due) = self.state.poll_timeout().filter(|due| due.0 <= end) {
            self.now = self.now.max(due.0);
            self.state.handle_timeout(self.at());
        }
        self.now = end;
        self.state.handle_timeout(self.at());
    }

    fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(action) = self.state.poll_action() {
            if let Action::Send { to, .. } = &action {
                self.state.handle_sent(*to, self.at());
            }
            actions.push(action);
        }
        actions
    }

    /// What it wants done, in words: `b: a.2` is to send the second advert of `a` to `b`.
    fn does(&mut self) -> Vec<String> {
        self.actions().iter().map(words).collect()
    }

    /// The same without routes.
    fn says(&mut self) -> Vec<String> {
        self.does().into_iter().filter(|action| action != "routes").collect()
    }

    fn reaches(&self, to: &str) -> bool {
        self.state.routes().next_hop(id(to)).is_some()
    }
}

fn words(action: &Action) -> String {
    let names = ["a", "b", "c", "d", "e", "leaf"];
    let called = |node: NodeId| names.into_iter().find(|name| id(name) == node).unwrap_or("?");
    match action {
        Action::Routes(_) => "routes".into(),
        Action::Joined(name, generation) => format!("{name} joined {generation}"),
        Action::Left(name) => format!("{name} left"),
        Action::Replaced => "replaced".into(),
        Action::Send { to, packet: Packet::Digest(digest) } => {
            let mut seen: Vec<_> = digest
                .seen
                .iter()
                .map(|seen| format!(" {}.{}", called(seen.node), seen.edition.sequence))
                .collect();
            seen.sort();
            format!("{}: knows{}", called(*to), seen.concat())
        }
        Action::Send { to, packet: Packet::Adverts(adverts) } => {
            let mut told: Vec<_> = adverts
                .iter()
                .map(|it| format!(" {}.{}", it.advert.name, it.advert.edition.sequence))
                .collect();
            told.sort();
            format!("{}:{}", called(*to), told.concat())
        }
    }
}

#[test]
fn a_new_link_begins_with_a_digest_and_the_advert_that_tells_of_it() {
    let mut a = A::with(Config::default(), Role::Relay);
    a.up("b");
    assert_eq!(a.says(), ["b: knows a.2", "b: a.2"]);
    a.hears("b", packet(advert("b", 7, &["a"])));
    a.pass(20);
    assert_eq!(a.does(), ["routes", "b joined 1"]);
    assert_eq!(a.state.routes().path(id("b")), Some(vec![id("a"), id("b")]));
}

#[test]
fn a_link_that_the_other_end_does_not_advertise_leads_nowhere() {
    let mut a = A::linked(&["b"]);
    a.up("c");
    a.hears("c", packet(advert("c", 1, &["b"])));
    a.hears("b", packet(advert("b", 2, &["a"])));
    a.pass(1_000);
    assert!(!a.reaches("c") && a.reaches("b"));
    a.hears("c", packet(advert("c", 2, &["a"])));
    a.pass(1_000);
    assert!(a.reaches("c"));
}

#[test]
fn what_changes_in_quick_succession_is_told_once_with_the_last_state() {
    let mut a = A::linked(&["b"]);
    let sequence = a.state.counters().advertised;
    let draining = |draining| Own { draining, ..Own::default() };
    for round in 0..50 {
        a.state.set_own(draining(round % 2 == 1), a.at()).unwrap();
        a.pass(1);
    }
    // The first one at once, since the last was long ago.
    assert_eq!(a.says(), [format!("b: a.{}", sequence + 1)]);
    a.pass(100);
    let actions = a.actions();
    let last = actions.iter().find_map(|action| match action {
        Action::Send { packet: Packet::Adverts(adverts), .. } => Some(adverts[0].advert.clone()),
        _ => None,
    });
    let last = last.unwrap();
    assert_eq!((last.draining, last.edition.sequence), (true, sequence + 2));
    a.pass(5_000);
    assert_eq!(a.says(), [""; 0]);
}

#[test]
fn jitter_is_told_to_nobody_and_a_real_change_after_a_pause() {
    let mut a = A::linked(&["b"]);
    a.pass(5_000);
    a.does();
    let told = a.state.counters().advertised;
    for round in 0..100 {
        let cost = Cost::from_rtt(Duration::from_micros(800 + round * 4));
        a.state.handle_link_cost(id("b"), cost, a.at());
        a.pass(10);
    }
    assert_eq!(a.state.counters().advertised, told);
    for round in 0..100 {
        a.state.handle_link_cost(id("b"), ms(20 + round % 2 * 30), a.at());
        a.pass(10);
    }
    assert_eq!(a.state.counters().advertised, told + 1, "one at once, the next after the pause");
    a.pass(5_000);
    assert_eq!(a.state.counters().advertised, told + 2);
    assert_eq!(a.state.routes().member(id("b")).unwrap().route.unwrap().cost, 50_000);
}

#[test]
fn an_advert_is_passed_on_once_and_never_back() {
    let mut a = A::linked(&["b", "c", "d"]);
    a.hears("b", packet(advert("e", 5, &["b"])));
    let mut said = a.says();
    said.sort();
    assert_eq!(said, ["c: e.5", "d: e.5"]);
    a.hears("c", packet(advert("e", 5, &["b"])));
    a.hears("d", packet(advert("e", 4, &["b"])));
    a.pass(100);
    assert_eq!(
        a.says(),
        ["e joined 1"; 0],
        "nothing new, and nobody can be reached over what only one end says"
    );
    assert_eq!(a.state.counters().known, 2);
}

#[test]
fn a_later_life_replaces_an_earlier_one_whatever_their_numbers() {
    let mut a = A::linked(&["b", "c"]);
    let mut next = advert("c", 1, &["a"]);
    next.edition.generation = Generation(2);
    a.hears("c", packet(next));
    a.pass(20);
    assert_eq!(a.says(), ["c left", "c joined 2", "b: c.1"]);
    a.hears("b", packet(advert("c", 900, &["a"])));
    a.pass(20);
    assert_eq!(a.does(), [""; 0]);
}

#[test]
fn a_neighbour_is_sent_what_it_lacks_and_nothing_else() {
    let mut a = A::linked(&["b", "c"]);
    a.hears("c", packet(advert("d", 3, &["c"])));
    a.hears("c", packet(advert("e", 3, &["c"])));
    a.does();
    a.hears("b", digest(&[("a", 900), ("b", 1), ("c", 9), ("d", 2)]));
    assert_eq!(a.says(), ["b: d.3 e.3"]);
}

#[test]
fn a_leaf_tells_of_itself_alone() {
    let mut leaf = A::with(Config::default(), Role::Leaf);
    leaf.up("b");
    leaf.up("c");
    leaf.hears("b", packet(advert("d", 1, &["b"])));
    leaf.hears("c", digest(&[]));
    leaf.pass(1_000);
    let said: Vec<_> = leaf.says().into_iter().filter(|action| !action.contains("knows")).collect();
    assert!(!said.is_empty() && said.iter().all(|action| !action.contains(" d.")), "{said:?}");
}

#[test]
fn a_leaf_tells_its_neighbour_of_the_past_of_that() {
    let mut leaf = A::with(Config::default(), Role::Leaf);
    leaf.up("b");
    leaf.hears("b", packet(advert("b", 500, &["a"])));
    leaf.state.handle_link_down(id("b"), leaf.at());
    leaf.up("b");
    leaf.pass(1_000);
    leaf.does();
    leaf.hears("b", digest(&[("b", 1), ("a", 900)]));
    assert_eq!(leaf.says(), ["b: b.500"]);
}

#[test]
fn a_long_digest_comes_in_pages_that_cover_all_ids() {
    let mut a = A::linked(&["b"]);
    let count = 2 * SEEN_MAX + 10;
    for node in 0..count {
        a.hears("b", packet(advert(&format!("n{node}"), 1, &["b"])));
    }
    a.does();
    a.up("c");
    let pages: Vec<_> = a
        .actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Send { packet: Packet::Digest(digest), .. } => Some(digest),
            _ => None,
        })
        .collect();
    assert_eq!(pages.len(), 3);
    assert_eq!(pages.iter().map(|page| page.seen.len()).sum::<usize>(), count + 2);
    assert_eq!((pages[0].first, pages[2].last), (NodeId(0), NodeId(u64::MAX)));
    for (page, next) in pages.iter().zip(&pages[1..]) {
        assert_eq!(page.last.0 + 1, next.first.0);
    }
    // Who knows all of them is sent nothing, page by page.
    let sent = a.state.counters().sent;
    for page in pages {
        Packet::Digest(page.clone()).validate().unwrap();
        a.hears("c", Packet::Digest(page));
    }
    a.does();
    assert_eq!(a.state.counters().sent, sent);
}

#[test]
fn a_slow_link_is_sent_the_last_state_once_it_takes_packets_again() {
    let mut a = A::linked(&["b", "c"]);
    let mut to_b = 0;
    for sequence in 2..100 {
        a.hears("c", packet(advert("d", sequence, &["c"])));
        a.hears("c", packet(advert("e", sequence, &["c"])));
        // The link to `b` writes nothing.
        while let Some(action) = a.state.poll_action() {
            to_b += usize::from(matches!(action, Action::Send { to, .. } if to == id("b")));
        }
    }
    assert_eq!(to_b, PACKETS_IN_FLIGHT_MAX);
    a.state.handle_sent(id("b"), a.at());
    assert_eq!(a.says(), ["b: d.99 e.99"]);
}

#[test]
fn what_is_not_signed_by_its_node_is_dropped() {
    let mut a = A::linked(&["b", "c"]);
    a.hears("b", packet(Advert { signature: Bytes::new(), ..advert("d", 1, &["a", "b"]) }));
    a.hears("b", packet(Advert { signature: Bytes::new(), ..advert("c", 99, &[]) }));
    let mut other = advert("a", 1, &[]);
    other.edition.generation = Generation(9);
    a.hears("b", packet(Advert { signature: Bytes::new(), ..other }));
    a.pass(1_000);
    assert_eq!(a.does(), [""; 0]);
    assert_eq!(a.state.counters().unverified, 3);
    assert!(a.reaches("c") && a.state.routes().member(id("d")).is_none());
}

#[test]
fn what_no_node_would_send_is_refused_as_a_whole() {
    let right = || advert("d", 1, &["b"]);
    let labels = |count: usize| (0..count).map(|at| (format!("l{at}"), String::new())).collect();
    let label = |name: usize, value: usize| BTreeMap::from([("n".repeat(name), "v".repeat(value))]);
    let links = |count: usize| (0..count as u64).map(|to| Link { to: NodeId(to), cost: ms(1) }).collect();
    let two = [Link { to: NodeId(2), cost: ms(1) }, Link { to: NodeId(1), cost: ms(1) }];
    for (wrong, why) in [
        (Advert { labels: labels(LABELS_MAX + 1), ..right() }, Malformed::Labels),
        (Advert { labels: label(0, 1), ..right() }, Malformed::Labels),
        (Advert { labels: label(64, 1), ..right() }, Malformed::Labels),
        (Advert { labels: label(1, 257), ..right() }, Malformed::Labels),
        (Advert { links: links(LINKS_MAX + 1), ..right() }, Malformed::Links),
        (Advert { links: two.to_vec(), ..right() }, Malformed::Links),
        (Advert { links: vec![two[0], two[0]], ..right() }, Malformed::Links),
        (advert("d", 1, &["d"]), Malformed::Links),
        (Advert { more: vec![0; MORE_BYTES_MAX + 1].into(), ..right() }, Malformed::More),
        (Advert { chain: vec![0; CHAIN_BYTES_MAX + 1].into(), ..right() }, Malformed::Chain),
        (Advert { signature: vec![0; SIGNATURE_BYTES_MAX + 1].into(), ..right() }, Malformed::Signature),
    ] {
        let mut a = A::linked(&["b"]);
        let carried = |advert| Carried { age_ms: 0, advert: Arc::new(advert) };
        let packet = Packet::Adverts(vec![carried(right()), carried(wrong)]);
        assert_eq!(a.state.handle_packet(id("b"), packet, a.at()), Err(why));
        a.pass(1_000);
        assert_eq!(a.does(), [""; 0], "{why}");
        assert_eq!(a.state.counters().malformed, 1);
    }
    let edition = Edition { generation: Generation(1), sequence: 1 };
    let seen = |ids: &[u64]| ids.iter().map(|at| Seen { node: NodeId(*at), edition }).collect::<Vec<_>>();
    for (first, last, seen) in
        [(0, 9, seen(&[2, 1])), (0, 9, seen(&[1, 1])), (0, 1, seen(&[2])), (3, 9, seen(&[2]))]
    {
        let digest = Packet::Digest(Digest { first: NodeId(first), last: NodeId(last), seen });
        assert_eq!(digest.validate(), Err(Malformed::Digest));
    }
    // A cost that no link has: too dear for any, and read from bytes.
    let cost: Cost = serde_json::from_str("4000000000").unwrap();
    let dear = packet(Advert { links: vec![Link { to: id("b"), cost }], ..right() });
    assert_eq!(dear.validate(), Err(Malformed::Links));
}

#[test]
fn packets_of_strangers_are_counted_and_no_more() {
    let mut a = A::linked(&["b"]);
    a.hears("c", packet(advert("c", 1, &["a"])));
    assert_eq!((a.does(), a.state.counters().unlinked), (vec![], 1));
}

#[test]
fn nodes_beyond_the_bound_are_refused_and_counted() {
    let mut a = A::with(Config { nodes_max: 3, ..Config::default() }, Role::Relay);
    a.up("b");
    for node in ["b", "c", "d", "e"] {
        a.hears("b", packet(advert(node, 1, &["a"])));
    }
    a.hears("b", packet(advert("c", 2, &["a"])));
    a.pass(1_000);
    assert_eq!(a.state.counters().beyond_nodes_max, 2);
    assert_eq!(a.state.routes().members().len(), 3);
    assert_eq!(a.state.counters().accepted, 3, "who is known already may say something new");
}

#[test]
fn links_beyond_the_bound_are_refused() {
    let mut a = A::with(Config::default(), Role::Relay);
    for peer in 0..LINKS_MAX as u64 {
        a.state.handle_link_up(NodeId(peer), ms(1), a.at()).unwrap();
    }
    assert_eq!(a.state.handle_link_up(NodeId(LINKS_MAX as u64), ms(1), a.at()), Err(LinksFull));
    assert_eq!(a.state.handle_link_up(NodeId(7), ms(1), a.at()), Ok(()), "in place of the old one");
}

#[test]
fn a_node_with_a_later_life_falls_silent() {
    let mut a = A::linked(&["b", "c"]);
    let mut later = advert("a", 1, &["c"]);
    later.edition.generation = Generation(2);
    a.hears("b", packet(later.clone()));
    a.hears("c", packet(later));
    assert_eq!(a.does(), ["replaced"]);
    a.state.set_own(Own { registry: true, ..Own::default() }, a.at()).unwrap();
    a.pass(20_000);
    assert!(!a.says().iter().any(|action| action.contains(" a.")));
}

#[test]
fn a_node_speaks_above_what_is_left_of_its_own_past() {
    let mut a = A::linked(&["b", "c"]);
    a.hears("b", packet(advert("a", 500, &["d"])));
    a.hears("c", packet(advert("a", 500, &["d"])));
    let mut said = a.says();
    said.sort();
    assert_eq!(said, ["b: a.501", "c: a.501"]);
    // What has the same number and another content is no echo either.
    a.pass(6_000);
    a.hears("b", packet(advert("a", 501, &["d"])));
    a.pass(0);
    assert!(a.says().contains(&"b: a.502".to_owned()));
}

#[test]
fn two_nodes_that_believe_to_be_one_do_not_shout_as_fast_as_they_can() {
    let mut a = A::linked(&["b"]);
    let before = a.state.counters().advertised;
    for round in 1..=600 {
        a.hears("b", packet(advert("a", round * 1_000, &["d"])));
        a.pass(100);
    }
    let told = a.state.counters().advertised - before;
    assert!((12..20).contains(&told), "{told} adverts in a minute");
}

#[test]
fn an_advert_that_nobody_refreshes_ages_out() {
    let mut a = A::linked(&["b"]);
    a.hears("b", packet(advert("c", 1, &["b"])));
    let old = |age_ms, sequence| {
        Packet::Adverts(vec![Carried { age_ms, advert: Arc::new(advert("d", sequence, &["b"])) }])
    };
    a.hears("b", old(45_000, 1));
    assert_eq!(a.state.counters().expired, 1);
    a.hears("b", old(40_000, 2));
    let known = |a: &A, node| a.state.routes().member(id(node)).is_some();
    a.pass(1_000);
    assert!(known(&a, "c") && known(&a, "d"));
    a.pass(5_000);
    assert!(known(&a, "c") && !known(&a, "d"), "it was forty seconds old when it came");
    a.pass(37_000);
    a.hears("b", packet(advert("b", 2, &["a"])));
    assert!(known(&a, "c"));
    // Who passes it on now says how old it is.
    a.does();
    a.up("e");
    a.hears("e", digest(&[]));
    let ages: Vec<_> = a
        .actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Send { packet: Packet::Adverts(adverts), .. } => Some(adverts),
            _ => None,
        })
        .flatten()
        .filter(|carried| carried.advert.name == name("c"))
        .map(|carried| carried.age_ms)
        .collect();
    assert_eq!(ages, [43_000]);
    a.pass(2_100);
    assert!(!known(&a, "c") && known(&a, "b"));
}

#[test]
fn what_did_not_change_is_told_again_and_computed_by_nobody() {
    let mut a = A::linked(&["b"]);
    let (told, computed) = (a.state.counters().advertised, a.state.counters().routes);
    for sequence in 2..9 {
        a.pass(14_000);
        a.hears("b", packet(advert("b", sequence, &["a"])));
    }
    let counters = a.state.counters();
    assert!((6..=9).contains(&(counters.advertised - told)), "{counters:?}");
    assert_eq!(counters.routes, computed);
}

#[test]
fn a_link_that_broke_leaves_the_routes_at_once() {
    let mut a = A::linked(&["b", "c"]);
    a.hears("b", packet(advert("d", 1, &["b"])));
    a.hears("b", packet(advert("b", 2, &["a", "d"])));
    a.pass(1_000);
    assert!(a.reaches("c") && a.reaches("d"));
    a.does();
    // Both in the same moment: the second one does not wait for the pause after the first one's routes.
    a.state.handle_link_down(id("c"), a.at());
    assert_eq!(a.does(), ["routes", "c left", "b: a.4"]);
    a.state.handle_link_down(id("b"), a.at());
    let mut said = a.does();
    said.sort();
    assert_eq!(said, ["b left", "d left", "routes"]);
    a.state.handle_link_down(id("b"), a.at());
    assert_eq!(a.does(), [""; 0]);
}

#[test]
fn routes_are_computed_once_for_what_changes_together() {
    let mut a = A::linked(&["b"]);
    let computed = a.state.counters().routes;
    for node in 0..500 {
        a.hears("b", packet(advert(&format!("n{node}"), 1, &["b"])));
    }
    a.pass(50);
    let more = a.state.counters().routes - computed;
    assert!((2..=4).contains(&more), "{more}");
    assert_eq!(a.state.routes().members().len(), 502);
}

#[test]
fn labels_beyond_the_bounds_are_refused_here() {
    let mut a = A::linked(&["b"]);
    let wrong = Own { labels: BTreeMap::from([("n".into(), "v".repeat(257))]), ..Own::default() };
    assert_eq!(a.state.set_own(wrong, a.at()), Err(Malformed::Labels));
    a.pass(1_000);
    assert_eq!(a.does(), [""; 0]);
}

#[test]
fn the_signature_covers_all_but_itself() {
    let right = advert("d", 1, &["b"]);
    let changed: [fn(&mut Advert); 12] = [
        |it| it.name = name("e"),
        |it| it.edition.generation = Generation(2),
        |it| it.edition.sequence = 2,
        |it| it.role = Role::Leaf,
        |it| it.registry = true,
        |it| it.draining = true,
        |it| it.labels = BTreeMap::from([("a".into(), "bc".into())]),
        |it| it.labels = BTreeMap::from([("ab".into(), "c".into())]),
        |it| it.links.clear(),
        |it| it.links[0].cost = ms(2),
        |it| it.more = Bytes::from_static(b"x"),
        |it| it.chain = Bytes::from_static(b"x"),
    ];
    let mut all: Vec<_> = changed
        .iter()
        .map(|change| {
            let mut it = right.clone();
            change(&mut it);
            it.signed_bytes()
        })
        .chain([right.signed_bytes()])
        .collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 13);
    assert_eq!(Advert { signature: Bytes::new(), ..right.clone() }.signed_bytes(), right.signed_bytes());
}

#[test]
fn the_longest_packets_fit_on_the_wire() {
    let mut longest = advert(&"n".repeat(63), u64::MAX, &[]);
    longest.edition.generation = Generation(u64::MAX);
    longest.labels = (10..10 + LABELS_MAX).map(|at| (at.to_string(), "v".repeat(62))).collect();
    let links = 0..LINKS_MAX as u64;
    longest.links = links.map(|at| Link { to: NodeId(u64::MAX - 9_999 + at), cost: Cost::MAX }).collect();
    longest.more = vec![1; MORE_BYTES_MAX].into();
    longest.chain = vec![1; CHAIN_BYTES_MAX].into();
    longest.signature = vec![1; SIGNATURE_BYTES_MAX].into();
    let carried = Carried { age_ms: u32::MAX, advert: Arc::new(longest) };
    let edition = carried.advert.edition;
    let seen = (0..SEEN_MAX as u64).map(|at| Seen { node: NodeId(u64::MAX - 9_999 + at), edition }).collect();
    let packets = [
        Packet::Adverts(vec![carried]),
        Packet::Digest(Digest { first: NodeId(0), last: NodeId(u64::MAX), seen }),
    ];
    for packet in packets {
        packet.validate().unwrap();
        let bytes = postcard::to_allocvec(&packet).unwrap();
        assert!(bytes.len() <= PACKET_BYTES_MAX, "{} bytes", bytes.len());
        assert_eq!(postcard::from_bytes::<Packet>(&bytes).unwrap(), packet);
    }

    // Several are put together only as long as they fit.
    let mut a = A::linked(&["b"]);
    for node in 0..300 {
        let chain = Bytes::from(vec![1; CHAIN_BYTES_MAX]);
        a.hears("b", packet(Advert { chain, ..advert(&format!("n{node}"), 1, &["b"]) }));
    }
    a.does();
    a.up("c");
    a.hears("c", digest(&[]));
    let mut told = 0;
    for action in a.actions() {
        let Action::Send { packet, .. } = action else { continue };
        assert!(postcard::to_allocvec(&packet).unwrap().len() <= PACKET_BYTES_MAX);
        if let Packet::Adverts(adverts) = packet {
            told += adverts.len();
        }
    }
    assert!(told >= 302, "{told}");
}
