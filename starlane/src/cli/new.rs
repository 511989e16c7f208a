//! `starlane new NAME`: starts a mechtron project.

use std::path::PathBuf;

use clap::Args;
use starlane_core::{Code, Problem};

use super::Session;
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

pub(super) fn run(_session: &Session, _args: NewArgs) -> Result<(), Stop> {
    Err(Problem::new(Code::Unsupported, "this build has no template in it").into())
}
