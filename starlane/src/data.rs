//! The data folder: the one place where a node keeps its state, and where the other commands find the node.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use starlane_core::Digest;

/// The longest file that is read from the folder here, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A data folder. Holds, besides what the node's parts keep under paths of their own:
///
/// | file | content |
/// |---|---|
/// | `node.json` | who runs here and at which addresses ([`Running`]); gone when the node stopped |
/// | `admin.token` | the administrator's token, readable by the owner alone |
/// | `registry` | where the registry is, when it is not in a file of this folder |
/// | `lock` | held while a node runs, so that two never share a folder |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFolder(PathBuf);

/// Who serves from a data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The node's name.
    pub name: String,
    /// The version of the binary.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// Where the `/v1` API answers.
    pub api: SocketAddr,
    /// Where spaces are served as web sites.
    pub http: SocketAddr,
    /// Where links of other nodes are accepted (UDP); `None` when the node only dials out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<SocketAddr>,
    /// The SHA-256 of the certificate that both doors show; `None` when they do not speak TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Digest>,
}

/// Held by the node that uses a folder; released when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl DataFolder {
    /// The folder at a path; it need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The platform's place for it, from the environment: `$XDG_DATA_HOME/starlane` or
    /// `~/.local/share/starlane`, on macOS `~/Library/Application Support/starlane`, on Windows
    /// `%LOCALAPPDATA%\starlane`. `None` when there is no home.
    pub fn platform(env: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        let base = if cfg!(windows) {
            env("LOCALAPPDATA")?
        } else if let Some(xdg) = env("XDG_DATA_HOME") {
            xdg
        } else if cfg!(target_os = "macos") {
            env("HOME")?.join("Library/Application Support")
        } else {
            env("HOME")?.join(".local/share")
        };
        Some(Self(base.join("starlane")))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, readable by its owner alone, when it does not exist.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.0)
    }

    /// Takes the folder for this process; `None` when another node has it.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn lock(&self) -> io::Result<Option<FolderLock>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.0.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(FolderLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Who runs here, or ran here until it was killed; `None` when nobody does.
    ///
    /// # Errors
    /// When the file cannot be read or is not one of ours.
    pub fn running(&self) -> io::Result<Option<Running>> {
        let Some(text) = self.read("node.json")? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("node.json: {error}")))
    }

    /// Says who runs here, for the other commands.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_running(&self, running: &Running) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(running).map_err(io::Error::other)?;
        text.push('\n');
        self.write("node.json", &text)
    }

    /// Says that nobody runs here any more.
    ///
    /// # Errors
    /// When the file exists and cannot be removed.
    pub fn clear_running(&self) -> io::Result<()> {
        match fs::remove_file(self.0.join("node.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Where the registry of this node is, as it was told last; `None` when it never was.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn registry_place(&self) -> io::Result<Option<String>> {
        Ok(self.read("registry")?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    /// Remembers where the registry of this node is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_registry_place(&self, place: &str) -> io::Result<()> {
        self.write("registry", &format!("{place}\n"))
    }

    /// The administrator's token; `None` before the first start.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn token(&self) -> io::Result<Option<String>> {
        Ok(self.read("admin.token")?.map(|text| text.trim().to_owned()).filter(|token| !token.is_empty()))
    }

    /// The administrator's token, made of 32 random bytes at the first start.
    ///
    /// # Errors
    /// When there is no randomness, or the file cannot be read or written.
    pub fn ensure_token(&self) -> io::Result<String> {
        if let Some(token) = self.token()? {
            return Ok(token);
        }
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.write("admin.token", &format!("{token}\n"))?;
        Ok(token)
    }

    fn read(&self, name: &str) -> io::Result<Option<String>> {
        read_bounded(&self.0.join(name))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        write_private(&self.0.join(name), text)
    }
}

/// Reads a small text file; `None` when it does not exist.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("larger than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(Some(text))
}

/// Replaces a file at once by one that its owner alone can read.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        // The old file is untouched; what is left of the new one is of no use.
        _ = fs::remove_file(&temporary);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, DataFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::at(dir.path().join("data"));
        folder.create().unwrap();
        (dir, folder)
    }

    #[test]
    fn what_serve_writes_the_others_read() {
        let (_dir, folder) = folder();
        assert_eq!(folder.running().unwrap(), None);
        assert_eq!(folder.token().unwrap(), None);
        let running = Running {
            name: "n".into(),
            version: "0".into(),
            pid: 1,
            api: ([127, 0, 0, 1], 4343).into(),
            http: ([127, 0, 0, 1], 8080).into(),
            links: Some(([127, 0, 0, 1], 4343).into()),
            certificate: Some(Digest([7; 32])),
        };
        folder.set_running(&running).unwrap();
        let token = folder.ensure_token().unwrap();
        assert_eq!(folder.running().unwrap(), Some(running));
        assert_eq!((token.len(), folder.token().unwrap()), (64, Some(token.clone())));
        assert_eq!(folder.ensure_token().unwrap(), token);
        folder.clear_running().unwrap();
        folder.clear_running().unwrap();
        assert_eq!(folder.running().unwrap(), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_token_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, folder) = folder();
        folder.ensure_token().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("admin.token")), 0o600);
        assert_eq!(mode(folder.path()), 0o700);
    }

    #[test]
    fn a_folder_has_one_node_at_a_time() {
        let (_dir, folder) = folder();
        let held = folder.lock().unwrap();
        assert!(held.is_some());
        assert!(folder.lock().unwrap().is_none());
        drop(held);
        assert!(folder.lock().unwrap().is_some());
    }

    #[test]
    fn the_platforms_place_follows_the_environment() {
        let env = |name: &str| match name {
            "XDG_DATA_HOME" => Some(PathBuf::from("/x")),
            _ => None,
        };
        if cfg!(not(windows)) {
            assert_eq!(DataFolder::platform(env), Some(DataFolder::at("/x/starlane")));
            assert_eq!(DataFolder::platform(|_| None), None);
        }
    }
}
