//! Who is compared: ways to ask an echo in another process, and the loop that asks.

pub(crate) mod http;
pub(crate) mod mesh;
pub(crate) mod nats;

use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tests::net::Space;
use tokio::sync::mpsc;

use crate::cpu;

/// A way to ask an echo in another process.
pub(crate) trait Peer: Send + 'static {
    /// Who asks, once connected.
    type Client: Client;

    /// What the table calls it.
    fn name(&self) -> String;
    /// Which processes work for it, besides the one that asks.
    fn processes(&self) -> Vec<u32>;
    /// Connects, on the thread that asks.
    fn connect(&self) -> impl Future<Output = Self::Client>;
}

/// Who asks.
pub(crate) trait Client: Send + Sync + 'static {
    /// Asks for what is given to be given back.
    fn request(&self, body: Bytes) -> impl Future<Output = Result<Bytes, String>> + Send;
}

/// How to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// How large each body is.
    pub(crate) bytes: usize,
    /// How many requests are under way at any time.
    pub(crate) in_flight: usize,
    /// For how long, after a tenth of it that is not measured.
    pub(crate) duration: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Half of the answers came within so many microseconds.
    pub(crate) p50_us: f64,
    /// 99 of 100 answers came within so many microseconds.
    pub(crate) p99_us: f64,
    /// Answers a second.
    pub(crate) per_second: f64,
    /// Processor time for each answer, all processes together, in microseconds.
    pub(crate) cpu_us: f64,
    /// Requests that were not answered, or with something else.
    pub(crate) failed: usize,
}

/// A peer with a thread of its own that asks, so that what keeps its connections alive goes on while others are asked.
pub(crate) struct Asker {
    name: String,
    loads: mpsc::Sender<Load>,
    samples: Receiver<Sample>,
}

impl Asker {
    /// Starts the thread, in a network namespace when one is given, and waits until it is connected.
    pub(crate) fn start<P: Peer>(peer: P, space: Option<&Space>) -> Self {
        let name = peer.name();
        let (loads, mut asked) = mpsc::channel::<Load>(1);
        let (tell, samples): (SyncSender<Sample>, _) = sync_channel(1);
        let (connected, ready) = sync_channel(1);
        let space = space.cloned();
        std::thread::spawn(move || {
            if let Some(space) = space {
                space.enter();
            }
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client = Arc::new(peer.connect().await);
                connected.send(()).expect("somebody waits");
                let mut processes = peer.processes();
                processes.push(std::process::id());
                while let Some(load) = asked.recv().await {
                    if tell.send(ask(&client, load, &processes).await).is_err() {
                        return;
                    }
                }
            });
        });
        ready.recv().expect("it connects");
        Self { name, loads, samples }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Asks, and waits for the figures.
    pub(crate) fn ask(&self, load: Load) -> Sample {
        self.loads.blocking_send(load).expect("the thread runs");
        self.samples.recv().expect("the thread runs")
    }
}

/// A closed loop: as many tasks as requests may be under way, and each asks again when it was answered.
async fn ask<C: Client>(client: &Arc<C>, load: Load, processes: &[u32]) -> Sample {
    run(client, load, load.duration / 10).await;
    let (begun, before) = (Instant::now(), cpu::used(processes));
    let (mut times, failed) = run(client, load, load.duration).await;
    let (elapsed, cpu) = (begun.elapsed(), cpu::used(processes) - before);
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    Sample {
        p50_us: micros(at(0.5)),
        p99_us: micros(at(0.99)),
        per_second: times.len() as f64 / elapsed.as_secs_f64(),
        cpu_us: micros(cpu) / times.len().max(1) as f64,
        failed,
    }
}

/// How long who was refused waits before it asks again.
const AGAIN: Duration = Duration::from_millis(10);

async fn run<C: Client>(client: &Arc<C>, load: Load, duration: Duration) -> (Vec<Duration>, usize) {
    let until = Instant::now() + duration;
    let tasks: Vec<_> = (0..load.in_flight)
        .map(|number| {
            let client = client.clone();
            let body = Bytes::from(vec![number as u8; load.bytes]);
            tokio::spawn(async move {
                let (mut times, mut failed, mut now) = (Vec::new(), 0, Instant::now());
                while now < until {
                    match client.request(body.clone()).await {
                        Ok(answer) if answer == body => {}
                        // It is asked again, and took as long as all of that together.
                        Ok(_) | Err(_) => {
                            failed += 1;
                            tokio::time::sleep(AGAIN).await;
                            if Instant::now() < until {
                                continue;
                            }
                        }
                    }
                    let begun = std::mem::replace(&mut now, Instant::now());
                    times.push(now - begun);
                }
                (times, failed)
            })
        })
        .collect();
    let (mut times, mut failed) = (Vec::new(), 0);
    for task in tasks {
        let (more, not) = task.await.expect("no task panics");
        times.extend(more);
        failed += not;
    }
    (times, failed)
}
