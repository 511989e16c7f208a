//! The `starlane` binary: what it does is in the library of the same name.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Most of what a node allocates is dropped on another thread, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    starlane::cli::run(std::env::args_os())
}
