//! The stage: nodes in processes of their own, the commands that a user would type at it, and checks of every answer.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use gateway::Trust;

use super::cast::Cast;

/// How long anything may take before the story ends badly.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of a watch that nobody has read yet; more make the watch wait.
const WATCH_LINES_MAX: usize = 10_000;
/// How often something that is waited for is asked again.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// The node that is there from the beginning: it makes the mesh.
pub(super) const FIRST: &str = "cloud";

/// Why a story does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{what}\n  expected: {expected}\n  answered: {answered}")]
    Answer { what: String, expected: String, answered: String },
    #[error("`{command}` ended with {code} instead of {expected}\n{output}")]
    Code { command: String, code: i32, expected: i32, output: String },
    #[error("{what}: {error}")]
    Io { what: &'static str, error: std::io::Error },
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("{0}")]
    Tls(#[from] gateway::TlsError),
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Broken {
    move |error| Broken::Io { what, error }
}

/// A node and what was said and seen so far.
pub(super) struct Story {
    binary: PathBuf,
    data: PathBuf,
    web: String,
    api: String,
    /// Where others join.
    links: String,
    cast: Arc<Cast>,
    watch: Option<Receiver<String>>,
    runtime: tokio::runtime::Handle,
    http: reqwest::Client,
    chapters: usize,
    pub(super) checks: usize,
}

impl Story {
    pub(super) fn new(
        data: &Path,
        web: SocketAddr,
        api: SocketAddr,
        runtime: tokio::runtime::Handle,
        cast: Arc<Cast>,
    ) -> Result<Self, Broken> {
        Ok(Self {
            binary: std::env::current_exe().map_err(io("this program cannot find itself"))?,
            data: data.to_owned(),
            web: web.to_string(),
            api: api.to_string(),
            links: "127.0.0.1:0".to_owned(),
            cast,
            watch: None,
            runtime,
            http: reqwest::Client::builder()
                .tls_backend_preconfigured(gateway::tls_client(&Trust::Nobody)?)
                .redirect(reqwest::redirect::Policy::none())
                .timeout(PATIENCE)
                .build()?,
            chapters: 0,
            checks: 0,
        })
    }

    /// Begins a chapter.
    pub(super) fn chapter(&mut self, title: &str) {
        self.chapters += 1;
        self.print(&format!("\n{}", Self::paint("1", &format!("{}. {title}", self.chapters))));
    }

    /// Says something to the reader.
    pub(super) fn say(&self, text: &str) {
        self.print(&format!("   {text}"));
    }

    /// Where the users' web is: `http://localhost:PORT`.
    pub(super) fn web_url(&self) -> String {
        format!("http://localhost:{}", self.web.rsplit(':').next().unwrap_or_default())
    }

    pub(super) fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Starts the first node and waits until it is ready; the second time in the same folder and on the same ports.
    pub(super) fn serve(&mut self) -> Result<Duration, Broken> {
        self.show_command(&["serve"]);
        let (web, api, links) = (self.web.clone(), self.api.clone(), self.links.clone());
        let arguments = ["--http", &web, "--api", &api, "--listen", &links];
        let (ready, took) = self.start(FIRST, &arguments)?;
        let address = |label: &str| {
            let rest = ready.split_once(label)?.1;
            rest.split([',', ' ', '\n']).next().map(str::to_owned)
        };
        let (Some(web), Some(api), Some(links)) =
            (address("web http://"), address("api http://"), address("links "))
        else {
            return Err(self.wrong("the node is ready", "its addresses", &ready));
        };
        (self.web, self.api, self.links) = (web, api, links);
        Ok(took)
    }

    /// Lets a node join with a token and a label, and waits until it is ready.
    pub(super) fn join(&mut self, name: &str, label: &str) -> Result<(), Broken> {
        let token = self.run(&["token", "--label", label])?;
        let links = self.links.clone();
        self.show_command(&["serve", "--join", &links, "TOKEN", "--name", name]);
        let arguments = ["--http", "127.0.0.1:0", "--api", "127.0.0.1:0", "--join", &links, token.trim()];
        self.start(name, &arguments).map(drop)
    }

    fn start(&mut self, name: &str, arguments: &[&str]) -> Result<(String, Duration), Broken> {
        let begun = Instant::now();
        let mut node = Command::new(&self.binary)
            .args(["serve", "--name", name, "--log-level", "error"])
            .args(arguments)
            .env("STARLANE_DATA", self.folder(name))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io("the node cannot be started"))?;
        let stdout = node.stdout.take();
        self.cast.enter(name, node);
        let mut ready = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut ready).map_err(io("the node says nothing"))?;
        }
        let took = begun.elapsed();
        if !ready.contains("is ready") {
            return Err(self.wrong("the node starts", "that it is ready", &ready));
        }
        self.show(&ready);
        Ok((ready, took))
    }

    /// The data folder of a node.
    fn folder(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    /// Ends a node's process as a crash would.
    pub(super) fn kill(&mut self, name: &str) -> Result<(), Broken> {
        let Some(mut node) = self.cast.leave(name) else { return Ok(()) };
        self.print(&format!("   {} kill -9 {}", Self::paint("2", "$"), node.id()));
        node.kill().and_then(|()| node.wait()).map(drop).map_err(io("the node cannot be killed"))
    }

    /// Types a command; it must do what was asked. Answers its output.
    pub(super) fn run(&mut self, arguments: &[&str]) -> Result<String, Broken> {
        self.ends(FIRST, arguments, 0).map(|(out, _)| out)
    }

    /// Types a command at another node; it must do what was asked. Answers its output.
    pub(super) fn run_on(&mut self, node: &str, arguments: &[&str]) -> Result<String, Broken> {
        self.ends(node, arguments, 0).map(|(out, _)| out)
    }

    /// Types a command again and again until its output is as it should be. Answers the output, and shows the last.
    pub(super) fn until(
        &mut self,
        what: &str,
        arguments: &[&str],
        is_right: impl Fn(&str) -> bool,
    ) -> Result<String, Broken> {
        self.show_command(arguments);
        let begun = Instant::now();
        loop {
            let output =
                self.command(FIRST, arguments).output().map_err(io("a command cannot be started"))?;
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            let is_late = begun.elapsed() > PATIENCE;
            if is_right(&out) || is_late {
                self.show(&out);
                if is_late {
                    let err = String::from_utf8_lossy(&output.stderr);
                    return Err(self.wrong(what, "something else", &format!("{out}{err}")));
                }
                self.check(&format!("{what}, after {} ms", begun.elapsed().as_millis()), "", "")?;
                return Ok(out);
            }
            std::thread::park_timeout(ASK_EVERY);
        }
    }

    /// Types a command that must fail with a code. Answers what it printed.
    pub(super) fn fails(&mut self, arguments: &[&str], code: i32) -> Result<String, Broken> {
        self.ends(FIRST, arguments, code).map(|(out, err)| out + &err)
    }

    fn ends(&mut self, node: &str, arguments: &[&str], expected: i32) -> Result<(String, String), Broken> {
        match node {
            FIRST => self.show_command(arguments),
            _ => self.show_command(&[&["--data", node], arguments].concat()),
        }
        let output = self.command(node, arguments).output().map_err(io("a command cannot be started"))?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        self.show(&out);
        self.show(&err);
        let code = output.status.code().unwrap_or(-1);
        if code == expected {
            return Ok((out.into_owned(), err.into_owned()));
        }
        let command = format!("starlane {}", typed(arguments));
        Err(Broken::Code { command, code, expected, output: format!("{out}{err}") })
    }

    fn command(&self, node: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("STARLANE_DATA", self.folder(node))
            .env_remove("STARLANE_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    /// Asks the users' web, as a browser would. Answers status, content type and body.
    pub(super) fn get(&mut self, path: &str) -> Result<(u16, String, String), Broken> {
        let url = format!("{}{path}", self.web_url());
        self.print(&format!("   {} curl {}", Self::paint("2", "$"), quoted(&url)));
        let answer = self.runtime.block_on(async {
            let response = self.http.get(&url).send().await?;
            let status = response.status().as_u16();
            let kind = response
                .headers()
                .get("content-type")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            let kind = kind.to_owned();
            Ok::<_, reqwest::Error>((status, kind, response.text().await?))
        })?;
        self.show(&answer.2);
        Ok(answer)
    }

    /// Starts a watch in the background; what it prints is shown as it comes.
    pub(super) fn watch(&mut self, selector: &str) -> Result<(), Broken> {
        let arguments = ["watch", selector];
        self.print(&format!("   {} starlane {} &", Self::paint("2", "$"), typed(&arguments)));
        let mut child = self
            .command(FIRST, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(io("the watch cannot be started"))?;
        let (lines, seen) = sync_channel(WATCH_LINES_MAX);
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if lines.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        self.cast.set_watch(child);
        self.watch = Some(seen);
        Ok(())
    }

    /// Waits until the watch tells something that holds all of `parts`; shows what it tells until then.
    pub(super) fn sees(&mut self, parts: &[&str]) -> Result<(), Broken> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(seen) = &self.watch else {
                return Err(self.wrong("the watch", "one is open", "none is"));
            };
            match seen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.print(&format!("   {} {line}", Self::paint("36", "watch │")));
                    if parts.iter().all(|part| line.contains(part)) {
                        self.checks += 1;
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(self.wrong("the watch tells", &parts.join(" … "), "nothing more"));
                }
            }
        }
    }

    /// Checks something and says so.
    pub(super) fn check(&mut self, what: &str, expected: &str, answered: &str) -> Result<(), Broken> {
        if !answered.contains(expected) {
            return Err(self.wrong(what, expected, answered));
        }
        self.checks += 1;
        self.print(&format!("   {} {what}", Self::paint("32", "✓")));
        Ok(())
    }

    fn wrong(&self, what: &str, expected: &str, answered: &str) -> Broken {
        Broken::Answer {
            what: what.to_owned(),
            expected: expected.to_owned(),
            answered: answered.trim_end().to_owned(),
        }
    }

    /// Stops the watch and, unless they are to be kept, the nodes.
    pub(super) fn end(&mut self, keep: bool) {
        if keep {
            self.watch = None;
            return self.cast.end_watch();
        }
        self.cast.end();
    }

    fn show_command(&self, arguments: &[&str]) {
        self.print(&format!("   {} starlane {}", Self::paint("2", "$"), typed(arguments)));
    }

    fn show(&self, text: &str) {
        for line in text.lines() {
            self.print(&format!("     {line}"));
        }
    }

    fn print(&self, text: &str) {
        // Who closed the pipe has seen enough; the checks go on.
        _ = writeln!(anstream::stdout(), "{text}");
    }

    fn paint(code: &str, text: &str) -> String {
        // The stream takes colours out again where they are not wanted.
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Arguments as a user would type them in a shell.
fn typed(arguments: &[&str]) -> String {
    arguments.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(" ")
}

fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_shown_as_they_are_typed() {
        assert_eq!(typed(&["create", "localhost<Space>"]), "create 'localhost<Space>'");
        assert_eq!(typed(&["get", "it's"]), r"get 'it'\''s'");
    }
}
