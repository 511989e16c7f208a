//! Hello requests per second through the users' web, with a mesh that answers at once and clients in the same
//! process. Prints one line for each number of connections; `cargo bench -p gateway`.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing to tell")]

#[path = "../tests/it/fake.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod fake;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::{Config, Doors};
use starlane_core::Agent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ASK: &[u8] = b"GET /hello HTTP/1.1\r\nhost: shop\r\nuser-agent: bench\r\naccept: */*\r\n\r\n";
const TIME: Duration = Duration::from_secs(3);

fn main() {
    // A bench that is run as a test has nothing to prove.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let agent = || Agent(fake::point("mesh:users:anonymous"));
        let config = Config::local("token", agent(), agent(), fake::point("mesh:nodes:bench"));
        let (doors, at) = Doors::bind(config, Arc::new(fake::Fake::default())).await.unwrap();
        tokio::spawn(doors.run(std::future::pending()));
        for (connections, in_a_row) in [(1, 1), (16, 1), (64, 1), (256, 1), (16, 16)] {
            let begun = Instant::now();
            let clients: Vec<_> =
                (0..connections).map(|_| tokio::spawn(ask(at.web, in_a_row, begun + TIME))).collect();
            let mut answered = 0;
            for client in clients {
                answered += client.await.unwrap();
            }
            let rate = answered as f64 / begun.elapsed().as_secs_f64();
            println!("hello connections={connections} in_a_row={in_a_row} per_second={rate:.0}");
        }
    });
}

/// Asks until the time is over, with some requests on the way at once; how many were answered.
async fn ask(at: SocketAddr, in_a_row: usize, end: Instant) -> usize {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let said = ASK.repeat(in_a_row);
    stream.write_all(ASK).await.unwrap();
    let mut buffer = vec![0; 64 * 1024];
    // Every answer is as long as the first.
    let length = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..length].ends_with(b"\r\n\r\nhello\n"), "the answer is whole");
    let mut answered = 1;
    while Instant::now() < end {
        stream.write_all(&said).await.unwrap();
        stream.read_exact(&mut buffer[..length * in_a_row]).await.unwrap();
        answered += in_a_row;
    }
    answered
}
