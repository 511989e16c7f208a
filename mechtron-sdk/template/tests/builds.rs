//! A new project builds and passes its test, as a user would do it. Slow (a minute): run by
//! `cargo test -p mechtron-template -- --ignored`.

#![expect(clippy::unwrap_used, reason = "a helper of a test that panics is a test that fails")]

use std::fs;
use std::path::Path;
use std::process::Command;

fn cargo(folder: &Path, arguments: &[&str]) {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--offline")
        .current_dir(folder)
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "slow: compiles the SDK twice"]
fn a_new_project_builds_and_passes_its_test() {
    let folder = tempfile::tempdir().unwrap();
    for file in mechtron_template::project("my-greeter").unwrap() {
        let path = folder.path().join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file.text).unwrap();
    }
    let before = fs::read_to_string(folder.path().join("Cargo.lock")).unwrap();
    cargo(folder.path(), &["test"]);
    cargo(folder.path(), &["build", "--profile", "wasm", "--target", "wasm32-unknown-unknown"]);
    let module = folder.path().join("target/wasm32-unknown-unknown/wasm/my_greeter.wasm");
    assert_eq!(fs::read(module).unwrap()[..4], *b"\0asm");
    // The lock file that comes along is whole: Cargo had nothing to add.
    let packages = |lock: &str| lock.lines().filter(|line| line.starts_with("checksum")).count();
    let after = fs::read_to_string(folder.path().join("Cargo.lock")).unwrap();
    assert_eq!(packages(&after), packages(&before));
}
