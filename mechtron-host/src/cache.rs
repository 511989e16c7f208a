//! Compiled code on disk. Loading compiled code is running it, so each entry is authenticated with a key that only
//! this node has; an entry that is not exactly what this node wrote is compiled again.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use starlane_core::Digest;

const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;

/// A folder of compiled code.
pub(crate) struct Cache {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
    /// What else the code depends on: engine, settings, machine, rewriter.
    configuration: String,
}

impl Cache {
    /// Opens the folder, makes it and its key when they are missing.
    pub(crate) fn open(folder: &Path, configuration: String) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        private(folder, 0o700)?;
        let path = folder.join(KEY_FILE);
        let key = match fs::read(&path) {
            Ok(bytes) => bytes.try_into().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is damaged; remove it", path.display()),
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; KEY_BYTES];
                getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
                write(folder, KEY_FILE, &[&key])?;
                key
            }
            Err(error) => return Err(error),
        };
        Ok(Self { folder: folder.to_owned(), key, configuration })
    }

    /// The code of a module, if it is kept and untouched.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.folder.join(self.name(digest))).ok()?;
        let length = bytes.len().checked_sub(TAG_BYTES)?;
        let mac = self.mac(digest, &bytes[..length]);
        if mac.verify_slice(&bytes[length..]).is_err() {
            tracing::warn!(%digest, "an entry of the compile cache was changed by somebody; compiling again");
            return None;
        }
        bytes.truncate(length);
        Some(bytes)
    }

    /// Keeps the code of a module. A failure costs a compilation later and nothing else.
    pub(crate) fn put(&self, digest: &Digest, code: &[u8]) {
        let tag = self.mac(digest, code).finalize().into_bytes();
        if let Err(error) = write(&self.folder, &self.name(digest), &[code, &tag]) {
            tracing::warn!(%digest, %error, "compiled code cannot be kept");
        }
    }

    fn name(&self, digest: &Digest) -> String {
        let mac = self.mac(digest, b"name").finalize().into_bytes();
        format!("{digest}-{}.code", hex::encode(&mac[..8]))
    }

    fn mac(&self, digest: &Digest, code: &[u8]) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length is a key");
        mac.update(&(self.configuration.len() as u64).to_le_bytes());
        mac.update(self.configuration.as_bytes());
        mac.update(&digest.0);
        mac.update(code);
        mac
    }
}

/// Writes a file that is there whole or not at all.
fn write(folder: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(|error| io::Error::other(error.to_string()))?;
    let temporary = folder.join(format!("{name}.{}.new", hex::encode(suffix)));
    let mut file = fs::File::create_new(&temporary)?;
    private(&temporary, 0o600)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&temporary, folder.join(name))
}

#[cfg(unix)]
fn private(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn private(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    fn only_entry(folder: &Path) -> PathBuf {
        let mut entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.extension().is_some_and(|end| end == "code")).unwrap()
    }

    #[test]
    fn an_entry_that_was_touched_is_not_given() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), "e1".into()).unwrap();
        cache.put(&digest(1), b"machine code");
        assert_eq!(cache.get(&digest(1)).as_deref(), Some(&b"machine code"[..]));
        assert_eq!(cache.get(&digest(2)), None);
        let path = only_entry(folder.path());
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(cache.get(&digest(1)), None, "byte {at}");
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(cache.get(&digest(1)), None, "cut at {at}");
        }
    }

    #[test]
    fn an_entry_of_another_configuration_module_or_node_is_not_given() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), "e1".into()).unwrap();
        cache.put(&digest(1), b"code");
        let again = Cache::open(folder.path(), "e1".into()).unwrap();
        assert!(again.get(&digest(1)).is_some());
        let other = Cache::open(folder.path(), "e2".into()).unwrap();
        assert_eq!(other.get(&digest(1)), None);
        fs::copy(only_entry(folder.path()), folder.path().join(other.name(&digest(1)))).unwrap();
        assert_eq!(other.get(&digest(1)), None, "by another name it is still not the other's");
        fs::remove_file(folder.path().join(KEY_FILE)).unwrap();
        let stranger = Cache::open(folder.path(), "e1".into()).unwrap();
        assert_eq!(stranger.get(&digest(1)), None);
    }
}
