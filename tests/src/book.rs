//! Runs a page of the book: writes the files it shows, types the commands it shows, and compares what they print.
//!
//! A block with `title=PATH` is a file. A `console` block is typed line by line in the shell: `$ ` begins a command, the
//! lines after it are what it prints, where `...` stands for any lines and `[..]` for any text in a line; `? N` is the
//! exit code when it is not 0. `starlane serve` starts a node that lives until the page ends, or several that join it; the
//! ports that the page names stand for the first node's real ones. What ends with ` &` goes on until the page ends, and prints
//! what follows before the next command. A request for what is called `Get…` is typed again until it is answered as the page says:
//! it asks for what comes by itself.

use std::fs;
use std::io::{BufReader, Lines};
use std::path::Path;
use std::process::{ChildStdout, Command};
use std::time::{Duration, Instant};

use crate::{Node, Running, Serve, root, shell};

/// How long what comes by itself may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A step of a page.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    File { path: String, content: String },
    Command { line: usize, text: String, output: Vec<String>, code: i32 },
}

/// Runs pages one after the other, in a folder that is empty at first and with one node.
///
/// # Panics
/// When something is not as the pages say.
pub fn run(pages: &[&Path]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The bundles of the examples are where the pages say, as in the repository.
    #[cfg(unix)]
    std::os::unix::fs::symlink(root().join("target"), folder.path().join("target"))
        .expect("a link can be made");
    run_in(folder.path(), pages);
}

/// Runs a page that makes no files in the repository itself, with a node of its own.
///
/// # Panics
/// When something is not as the page says.
pub fn run_at_root(page: &Path) {
    run_in(&root(), &[page]);
}

fn run_in(folder: &Path, pages: &[&Path]) {
    let mut node = None;
    let mut others = Others::default();
    let mut here = folder.to_owned();
    for page in pages {
        let text = fs::read_to_string(page).expect("the page is there");
        let mut count = 0;
        for step in steps(&text) {
            match step {
                Step::File { path, content } => {
                    let path = here.join(path);
                    fs::create_dir_all(path.parent().expect("a file is in a folder"))
                        .expect("the folder can be made");
                    fs::write(path, content).expect("the file can be written");
                }
                Step::Command { text, .. } if text.starts_with("starlane serve") => match &node {
                    None => node = Some(Node::serve(Serve::named(name(&text)))),
                    Some(first) => {
                        // The shell leaves its process to the node, which is ended in its place.
                        others.nodes.push(Running::node(typed(&format!("exec {text}"), first, &here)));
                    }
                },
                Step::Command { text, .. } if text.starts_with("cd ") => here = here.join(&text[3..]),
                Step::Command { line, text, output, .. } if text.ends_with(" &") => {
                    let node = node.as_ref().expect("the first page starts a node");
                    let place = format!("{}:{line}: $ {text}", page.display());
                    others.programs.push(Program::start(
                        &place,
                        text.trim_end_matches(" &"),
                        &output,
                        node,
                        &here,
                    ));
                }
                Step::Command { line, text, output, code } => {
                    let node = node.as_ref().expect("the first page starts a node");
                    type_in(page, line, &text, &output, code, node, &here);
                    count += 1;
                }
            }
        }
        assert!(count > 0, "{} shows no command", page.display());
    }
}

/// What ends with the pages.
#[derive(Default)]
struct Others {
    /// Nodes that joined the first.
    nodes: Vec<Running>,
    programs: Vec<Program>,
}

/// A program that goes on.
struct Program {
    _running: Running,
    /// Open for as long as it may print.
    _printed: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts a program, and waits until it printed what a page says.
    fn start(place: &str, text: &str, output: &[String], node: &Node, here: &Path) -> Self {
        let (running, mut printed) = Running::start(typed(&format!("exec {text} 2>&1"), node, here));
        for expected in output {
            let line = printed.next().and_then(Result::ok).unwrap_or_default();
            assert!(
                line_matches(expected, &line),
                "{place}\nthe page says:\n{expected}\nit printed:\n{line}"
            );
        }
        Self { _running: running, _printed: printed }
    }
}

/// How a page calls a node.
fn name(text: &str) -> &str {
    text.split_once("--name ").map_or("node-1", |(_, rest)| rest.split(' ').next().unwrap_or(rest))
}

/// A command with the real ports in place of those of the page.
fn real(text: &str, node: &Node) -> String {
    let links = node.served().listen.expect("the first node accepts links");
    text.replace("localhost:8080", &format!("localhost:{}", node.web().port()))
        .replace("localhost:4343", &format!("localhost:{}", node.api().port()))
        .replace("127.0.0.1:4343", &links.to_string())
        // What the tests are built with has it.
        .replace("cargo run --release -p orders --", "orders")
}

/// What a page types, as it is on this machine.
fn typed(text: &str, node: &Node, here: &Path) -> Command {
    let mut command = shell(&real(text, node), node.data(), here);
    command.env("CARGO_TARGET_DIR", node.data().join("elsewhere"));
    command
}

fn type_in(page: &Path, line: usize, text: &str, expected: &[String], code: i32, node: &Node, here: &Path) {
    let mut output = typed(text, node, here).output().expect("a shell runs");
    let (asks, begun) = (text.contains("^Ext<Get"), Instant::now());
    while asks && begun.elapsed() < PATIENCE && !matches(expected, &lines(&output.stdout)) {
        output = typed(text, node, here).output().expect("a shell runs");
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let place = format!("{}:{line}: $ {text}", page.display());
    assert_eq!(output.status.code(), Some(code), "{place}\n{out}{err}");
    let printed = if code == 0 { out.into_owned() } else { format!("{out}{err}") };
    let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
    assert!(
        matches(expected, &printed),
        "{place}\nthe page says:\n{}\nit printed:\n{}",
        expected.join("\n"),
        printed.join("\n")
    );
}

fn lines(out: &[u8]) -> Vec<&str> {
    std::str::from_utf8(out).unwrap_or_default().lines().map(str::trim_end).collect()
}

/// Whether lines are what a page says they are.
fn matches(expected: &[String], printed: &[&str]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any == "..." => {
            (0..=printed.len()).any(|skip| matches(rest, &printed[skip..]))
        }
        (Some((line, rest)), Some((first, others))) => line_matches(line, first) && matches(rest, others),
        _ => false,
    }
}

fn line_matches(expected: &str, printed: &str) -> bool {
    let mut parts = expected.trim_end().split("[..]");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut open = false;
    for part in parts {
        open = true;
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || (open && expected.trim_end().ends_with("[..]"))
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) else { continue };
        let block: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        if let Some(path) = info.split(' ').find_map(|word| word.strip_prefix("title=")) {
            steps.push(Step::File { path: path.to_owned(), content: block.join("\n") + "\n" });
        } else if info == "console" {
            console(at + 2, &block, &mut steps);
        }
    }
    steps
}

fn console(first: usize, block: &[&str], steps: &mut Vec<Step>) {
    for (at, line) in block.iter().enumerate() {
        if let Some(text) = line.strip_prefix("$ ") {
            steps.push(Step::Command {
                line: first + at,
                text: text.to_owned(),
                output: Vec::new(),
                code: 0,
            });
        } else if let Some(Step::Command { text, output, code, .. }) = steps.last_mut() {
            match line.strip_prefix("? ").and_then(|number| number.parse().ok()) {
                Some(number) => *code = number,
                None if text.ends_with('\\') => {
                    text.push('\n');
                    text.push_str(line.strip_prefix("> ").unwrap_or(line));
                }
                None => output.push(line.trim_end().to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_files_and_commands() {
        let page = "text\n```html title=a/b.html\n<p>\n```\n```console\n$ one\nout\n$ two \\\n> more\n? 3\n```\n```text\nno\n```\n";
        let command = |line, text: &str, output: &[&str], code| Step::Command {
            line,
            text: text.to_owned(),
            output: output.iter().map(|line| (*line).to_owned()).collect(),
            code,
        };
        assert_eq!(
            steps(page),
            [
                Step::File { path: "a/b.html".into(), content: "<p>\n".into() },
                command(6, "one", &["out"], 0),
                command(8, "two \\\nmore", &[], 3),
            ]
        );
    }

    #[test]
    fn output_is_compared_with_wildcards() {
        let says = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(matches(&says("a\n...\nz"), &["a", "b", "c", "z"]));
        assert!(matches(&says("a [..] c"), &["a b c"]));
        assert!(matches(&says("id [..]"), &["id 5"]));
        assert!(!matches(&says("a"), &["a", "b"]));
        assert!(!matches(&says("a\n..."), &["b"]));
        assert!(!matches(&says("a [..] c"), &["a b cd"]));
    }
}
