//! Networks of a test's own: namespaces of the kernel joined by a switch, with cuts, losses and address translation.
//!
//! Nothing outside of them is touched: all interfaces, addresses (10.77 and 10.78) and rules are inside. They are removed
//! with the [`Lab`], and those of processes that were killed are swept by the next one.

mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

pub use space::Space;

/// Set to `1` where a machine that permits no namespaces is a failure and not a reason to skip.
pub const REQUIRE: &str = "STARLANE_REQUIRE_NETNS";

/// How many namespaces one lab may have: their addresses end in 1 to 250.
const SPACES_MAX: usize = 250;

/// The chain of rules that drop packets.
const FAULTS: &str = "inet lab input";

/// Namespaces joined by a switch.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    switch: Space,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Member>,
    /// Who is not heard by whom: number of the sender, number of the receiver.
    cuts: BTreeSet<(usize, usize)>,
    /// How many of 100 packets each receiver loses, whoever sent them.
    losses: BTreeMap<usize, u8>,
    /// What the counters said before they were made anew.
    dropped: u64,
}

#[derive(Debug)]
struct Member {
    space: Space,
    /// Who translates its addresses.
    router: Option<Space>,
    /// How often the router's ports were changed.
    rebound: u16,
}

impl Lab {
    /// A lab with nobody in it. `None`, with a word on stderr, on machines that do not permit it.
    ///
    /// # Panics
    /// When the machine does not permit it although the environment requires it.
    pub fn new() -> Option<Self> {
        sweep();
        match Self::try_new() {
            Ok(lab) => Some(lab),
            Err(reason) => {
                let required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
                assert!(!required, "{REQUIRE}=1, and this machine has no networks for tests: {reason}");
                eprintln!(
                    "SKIPPED: this machine has no networks for tests (see scripts/net-tools): {reason}"
                );
                None
            }
        }
    }

    fn try_new() -> Result<Self, String> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let (pid, born) = (std::process::id(), born(std::process::id()).unwrap_or_default());
        let prefix = format!("starlane-{pid}-{born}-{}", LABS.fetch_add(1, Ordering::Relaxed));
        let name = format!("{prefix}-switch");
        let none = Ipv4Addr::UNSPECIFIED;
        space::make(&name)?;
        let switch = Space { name: name.as_str().into(), number: 0, inner: none, outer: none };
        let lab = Self { prefix, switch, state: Mutex::default() };
        space::try_run(
            Command::new("ip").args(["netns", "exec", &name, "nft", "add", "table", "inet", "lab"]),
        )?;
        space::try_run(Command::new("ip").args(["-n", &name, "link", "add", "br0", "type", "bridge"]))?;
        space::try_run(Command::new("ip").args(["-n", &name, "link", "set", "br0", "up"]))?;
        Ok(lab)
    }

    /// A namespace on the switch, that all others reach.
    pub fn add(&self, name: &str) -> Space {
        let mut state = self.lock();
        let number = state.members.len() + 1;
        let address = address(number);
        let space = self.make(name, number, address, address);
        self.plug_in(&space, number, address);
        state.members.push(Member { space: space.clone(), router: None, rebound: 0 });
        space
    }

    /// A namespace behind a router that translates addresses: it reaches all others, and none reaches it first.
    pub fn add_behind_nat(&self, name: &str) -> Space {
        let mut state = self.lock();
        let number = state.members.len() + 1;
        let outer = address(number);
        let [inner, gateway] = [2, 1].map(|last| Ipv4Addr::new(10, 78, number as u8, last));
        let space = self.make(name, number, inner, outer);
        let router = self.make(&format!("{name}-nat"), number, gateway, outer);
        self.plug_in(&router, number, outer);
        let (inside, behind) = (&space.name, &router.name);
        space.ip(&format!(
            "link add name up0 netns {inside} type veth peer name down0 netns {behind}\n\
             addr add {inner}/24 dev up0\nlink set up0 gso_max_segs 1 up\n"
        ));
        router.ip(&format!("addr add {gateway}/24 dev down0\nlink set down0 gso_max_segs 1 up\n"));
        space.ip(&format!("route add default via {gateway}\n"));
        router.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).expect("routers forward");
        router.nft("add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }");
        translate(&router, 0);
        state.members.push(Member { space: space.clone(), router: Some(router), rebound: 0 });
        space
    }

    fn make(&self, name: &str, number: usize, inner: Ipv4Addr, outer: Ipv4Addr) -> Space {
        assert!(number <= SPACES_MAX, "a lab has at most {SPACES_MAX} namespaces");
        let full = format!("{}-{number}-{name}", self.prefix);
        space::make(&full).unwrap_or_else(|reason| panic!("{reason}"));
        let space = Space { name: full.as_str().into(), number, inner, outer };
        space.nft(&format!(
            "add table inet lab\nadd chain {FAULTS} {{ type filter hook input priority 0; }}\n"
        ));
        space
    }

    /// A wire from a namespace to the switch. Packets are cut to size before they enter it, so that losses hit single
    /// packets, as on a real wire, and not the large ones that the kernel passes around inside one machine.
    fn plug_in(&self, space: &Space, number: usize, address: Ipv4Addr) {
        let (here, switch) = (&space.name, &self.switch.name);
        let up = if space.inner == address { "up0" } else { "out0" };
        space.ip(&format!(
            "link add name {up} netns {here} type veth peer name p{number} netns {switch}\n\
             addr add {address}/16 dev {up}\nlink set {up} gso_max_segs 1 up\n"
        ));
        self.switch.ip(&format!("link set p{number} gso_max_segs 1 master br0 up\n"));
    }

    /// Cuts all that two say to each other.
    pub fn cut(&self, one: &Space, other: &Space) {
        self.change(|state| state.cuts.extend([(one.number, other.number), (other.number, one.number)]));
    }

    /// Cuts what one says to the other; the way back stays.
    pub fn cut_one_way(&self, from: &Space, to: &Space) {
        self.change(|state| state.cuts.extend([(from.number, to.number)]));
    }

    /// Cuts all that some say to the others and back.
    pub fn split(&self, some: &[&Space], others: &[&Space]) {
        self.change(|state| {
            for one in some {
                for other in others {
                    state.cuts.extend([(one.number, other.number), (other.number, one.number)]);
                }
            }
        });
    }

    /// Lets everybody lose so many of 100 packets that come in, by the kernel's own chance (not seeded).
    pub fn lose(&self, percent: u8) {
        self.change(|state| {
            state.losses = state.members.iter().map(|member| (member.space.number, percent)).collect();
        });
    }

    /// Lets one lose so many of 100 packets that come in.
    pub fn lose_towards(&self, to: &Space, percent: u8) {
        self.change(|state| _ = state.losses.insert(to.number, percent));
    }

    /// Takes back all cuts and losses. Cables stay as they are.
    pub fn heal(&self) {
        self.change(|state| {
            state.cuts.clear();
            state.losses.clear();
        });
    }

    /// Pulls a namespace's cable: neither side hears the other, and the interface knows it.
    pub fn unplug(&self, space: &Space) {
        self.switch.ip(&format!("link set p{} down\n", space.number));
    }

    /// Plugs the cable in again.
    pub fn plug(&self, space: &Space) {
        self.switch.ip(&format!("link set p{} up\n", space.number));
    }

    /// Lets the router of a namespace forget all it translates and take other ports from then on, as routers do when they
    /// restart.
    pub fn rebind(&self, space: &Space) {
        let mut state = self.lock();
        let member = &mut state.members[space.number - 1];
        let router = member.router.clone().expect("only who is behind a router can be rebound");
        member.rebound += 1;
        translate(&router, member.rebound);
        // An interface that goes down takes its translations with it.
        router.ip("link set out0 down\nlink set out0 up\n");
    }

    /// How many packets the cuts and losses dropped so far.
    pub fn dropped(&self) -> u64 {
        let state = self.lock();
        state.dropped + state.members.iter().map(|member| member.space.counted(FAULTS)).sum::<u64>()
    }

    /// Changes what is dropped, and writes anew the rules of whom it concerns.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let before: Vec<String> = state.members.iter().map(|member| state.rules(member)).collect();
        change(&mut state);
        let mut counted = 0;
        for (member, before) in state.members.iter().zip(before) {
            let rules = state.rules(member);
            if rules != before {
                counted += member.space.counted(FAULTS);
                member.space.nft(&format!("flush chain {FAULTS}\n{rules}"));
            }
        }
        state.dropped += counted;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// The rules that drop what a member is not to hear.
    fn rules(&self, member: &Member) -> String {
        let to = member.space.number;
        let heard = |from: usize| self.members[from - 1].space.outer;
        let cuts = self.cuts.iter().filter(|cut| cut.1 == to);
        let cuts =
            cuts.map(|(from, _)| format!("add rule {FAULTS} ip saddr {} counter drop\n", heard(*from)));
        let loss = self.losses.get(&to).filter(|percent| **percent > 0).map(|percent| {
            format!("add rule {FAULTS} iifname up0 numgen random mod 100 < {percent} counter drop\n")
        });
        cuts.chain(loss).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mine = format!("{}-", self.prefix);
        space::all().iter().filter(|name| name.starts_with(&mine)).for_each(|name| space::remove(name));
    }
}

/// Lets a router hide those behind it under its own address, on ports of one of eight ranges.
fn translate(router: &Space, range: u16) {
    let first = 20_000 + range % 8 * 5_000;
    router.nft(&format!(
        "flush chain ip nat post\n\
         add rule ip nat post oifname out0 meta l4proto {{ tcp, udp }} masquerade to :{first}-{}\n\
         add rule ip nat post oifname out0 masquerade\n",
        first + 4_999
    ));
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number as u8)
}

/// Removes what processes that are no more left behind.
fn sweep() {
    for name in space::all() {
        let mut words = name.split('-');
        let mine = words.next() == Some("starlane");
        let Some(pid) = words.next().and_then(|pid| pid.parse().ok()) else { continue };
        let Some(then) = words.next().and_then(|born| born.parse::<u64>().ok()) else { continue };
        if mine && born(pid) != Some(then) {
            space::remove(&name);
        }
    }
}

/// When a process was started, in ticks since the machine was; tells a process from a later one with its number.
fn born(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}
