//! `starlane new NAME`: starts a mechtron project.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use starlane_core::{Code, Problem};

use super::{Session, transfer};
use crate::output::Stop;

/// Writes a mechtron project with a passing test, a bundle layout and a bind. The SDK's sources come along, so that it
/// builds anywhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane new hello
  cd hello && cargo test")]
pub(super) struct NewArgs {
    /// The project's name: lowercase letters, digits and `-`
    name: String,
    /// Where to put the project's folder
    #[arg(long = "in", value_name = "DIR", default_value = ".")]
    parent: PathBuf,
}

pub(super) fn run(session: &Session, args: NewArgs) -> Result<(), Stop> {
    let files = mechtron_template::project(&args.name)
        .map_err(|error| Problem::new(Code::Usage, format!("`{}`: {error}", args.name)))?;
    let folder = args.parent.join(&args.name);
    write(&folder, &files)?;
    session.out.lines([format!("wrote {} ({} files)", folder.display(), files.len())])?;
    session.out.note(format!("next: cd {} && cargo test", folder.display()));
    Ok(())
}

/// Writes the files into a folder that must not exist; one that could not be finished is taken away again.
fn write(folder: &Path, files: &[mechtron_template::File]) -> Result<(), Problem> {
    fs::create_dir(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Problem::new(Code::Exists, format!("{} exists already", folder.display()))
                .help("take another name, or another place: `--in DIR`")
        }
        _ => transfer::local("made", folder, &error),
    })?;
    let written = files.iter().try_for_each(|file| {
        let path = folder.join(&file.path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, &file.text))
            .map_err(|error| transfer::local("written", &path, &error))
    });
    if written.is_err() {
        // What is left is of no use, and the error that matters is the first.
        _ = fs::remove_dir_all(folder);
    }
    written
}
