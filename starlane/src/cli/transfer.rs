//! Bytes between local files and the mesh: streamed, with progress on standard error.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::Body;
use resource_registry::archive::Limits;
use resource_registry::pack;
use starlane_core::{Code, Point, Problem};
use tokio_util::io::ReaderStream;

use super::Session;
use super::results::Outcome;
use crate::client::{Download, LocalFailure};
use crate::output::Stop;

/// How many bytes are read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// What is wrong with a local file.
pub(super) fn local(doing: &str, path: &Path, error: &io::Error) -> Problem {
    Problem::new(Code::Usage, format!("{} cannot be {doing}: {error}", path.display()))
}

/// Reads a small text; `-` is standard input.
pub(super) fn read_text(file: &str, bytes_max: usize) -> Result<String, Problem> {
    let bytes = read_bytes(file, bytes_max)?;
    String::from_utf8(bytes).map_err(|_| Problem::new(Code::Usage, format!("{file} is not text in UTF-8")))
}

/// Reads a small file; `-` is standard input.
pub(super) fn read_bytes(file: &str, bytes_max: usize) -> Result<Vec<u8>, Problem> {
    let path = Path::new(file);
    let wrong = |error: io::Error| match file {
        "-" => Problem::new(Code::Usage, format!("standard input cannot be read: {error}")),
        _ => local("read", path, &error),
    };
    let source: Box<dyn Read> =
        if file == "-" { Box::new(io::stdin().lock()) } else { Box::new(File::open(path).map_err(wrong)?) };
    let mut bytes = Vec::new();
    source.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() > bytes_max {
        let limit = crate::output::human::bytes(bytes_max as u64);
        return Err(Problem::new(Code::TooLarge, format!("{file} is larger than {limit}")));
    }
    Ok(bytes)
}

/// Writes a local file, or standard input (`-`), into the mesh.
pub(super) async fn upload(session: &Session, from: &str, to: &Point) -> Result<Outcome, Stop> {
    let client = session.client()?;
    let body = file_body(session, from, to.as_str())?;
    Ok(Outcome::Written(client.write(to, body).await?))
}

/// Publishes a zip file, or a folder zipped on the fly, as a bundle.
pub(super) async fn publish(session: &Session, from: &Path, to: &Point) -> Result<Outcome, Stop> {
    let client = session.client()?;
    let meta = fs::metadata(from).map_err(|error| local("read", from, &error))?;
    let body = if meta.is_dir() {
        folder_body(session, from, to.as_str()).await?
    } else {
        file_body(session, &from.to_string_lossy(), to.as_str())?
    };
    Ok(Outcome::Published(client.publish(to, body).await?))
}

/// Writes content of the mesh into a local file. The file is there only when all of it came.
pub(super) async fn download(session: &Session, from: &Point, to: &Path) -> Result<Outcome, Stop> {
    let mut content = session.client()?.read(from).await?;
    let to = if to.is_dir() { to.join(from.last().trim_end_matches('/')) } else { to.to_owned() };
    let mut partial = Partial::create(&to)?;
    let bar = session.out.transfer(from.as_str(), content.bytes);
    let mut bytes = 0_u64;
    while let Some(chunk) = content.chunk().await? {
        partial.file.write_all(&chunk).map_err(|error| local("written", &to, &error))?;
        bytes += chunk.len() as u64;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    partial.keep()?;
    Ok(Outcome::Saved { point: from.to_string(), file: to.display().to_string(), bytes })
}

/// Writes content of the mesh to standard output.
pub(super) async fn print(session: &Session, mut content: Download) -> Result<(), Stop> {
    while let Some(chunk) = content.chunk().await? {
        session.out.bytes(&chunk)?;
    }
    Ok(())
}

fn file_body(session: &Session, from: &str, to: &str) -> Result<Body, Problem> {
    if from == "-" {
        let bar = session.out.transfer(to, None);
        let stream = ReaderStream::with_capacity(tokio::io::stdin(), CHUNK_BYTES);
        return Ok(streamed(stream, "standard input".to_owned(), bar));
    }
    let path = Path::new(from);
    let file = File::open(path).map_err(|error| local("read", path, &error))?;
    let meta = file.metadata().map_err(|error| local("read", path, &error))?;
    if meta.is_dir() {
        return Err(Problem::new(Code::Usage, format!("{from} is a folder"))
            .help("`starlane publish` takes folders; a file is written by itself"));
    }
    let bar = session.out.transfer(to, meta.is_file().then_some(meta.len()));
    let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK_BYTES);
    Ok(streamed(stream, from.to_owned(), bar))
}

fn streamed(
    stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    name: String,
    bar: indicatif::ProgressBar,
) -> Body {
    Body::wrap_stream(stream.map(move |chunk| {
        chunk
            .inspect(|chunk| bar.inc(chunk.len() as u64))
            .map_err(|error| LocalFailure(format!("{name} cannot be read: {error}")))
    }))
}

/// A file that is not there until it is whole.
struct Partial {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    kept: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, Problem> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let temporary = target.with_file_name(name);
        let file = File::create(&temporary).map_err(|error| local("written", target, &error))?;
        Ok(Self { file, temporary, target: target.to_owned(), kept: false })
    }

    fn keep(mut self) -> Result<(), Problem> {
        fs::rename(&self.temporary, &self.target).map_err(|error| local("written", &self.target, &error))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // What is left of it is of no use; nobody is told twice that the disk is in trouble.
            _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Zips a folder into a temporary file, which is gone when it was sent or the command ends.
async fn folder_body(session: &Session, from: &Path, to: &str) -> Result<Body, Stop> {
    let bar = session.out.transfer("packing", None);
    let folder = from.to_owned();
    let packing = tokio::task::spawn_blocking(move || -> Result<File, Problem> {
        let temporary = |error: io::Error| {
            Problem::new(
                Code::StoreUnavailable,
                format!("the folder cannot be packed into a temporary file: {error}"),
            )
            .help("check the free space of the folder for temporary files")
        };
        let mut file = tempfile::tempfile().map_err(temporary)?;
        pack::pack(&folder, &mut file, &Limits::default())?;
        file.rewind().map_err(temporary)?;
        Ok(file)
    });
    let file = packing
        .await
        .map_err(|error| Problem::new(Code::Internal, format!("packing ended early: {error}")))??;
    bar.finish_and_clear();
    let bytes = file.metadata().map_err(|error| local("read", from, &error))?.len();
    let bar = session.out.transfer(to, Some(bytes));
    let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK_BYTES);
    Ok(streamed(stream, from.display().to_string(), bar))
}
