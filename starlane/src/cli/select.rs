//! `starlane select`.

use clap::Args;
use gateway::shapes::Page;
use starlane_core::{Base, Code, Column, Declared, When};

use super::fresh::Fresh;
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
  starlane select 'shop:**' --as-of 2026-03-01T12:04:11Z
See also: starlane help selectors")]
pub(super) struct SelectArgs {
    /// The selector
    #[arg(required = true, value_name = "SELECTOR")]
    words: Vec<String>,
    /// Stop after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Show what it was after this revision, or at this time: 1042, 2026-03-01T12:04:11Z
    #[arg(long, value_name = "REV|TIME", conflicts_with = "stale_ok")]
    as_of: Option<When>,
    #[command(flatten)]
    fresh: Fresh,
}

pub(super) async fn run(session: &Session, args: SelectArgs) -> Result<(), Stop> {
    let text = args.words.join(" ");
    statement::check(&format!("select {text}"))?;
    list(
        session,
        &session.client()?.reading(args.fresh.into()),
        &text,
        args.as_of,
        args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
    )
    .await
}

/// Shows the answer of a selector, page by page where the form allows it, so that it may be of any length.
pub(super) async fn list(
    session: &Session,
    client: &Client,
    selector: &str,
    at: Option<When>,
    limit: Option<usize>,
) -> Result<(), Stop> {
    let more = match session.out.format() {
        None | Some(Format::Name) => {
            each(client, selector, at, limit, |page| {
                session.out.lines(page.resources.iter().map(|r| resource_line(r)))
            })
            .await?
        }
        Some(Format::Jsonl) => {
            each(client, selector, at, limit, |page| {
                session
                    .out
                    .lines(page.resources.iter().map(|resource| serde_json::json!(resource).to_string()))
            })
            .await?
        }
        _ => {
            let mut listing = gather(client, selector, at, limit).await?;
            if matches!(session.out.format(), Some(Format::Table | Format::Wide)) {
                listing.columns = columns(client, &listing).await?;
            }
            session.out.show(&listing)?;
            listing.more
        }
    };
    if more {
        session.out.note("there are more; only as many as `--limit` says are listed");
    }
    Ok(())
}

/// The answer of a selector as a whole.
pub(super) async fn gather(
    client: &Client,
    selector: &str,
    at: Option<When>,
    limit: Option<usize>,
) -> Result<Listing, Stop> {
    let mut listing = Listing::default();
    listing.more = each(client, selector, at, limit, |page| {
        listing.resources.extend(page.resources);
        listing.revision = page.revision;
        Ok(())
    })
    .await?;
    Ok(listing)
}

/// What the declaration of a kind says is to be shown, when all that is listed is of one kind.
async fn columns(client: &Client, listing: &Listing) -> Result<Vec<Column>, Stop> {
    let Some(first) = listing.resources.first() else { return Ok(Vec::new()) };
    let Base::Custom(name) = &first.kind.base else { return Ok(Vec::new()) };
    if listing.resources.iter().any(|resource| resource.kind.base != first.kind.base) {
        return Ok(Vec::new());
    }
    for space in [first.point.space().unwrap_or_default(), "mesh"] {
        let Ok(declaration) = format!("{space}:kinds:{}", name.to_kebab()).parse() else { continue };
        match client.resource(&declaration).await {
            Ok(declaration) => {
                // What a newer node declares is no reason to show nothing.
                return Ok(Declared::of(&declaration.properties).unwrap_or_default().columns);
            }
            Err(problem) if problem.code == Code::NotFound => {}
            Err(problem) => return Err(problem.into()),
        }
    }
    Ok(Vec::new())
}

/// Gives the pages of an answer to `take`; tells whether there are more than `limit`.
async fn each(
    client: &Client,
    selector: &str,
    at: Option<When>,
    limit: Option<usize>,
    mut take: impl FnMut(Page) -> Result<(), Stop>,
) -> Result<bool, Stop> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut at = at;
    let mut cursor: Option<String> = None;
    loop {
        let mut page = client.select(selector, at, Some(left.min(PAGE)), cursor.as_deref()).await?;
        // All pages of the past show the same.
        at = at.map(|_| When::Revision(page.revision));
        let cut = page.resources.len() > left;
        page.resources.truncate(left);
        left -= page.resources.len();
        let next = page.next.take();
        take(page)?;
        match next {
            Some(next) if left > 0 => cursor = Some(next),
            next => return Ok(cut || next.is_some()),
        }
    }
}
