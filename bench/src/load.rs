//! A closed-loop load: so many connections, each with one request in flight at a time, for a while.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is asked.
pub struct Target {
    /// Of whom.
    pub address: SocketAddr,
    /// With which method.
    pub method: &'static str,
    /// Of what.
    pub path: String,
    /// On whose authority.
    pub token: Option<String>,
    /// With which body, by row and client, and by the request's number.
    pub body: fn(usize, usize) -> String,
}

/// What was measured.
pub struct Figures {
    /// Answers a second.
    pub per_second: f64,
    /// Half of the answers came within.
    pub p50: Duration,
    /// 99 of 100 answers came within.
    pub p99: Duration,
    /// Answers that were no success.
    pub failed: usize,
}

/// Asks for `duration` on `connections` connections, a thread each.
pub fn run(target: &Target, connections: usize, duration: Duration, row: usize) -> Figures {
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let (mut times, mut failed) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let stop = &stop;
        let clients: Vec<_> =
            (0..connections).map(|client| scope.spawn(move || ask(target, stop, row * 1_000 + client))).collect();
        while begun.elapsed() < duration {
            std::thread::park_timeout(duration.saturating_sub(begun.elapsed()));
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (took, wrong) = client.join().expect("a client does not panic");
            times.extend(took);
            failed += wrong;
        }
    });
    let elapsed = begun.elapsed();
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    Figures { per_second: times.len() as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99), failed }
}

fn ask(target: &Target, stop: &AtomicBool, client: usize) -> (Vec<Duration>, usize) {
    let mut stream = TcpStream::connect(target.address).expect("the node listens");
    stream.set_nodelay(true).expect("a socket option");
    let (mut times, mut failed, mut buffer) = (Vec::new(), 0, vec![0; 64 * 1024]);
    let token = target.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let body = (target.body)(client, number);
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let request = format!(
            "{} {} HTTP/1.1\r\nhost: localhost\r\n{token}{kind}content-length: {}\r\n\r\n{body}",
            target.method,
            target.path,
            body.len()
        );
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).expect("the node reads");
        failed += usize::from(!answer(&mut stream, &mut buffer));
        times.push(begun.elapsed());
    }
    (times, failed)
}

/// Reads one whole answer; tells whether it is a success.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).expect("the node answers");
        assert!(read > 0, "the node closed the connection: {}", String::from_utf8_lossy(&buffer[..filled]));
        filled += read;
        let Some(head) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let total = head + 4 + content_length(&buffer[..head]);
        if buffer.len() < total {
            buffer.resize(total, 0);
        }
        if filled >= total {
            return buffer[9] == b'2';
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = std::str::from_utf8(head).expect("a head is text");
    head.lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|value| value.trim().parse()))
        .expect("answers say how long they are")
        .expect("a length is a number")
}
