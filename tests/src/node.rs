//! A node in a process of its own, and the commands that a user would type at it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::{NamedTempFile, TempDir};

#[cfg(target_os = "linux")]
use crate::net::Space;

/// How many lines of a node's log are shown.
const LOG_LINES: usize = 40;

/// The binary under test, built beside the tests.
pub fn binary() -> PathBuf {
    let mut path = std::env::current_exe().expect("a test knows where it is");
    while path.pop() {
        let binary = path.join(format!("starlane{}", std::env::consts::EXE_SUFFIX));
        if binary.is_file() {
            return binary;
        }
    }
    panic!("the starlane binary is not built: run the tests with `make test`");
}

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Serve {
    /// Its name.
    pub name: String,
    /// Its labels, each as `tier=edge`.
    pub labels: Vec<String>,
    /// Where others may dial it; it is not dialled when there is none.
    pub listen: Option<SocketAddr>,
    /// The files of the certificate that its doors show, and of its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The origins of pages that may use its API.
    pub origins: Vec<String>,
    /// Whom it joins, and the token for it.
    pub join: Option<(SocketAddr, String)>,
    /// Where it keeps its registry; in its data folder when there is nothing said.
    pub registry: Option<String>,
    /// The network that it is in; this machine's own when there is none.
    #[cfg(target_os = "linux")]
    pub space: Option<Space>,
}

impl Serve {
    /// A node of a name with nothing else said.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: Vec::new(),
            listen: None,
            tls: None,
            origins: Vec::new(),
            join: None,
            registry: None,
            #[cfg(target_os = "linux")]
            space: None,
        }
    }
}

/// A node that is really started, with a data folder of its own that outlives its process.
#[derive(Debug)]
pub struct Node {
    serve: Serve,
    data: TempDir,
    /// What it logs, shown when a test fails.
    log: NamedTempFile,
    process: Option<Child>,
    web: String,
    api: String,
}

/// What a command printed and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The exit code.
    pub code: i32,
    /// The data.
    pub out: String,
    /// Progress, notes and errors.
    pub err: String,
}

impl Answer {
    /// The data, when the command did what was asked.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "the command failed\n{}\n{}", self.out, self.err);
        self.out
    }

    /// The message, when the command failed with a code.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "another end was expected\n{}\n{}", self.out, self.err);
        self.err
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What a node says that does not start: with these words in a data folder, its doors on free ports.
///
/// # Panics
/// When the binary cannot be run.
pub fn unstarted(data: &Path, more: &[&str]) -> Answer {
    let free = ["--http", "127.0.0.1:0", "--api", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let mut command = Command::new(binary());
    command.arg("serve").args(free).arg("--data").arg(data).args(more);
    command.env("NO_COLOR", "1").stdin(Stdio::null()).output().expect("the binary runs").into()
}

impl Node {
    /// Starts a node in an empty data folder on free ports and waits until it is ready.
    pub fn start() -> Self {
        Self::serve(Serve::named("node-1"))
    }

    /// Starts a node in an empty data folder, its doors on free ports, and waits until it is ready.
    pub fn serve(serve: Serve) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let log = NamedTempFile::new().expect("a temporary file");
        let (web, api) = ("127.0.0.1:0".into(), "127.0.0.1:0".into());
        let mut node = Self { serve, data, log, process: None, web, api };
        node.restart();
        node
    }

    /// Starts the process again in the same data folder, and on the same ports as before when it can. It joins anew when
    /// it was started by joining, as a service of the machine does that is always started with the same words.
    pub fn restart(&mut self) {
        let mut process = self.spawn();
        let mut ready = String::new();
        let stdout = process.stdout.take().expect("its output is piped");
        BufReader::new(stdout).read_line(&mut ready).expect("it says when it is ready");
        if ready.is_empty() {
            _ = process.wait();
            panic!("{} did not start:\n{}", self.serve.name, self.log());
        }
        let address = |label: &str| {
            let rest = ready.split_once(label).unwrap_or_else(|| panic!("no {label} in {ready:?}")).1;
            rest.split([',', ' ', '\n']).next().unwrap_or_default().to_owned()
        };
        let scheme = if self.serve.tls.is_some() { "https" } else { "http" };
        let door = |name: &str| address(&format!("{name} {scheme}://"));
        (self.web, self.api) = (door("web"), door("api"));
        if self.serve.listen.is_none() && self.serve.join.is_none() {
            self.serve.listen = address("links ").parse().ok();
        }
        self.process = Some(process);
    }

    /// The same, for a node that may never become ready: it is not waited for.
    pub fn restart_unready(&mut self) {
        let mut process = self.spawn();
        drop(process.stdout.take());
        self.process = Some(process);
    }

    fn spawn(&self) -> Child {
        assert!(self.process.is_none(), "the node still runs");
        let log = self.log.reopen().expect("its log is there");
        let mut command = Command::new(binary());
        command
            .args(["serve", "--name", &self.serve.name, "--http", &self.web, "--api", &self.api, "--data"])
            .arg(self.data.path())
            .args(self.serve.labels.iter().flat_map(|label| ["--label", label]))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        match (self.serve.listen, &self.serve.join) {
            (Some(listen), _) => drop(command.args(["--listen", &listen.to_string()])),
            // The first node of a mesh accepts links, and the usual port may be taken.
            (None, None) => drop(command.args(["--listen", "127.0.0.1:0"])),
            (None, Some(_)) => {}
        }
        if let Some((certificate, key)) = &self.serve.tls {
            command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
        }
        if let Some((to, token)) = &self.serve.join {
            command.args(["--join", &to.to_string(), token]);
        }
        command.args(self.serve.origins.iter().flat_map(|origin| ["--allow-origin", origin]));
        command.args(self.serve.registry.iter().flat_map(|place| ["--registry", place]));
        self.inside(|| command.spawn()).expect("the node starts")
    }

    /// From the next start on it keeps its registry there, or where it did before.
    pub fn keep_registry(&mut self, place: Option<&str>) {
        self.serve.registry = place.map(str::to_owned);
    }

    /// Kills the process at once, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it ends");
        }
    }

    /// Asks the process to stop and waits until it did.
    pub fn stop(&mut self) -> i32 {
        let Some(mut process) = self.process.take() else { return 0 };
        let pid = process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        process.wait().expect("it ends").code().unwrap_or(-1)
    }

    /// Stops the process where it is, as a machine does that is asleep.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, signal).expect("its own process can be told");
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.serve.name
    }

    /// How it is started.
    pub fn served(&self) -> &Serve {
        &self.serve
    }

    /// The last lines that it logged.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log.path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Whether its process runs.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Runs something in the node's network, where its doors are reached.
    pub fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        #[cfg(target_os = "linux")]
        if let Some(space) = &self.serve.space {
            return space.inside(work);
        }
        work()
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The address of the users' web.
    pub fn web(&self) -> SocketAddr {
        self.web.parse().expect("an address")
    }

    /// The address of the API.
    pub fn api(&self) -> SocketAddr {
        self.api.parse().expect("an address")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map(Child::id).expect("it runs")
    }

    /// A command of this node, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("STARLANE_DATA", self.data.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of this node, as a user would type it.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Answer {
        let mut command = self.command(arguments);
        self.inside(|| command.output()).expect("the command runs").into()
    }

    /// Runs one statement.
    pub fn exec(&self, statement: &str) -> Answer {
        self.run(["exec", statement])
    }

    /// Asks the users' web for something; answers the status line's number, the headers and the body.
    pub fn http(&self, method: &str, host: &str, path: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        self.inside(|| http(self.web(), method, host, path, "", body))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the log of {}:\n{}", self.serve.name, self.log());
        }
    }
}

/// One HTTP/1.1 request on a connection of its own; `headers` are whole lines, each with its line end.
pub fn http(
    to: SocketAddr,
    method: &str,
    host: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(to).expect("the node listens");
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("the node reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the node answers");
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    (status, head, answer.split_off(split + 4))
}
