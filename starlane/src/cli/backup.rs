//! `starlane backup`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use resource_registry::backup::{self, Summary};
use serde_json::{Value, json};
use starlane_core::{Code, Problem};

use super::Session;
use crate::output::{Render, Stop, Table, human};

/// Writes everything that the registry holds at one revision into a file, while the node runs, and checks the file. What hangs
/// on a lease, the history, and the content of files and bundles are not in it: content is in the folder `blobs` of the data
/// folder, whose files never change once they are there, so that they can be copied at any time after the backup.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane backup shop.backup
  starlane backup shop.backup -o json

The file appears under its name when it is whole. See also: starlane restore --help")]
pub(super) struct BackupArgs {
    /// The file to write; one that is there is an error
    file: PathBuf,
}

pub(super) async fn run(session: &Session, args: BackupArgs) -> Result<(), Stop> {
    let file = args.file;
    let exists = || {
        Problem::new(Code::Exists, format!("{} is there already", file.display()))
            .help("name another file, or remove this one first")
    };
    let broken = |error: io::Error| {
        Problem::new(Code::Usage, format!("{} cannot be written: {error}", file.display()))
    };
    if file.try_exists().map_err(broken)? {
        return Err(exists().into());
    }
    let mut download = session.client()?.backup().await?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut part = tempfile::NamedTempFile::new_in(folder).map_err(broken)?;
    let bar = session.out.transfer("backup", None);
    while let Some(chunk) = download.chunk().await? {
        part.write_all(&chunk).map_err(broken)?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    part.as_file().sync_all().map_err(broken)?;
    let bytes = part.as_file().metadata().map_err(broken)?.len();
    let summary = backup::check(part.path()).map_err(Problem::from)?;
    part.persist_noclobber(&file).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => broken(error.error),
    })?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(broken)?;
    session.out.show(&Kept { word: "backed up", file, summary, bytes: Some(bytes) })
}

/// What a backup holds, and what was done with it.
pub(super) struct Kept {
    pub(super) word: &'static str,
    pub(super) file: PathBuf,
    pub(super) summary: Summary,
    pub(super) bytes: Option<u64>,
}

impl Render for Kept {
    fn json(&self) -> Value {
        let Summary { revision, time, records } = self.summary;
        let mut json = json!({ "file": self.file.display().to_string(), "revision": revision, "time": time, "records": records });
        if let Some(bytes) = self.bytes {
            json["bytes"] = bytes.into();
        }
        json
    }

    fn names(&self) -> Vec<String> {
        vec![self.file.display().to_string()]
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["FILE", "REVISION", "TIME", "RECORDS"]);
        let Summary { revision, time, records } = self.summary;
        table.row([
            self.file.display().to_string(),
            revision.to_string(),
            human::date_time(time.0),
            records.to_string(),
        ]);
        table
    }

    fn text(&self) -> Vec<String> {
        let Summary { revision, time, records } = self.summary;
        let (word, file, time) = (self.word, self.file.display(), human::date_time(time.0));
        vec![format!("{word} {file}: {records} records of revision {revision}, made {time}")]
    }
}
