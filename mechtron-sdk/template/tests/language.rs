//! The configs and binds of new projects and of the examples are in the language that nodes read.

#![expect(clippy::unwrap_used, reason = "a helper of a test that panics is a test that fails")]

use std::fs;
use std::path::{Path, PathBuf};

use starlane_core::{Bind, Config, Point};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn check(path: &str, text: &str) {
    let bundle: Point = "shop:repo:it:1.0.0".parse().unwrap();
    let here: Point = "shop:it".parse().unwrap();
    match path.rsplit('.').next() {
        Some("bind") => {
            Bind::parse(text, path).unwrap_or_else(|problem| panic!("{path}: {problem:?}"));
        }
        Some("mechtron" | "app") => {
            let config = Config::parse(text, path).unwrap_or_else(|problem| panic!("{path}: {problem:?}"));
            config.resolve(&bundle, &here).unwrap_or_else(|problem| panic!("{path}: {problem:?}"));
        }
        _ => {}
    }
}

#[test]
fn of_new_projects() {
    for file in mechtron_template::project("my-cart").unwrap() {
        check(&file.path, &file.text);
    }
}

#[test]
fn of_the_examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut checked = 0;
    for path in files(&examples) {
        let name = path.to_string_lossy().into_owned();
        if name.contains("/bundle/") && (name.contains("/bind/") || name.contains("/config/")) {
            check(&name, &fs::read_to_string(&path).unwrap());
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} files");
}
