//! Promise 3: what clients of two nodes ask of a few resources, and hear, is as if one thing were done after the other,
//! while nodes and members of etcd are killed and paused, and the nodes are cut off from each other.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Report;
use crate::Api;
use crate::etcd::Etcd;
use crate::linear::check::{Operation, Verdict, check};
use crate::linear::client::{Client, Heard};
use crate::linear::pair::{Answer, Call, Pair, State, unname};
use crate::linear::shrink::{page, shrink};
use crate::mesh::{Mesh, Plan, hold, wait};
use crate::net::Lab;
use crate::seeded::Random;

const CLIENTS: usize = 8;
/// The registry's node, and one that asks it. Half of the clients are at each.
const NODES: [&str; 2] = ["cloud", "edge"];
/// How many pairs of resources there are in a run; few, so that clients are in each other's way.
const PAIRS: usize = 3;
/// How long a client waits for an answer; a fault lasts longer now and then.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a client waits when nobody could do anything.
const AGAIN: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(120);
/// How much of a search for an order is done before it is given up.
const STEPS_MAX: usize = 20_000_000;

type Done = Operation<Call, Answer>;

/// Where the registry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In a file of its node.
    Embedded,
    /// In an etcd of three members.
    Etcd,
}

/// How much is done in a run, at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// So many operations are answered.
    Operations(usize),
    /// It takes so long.
    Time(Duration),
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Histories {
    /// Where the registry is.
    pub store: Store,
    /// How many histories there are, each of resources of its own.
    pub runs: usize,
    /// How long each is.
    pub work: Work,
    /// How many faults there are in each.
    pub faults: usize,
    /// What decides on calls and faults.
    pub seed: u64,
    /// Whether the node without the registry reads what it last heard, and does nothing else. Then the only faults are cuts,
    /// and the promise must turn out to be broken.
    pub stale: bool,
    /// Where histories that are illegal are written to.
    pub kept_in: PathBuf,
}

/// What the runs saw.
#[derive(Debug)]
pub struct Judged {
    asked: Histories,
    operations: usize,
    contended: usize,
    refused: usize,
    not_done: usize,
    unheard: usize,
    strange: Vec<String>,
    kills: usize,
    pauses: usize,
    cuts: usize,
    packets: usize,
    illegal: Vec<PathBuf>,
    undecided: usize,
    longest: usize,
    checking: Duration,
}

impl Judged {
    /// The files of the histories that are illegal.
    pub fn illegal(&self) -> &[PathBuf] {
        &self.illegal
    }

    /// How many histories nobody knows of whether they are.
    pub fn undecided(&self) -> usize {
        self.undecided
    }

    /// The figures, and whether the promise was kept.
    pub fn report(&self) -> Report {
        let Histories { store, runs, work, faults, seed, .. } = self.asked;
        let least = match work {
            Work::Operations(operations) => operations,
            Work::Time(time) => time.as_secs() as usize * 20,
        };
        // How often each kind of fault comes when they come in turn.
        let kinds = kinds(&self.asked);
        let turns = |some: fn(&Fault) -> bool| {
            runs * faults / kinds.len() * kinds.iter().filter(|fault| some(fault)).count()
        };
        let cuts = turns(|fault| matches!(fault, Fault::Cut));
        let mut report = Report::of("P03");
        report.figure("store", store);
        report.figure("seed", seed);
        report.at_least("runs", runs, 1);
        report.at_least("operations", self.operations, runs * least);
        report.at_least("contended", self.contended, runs * least / 4);
        report.at_least("refused", self.refused, runs * least / 20);
        report.figure("not_done", self.not_done);
        report.figure("unheard", self.unheard);
        report.at_least(
            "kills",
            self.kills,
            turns(|fault| matches!(fault, Fault::Kill(_) | Fault::KillMember)),
        );
        report.at_least(
            "pauses",
            self.pauses,
            turns(|fault| matches!(fault, Fault::Pause(_) | Fault::PauseMember)),
        );
        report.at_least("cuts", self.cuts, cuts);
        report.at_least("packets_cut", self.packets, cuts);
        report.none("strange_answers", self.strange.len());
        report.none("illegal", self.illegal.len());
        report.none("undecided", self.undecided);
        report.figure("longest_history", self.longest);
        report.figure("checking", self.checking);
        report
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.report())?;
        self.illegal.iter().try_for_each(|file| write!(f, "\nillegal: {}", file.display()))?;
        self.strange.iter().take(10).try_for_each(|strange| write!(f, "\nstrange: {strange}"))
    }
}

/// A fault, and whom it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill(&'static str),
    Pause(&'static str),
    /// The nodes do not hear each other.
    Cut,
    /// Of etcd.
    KillMember,
    PauseMember,
}

/// The faults of a run, which come in turn.
fn kinds(asked: &Histories) -> &'static [Fault] {
    const STALE: &[Fault] = &[Fault::Cut];
    const EMBEDDED: &[Fault] =
        &[Fault::Kill("cloud"), Fault::Cut, Fault::Pause("cloud"), Fault::Kill("edge")];
    const ETCD: &[Fault] =
        &[Fault::KillMember, Fault::Cut, Fault::PauseMember, Fault::Kill("cloud"), Fault::Pause("cloud")];
    match asked {
        Histories { stale: true, .. } => STALE,
        Histories { store: Store::Embedded, .. } => EMBEDDED,
        Histories { store: Store::Etcd, .. } => ETCD,
    }
}

/// Lets clients of two nodes ask, records what they hear, and checks it. `None` when there is no etcd and one is asked for.
///
/// # Panics
/// When nothing goes on any more.
pub fn histories(lab: Lab, asked: &Histories) -> Option<Judged> {
    let mut place = Place::start(lab, asked.store)?;
    let mut judged = Judged {
        asked: asked.clone(),
        operations: 0,
        contended: 0,
        refused: 0,
        not_done: 0,
        unheard: 0,
        strange: Vec::new(),
        kills: 0,
        pauses: 0,
        cuts: 0,
        packets: 0,
        illegal: Vec::new(),
        undecided: 0,
        longest: 0,
        checking: Duration::ZERO,
    };
    for run in 0..asked.runs {
        for (pair, mut history) in record(&mut place, asked, run, &mut judged).into_iter().enumerate() {
            unname(&mut history);
            judge(&history, &format!("{:?}-{}-{run}-{pair}", asked.store, asked.seed), &mut judged);
        }
    }
    judged.packets = place.mesh.lab().dropped() as usize;
    Some(judged)
}

/// Checks the history of one pair, and keeps it when it is illegal.
fn judge(history: &[Done], name: &str, judged: &mut Judged) {
    judged.operations += history.iter().filter(|done| done.answered.is_some()).count();
    judged.unheard += history.iter().filter(|done| done.answered.is_none()).count();
    let refused = |done: &&Done| matches!(done.answered, Some((_, Answer::Refused(_))));
    judged.refused += history.iter().filter(refused).count();
    judged.contended += contended(history);
    judged.longest = judged.longest.max(history.len());
    let begun = Instant::now();
    let verdict = check::<Pair>(State::default(), history, STEPS_MAX);
    judged.checking += begun.elapsed();
    let (ordered, stuck) = match verdict {
        Verdict::Linearizable => return,
        Verdict::Undecided => {
            judged.undecided += 1;
            return;
        }
        Verdict::Illegal { ordered, stuck } => (ordered, stuck),
    };
    let small = shrink::<Pair>(&State::default(), history, STEPS_MAX);
    let text = format!(
        "No order explains this history; the longest has {ordered} operations, then this cannot follow:\n{}\n\
         What is enough of it, {} operations of {}:\n{}\nThe whole:\n{}",
        page(&history[stuck..=stuck]),
        small.len(),
        history.len(),
        page(&small),
        page(history),
    );
    let file = judged.asked.kept_in.join(format!("{}.txt", name.to_lowercase()));
    std::fs::create_dir_all(&judged.asked.kept_in)
        .and_then(|()| std::fs::write(&file, text))
        .expect("a file");
    judged.illegal.push(file);
}

/// How many operations were under way at the same time as a write of somebody else.
fn contended(history: &[Done]) -> usize {
    let mut under_way: Vec<&Done> = Vec::new();
    let mut met = vec![false; history.len()];
    let mut sorted: Vec<(usize, &Done)> = history.iter().enumerate().collect();
    sorted.sort_by_key(|(_, done)| done.called);
    let end = |done: &Done| done.answered.as_ref().map_or(done.called, |(end, _)| *end);
    let mut places: Vec<usize> = Vec::new();
    for (at, done) in sorted {
        let keep: Vec<bool> = under_way.iter().map(|other| end(other) > done.called).collect();
        let mut kept = keep.iter();
        under_way.retain(|_| kept.next() == Some(&true));
        let mut kept = keep.iter();
        places.retain(|_| kept.next() == Some(&true));
        for (place, other) in places.iter().zip(&under_way) {
            met[at] |= other.call.writes();
            met[*place] |= done.call.writes();
        }
        under_way.push(done);
        places.push(at);
    }
    met.into_iter().filter(|met| *met).count()
}

/// Two nodes, each in a network of its own, and the etcd beside the first.
struct Place {
    mesh: Mesh,
    etcd: Option<Etcd>,
    /// How many faults hit a member of etcd so far.
    turn: usize,
}

impl Place {
    fn start(lab: Lab, store: Store) -> Option<Self> {
        let mut mesh = Mesh::in_lab(lab, &[]);
        let mut etcd = None;
        mesh.add_keeping(Plan::relay(NODES[0]), |serve| {
            if store == Store::Etcd {
                let space = serve.space.clone()?;
                etcd = space.inside(|| Etcd::start(3));
            }
            etcd.as_ref().map(|etcd| etcd.address("linear"))
        });
        if store == Store::Etcd && etcd.is_none() {
            return None;
        }
        mesh.add(Plan::leaf(NODES[1]));
        mesh.wait_ready(2, PATIENCE);
        mesh.first().exec("create linear<Space>").ok();
        Some(Self { mesh, etcd, turn: 0 })
    }

    /// Lets a fault happen for so long, and takes it back.
    fn suffer(&mut self, fault: Fault, held: Duration) {
        let [cloud, edge] = NODES.map(|name| self.mesh.space(name));
        match fault {
            Fault::Kill(name) => {
                let node = self.mesh.node_mut(name);
                node.kill();
                hold(held / 4);
                node.restart();
            }
            Fault::Pause(name) => {
                let node = self.mesh.node(name);
                node.pause();
                hold(held);
                node.resume();
            }
            Fault::Cut => {
                self.mesh.lab().cut(&cloud, &edge);
                hold(held);
                self.mesh.lab().heal();
            }
            Fault::KillMember | Fault::PauseMember => {
                let etcd = self.etcd.as_mut().expect("there is one");
                let member = self.turn % etcd.count();
                self.turn += 1;
                if fault == Fault::PauseMember {
                    etcd.pause(member);
                    hold(held);
                    etcd.resume(member);
                } else {
                    etcd.kill(member);
                    hold(held);
                    cloud.inside(|| etcd.restart(member));
                }
            }
        }
    }
}

/// What one client has to tell of each pair.
#[derive(Default)]
struct Told {
    histories: [Vec<Done>; PAIRS],
    not_done: usize,
    strange: Vec<String>,
}

/// Lets the clients ask while faults happen; answers the history of each pair.
fn record(place: &mut Place, asked: &Histories, run: usize, judged: &mut Judged) -> [Vec<Done>; PAIRS] {
    let bases: [String; PAIRS] = std::array::from_fn(|pair| format!("linear:r{run}-{pair}"));
    for base in &bases {
        place.mesh.first().exec(&format!("create {base}<Base>")).ok();
    }
    let clock = Instant::now();
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut random = Random::new(asked.seed.wrapping_add(run as u64));
    let told: Vec<Told> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|by| {
                let node = by % NODES.len();
                let api = Api::of(place.mesh.node(NODES[node]));
                let (bases, over, answered) = (&bases, &over, &answered);
                let random = Random::new(random.number());
                let stale = asked.stale && node == 1;
                scope.spawn(move || {
                    let api = api.entered();
                    let at = At { api: &api, bases, by, clock, stale };
                    at.ask_all(random, over, answered)
                })
            })
            .collect();
        let due = |part: usize, parts: usize| {
            let begun = Instant::now();
            loop {
                let reached = match asked.work {
                    Work::Operations(all) => answered.load(Ordering::Relaxed) >= all * part / parts,
                    Work::Time(all) => clock.elapsed() >= all * part as u32 / parts as u32,
                };
                if reached {
                    return;
                }
                assert!(begun.elapsed() < PATIENCE, "nothing is answered any more");
                hold(AGAIN);
            }
        };
        for fault in 0..asked.faults {
            due(fault + 1, asked.faults + 1);
            let kinds = kinds(asked);
            let turn = run * asked.faults + fault;
            let kind = kinds[turn % kinds.len()];
            let mut held = Duration::from_millis(200 + random.below(1_800));
            // Now and then a cut lasts longer than a link does.
            if kind == Fault::Cut && matches!(asked.work, Work::Time(_)) && turn / kinds.len() % 8 == 7 {
                held += Duration::from_secs(6);
            }
            place.suffer(kind, held);
            match kind {
                Fault::Kill(_) | Fault::KillMember => judged.kills += 1,
                Fault::Pause(_) | Fault::PauseMember => judged.pauses += 1,
                Fault::Cut => judged.cuts += 1,
            }
        }
        due(1, 1);
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let mut histories: [Vec<Done>; PAIRS] = Default::default();
    for told in told {
        for (all, some) in histories.iter_mut().zip(told.histories) {
            all.extend(some);
        }
        judged.not_done += told.not_done;
        judged.strange.extend(told.strange);
    }
    // What is there in the end is part of the history.
    for (node, name) in NODES.into_iter().enumerate() {
        let api = Api::of(place.mesh.node(name));
        let at = At { api: &api, bases: &bases, by: CLIENTS + node, clock, stale: false };
        for (pair, history) in histories.iter_mut().enumerate() {
            wait(PATIENCE, "the registry answers at the end", || match at.ask(pair, Call::Both) {
                (done, Heard::Answer(_)) => {
                    history.push(done);
                    true
                }
                _ => false,
            });
        }
    }
    histories
}

/// A client at one node.
struct At<'a> {
    api: &'a Api,
    bases: &'a [String; PAIRS],
    by: usize,
    clock: Instant,
    stale: bool,
}

impl At<'_> {
    fn ask(&self, pair: usize, call: Call) -> (Done, Heard) {
        let client = Client { api: self.api, base: &self.bases[pair], stale: self.stale, patience: ANSWER };
        let called = self.clock.elapsed().as_nanos() as u64;
        let heard = client.ask(&call);
        let end = self.clock.elapsed().as_nanos() as u64;
        let answered = match heard {
            Heard::Answer(answer) => Some((end, answer)),
            Heard::NotDone | Heard::Nothing | Heard::Strange(_) => None,
        };
        (Operation { by: self.by, called, call, answered }, heard)
    }

    /// Asks one thing after the other until it is over.
    fn ask_all(&self, mut random: Random, over: &AtomicBool, answered: &AtomicUsize) -> Told {
        let mut told = Told::default();
        let mut seen = [[None; 2]; PAIRS];
        for number in 1.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let pair = random.below(PAIRS as u64) as usize;
            let value = (self.by as u64) << 32 | number;
            let call =
                if self.stale { Call::look(&mut random) } else { Call::any(&mut random, value, &seen[pair]) };
            let (done, heard) = self.ask(pair, call);
            match heard {
                Heard::Answer(answer) => {
                    call.remember(&answer, &mut seen[pair]);
                    told.histories[pair].push(done);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Heard::Nothing if call.writes() => told.histories[pair].push(done),
                // Nobody cares what a read did that was not answered.
                Heard::Nothing => {}
                Heard::NotDone => {
                    told.not_done += 1;
                    hold(AGAIN);
                }
                Heard::Strange(strange) => {
                    told.strange.push(strange);
                    told.histories[pair].push(done);
                }
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::pair::{PARENT, Refusal};

    #[test]
    fn who_meets_a_write_of_another_is_contended() {
        let done = |called, end, call| Operation {
            by: 0,
            called,
            call,
            answered: Some((end, Answer::Refused(Refusal::NotFound))),
        };
        let get = Call::Get { of: PARENT };
        let write = Call::Delete { of: PARENT, recursive: false, expected: None };
        assert_eq!(contended(&[done(0, 10, write), done(20, 30, write)]), 0);
        assert_eq!(contended(&[done(0, 10, get), done(5, 30, get)]), 0);
        assert_eq!(contended(&[done(5, 30, get), done(0, 10, write), done(31, 40, get)]), 1);
        assert_eq!(contended(&[done(0, 10, write), done(5, 30, write), done(20, 40, get)]), 3);
    }
}
