//! A neighbour that speaks the protocol by hand, so that it can break it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime,
};
use starlane_core::Generation;
use starlane_core::frame::{Control, Frame, Header, Hello, LANES, Life, Slicer};

use crate::net::Net;

/// Somebody with a socket who can dial.
pub(crate) struct Raw {
    endpoint: Endpoint,
}

/// A link of theirs.
pub(crate) struct RawLink {
    pub(crate) connection: Connection,
    pub(crate) control: SendStream,
    pub(crate) lanes: Vec<(SendStream, RecvStream)>,
    heard: RecvStream,
}

/// The version of frames that it writes and wants.
pub(crate) const VERSION: u8 = 1;

pub(crate) fn hello() -> Hello {
    let life = Life { generation: Generation(1), process: 1 };
    Hello { versions: (VERSION, VERSION), features: 0, link: 1, life, last: [None; 3] }
}

impl Raw {
    pub(crate) fn new(net: &Net) -> Self {
        let runtime = Arc::new(TokioRuntime);
        let endpoint =
            Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, net.socket(), runtime)
                .unwrap();
        Self { endpoint }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    pub(crate) async fn connect(
        &self,
        to: SocketAddr,
        client: &rustls::ClientConfig,
    ) -> Result<Connection, ConnectionError> {
        let crypto = QuicClientConfig::try_from(Arc::new(client.clone())).unwrap();
        self.endpoint.connect_with(ClientConfig::new(Arc::new(crypto)), to, "starlane").unwrap().await
    }

    /// A link, with both sides' hello.
    pub(crate) async fn link(&self, to: SocketAddr, client: &rustls::ClientConfig) -> RawLink {
        self.link_as(to, client, hello()).await
    }

    /// A link, after a hello that says something else.
    pub(crate) async fn link_as(
        &self,
        to: SocketAddr,
        client: &rustls::ClientConfig,
        hello: Hello,
    ) -> RawLink {
        let connection = self.connect(to, client).await.unwrap();
        let (mut control, mut heard) = connection.open_bi().await.unwrap();
        control.write_all(&written(&Control::Hello(Box::new(hello)))).await.unwrap();
        let mut lanes = Vec::new();
        for lane in 0..LANES {
            let (mut send, receive) = connection.open_bi().await.unwrap();
            send.write_all(&[lane as u8]).await.unwrap();
            lanes.push((send, receive));
        }
        let mut slicer = Slicer::controls();
        loop {
            if let Some(piece) = slicer.next().unwrap() {
                assert!(matches!(Control::read(piece), Ok(Control::Hello(_))));
                return RawLink { connection, control, lanes, heard };
            }
            slicer.push(heard.read_chunk(usize::MAX, true).await.unwrap().unwrap().bytes);
        }
    }
}

impl RawLink {
    /// Why the other side closed it.
    pub(crate) async fn closed(&self) -> Option<u32> {
        code(&self.connection.closed().await)
    }

    /// What comes back over a lane: header and head.
    pub(crate) async fn next_frame(&mut self, lane: usize) -> (Header, Bytes) {
        let (header, head, _) = self.next_whole(lane).await;
        (header, head)
    }

    /// What comes back over a lane: header, head and body.
    pub(crate) async fn next_whole(&mut self, lane: usize) -> (Header, Bytes, Bytes) {
        let mut slicer = Slicer::frames();
        loop {
            if let Some(piece) = slicer.next().unwrap() {
                let frame = Frame::read(piece).unwrap();
                assert_eq!(frame.bytes()[4], VERSION);
                return (frame.header, Bytes::copy_from_slice(frame.head()), frame.body());
            }
            let chunk = self.lanes[lane].1.read_chunk(usize::MAX, true).await.unwrap().unwrap();
            slicer.push(chunk.bytes);
        }
    }

    /// What comes back over a lane before the node says that it leaves: whoever is of an earlier version hears no more then.
    pub(crate) async fn next_before_it_leaves(&mut self, lane: usize) -> Option<Header> {
        let mut slicer = Slicer::frames();
        loop {
            if let Some(piece) = slicer.next().unwrap() {
                return Some(Frame::read(piece).unwrap().header);
            }
            tokio::select! {
                biased;
                heard = self.heard.read_chunk(usize::MAX, true) => drop(heard.unwrap()?),
                chunk = self.lanes[lane].1.read_chunk(usize::MAX, true) => {
                    slicer.push(chunk.unwrap().unwrap().bytes);
                }
            }
        }
    }

    /// Whether the control stream stays open without a word.
    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none() && self.heard.id().index() == 0
    }
}

/// The code that a connection was closed with by the other side's program.
pub(crate) fn code(error: &ConnectionError) -> Option<u32> {
    match error {
        ConnectionError::ApplicationClosed(close) => u32::try_from(close.error_code.into_inner()).ok(),
        _ => None,
    }
}

pub(crate) fn written(control: &Control) -> Vec<u8> {
    let mut out = Vec::new();
    control.write(&mut out).unwrap();
    out
}
