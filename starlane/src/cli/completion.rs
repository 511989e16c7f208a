//! `starlane completion SHELL`.

use clap::Args;
use clap_complete::Shell;

use super::Session;
use crate::output::Stop;

/// Prints a script that completes commands and options in a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(starlane completion bash)
  starlane completion zsh > ~/.zfunc/_starlane
  starlane completion fish > ~/.config/fish/completions/starlane.fish")]
pub(super) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(session: &Session, args: CompletionArgs) -> Result<(), Stop> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "starlane", &mut script);
    session.out.bytes(&script)
}
