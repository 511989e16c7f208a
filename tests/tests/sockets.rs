//! What two mechtrons of one node say to each other opens nothing.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tests::{Node, root};

/// One connection that is kept open.
struct Kept {
    stream: BufReader<TcpStream>,
    token: String,
}

impl Kept {
    fn open(node: &Node) -> Self {
        let token = fs::read_to_string(node.data().join("admin.token")).expect("the node made a token");
        let stream = TcpStream::connect(node.api()).expect("the node listens");
        Self { stream: BufReader::new(stream), token: token.trim().to_owned() }
    }

    /// Asks, and answers the status line and the body.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> (String, String) {
        let token = &self.token;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).expect("it is sent");
        let (mut status, mut bytes) = (String::new(), 0);
        self.stream.read_line(&mut status).expect("there is an answer");
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("there are headers");
            if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                bytes = length.trim().parse().expect("a number");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body).expect("there is a body");
        (status, String::from_utf8(body).expect("it is text"))
    }
}

/// A process that may have no more files and sockets than it has, cannot open one: the kernel refuses.
#[test]
fn a_call_between_mechtrons_of_one_node_opens_no_socket() {
    let node = Node::start();
    let bundle = root().join("target/bundles/shop");
    node.exec("create shop<App>; create shop:repo<Repo>; create shop:repo:shop<BundleSeries>").ok();
    node.run(["publish", &format!("^[ {} ]-> shop:repo:shop:1.0.0", bundle.display())]).ok();
    for name in ["cart", "validator"] {
        node.exec(&format!(
            "create shop:{name}<Mechtron>{{ +config=shop:repo:shop:1.0.0:/config/{name}.mechtron, +durability=memory }}"
        ))
        .ok();
    }
    let mut kept = Kept::open(&node);
    let mut buy = || {
        let item = r#"{"article": "apple", "count": 3}"#;
        let (_, cart) = kept.ask("POST", "/v1/request/shop:cart?method=AddItem", item);
        assert!(cart.contains(r#""apple":3"#), "{cart}");
        kept.ask("POST", "/v1/request/shop:cart?method=Checkout", "")
    };
    let (_, receipt) = buy();
    assert!(receipt.contains(r#""cents":90"#), "the cart asks the validator for prices: {receipt}");
    let pid = Pid::from_raw(i32::try_from(node.pid()).expect("a process")).expect("a process");
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    prlimit(Some(pid), Resource::Nofile, none).expect("a process of ours");
    for _ in 0..10 {
        let (_, receipt) = buy();
        assert!(receipt.contains(r#""cents":90"#), "{receipt}");
    }
    // Whatever opens something fails from now on, such as reading a file.
    let (status, _) = kept.ask("GET", "/v1/files/shop:repo:shop:1.0.0:%2Fconfig%2Fshop.app", "");
    assert!(!status.contains("200"), "the limit holds: {status}");
}
