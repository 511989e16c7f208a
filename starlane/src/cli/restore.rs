//! `starlane restore`.

use std::path::PathBuf;

use clap::Args;
use resource_registry::backup;
use starlane_core::{Code, Problem};

use super::Session;
use super::backup::Kept;
use crate::output::Stop;

/// Makes the registry of a data folder from a backup. No node may run there, and the folder must have no registry: move a
/// damaged `registry.redb` away first, with its log `registry.redb.wal`. The backup is checked to its end before anything
/// appears; what is cut off or damaged restores nothing. Revisions go on a million later, so that watches begin anew and miss
/// nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane restore shop.backup --data /srv/starlane
  starlane restore shop.backup --check

In a new folder the node makes itself a new identity; copy the folder `identity` too when other nodes are to know it again.")]
pub(super) struct RestoreArgs {
    /// The file that `starlane backup` wrote
    file: PathBuf,
    /// Only check the file
    #[arg(long)]
    check: bool,
}

pub(super) fn run(session: &Session, args: RestoreArgs) -> Result<(), Stop> {
    let RestoreArgs { file, check } = args;
    if check {
        let summary = backup::check(&file).map_err(Problem::from)?;
        return session.out.show(&Kept { word: "checked", file, summary, bytes: None });
    }
    let folder = session.data_folder()?;
    let broken = |error: std::io::Error| {
        Problem::new(Code::StoreUnavailable, format!("{} cannot be used: {error}", folder.path().display()))
    };
    folder.create().map_err(broken)?;
    let Some(_lock) = folder.lock().map_err(broken)? else {
        let problem =
            Problem::new(Code::StoreUnavailable, format!("a node runs from {}", folder.path().display()));
        return Err(problem.help("stop it first, or name another folder: `--data DIR`").into());
    };
    let summary = backup::restore(&file, &folder.path().join("registry.redb")).map_err(Problem::from)?;
    session.out.show(&Kept { word: "restored", file, summary, bytes: None })
}
