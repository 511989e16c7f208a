//! The shape of the code: which crate may use which, one outside technology a crate, and what never stands in it.
#![expect(clippy::unwrap_used, reason = "a test that cannot read the repository ends there")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::root;

/// What each crate may use of ours. Arrows point down only.
const ARROWS: [(&str, &[&str]); 11] = [
    ("starlane-core", &[]),
    ("mechtron-abi", &[]),
    ("mechtron-sdk-macros", &[]),
    ("mechtron-sdk", &["mechtron-abi", "mechtron-sdk-macros"]),
    ("resource-registry", &["starlane-core"]),
    ("mechtron-host", &["starlane-core", "mechtron-abi"]),
    ("gateway", &["starlane-core"]),
    ("mesh", &["starlane-core"]),
    ("starlane-client", &["starlane-core"]),
    ("mechtron-template", &[]),
    (
        "starlane",
        &["starlane-core", "resource-registry", "mechtron-host", "gateway", "mesh", "mechtron-template"],
    ),
];

/// Which crate alone may use a technology.
const TECHNOLOGIES: [(&str, &str); 12] = [
    ("wasmer", "mechtron-host"),
    ("wasmi", "mechtron-host"),
    ("redb", "resource-registry"),
    ("object_store", "resource-registry"),
    ("tonic", "resource-registry"),
    ("axum", "gateway"),
    ("utoipa", "gateway"),
    ("tokio-rustls", "gateway"),
    ("quinn", "mesh"),
    ("rustls", "mesh"),
    ("rcgen", "mesh"),
    ("clap", "starlane"),
];

/// All that the pure crate may use.
const CORE_USES: [&str; 9] =
    ["base64", "bytes", "postcard", "regex", "semver", "serde", "serde_json", "thiserror", "uuid"];

struct Package {
    name: String,
    uses: BTreeSet<String>,
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            uses: package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| text(&dependency["name"]))
                .collect(),
        })
        .collect()
}

#[test]
fn arrows_point_down_only() {
    let packages = packages();
    let ours: BTreeSet<_> = packages.iter().map(|package| package.name.as_str()).collect();
    for (name, allowed) in ARROWS {
        let package = packages.iter().find(|package| package.name == name).expect(name);
        for used in package.uses.iter().filter(|used| ours.contains(used.as_str())) {
            assert!(allowed.contains(&used.as_str()), "{name} must not use {used}");
        }
    }
}

#[test]
fn each_outside_technology_belongs_to_one_crate() {
    for package in packages() {
        for (technology, owner) in TECHNOLOGIES {
            // The clients share nothing with the node but the language.
            let alone = package.name == "starlane-client" && technology == "tokio-rustls";
            let excepted = alone || ["bench", "tests"].contains(&package.name.as_str());
            assert!(
                package.name == owner || excepted || !package.uses.contains(technology),
                "{} uses {technology}, which belongs to {owner}",
                package.name
            );
        }
    }
}

#[test]
fn the_core_stays_pure() {
    let packages = packages();
    let core = packages.iter().find(|package| package.name == "starlane-core").unwrap();
    let more: Vec<_> = core.uses.iter().filter(|used| !CORE_USES.contains(&used.as_str())).collect();
    assert!(more.is_empty(), "starlane-core must not use {more:?}");
    for file in rust_files(&root().join("starlane-core/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for impure in ["std::fs", "std::net", "SystemTime", "Instant::now", "std::thread", "std::env::"] {
            assert!(!text.contains(impure), "{} uses {impure}", file.display());
        }
        let wire = file.ends_with("src/frame.rs");
        assert!(wire || !text.contains("postcard::"), "{} knows the wire", file.display());
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn nothing_unfinished_unbounded_or_silenced_stands_in_the_code() {
    // Split, so that this file does not find itself.
    let never = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("FIX", "ME"),
        concat!("#[al", "low("),
        concat!("#![al", "low("),
        concat!("unbounded", "_channel"),
        concat!("mpsc::", "channel()"),
        concat!("channel::", "unbounded"),
    ];
    for file in rust_files(&root()) {
        let text = fs::read_to_string(&file).unwrap();
        for word in never {
            assert!(!text.contains(word), "{} holds {word}", file.display());
        }
    }
}

#[test]
fn no_test_sleeps() {
    for file in rust_files(&root()) {
        let text = fs::read_to_string(&file).unwrap();
        let tests = if file.components().any(|part| part.as_os_str() == "tests") {
            text.as_str()
        } else {
            text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests)
        };
        assert!(!tests.contains(concat!("::sl", "eep(")), "a test in {} sleeps", file.display());
    }
}
