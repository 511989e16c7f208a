//! A write-ahead log under a file: what is written between two syncs is made durable in one piece, with one sync of the log,
//! and reaches the file later, that of many syncs at once.
//!
//! A disk may tear what was not synced. An engine that writes in place therefore syncs twice for each commit: its pages,
//! and then what names them. With the log once is enough: a record is whole, and then all of it counts, or nothing of it does
//! (write-ahead logging, Mohan et al., ARIES, 1992; whole blocks, as SQLite's WAL has them).
//!
//! The log begins with its header, twice, and goes on with records, each from a whole block on:
//!
//! ```text
//! header  magic 8 | generation 8 | length of the log 8 | key 32 | what the file began with 32 | sum 32
//! record  magic 8 | number 8 | bytes kept 8 | length 8 | blocks 8 | sum so far 8 | sum 32 | number of each block 8 … | blocks 4096 …
//! ```
//!
//! A generation ends with a checkpoint: all its blocks are in the file, and the file is synced. The sums of its records are made
//! with its key, which nobody knows who could have put bytes into blocks; so neither what an older generation left nor what a
//! user stored is taken for a record. Whoever opened the file begins a generation of its own before it writes: what it found
//! in the log is in the file then, for sure, and the new one begins with what the file begins with.
//!
//! One thread writes and syncs; any may read meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use redb::{BackendError, StorageBackend};
use sha2::{Digest, Sha256};

/// What the log keeps whole.
const BLOCK: usize = 4096;
const BLOCK_U64: u64 = BLOCK as u64;
/// Where records begin: the header is there twice.
const START: u64 = 2 * BLOCK_U64;
/// How long a log is at first; each one that was filled makes the next one twice as long.
const CAPACITY_MIN: u64 = 256 * 1024;
/// The most that one write brings to the file.
const RUN_BYTES_MAX: usize = 1024 * 1024;

const HEADER_MAGIC: &[u8; 8] = b"sl-wal 1";
const HEADER_BYTES: usize = 120;
const RECORD_MAGIC: &[u8; 8] = b"sl-piece";
/// A record up to the sum of that, up to the sum of all the rest, and with it.
const SIZES_BYTES: usize = 40;
const UNSUMMED_BYTES: usize = SIZES_BYTES + 8;
const FRONT_BYTES: usize = UNSUMMED_BYTES + 32;
/// How much of the file tells it from another one. It begins with what changes with every commit.
const BEGINNING_BYTES: usize = 512;

const OF_ANOTHER: &str = "its log, the file beside it that ends in `.wal`, is that of another file: move it to where its own file went";

type Block = Box<[u8; BLOCK]>;
type Blocks = BTreeMap<u64, Block>;

/// A file with its log. It is read when it is first used, after whoever uses it has locked it.
#[derive(Debug)]
pub(super) struct Logged {
    file: Box<dyn StorageBackend>,
    log: Box<dyn StorageBackend>,
    /// How long the log may become before its blocks go to the file; one record may be longer.
    capacity_max: u64,
    /// Whether anybody was promised anything: until then nothing has to be durable.
    promises: Arc<AtomicBool>,
    is_read: AtomicBool,
    view: RwLock<View>,
    /// Taken before the view.
    tail: Mutex<Tail>,
}

/// What the file holds together with what it does not hold yet.
#[derive(Debug, Default)]
struct View {
    /// Written since the last sync.
    dirty: Blocks,
    /// In the log, and not in the file.
    logged: Blocks,
    /// How long it is as of the last write.
    bytes: u64,
    /// The shortest that it was since the last sync, when it was cut.
    cut: Option<u64>,
    /// As of the last sync.
    extent: Extent,
}

/// How long the file is, and how much of what it holds itself still counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Extent {
    bytes: u64,
    kept: u64,
}

/// Where the log goes on.
#[derive(Debug, Default)]
struct Tail {
    /// The generation, of this process or of one before.
    generation: u64,
    /// Of a generation that was begun here. No other is gone on with.
    key: Option<[u8; 32]>,
    end: u64,
    /// What the next record is called.
    number: u64,
    /// How long the log is.
    capacity: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    generation: u64,
    /// How long the log is at least.
    capacity: u64,
    key: [u8; 32],
    /// The sum of what the file began with.
    base: [u8; 32],
}

/// A record as it was read.
struct Record {
    extent: Extent,
    blocks: Blocks,
    bytes: u64,
}

impl Logged {
    /// Puts a log under a file. Before it `promises`, what is written stays in memory: what an engine mends while it opens a file
    /// it can mend again, and so a file can be opened and read on a disk that is full.
    pub(super) fn new(
        file: Box<dyn StorageBackend>,
        log: Box<dyn StorageBackend>,
        capacity_max: u64,
        promises: Arc<AtomicBool>,
    ) -> Self {
        Self {
            file,
            log,
            capacity_max: capacity_max.max(CAPACITY_MIN),
            promises,
            is_read: AtomicBool::new(false),
            view: RwLock::default(),
            tail: Mutex::default(),
        }
    }

    /// Reads the log, once.
    fn ready(&self) -> io::Result<()> {
        if self.is_read.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut tail = self.tail.lock();
        if !self.is_read.load(Ordering::Acquire) {
            *tail = self.replay(&mut self.view.write())?;
            self.is_read.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn replay(&self, view: &mut View) -> io::Result<Tail> {
        let bytes = self.file.len()?;
        view.extent = Extent { bytes, kept: bytes };
        view.bytes = bytes;
        let capacity = self.log.len()?;
        let mut tail = Tail { generation: 0, key: None, end: START, number: 1, capacity };
        let Some(header) = self.read_header(capacity)? else {
            // One that was never whole is as good as none, unless records came after it.
            let mut begins = false;
            self.each_front(0, capacity, |_, front| begins |= front.starts_with(RECORD_MAGIC))?;
            return if begins { Err(damaged("its log has no header")) } else { Ok(tail) };
        };
        if capacity < header.capacity {
            return Err(damaged("its log is shorter than it was"));
        }
        let (mut kept, mut last) = (u64::MAX, START);
        while let Some(record) = self.read_record(&header.key, tail.end, tail.number, capacity)? {
            view.logged.extend(record.blocks);
            kept = kept.min(record.extent.kept);
            view.extent = Extent { kept: view.extent.kept.min(kept), ..record.extent };
            last = tail.end;
            tail.end += record.bytes;
            tail.number += 1;
        }
        // The last record may have been torn by a power cut, but nothing was written after that.
        let mut goes_on = false;
        self.each_front(tail.end, capacity, |_, front| {
            goes_on |= u64_at(front, 8) > tail.number && is_front(&header.key, front);
        })?;
        if goes_on {
            return Err(damaged("a record of its log is not what was written"));
        }
        // When the file was cut to less, the log holds all that it begins with.
        let is_bare = kept < BEGINNING_BYTES as u64;
        if tail.number > 1 && !is_bare && !self.is_of_this_file(&header, view)? {
            return Err(damaged(OF_ANOTHER));
        }
        view.bytes = view.extent.bytes;
        tail.generation = header.generation;
        // What was written and not synced counts from now on, so it must not go away any more. After a sync that failed a system
        // may take it for written though it is not: it is written again.
        if tail.end > last {
            let mut record = vec![0; (tail.end - last) as usize];
            self.log.read(last, &mut record)?;
            self.log.write(last, &record)?;
            self.write_header(&header)?;
        }
        self.log.sync_data()?;
        Ok(tail)
    }

    /// Whether the file is what it was when the log began, or what the log made of it since.
    fn is_of_this_file(&self, header: &Header, view: &View) -> io::Result<bool> {
        let found = self.beginning()?;
        let is_logged = |block: &Block| block[..BEGINNING_BYTES] == found;
        Ok(sum(&found) == header.base || view.logged.get(&0).is_some_and(is_logged))
    }

    /// What the file begins with.
    fn beginning(&self) -> io::Result<[u8; BEGINNING_BYTES]> {
        let mut found = [0; BEGINNING_BYTES];
        let there = self.file.len()?.min(BEGINNING_BYTES as u64) as usize;
        self.file.read(0, &mut found[..there])?;
        Ok(found)
    }

    fn read_header(&self, capacity: u64) -> io::Result<Option<Header>> {
        let mut newest: Option<Header> = None;
        for at in [0, BLOCK_U64] {
            let mut bytes = [0; HEADER_BYTES];
            if capacity < at + HEADER_BYTES as u64 {
                continue;
            }
            self.log.read(at, &mut bytes)?;
            if let Some(header) = Header::decode(&bytes)
                && newest.as_ref().is_none_or(|newest| newest.generation < header.generation)
            {
                newest = Some(header);
            }
        }
        Ok(newest)
    }

    /// The record that begins somewhere, if it is whole.
    fn read_record(&self, key: &[u8; 32], at: u64, number: u64, capacity: u64) -> io::Result<Option<Record>> {
        let mut front = [0; FRONT_BYTES];
        if capacity < at + FRONT_BYTES as u64 {
            return Ok(None);
        }
        self.log.read(at, &mut front)?;
        let count = u64_at(&front, 32);
        let is_one = u64_at(&front, 8) == number && is_front(key, &front);
        let bytes = record_bytes(count).filter(|bytes| is_one && *bytes <= capacity - at);
        let Some(bytes) = bytes else { return Ok(None) };
        let mut record = vec![0; bytes as usize];
        self.log.read(at, &mut record)?;
        if record_sum(key, &record)[..] != record[UNSUMMED_BYTES..FRONT_BYTES] {
            return Ok(None);
        }
        let extent = Extent { kept: u64_at(&record, 16), bytes: u64_at(&record, 24) };
        let content = record.len() - count as usize * BLOCK;
        let blocks = (0..count as usize).map(|n| {
            let mut block: Block = Box::new([0; BLOCK]);
            block.copy_from_slice(&record[content + n * BLOCK..][..BLOCK]);
            (u64_at(&record, FRONT_BYTES + n * 8), block)
        });
        Ok(Some(Record { extent, blocks: blocks.collect(), bytes }))
    }

    /// Looks at the beginning of every block of the log where a record could begin.
    fn each_front(&self, from: u64, until: u64, mut look: impl FnMut(u64, &[u8])) -> io::Result<()> {
        let mut piece = vec![0; RUN_BYTES_MAX];
        let mut at = from;
        while at < until {
            let piece = &mut piece[..RUN_BYTES_MAX.min((until - at) as usize)];
            self.log.read(at, piece)?;
            for (n, block) in piece.chunks(BLOCK).enumerate().filter(|(_, block)| block.len() >= FRONT_BYTES)
            {
                look(at + (n * BLOCK) as u64, &block[..FRONT_BYTES]);
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// A block as it is now.
    fn read_block(&self, view: &View, number: u64, out: &mut [u8; BLOCK]) -> io::Result<()> {
        if let Some(known) = view.dirty.get(&number).or_else(|| view.logged.get(&number)) {
            out.copy_from_slice(&known[..]);
            return Ok(());
        }
        let at = number * BLOCK_U64;
        let kept = view.kept().saturating_sub(at).min(BLOCK_U64) as usize;
        out[kept..].fill(0);
        match kept {
            0 => Ok(()),
            _ => self.file.read(at, &mut out[..kept]),
        }
    }

    /// Brings what is in the log to the file.
    fn checkpoint(&self) -> io::Result<()> {
        let extent = {
            let view = self.view.read();
            let extent = view.extent;
            if extent.kept < self.file.len()? {
                self.file.set_len(extent.kept)?;
            }
            view.each_run(|at, bytes| self.file.write(at, bytes))?;
            if extent.bytes != self.file.len()? {
                self.file.set_len(extent.bytes)?;
            }
            extent
        };
        self.file.sync_data()?;
        let mut view = self.view.write();
        view.logged.clear();
        view.extent = Extent { bytes: extent.bytes, kept: extent.bytes };
        Ok(())
    }

    /// Begins the log anew, after a checkpoint; `wanted` is how long it should be.
    fn begin(&self, tail: &mut Tail, wanted: u64) -> io::Result<()> {
        if tail.capacity == 0 {
            // One that was cut off when the file was closed must be gone before another is written in its place.
            self.log.sync_data()?;
        }
        let wanted = wanted.clamp(CAPACITY_MIN, self.capacity_max);
        let capacity = self.grow(tail.capacity, wanted).min(wanted);
        // What the header says of the length must hold when it is read.
        self.log.sync_data()?;
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
        let generation = tail.generation + 1;
        let header = Header { generation, capacity, key, base: sum(&self.beginning()?) };
        self.write_header(&header)?;
        self.log.sync_data()?;
        let capacity = match capacity < tail.capacity {
            true => self.log.set_len(capacity).map_or(tail.capacity, |()| capacity),
            false => capacity,
        };
        *tail = Tail { generation, key: Some(key), end: START, number: 1, capacity };
        Ok(())
    }

    /// Either is enough, and until both are there the log before may as well be gone through again.
    fn write_header(&self, header: &Header) -> io::Result<()> {
        let bytes = header.encode();
        self.log.write(0, &bytes)?;
        self.log.write(BLOCK_U64, &bytes)
    }

    /// Makes the log so long, with blocks that are really there: a sync of what is written into them has nothing else to write
    /// down. How long it is now.
    fn grow(&self, is: u64, wanted: u64) -> u64 {
        let zeros = vec![0; RUN_BYTES_MAX.min(wanted.saturating_sub(is) as usize)];
        let mut is = is;
        while is < wanted {
            let piece = &zeros[..zeros.len().min((wanted - is) as usize)];
            // A disk that has no room for more has to do with the log that there is.
            if self.log.write(is, piece).is_err() {
                break;
            }
            is += piece.len() as u64;
        }
        is
    }
}

impl StorageBackend for Logged {
    fn len(&self) -> io::Result<u64> {
        self.ready()?;
        Ok(self.view.read().bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.ready()?;
        let view = self.view.read();
        let end = offset + out.len() as u64;
        if end > view.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let span = offset / BLOCK_U64..end.div_ceil(BLOCK_U64);
        let is_in_file = |blocks: &Blocks| blocks.range(span.clone()).next().is_none();
        if end <= view.kept() && is_in_file(&view.dirty) && is_in_file(&view.logged) {
            return self.file.read(offset, out);
        }
        let mut block: Block = Box::new([0; BLOCK]);
        for number in span {
            let block_at = number * BLOCK_U64;
            let (from, until) = (offset.max(block_at), end.min(block_at + BLOCK_U64));
            self.read_block(&view, number, &mut block)?;
            out[(from - offset) as usize..(until - offset) as usize]
                .copy_from_slice(&block[(from - block_at) as usize..(until - block_at) as usize]);
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.ready()?;
        let mut view = self.view.write();
        if length < view.bytes {
            view.cut(length);
        }
        view.bytes = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.ready()?;
        if !self.promises.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut tail = self.tail.lock();
        let bytes = {
            let view = self.view.read();
            if !view.is_changed() {
                return Ok(());
            }
            record_bytes(view.dirty.len() as u64)
        };
        let end = bytes.and_then(|bytes| tail.end.checked_add(bytes));
        let is_full = tail.end > START && end.is_none_or(|end| end > tail.capacity);
        if is_full || tail.key.is_none() {
            let wanted = if tail.key.take().is_some() { 2 * tail.capacity } else { tail.capacity };
            self.checkpoint()?;
            self.begin(&mut tail, wanted)?;
        }
        let Some(key) = &tail.key else { return Err(io::Error::other("the log was not begun")) };
        let (record, extent) = self.view.read().record(key, tail.number);
        self.log.write(tail.end, &record)?;
        self.log.sync_data()?;
        tail.end += record.len() as u64;
        tail.number += 1;
        tail.capacity = tail.capacity.max(tail.end);
        let mut view = self.view.write();
        let dirty = std::mem::take(&mut view.dirty);
        view.logged.extend(dirty);
        view.cut = None;
        view.extent = extent;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ready()?;
        let mut view = self.view.write();
        let end = offset + data.len() as u64;
        view.bytes = view.bytes.max(end);
        for number in offset / BLOCK_U64..end.div_ceil(BLOCK_U64) {
            let block_at = number * BLOCK_U64;
            let (from, until) = (offset.max(block_at), end.min(block_at + BLOCK_U64));
            let data = &data[(from - offset) as usize..(until - offset) as usize];
            if !view.dirty.contains_key(&number) {
                let mut block: Block = Box::new([0; BLOCK]);
                if data.len() < BLOCK {
                    self.read_block(&view, number, &mut block)?;
                }
                view.dirty.insert(number, block);
            }
            if let Some(block) = view.dirty.get_mut(&number) {
                block[(from - block_at) as usize..(until - block_at) as usize].copy_from_slice(data);
            }
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        let mut tail = self.tail.lock();
        let left = if tail.end > START { self.checkpoint() } else { Ok(()) };
        // Whoever is without a log needs none: it is gone when all is in the file. What could not be brought there is in the log
        // for the next time.
        let left = match tail.capacity {
            0 => left,
            _ => left.and_then(|()| self.log.set_len(0)),
        };
        *tail = Tail::default();
        left.and(self.log.close()).and(self.file.close())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

impl View {
    /// How much of what the file holds itself still counts.
    fn kept(&self) -> u64 {
        self.cut.map_or(self.extent.kept, |cut| cut.min(self.extent.kept))
    }

    fn is_changed(&self) -> bool {
        !self.dirty.is_empty() || self.cut.is_some() || self.bytes != self.extent.bytes
    }

    /// Nothing is left from there on; what is written there later is written onto zeros.
    fn cut(&mut self, length: u64) {
        self.cut = Some(self.cut.map_or(length, |cut| cut.min(length)));
        let first = length.div_ceil(BLOCK_U64);
        let gone: Vec<u64> =
            self.dirty.range(first..).chain(self.logged.range(first..)).map(|(n, _)| *n).collect();
        for number in gone {
            self.dirty.insert(number, Box::new([0; BLOCK]));
        }
        let (last, rest) = (length / BLOCK_U64, (length % BLOCK_U64) as usize);
        if rest > 0 {
            let logged = self.logged.get(&last).filter(|_| !self.dirty.contains_key(&last)).cloned();
            if let Some(block) = logged {
                self.dirty.insert(last, block);
            }
            if let Some(block) = self.dirty.get_mut(&last) {
                block[rest..].fill(0);
            }
        }
    }

    /// What was written since the last sync, as a record.
    fn record(&self, key: &[u8; 32], number: u64) -> (Vec<u8>, Extent) {
        let extent = Extent { bytes: self.bytes, kept: self.kept() };
        let count = self.dirty.len();
        let content = content_at(count);
        let mut record = Vec::with_capacity(content + count * BLOCK);
        record.extend_from_slice(RECORD_MAGIC);
        for size in [number, extent.kept, extent.bytes, count as u64] {
            record.extend_from_slice(&size.to_le_bytes());
        }
        let sum = sizes_sum(key, &record);
        record.extend_from_slice(&sum);
        record.extend_from_slice(&[0; 32]);
        for number in self.dirty.keys() {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.resize(content, 0);
        for block in self.dirty.values() {
            record.extend_from_slice(&block[..]);
        }
        let sum = record_sum(key, &record);
        record[UNSUMMED_BYTES..FRONT_BYTES].copy_from_slice(&sum);
        (record, extent)
    }

    /// What is in the log and not in the file, in pieces without gaps.
    fn each_run(&self, mut take: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut run = Vec::new();
        let mut begins = 0;
        for (number, block) in self.logged.range(..self.extent.bytes.div_ceil(BLOCK_U64)) {
            let at = number * BLOCK_U64;
            if at != begins + run.len() as u64 || run.len() >= RUN_BYTES_MAX {
                if !run.is_empty() {
                    take(begins, &run)?;
                }
                run.clear();
                begins = at;
            }
            run.extend_from_slice(&block[..]);
        }
        if run.is_empty() { Ok(()) } else { take(begins, &run) }
    }
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(HEADER_MAGIC);
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.capacity.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.key);
        bytes[56..88].copy_from_slice(&self.base);
        let sum = Sha256::digest(&bytes[..88]);
        bytes[88..].copy_from_slice(&sum);
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let is_whole = bytes.starts_with(HEADER_MAGIC) && Sha256::digest(&bytes[..88])[..] == bytes[88..];
        let (mut key, mut base) = ([0; 32], [0; 32]);
        key.copy_from_slice(&bytes[24..56]);
        base.copy_from_slice(&bytes[56..88]);
        is_whole.then(|| Self { generation: u64_at(bytes, 8), capacity: u64_at(bytes, 16), key, base })
    }
}

/// Where the blocks of a record begin.
fn content_at(count: usize) -> usize {
    (FRONT_BYTES + count * 8).next_multiple_of(BLOCK)
}

/// How long a record of so many blocks is.
fn record_bytes(count: u64) -> Option<u64> {
    let numbers = count.checked_mul(8)?.checked_add(FRONT_BYTES as u64)?;
    numbers.checked_next_multiple_of(BLOCK_U64)?.checked_add(count.checked_mul(BLOCK_U64)?)
}

fn sum(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn sizes_sum(key: &[u8; 32], record: &[u8]) -> [u8; 8] {
    let sum = Sha256::new().chain_update(key).chain_update(&record[..SIZES_BYTES]).finalize();
    let mut short = [0; 8];
    short.copy_from_slice(&sum[..8]);
    short
}

/// Whether a record of this generation begins so.
fn is_front(key: &[u8; 32], front: &[u8]) -> bool {
    front.starts_with(RECORD_MAGIC) && front[SIZES_BYTES..UNSUMMED_BYTES] == sizes_sum(key, front)
}

/// The sum of all of a record but itself.
fn record_sum(key: &[u8; 32], record: &[u8]) -> [u8; 32] {
    let (sizes, rest) = (&record[..UNSUMMED_BYTES], &record[FRONT_BYTES..]);
    Sha256::new().chain_update(key).chain_update(sizes).chain_update(rest).finalize().into()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Of this kind redb's user takes it for damage, not for a disk that does not play along.
fn damaged(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::super::disk::{Disk, Random};
    use super::*;

    fn open(disk: &Disk) -> Logged {
        open_with(disk, CAPACITY_MIN)
    }

    fn open_with(disk: &Disk, capacity_max: u64) -> Logged {
        let [file, log] = disk.files();
        Logged::new(Box::new(file), Box::new(log), capacity_max, Arc::new(AtomicBool::new(true)))
    }

    fn contents(logged: &Logged) -> Vec<u8> {
        let mut bytes = vec![0; logged.len().unwrap() as usize];
        logged.read(0, &mut bytes).unwrap();
        bytes
    }

    /// Whoever uses it writes anywhere, cuts, lets it grow, looks and syncs; a simple vector says what must be there.
    fn step(logged: &Logged, model: &mut Vec<u8>, random: &mut Random) {
        match random.below(10) {
            0 => {
                let length = random.below(300_000);
                logged.set_len(length as u64).unwrap();
                model.resize(length, 0);
            }
            1..=3 if !model.is_empty() => {
                let from = random.below(model.len());
                let mut found = vec![0; random.below(20_000.min(model.len() - from))];
                logged.read(from as u64, &mut found).unwrap();
                assert_eq!(found, model[from..from + found.len()]);
            }
            _ => {
                let (at, byte) = (random.below(300_000), random.next() as u8);
                let data = vec![byte; random.below(30_000)];
                let end = at + data.len();
                if model.len() < end {
                    model.resize(end, 0);
                    logged.set_len(end as u64).unwrap();
                }
                logged.write(at as u64, &data).unwrap();
                model[at..end].copy_from_slice(&data);
            }
        }
    }

    #[test]
    fn it_is_the_file_that_it_seems_to_be_and_a_power_cut_takes_it_back_to_a_sync() {
        let (mut cuts, mut closes) = (0, 0);
        for seed in 0..60 {
            let mut random = Random(seed);
            let mut disk = Disk::default();
            let capacity_max = CAPACITY_MIN << (seed % 3);
            let open = |disk: &Disk| open_with(disk, capacity_max);
            let mut logged = open(&disk);
            let (mut model, mut synced) = (Vec::new(), Vec::new());
            for number in 0..400u64 {
                // What it begins with is never the same.
                if model.len() >= 8 {
                    logged.write(0, &number.to_le_bytes()).unwrap();
                    model[..8].copy_from_slice(&number.to_le_bytes());
                }
                match random.below(60) {
                    0..12 => {
                        logged.sync_data().unwrap();
                        synced.clone_from(&model);
                    }
                    12 => {
                        // What was not synced may be lost with the process.
                        logged.close().unwrap();
                        logged = open(&disk);
                        model.clone_from(&synced);
                        closes += 1;
                    }
                    13..16 => {
                        // In the middle of a sync or of what it takes with it, or between two.
                        let next = disk.0.lock().syncs + random.below(5) as u64;
                        disk.0.lock().cut_at = Some(next);
                        let is_synced = logged.sync_data().is_ok();
                        let found = disk.0.lock().after_power_cut(&mut random);
                        disk = Disk::holding(found);
                        logged = open(&disk);
                        let there = contents(&logged);
                        assert!(there == model || !is_synced && there == synced, "seed {seed}");
                        synced.clone_from(&there);
                        model = there;
                        cuts += 1;
                    }
                    _ => step(&logged, &mut model, &mut random),
                }
                assert_eq!(logged.len().unwrap(), model.len() as u64);
            }
            assert_eq!(contents(&logged), model, "seed {seed}");
        }
        assert!(cuts > 600 && closes > 200, "{cuts} cuts, {closes} closes");
    }

    #[test]
    fn a_log_that_is_full_goes_to_the_file_and_is_as_short_as_it_may_be() {
        let disk = Disk::default();
        let logged = open(&disk);
        let mut random = Random(5);
        for n in 0..100u64 {
            logged.write(random.below(50) as u64 * BLOCK_U64, &[n as u8; 3 * BLOCK]).unwrap();
            logged.sync_data().unwrap();
            let [file, log] = disk.0.lock().current().map(|bytes| bytes.len() as u64);
            assert!(log <= CAPACITY_MIN && file <= 53 * BLOCK_U64);
        }
        // Whatever is larger than a log makes it longer, once.
        logged.write(0, &vec![7; 2 * CAPACITY_MIN as usize]).unwrap();
        logged.sync_data().unwrap();
        assert!(disk.0.lock().current()[1].len() as u64 > 2 * CAPACITY_MIN);
        for n in 0..100u64 {
            logged.write(n * BLOCK_U64, &[1; BLOCK]).unwrap();
            logged.sync_data().unwrap();
        }
        assert_eq!(disk.0.lock().current()[1].len() as u64, CAPACITY_MIN);
    }

    #[test]
    fn what_a_user_stored_is_taken_for_no_record() {
        let disk = Disk::default();
        let logged = open(&disk);
        logged.write(0, &[1; BLOCK]).unwrap();
        logged.sync_data().unwrap();
        // The record that is there already, as the content of a block, where the next one begins.
        let log = disk.0.lock().current()[1].clone();
        let mut known = log[START as usize..][..2 * BLOCK].to_vec();
        known[8] += 1;
        let mut files = disk.0.lock().current();
        files[1][START as usize + 2 * BLOCK..][..2 * BLOCK].copy_from_slice(&known);
        let again = open(&Disk::holding(files));
        assert_eq!(contents(&again), vec![1; BLOCK]);
    }

    #[test]
    fn nothing_that_was_not_changed_is_synced() {
        let disk = Disk::default();
        let logged = open(&disk);
        logged.write(0, &[1; BLOCK]).unwrap();
        logged.sync_data().unwrap();
        let syncs = disk.0.lock().syncs;
        logged.sync_data().unwrap();
        assert_eq!(disk.0.lock().syncs, syncs);
        logged.write(0, &[2; BLOCK]).unwrap();
        logged.sync_data().unwrap();
        assert_eq!(disk.0.lock().syncs, syncs + 1);
    }
}
