//! A disk in memory that fails as disks do: for a file and its log.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;

const SECTOR: usize = 512;

/// A disk with two files, that of the store and its log.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(pub(super) Arc<Mutex<State>>);

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    files: [Contents; 2],
    pub(super) syncs: u64,
    /// The power goes at this sync: what was written since the one before is anybody's guess, what comes after is nothing.
    pub(super) cut_at: Option<u64>,
    pub(super) off: bool,
    /// This sync fails.
    pub(super) fail_sync_at: Option<u64>,
    /// How much both files hold at most.
    pub(super) room: Option<usize>,
    pub(super) writes_after_failure: u64,
    failed: bool,
}

/// Bytes that are on the disk, and writes that are not yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    durable: Vec<u8>,
    /// What the next sync makes durable, in order.
    unsynced: Vec<Write>,
    current: Vec<u8>,
}

/// One of the two.
#[derive(Debug)]
pub(super) struct DiskFile(Disk, usize);

#[derive(Debug, Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

/// Deterministic and small: splitmix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

impl Contents {
    fn holding(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), unsynced: Vec::new(), current: bytes }
    }

    /// What a start after the power cut finds: each unsynced write is there, or not, or torn between sectors.
    fn after_power_cut(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for write in &self.unsynced {
            match (random.below(3), write) {
                (0, _) => {}
                (1, Write::Bytes(at, data)) => put(&mut bytes, *at, data),
                (_, Write::Bytes(at, data)) => {
                    for (n, sector) in data.chunks(SECTOR).enumerate() {
                        if random.below(2) == 0 {
                            put(&mut bytes, at + n * SECTOR, sector);
                        }
                    }
                }
                (_, Write::Length(length)) => bytes.resize(*length, 0),
            }
        }
        bytes
    }
}

impl State {
    pub(super) fn after_power_cut(&self, random: &mut Random) -> [Vec<u8>; 2] {
        self.files.each_ref().map(|file| file.after_power_cut(random))
    }

    /// What a start of the process alone finds.
    pub(super) fn current(&self) -> [Vec<u8>; 2] {
        self.files.each_ref().map(|file| file.current.clone())
    }

    pub(super) fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.current.len()).sum()
    }

    /// Whether a file may become so long.
    fn has_room(&self, file: usize, length: usize) -> bool {
        let now = self.files[file].current.len();
        self.room.is_none_or(|room| length <= now || self.bytes() - now + length <= room)
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

impl Disk {
    pub(super) fn holding(files: [Vec<u8>; 2]) -> Self {
        let disk = Self::default();
        disk.0.lock().files = files.map(Contents::holding);
        disk
    }

    /// The two files, as a process opens them.
    pub(super) fn files(&self) -> [DiskFile; 2] {
        [0, 1].map(|file| DiskFile(self.clone(), file))
    }
}

impl StorageBackend for DiskFile {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.0.lock().files[self.1].current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.0.0.lock();
        let at = offset as usize;
        let bytes =
            state.files[self.1].current.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        let mut state = self.0.0.lock();
        if !state.has_room(self.1, length as usize) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if !state.off {
            let file = &mut state.files[self.1];
            file.current.resize(length as usize, 0);
            file.unsynced.push(Write::Length(length as usize));
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut state = self.0.0.lock();
        if state.fail_sync_at == Some(state.syncs) {
            state.failed = true;
            return Err(io::Error::other("EIO"));
        }
        if state.cut_at == Some(state.syncs) {
            state.off = true;
            return Err(io::Error::other("no power"));
        }
        state.syncs += 1;
        let file = &mut state.files[self.1];
        let (durable, unsynced) = (&mut file.durable, std::mem::take(&mut file.unsynced));
        for write in unsynced {
            match write {
                Write::Bytes(at, data) => put(durable, at, &data),
                Write::Length(length) => durable.resize(length, 0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut state = self.0.0.lock();
        state.writes_after_failure += u64::from(state.failed);
        let at = offset as usize;
        if !state.has_room(self.1, at + data.len()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if !state.off {
            let file = &mut state.files[self.1];
            put(&mut file.current, at, data);
            file.unsynced.push(Write::Bytes(at, data.to_vec()));
        }
        Ok(())
    }
}
