//! A network in memory, on tokio's own time: packets take their time, and are lost, doubled, put out of order or cut off as
//! a seed decides.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep, sleep_until};

/// What happens to packets. Chances are in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) delay: Duration,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// These come later than those behind them.
    pub(crate) late: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self { delay: Duration::from_millis(2), lost: 0, doubled: 0, late: 0 }
    }
}

/// The network. Clones are the same.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

struct State {
    random: u64,
    weather: Weather,
    cut: HashSet<(SocketAddr, SocketAddr)>,
    /// After how many packets more a way is cut.
    cut_after: HashMap<(SocketAddr, SocketAddr), usize>,
    inboxes: HashMap<SocketAddr, Inbox>,
    sent: u64,
    /// Faults that really happened.
    faults: u64,
    next: u8,
}

#[derive(Default)]
struct Inbox {
    packets: BinaryHeap<Reverse<Packet>>,
    reader: Option<Waker>,
    /// Which socket has the address.
    owner: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Instant,
    nth: u64,
    from: SocketAddr,
    bytes: Vec<u8>,
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: seed,
            weather: Weather::default(),
            cut: HashSet::new(),
            cut_after: HashMap::new(),
            inboxes: HashMap::new(),
            sent: 0,
            faults: 0,
            next: 1,
        })))
    }

    /// A socket with an address of its own.
    pub(crate) fn socket(&self) -> Arc<NetSocket> {
        let address = {
            let mut state = self.0.lock().unwrap();
            state.next += 1;
            SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, state.next - 1)), 1)
        };
        self.socket_at(address)
    }

    /// A socket with an address. Whoever had it before neither sends nor hears from now on, as if its process was killed.
    pub(crate) fn socket_at(&self, address: SocketAddr) -> Arc<NetSocket> {
        let mut state = self.0.lock().unwrap();
        state.sent += 1;
        let owner = state.sent;
        state.inboxes.insert(address, Inbox { owner, ..Inbox::default() });
        Arc::new(NetSocket { net: self.clone(), address, owner, timer: Mutex::new(None) })
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.0.lock().unwrap().weather = weather;
    }

    /// From now on nothing goes from one to the other; the other way may still be open.
    pub(crate) fn cut(&self, from: SocketAddr, to: SocketAddr) {
        self.0.lock().unwrap().cut.insert((from, to));
    }

    /// A few packets still go from one to the other, and then no more.
    pub(crate) fn cut_after(&self, packets: usize, from: SocketAddr, to: SocketAddr) {
        self.0.lock().unwrap().cut_after.insert((from, to), packets);
    }

    pub(crate) fn cut_both(&self, one: SocketAddr, other: SocketAddr) {
        self.cut(one, other);
        self.cut(other, one);
    }

    pub(crate) fn heal(&self) {
        let mut state = self.0.lock().unwrap();
        state.cut.clear();
        state.cut_after.clear();
    }

    pub(crate) fn faults(&self) -> u64 {
        self.0.lock().unwrap().faults
    }
}

impl State {
    fn chance(&mut self, percent: u64) -> bool {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let hit = (word ^ word >> 31) % 100 < percent;
        self.faults += u64::from(hit);
        hit
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let Weather { delay, lost, doubled, late } = self.weather;
        if let Some(packets) = self.cut_after.get_mut(&(from, to)) {
            match packets.checked_sub(1) {
                Some(fewer) => *packets = fewer,
                None => _ = self.cut.insert((from, to)),
            }
        }
        if self.cut.contains(&(from, to)) {
            self.faults += 1;
            return;
        }
        if self.chance(lost) {
            return;
        }
        for _ in 0..1 + u8::from(self.chance(doubled)) {
            let due = Instant::now() + if self.chance(late) { delay + delay / 2 } else { delay };
            self.sent += 1;
            let packet = Packet { due, nth: self.sent, from, bytes: bytes.to_vec() };
            if let Some(inbox) = self.inboxes.get_mut(&to) {
                inbox.packets.push(Reverse(packet));
                if let Some(reader) = inbox.reader.take() {
                    reader.wake();
                }
            }
        }
    }
}

/// One node's place in the network.
pub(crate) struct NetSocket {
    net: Net,
    pub(crate) address: SocketAddr,
    owner: u64,
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl fmt::Debug for NetSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetSocket({})", self.address)
    }
}

impl AsyncUdpSocket for NetSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut state = self.net.0.lock().unwrap();
        if state.inboxes.get(&self.address).is_none_or(|inbox| inbox.owner != self.owner) {
            return Ok(());
        }
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        for packet in transmit.contents.chunks(size) {
            state.send(self.address, transmit.destination, packet);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let next = {
                let mut state = self.net.0.lock().unwrap();
                let Some(inbox) = state.inboxes.get_mut(&self.address) else { return Poll::Pending };
                if inbox.owner != self.owner {
                    return Poll::Pending;
                }
                let now = Instant::now();
                let mut count = 0;
                while count < bufs.len() && inbox.packets.peek().is_some_and(|packet| packet.0.due <= now) {
                    let Some(Reverse(packet)) = inbox.packets.pop() else { break };
                    bufs[count][..packet.bytes.len()].copy_from_slice(&packet.bytes);
                    let length = packet.bytes.len();
                    meta[count] =
                        RecvMeta { addr: packet.from, len: length, stride: length, ecn: None, dst_ip: None };
                    count += 1;
                }
                if count > 0 {
                    return Poll::Ready(Ok(count));
                }
                inbox.reader = Some(cx.waker().clone());
                inbox.packets.peek().map(|packet| packet.0.due)
            };
            let Some(due) = next else { return Poll::Pending };
            let mut timer = self.timer.lock().unwrap();
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            timer.as_mut().reset(due);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for NetSocket {
    fn drop(&mut self) {
        let inboxes = &mut self.net.0.lock().unwrap().inboxes;
        if inboxes.get(&self.address).is_some_and(|inbox| inbox.owner == self.owner) {
            inboxes.remove(&self.address);
        }
    }
}

#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
