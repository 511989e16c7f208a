//! Packing a directory into a zip archive, to publish it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use starlane_core::{Code, Point, Problem};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZipWriter};

use crate::archive::{ArchiveFault, EntryFault, Limits, point_of};

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// How many files.
    pub files: usize,
    /// What they have together.
    pub bytes: u64,
}

/// Why a directory was not packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was named is no directory.
    #[error("`{}` is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A file or directory in it cannot stand in an archive.
    #[error("`{}` {fault}", .path.display())]
    Entry {
        /// Which.
        path: PathBuf,
        /// Why not.
        fault: EntryFault,
    },
    /// A symbolic link leads out of the directory.
    #[error("`{}` is a symbolic link that leads out of the directory, to `{}`", .path.display(), .target.display())]
    Leaves {
        /// Which.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A symbolic link leads to a directory that it stands in.
    #[error("`{}` is a symbolic link to a directory that it stands in", .0.display())]
    Circle(PathBuf),
    /// The directory is more than an archive may be.
    #[error("the archive {0}")]
    Archive(ArchiveFault),
    /// Something could not be read.
    #[error("`{}` could not be read: {source}", .path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("the archive could not be written: {0}")]
    Write(io::Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        let (code, help) = match &error {
            Error::NotADirectory(_) => (Code::Usage, "name a zip file or a directory"),
            Error::Leaves { .. } | Error::Circle(_) => {
                (Code::ArchiveInvalid, "replace the link by what it leads to, or remove it")
            }
            Error::Entry { fault: EntryFault::Bytes(_), .. } | Error::Archive(_) => {
                (Code::TooLarge, "publish less, or let the node's operator raise the limit")
            }
            Error::Entry { .. } => (Code::ArchiveInvalid, "rename, replace or remove it"),
            Error::Read { .. } => (Code::Usage, "make it readable, or remove it"),
            Error::Write(_) => {
                (Code::StoreUnavailable, "check the free space of the folder for temporary files")
            }
        };
        Problem::new(code, detail).help(help)
    }
}

/// Packs all of a directory: the same files give the same archive, byte for byte, on every machine. Nothing is left
/// out. Symbolic links are followed within the directory and refused when they lead out of it.
///
/// # Errors
/// When something in the directory cannot be published, exceeds `limits`, or cannot be read, or `out` not written.
pub fn pack(directory: &Path, out: impl Write + Seek, limits: &Limits) -> Result<Packed, Error> {
    let root = fs::canonicalize(directory)
        .ok()
        .filter(|root| root.is_dir())
        .ok_or_else(|| Error::NotADirectory(directory.to_owned()))?;
    let mut found = Vec::new();
    let mut walk = Walk { root: &root, limits, found: &mut found };
    walk.enter(&root, "", &mut vec![root.clone()])?;
    found.sort_by(|a, b| a.name.cmp(&b.name));

    let options = SimpleFileOptions::default().last_modified_time(DateTime::default()).system(System::Unix);
    let mut packed = Packed { files: 0, bytes: 0 };
    let mut archive = ZipWriter::new(BufWriter::new(out));
    for item in &found {
        if item.directory {
            let options = options.unix_permissions(0o755).compression_method(CompressionMethod::Stored);
            archive.add_directory(item.name.as_str(), options).map_err(wrote)?;
            continue;
        }
        let mut file = File::open(&item.path).map_err(|source| item.unread(source))?;
        let method = method_for(&mut file, limits).map_err(|source| item.unread(source))?;
        let level = (method == CompressionMethod::Deflated).then_some(LEVEL.into());
        let options = options.unix_permissions(0o644).compression_method(method).compression_level(level);
        archive.start_file(item.name.as_str(), options).map_err(wrote)?;
        packed.files += 1;
        packed.bytes += copy(item, &mut file, &mut archive, limits)?;
        if packed.bytes > limits.total_bytes_max {
            return Err(Error::Archive(ArchiveFault::Total(limits.total_bytes_max)));
        }
    }
    if packed.files == 0 {
        return Err(Error::Archive(ArchiveFault::Empty));
    }
    archive.finish().map_err(wrote)?.flush().map_err(Error::Write)?;
    Ok(packed)
}

const LEVEL: u32 = 6;
const PIECE_BYTES: usize = 64 * 1024;

/// A file or directory to pack.
struct Item {
    /// Its name in the archive; a directory's ends with `/`.
    name: String,
    /// Where it is, with links resolved.
    path: PathBuf,
    directory: bool,
}

impl Item {
    fn unread(&self, source: io::Error) -> Error {
        Error::Read { path: self.path.clone(), source }
    }
}

struct Walk<'a> {
    root: &'a Path,
    limits: &'a Limits,
    found: &'a mut Vec<Item>,
}

impl Walk<'_> {
    /// Finds what is in a directory; `inside` are the directories that it stands in, itself the last.
    fn enter(&mut self, directory: &Path, prefix: &str, inside: &mut Vec<PathBuf>) -> Result<(), Error> {
        let unread = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Read { path, source }
        };
        for entry in fs::read_dir(directory).map_err(unread(directory))? {
            let path = entry.map_err(unread(directory))?.path();
            let wrong = |fault| Error::Entry { path: path.clone(), fault };
            let target = fs::canonicalize(&path).map_err(unread(&path))?;
            if !target.starts_with(self.root) {
                return Err(Error::Leaves { path, target });
            }
            let kind = fs::metadata(&target).map_err(unread(&path))?.file_type();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| wrong(EntryFault::NameEncoding))?;
            let slash = if kind.is_dir() { "/" } else { "" };
            let name = format!("{prefix}{name}{slash}");
            point_of(name.as_bytes(), &placeholder()?, self.limits).map_err(wrong)?;
            if self.found.len() >= self.limits.entries_max {
                return Err(Error::Archive(ArchiveFault::Entries(self.limits.entries_max)));
            }
            if kind.is_dir() {
                if inside.contains(&target) {
                    return Err(Error::Circle(path));
                }
                inside.push(target.clone());
                self.enter(&target, &name, inside)?;
                inside.pop();
            } else if !kind.is_file() {
                return Err(wrong(EntryFault::Special("a pipe, a socket or a device")));
            }
            self.found.push(Item { name, path: target, directory: kind.is_dir() });
        }
        Ok(())
    }
}

/// Names are checked as if for some bundle, so that what cannot be published is found before it is sent.
fn placeholder() -> Result<Point, Error> {
    "space:repo:series:1.0.0".parse().map_err(|error| Error::Write(io::Error::other(error)))
}

/// Stores what does not become smaller, and what becomes so small that it would be taken for a bomb.
fn method_for(file: &mut File, limits: &Limits) -> io::Result<CompressionMethod> {
    let mut deflate = DeflateEncoder::new(Counter(0), Compression::new(LEVEL));
    let bytes = io::copy(&mut file.take(limits.file_bytes_max.saturating_add(1)), &mut deflate)?;
    let packed = deflate.finish()?.0;
    file.seek(SeekFrom::Start(0))?;
    let bomb = bytes > packed.saturating_mul(limits.ratio_max / 2);
    Ok(if packed >= bytes || bomb { CompressionMethod::Stored } else { CompressionMethod::Deflated })
}

struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn copy(item: &Item, file: &mut File, archive: &mut impl Write, limits: &Limits) -> Result<u64, Error> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut copied = 0;
    loop {
        let read = file.read(&mut piece).map_err(|source| item.unread(source))?;
        if read == 0 {
            return Ok(copied);
        }
        copied += read as u64;
        if copied > limits.file_bytes_max {
            let fault = EntryFault::Bytes(limits.file_bytes_max);
            return Err(Error::Entry { path: item.path.clone(), fault });
        }
        archive.write_all(piece.get(..read).unwrap_or_default()).map_err(Error::Write)?;
    }
}

fn wrote(error: zip::result::ZipError) -> Error {
    Error::Write(error.into())
}
