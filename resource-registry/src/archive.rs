//! Reading a zip archive that a stranger packed.
//!
//! An archive is read in two steps. [`Archive::open`] reads its directory and every local header and refuses the
//! archive as a whole when anything in it is unsafe, larger than [`Limits`] or not what it says elsewhere: nothing is
//! allocated from a length that was not checked first, and no content is unpacked. Then each file is unpacked piece by
//! piece, and is refused when its content is not exactly as long as announced or does not match its checksum.
//!
//! No path of the file system is made from a name: names become points ([`Point`] has the rules for what a safe path
//! is), and content is stored by what it hashes to. An archive inside an archive is a file like any other and is
//! never opened. The reader is strict where readers differ (APPNOTE.TXT 6.3.10 leaves room): the directory ends where
//! the end record begins, nothing stands before the archive, both headers of an entry agree, and entries do not share
//! bytes.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};

use flate2::bufread::DeflateDecoder;
use starlane_core::{Code, Point, PointError, Problem, Span};

/// What an archive may be and hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The archive itself.
    pub archive_bytes_max: u64,
    /// Files and directories together, those that are only implied by a name included.
    pub entries_max: usize,
    /// The archive's directory, with all names.
    pub directory_bytes_max: u64,
    /// One file, unpacked.
    pub file_bytes_max: u64,
    /// All files together, unpacked.
    pub total_bytes_max: u64,
    /// How many times its packed size a file may have unpacked, and all files together the archive's.
    pub ratio_max: u64,
    /// What a file, and all together, may have unpacked whatever the ratio: small files pack very well.
    pub ratio_free_bytes: u64,
    /// Levels of directories, the file's own name included.
    pub depth_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            archive_bytes_max: 1 << 30,
            entries_max: 20_000,
            directory_bytes_max: 4 << 20,
            file_bytes_max: 1 << 30,
            total_bytes_max: 1 << 30,
            ratio_max: 100,
            ratio_free_bytes: 1 << 20,
            depth_max: 32,
        }
    }
}

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive as a whole.
    #[error("the archive {0}")]
    Archive(ArchiveFault),
    /// One of its entries.
    #[error("the archive's entry `{name}` {fault}")]
    Entry {
        /// Its name, as far as it can be read and shown.
        name: String,
        /// What is wrong with it.
        fault: EntryFault,
    },
    /// The archive could not be read: a fault of the disk or the connection, not of the archive.
    #[error("the archive could not be read: {0}")]
    Io(#[from] io::Error),
}

/// What is wrong with an archive as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveFault {
    /// There is no end record.
    #[error("is not a zip archive, or its end is missing")]
    NoEnd,
    /// Its structure contradicts itself.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    /// There is no file in it.
    #[error("holds no file")]
    Empty,
    /// It is one of several volumes.
    #[error("is one of several volumes")]
    Volumes,
    /// It is larger than it may be.
    #[error("has more than {0} bytes")]
    Bytes(u64),
    /// It has too many entries.
    #[error("has more than {0} files and directories")]
    Entries(usize),
    /// Its directory is larger than it may be.
    #[error("has a directory of more than {0} bytes")]
    Directory(u64),
    /// Its files are larger than they may be together.
    #[error("unpacks to more than {0} bytes")]
    Total(u64),
    /// It unpacks to far more than a real archive does.
    #[error("unpacks to more than {0} times its size")]
    Ratio(u64),
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// Its name is not text.
    #[error("has a name that is not UTF-8")]
    NameEncoding,
    /// Its name is no safe path; the place is one in the name as it is shown.
    #[error("has a name that is no safe path: {}", .0.reason)]
    Name(PointError),
    /// Its name stands twice in the archive.
    #[error("stands twice in the archive")]
    Duplicate,
    /// Another entry has the same name as a file, or stands below it.
    #[error("is both a file and a directory")]
    FileAndDirectory,
    /// It lies too deep.
    #[error("lies deeper than {0} levels")]
    Depth(usize),
    /// It cannot be read without a password.
    #[error("is encrypted")]
    Encrypted,
    /// It is packed in a way that is not read.
    #[error("is packed with method {0}; only 0 (stored) and 8 (deflate) are read")]
    Method(u16),
    /// It is not a file or a directory.
    #[error("is {0}; an archive may hold files and directories only")]
    Special(&'static str),
    /// What is said of it in one place is not what is said in another.
    #[error("is described in two ways: {0}")]
    Contradiction(&'static str),
    /// Its bytes are also those of another entry.
    #[error("shares bytes with another entry")]
    Overlap,
    /// It is larger than it may be.
    #[error("unpacks to more than {0} bytes")]
    Bytes(u64),
    /// It unpacks to far more than real content does.
    #[error("unpacks to more than {0} times its packed size")]
    Ratio(u64),
    /// Its content is not what was packed.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Archive(fault) => match fault {
                ArchiveFault::NoEnd => Problem::new(Code::ArchiveInvalid, detail)
                    .help("publish a zip file, or a directory, which is zipped on the fly"),
                ArchiveFault::Damaged(_) => Problem::new(Code::ArchiveInvalid, detail)
                    .help("pack it again: `unzip -t FILE` should find nothing wrong with it"),
                ArchiveFault::Empty => {
                    Problem::new(Code::ArchiveInvalid, detail).help("put at least one file into it")
                }
                ArchiveFault::Volumes => {
                    Problem::new(Code::ArchiveInvalid, detail).help("pack it as one file")
                }
                ArchiveFault::Ratio(_) => Problem::new(Code::ArchiveInvalid, detail).help(
                    "store what packs that well without packing it: `zip -0`, or publish the directory",
                ),
                ArchiveFault::Bytes(_)
                | ArchiveFault::Entries(_)
                | ArchiveFault::Directory(_)
                | ArchiveFault::Total(_) => Problem::new(Code::TooLarge, detail)
                    .help("split it into several bundles, or let the node's operator raise the limit"),
            },
            Error::Entry { name, fault } => {
                let (code, help) = match &fault {
                    EntryFault::NameEncoding => {
                        (Code::ArchiveInvalid, "pack it with a tool that writes UTF-8 names")
                    }
                    EntryFault::Name(_) => {
                        (Code::ArchiveInvalid, "rename the file and pack the archive again")
                    }
                    EntryFault::Duplicate | EntryFault::FileAndDirectory | EntryFault::Overlap => {
                        (Code::ArchiveInvalid, "pack the archive anew instead of adding to it")
                    }
                    EntryFault::Depth(_) => (Code::TooLarge, "use fewer levels of directories"),
                    EntryFault::Encrypted => (Code::ArchiveInvalid, "pack it without a password"),
                    EntryFault::Method(_) => {
                        (Code::ArchiveInvalid, "pack it with deflate, or publish the directory")
                    }
                    EntryFault::Special(_) => {
                        (Code::ArchiveInvalid, "replace it by a file and pack the archive again")
                    }
                    EntryFault::Contradiction(_) | EntryFault::Damaged(_) => (
                        Code::ArchiveInvalid,
                        "pack it again: `unzip -t FILE` should find nothing wrong with it",
                    ),
                    EntryFault::Bytes(_) => {
                        (Code::TooLarge, "split the file, or let the node's operator raise the limit")
                    }
                    EntryFault::Ratio(_) => (
                        Code::ArchiveInvalid,
                        "store it without packing it: `zip -0`, or publish the directory",
                    ),
                };
                let problem = Problem::new(code, detail).help(help);
                match fault {
                    EntryFault::Name(wrong) => {
                        let span = Span { start: wrong.at, end: wrong.at + wrong.length };
                        problem.in_text(name, span, wrong.reason)
                    }
                    _ => problem,
                }
            }
            Error::Io(_) => Problem::new(Code::StoreUnavailable, detail)
                .help("check the disk of the data folder: free space, permissions, health; then try again"),
        }
    }
}

/// An archive whose structure was checked.
#[derive(Debug)]
pub struct Archive<R> {
    reader: R,
    files: Vec<Entry>,
    directories: Vec<Point>,
    total_bytes: u64,
}

/// A file in an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it will live.
    pub point: Point,
    /// How long it is, unpacked.
    pub bytes: u64,
    name: String,
    packed_bytes: u64,
    method: Method,
    crc32: u32,
    /// Where its packed content begins; known once its local header was read.
    content_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Stored,
    Deflate,
}

const END_SIGNATURE: u32 = 0x0605_4b50;
const END_BYTES: u64 = 22;
const COMMENT_BYTES_MAX: u64 = 65_535;
const LOCATOR64_SIGNATURE: u32 = 0x0706_4b50;
const LOCATOR64_BYTES: u64 = 20;
const END64_SIGNATURE: u32 = 0x0606_4b50;
const END64_BYTES: u64 = 56;
const ENTRY_SIGNATURE: u32 = 0x0201_4b50;
const ENTRY_BYTES: u64 = 46;
const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
const LOCAL_BYTES: u64 = 30;
const EXTRA_ZIP64: u16 = 0x0001;
const EXTRA_UNICODE_PATH: u16 = 0x7075;
/// Encrypted, compressed patched data, strong encryption, masked headers.
const FLAGS_UNREADABLE: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;
const FLAG_SIZES_FOLLOW: u16 = 1 << 3;

impl<R: Read + Seek> Archive<R> {
    /// Reads and checks the structure of an archive whose content is to live under `holder`.
    ///
    /// # Errors
    /// When the archive is refused, or cannot be read.
    pub fn open(mut reader: R, holder: &Point, limits: &Limits) -> Result<Self, Error> {
        let bytes = reader.seek(SeekFrom::End(0))?;
        if bytes > limits.archive_bytes_max {
            return Err(Error::Archive(ArchiveFault::Bytes(limits.archive_bytes_max)));
        }
        let directory = find_directory(&mut reader, bytes, limits)?;
        let content = read_directory(&mut reader, &directory, holder, limits)?;
        let Content { mut files, directories, mut headers, total_bytes } = content;
        if files.is_empty() {
            return Err(Error::Archive(ArchiveFault::Empty));
        }
        if total_bytes > limits.ratio_free_bytes && total_bytes > bytes.saturating_mul(limits.ratio_max) {
            return Err(Error::Archive(ArchiveFault::Ratio(limits.ratio_max)));
        }
        check_local_headers(&mut reader, &mut files, &mut headers, directory.start)?;
        Ok(Self { reader, files, directories, total_bytes })
    }

    /// The files, in the order of the archive's directory.
    pub fn files(&self) -> &[Entry] {
        &self.files
    }

    /// All directories that files stand in and those that are named, parents before children; without the root.
    pub fn directories(&self) -> &[Point] {
        &self.directories
    }

    /// What all files have together, unpacked.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Begins to unpack one of the files.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn unpack<'a>(&'a mut self, file: &Entry) -> Result<Unpacking<'a, R>, Error> {
        self.reader.seek(SeekFrom::Start(file.content_at))?;
        let packed = BufReader::new(Read::take(&mut self.reader, file.packed_bytes));
        let source = match file.method {
            Method::Stored => Source::Stored(packed),
            Method::Deflate => Source::Deflate(DeflateDecoder::new(packed)),
        };
        Ok(Unpacking { source, file: file.clone(), given_bytes: 0, crc32: crc32fast::Hasher::new() })
    }
}

/// A file on its way out of an archive.
pub struct Unpacking<'a, R> {
    source: Source<'a, R>,
    file: Entry,
    given_bytes: u64,
    crc32: crc32fast::Hasher,
}

enum Source<'a, R> {
    Stored(BufReader<Take<&'a mut R>>),
    Deflate(DeflateDecoder<BufReader<Take<&'a mut R>>>),
}

impl<R: Read> Unpacking<'_, R> {
    /// Fills the front of `piece` with the next bytes and tells how many; 0, for a `piece` that is not empty, when
    /// all were given and matched what the archive says of them.
    ///
    /// # Errors
    /// When the content is not as it was announced; what was given before is not to be used.
    pub fn read(&mut self, piece: &mut [u8]) -> Result<usize, Error> {
        let read = match &mut self.source {
            Source::Stored(reader) => reader.read(piece),
            Source::Deflate(reader) => reader.read(piece),
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => return Err(self.failed(error)),
        };
        self.given_bytes += read as u64;
        if self.given_bytes > self.file.bytes {
            return Err(self.damaged("it is longer than the archive says"));
        }
        self.crc32.update(&piece[..read]);
        if read == 0 && !piece.is_empty() {
            self.check_whole()?;
        }
        Ok(read)
    }

    fn check_whole(&self) -> Result<(), Error> {
        if self.given_bytes != self.file.bytes {
            return Err(self.damaged("it is shorter than the archive says"));
        }
        let packed_bytes = match &self.source {
            Source::Stored(_) => self.given_bytes,
            Source::Deflate(reader) => reader.total_in(),
        };
        if packed_bytes != self.file.packed_bytes {
            return Err(self.damaged("its packed content ends early"));
        }
        if self.crc32.clone().finalize() != self.file.crc32 {
            return Err(self.damaged("its checksum is another"));
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                self.damaged("its packed content cannot be unpacked")
            }
            _ => Error::Io(error),
        }
    }

    fn damaged(&self, what: &'static str) -> Error {
        Error::Entry { name: self.file.name.clone(), fault: EntryFault::Damaged(what) }
    }
}

/// Where the directory of an archive is, and how many entries it has; all checked against the limits.
struct Directory {
    start: u64,
    bytes: u64,
    entries: u64,
}

fn find_directory<R: Read + Seek>(reader: &mut R, bytes: u64, limits: &Limits) -> Result<Directory, Error> {
    let damaged = |what| Error::Archive(ArchiveFault::Damaged(what));
    let tail_at = bytes.saturating_sub(END_BYTES + COMMENT_BYTES_MAX);
    let tail = read_at(reader, tail_at, bytes - tail_at)?;
    let end = find_end(&tail).ok_or(Error::Archive(ArchiveFault::NoEnd))?;
    let end_at = tail_at + end as u64;
    let mut fields = Fields(&tail[end + 4..]);
    let mut read = || {
        let (this_disk, first_disk) = (fields.u16()?, fields.u16()?);
        let (entries_here, entries) = (fields.u16()?, fields.u16()?);
        Some((this_disk, first_disk, entries_here, entries, fields.u32()?, fields.u32()?))
    };
    let (this_disk, first_disk, entries_here, entries, size, start) =
        read().ok_or(damaged("its end record is cut short"))?;
    let (directory, directory_end) = match find_end64(reader, end_at)? {
        Some((directory, end64_at)) => {
            let same = (entries == u16::MAX || u64::from(entries) == directory.entries)
                && (size == u32::MAX || u64::from(size) == directory.bytes)
                && (start == u32::MAX || u64::from(start) == directory.start);
            if !same {
                return Err(damaged("its two end records do not agree"));
            }
            (directory, end64_at)
        }
        None => {
            if this_disk != 0 || first_disk != 0 || entries_here != entries {
                return Err(Error::Archive(ArchiveFault::Volumes));
            }
            let directory = Directory { start: start.into(), bytes: size.into(), entries: entries.into() };
            (directory, end_at)
        }
    };
    if directory.entries > limits.entries_max as u64 {
        return Err(Error::Archive(ArchiveFault::Entries(limits.entries_max)));
    }
    if directory.bytes > limits.directory_bytes_max {
        return Err(Error::Archive(ArchiveFault::Directory(limits.directory_bytes_max)));
    }
    if directory.start.checked_add(directory.bytes) != Some(directory_end) {
        return Err(damaged("its directory is not where its end record says"));
    }
    if directory.entries.saturating_mul(ENTRY_BYTES) > directory.bytes {
        return Err(damaged("its directory is too short for its entries"));
    }
    Ok(directory)
}

/// The place of the end record in the last bytes of an archive: the last signature whose comment ends with the file.
fn find_end(tail: &[u8]) -> Option<usize> {
    let last = tail.len().checked_sub(END_BYTES as usize)?;
    (0..=last).rev().find(|at| {
        let mut fields = Fields(&tail[*at..]);
        let comment = Fields(&tail[at + END_BYTES as usize - 2..]).u16();
        fields.u32() == Some(END_SIGNATURE)
            && comment.is_some_and(|comment| at + END_BYTES as usize + usize::from(comment) == tail.len())
    })
}

/// The directory as the zip64 end record tells it, and where that record begins; `None` when there is none.
fn find_end64<R: Read + Seek>(reader: &mut R, end_at: u64) -> Result<Option<(Directory, u64)>, Error> {
    let damaged = || Error::Archive(ArchiveFault::Damaged("its zip64 end record cannot be read"));
    let Some(locator_at) = end_at.checked_sub(LOCATOR64_BYTES) else { return Ok(None) };
    let locator = read_at(reader, locator_at, LOCATOR64_BYTES)?;
    let mut fields = Fields(&locator);
    if fields.u32() != Some(LOCATOR64_SIGNATURE) {
        return Ok(None);
    }
    let (Some(disk), Some(end64_at), Some(disks)) = (fields.u32(), fields.u64(), fields.u32()) else {
        return Err(damaged());
    };
    if disk != 0 || disks > 1 {
        return Err(Error::Archive(ArchiveFault::Volumes));
    }
    // The record, without any of the data that may extend it, ends where its locator begins.
    if end64_at.checked_add(END64_BYTES) != Some(locator_at) {
        return Err(damaged());
    }
    let record = read_at(reader, end64_at, END64_BYTES)?;
    let mut fields = Fields(&record);
    if fields.u32() != Some(END64_SIGNATURE) || fields.u64() != Some(END64_BYTES - 12) {
        return Err(damaged());
    }
    let _versions = fields.u32();
    let disks = (fields.u32(), fields.u32());
    let (Some(here), Some(entries), Some(bytes), Some(start)) =
        (fields.u64(), fields.u64(), fields.u64(), fields.u64())
    else {
        return Err(damaged());
    };
    if disks != (Some(0), Some(0)) || here != entries {
        return Err(Error::Archive(ArchiveFault::Volumes));
    }
    Ok(Some((Directory { start, bytes, entries }, end64_at)))
}

/// What the directory of an archive announces.
struct Content {
    files: Vec<Entry>,
    directories: Vec<Point>,
    /// What the local header of every entry, directories included, must say.
    headers: Vec<Header>,
    total_bytes: u64,
}

/// What both headers of an entry must agree on.
struct Header {
    at: u64,
    raw_name: Vec<u8>,
    flags: u16,
    method: u16,
    crc32: u32,
    packed_bytes: u64,
    bytes: u64,
    /// The file that it is of; directories have none.
    file: Option<usize>,
}

fn read_directory<R: Read + Seek>(
    reader: &mut R,
    directory: &Directory,
    holder: &Point,
    limits: &Limits,
) -> Result<Content, Error> {
    let damaged = || Error::Archive(ArchiveFault::Damaged("its directory is not what its end record says"));
    let raw = read_at(reader, directory.start, directory.bytes)?;
    let mut fields = Fields(&raw);
    let mut content =
        Content { files: Vec::new(), directories: Vec::new(), headers: Vec::new(), total_bytes: 0 };
    let mut names = Names::default();
    for _ in 0..directory.entries {
        if fields.u32() != Some(ENTRY_SIGNATURE) {
            return Err(damaged());
        }
        let record = Record::read(&mut fields).ok_or_else(damaged)?;
        let (mut header, special) = record.header()?;
        let shown = || show(record.name);
        let fault = |fault| Error::Entry { name: shown(), fault };
        if header.flags & FLAGS_UNREADABLE != 0 {
            return Err(fault(EntryFault::Encrypted));
        }
        if let Some(what) = special {
            return Err(fault(EntryFault::Special(what)));
        }
        let method = match header.method {
            0 => Method::Stored,
            8 => Method::Deflate,
            other => return Err(fault(EntryFault::Method(other))),
        };
        if method == Method::Stored && header.packed_bytes != header.bytes {
            return Err(fault(EntryFault::Contradiction("stored content is as long packed as unpacked")));
        }
        if header.at.saturating_add(LOCAL_BYTES).saturating_add(header.packed_bytes) > directory.start {
            return Err(fault(EntryFault::Damaged("its content is not within the archive")));
        }
        let point = point_of(record.name, holder, limits).map_err(fault)?;
        names.add(&point, holder).map_err(fault)?;
        if names.directories.len() + names.files.len() > limits.entries_max {
            return Err(Error::Archive(ArchiveFault::Entries(limits.entries_max)));
        }
        if point.is_directory() {
            if header.bytes != 0 {
                return Err(fault(EntryFault::Contradiction("a directory has no content")));
            }
        } else {
            if header.bytes > limits.file_bytes_max {
                return Err(fault(EntryFault::Bytes(limits.file_bytes_max)));
            }
            if header.bytes > limits.ratio_free_bytes
                && header.bytes > header.packed_bytes.saturating_mul(limits.ratio_max)
            {
                return Err(fault(EntryFault::Ratio(limits.ratio_max)));
            }
            content.total_bytes = content.total_bytes.saturating_add(header.bytes);
            if content.total_bytes > limits.total_bytes_max {
                return Err(Error::Archive(ArchiveFault::Total(limits.total_bytes_max)));
            }
            header.file = Some(content.files.len());
            content.files.push(Entry {
                point,
                bytes: header.bytes,
                name: shown(),
                packed_bytes: header.packed_bytes,
                method,
                crc32: header.crc32,
                content_at: 0,
            });
        }
        content.headers.push(header);
    }
    if !fields.0.is_empty() {
        return Err(damaged());
    }
    content.directories = names.directories.into_iter().collect();
    Ok(content)
}

/// One record of the directory, with the names and extra fields that follow it.
struct Record<'a> {
    flags: u16,
    method: u16,
    crc32: u32,
    packed_bytes: u32,
    bytes: u32,
    name: &'a [u8],
    extra: &'a [u8],
    disk: u16,
    attributes: u32,
    at: u32,
}

impl<'a> Record<'a> {
    fn read(fields: &mut Fields<'a>) -> Option<Self> {
        let _versions = fields.u32()?;
        let (flags, method) = (fields.u16()?, fields.u16()?);
        let _modified = fields.u32()?;
        let (crc32, packed_bytes, bytes) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (name, extra, comment) = (fields.u16()?, fields.u16()?, fields.u16()?);
        let disk = fields.u16()?;
        let _internal = fields.u16()?;
        let (attributes, at) = (fields.u32()?, fields.u32()?);
        let (name, extra) = (fields.take(name.into())?, fields.take(extra.into())?);
        let _comment = fields.take(comment.into())?;
        Some(Self { flags, method, crc32, packed_bytes, bytes, name, extra, disk, attributes, at })
    }

    /// The record with its zip64 values in place, and what it is when neither file nor directory.
    fn header(&self) -> Result<(Header, Option<&'static str>), Error> {
        let fault = |fault| Error::Entry { name: show(self.name), fault };
        let damaged = || fault(EntryFault::Damaged("its extra fields cannot be read"));
        let (mut bytes, mut packed_bytes, mut at) =
            (u64::from(self.bytes), u64::from(self.packed_bytes), u64::from(self.at));
        let mut disk = u32::from(self.disk);
        let mut extra = Fields(self.extra);
        let mut zip64 = false;
        // Some tools pad with fewer bytes than a field has.
        while extra.0.len() >= 4 {
            let (Some(id), Some(length)) = (extra.u16(), extra.u16()) else { return Err(damaged()) };
            let mut field = Fields(extra.take(length.into()).ok_or_else(damaged)?);
            match id {
                EXTRA_ZIP64 if !zip64 => {
                    zip64 = true;
                    for value in [&mut bytes, &mut packed_bytes, &mut at] {
                        if *value == u64::from(u32::MAX) {
                            *value = field.u64().ok_or_else(damaged)?;
                        }
                    }
                    if self.disk == u16::MAX {
                        disk = field.u32().ok_or_else(damaged)?;
                    }
                }
                EXTRA_ZIP64 => return Err(fault(EntryFault::Contradiction("it has two zip64 fields"))),
                // Version, checksum of the name it replaces, name (Info-ZIP).
                EXTRA_UNICODE_PATH if field.0.get(5..) != Some(self.name) => {
                    return Err(fault(EntryFault::Contradiction("it has two names")));
                }
                _ => {}
            }
        }
        if disk != 0 {
            return Err(Error::Archive(ArchiveFault::Volumes));
        }
        let directory = self.name.ends_with(b"/");
        let special = match self.attributes >> 28 {
            // No type is told, or that of a file or a directory.
            0 => None,
            0o10 if !directory => None,
            0o04 if directory => None,
            0o12 => Some("a symbolic link"),
            0o01 | 0o14 => Some("a pipe or a socket"),
            0o02 | 0o06 => Some("a device"),
            _ => Some("of another type than its name tells"),
        };
        let header = Header {
            at,
            raw_name: self.name.to_owned(),
            flags: self.flags,
            method: self.method,
            crc32: self.crc32,
            packed_bytes,
            bytes,
            file: None,
        };
        Ok((header, special))
    }
}

pub(crate) fn point_of(raw_name: &[u8], holder: &Point, limits: &Limits) -> Result<Point, EntryFault> {
    // Names without the UTF-8 flag are read as UTF-8 too: what is plain ASCII is the same in both, and many tools
    // write UTF-8 without saying so.
    let name = std::str::from_utf8(raw_name).map_err(|_| EntryFault::NameEncoding)?;
    let wrong = |at: usize, length: usize, reason: &str| {
        let shown = |end: usize| show(raw_name.get(..end).unwrap_or(raw_name)).len();
        let (start, end) = (shown(at), shown(at + length));
        EntryFault::Name(PointError { at: start, length: end - start, reason: reason.to_owned() })
    };
    if name.is_empty() {
        return Err(wrong(0, 0, "it is empty"));
    }
    if name.starts_with('/') {
        return Err(wrong(0, 1, "it is absolute: a name does not begin with `/`"));
    }
    if let Some(at) = name.find(':') {
        return Err(wrong(at, 1, "`:` cannot stand in the name of an archive's entry"));
    }
    if name.strip_suffix('/').unwrap_or(name).split('/').count() > limits.depth_max {
        return Err(EntryFault::Depth(limits.depth_max));
    }
    holder.join_path(&format!("/{name}")).map_err(|error| {
        // It counts from the beginning of the point; what it says of the whole point is about all of the name.
        let before = holder.as_str().len() + 2;
        let at = error.at.saturating_sub(before);
        wrong(at, if error.at < before { name.len() } else { error.length }, &error.reason)
    })
}

/// The names seen so far: every directory, named or implied, and every file.
#[derive(Default)]
struct Names {
    files: BTreeSet<Point>,
    directories: BTreeSet<Point>,
    named_directories: BTreeSet<Point>,
}

impl Names {
    fn add(&mut self, point: &Point, holder: &Point) -> Result<(), EntryFault> {
        let (first_time, twin) = if point.is_directory() {
            self.directories.insert(point.clone());
            (self.named_directories.insert(point.clone()), point.as_str().trim_end_matches('/').to_owned())
        } else {
            (self.files.insert(point.clone()), format!("{point}/"))
        };
        if !first_time {
            return Err(EntryFault::Duplicate);
        }
        let other = if point.is_directory() { &self.files } else { &self.directories };
        if other.contains(twin.as_str()) {
            return Err(EntryFault::FileAndDirectory);
        }
        for directory in point.ancestors().take_while(|above| above != holder) {
            if self.files.contains(directory.as_str().trim_end_matches('/')) {
                return Err(EntryFault::FileAndDirectory);
            }
            if !self.directories.insert(directory) {
                break;
            }
        }
        Ok(())
    }
}

/// Checks every local header against the directory, that no two entries share bytes, and finds where content begins.
fn check_local_headers<R: Read + Seek>(
    reader: &mut R,
    files: &mut [Entry],
    headers: &mut [Header],
    directory_at: u64,
) -> Result<(), Error> {
    headers.sort_by_key(|header| header.at);
    let starts: Vec<u64> = headers.iter().map(|header| header.at).chain([directory_at]).collect();
    for (header, next_at) in headers.iter().zip(starts.into_iter().skip(1)) {
        let fault = |fault| Error::Entry { name: show(&header.raw_name), fault };
        // Both lengths are at most 65,535 and 4 MiB of names were read before.
        let local = read_at(reader, header.at, LOCAL_BYTES + header.raw_name.len() as u64)?;
        let content_at = check_local_header(&local, header).map_err(fault)?;
        if content_at + header.packed_bytes > next_at {
            return Err(fault(EntryFault::Overlap));
        }
        if let Some(file) = header.file.and_then(|file| files.get_mut(file)) {
            file.content_at = content_at;
        }
    }
    Ok(())
}

fn check_local_header(local: &[u8], header: &Header) -> Result<u64, EntryFault> {
    let damaged = EntryFault::Damaged("its local header is missing");
    let mut fields = Fields(local);
    if fields.u32() != Some(LOCAL_SIGNATURE) {
        return Err(damaged);
    }
    let mut read = || {
        let _version = fields.u16()?;
        let (flags, method) = (fields.u16()?, fields.u16()?);
        let _modified = fields.u32()?;
        let (crc32, packed_bytes, bytes) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (name_bytes, extra_bytes) = (fields.u16()?, fields.u16()?);
        Some((flags, method, crc32, packed_bytes, bytes, name_bytes, extra_bytes))
    };
    let (flags, method, crc32, packed_bytes, bytes, name_bytes, extra_bytes) = read().ok_or(damaged)?;
    if usize::from(name_bytes) != header.raw_name.len() || fields.0 != header.raw_name {
        return Err(EntryFault::Contradiction("its two headers have two names"));
    }
    if flags & FLAGS_UNREADABLE != 0 {
        return Err(EntryFault::Encrypted);
    }
    if method != header.method {
        return Err(EntryFault::Contradiction("its two headers have two methods"));
    }
    let same = |local: u32, told: u64| local == u32::MAX || u64::from(local) == told;
    if flags & FLAG_SIZES_FOLLOW == 0
        && !(crc32 == header.crc32 && same(packed_bytes, header.packed_bytes) && same(bytes, header.bytes))
    {
        return Err(EntryFault::Contradiction("its two headers have two lengths or checksums"));
    }
    Ok(header.at + LOCAL_BYTES + u64::from(name_bytes) + u64::from(extra_bytes))
}

/// Reads an archive to its end and checks what must hold whatever its bytes are: the body of a fuzz target.
///
/// # Panics
/// When something does not hold.
pub fn check_archive(bytes: &[u8]) {
    let limits = Limits {
        archive_bytes_max: 1 << 20,
        file_bytes_max: 1 << 20,
        total_bytes_max: 2 << 20,
        ratio_free_bytes: 1 << 16,
        ..Limits::default()
    };
    let Ok(holder) = "fuzz:repo:site:1.0.0".parse::<Point>() else { return };
    let Ok(mut archive) = Archive::open(io::Cursor::new(bytes), &holder, &limits) else { return };
    let files = archive.files().to_vec();
    assert!(files.len() + archive.directories().len() <= limits.entries_max);
    assert!(archive.total_bytes() <= limits.total_bytes_max);
    for directory in archive.directories() {
        assert!(holder.contains(directory) && directory.is_directory());
        assert!(!files.iter().any(|file| directory.as_str().strip_suffix('/') == Some(file.point.as_str())));
    }
    let mut piece = [0; 4096];
    for file in files {
        assert!(holder.contains(&file.point) && !file.point.is_directory() && file.point != holder);
        for above in file.point.ancestors().take_while(|above| *above != holder) {
            assert!(archive.directories().binary_search(&above).is_ok());
        }
        let Ok(mut unpacking) = archive.unpack(&file) else { continue };
        let mut given = 0;
        while let Ok(read @ 1..) = unpacking.read(&mut piece) {
            given += read as u64;
            assert!(given <= file.bytes);
        }
    }
}

/// Reads a stretch whose length the caller has checked.
fn read_at<R: Read + Seek>(reader: &mut R, at: u64, bytes: u64) -> Result<Vec<u8>, Error> {
    reader.seek(SeekFrom::Start(at))?;
    let mut stretch = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    reader.read_exact(&mut stretch).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Archive(ArchiveFault::Damaged("it is cut short")),
        _ => Error::Io(error),
    })?;
    Ok(stretch)
}

/// A name as it can be shown in an error.
fn show(raw_name: &[u8]) -> String {
    String::from_utf8_lossy(raw_name).chars().take(200).flat_map(char::escape_debug).collect()
}

/// Little-endian fields, as far as there are any.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (front, back) = self.0.split_at_checked(bytes)?;
        self.0 = back;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
