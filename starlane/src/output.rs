//! The one place that turns results, notes and errors into text.
//!
//! Data goes to standard output, everything else to standard error. A reader that went away is no error. What comes
//! from the mesh never reaches a terminal with its control characters, except bodies, which are bytes.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use gateway::shapes::ProblemDetails;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use starlane_core::{Code, Problem};

pub mod human;
pub mod problem;
mod table;
mod yaml;

pub use table::Table;

/// The forms that a result can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns
    Table,
    /// More columns
    Wide,
    /// One name a line
    Name,
    /// One JSON document
    Json,
    /// One JSON document a line, as results come
    Jsonl,
    /// One YAML document
    Yaml,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// When standard error is a terminal and NO_COLOR is not set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// A result that can be shown in every form.
pub trait Render {
    /// As one JSON document: a contract with scripts.
    fn json(&self) -> Value;

    /// As JSON documents, one for each thing in it.
    fn json_lines(&self) -> Vec<Value> {
        vec![self.json()]
    }

    /// The names of the things in it, one a line.
    fn names(&self) -> Vec<String>;

    /// As a table.
    fn table(&self, wide: bool) -> Table;

    /// What is shown when no form was asked for.
    fn text(&self) -> Vec<String> {
        self.names()
    }
}

/// How a command ends when not well.
#[derive(Debug)]
pub enum Stop {
    /// Something is wrong.
    Problem(Box<Problem>),
    /// All was said already; this is the exit code.
    Exit(u8),
    /// The reader of standard output has enough.
    ClosedPipe,
    /// The user pressed Ctrl-C.
    Interrupted,
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Stop::Problem(Box::new(problem))
    }
}

/// Where a command writes to.
#[derive(Debug)]
pub struct Output {
    format: Option<Format>,
    quiet: bool,
    color: ColorChoice,
    progress: bool,
}

impl Output {
    /// Writes in this form to this process's streams.
    pub fn new(format: Option<Format>, quiet: bool, color: Color) -> Self {
        let terminal = io::stderr().is_terminal();
        let color = match color {
            Color::Always => ColorChoice::AlwaysAnsi,
            Color::Never => ColorChoice::Never,
            Color::Auto => AutoStream::choice(&io::stderr()),
        };
        Self { format, quiet, color, progress: terminal && !quiet }
    }

    /// The form that was asked for.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// Shows a result.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn show(&self, result: &impl Render) -> Result<(), Stop> {
        match self.format {
            None => self.lines(result.text()),
            Some(Format::Name) => self.lines(result.names()),
            Some(Format::Table) => self.lines(result.table(false).lines()),
            Some(Format::Wide) => self.lines(result.table(true).lines()),
            Some(Format::Json) => self.json(&result.json()),
            Some(Format::Jsonl) => self.lines(result.json_lines().iter().map(Value::to_string)),
            Some(Format::Yaml) => self.bytes(yaml::document(&result.json()).as_bytes()),
        }
    }

    /// Writes one JSON document.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn json(&self, value: &Value) -> Result<(), Stop> {
        self.bytes(format!("{value:#}\n").as_bytes())
    }

    /// Writes lines of data.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn lines(&self, lines: impl IntoIterator<Item = impl AsRef<str>>) -> Result<(), Stop> {
        let mut text = String::new();
        for line in lines {
            text.push_str(line.as_ref());
            text.push('\n');
        }
        self.bytes(text.as_bytes())
    }

    /// Writes bytes of data as they are.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Stop> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                return Stop::ClosedPipe;
            }
            Problem::new(Code::Usage, format!("standard output cannot be written: {error}")).into()
        })
    }

    /// Says something on standard error that is not data.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.stderr(&format!("{}\n", text.as_ref()));
        }
    }

    /// Shows a problem on standard error; as one line of JSON when results are JSON too.
    pub fn problem(&self, problem: &Problem) {
        let machine = matches!(self.format, Some(Format::Json | Format::Jsonl));
        if machine {
            let details = ProblemDetails::from(problem.clone());
            self.stderr(&format!("{}\n", serde_json::json!(details)));
        } else {
            self.stderr(&problem::render(problem));
        }
    }

    /// A bar for a transfer of so many bytes, or a spinner when nobody knows; invisible unless standard error is a
    /// terminal.
    pub fn transfer(&self, what: &str, bytes: Option<u64>) -> ProgressBar {
        let bar = if !self.progress {
            return ProgressBar::hidden();
        } else if let Some(bytes) = bytes {
            ProgressBar::new(bytes).with_style(style("{msg} {bar:30} {bytes}/{total_bytes} {eta}"))
        } else {
            ProgressBar::new_spinner().with_style(style("{msg} {spinner} {bytes}"))
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.with_message(what.to_owned())
    }

    fn stderr(&self, text: &str) {
        let mut err = AutoStream::new(io::stderr(), self.color);
        // Nobody is left to tell when standard error cannot be written.
        _ = err.write_all(text.as_bytes());
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The text without anything that a terminal would obey: control characters are shown as their pictures, tabs as four
/// blanks, and characters that reorder text (Unicode UAX 9) as `�`.
pub fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => safe.push_str("    "),
            '\u{0}'..='\u{1f}' => safe.extend(char::from_u32(0x2400 + c as u32)),
            '\u{7f}' => safe.push('␡'),
            '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                safe.push('\u{fffd}');
            }
            c => safe.push(c),
        }
    }
    safe
}
