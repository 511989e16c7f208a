//! Requests per second between two nodes over links on loopback, over one and two hops, with an echo that answers at once;
//! and over one hop with an echo on a thread of its own, as mechtrons are. Prints one line for each size and number in
//! flight: the median and the 99th percentile of a round trip, how many in a second, and the CPU time of the whole process
//! for each, which pays for every node.
//!
//! `cargo bench -p mesh -- [--json FILE] [--seconds N] [--only BYTES/IN-FLIGHT]`

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing to tell")]

#[path = "../tests/it/members.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod members;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use mesh::{Answer, Call, Config, Fixed, Handle, Local, Parts, Place, Socket};
use serde_json::json;
use starlane_core::{
    Agent, Body, Header, Headers, Message, MessageId, Method, NodeId, NodeName, Outcome, Payload, Point,
    Refusal, Reply, Request, Role,
};

use members::Members;

const SIZES: [usize; 3] = [128, 1_024, 65_536];
const IN_FLIGHT: [usize; 3] = [1, 64, 256];

/// Answers with what it was given.
struct Echo;

impl Local for Echo {
    fn request(&self, message: Message, answer: Answer) {
        let Payload::Request(request) = message.payload else { unreachable!() };
        answer.give(Outcome::Ok(Reply { status: 200, headers: Headers::default(), body: request.body }));
    }

    fn send(&self, _message: Message) {}

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        ready(Ok(call.body)).boxed()
    }
}

/// Answers with what it was given, on another thread.
struct Elsewhere(SyncSender<(Message, Answer)>);

impl Elsewhere {
    fn new() -> Self {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<(Message, Answer)>(4_096);
        std::thread::spawn(move || {
            while let Ok((message, answer)) = receiver.recv() {
                let Payload::Request(request) = message.payload else { unreachable!() };
                let reply = Reply { status: 200, headers: Headers::default(), body: request.body };
                answer.give(Outcome::Ok(reply));
            }
        });
        Self(sender)
    }
}

impl Local for Elsewhere {
    fn request(&self, message: Message, answer: Answer) {
        self.0.send((message, answer)).unwrap();
    }

    fn send(&self, _message: Message) {}

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        ready(Ok(call.body)).boxed()
    }
}

/// What one row measures.
struct Row {
    answered: &'static str,
    hops: usize,
    bytes: usize,
    in_flight: usize,
    p50: Duration,
    p99: Duration,
    per_second: f64,
    cpu: Duration,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // A bench that is run as a test has nothing to prove.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let time = Duration::from_secs_f64(option("--seconds").map_or(3.0, |text| text.parse().unwrap()));
    let only = option("--only");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let rows = runtime.block_on(async {
        let members = Members::new();
        let echo = || Arc::new(Echo);
        let far = start(&members, "far", echo(), &[], &[("outer", "between")]);
        let between = start(&members, "between", echo(), &[&far], &[]);
        let thread = start(&members, "thread", Arc::new(Elsewhere::new()), &[], &[]);
        let near = start(&members, "near", echo(), &[&between, &far, &thread], &[]);
        let outer = start(&members, "outer", echo(), &[&between], &[("far", "between")]);
        linked(&near, 3).await;
        linked(&between, 3).await;
        linked(&outer, 1).await;
        let mut rows = Vec::new();
        for (answered, hops, from) in [("at once", 1, &near), ("at once", 2, &outer), ("by a thread", 1, &near)] {
            for bytes in SIZES {
                for in_flight in IN_FLIGHT {
                    if only.as_ref().is_some_and(|only| *only != format!("{bytes}/{in_flight}")) {
                        continue;
                    }
                    measure(from, answered, hops, bytes, in_flight, time / 6).await;
                    let row = measure(from, answered, hops, bytes, in_flight, time).await;
                    println!(
                        "links answered=\"{answered}\" hops={hops} bytes={bytes} in_flight={in_flight} p50_us={:.0} p99_us={:.0} per_second={:.0} cpu_us={:.2}",
                        micros(row.p50),
                        micros(row.p99),
                        row.per_second,
                        micros(row.cpu),
                    );
                    rows.push(row);
                }
            }
        }
        for node in [near, outer, between, thread, far] {
            node.stop().await;
        }
        rows
    });
    if let Some(file) = option("--json") {
        let rows: Vec<_> = rows.iter().map(as_json).collect();
        std::fs::write(
            file,
            serde_json::to_string_pretty(&json!({ "bench": "links", "rows": rows })).unwrap(),
        )
        .unwrap();
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn as_json(row: &Row) -> serde_json::Value {
    json!({
        "answered": row.answered,
        "hops": row.hops,
        "bytes": row.bytes,
        "in_flight": row.in_flight,
        "p50_us": micros(row.p50),
        "p99_us": micros(row.p99),
        "per_second": row.per_second,
        "cpu_us": micros(row.cpu),
    })
}

fn id(name: &str) -> NodeId {
    name.parse::<NodeName>().unwrap().id()
}

fn start(
    members: &Arc<Members>,
    name: &str,
    local: Arc<dyn Local>,
    dials: &[&Handle],
    next: &[(&str, &str)],
) -> Handle {
    let parts = Parts {
        credentials: members.member(name, Role::Relay, 1),
        local,
        routing: Box::new(Fixed::new(next.iter().map(|(to, next)| (id(to), id(next))))),
        on_join: None,
        socket: Socket::Bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        place: Place::OwnThread,
        seed: 1,
    };
    let addresses = dials.iter().map(|node| node.address().to_string()).collect();
    mesh::start(Config { addresses, ..Config::default() }, parts).unwrap()
}

async fn linked(node: &Handle, links: usize) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while node.links().len() < links {
        ticks.tick().await;
    }
}

/// Asks for so long, with so many on their way at once.
async fn measure(
    from: &Handle,
    answered: &'static str,
    hops: usize,
    bytes: usize,
    in_flight: usize,
    time: Duration,
) -> Row {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let to = id(if answered == "at once" { "far" } else { "thread" });
    let body = Bytes::from(vec![7; bytes]);
    let receiver: Point = "bench:to".parse().unwrap();
    // One lane does not take 16 MiB at once.
    let senders = if bytes * in_flight > 4 << 20 { 8 } else { 1 };
    let senders = |nth: usize| -> Point { format!("bench:from-{}", nth % senders).parse().unwrap() };
    let method = Method::ext("Echo").unwrap();
    let cpu = cpu_time();
    let begun = Instant::now();
    let asking: Vec<_> = (0..in_flight)
        .map(|nth| {
            let (from, body, method) = (from.clone(), body.clone(), method.clone());
            let (sender, receiver) = (senders(nth), receiver.clone());
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(100_000);
                while begun.elapsed() < time {
                    let asked = Instant::now();
                    let message_id =
                        MessageId(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) | 0x0198 << 112);
                    let agent = Agent(sender.clone());
                    let remaining = Duration::from_secs(30);
                    let header = Header::new(message_id, sender.clone(), receiver.clone(), agent, remaining);
                    let request = Request {
                        method: method.clone(),
                        path: "/".into(),
                        headers: Headers::default(),
                        body: Body::Bytes(body.clone()),
                    };
                    let message = Message { header, payload: Payload::Request(request) };
                    match from.request(to, message).await {
                        Outcome::Ok(reply) => assert_eq!(reply.body.len(), body.len() as u64),
                        other => panic!("{other:?}"),
                    }
                    took.push(asked.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for asking in asking {
        took.append(&mut asking.await.unwrap());
    }
    let elapsed = begun.elapsed();
    let cpu = cpu_time() - cpu;
    took.sort_unstable();
    let count = took.len();
    Row {
        answered,
        hops,
        bytes,
        in_flight,
        p50: took[count / 2],
        p99: took[count * 99 / 100],
        per_second: count as f64 / elapsed.as_secs_f64(),
        cpu: cpu / u32::try_from(count).unwrap(),
    }
}

/// What this process used of the processors so far.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    // Of user and system, in hundredths of a second.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
