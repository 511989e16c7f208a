//! Content that comes piece by piece: a file that grows from its beginning, and outlives the process.
//!
//! What was written before a crash may not be what is there after it; only the digest of the whole decides.

use std::fs::File;
use std::io;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use starlane_core::Blob;

use super::wire::PIECE_BYTES;
use super::{BlobStore, CHUNK_BYTES, Error, Sums};

/// The folder of what is not whole yet.
pub(super) const PARTIAL: &str = "partial";

pub(super) struct Partial {
    blob: Blob,
    path: Path,
    file: Arc<File>,
    sums: Sums,
}

impl Partial {
    /// Takes up what is there of some content, or begins with nothing. What is there is read to its end.
    pub(super) async fn open(folder: &FilePath, blob: Blob) -> Result<Self, Error> {
        let (folder, name) = (folder.join(PARTIAL), blob.digest.to_string());
        let path = Path::from(format!("{PARTIAL}/{name}"));
        let open = move || {
            std::fs::create_dir_all(&folder)?;
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(folder.join(name))?;
            let there = file.metadata()?.len();
            let there = if there > blob.bytes { 0 } else { there - there % CHUNK_BYTES };
            file.set_len(there)?;
            Ok::<_, io::Error>((file, there))
        };
        let (file, there) = blocking(open).await?;
        let file = Arc::new(file);
        let mut sums = Sums::default();
        while sums.bytes < there {
            let (from, length) = (sums.bytes, PIECE_BYTES.min(there - sums.bytes));
            let read = file.clone();
            let piece = blocking(move || {
                let mut piece = vec![0; length as usize];
                read_at(&read, &mut piece, from)?;
                Ok(Bytes::from(piece))
            });
            sums = sums.add_part(piece.await?).await?.0;
        }
        Ok(Self { blob, path, file, sums })
    }

    /// How much is there.
    pub(super) fn have(&self) -> u64 {
        self.sums.bytes
    }

    /// Takes in what comes next: whole chunks, unless it is the end. When the future is dropped, the content is to be
    /// opened anew.
    pub(super) async fn append(&mut self, piece: Bytes) -> Result<(), Error> {
        let sums = std::mem::take(&mut self.sums);
        let (at, file, content) = (sums.bytes, self.file.clone(), piece.clone());
        let written = blocking(move || write_at(&file, &content, at));
        let (hashed, ()) = futures::try_join!(sums.add_part(piece), async { written.await })?;
        self.sums = hashed.0;
        Ok(())
    }

    /// Gives the content its name, when it is what its name says; else throws it away and tells `false`.
    pub(super) async fn finish(self, store: &BlobStore) -> Result<bool, Error> {
        if self.sums.digest() != self.blob.digest || self.have() != self.blob.bytes {
            self.discard(store).await?;
            return Ok(false);
        }
        let file = self.file.clone();
        blocking(move || file.sync_all()).await?;
        store.name(&self.path, self.sums).await?;
        Ok(true)
    }

    /// Throws away what came.
    pub(super) async fn discard(self, store: &BlobStore) -> Result<(), Error> {
        super::ignore_missing(store.inner.store.delete(&self.path).await)?;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
fn read_at(mut file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytes)
}

#[cfg(not(unix))]
fn write_at(mut file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}
