//! The networks that tests make for themselves do what they say.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::net::{Lab, Space};
use tests::{Api, Node, Serve};

/// How long something that must come is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

fn socket(space: &Space) -> UdpSocket {
    let socket = space.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5_000))).expect("a port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

fn at(space: &Space) -> SocketAddr {
    (space.address(), 5_000).into()
}

#[track_caller]
fn hears(socket: &UdpSocket, text: &str) -> SocketAddr {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).expect("it is heard");
    assert_eq!(std::str::from_utf8(&buffer[..length]), Ok(text));
    from
}

/// Waits until the faults dropped so many packets: then those surely never come.
#[track_caller]
fn drops(lab: &Lab, count: u64) {
    let begun = std::time::Instant::now();
    while lab.dropped() < count {
        assert!(begun.elapsed() < PATIENCE, "only {} of {count} were dropped", lab.dropped());
        std::thread::yield_now();
    }
    assert_eq!(lab.dropped(), count);
}

#[track_caller]
fn silent(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("an option");
    assert_eq!(socket.recv(&mut [0; 64]).expect_err("nothing comes").kind(), ErrorKind::WouldBlock);
    socket.set_nonblocking(false).expect("an option");
}

#[test]
fn cuts_hold_in_their_direction_until_healed() {
    let Some(lab) = Lab::new() else { return };
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.add(name));
    let [at_a, at_b, at_c] = [&a, &b, &c].map(socket);
    at_a.send_to(b"whole", at(&b)).expect("it is sent");
    assert_eq!(hears(&at_b, "whole"), at(&a));

    lab.cut_one_way(&a, &b);
    at_a.send_to(b"cut", at(&b)).expect("a cut is not noticed");
    drops(&lab, 1);
    silent(&at_b);
    at_b.send_to(b"back", at(&a)).expect("it is sent");
    hears(&at_a, "back");
    at_a.send_to(b"aside", at(&c)).expect("it is sent");
    hears(&at_c, "aside");

    lab.split(&[&a, &c], &[&b]);
    at_b.send_to(b"cut", at(&a)).expect("a cut is not noticed");
    at_c.send_to(b"cut", at(&b)).expect("a cut is not noticed");
    drops(&lab, 3);

    lab.heal();
    at_a.send_to(b"healed", at(&b)).expect("it is sent");
    hears(&at_b, "healed");
    at_b.send_to(b"healed", at(&a)).expect("it is sent");
    hears(&at_a, "healed");
    drops(&lab, 3);
}

#[test]
fn a_cable_that_was_pulled_can_be_plugged_in_again() {
    let Some(lab) = Lab::new() else { return };
    let [a, b] = ["a", "b"].map(|name| lab.add(name));
    let [at_a, at_b] = [&a, &b].map(socket);
    at_a.send_to(b"whole", at(&b)).expect("it is sent");
    hears(&at_b, "whole");
    lab.unplug(&b);
    _ = at_a.send_to(b"pulled", at(&b));
    lab.plug(&b);
    // A port of a switch needs a moment, and what was sent meanwhile is lost.
    at_b.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    let mut buffer = [0; 64];
    let first = (0..200).find_map(|_| {
        _ = at_a.send_to(b"plugged", at(&b));
        at_b.recv(&mut buffer).ok()
    });
    let first = first.expect("something comes after the cable was plugged in");
    assert_eq!(std::str::from_utf8(&buffer[..first]), Ok("plugged"));
}

#[test]
fn losses_are_single_packets_and_all_are_counted() {
    const SENT: u64 = 300;
    let Some(lab) = Lab::new() else { return };
    let [a, b] = ["a", "b"].map(|name| lab.add(name));
    let [at_a, at_b] = [&a, &b].map(socket);
    lab.lose(25);
    let came = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut came = 0;
            let mut buffer = [0; 64];
            loop {
                let length = at_b.recv(&mut buffer).expect("the end is heard");
                if &buffer[..length] == b"end" {
                    return came;
                }
                came += 1;
                // One at a time, so that no buffer overflows.
                at_b.send_to(b"next", at(&a)).expect("it is sent");
            }
        });
        at_a.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout can be set");
        for _ in 0..SENT {
            at_a.send_to(b"one", at(&b)).expect("it is sent");
            _ = at_a.recv(&mut [0; 64]);
        }
        lab.heal();
        at_a.send_to(b"end", at(&b)).expect("it is sent");
        receiver.join().expect("it ends")
    });
    // What is dropped of the answers counts as well, so that only bounds are known.
    assert!((SENT / 2..SENT).contains(&came), "{came} of {SENT} came");
    assert!(lab.dropped() >= SENT - came, "{} dropped, {came} of {SENT} came", lab.dropped());
}

#[test]
fn large_sends_cross_a_wire_in_packets() {
    const BYTES: usize = 1 << 20;
    let Some(lab) = Lab::new() else { return };
    let [a, b] = ["a", "b"].map(|name| lab.add(name));
    let listener = b.inside(|| TcpListener::bind((b.address(), 5_000))).expect("a port is free");
    let mut stream = a.inside(|| TcpStream::connect(at(&b))).expect("it listens");
    let (mut other, _) = listener.accept().expect("it is connected");
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(&vec![0; BYTES]).expect("it reads"));
        other.read_exact(&mut vec![0; BYTES]).expect("all comes");
    });
    let line = b.inside(interfaces);
    let packets = line
        .lines()
        .find_map(|line| line.trim().strip_prefix("up0:"))
        .and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok())
        .expect("packets are counted");
    assert!(packets >= BYTES / 1_500, "{BYTES} bytes came in {packets} packets");
}

fn interfaces() -> String {
    std::fs::read_to_string("/proc/thread-self/net/dev").expect("interfaces are listed")
}

#[test]
fn who_is_behind_a_router_can_only_begin() {
    let Some(lab) = Lab::new() else { return };
    let (cloud, desk) = (lab.add("cloud"), lab.add_behind_nat("desk"));
    assert_ne!(desk.address(), desk.own_address());
    let [at_cloud, at_desk] = [&cloud, &desk].map(socket);

    let stranger = cloud.inside(|| UdpSocket::bind((cloud.address(), 0))).expect("a port is free");
    stranger.connect(at(&desk)).expect("an address");
    stranger.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stranger.send(b"unasked").expect("it is sent");
    let refused = stranger.recv(&mut [0; 64]).expect_err("nobody is there");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    at_desk.send_to(b"asked", at(&cloud)).expect("it is sent");
    let from = hears(&at_cloud, "asked");
    assert_eq!(from.ip(), desk.address());
    at_cloud.send_to(b"answered", from).expect("it is sent");
    hears(&at_desk, "answered");

    lab.rebind(&desk);
    // The kernel forgets old translations a moment later.
    let begun = std::time::Instant::now();
    let after = loop {
        at_desk.send_to(b"again", at(&cloud)).expect("it is sent");
        let after = hears(&at_cloud, "again");
        assert_eq!(after.ip(), desk.address());
        at_cloud.send_to(b"answered", after).expect("it is sent");
        // An answer is lost when its translation was forgotten just before.
        let is_heard = at_desk.recv(&mut [0; 64]).is_ok();
        if after.port() != from.port() && is_heard {
            break after;
        }
        assert!(begun.elapsed() < PATIENCE * 3, "the router kept its port, or lets no answer in");
    };

    lab.cut(&cloud, &desk);
    at_desk.send_to(b"cut", at(&cloud)).expect("a cut is not noticed");
    drops(&lab, 1);
    at_cloud.send_to(b"cut", after).expect("a cut is not noticed");
    drops(&lab, 2);
}

#[test]
fn processes_run_inside_and_end_with_the_lab() {
    let Some(lab) = Lab::new() else { return };
    let space = lab.add("a");
    let mut cat = space
        .spawn(Command::new("cat").arg("/proc/net/dev").stdout(Stdio::piped()))
        .expect("cat is everywhere");
    let mut listed = String::new();
    cat.stdout.take().expect("it is piped").read_to_string(&mut listed).expect("text");
    cat.wait().expect("it ends");
    assert!(listed.contains("up0:") && !listed.contains("eth0:"), "{listed}");

    let mut forgotten = space.spawn(Command::new("cat").stdin(Stdio::piped())).expect("cat is everywhere");
    drop(lab);
    assert!(!forgotten.wait().expect("it ends").success(), "it was ended");
}

#[test]
fn a_node_lives_inside_and_can_be_paused_and_started_again() {
    let Some(lab) = Lab::new() else { return };
    let space = lab.add("a");
    let mut node = Node::serve(Serve { space: Some(space), ..Serve::named("edge-1") });
    assert!(TcpStream::connect(node.api()).is_err(), "its doors are inside");
    let nodes = |node: &Node| Api::of(node).get("/v1/nodes").expect("it answers").1;
    assert_eq!(nodes(&node)["nodes"][0]["name"], "edge-1");
    assert!(node.run(["node", "list"]).ok().contains("edge-1"), "commands run inside");

    node.pause();
    let (asked, answers) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(|| asked.send(nodes(&node)).expect("somebody waits"));
        assert!(answers.recv_timeout(Duration::from_millis(200)).is_err(), "who is paused answers nobody");
        node.resume();
        answers.recv_timeout(PATIENCE).expect("it answers after");
    });
    node.kill();
    node.restart();
    assert_eq!(nodes(&node)["nodes"][0]["name"], "edge-1");
}

#[test]
fn what_a_killed_process_left_is_swept() {
    let Some(_lab) = Lab::new() else { return };
    // A process with the number of this one, and born at another time.
    let left = format!("starlane-{}-1-0-1-left", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &left]).status().expect("ip runs");
    assert!(made.success());
    let _next = Lab::new().expect("a second lab is permitted as well");
    assert!(!std::path::Path::new("/run/netns").join(&left).exists(), "{left} is still there");
}
