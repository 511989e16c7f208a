//! `starlane token`: what lets a node join.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use gateway::shapes::{NewToken, Token, TokenInfo, TokenList};
use serde_json::{Value, json};
use starlane_core::{Key, NodeName, Role};

use super::label::line;
use super::{Session, label, role};
use crate::output::{Render, Stop, Table, human, safe};

/// Makes a token with which one node can join the mesh, once, and prints it and nothing else.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  starlane token
  starlane token --role relay --ttl 1h
  starlane token --role registry
  starlane token --name edge-1 --label tier=edge --label zone=a
  starlane token list

On the machine that shall join: starlane serve --join ADDR TOKEN"
)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Debug, Args)]
struct Terms {
    /// What the node will do: a relay can be dialled and carries others' traffic, a leaf only dials out; `registry` is a relay that
    /// serves a registry in etcd too
    #[arg(long, value_name = "ROLE", value_parser = role::parser(), default_value = "leaf")]
    role: Role,
    /// For how long the token can be used; a day at most
    #[arg(long, value_name = "TIME", value_parser = human::parse_duration, default_value = "10m")]
    ttl: Duration,
    /// A label that the node will have; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label::parse)]
    labels: Vec<(Key, String)>,
    /// The only name that the node may have
    #[arg(long, value_name = "NAME")]
    name: Option<NodeName>,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// List the tokens that can still be used, without their secrets
    #[command(visible_alias = "ls")]
    List,
    /// Take back a token that was not used
    #[command(visible_alias = "rm")]
    Delete {
        /// Its id, as `token list` shows it
        id: String,
    },
}

pub(super) async fn run(session: &Session, args: TokenArgs) -> Result<(), Stop> {
    match args.command {
        None => make(session, args.terms).await,
        Some(TokenCommand::List) => session.out.show(&Tokens(session.client()?.tokens().await?)),
        Some(TokenCommand::Delete { id }) => {
            session.client()?.delete_token(&id).await?;
            session.out.show(&Gone(id))
        }
    }
}

async fn make(session: &Session, terms: Terms) -> Result<(), Stop> {
    let Terms { role, ttl, labels, name } = terms;
    let ttl = Some(format!("{}ms", ttl.as_millis()));
    let asked = NewToken { role, ttl, labels: labels.into_iter().collect(), name };
    let made = Made(session.client()?.new_token(&asked).await?);
    session.out.show(&made)?;
    session.out.note(made.use_of_it());
    Ok(())
}

/// A token that was made.
struct Made(Token);

impl Made {
    /// What to do with it; never the secret itself, which may stay out of the log that standard error is.
    fn use_of_it(&self) -> String {
        let Token { address, info, .. } = &self.0;
        let until = human::date_time(info.expires.0);
        let Some(address) = address else {
            return format!(
                "one node can join with it until {until}, and this node accepts no links: start it with `--listen ADDR`"
            );
        };
        let name = info.name.as_ref().map(|name| format!(" --name {name}")).unwrap_or_default();
        let address = safe(address);
        let mut text = format!(
            "one node can join with it until {until}:\n  starlane serve --join {address} TOKEN{name}"
        );
        if address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback()) {
            text.push_str(
                "\nthis address is for this machine alone; for others start the node with `--listen 0.0.0.0:4343`, and with\n\
                 `--advertise HOST:4343` when they reach it by another address",
            );
        }
        text
    }
}

impl Render for Made {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn names(&self) -> Vec<String> {
        vec![safe(&self.0.token)]
    }

    fn table(&self, wide: bool) -> Table {
        table([&self.0.info], wide)
    }
}

/// The tokens that can still be used.
struct Tokens(TokenList);

impl Render for Tokens {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn json_lines(&self) -> Vec<Value> {
        self.0.tokens.iter().map(|token| json!(token)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.tokens.iter().map(|token| safe(&token.id)).collect()
    }

    fn table(&self, wide: bool) -> Table {
        table(&self.0.tokens, wide)
    }

    fn text(&self) -> Vec<String> {
        self.table(false).lines()
    }
}

fn table<'a>(tokens: impl IntoIterator<Item = &'a TokenInfo>, _wide: bool) -> Table {
    let mut table = Table::new(&["ID", "ROLE", "EXPIRES", "NAME", "LABELS"]);
    for token in tokens {
        table.row([
            token.id.clone(),
            token.role.to_string(),
            human::date_time(token.expires.0),
            token.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            line(&token.labels),
        ]);
    }
    table
}

/// A token that was taken back.
struct Gone(String);

impl Render for Gone {
    fn json(&self) -> Value {
        json!({ "id": self.0, "deleted": true })
    }

    fn names(&self) -> Vec<String> {
        vec![safe(&self.0)]
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["DELETED"]);
        table.row([self.0.clone()]);
        table
    }

    fn text(&self) -> Vec<String> {
        vec![format!("deleted {}", safe(&self.0))]
    }
}
