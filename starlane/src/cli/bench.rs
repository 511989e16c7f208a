//! `starlane bench`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use starlane_core::{Code, Problem};

use super::Session;
use super::request::{Call, Message};
use crate::client::Outgoing;
use crate::output::{Render, Stop, Table};

/// The most requests of one run.
const REQUESTS_MAX: u64 = 10_000_000;
/// The most under way at a time.
const IN_FLIGHT_MAX: u64 = 4_096;

/// Asks a point many times, and prints how long the answers took.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane bench 'shop:cart^Ext<GetItems>'
  starlane bench 'localhost:counter^Ext<Add>' '{\"by\": 1}' -n 10000 -c 64 -o json

Every request is a real one, over the API and one connection for each that is under way: what it does, it does so often.
Exit code 1 when some were not answered, or were with a status of 400 or above.")]
pub(super) struct BenchArgs {
    #[command(flatten)]
    message: Message,
    /// How many requests
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(1..=REQUESTS_MAX))]
    requests: u64,
    /// How many are under way at a time
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=IN_FLIGHT_MAX))]
    in_flight: u64,
}

/// How a run went.
struct Figures {
    /// How long each answer took, the shortest first.
    times: Vec<Duration>,
    failed: u64,
    took: Duration,
    in_flight: u64,
}

pub(super) async fn run(session: &Session, args: BenchArgs) -> Result<(), Stop> {
    let Call { point, outgoing } = args.message.read()?;
    let Outgoing { method, path, headers, body } = outgoing;
    let body = body.as_bytes().map(bytes::Bytes::copy_from_slice).unwrap_or_default();
    let client = session.client()?;
    let left = Arc::new(AtomicU64::new(args.requests));
    let (bar, begun) = (session.out.transfer("asking", None), Instant::now());
    let workers = (0..args.in_flight.min(args.requests)).map(|_| {
        let (client, point, left) = (client.clone(), point.clone(), left.clone());
        let (method, path, headers, body) = (method.clone(), path.clone(), headers.clone(), body.clone());
        let timeout = session.globals.timeout;
        tokio::spawn(async move {
            let (mut times, mut failed) = (Vec::new(), 0);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                let message = Outgoing {
                    method: method.clone(),
                    path: path.clone(),
                    headers: headers.clone(),
                    body: body.clone().into(),
                };
                let asked = Instant::now();
                match answer(&client, &point, message, timeout).await {
                    Ok(status) if status < 400 => times.push(asked.elapsed()),
                    // One mistake would be made again each time.
                    Err(problem) if problem.code.exit_code() == 2 || problem.code == Code::NotFound => {
                        return Err(problem);
                    }
                    _ => failed += 1,
                }
            }
            Ok((times, failed))
        })
    });
    let (mut times, mut failed) = (Vec::new(), 0);
    for worker in workers.collect::<Vec<_>>() {
        let lost = |error| Problem::new(Code::Internal, format!("the bench stopped: {error}"));
        let (mut took, missed) = worker.await.map_err(lost)??;
        times.append(&mut took);
        failed += missed;
    }
    bar.finish_and_clear();
    times.sort_unstable();
    let figures = Figures { times, failed, took: begun.elapsed(), in_flight: args.in_flight };
    session.out.show(&figures)?;
    if failed > 0 { Err(Stop::Exit(1)) } else { Ok(()) }
}

/// The status of the answer, which is read to its end.
async fn answer(
    client: &crate::client::Client,
    point: &starlane_core::Point,
    message: Outgoing,
    timeout: Option<Duration>,
) -> Result<u16, Problem> {
    let mut answer = client.request(point, message, timeout).await?;
    while answer.chunk().await?.is_some() {}
    Ok(answer.status)
}

impl Figures {
    /// The time that so many hundredths of the answers took at most.
    fn percentile(&self, hundredths: usize) -> Duration {
        let at = (self.times.len() * hundredths / 100).min(self.times.len().saturating_sub(1));
        self.times.get(at).copied().unwrap_or_default()
    }

    fn per_second(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    fn columns(&self) -> [(&'static str, String); 7] {
        [
            ("ANSWERED", self.times.len().to_string()),
            ("FAILED", self.failed.to_string()),
            ("IN FLIGHT", self.in_flight.to_string()),
            ("PER SECOND", format!("{:.0}", self.per_second())),
            ("P50", micros(self.percentile(50))),
            ("P99", micros(self.percentile(99))),
            ("MAX", micros(self.percentile(100))),
        ]
    }
}

fn micros(time: Duration) -> String {
    format!("{} µs", time.as_micros())
}

impl Render for Figures {
    fn json(&self) -> Value {
        json!({
            "answered": self.times.len(),
            "failed": self.failed,
            "inFlight": self.in_flight,
            "perSecond": self.per_second(),
            "p50Us": self.percentile(50).as_micros() as u64,
            "p99Us": self.percentile(99).as_micros() as u64,
            "maxUs": self.percentile(100).as_micros() as u64,
            "tookMs": self.took.as_millis() as u64,
        })
    }

    fn names(&self) -> Vec<String> {
        vec![format!("{:.0}", self.per_second())]
    }

    fn table(&self, _wide: bool) -> Table {
        let columns = self.columns();
        let mut table = Table::new(&columns.each_ref().map(|(name, _)| *name));
        table.row(columns.map(|(_, value)| value));
        table
    }

    fn text(&self) -> Vec<String> {
        self.table(false).lines()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_answered() {
        let times = (1..=100).map(Duration::from_micros).collect();
        let figures = Figures { times, failed: 3, took: Duration::from_secs(2), in_flight: 1 };
        assert_eq!(figures.percentile(50), Duration::from_micros(51));
        assert_eq!(figures.percentile(100), Duration::from_micros(100));
        assert_eq!(
            (figures.json()["perSecond"].as_f64(), &figures.json()["failed"]),
            (Some(50.0), &json!(3))
        );
        let none = Figures { times: Vec::new(), failed: 1, took: Duration::ZERO, in_flight: 1 };
        assert_eq!(none.percentile(99), Duration::ZERO);
    }
}
