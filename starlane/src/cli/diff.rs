//! `starlane diff`.

use clap::Args;
use gateway::shapes::{Difference, DifferenceKind};
use serde_json::{Value, json};
use starlane_core::{Revision, When};

use super::results::{difference, resource_line};
use super::{Session, statement};
use crate::output::{Format, Render, Stop, Table, safe};

/// Shows what is different between two moments of the history: what was added (+), removed (-) and changed (~), and what
/// changed in it. What became again what it was is no difference.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane diff --from 1042 'shop:**'
  starlane diff --from 2026-03-01T12:00:00Z --to 2026-03-01T13:00:00Z 'shop:**<Mechtron>'
  starlane diff --from 1042 --to 1050 'shop:**' -o jsonl

How long the history is kept is up to the node; before it the answer is E-HISTORY-GONE, with the oldest revision.")]
pub(super) struct DiffArgs {
    /// The selector
    #[arg(required = true, value_name = "SELECTOR")]
    words: Vec<String>,
    /// The earlier moment: a revision, or a time as in 2026-03-01T12:04:11Z
    #[arg(long, value_name = "REV|TIME")]
    from: When,
    /// The later moment [default: now]
    #[arg(long, value_name = "REV|TIME")]
    to: Option<When>,
}

pub(super) async fn run(session: &Session, args: DiffArgs) -> Result<(), Stop> {
    let selector = args.words.join(" ");
    statement::check(&format!("select {selector}"))?;
    let client = session.client()?;
    let as_they_come = matches!(session.out.format(), None | Some(Format::Name | Format::Jsonl));
    let (mut from, mut to) = (args.from, args.to);
    let mut whole = Differences::default();
    let mut cursor: Option<String> = None;
    loop {
        let mut page = client.diff(&selector, from, to, cursor.as_deref()).await?;
        // All pages compare the same two.
        (from, to) = (When::Revision(page.from), Some(When::Revision(page.to)));
        (whole.from, whole.to) = (page.from, page.to);
        whole.differences.append(&mut page.differences);
        if as_they_come {
            session.out.show(&whole)?;
            whole.differences.clear();
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None if as_they_come => return Ok(()),
            None => return session.out.show(&whole),
        }
    }
}

#[derive(Debug, Default)]
struct Differences {
    differences: Vec<Difference>,
    from: Revision,
    to: Revision,
}

/// `point<Kind>`, as it is or was last.
pub(super) fn name(difference: &Difference) -> String {
    let resource = difference.after.as_ref().or(difference.before.as_ref());
    resource.map_or_else(|| safe(difference.point.as_str()), |resource| resource_line(resource))
}

/// What changed in it, in the words of the language.
pub(super) fn what(change: &Difference) -> String {
    match (&change.before, &change.after) {
        (Some(before), Some(after)) if before.created != after.created => {
            format!("made again, {}", difference(before, after))
        }
        (Some(before), Some(after)) => difference(before, after),
        _ => String::new(),
    }
}

impl Render for Differences {
    fn json(&self) -> Value {
        json!({ "from": self.from, "to": self.to, "differences": self.differences })
    }

    fn json_lines(&self) -> Vec<Value> {
        self.differences.iter().map(|difference| json!(difference)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.differences.iter().map(name).collect()
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["CHANGE", "RESOURCE", "WHAT"]);
        for difference in &self.differences {
            let change = match difference.change {
                DifferenceKind::Added => "added",
                DifferenceKind::Changed => "changed",
                DifferenceKind::Removed => "removed",
            };
            table.row([change.to_owned(), name(difference), what(difference)]);
        }
        table
    }

    fn text(&self) -> Vec<String> {
        let line = |difference: &Difference| {
            let sign = match difference.change {
                DifferenceKind::Added => '+',
                DifferenceKind::Changed => '~',
                DifferenceKind::Removed => '-',
            };
            let line = format!("{sign} {}  {}", name(difference), safe(&what(difference)));
            line.trim_end().to_owned()
        };
        self.differences.iter().map(line).collect()
    }
}
