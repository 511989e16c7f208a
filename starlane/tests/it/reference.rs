//! The reference of the command line in the docs is what the binary says of itself.

use std::fmt::Write as _;
use std::path::PathBuf;

/// Below this line the page is made by this test.
const MARK: &str = "<!-- Below: made from the command line's own help by `UPDATE_DOCS=1 cargo test -p starlane --test it reference` -->\n";

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")
}

fn generated() -> String {
    let mut root = starlane::cli::command().term_width(100);
    root.build();
    let mut text = String::new();
    write_command(&root, &mut text);
    text
}

fn write_command(command: &clap::Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or("starlane");
    let level = if name.contains(' ') { "###" } else { "##" };
    // The global options are shown once, with the command line itself.
    let mut own = command.clone().term_width(100);
    if name.contains(' ') {
        own = own.mut_args(|argument| {
            let global = argument.is_global_set();
            argument.hide(global)
        });
    }
    let help = own.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(text, "\n{level} `{name}`\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        write_command(sub, text);
    }
}

#[test]
fn the_reference_is_current() {
    let page_text = std::fs::read_to_string(page()).unwrap();
    let (prose, _) = page_text.split_once(MARK).expect("the page has its mark");
    let current = format!("{prose}{MARK}{}", generated());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page(), &current).unwrap();
        return;
    }
    assert!(
        page_text == current,
        "docs/cli.md is not current: UPDATE_DOCS=1 cargo test -p starlane --test it reference"
    );
}

#[test]
fn every_command_has_help_and_examples() {
    let mut root = starlane::cli::command();
    root.build();
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name} says what it does");
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(after.contains("Examples:") && after.contains("starlane "), "{name} has examples");
    }
}
