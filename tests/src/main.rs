//! `cargo run -p tests --release -- soak NAME`: a promise in its full size, with the figure to publish.

use std::process::ExitCode;

use tests::soak;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    #[cfg(target_os = "linux")]
    if let ["soak", name @ ("kill" | "linear" | "watch" | "forget" | "slow"), flags @ ..] = &words[..] {
        let Some(asked) = Asked::read(flags) else { return usage() };
        // Both stores have their turn, whatever the first says.
        let kept: Vec<bool> =
            asked.stores.iter().map(|store| of_a_store(name, *store, &asked) == Some(true)).collect();
        return if kept.iter().all(|kept| *kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let ["soak", name] = words[..] else { return usage() };
    let kept = match name {
        #[cfg(not(target_os = "linux"))]
        "kill" => {
            let figures = soak::kill_during_creates(None, 100, 10_000, 8);
            println!("P01 P02 {figures}");
            figures.kept() && figures.in_time()
        }
        "orders" => {
            let report = soak::orders_while_the_node_is_killed(100_000, 20);
            println!("{report}");
            report.kept()
        }
        #[cfg(unix)]
        "etcd" => match soak::members_killed_and_paused(60) {
            Some(report) => {
                println!("{report}");
                report.kept() && report.in_time()
            }
            None => false,
        },
        #[cfg(target_os = "linux")]
        name => match of_a_mesh(name) {
            Some(report) => {
                println!("{report}");
                report.kept() && report.in_time()
            }
            None => return usage(),
        },
        #[cfg(not(target_os = "linux"))]
        _ => return usage(),
    };
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The promises of several nodes. They need networks of their own, and end where those are not permitted.
#[cfg(target_os = "linux")]
fn of_a_mesh(name: &str) -> Option<soak::Report> {
    use std::time::Duration;

    let lab = || tests::net::Lab::new().unwrap_or_else(|| std::process::exit(1));
    Some(match name {
        "revoke" => soak::a_revoked_node(50),
        "outcome" => soak::requests_under_kills(lab(), 1_000_000, 30, 10),
        "order" => soak::signals_over_a_bad_network(lab(), 100, 1_000, 10, Duration::from_secs(8)),
        "death" => soak::mechtrons_of_killed_nodes(20),
        "leader" => soak::mechtrons_of_killed_leaders(10).unwrap_or_else(|| std::process::exit(1)),
        "alive" => soak::no_false_deaths(lab(), 30, 8, Duration::from_secs(600)),
        "split" => {
            let held = Duration::from_secs(12);
            soak::partitions(lab(), soak::Splits { two_way: 15, one_way: 10, held, restarts: 20 })
        }
        "drain" => soak::rolling_restarts(10, 500),
        "move-memory" => soak::moves_under_load("memory", 100),
        "move-node" => soak::moves_under_load("node", 100),
        "move-mesh" => soak::moves_under_load("mesh", 100),
        "cable" => soak::pulled_in_the_middle(lab(), (1 << 30) - (1 << 20), 1_000, Duration::from_secs(15)),
        _ => return None,
    })
}

/// What is asked of a promise that holds on each store.
#[cfg(target_os = "linux")]
struct Asked {
    stores: Vec<soak::Store>,
    /// How many histories there are, how long each is, and what decides on them.
    runs: usize,
    seconds: u64,
    seed: u64,
}

#[cfg(target_os = "linux")]
impl Asked {
    /// `None` when there is something else among the flags.
    fn read(flags: &[&str]) -> Option<Self> {
        use soak::Store;
        let mut asked = Self { stores: vec![Store::Embedded, Store::Etcd], runs: 200, seconds: 10, seed: 1 };
        for flag in flags.chunks(2) {
            match *flag {
                ["--runs", value] => asked.runs = value.parse().ok()?,
                ["--seconds", value] => asked.seconds = value.parse().ok()?,
                ["--seed", value] => asked.seed = value.parse().ok()?,
                ["--store", "embedded"] => asked.stores = vec![Store::Embedded],
                ["--store", "etcd"] => asked.stores = vec![Store::Etcd],
                _ => return None,
            }
        }
        Some(asked)
    }
}

/// Runs a promise on a store, and tells whether it was kept; `None` where that cannot be tried.
#[cfg(target_os = "linux")]
fn of_a_store(name: &str, store: soak::Store, asked: &Asked) -> Option<bool> {
    use std::time::Duration;

    use soak::{Forgetting, Histories, Slow, Store, Watching, Work};
    use tests::etcd::Etcd;
    use tests::net::Lab;

    let report = match name {
        "kill" => {
            let etcd = match store {
                Store::Embedded => None,
                Store::Etcd => Some(Etcd::start(3)?),
            };
            let registry = etcd.as_ref().map(|etcd| etcd.address("kill"));
            let figures = soak::kill_during_creates(registry, 100, 10_000, 8);
            println!("P01 P02 store={store:?} {figures}");
            return Some(figures.kept() && figures.in_time());
        }
        "linear" => {
            let work = Work::Time(Duration::from_secs(asked.seconds));
            let kept_in = tests::root().join("target/linear");
            let (runs, seed) = (asked.runs, asked.seed);
            let histories = Histories { store, runs, work, faults: 3, seed, stale: false, kept_in };
            let judged = soak::histories(Lab::new()?, &histories)?;
            println!("{judged}");
            return Some(judged.report().kept());
        }
        "forget" => {
            let every = Duration::from_millis(200);
            let forgetting = Forgetting { store, watches: 50, commits: 20_000, every };
            soak::watches_while_the_history_is_forgotten(forgetting)?
        }
        "watch" => {
            let forget = store == Store::Etcd;
            let watching = Watching { store, watches: 50, changes: 20_000, cuts: 10, kills: 5, forget };
            soak::watches_under_faults(Lab::new()?, watching)?
        }
        _ => soak::a_stopped_watcher(Slow { store, live: 49, pairs: 9, changes: 50_000 })?,
    };
    println!("{report}");
    Some(report.kept() && report.in_time())
}

fn usage() -> ExitCode {
    let names = "etcd, orders, revoke, outcome, order, death, leader, alive, split, drain, move-memory, move-node, move-mesh, \
                 cable";
    eprintln!("usage: soak NAME, where NAME is one of: {names}");
    eprintln!("       soak kill|watch|forget|slow [--store embedded|etcd]");
    eprintln!("       soak linear [--store embedded|etcd] [--runs N] [--seconds N] [--seed N]");
    ExitCode::from(2)
}
