//! The mechtron's own node asked over its API: HTTP on loopback, unencrypted, a connection for each request under way. It
//! shows what the mechtron and its node cost without a link.

use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use tests::Node;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Client, Peer};
use crate::{echo, load};

/// A node with an echo.
pub(crate) struct Http {
    node: Node,
    token: String,
}

/// Who asks, with the connections that are not in use.
pub(crate) struct Connections {
    address: SocketAddr,
    head: String,
    idle: Mutex<Vec<(TcpStream, Vec<u8>)>>,
}

impl Http {
    /// Starts the node.
    pub(crate) fn start() -> Self {
        let node = Node::start();
        echo::publish(&node);
        echo::make(&node, node.name(), "");
        let token = std::fs::read_to_string(node.data().join("admin.token")).expect("the node made a token");
        Self { node, token: token.trim().to_owned() }
    }
}

impl Peer for Http {
    type Client = Connections;

    fn name(&self) -> String {
        "Starlane, one node over HTTP".into()
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.node.pid()]
    }

    async fn connect(&self) -> Connections {
        let head = format!(
            "POST /v1/request/{}?method=Echo HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             content-type: application/octet-stream\r\n",
            echo::point(self.node.name()),
            self.token
        );
        Connections { address: self.node.api(), head, idle: Mutex::default() }
    }
}

impl Client for Connections {
    async fn request(&self, body: Bytes) -> Result<Bytes, String> {
        let idle = self.idle.lock().expect("nobody panics with it").pop();
        let (mut stream, mut buffer) = match idle {
            Some(idle) => idle,
            None => {
                let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                (stream, vec![0; 16 * 1024])
            }
        };
        let mut request = format!("{}content-length: {}\r\n\r\n", self.head, body.len()).into_bytes();
        request.extend_from_slice(&body);
        stream.write_all(&request).await.map_err(|error| error.to_string())?;
        let answer = load::answer(&mut stream, &mut buffer).await.ok_or("no success")?;
        let answer = Bytes::copy_from_slice(&buffer[answer]);
        self.idle.lock().expect("nobody panics with it").push((stream, buffer));
        Ok(answer)
    }
}
