//! What fuzzing asks the API, and the tests replay the corpus with: any request is answered, and never with a bug of ours.

#[path = "../it/fake.rs"]
#[expect(dead_code, reason = "each test asks its part of the mesh")]
pub(crate) mod fake;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gateway::shapes::ProblemDetails;
use gateway::{Config, Doors, Limits};
use starlane_core::Agent;
use tokio::runtime::Runtime;

use fake::{Fake, point};

const TOKEN: &str = "a-token-for-fuzzing";
/// How much of an answer is read; a watch has no end.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;
/// How long an answer may take to begin, and to go on.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// A door that stays open, in front of a mesh of a few lines.
static DOOR: LazyLock<(Runtime, SocketAddr)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let agent = |name: &str| Agent(point(&format!("mesh:users:{name}")));
    let soon = Duration::from_millis(50);
    let config = Config {
        limits: Limits { request_timeout: soon, request_timeout_max: soon, ..Limits::default() },
        ..Config::local(TOKEN, agent("admin"), agent("anonymous"), point("mesh:nodes:test"))
    };
    let (doors, at) = runtime.block_on(Doors::bind(config, Arc::new(Fake::default()))).expect("doors open");
    runtime.spawn(doors.run(std::future::pending()));
    (runtime, at.api)
});

/// Asks the API: the first line is `METHOD PATH`, headers follow each on its line, after an empty one comes the body.
pub(crate) fn api(data: &[u8]) {
    let split = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = split.map_or((data, &[][..]), |at| (&data[..at], &data[at + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut request = lines.next().unwrap_or_default().to_vec();
    request.extend_from_slice(b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer ");
    request.extend_from_slice(TOKEN.as_bytes());
    request.extend_from_slice(format!("\r\ncontent-length: {}\r\n", body.len()).as_bytes());
    for line in lines {
        request.extend_from_slice(line);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    check(&ask(&request));
}

/// What is answered: all of it, or the beginning of what does not end.
fn ask(request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(DOOR.1).expect("the door is open");
    // A door may answer and close before it has heard all; its answer counts.
    _ = stream.write_all(request);
    let (mut answer, mut piece) = (Vec::new(), vec![0; 16 * 1024]);
    while (answer.len() as u64) < ANSWER_BYTES_MAX {
        let patience = if answer.is_empty() { PATIENCE } else { PAUSE };
        stream.set_read_timeout(Some(patience)).expect("a time can be set");
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                assert!(!answer.is_empty(), "no answer: {}", String::from_utf8_lossy(request));
                break;
            }
            Err(_) => break,
        }
    }
    answer
}

/// An answer is well formed, is none of a bug, and what is refused says why.
fn check(answer: &[u8]) {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        assert!(answer.is_empty(), "half a head: {}", String::from_utf8_lossy(answer));
        return;
    };
    let head = std::str::from_utf8(&answer[..end]).expect("a head is text").to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).expect("a status");
    assert!((200..600).contains(&status) && status != 500, "{head}");
    if head.contains("\r\ncontent-type: application/problem+json") {
        let problem: ProblemDetails = serde_json::from_slice(&answer[end + 4..]).expect("a problem");
        assert!(problem.status == status && !problem.detail.is_empty(), "{problem:?}");
    }
}
