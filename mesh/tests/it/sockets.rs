//! The same on real sockets, with links on threads of their own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use mesh::{Config, Fixed, Handle, Parts, Place, Service, Socket};
use socket2::SockRef;
use starlane_core::Role;

use crate::members::Members;
use crate::world::{Fake, body, id, linked, request, request_between};

fn start(members: &Arc<Members>, name: &str, dials: &[&Handle], next: &[(&str, &str)]) -> Handle {
    start_on(Socket::Bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))), members, name, dials, next)
}

fn start_on(
    socket: Socket,
    members: &Arc<Members>,
    name: &str,
    dials: &[&Handle],
    next: &[(&str, &str)],
) -> Handle {
    let parts = Parts {
        credentials: members.member(name, Role::Relay, 1),
        local: Fake::echo(),
        routing: Box::new(Fixed::new(next.iter().map(|(to, next)| (id(to), id(next))))),
        on_join: None,
        socket,
        place: Place::OwnThread,
        seed: 1,
    };
    let addresses = dials.iter().map(|node| node.address().to_string()).collect();
    mesh::start(Config { addresses, ..Config::default() }, parts).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_all_sizes_over_one_and_two_hops() {
    let members = Members::new();
    let r = start(&members, "r", &[], &[]);
    let a = start(&members, "a", &[&r], &[("b", "r")]);
    let b = start(&members, "b", &[&r], &[("a", "r")]);
    linked(&r, &["a", "b"]).await;
    linked(&a, &["r"]).await;
    linked(&b, &["r"]).await;
    for (to, first) in [("r", 0u128), ("b", 10_000)] {
        let asked = (0..500u128).map(|n| {
            let length = [0, 128, 1_024, 5_000, 70_000, 300_000][n as usize % 6];
            let content = Bytes::from(vec![n as u8; length]);
            let from = format!("shop:a-{}", n % 40);
            let message =
                request_between(first + n, &from, "shop:b", content.clone(), Duration::from_secs(30));
            let asked = a.request(id(to), message);
            async move { assert!(body(asked.await) == content, "{n}") }
        });
        join_all(asked).await;
    }
    let way = a.trace(id("b"), Duration::from_secs(5)).await.unwrap();
    assert_eq!(way.iter().map(|hop| hop.node).collect::<Vec<_>>(), [id("r"), id("b")]);
    let call = a.call(id("b"), Service(1), Bytes::from_static(b"x"), Duration::from_secs(5));
    assert_eq!(call.await, Ok(Bytes::from_static(b"x")));
    b.stop().await;
    linked(&r, &["a"]).await;
    let outcome = a.request(id("b"), request(1, "x")).await;
    assert!(matches!(outcome, starlane_core::Outcome::Rejected(_)), "{outcome:?}");
    a.stop().await;
    r.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_may_wait_in_the_socket_for_as_much_as_the_system_allows() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let seen = socket.try_clone().unwrap();
    let sizes = || {
        let seen = SockRef::from(&seen);
        [seen.recv_buffer_size().unwrap(), seen.send_buffer_size().unwrap()]
    };
    // As much as there is to have.
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let other = SockRef::from(&other);
    other.set_recv_buffer_size(Config::default().socket_bytes).unwrap();
    other.set_send_buffer_size(Config::default().socket_bytes).unwrap();
    let most = [other.recv_buffer_size().unwrap(), other.send_buffer_size().unwrap()];
    assert_ne!(sizes(), most, "this system gives as much by itself");
    let node = start_on(Socket::Bound(socket), &Members::new(), "a", &[], &[]);
    assert_eq!(sizes(), most);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_dial_at_once_and_all_have_their_link_with_the_first_try() {
    let members = Members::new();
    let hub = start(&members, "hub", &[], &[]);
    let names: Vec<_> = (0..100).map(|n| format!("edge-{n:02}")).collect();
    let edges: Vec<_> = names.iter().map(|name| start(&members, name, &[&hub], &[])).collect();
    linked(&hub, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let failed: u64 = edges.iter().map(|edge| edge.counted().dials_failed).sum();
    assert_eq!((failed, hub.counted().handshakes_refused), (0, 0));
    join_all(edges.iter().map(Handle::stop)).await;
    hub.stop().await;
}
