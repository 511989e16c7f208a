//! The content of Files, and of Artifacts to read.
//!
//! A file is a resource that names its content by digest. Writing stores the new content first and then changes the
//! resource in one commit: a reader has the old content or the new, never a mixture, and a writer that breaks off
//! leaves the old.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use starlane_core::{
    Agent, Base, Blob, Code, CreateMode, Kind, Phase, Point, Problem, PropertyChange, Resource, Revision,
    Timestamp,
};

use crate::blob::BlobStore;
use crate::content::{self, written};
use crate::content_type;
use crate::registry::{BATCH_MAX, Create, Done, Op, Registry};
use crate::{Error, Target};

/// The largest file.
pub const FILE_BYTES_MAX: u64 = 64 << 30;
/// What a directory answers with.
const INDEX: &str = "index.html";
/// How often a write is tried again when others change the same file meanwhile.
const ATTEMPTS_MAX: usize = 16;

/// What must be there for a write to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Anything or nothing.
    Any,
    /// Nothing.
    Absent,
    /// Content with one of these entity tags, without their quotes; with none listed, any content.
    Present(Vec<String>),
}

/// What the content of a point is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Where its bytes are, and how many.
    pub blob: Blob,
    /// What its bytes mean.
    pub content_type: String,
    /// Its entity tag, without quotes: the digest.
    pub etag: String,
    /// When it was written; 0 when that is not known.
    pub modified: Timestamp,
}

/// Replaces the content of a File; makes the File, and the directories above it, when they are missing.
///
/// # Errors
/// `E-NOT-FOUND` when the FileSystem is missing, `E-KIND-PARENT` or `E-USAGE` when no file can be there,
/// `E-REVISION-CONFLICT` when something else is there than expected, `E-TOO-LARGE`, or what the stream ended with.
/// The content is as it was then.
pub async fn write(
    registry: &Registry,
    blobs: &BlobStore,
    by: &Agent,
    point: &Point,
    content: impl Stream<Item = Result<Bytes, Problem>> + Send,
    expect: Expect,
) -> Result<Arc<Resource>, Problem> {
    // Before anything is read: a refusal should not have to wait for gigabytes.
    registry.fresh().await?;
    check_place(registry, point)?;
    expected(registry, point, &expect)?;
    let blob = blobs.put(content, FILE_BYTES_MAX).await.map_err(|error| Problem::from(error).at(point))?;
    let mut changes: Vec<PropertyChange> = content::properties(point, &blob, false).collect();
    changes.extend(content::changes([("written", written(registry.now()))], false));

    for _ in 0..ATTEMPTS_MAX {
        check_place(registry, point)?;
        let there = expected(registry, point, &expect)?;
        match commit(registry, by, point, &changes, there).await {
            Ok(resource) => return Ok(resource),
            // Somebody else was faster: whether that matters is decided anew.
            Err(Error::Exists { .. } | Error::RevisionConflict { .. } | Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::new(Code::Busy, format!("`{point}` is being changed by others all the time"))
        .at(point)
        .help("try again"))
}

/// Makes or changes the resource of a file in one commit, after the directories above it.
async fn commit(
    registry: &Registry,
    by: &Agent,
    point: &Point,
    changes: &[PropertyChange],
    there: Option<Revision>,
) -> Result<Arc<Resource>, Error> {
    if let Some(revision) = there {
        return registry.set(by, point, changes.to_vec(), Some(revision)).await;
    }
    let make = |point: Point, mode, changes: Vec<PropertyChange>| {
        let create = Create::new(point.clone(), Kind::of(Base::File));
        Op::Create(Create { mode, target: Target::Point(point), changes, ..create })
    };
    let above: Vec<Point> = point
        .ancestors()
        .take_while(|above| above.path().is_some())
        .filter(|above| registry.get(above).is_none())
        .collect();
    let mut ops: Vec<Op> =
        above.into_iter().rev().map(|directory| make(directory, CreateMode::Ensure, Vec::new())).collect();
    ops.push(make(point.clone(), CreateMode::New, changes.to_vec()));
    while ops.len() > BATCH_MAX {
        let rest = ops.split_off(BATCH_MAX);
        registry.batch(by, ops).await?;
        ops = rest;
    }
    match registry.batch(by, ops).await?.pop() {
        Some(Done::Created(created)) => Ok(created.resource),
        _ => Err(Error::NotFound(point.clone())),
    }
}

/// Checks that a file can be at a point.
fn check_place(registry: &Registry, point: &Point) -> Result<(), Problem> {
    let refuse = |code, detail: String, help: String| Err(Problem::new(code, detail).at(point).help(help));
    if point.path().is_none() {
        let detail = format!("`{point}` is not the point of a file");
        return refuse(Code::Usage, detail, "a file is at a path: `shop:files:/img/logo.svg`".to_owned());
    }
    if point.is_directory() {
        let detail = format!("`{point}` is a directory, which has no content of its own");
        return refuse(Code::Usage, detail, format!("name a file in it: `{point}{INDEX}`"));
    }
    let holder = point.holder();
    match registry.get(&holder) {
        None => {
            let detail = format!("`{point}` cannot be written: nothing is at `{holder}`");
            return refuse(
                Code::NotFound,
                detail,
                format!("make it first: `starlane create '{holder}<FileSystem>'`"),
            );
        }
        Some(bundle) if bundle.kind.base == Base::Bundle => {
            let detail = format!("`{point}` cannot be written: a published bundle never changes");
            return refuse(Code::KindReserved, detail, "publish the next version of the bundle".to_owned());
        }
        Some(holder) if holder.kind.base != Base::FileSystem => {
            let detail = format!("`{point}` cannot be written: `{holder}` is not a `FileSystem`");
            return refuse(
                Code::KindParent,
                detail,
                "files stand in a FileSystem: `create shop:files<FileSystem>`".to_owned(),
            );
        }
        Some(_) => {}
    }
    // A file and a directory of one name would be two resources.
    if let Ok(twin) = format!("{point}/").parse::<Point>()
        && registry.get(&twin).is_some()
    {
        let detail = format!("`{point}` cannot be written: `{twin}` is a directory");
        return refuse(
            Code::Exists,
            detail,
            format!("use another name, or delete it first: `starlane delete -r {twin}`"),
        );
    }
    for above in point.ancestors().take_while(|above| above.path().is_some()) {
        if let Ok(twin) = above.as_str().trim_end_matches('/').parse::<Point>()
            && twin.path().is_some()
            && registry.get(&twin).is_some()
        {
            let detail = format!("`{point}` cannot be written: `{twin}` is a file, not a directory");
            return refuse(
                Code::Exists,
                detail,
                format!("use another name, or delete it first: `starlane delete {twin}`"),
            );
        }
    }
    Ok(())
}

/// What is at the point, when that is what the writer expects: the revision of a file, or nothing.
fn expected(registry: &Registry, point: &Point, expect: &Expect) -> Result<Option<Revision>, Problem> {
    let there = registry.get(point);
    let conflict = |detail: String| {
        Err(Problem::new(Code::RevisionConflict, detail).at(point).help("read it again, and decide anew"))
    };
    match (expect, &there) {
        (Expect::Absent, Some(_)) => return conflict(format!("`{point}` is there already")),
        (Expect::Present(_), None) => return conflict(format!("nothing is at `{point}`")),
        (Expect::Present(tags), Some(file)) if !tags.is_empty() => {
            let etag = content::blob_of(file).map(|blob| blob.digest.to_string());
            if !etag.is_some_and(|etag| tags.contains(&etag)) {
                return conflict(format!("`{point}` has other content than expected"));
            }
        }
        _ => {}
    }
    Ok(there.map(|file| file.modified))
}

/// What the content of a File or an Artifact is; that of a directory is its `index.html`.
///
/// # Errors
/// `E-NOT-FOUND`, `E-USAGE` for a resource without content, `E-NOT-READY` when the bundle is not published yet,
/// `E-CORRUPT` when the resource does not tell its content.
pub fn open(registry: &Registry, point: &Point) -> Result<Content, Problem> {
    let resource = find(registry, point)?;
    let holder = registry.get(&resource.point.holder());
    if let Some(bundle) = holder.as_ref().filter(|holder| holder.kind.base == Base::Bundle)
        && bundle.status.phase != Phase::Ready
    {
        let detail = format!("`{}` is not published yet: {}", bundle.point, bundle.status.reason);
        return Err(Problem::new(Code::NotReady, detail).at(&bundle.point).help("publish it again"));
    }
    let Some(blob) = content::blob_of(&resource) else {
        return Err(Problem::new(Code::NotFound, format!("`{}` has no content yet", resource.point))
            .at(&resource.point)
            .help(format!("write it: `starlane cp FILE {}`", resource.point)));
    };
    let told = resource.property("content-type").and_then(|value| value.as_text());
    let content_type = told.map_or_else(|| content_type::of_name(resource.point.last()), str::to_owned);
    let modified =
        content::time_of(&resource).or_else(|| content::time_of(holder.as_deref()?)).unwrap_or_default();
    Ok(Content { blob, content_type, etag: blob.digest.to_string(), modified })
}

/// The resource whose content stands for a point.
fn find(registry: &Registry, point: &Point) -> Result<Arc<Resource>, Problem> {
    let Some(path) = point.path() else {
        return Err(match registry.get(point) {
            None => not_found(point),
            Some(resource) => Problem::new(Code::Usage, format!("`{resource}` has no content of its own"))
                .at(point)
                .help(format!("name a file in it: `{point}:/{INDEX}`")),
        });
    };
    if !point.is_directory() {
        if let Some(resource) = registry.get(point) {
            return Ok(resource);
        }
        // The name of a directory, without its `/`.
        let directory =
            format!("{point}/").parse::<Point>().ok().filter(|point| registry.get(point).is_some());
        return match directory {
            Some(directory) => find(registry, &directory),
            None => Err(not_found(point)),
        };
    }
    let index = point.join_path(&format!("{path}{INDEX}")).map_err(|_| not_found(point))?;
    registry.get(&index).ok_or_else(|| {
        if path != "/" && registry.get(point).is_none() {
            return not_found(point);
        }
        Problem::new(Code::NotFound, format!("the directory `{point}` has no `{INDEX}`"))
            .at(point)
            .help(format!("name a file in it: `starlane select '{point}*'` shows them"))
    })
}

fn not_found(point: &Point) -> Problem {
    Problem::new(Code::NotFound, format!("nothing is at `{point}`"))
        .at(point)
        .help(format!("see what is there: `starlane select '{}:**'`", point.holder()))
}
