//! The binary under test in a home of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use starlane::data::{DataFolder, Running};
use tempfile::TempDir;

/// A home folder that nobody else uses, also the working folder of the commands.
pub(crate) struct Home(TempDir);

/// What a command printed and how it ended.
pub(crate) struct Answer(Output);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Leaves the files of a node that serves its API at an address.
    pub(crate) fn pretend_node(&self, api: SocketAddr) {
        let folder = DataFolder::at(self.path().join("data"));
        folder.create().unwrap();
        folder.ensure_token().unwrap();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let running = Running {
            name: "pretend".into(),
            version,
            pid: 0,
            api,
            http: api,
            links: None,
            certificate: None,
        };
        folder.set_running(&running).unwrap();
    }

    /// A command that is not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_starlane"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("NO_COLOR", "1")
            .env("STARLANE_DATA", self.path().join("data"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        Answer(self.command(arguments).output().unwrap())
    }

    /// Runs a command that is not told a data folder.
    pub(crate) fn run_without_data(&self, arguments: &[&str]) -> Answer {
        Answer(self.command(arguments).env_remove("STARLANE_DATA").output().unwrap())
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self(output)
    }
}

impl Answer {
    /// What it printed, when all was well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        self.ends(0).0
    }

    /// What it complained about, when it ended with this code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        self.ends(code).1
    }

    /// What it printed on both streams, when it ended with this code.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> (String, String) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (out, err) = (text(&self.0.stdout), text(&self.0.stderr));
        assert_eq!(self.0.status.code(), Some(code), "\n{out}\n{err}");
        (out, err)
    }
}
