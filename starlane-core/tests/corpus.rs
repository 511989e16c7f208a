//! Replays the corpus of every fuzz target.

#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

mod checks;

use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 4, "the corpus of {target} has only {} inputs", inputs.len());
    for input in inputs {
        println!("{}", input.display());
        check(&std::fs::read(input).unwrap());
    }
}

#[test]
fn points() {
    replay("point", checks::point);
}

#[test]
fn selectors() {
    replay("selector", checks::selector);
}

#[test]
fn scripts() {
    replay("script", checks::script);
}

#[test]
fn configs() {
    replay("config", checks::config);
}

#[test]
fn binds() {
    replay("bind", checks::bind);
}

#[test]
fn frames() {
    replay("frames", checks::frames);
}

#[test]
fn wire() {
    replay("wire", checks::wire);
}
