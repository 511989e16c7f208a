//! One network namespace: what runs in it has interfaces, addresses and rules of its own, and nobody else's.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace of a [`Lab`](super::Lab). Clones mean the same namespace.
#[derive(Debug, Clone)]
pub struct Space {
    pub(super) name: Arc<str>,
    pub(super) number: usize,
    pub(super) inner: Ipv4Addr,
    pub(super) outer: Ipv4Addr,
}

impl Space {
    /// Its own address.
    pub fn own_address(&self) -> Ipv4Addr {
        self.inner
    }

    /// The address under which others see it: its own, or that of the router it is behind.
    pub fn address(&self) -> Ipv4Addr {
        self.outer
    }

    /// Runs something on a thread inside. Sockets that it opens stay inside, whoever uses them after.
    pub fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread inside for good.
    pub fn enter(&self) {
        let link = File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
        move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("a namespace can be entered");
    }

    /// Starts a process inside.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
        self.inside(|| command.spawn())
    }

    /// Runs commands of `ip`, one a line, inside.
    pub(super) fn ip(&self, lines: &str) {
        feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines);
    }

    /// Runs commands of `nft` inside, all or none.
    pub(super) fn nft(&self, lines: &str) {
        feed(Command::new("ip").args(["netns", "exec", &self.name, "nft", "-f", "-"]), lines);
    }

    /// How many packets the counters of a chain of `nft` counted.
    pub(super) fn counted(&self, chain: &str) -> u64 {
        let mut list = Command::new("ip");
        list.args(["netns", "exec", &self.name, "nft", "list", "chain"]).args(chain.split(' '));
        let output = list.output().expect("nft runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{list:?}: {}", String::from_utf8_lossy(&output.stderr));
        text.split("counter packets ")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

/// Makes a namespace with nothing but its loopback interface.
pub(super) fn make(name: &str) -> Result<(), String> {
    try_run(Command::new("ip").args(["netns", "add", name]))?;
    try_run(Command::new("ip").args(["-n", name, "link", "set", "lo", "up"]))
}

/// Removes a namespace, and ends what still runs in it.
pub(super) fn remove(name: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                _ = kill_process(pid, Signal::KILL);
            }
        }
    }
    _ = try_run(Command::new("ip").args(["netns", "del", name]));
}

/// The names of all namespaces of this machine.
pub(super) fn all() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn feed(command: &mut Command, lines: &str) {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    process.stdin.take().expect("it is piped").write_all(lines.as_bytes()).expect("it reads");
    let output = process.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}\n{lines}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command; answers what it complained of when it failed.
pub(super) fn try_run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
