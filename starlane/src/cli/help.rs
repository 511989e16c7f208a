//! `starlane help [TOPIC|COMMAND]`.

use clap::Args;
use starlane_core::{Code, Problem};

use super::Session;
use crate::output::Stop;

/// Explains a command or a topic.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane help create
  starlane help exit-codes")]
pub(super) struct HelpArgs {
    /// A command, or one of: exit-codes, environment, selectors, formatting
    #[arg(value_name = "TOPIC")]
    topic: Vec<String>,
}

/// The topics and their texts.
const TOPICS: [(&str, &str); 4] = [
    ("exit-codes", include_str!("help/exit-codes.txt")),
    ("environment", include_str!("help/environment.txt")),
    ("selectors", include_str!("help/selectors.txt")),
    ("formatting", include_str!("help/formatting.txt")),
];

pub(super) fn run(session: &Session, args: HelpArgs) -> Result<(), Stop> {
    if let [topic] = args.topic.as_slice()
        && let Some((_, text)) = TOPICS.iter().find(|(name, _)| name == topic)
    {
        return session.out.bytes(text.as_bytes());
    }
    // Building fills in what subcommands inherit: global options and their full names.
    let mut root = super::command();
    root.build();
    let mut command = &mut root;
    for name in &args.topic {
        command = command.find_subcommand_mut(name).ok_or_else(|| {
            let topics: Vec<&str> = TOPICS.iter().map(|(name, _)| *name).collect();
            Problem::new(Code::Usage, format!("neither a command nor a topic is called `{name}`"))
                .help(format!("topics are {}; `starlane help` lists the commands", topics.join(", ")))
        })?;
    }
    session.out.bytes(command.render_long_help().to_string().as_bytes())
}
