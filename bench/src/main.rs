//! Benchmarks of whole nodes in processes of their own.
//!
//! * `bench http`: one node over HTTP, as its users reach it.
//! * `bench mesh`: requests to an echo in another process, beside NATS, row by row in one run, and how long joining and
//!   placing anew take.
//! * `bench store`: durable puts, reads and watches on the embedded store, on etcd through ours, on that etcd alone, and on
//!   NATS.
//!
//! Load and nodes share the machine, so that absolute figures say as much of the machine as of the nodes; each comes with
//! its own baseline in the same run.
#![expect(clippy::expect_used, reason = "a benchmark ends when the machine does not play along")]

#[cfg(target_os = "linux")]
mod compare;
#[cfg(target_os = "linux")]
mod cpu;
#[cfg(target_os = "linux")]
mod echo;
mod http;
mod load;
#[cfg(target_os = "linux")]
mod peer;
#[cfg(unix)]
mod store;
#[cfg(target_os = "linux")]
mod times;

use std::path::PathBuf;

const USAGE: &str = "\
usage: bench http [--bundles DIR] [--json FILE]
       bench mesh [--nats FILE] [--rounds N] [--seconds S] [--json FILE]
       bench store [--nats FILE] [--rounds N] [--seconds S] [--json FILE]";

/// What the command line says.
struct Arguments {
    bundles: PathBuf,
    json: Option<PathBuf>,
    nats: Option<PathBuf>,
    rounds: usize,
    seconds: f64,
}

fn main() {
    let mut words = std::env::args().skip(1);
    let role = words.next().unwrap_or_default();
    match role.as_str() {
        "http" => {
            let arguments = arguments(words);
            http::run(&arguments.bundles, arguments.json.as_deref());
        }
        #[cfg(target_os = "linux")]
        "mesh" => {
            let Arguments { json, nats, rounds, seconds, .. } = arguments(words);
            compare::run(&compare::Config { nats, rounds, seconds, json });
        }
        #[cfg(unix)]
        "store" => {
            let Arguments { json, nats, rounds, seconds, .. } = arguments(words);
            store::run(rounds, seconds, nats.as_deref(), json.as_deref());
        }
        // The roles of the processes that a comparison starts.
        #[cfg(target_os = "linux")]
        peer::nats::RESPONDER => peer::nats::respond(&mut words),
        _ => usage(),
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Arguments {
    let mut arguments = Arguments {
        bundles: PathBuf::from("target/bundles"),
        json: None,
        nats: None,
        rounds: 3,
        seconds: 1.0,
    };
    while let Some(word) = words.next() {
        let Some(value) = words.next() else { usage() };
        match word.as_str() {
            "--bundles" => arguments.bundles = value.into(),
            "--json" => arguments.json = Some(value.into()),
            "--nats" => arguments.nats = Some(value.into()),
            "--rounds" => arguments.rounds = value.parse().unwrap_or_else(|_| usage()),
            "--seconds" => arguments.seconds = value.parse().unwrap_or_else(|_| usage()),
            _ => usage(),
        }
    }
    arguments
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2);
}
