//! A relay of UDP datagrams that does what bad networks do, from a seed: delay, jitter, loss, reordering, duplication,
//! a narrow place, a black hole, and a router that takes other ports.
//!
//! It needs no rights and no module of the kernel. It counts every fault that really happened, so that a run can say so.

mod path;

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

pub use path::{Counts, Impairment, Path};

/// How many clients one relay serves; the datagrams of others are dropped and counted as overflowed.
const CLIENTS_MAX: usize = 256;
/// How many datagrams may be under way; the next ones are dropped and counted as overflowed.
const DATAGRAMS_MAX: usize = 16_384;
/// How many datagrams are taken from one socket before the others have their turn.
const BATCH: usize = 64;
/// What the kernel may keep for each socket, in bytes, when it permits as much.
const SOCKET_BYTES: usize = 4 << 20;

/// Which way datagrams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From those who dialled the relay to the server.
    There,
    /// From the server to those who dialled the relay.
    Back,
}

/// A running relay; it ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    control: Arc<Mutex<Control>>,
    wake: UnixDatagram,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Control {
    impairments: [Impairment; 2],
    counts: [Counts; 2],
    /// How often other ports are to be taken, all in all.
    rebinds: u64,
    /// How many sockets were replaced for it.
    rebound: u64,
    ends: bool,
}

impl Relay {
    /// Relays between those who send to [`address`](Self::address) and a server. Its sockets and its thread are in the
    /// network namespace of the calling thread.
    pub fn start(listen: SocketAddr, server: SocketAddr, seed: u64) -> Self {
        let front = UdpSocket::bind(listen).expect("the relay's address is free");
        prepare(&front);
        let address = front.local_addr().expect("it has an address");
        let (wake, woken) = UnixDatagram::pair().expect("a pair of sockets");
        woken.set_nonblocking(true).expect("a socket option");
        let control = Arc::new(Mutex::new(Control::default()));
        let mut work = Work {
            front,
            woken,
            server,
            control: control.clone(),
            paths: [Path::new(seed), Path::new(seed ^ 0x5bd1_e995)],
            clients: Vec::new(),
            queue: BinaryHeap::new(),
            numbers: [0; 2],
            highest: [0; 2],
            rebinds: 0,
        };
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || work.run());
        Self { address, control, wake, thread: Some(thread.expect("a thread starts")) }
    }

    /// Where it is dialled.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does something to the datagrams of one way that come in from now on.
    pub fn set(&self, way: Way, impairment: Impairment) {
        self.lock().impairments[way as usize] = impairment;
    }

    /// Does the same to both ways.
    pub fn set_both(&self, impairment: Impairment) {
        self.lock().impairments = [impairment; 2];
    }

    /// Does nothing any more, both ways.
    pub fn heal(&self) {
        self.set_both(Impairment::default());
    }

    /// Sends on from other ports from now on, as a router that forgot its clients does. What the server still sends to the
    /// old ports is lost.
    pub fn rebind(&self) {
        self.lock().rebinds += 1;
        self.wake();
    }

    /// What happened so far in one way.
    pub fn counts(&self, way: Way) -> Counts {
        self.lock().counts[way as usize]
    }

    /// How many clients got another port so far.
    pub fn rebound(&self) -> u64 {
        self.lock().rebound
    }

    fn wake(&self) {
        _ = self.wake.send(&[0]);
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.lock().ends = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [there, back] = [Way::There, Way::Back].map(|way| self.counts(way));
        write!(
            f,
            "datagrams={} lost={} swallowed={} duplicated={} reordered={} overflowed={} rebound={}",
            there.received + back.received,
            there.lost + back.lost,
            there.swallowed + back.swallowed,
            there.duplicated + back.duplicated,
            there.reordered + back.reordered,
            there.overflowed + back.overflowed,
            self.rebound(),
        )
    }
}

/// What the relay's thread has.
struct Work {
    front: UdpSocket,
    woken: UnixDatagram,
    server: SocketAddr,
    control: Arc<Mutex<Control>>,
    paths: [Path; 2],
    clients: Vec<Client>,
    queue: BinaryHeap<Reverse<Datagram>>,
    /// How many datagrams were taken in, by way.
    numbers: [u64; 2],
    /// The highest number that went out, by way.
    highest: [u64; 2],
    rebinds: u64,
}

struct Client {
    address: SocketAddr,
    /// On a port that the server knows the client by.
    socket: UdpSocket,
}

/// A datagram under way. The earliest is the smallest.
struct Datagram {
    due: Instant,
    number: u64,
    way: Way,
    client: usize,
    bytes: Box<[u8]>,
}

impl Work {
    fn run(&mut self) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let ready = self.wait();
            // What was set before a datagram was sent holds for it: so this is read after waiting, and before receiving.
            let (impairments, rebinds, ends) = {
                let control = self.lock();
                (control.impairments, control.rebinds, control.ends)
            };
            if ends {
                return;
            }
            while self.rebinds < rebinds {
                self.rebinds += 1;
                self.rebind();
            }
            if ready.first() == Some(&true) {
                while self.woken.recv(&mut buffer).is_ok() {}
            }
            let mut counts = [Counts::default(); 2];
            self.receive(&ready, &impairments, &mut counts, &mut buffer);
            self.send(&mut counts);
            let mut control = self.lock();
            for (all, more) in control.counts.iter_mut().zip(counts) {
                all.add(&more);
            }
        }
    }

    /// Waits until a socket has something, or something is due; tells which of wake-up, front and clients have.
    fn wait(&self) -> Vec<bool> {
        let timeout = self.queue.peek().map(|Reverse(next)| {
            let left = next.due.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut polled =
            vec![PollFd::new(&self.woken, PollFlags::IN), PollFd::new(&self.front, PollFlags::IN)];
        polled.extend(self.clients.iter().map(|client| PollFd::new(&client.socket, PollFlags::IN)));
        _ = poll(&mut polled, timeout.as_ref());
        polled.iter().map(|polled| !polled.revents().is_empty()).collect()
    }

    fn receive(
        &mut self,
        ready: &[bool],
        impairments: &[Impairment; 2],
        counts: &mut [Counts; 2],
        buffer: &mut [u8],
    ) {
        let now = Instant::now();
        if ready.get(1) == Some(&true) {
            for _ in 0..BATCH {
                let Ok((length, from)) = self.front.recv_from(buffer) else { break };
                match self.client(from) {
                    Some(client) => {
                        self.take(Way::There, client, &buffer[..length], now, impairments, counts)
                    }
                    None => counts[Way::There as usize].overflowed += 1,
                }
            }
        }
        for client in (0..self.clients.len()).filter(|client| ready.get(client + 2) == Some(&true)) {
            for _ in 0..BATCH {
                // An error is that nothing more is there, or the news that nobody listens there: a network's everyday.
                let Ok(length) = self.clients[client].socket.recv(buffer) else { break };
                self.take(Way::Back, client, &buffer[..length], now, impairments, counts);
            }
        }
    }

    fn take(
        &mut self,
        way: Way,
        client: usize,
        bytes: &[u8],
        now: Instant,
        impairments: &[Impairment; 2],
        counts: &mut [Counts; 2],
    ) {
        let at = way as usize;
        let due = self.paths[at].pass(now, bytes.len(), &impairments[at], &mut counts[at]);
        self.numbers[at] += 1;
        for due in due.into_iter().flatten() {
            if self.queue.len() >= DATAGRAMS_MAX {
                counts[at].overflowed += 1;
                return;
            }
            self.queue.push(Reverse(Datagram {
                due,
                number: self.numbers[at],
                way,
                client,
                bytes: bytes.into(),
            }));
        }
    }

    /// Sends what is due.
    fn send(&mut self, counts: &mut [Counts; 2]) {
        let now = Instant::now();
        while self.queue.peek().is_some_and(|Reverse(next)| next.due <= now) {
            let Some(Reverse(datagram)) = self.queue.pop() else { return };
            let at = datagram.way as usize;
            let client = &self.clients[datagram.client];
            _ = match datagram.way {
                Way::There => client.socket.send(&datagram.bytes),
                Way::Back => self.front.send_to(&datagram.bytes, client.address),
            };
            counts[at].sent += 1;
            counts[at].reordered += u64::from(datagram.number < self.highest[at]);
            self.highest[at] = self.highest[at].max(datagram.number);
        }
    }

    fn client(&mut self, address: SocketAddr) -> Option<usize> {
        if let Some(known) = self.clients.iter().position(|client| client.address == address) {
            return Some(known);
        }
        if self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        self.clients.push(Client { address, socket: towards(self.server) });
        Some(self.clients.len() - 1)
    }

    /// Gives each client another port. The old one is still taken while the new one is chosen, so that they differ.
    fn rebind(&mut self) {
        for client in &mut self.clients {
            client.socket = towards(self.server);
        }
        let count = self.clients.len() as u64;
        self.lock().rebound += count;
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn towards(server: SocketAddr) -> UdpSocket {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).expect("a port is free");
    socket.connect(server).expect("the server has an address");
    prepare(&socket);
    socket
}

fn prepare(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("a socket option");
    // The kernel may give less.
    _ = set_socket_recv_buffer_size(socket, SOCKET_BYTES);
    _ = set_socket_send_buffer_size(socket, SOCKET_BYTES);
}

impl Counts {
    fn add(&mut self, more: &Counts) {
        let Counts { received, sent, lost, swallowed, duplicated, reordered, overflowed } = more;
        self.received += received;
        self.sent += sent;
        self.lost += lost;
        self.swallowed += swallowed;
        self.duplicated += duplicated;
        self.reordered += reordered;
        self.overflowed += overflowed;
    }
}

impl Datagram {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Datagram {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Datagram {}

impl PartialOrd for Datagram {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Datagram {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How long something that must come is waited for.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        _ = set_socket_recv_buffer_size(&socket, SOCKET_BYTES);
        socket
    }

    /// A server, a relay in front of it and a client of the relay.
    fn line(seed: u64) -> (UdpSocket, Relay, UdpSocket) {
        let (server, client) = (socket(), socket());
        let relay = Relay::start("127.0.0.1:0".parse().unwrap(), server.local_addr().unwrap(), seed);
        client.connect(relay.address()).unwrap();
        (server, relay, client)
    }

    fn number(socket: &UdpSocket) -> (u32, SocketAddr) {
        let mut bytes = [0; 4];
        let (length, from) = socket.recv_from(&mut bytes).expect("it comes");
        assert_eq!(length, 4);
        (u32::from_le_bytes(bytes), from)
    }

    /// Waits for a count that must be reached.
    fn reaches(what: &str, relay: &Relay, reached: impl Fn(&Relay) -> bool) {
        let begun = Instant::now();
        while !reached(relay) {
            assert!(begun.elapsed() < PATIENCE, "{what}: {relay}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn datagrams_pass_both_ways_between_each_client_and_the_server() {
        let (server, relay, client) = line(1);
        let other = socket();
        other.connect(relay.address()).unwrap();
        for (sender, value) in [(&client, 1_u32), (&other, 2)] {
            sender.send(&value.to_le_bytes()).unwrap();
            let (got, from) = number(&server);
            assert_eq!(got, value);
            server.send_to(&(value + 10).to_le_bytes(), from).unwrap();
            assert_eq!(number(sender).0, value + 10);
        }
        reaches("all is counted", &relay, |relay| relay.counts(Way::Back).sent == 2);
        assert_eq!(relay.counts(Way::There), Counts { received: 2, sent: 2, ..Counts::default() });
    }

    #[test]
    fn a_black_hole_has_a_direction() {
        let (server, relay, client) = line(2);
        client.send(&1_u32.to_le_bytes()).unwrap();
        let (_, from) = number(&server);
        relay.set(Way::There, Impairment { blackhole: true, ..Impairment::default() });
        client.send(&2_u32.to_le_bytes()).unwrap();
        reaches("it is swallowed", &relay, |relay| relay.counts(Way::There).swallowed == 1);
        server.send_to(&3_u32.to_le_bytes(), from).unwrap();
        assert_eq!(number(&client).0, 3);
        relay.heal();
        client.send(&4_u32.to_le_bytes()).unwrap();
        assert_eq!(number(&server).0, 4, "what was swallowed never comes");
    }

    #[test]
    fn other_ports_are_taken_in_the_middle() {
        let (server, relay, client) = line(3);
        client.send(&1_u32.to_le_bytes()).unwrap();
        let (_, before) = number(&server);
        relay.rebind();
        client.send(&2_u32.to_le_bytes()).unwrap();
        let (_, after) = number(&server);
        assert_ne!(before.port(), after.port());
        server.send_to(&3_u32.to_le_bytes(), after).unwrap();
        assert_eq!(number(&client).0, 3);
        assert_eq!(relay.rebound(), 1);
    }

    #[test]
    fn what_arrives_is_what_the_counts_say() {
        const SENT: u32 = 2_000;
        let (server, relay, client) = line(4);
        relay.set(
            Way::There,
            Impairment {
                jitter: Duration::from_micros(200),
                loss: 0.1,
                burst: 3.0,
                reorder: 0.25,
                held: Duration::from_millis(2),
                duplicate: 0.05,
                ..Impairment::default()
            },
        );
        for value in 0..SENT {
            client.send(&value.to_le_bytes()).unwrap();
            // The kernel's buffers are not what is tested here: the relay takes each in before the next is sent.
            reaches("it is taken in", &relay, |relay| relay.counts(Way::There).received > u64::from(value));
        }
        reaches("all go out", &relay, |relay| {
            let counts = relay.counts(Way::There);
            counts.sent == counts.received - counts.lost + counts.duplicated
        });
        let counts = relay.counts(Way::There);
        let came: Vec<u32> = (0..counts.sent).map(|_| number(&server).0).collect();
        let different: std::collections::BTreeSet<u32> = came.iter().copied().collect();
        assert_eq!(different.len() as u64, u64::from(SENT) - counts.lost);
        assert_eq!((came.len() - different.len()) as u64, counts.duplicated);
        let mut highest = 0;
        let overtaken = came.iter().filter(|value| {
            let late = **value < highest;
            highest = highest.max(**value);
            late
        });
        assert_eq!(overtaken.count() as u64, counts.reordered);
        assert!(counts.lost > 100 && counts.duplicated > 50 && counts.reordered > 100, "{relay}");
    }
}
