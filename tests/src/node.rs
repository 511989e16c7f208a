//! A node in a process of its own, and the commands that a user would type at it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

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

/// A node that is really started, with a data folder of its own that outlives its process.
#[derive(Debug)]
pub struct Node {
    data: TempDir,
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

impl Node {
    /// Starts a node in an empty data folder on free ports and waits until it is ready.
    pub fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut node = Self { data, process: None, web: "127.0.0.1:0".into(), api: "127.0.0.1:0".into() };
        node.restart();
        node
    }

    /// Starts the process again in the same data folder, and on the same ports as before when it can.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the node still runs");
        let mut process = Command::new(binary())
            .args(["serve", "--name", "node-1", "--http", &self.web, "--api", &self.api, "--data"])
            .arg(self.data.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the node starts");
        let mut ready = String::new();
        let stdout = process.stdout.take().expect("its output is piped");
        BufReader::new(stdout).read_line(&mut ready).expect("it says when it is ready");
        let address = |label: &str| {
            let rest = ready.split_once(label).unwrap_or_else(|| panic!("no {label} in {ready:?}")).1;
            rest.split([',', ' ', '\n']).next().unwrap_or_default().to_owned()
        };
        (self.web, self.api) = (address("web http://"), address("api http://"));
        self.process = Some(process);
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
        self.command(arguments).output().expect("the command runs").into()
    }

    /// Runs one statement.
    pub fn exec(&self, statement: &str) -> Answer {
        self.run(["exec", statement])
    }

    /// Asks the users' web for something; answers the status line's number, the headers and the body.
    pub fn http(&self, method: &str, host: &str, path: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        http(self.web(), method, host, path, "", body)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
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
