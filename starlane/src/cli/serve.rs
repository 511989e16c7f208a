//! `starlane serve`: runs a node.

use std::io::IsTerminal;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gateway::{Protection, Tls};
use starlane_core::{Code, Key, NodeName, Problem, Role};
use tracing_subscriber::EnvFilter;

use super::place::Typed;
use super::{Session, label, role};
use crate::node::{self, Join, LinksConfig, Node};
use crate::output::Stop;
use crate::registry_place::Place;

/// Runs a node in the foreground until it is asked to stop.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  starlane serve
  starlane serve --data ./data --http 127.0.0.1:0 --api 127.0.0.1:0
  starlane serve --name edge-1 --label tier=edge --log-format json
  starlane serve --registry etcd://etcd-1:2379,etcd-2:2379,etcd-3:2379/mesh

A mesh of several machines:
  cloud:   starlane serve --name cloud --listen 0.0.0.0:4343 --advertise cloud.example.com:4343
  cloud:   starlane token --label tier=edge
  edge:    starlane serve --join cloud.example.com:4343 TOKEN --name edge-1
After that the edge joins again by itself: starlane serve

Doors that others reach:
  starlane serve --http 0.0.0.0:443 --api 0.0.0.0:4343 --tls-cert cert.pem --tls-key key.pem

It prints one line when it is ready, and writes its addresses and the administrator's token
into the data folder, where the other commands find them. Ctrl-C or SIGTERM stop it.")]
pub struct ServeArgs {
    /// Where spaces are served as web sites; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Where the /v1 API is served; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4343")]
    pub api: SocketAddr,
    /// Where links of other nodes are accepted (UDP); port 0 takes a free one [default: 127.0.0.1:4343 for the first
    /// node of a mesh and those that serve its registry; any other only dials out]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// What other nodes shall dial, when it is not where this one listens: HOST:PORT
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    pub advertise: Option<String>,
    /// Join the mesh of the node at this address, with a token that `starlane token` made there; needed once
    #[arg(long, num_args = 2, value_names = ["HOST:PORT", "TOKEN"])]
    pub join: Option<Vec<String>>,
    /// What the node does for others [default: what its token says; relay for the first node]
    #[arg(long, value_name = "ROLE", value_parser = role::parser())]
    pub role: Option<Role>,
    /// Where the registry is kept.
    #[arg(
        long,
        value_name = "WHERE",
        value_parser = Typed(str::parse::<Place>),
        help = "Where the registry is kept: `embedded`, or etcd://HOST:PORT[,HOST:PORT][/PREFIX], or \
                etcds://…?ca=FILE[&cert=FILE&key=FILE], either with user=NAME&password-file=FILE; only for the first node \
                of a mesh and those that serve its registry, which remember it [default: embedded, in a file of the data folder]"
    )]
    pub registry: Option<Place>,
    /// The node's name: lowercase letters, digits and `-` [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<NodeName>,
    /// A label that selectors over nodes can ask for; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label::parse)]
    pub labels: Vec<(Key, String)>,
    /// Speak TLS at both doors: the PEM file with the certificate and those of the authorities between
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The PEM file with the certificate's key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A proxy in front speaks TLS: allow addresses that others can reach without it
    #[arg(long, conflicts_with = "tls_cert")]
    pub behind_proxy: bool,
    /// Let pages of this origin use the portal, such as `https://console.example.com`; may be repeated
    #[arg(long = "allow-origin", value_name = "ORIGIN", value_parser = origin)]
    pub allowed_origins: Vec<String>,
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

/// Reads `HOST:PORT`, where the host is a name, an address, or an IPv6 address in brackets.
fn parse_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && !host.contains([':', '/', '[', ']']) && !host.contains(char::is_whitespace)
        }
    };
    if host && port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not an address: write it as `cloud.example.com:4343` or `203.0.113.7:4343`"))
}

fn join(words: Option<Vec<String>>) -> Result<Option<Join>, Problem> {
    let Some([address, token]) = words.as_deref() else { return Ok(None) };
    let address = parse_address(address).map_err(|reason| {
        Problem::new(Code::Usage, reason)
            .help("the address comes first: `starlane serve --join HOST:PORT TOKEN`")
    })?;
    Ok(Some(Join { address, token: token.clone() }))
}

/// Reads an origin, as browsers write it.
fn origin(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let wrong = |authority: &str| authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ', '*']);
    match authority {
        Some(authority) if !wrong(authority) => Ok(text.to_ascii_lowercase()),
        _ => Err("an origin is `https://HOST` or `https://HOST:PORT`, without a path".to_owned()),
    }
}

/// What keeps others from reading along at the doors.
fn protection(args: &ServeArgs) -> Result<Protection, Problem> {
    match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => {
            let tls = Tls::read(certificate, key).map_err(|error| {
                Problem::new(Code::Usage, error.to_string()).help(
                    "`--tls-cert` takes a PEM file with the certificate first, then those of the authorities between; \
                     `--tls-key` one with its key",
                )
            })?;
            Ok(Protection::Tls(tls))
        }
        _ if args.behind_proxy => Ok(Protection::BehindProxy),
        _ => Ok(Protection::LoopbackOnly),
    }
}

/// Runs the node until it is asked to stop.
pub(super) async fn run(session: &Session, args: ServeArgs) -> Result<(), Stop> {
    log_to_stderr(&args)?;
    let data = session.data_folder()?;
    let protection = protection(&args)?;
    let scheme = if matches!(protection, Protection::Tls(_)) { "https" } else { "http" };
    let shards = std::thread::available_parallelism().map_or(1, usize::from);
    let node = Node::start(node::Config {
        data: data.clone(),
        name: args.name,
        labels: args.labels.into_iter().collect(),
        web: args.http,
        api: args.api,
        links: LinksConfig {
            listen: args.listen,
            advertise: args.advertise,
            join: join(args.join)?,
            role: args.role,
        },
        protection,
        allowed_origins: args.allowed_origins.clone(),
        shards,
        registry: args.registry,
    })
    .await?;
    let addresses = node.addresses();
    let (name, folder) = (node.name(), data.path().display());
    let (web, api) = (addresses.web, addresses.api);
    let links = node.links().map(|address| format!("links {address}, ")).unwrap_or_default();
    session.out.lines([format!(
        "{name} is ready: web {scheme}://{web}, api {scheme}://{api}, {links}data {folder}"
    )])?;
    Ok(node.run(asked_to_stop()).await?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for right in ["cloud.example.com:4343", "203.0.113.7:1", "localhost:65535", "[2001:db8::7]:4343"] {
            assert_eq!(parse_address(right).as_deref(), Ok(right));
        }
        for wrong in [
            "",
            "cloud",
            "cloud:",
            ":4343",
            "cloud:0",
            "cloud:65536",
            "cloud:x",
            "2001:db8::7",
            "2001:db8::7:1",
            "[cloud]:1",
            "http://cloud:4343",
            "a b:1",
            "[::1:1",
        ] {
            assert!(parse_address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_address_comes_before_the_token() {
        let words = |first: &str, second: &str| Some(vec![first.to_owned(), second.to_owned()]);
        let joined = join(words("cloud:4343", "sl1.a.b.c")).unwrap().unwrap();
        assert_eq!((&*joined.address, &*joined.token), ("cloud:4343", "sl1.a.b.c"));
        let problem = join(words("sl1.a.b.c", "cloud:4343")).unwrap_err();
        assert!(problem.help.unwrap().contains("comes first"));
    }
}
