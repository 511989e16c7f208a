//! The demo, when its reader has seen enough.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use tests::{binary, root};

#[test]
fn a_demo_that_is_ended_leaves_nothing_behind() {
    for (until, keep) in [("entered", false), ("The nodes stay up", true)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut demo = Command::new(binary())
            .args(["demo", "--bundles"])
            .arg(root().join("target/bundles"))
            .args(keep.then_some("--keep"))
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the demo starts");
        let mut lines = BufReader::new(demo.stdout.take().expect("it is piped")).lines();
        let seen = lines.by_ref().map_while(Result::ok).any(|line| line.contains(until));
        assert!(seen, "{until} is never said");
        let pid = demo.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill is there").success());
        // Until all who hold the other end are gone, the node included.
        lines.for_each(drop);
        assert_eq!(demo.wait().expect("it ends").code(), Some(130), "{until}");
        let left: Vec<_> = fs::read_dir(folder.path()).expect("it can be listed").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
