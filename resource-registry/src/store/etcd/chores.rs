//! Gives back the space of what is no longer read: rows of the log, values that only they had, and what was written for
//! commits that never came. None of it touches the head, so it never stands in a writer's way.

use std::collections::HashSet;
use std::time::Duration;

use starlane_core::Revision;
use tokio::time::Instant;

use super::client::{Client, Fault};
use super::layout::{BlobId, Layout, decode};
use super::rpc::{Compare, RangeRequest, RequestOp, TxnRequest};

/// How many revisions one step forgets at most: etcd answers nobody else meanwhile.
const STEP: u64 = 512;
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How many blobs one step deletes.
const BLOBS: usize = 100;

/// Forgets what was before `oldest`, and sets of blobs that are there for longer than `patience`.
pub(super) async fn tidy(
    client: &Client,
    layout: &Layout,
    oldest: Revision,
    patience: Duration,
) -> Result<(), Fault> {
    trim_log(client, layout, oldest).await?;
    trim_blobs(client, layout, oldest).await?;
    sweep(client, layout, patience).await
}

/// A row that was written with commits of both sides stays.
async fn trim_log(client: &Client, layout: &Layout, oldest: Revision) -> Result<(), Fault> {
    loop {
        let first = RangeRequest {
            keys_only: true,
            ..RangeRequest::range(layout.log(0), layout.log(oldest.0)).first(1)
        };
        let found = client.range(first, Instant::now() + LOOK_TIMEOUT).await?;
        let Some(first) = found.kvs.first().and_then(|row| Layout::last_of(&row.key)) else { return Ok(()) };
        let end = layout.log(oldest.0.min(first.saturating_add(STEP)));
        run(client, Vec::new(), vec![RequestOp::delete_range(layout.log(0), end)]).await?;
    }
}

async fn trim_blobs(client: &Client, layout: &Layout, oldest: Revision) -> Result<(), Fault> {
    loop {
        let first = RangeRequest::range(layout.useless(0), layout.useless(oldest.0)).first(1);
        let found = client.range(first, Instant::now() + LOOK_TIMEOUT).await?;
        let Some(row) = found.kvs.into_iter().next() else { return Ok(()) };
        remove(client, layout, &row.value, Vec::new(), RequestOp::delete(row.key)).await?;
    }
}

/// Takes away sets of blobs whose commit never came: those that are still there after a time in which it must have.
async fn sweep(client: &Client, layout: &Layout, patience: Duration) -> Result<(), Fault> {
    let (from, end) = layout.all_staged();
    let sets = || client.range(RangeRequest::range(from.clone(), end.clone()), Instant::now() + LOOK_TIMEOUT);
    let before: HashSet<_> = sets().await?.kvs.into_iter().map(|row| row.key).collect();
    if before.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(patience).await;
    for row in sets().await?.kvs.into_iter().filter(|row| before.contains(&row.key)) {
        // The commit takes the set away, so it either was faster or cannot come any more.
        let compare = vec![Compare::changed_at(row.key.clone(), row.mod_revision)];
        remove(client, layout, &row.value, compare, RequestOp::delete(row.key)).await?;
    }
    Ok(())
}

/// Deletes a list of blobs, `with` first when there is something to compare, and last otherwise.
async fn remove(
    client: &Client,
    layout: &Layout,
    list: &[u8],
    compare: Vec<Compare>,
    with: RequestOp,
) -> Result<(), Fault> {
    let blobs: Vec<BlobId> = decode(list).unwrap_or_default();
    let deletes: Vec<RequestOp> = blobs.iter().map(|blob| RequestOp::delete(layout.blob(*blob))).collect();
    let guarded = !compare.is_empty();
    if guarded && !run(client, compare, vec![with.clone()]).await? {
        return Ok(());
    }
    for deletes in deletes.chunks(BLOBS) {
        run(client, Vec::new(), deletes.to_vec()).await?;
    }
    if !guarded {
        run(client, Vec::new(), vec![with]).await?;
    }
    Ok(())
}

async fn run(client: &Client, compare: Vec<Compare>, success: Vec<RequestOp>) -> Result<bool, Fault> {
    let txn = TxnRequest { compare, success, failure: Vec::new() };
    Ok(client.txn(txn).await?.succeeded)
}
