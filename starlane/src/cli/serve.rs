//! `starlane serve`: runs a node.

use std::io::IsTerminal;
use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use gateway::Protection;
use starlane_core::{Code, Problem};
use tracing_subscriber::EnvFilter;

use super::Session;
use crate::node::{self, Node};
use crate::output::Stop;

/// Runs a node in the foreground until it is asked to stop.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  starlane serve
  starlane serve --data ./data --http 127.0.0.1:0 --api 127.0.0.1:0
  starlane serve --name edge-1 --label tier=edge --log-format json

It prints one line when it is ready, and writes its addresses and the administrator's token
into the data folder, where the other commands find them. Ctrl-C or SIGTERM stop it.")]
pub struct ServeArgs {
    /// Where spaces are served as web sites; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Where the /v1 API is served; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4343")]
    pub api: SocketAddr,
    /// The node's name: lowercase letters, digits and `-` [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A label that selectors over nodes can ask for; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// A proxy in front speaks TLS: allow addresses that others can reach without it
    #[arg(long)]
    pub behind_proxy: bool,
    /// What to log: error, warn, info, debug, trace, or a filter such as `info,gateway=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", hide_env_values = true, default_value = "info")]
    pub log_level: String,
    /// How to log
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not a label: write it as `tier=edge`")),
    }
}

/// Runs the node until it is asked to stop.
pub(super) async fn run(session: &Session, args: ServeArgs) -> Result<(), Stop> {
    log_to_stderr(&args)?;
    let data = session.data_folder()?;
    let shards = std::thread::available_parallelism().map_or(1, usize::from);
    let node = Node::start(node::Config {
        data: data.clone(),
        name: args.name.unwrap_or_else(node::default_name),
        labels: args.labels.into_iter().collect(),
        web: args.http,
        api: args.api,
        protection: if args.behind_proxy { Protection::BehindProxy } else { Protection::LoopbackOnly },
        shards,
    })
    .await?;
    let addresses = node.addresses();
    let (name, folder) = (node.name(), data.path().display());
    let (web, api) = (addresses.web, addresses.api);
    session.out.lines([format!("{name} is ready: web http://{web}, api http://{api}, data {folder}")])?;
    node.run(asked_to_stop()).await;
    Ok(())
}

fn log_to_stderr(args: &ServeArgs) -> Result<(), Problem> {
    let filter = EnvFilter::try_new(&args.log_level).map_err(|error| {
        Problem::new(Code::Usage, format!("`{}` is not a log filter: {error}", args.log_level))
            .help("a level as `info`, or levels by part as `info,gateway=debug`")
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second node in one process keeps the log of the first.
    _ = match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    Ok(())
}

/// Done at the first Ctrl-C or SIGTERM. A second Ctrl-C ends the process at once, as users expect.
async fn asked_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
    }
    #[cfg(not(unix))]
    {
        _ = tokio::signal::ctrl_c().await;
    }
    tokio::spawn(async {
        _ = tokio::signal::ctrl_c().await;
        std::process::exit(130);
    });
}
