//! The command line: all commands on one screen. Each is a file of its own under `cli/`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use gateway::Trust;
use starlane_core::{Code, Problem};

use crate::client::Client;
use crate::context::{self, Contexts};
use crate::data::DataFolder;
use crate::output::{Color, Format, Output, Stop, human};

mod backup;
mod bench;
mod completion;
mod context_command;
mod contract;
mod cp;
mod create;
mod dead_letters;
mod delete;
pub mod demo;
mod describe;
mod diff;
mod exec;
mod fresh;
mod get;
mod help;
mod label;
mod log;
mod logs;
mod move_command;
mod new;
mod node;
mod permission;
mod place;
mod publish;
mod read;
mod registry;
mod request;
mod restore;
mod results;
mod role;
mod scatter;
mod script;
mod select;
mod send;
pub mod serve;
mod set;
mod statement;
mod token;
mod trace;
mod transfer;
mod watch;
mod watched;
mod why;
mod write;

/// A resource mesh: spaces, files, web sites and Wasm actors under one address language
#[derive(Debug, Parser)]
#[command(
    name = "starlane",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "First steps: `starlane demo`, or `starlane serve` and then `starlane create 'localhost<Space>'`.\n\
                  More: `starlane help exit-codes|environment|selectors|formatting`"
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The data folder of the node to talk to, or of the node to serve [default: the platform's]
    #[arg(long, global = true, value_name = "DIR", env = "STARLANE_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,
    /// The named node to talk to, instead of the one of the data folder
    #[arg(long, global = true, value_name = "NAME", env = "STARLANE_CONTEXT", hide_env_values = true)]
    pub context: Option<String>,
    /// The form of the result
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum)]
    pub output: Option<Format>,
    /// Print data and errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub color: Color,
    /// How long to wait for an answer: 250ms, 5s, 1m30s [default: 30s]
    #[arg(long, global = true, value_name = "TIME", value_parser = human::parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum Command {
    // Start
    /// Run a node
    Serve(Box<serve::ServeArgs>),
    /// Run the whole story in front of your eyes
    Demo(demo::DemoArgs),
    /// Start a mechtron project
    New(new::NewArgs),

    // Resources
    /// Create a resource
    Create(create::CreateArgs),
    /// Create a resource unless it exists
    #[command(name = "create?", hide = true)]
    CreateEnsure(create::CreateArgs),
    /// Create a resource or replace its properties
    #[command(name = "create!", hide = true)]
    CreateOverride(create::CreateArgs),
    /// Show a resource or some of its properties
    Get(get::GetArgs),
    /// List what matches a selector
    #[command(visible_alias = "ls")]
    Select(select::SelectArgs),
    /// Show all that is known of a resource
    Describe(describe::DescribeArgs),
    /// Change properties of a resource
    Set(set::SetArgs),
    /// Delete resources
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    /// List what matches a selector, then its changes as they happen
    Watch(watch::WatchArgs),
    /// Show what is different between two moments of the history
    Diff(diff::DiffArgs),
    /// Show what happened to a resource: who changed what, and when
    Log(log::LogArgs),
    /// Write everything in the registry into a file, while the node runs
    Backup(backup::BackupArgs),
    /// Make the registry of a data folder from a backup
    Restore(restore::RestoreArgs),

    // Content
    /// Publish a bundle from a zip file or a folder
    Publish(publish::PublishArgs),
    /// Copy a file into the mesh or out of it
    Cp(cp::CpArgs),
    /// Print the content of a file or an artifact
    Read(read::ReadArgs),
    /// Replace the content of a file
    Write(write::WriteArgs),

    // Messages
    /// Ask a point and print the answer
    Request(request::RequestArgs),
    /// Send a message without waiting for an answer
    Send(send::SendArgs),
    /// Ask all that a selector means, and print each answer
    Scatter(scatter::ScatterArgs),
    /// Print what a mechtron logs
    Logs(logs::LogsArgs),
    /// Show the messages to a space that could not be delivered
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Ask a point many times and print how long it takes
    Bench(bench::BenchArgs),

    // Statements
    /// Run statements
    Exec(exec::ExecArgs),
    /// Run the statements of a file
    Script(script::ScriptArgs),

    /// Change permissions
    #[command(hide = true)]
    Grant(permission::PermissionArgs),
    /// Change the owner of resources
    #[command(hide = true)]
    Chown(permission::PermissionArgs),

    // The mesh and this program
    /// Make a token with which a node can join
    Token(token::TokenArgs),
    /// Show the nodes of the mesh, and look after them
    Node(node::NodeArgs),
    /// Look after the place where the registry is kept
    Registry(registry::RegistryArgs),
    /// Say where a point lives and why, or why it does not answer
    Why(why::WhyArgs),
    /// Show the way of a message to a point
    Trace(trace::TraceArgs),
    /// Move a mechtron to a node
    Move(move_command::MoveArgs),
    /// Name the nodes you talk to
    Context(context_command::ContextArgs),
    /// Print the completions of a shell
    Completion(completion::CompletionArgs),
    /// Explain a command or a topic
    Help(help::HelpArgs),
}

/// Runs the command that the arguments of the process ask for; the first is the name of the program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = in_todays_spelling(arguments.into_iter().collect());
    let cli = match command().try_get_matches_from(arguments).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no error: whoever asked for help has seen enough.
            _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let session = Session::new(cli.globals);
    let ended = match runtime(&cli.command) {
        Ok(runtime) => {
            let ended = runtime.block_on(until_interrupted(&session, cli.command));
            // A read of standard input that nobody waits for any more would hold the process back.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Problem::new(Code::Internal, format!("no runtime: {error}")).into()),
    };
    ExitCode::from(match ended {
        Ok(()) | Err(Stop::ClosedPipe) => 0,
        Err(Stop::Exit(code)) => code,
        Err(Stop::Interrupted) => 130,
        Err(Stop::Problem(problem)) => {
            session.out.problem(&problem);
            problem.code.exit_code()
        }
    })
}

/// `starlane ? create P` is the older spelling of `starlane create? P`, and so is `!`.
fn in_todays_spelling(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let word = |at: usize| arguments.get(at).and_then(|word| word.to_str());
    if let (Some(mark @ ("?" | "!")), Some("create")) = (word(1), word(2)) {
        let command = format!("create{mark}");
        arguments.splice(1..=2, [command.into()]);
    }
    arguments
}

/// Runs a command. Ctrl-C drops what it does, so that nothing half done stays behind; a node is stopped in its own way.
async fn until_interrupted(session: &Session, command: Command) -> Result<(), Stop> {
    if matches!(command, Command::Serve(_) | Command::Demo(_)) {
        return dispatch(session, command).await;
    }
    tokio::select! {
        // A watch and a drain listen too, and say how to go on: they come first.
        biased;
        ended = dispatch(session, command) => ended,
        _ = tokio::signal::ctrl_c() => Err(Stop::Interrupted),
    }
}

async fn dispatch(session: &Session, command: Command) -> Result<(), Stop> {
    match command {
        Command::Serve(args) => serve::run(session, *args).await,
        Command::Demo(args) => demo::run(session, args).await,
        Command::New(args) => new::run(session, args),
        Command::Create(args) => create::run(session, args, None).await,
        Command::CreateEnsure(args) => create::run(session, args, Some('?')).await,
        Command::CreateOverride(args) => create::run(session, args, Some('!')).await,
        Command::Get(args) => get::run(session, args).await,
        Command::Select(args) => select::run(session, args).await,
        Command::Describe(args) => describe::run(session, args).await,
        Command::Set(args) => set::run(session, args).await,
        Command::Delete(args) => delete::run(session, args).await,
        Command::Watch(args) => watch::run(session, args).await,
        Command::Diff(args) => diff::run(session, args).await,
        Command::Log(args) => log::run(session, args).await,
        Command::Backup(args) => backup::run(session, args).await,
        Command::Restore(args) => restore::run(session, args),
        Command::Publish(args) => publish::run(session, args).await,
        Command::Cp(args) => cp::run(session, args).await,
        Command::Read(args) => read::run(session, args).await,
        Command::Write(args) => write::run(session, args).await,
        Command::Request(args) => request::run(session, args).await,
        Command::Send(args) => send::run(session, args).await,
        Command::Scatter(args) => scatter::run(session, args).await,
        Command::Logs(args) => logs::run(session, args).await,
        Command::DeadLetters(args) => dead_letters::run(session, args).await,
        Command::Bench(args) => bench::run(session, args).await,
        Command::Exec(args) => exec::run(session, args).await,
        Command::Script(args) => script::run(session, args).await,
        Command::Grant(args) => permission::run(session, "grant", args).await,
        Command::Chown(args) => permission::run(session, "chown", args).await,
        Command::Token(args) => token::run(session, args).await,
        Command::Node(args) => node::run(session, args).await,
        Command::Registry(args) => registry::run(session, args).await,
        Command::Why(args) => why::run(session, args).await,
        Command::Trace(args) => trace::run(session, args).await,
        Command::Move(args) => move_command::run(session, args).await,
        Command::Context(args) => context_command::run(session, args).await,
        Command::Completion(args) => completion::run(session, args),
        Command::Help(args) => help::run(session, args),
    }
}

/// The definition of the command line, for completions, help and the reference in the docs.
pub fn command() -> clap::Command {
    Cli::command()
}

/// A node serves on all cores; a command that talks to one needs a single thread.
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match command {
        Command::Serve(_) | Command::Demo(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build()
}

/// What a command works with: what was asked of every command, where to write, and which node to talk to.
#[derive(Debug)]
pub struct Session {
    /// What was asked of every command.
    pub globals: Globals,
    /// Where to write.
    pub out: Output,
}

impl Session {
    fn new(globals: Globals) -> Self {
        let out = Output::new(globals.output, globals.quiet, globals.color);
        Self { globals, out }
    }

    /// The data folder: `--data`, `STARLANE_DATA`, or the platform's.
    ///
    /// # Errors
    /// `E-USAGE` when the platform has none.
    pub fn data_folder(&self) -> Result<DataFolder, Problem> {
        if let Some(path) = self.globals.data.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            return Ok(DataFolder::at(path));
        }
        DataFolder::platform(environment).ok_or_else(|| {
            Problem::new(Code::Usage, "there is no home folder for the data")
                .help("name a folder: `--data DIR` or STARLANE_DATA")
        })
    }

    /// The file of the contexts.
    fn contexts_file(&self) -> Result<PathBuf, Problem> {
        context::platform_file(environment).ok_or_else(|| {
            Problem::new(Code::Usage, "there is no home folder for the contexts")
                .help("name a file: STARLANE_CONFIG=FILE")
        })
    }

    /// A client of the node that was named, by a context or by a data folder.
    ///
    /// # Errors
    /// `E-NOT-FOUND` when there is no such context, `E-UNREACHABLE` when no node runs from the data folder.
    pub fn client(&self) -> Result<Client, Problem> {
        // An empty variable of the environment is none.
        let context = self.globals.context.as_ref().filter(|name| !name.is_empty());
        let data = self.globals.data.as_ref().filter(|path| !path.as_os_str().is_empty());
        let named = match (context, data) {
            (Some(name), _) => Some((Contexts::load(&self.contexts_file()?)?, name.clone())),
            (None, Some(_)) => None,
            (None, None) => match context::platform_file(environment) {
                Some(file) => {
                    let contexts = Contexts::load(&file)?;
                    contexts.current.clone().map(|name| (contexts, name))
                }
                None => None,
            },
        };
        if let Some((contexts, name)) = named {
            let context = contexts.get(&name)?;
            return Client::new(&context.api, &context.token, &context.trust(), self.globals.timeout);
        }
        self.client_of_folder(&self.data_folder()?)
    }

    fn client_of_folder(&self, folder: &DataFolder) -> Result<Client, Problem> {
        let shown = folder.path().display();
        let unreadable = |error: std::io::Error| {
            Problem::new(Code::Forbidden, format!("the data folder {shown} cannot be read: {error}"))
                .help("the node's owner alone can read it; `--data DIR` names another")
        };
        let running = folder.running().map_err(unreadable)?.ok_or_else(|| {
            Problem::new(Code::Unreachable, format!("no node runs from the data folder {shown}")).help(
                "start one: `starlane serve`; or name another folder or node: `--data DIR`, `--context NAME`",
            )
        })?;
        let token = folder.token().map_err(unreadable)?.ok_or_else(|| {
            Problem::new(Code::Unauthorized, format!("the data folder {shown} holds no token"))
                .help("`starlane serve` makes it at the first start")
        })?;
        // The folder is the node's own, so what it says is believed, whatever name the certificate is for.
        let (scheme, trust) = match running.certificate {
            Some(certificate) => ("https", Trust::Certificate(certificate)),
            None => ("http", Trust::Nobody),
        };
        Client::new(&format!("{scheme}://{}", running.api), &token, &trust, self.globals.timeout)
    }
}

/// Reads the environment, for what clap does not read by itself. An empty variable is none.
fn environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_spelling_of_create_is_understood() {
        let spelled = |words: &[&str]| in_todays_spelling(words.iter().map(OsString::from).collect());
        for mark in ["?", "!"] {
            assert_eq!(
                spelled(&["starlane", mark, "create", "shop<Space>"])[1..],
                [&*format!("create{mark}"), "shop<Space>"]
            );
        }
        for other in [&["starlane"][..], &["starlane", "?"], &["starlane", "get", "create"]] {
            assert_eq!(spelled(other), other);
        }
    }

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }
}
