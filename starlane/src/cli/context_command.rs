//! `starlane context`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use starlane_core::{Code, Problem};

use super::{Session, transfer};
use crate::client::Client;
use crate::context::{Context, Contexts};
use crate::output::{Render, Stop, Table};

/// The longest token that is read, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// Names the nodes that you talk to. Without a context, commands talk to the node of the data folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane context add prod --api http://127.0.0.1:14343 --token-file prod.token
  starlane context add cloud --api https://cloud.example.com:4343 --token-file cloud.token --ca ca.pem
  starlane context use prod
  starlane context ls
  starlane context use -          (back to the data folder)

The token is read from a file or standard input, never from the command line, where others could see it.")]
pub(super) struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// Add a node, or replace the one of that name
    Add {
        /// What to call it
        name: String,
        /// Where its API answers
        #[arg(long, value_name = "URL")]
        api: String,
        /// The file with the token; `-` for standard input
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
        /// The PEM file with the authorities that its certificate is believed by [default: those of this machine]
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
    },
    /// List the nodes; `*` marks the one in use
    #[command(visible_alias = "list")]
    Ls,
    /// Talk to this node from now on; `-` for the one of the data folder
    Use {
        /// Its name
        name: String,
    },
    /// Show one; the one in use when none is named
    Show {
        /// Its name
        name: Option<String>,
    },
    /// Forget a node
    Rm {
        /// Its name
        name: String,
    },
}

pub(super) async fn run(session: &Session, args: ContextArgs) -> Result<(), Stop> {
    let file = session.contexts_file()?;
    let mut contexts = Contexts::load(&file)?;
    match args.command {
        ContextCommand::Add { name, api, token_file, ca } => {
            let token =
                transfer::read_text(&token_file.to_string_lossy(), TOKEN_BYTES_MAX)?.trim().to_owned();
            if token.is_empty() {
                return Err(
                    Problem::new(Code::Usage, format!("{} holds no token", token_file.display())).into()
                );
            }
            let ca = ca.map(whole_path).transpose()?;
            let context = Context { api: api.trim_end_matches('/').to_owned(), ca, token };
            // What cannot be used is told now, not at the first command.
            Client::new(&context.api, &context.token, &context.trust(), None)?;
            contexts.add(&name, context)?;
            contexts.save(&file)?;
            session.out.note(format!("added {name}; `starlane context use {name}` makes it the one in use"));
            Ok(())
        }
        ContextCommand::Ls => session.out.show(&Listed::all(&contexts)),
        ContextCommand::Use { name } => {
            contexts.current = if name == "-" { None } else { contexts.get(&name).map(|_| Some(name))? };
            contexts.save(&file)?;
            session.out.note(match &contexts.current {
                Some(name) => format!("commands talk to {name} now"),
                None => "commands talk to the node of the data folder now".to_owned(),
            });
            Ok(())
        }
        ContextCommand::Show { name } => match name.or_else(|| contexts.current.clone()) {
            Some(name) => {
                contexts.get(&name)?;
                session.out.show(&Listed::one(&contexts, &name))
            }
            None => {
                let problem = Problem::new(Code::NotFound, "no context is in use");
                Err(problem.help("commands talk to the node of the data folder").into())
            }
        },
        ContextCommand::Rm { name } => {
            contexts.remove(&name)?;
            contexts.save(&file)?;
            session.out.note(format!("removed {name}"));
            Ok(())
        }
    }
}

/// A file by its whole path, so that it is found from any folder.
fn whole_path(file: PathBuf) -> Result<PathBuf, Problem> {
    std::path::absolute(&file)
        .map_err(|error| Problem::new(Code::Usage, format!("{} is not a file: {error}", file.display())))
}

/// Contexts without their tokens.
struct Listed {
    rows: Vec<(String, String, bool)>,
    one: bool,
}

impl Listed {
    fn all(contexts: &Contexts) -> Self {
        let current = contexts.current.as_deref();
        let rows = contexts.contexts.iter();
        let rows = rows.map(|(name, context)| (name.clone(), context.api.clone(), current == Some(name)));
        Self { rows: rows.collect(), one: false }
    }

    fn one(contexts: &Contexts, name: &str) -> Self {
        let mut listed = Self::all(contexts);
        listed.rows.retain(|(known, ..)| known == name);
        listed.one = true;
        listed
    }
}

impl Render for Listed {
    fn json(&self) -> Value {
        let mut rows = self.json_lines();
        if self.one { rows.pop().unwrap_or_default() } else { json!({ "contexts": rows }) }
    }

    fn json_lines(&self) -> Vec<Value> {
        let row = |(name, api, current): &(String, String, bool)| json!({ "name": name, "api": api, "current": current });
        self.rows.iter().map(row).collect()
    }

    fn names(&self) -> Vec<String> {
        self.rows.iter().map(|(name, ..)| name.clone()).collect()
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["USED", "NAME", "API"]);
        for (name, api, current) in &self.rows {
            table.row([if *current { "*" } else { " " }.to_owned(), name.clone(), api.clone()]);
        }
        table
    }

    fn text(&self) -> Vec<String> {
        self.table(false).lines()
    }
}
