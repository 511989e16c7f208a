//! A closed-loop load: so many connections, each with one request in flight at a time, for a while.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is asked.
pub(crate) struct Target {
    /// Of whom.
    pub(crate) address: SocketAddr,
    /// With which method.
    pub(crate) method: &'static str,
    /// Of what.
    pub(crate) path: String,
    /// On whose authority.
    pub(crate) token: Option<String>,
    /// With which body, by row and client, and by the request's number.
    pub(crate) body: fn(usize, usize) -> String,
}

/// What was measured.
pub(crate) struct Figures {
    /// Answers a second.
    pub(crate) per_second: f64,
    /// Half of the answers came within.
    pub(crate) p50: Duration,
    /// 99 of 100 answers came within.
    pub(crate) p99: Duration,
    /// Answers that were no success.
    pub(crate) failed: usize,
}

/// Asks for `duration` on `connections` connections. One thread drives them all, so that the node has the rest of the
/// machine.
pub(crate) fn run(target: &Target, connections: usize, duration: Duration, row: usize) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let begun = Instant::now();
    let until = begun + duration;
    let answered = runtime.block_on(async {
        let clients = (0..connections).map(|client| ask(target, until, row * 1_000 + client));
        futures::future::join_all(clients).await
    });
    let elapsed = begun.elapsed();
    let failed = answered.iter().map(|(_, failed)| failed).sum();
    let mut times: Vec<Duration> = answered.into_iter().flat_map(|(times, _)| times).collect();
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    Figures { per_second: times.len() as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99), failed }
}

async fn ask(target: &Target, until: Instant, client: usize) -> (Vec<Duration>, usize) {
    let mut stream = TcpStream::connect(target.address).await.expect("the node listens");
    stream.set_nodelay(true).expect("a socket option");
    let (mut times, mut failed, mut buffer) = (Vec::new(), 0, vec![0; 16 * 1024]);
    let token =
        target.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let mut number = 0;
    let mut now = Instant::now();
    while now < until {
        number += 1;
        let body = (target.body)(client, number);
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let request = format!(
            "{} {} HTTP/1.1\r\nhost: localhost\r\n{token}{kind}content-length: {}\r\n\r\n{body}",
            target.method,
            target.path,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("the node reads");
        failed += usize::from(answer(&mut stream, &mut buffer).await.is_none());
        let begun = std::mem::replace(&mut now, Instant::now());
        times.push(now - begun);
    }
    (times, failed)
}

/// Reads one whole answer; tells where in the buffer its body is, when it is a success.
pub(crate) async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Range<usize>> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.expect("the node answers");
        assert!(read > 0, "the node closed the connection: {}", String::from_utf8_lossy(&buffer[..filled]));
        filled += read;
        let Some(head) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let total = head + 4 + content_length(&buffer[..head]);
        if buffer.len() < total {
            buffer.resize(total, 0);
        }
        if filled >= total {
            return (buffer[9] == b'2').then_some(head + 4..total);
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = std::str::from_utf8(head).expect("a head is text");
    head.lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(|value| value.trim().parse())
        })
        .expect("answers say how long they are")
        .expect("a length is a number")
}
