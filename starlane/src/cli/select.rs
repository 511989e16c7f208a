//! `starlane select`.

use clap::Args;
use starlane_core::Problem;

use super::results::{Listing, resource_line};
use super::{Session, statement};
use crate::client::Client;
use crate::output::{Format, Stop};

/// How many resources are asked for at once.
const PAGE: usize = 1000;

/// Lists what matches a selector, one point<Kind> a line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane select 'shop:*'
  starlane select '**<Mechtron>' -o wide
  starlane select 'shop:orders:*<Order>[total >= 100]' -o jsonl
See also: starlane help selectors")]
pub(super) struct SelectArgs {
    /// The selector
    #[arg(required = true, value_name = "SELECTOR")]
    words: Vec<String>,
    /// Stop after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

pub(super) async fn run(session: &Session, args: SelectArgs) -> Result<(), Stop> {
    let text = args.words.join(" ");
    statement::check(&format!("select {text}"))?;
    list(
        session,
        &session.client()?,
        &text,
        args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
    )
    .await
}

/// Shows the answer of a selector, page by page where the form allows it, so that it may be of any length.
pub(super) async fn list(
    session: &Session,
    client: &Client,
    selector: &str,
    limit: Option<usize>,
) -> Result<(), Stop> {
    let streams = matches!(session.out.format(), None | Some(Format::Name | Format::Jsonl));
    let mut whole = Listing::default();
    let mut left = limit.unwrap_or(usize::MAX);
    let mut cursor: Option<String> = None;
    loop {
        let mut page =
            client.select(selector, Some(left.min(PAGE)), cursor.as_deref()).await.map_err(Problem::from)?;
        page.resources.truncate(left);
        left -= page.resources.len();
        if streams {
            match session.out.format() {
                Some(Format::Jsonl) => {
                    let lines = page.resources.iter().map(|resource| serde_json::json!(resource).to_string());
                    session.out.lines(lines)?;
                }
                _ => session.out.lines(page.resources.iter().map(|resource| resource_line(resource)))?,
            }
        } else {
            whole.resources.append(&mut page.resources);
        }
        whole.revision = page.revision;
        match page.next {
            Some(next) if left > 0 => cursor = Some(next),
            more => {
                whole.more = more.is_some();
                break;
            }
        }
    }
    if whole.more {
        session.out.note("there are more; only as many as `--limit` says are listed");
    }
    if streams { Ok(()) } else { session.out.show(&whole) }
}
