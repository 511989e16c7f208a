//! Small files that are whole or not there, and for nobody else to read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Error;

/// The most that is read of a file: far above what any of them holds.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The folder that holds who a node is.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder, made when it is missing; only its owner may look into it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let error = |source| Error::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(error)?;
        private(path, 0o700).map_err(error)?;
        Ok(Self(path.to_owned()))
    }

    /// Where a file is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What a file holds; `None` when there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.path(name);
        let io = |source| Error::Io { path: path.clone(), source };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
            Ok(data) if data.len() > FILE_BYTES_MAX => {
                return Err(Error::Broken { path, why: "it is too long" });
            }
            Ok(_) => {}
        }
        fs::read_to_string(&path).map(Some).map_err(io)
    }

    /// Writes a file: after a crash it holds all of this, or what it held before.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<(), Error> {
        let path = self.path(name);
        self.replace(&path, name, content).map_err(|source| Error::Io { path, source })
    }

    fn replace(&self, path: &Path, name: &str, content: &str) -> io::Result<()> {
        let temporary = self.path(&format!("{name}.new"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Made for the owner alone from its first byte on, not made so afterwards.
        let mut file = owners_alone().open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(&self.0)
    }
}

#[cfg(unix)]
fn owners_alone() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
}

#[cfg(not(unix))]
fn owners_alone() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    options
}

#[cfg(unix)]
fn private(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn private(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}
