//! `starlane watch`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use gateway::shapes::{ChangeKind, WatchEvent, WatchStep};
use serde_json::json;
use starlane_core::{Point, Problem, Query, Resource};

use super::Session;
use super::fresh::Fresh;
use super::results::{difference, resource_line, status};
use crate::client::{Backoff, Client, Watch, WatchNews};
use crate::output::{Format, Stop, human, safe};

/// How many resources are remembered to say what changed in them; of others only the version is said.
const REMEMBERED_MAX: usize = 100_000;

/// Lists what matches a selector, then one line for each change, until Ctrl-C. A cut connection or a restart of the
/// node neither loses nor repeats a change.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane watch 'shop:**'
  starlane watch '**<Mechtron>[status != Ready]'
  starlane watch 'shop:**' -o jsonl | while read -r event; do …; done
  starlane watch 'shop:**' --since w1.88214.5f1c02aa
  starlane watch 'count(shop:orders:*<Order>[total >= 100])'
  starlane watch 'first 10 by total desc of shop:orders:*<Order>'

A count is told after each commit that made it more or fewer, and the first in their order after each commit that changed
one of them or their order; `desc` behind the key puts the greatest first.

Ctrl-C prints how to go on from there, and the exit code is 130.")]
pub(super) struct WatchArgs {
    /// The selector; or count(SELECTOR), or first N by KEY of SELECTOR
    #[arg(required = true, value_name = "SELECTOR")]
    words: Vec<String>,
    /// Go on after this token instead of beginning with a list
    #[arg(long, value_name = "TOKEN")]
    since: Option<String>,
    #[command(flatten)]
    fresh: Fresh,
}

pub(super) async fn run(session: &Session, args: WatchArgs) -> Result<(), Stop> {
    let selector = args.words.join(" ");
    _ = selector.parse::<Query>()?;
    let client = session.client()?.reading(args.fresh.into());
    follow(session, client, &selector, args.since).await
}

/// Watches until Ctrl-C.
pub(super) async fn follow(
    session: &Session,
    client: Client,
    selector: &str,
    since: Option<String>,
) -> Result<(), Stop> {
    let mut watch = client.watch(selector, since, Backoff::default());
    let ended = tokio::select! {
        ended = tell(session, &mut watch) => ended,
        _ = tokio::signal::ctrl_c() => Err(Stop::Interrupted),
    };
    if matches!(ended, Err(Stop::Interrupted))
        && let Some(token) = watch.token()
    {
        session.out.note(format!("\ngo on from here: starlane watch '{selector}' --since {token}"));
    }
    ended
}

async fn tell(session: &Session, watch: &mut Watch) -> Result<(), Stop> {
    let mut memory = Memory::default();
    let mut told = false;
    loop {
        match watch.next().await? {
            WatchNews::Event(event) => match session.out.format() {
                Some(Format::Json | Format::Jsonl) => session.out.lines([json!(event).to_string()])?,
                form => session.out.lines(lines(&event, form, &mut memory, now()))?,
            },
            WatchNews::Connected { failures, resumed } if failures > 0 => {
                session.out.note(if resumed {
                    "connected again; nothing was missed"
                } else {
                    "connected again; the list comes anew"
                });
                told = false;
            }
            WatchNews::Connected { .. } => {}
            // The first failure is told, the following are more of the same.
            WatchNews::Cut { problem, .. } if !told => {
                session
                    .out
                    .note(format!("{}; trying again until it works (Ctrl-C ends)", one_line(&problem)));
                told = true;
            }
            WatchNews::Cut { .. } => {}
        }
    }
}

fn one_line(problem: &Problem) -> String {
    safe(&problem.detail)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The lines of an event: the list as `select` prints it, then `time  event  point<Kind>  what changed`.
fn lines(event: &WatchEvent, form: Option<Format>, memory: &mut Memory, now: u64) -> Vec<String> {
    match &event.event {
        WatchStep::Listed { resources, .. } => resources
            .iter()
            .map(|resource| {
                memory.keep(resource);
                let line = resource_line(resource);
                if form == Some(Format::Name) {
                    line
                } else {
                    format!("{}  listed   {line}", human::time_of_day(now))
                }
            })
            .collect(),
        WatchStep::Changed { changes, .. } => changes
            .iter()
            .map(|change| {
                let line = resource_line(&change.resource);
                let (word, what) = match change.change {
                    ChangeKind::Entered => ("entered", memory.entered(&change.resource)),
                    ChangeKind::Updated => ("updated", memory.updated(&change.resource)),
                    ChangeKind::Left => ("left", memory.left(&change.resource)),
                };
                if form == Some(Format::Name) {
                    return line;
                }
                let line = format!("{}  {word:<7}  {line}  {}", human::time_of_day(now), safe(&what));
                line.trim_end().to_owned()
            })
            .collect(),
        WatchStep::Counted { count, .. } => match form {
            Some(Format::Name) => vec![count.to_string()],
            _ => vec![format!("{}  count    {count}", human::time_of_day(now))],
        },
        WatchStep::Ranked { resources, .. } => {
            let line = |(n, resource): (usize, &Arc<Resource>)| match form {
                Some(Format::Name) => resource_line(resource),
                _ => format!("{}  {:<7}  {}", human::time_of_day(now), n + 1, resource_line(resource)),
            };
            let mut lines: Vec<String> = resources.iter().enumerate().map(line).collect();
            // What follows is another answer.
            lines.push(String::new());
            lines
        }
        WatchStep::Bookmark { .. } => Vec::new(),
        WatchStep::Gone { oldest } => {
            memory.0.clear();
            vec![format!(
                "{}  gone     history before revision {oldest} is no longer kept; the list comes anew",
                human::time_of_day(now)
            )]
        }
    }
}

/// The last values that were seen, to say what changed in the next.
#[derive(Debug, Default)]
struct Memory(HashMap<Point, Arc<Resource>>);

impl Memory {
    fn keep(&mut self, resource: &Arc<Resource>) -> Option<Arc<Resource>> {
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&resource.point) {
            return None;
        }
        self.0.insert(resource.point.clone(), Arc::clone(resource))
    }

    fn entered(&mut self, resource: &Arc<Resource>) -> String {
        self.keep(resource);
        if resource.status.reason.is_empty() { String::new() } else { status(resource) }
    }

    fn left(&mut self, resource: &Arc<Resource>) -> String {
        self.0.remove(&resource.point);
        String::new()
    }

    fn updated(&mut self, resource: &Arc<Resource>) -> String {
        match self.keep(resource) {
            Some(before) => difference(&before, resource),
            None => format!("version {}", resource.version),
        }
    }
}
