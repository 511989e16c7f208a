//! The `starlane` binary: what it does is in the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    starlane::cli::run(std::env::args_os())
}
