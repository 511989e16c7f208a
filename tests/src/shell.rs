//! Commands as people type them, in a shell that knows `starlane`.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::binary;

/// What a shell is to do in a folder, with the node of a data folder.
pub fn shell(text: &str, data: &Path, here: &Path) -> Command {
    let programs = binary().parent().expect("a binary is in a folder").to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-c", text]).current_dir(here).stdin(Stdio::null());
    command.env("PATH", path).env("STARLANE_DATA", data).env("NO_COLOR", "1");
    command
}

/// A program that goes on until this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts it, and answers what it prints too: line by line, for as long as that is kept.
    pub fn start(mut command: Command) -> (Self, Lines<BufReader<ChildStdout>>) {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("a shell runs");
        let printed = process.stdout.take().expect("its output is piped");
        (Self(process), BufReader::new(printed).lines())
    }

    /// Starts a node, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    pub fn node(command: Command) -> Self {
        let typed = format!("{command:?}");
        let (node, mut printed) = Self::start(command);
        let ready = printed.next().and_then(Result::ok).unwrap_or_default();
        assert!(ready.contains("is ready"), "{typed} did not start: {ready}");
        node
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
