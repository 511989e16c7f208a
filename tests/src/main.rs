//! `cargo run -p tests --release -- soak NAME`: a promise in its full size, with the figure to publish.

use std::process::ExitCode;

use tests::soak;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    #[cfg(target_os = "linux")]
    if let ["soak", "linear", flags @ ..] = &words[..] {
        return linear(flags).unwrap_or_else(usage);
    }
    let ["soak", name] = words[..] else { return usage() };
    let kept = match name {
        "kill" => {
            let figures = soak::kill_during_creates(100, 10_000, 8);
            println!("P01 P02 {figures}");
            figures.kept()
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

/// Histories on each store, or on one: `--runs N --seconds N --store embedded|etcd --seed N`. `None` when that is not what was
/// written.
#[cfg(target_os = "linux")]
fn linear(flags: &[&str]) -> Option<ExitCode> {
    use std::time::Duration;

    use soak::{Histories, Store, Work};

    let (mut runs, mut seconds, mut seed) = (200, 10, 1);
    let mut stores = vec![Store::Embedded, Store::Etcd];
    for flag in flags.chunks(2) {
        match *flag {
            ["--runs", value] => runs = value.parse().ok()?,
            ["--seconds", value] => seconds = value.parse().ok()?,
            ["--seed", value] => seed = value.parse().ok()?,
            ["--store", "embedded"] => stores = vec![Store::Embedded],
            ["--store", "etcd"] => stores = vec![Store::Etcd],
            _ => return None,
        }
    }
    let kept = stores.into_iter().map(|store| {
        let lab = tests::net::Lab::new()?;
        let work = Work::Time(Duration::from_secs(seconds));
        let kept_in = tests::root().join("target/linear");
        let judged =
            soak::histories(lab, &Histories { store, runs, work, faults: 3, seed, stale: false, kept_in })?;
        println!("{judged}");
        Some(judged.report().kept())
    });
    // All are run, whatever the first says.
    let kept: Vec<Option<bool>> = kept.collect();
    Some(if kept.iter().all(|kept| *kept == Some(true)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn usage() -> ExitCode {
    let names = "kill, etcd, linear, orders, revoke, outcome, order, death, leader, alive, split, drain, move-memory, \
                 move-node, move-mesh, cable";
    eprintln!("usage: soak NAME, where NAME is one of: {names}");
    eprintln!("       soak linear [--runs N] [--seconds N] [--store embedded|etcd] [--seed N]");
    ExitCode::from(2)
}
