//! What `starlane new` writes: a mechtron with a passing test, a bundle's layout and a bind, and the source of the SDK,
//! so that the project builds anywhere.
//!
//! Everything is compiled in; nothing is read or written here.

/// The examples of the page about the SDK are tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/sdk.md")]
struct Page;

/// And so are those of the page about WebSockets.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/web-sockets.md")]
struct Sockets;

/// A file of the new project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where, relative to the project; with `/`.
    pub path: String,
    /// What.
    pub text: String,
}

/// Why a name cannot be a project's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameError {
    /// It is empty or longer than 63 bytes.
    Length,
    /// It does not begin with a lowercase letter.
    Start,
    /// It has something else than a-z, 0-9 and `-` in it, or `-` at its end or twice in a row.
    Character,
    /// Cargo or Rust means something else by it.
    Reserved,
}

impl std::fmt::Display for NameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NameError::Length => "a project's name has 1 to 63 letters",
            NameError::Start => "a project's name begins with a letter, a to z",
            NameError::Character => "a project's name has a to z, 0 to 9 and single `-` in it: `my-counter`",
            NameError::Reserved => "this name means something else to Rust or Cargo; take another",
        })
    }
}

impl std::error::Error for NameError {}

/// All files of a new project, the first of which is its `Cargo.toml`.
///
/// # Errors
/// When the name cannot be one: it becomes a segment of points, a crate and a type.
pub fn project(name: &str) -> Result<Vec<File>, NameError> {
    check(name)?;
    let pascal: String = name.split('-').map(capitalized).collect();
    let fill = |text: &str| {
        text.replace("{{inherited}}", &inherited())
            .replace("{{name}}", name)
            .replace("{{Name}}", &pascal)
            .replace("{{lib}}", &name.replace('-', "_"))
    };
    let own = PROJECT.iter().map(|(path, text)| File { path: fill(path), text: fill(text) });
    let sdk = VENDOR.iter().map(|(path, text)| File {
        path: format!("vendor/{path}"),
        // What only this repository's tests need would have to be downloaded.
        text: match path.ends_with("Cargo.toml") {
            true => {
                text.split("\n[dev-dependencies]").next().unwrap_or_default().trim_end().to_owned() + "\n"
            }
            false => (*text).to_owned(),
        },
    });
    Ok(own.chain(sdk).collect())
}

fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > 63 {
        return Err(NameError::Length);
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(NameError::Start);
    }
    let allowed = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !allowed || name.ends_with('-') || name.contains("--") {
        return Err(NameError::Character);
    }
    if RESERVED.contains(&name) {
        return Err(NameError::Reserved);
    }
    Ok(())
}

/// Names that Cargo refuses, that other packages of the project have, or whose type would hide one of the prelude's.
const RESERVED: &[&str] = &[
    "as",
    "async",
    "await",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "cx",
    "do",
    "dyn",
    "else",
    "enum",
    "error",
    "extern",
    "false",
    "fn",
    "for",
    "frame",
    "gen",
    "greet",
    "greeting",
    "html",
    "if",
    "impl",
    "in",
    "instant",
    "json",
    "let",
    "loop",
    "match",
    "mechtron-abi",
    "mechtron-sdk",
    "mechtron-sdk-macros",
    "message",
    "mod",
    "move",
    "mut",
    "pub",
    "ref",
    "request",
    "response",
    "result",
    "return",
    "self",
    "serde",
    "serde-json",
    "socket",
    "socket-closed",
    "socket-message",
    "static",
    "string",
    "struct",
    "super",
    "test",
    "test-kit",
    "trait",
    "true",
    "try",
    "type",
    "unsafe",
    "use",
    "where",
    "while",
    "yield",
    "core",
    "alloc",
    "std",
    "build",
    "deps",
    "examples",
    "incremental",
    "duration",
    "durations",
    "failure",
    "postcard",
    "syn",
    "quote",
    "proc-macro2",
];

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// The parts of this repository's manifest that the SDK's manifests inherit.
fn inherited() -> String {
    let manifest = include_str!("../../../Cargo.toml");
    let wanted = ["mechtron-abi", "mechtron-sdk-macros", "postcard", "serde", "serde_json"];
    let dependencies = manifest.lines().filter(|line| {
        line.split_once(" = ")
            .is_some_and(|(name, value)| wanted.contains(&name) && value.contains(['"', '{']))
    });
    let dependencies: Vec<_> =
        dependencies.map(|line| line.replace("\"mechtron-sdk/", "\"vendor/mechtron-sdk/")).collect();
    let section = |name: &str| {
        let lines = manifest.lines().skip_while(|line| *line != name).skip(1);
        let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        format!("\n{name}\n{}\n", lines.join("\n"))
    };
    format!(
        "{}{}{}\n[workspace.dependencies]\n{}\n",
        section("[workspace.package]"),
        section("[workspace.lints.rust]"),
        section("[workspace.lints.clippy]"),
        dependencies.join("\n")
    )
}

macro_rules! project {
    ($($path:literal = $from:literal,)+) => {
        const PROJECT: &[(&str, &str)] = &[$(($path, include_str!(concat!("../project/", $from)))),+];
    };
}

project! {
    "Cargo.toml" = "Cargo.toml.in",
    "Cargo.lock" = "Cargo.lock.in",
    ".cargo/config.toml" = "cargo/config.toml.in",
    ".gitignore" = "gitignore.in",
    "Makefile" = "Makefile.in",
    "README.md" = "README.md.in",
    "src/lib.rs" = "src/lib.rs.in",
    "bundle/config/{{name}}.mechtron" = "bundle/config/mechtron.in",
    "bundle/bind/{{name}}.bind" = "bundle/bind/bind.in",
}

macro_rules! vendor {
    ($($path:literal,)+) => {
        const VENDOR: &[(&str, &str)] = &[$((concat!("mechtron-sdk/", $path), include_str!(concat!("../../", $path)))),+];
    };
}

vendor! {
    "Cargo.toml",
    "src/change.rs",
    "src/contract.rs",
    "src/cx.rs",
    "src/error.rs",
    "src/guest.rs",
    "src/http.rs",
    "src/lib.rs",
    "src/log.rs",
    "src/macros.rs",
    "src/mechtron.rs",
    "src/message.rs",
    "src/reference.rs",
    "src/resource.rs",
    "src/shared.rs",
    "src/socket.rs",
    "src/testkit.rs",
    "src/time.rs",
    "abi/Cargo.toml",
    "abi/src/frame.rs",
    "abi/src/head.rs",
    "abi/src/lib.rs",
    "macros/Cargo.toml",
    "macros/src/contract.rs",
    "macros/src/handlers.rs",
    "macros/src/lib.rs",
    "macros/src/mechtron.rs",
    "macros/src/message.rs",
    "macros/src/schema.rs",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_sdk_is_carried_along() {
        let sdk = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut sources = Vec::new();
        for folder in ["src", "abi/src", "macros/src"] {
            for entry in std::fs::read_dir(sdk.join(folder)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                sources.push(format!("mechtron-sdk/{folder}/{name}"));
            }
        }
        for source in sources {
            assert!(VENDOR.iter().any(|(path, _)| **path == source), "{source} is missing in `vendor!`");
        }
    }

    #[test]
    fn names_become_points_crates_and_types() {
        let files = project("my-2nd-cart").unwrap();
        assert_eq!(files[0].path, "Cargo.toml");
        assert!(files.iter().any(|file| file.path == "bundle/bind/my-2nd-cart.bind"));
        assert!(files.iter().any(|file| file.text.contains("pub struct My2ndCart {")));
        let left: Vec<_> = files
            .iter()
            .filter(|file| !file.path.starts_with("vendor/") && file.text.contains("{{"))
            .map(|file| &file.path)
            .collect();
        assert_eq!(left, [""; 0], "nothing is left to be filled in");
        for (name, error) in [
            ("", NameError::Length),
            ("2nd", NameError::Start),
            ("My", NameError::Start),
            ("a_b", NameError::Character),
            ("a--b", NameError::Character),
            ("a/../b", NameError::Character),
            ("async", NameError::Reserved),
        ] {
            assert_eq!(project(name), Err(error), "{name}");
        }
    }
}
