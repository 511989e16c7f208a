//! `starlane registry`: where the registry of a mesh is kept.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use resource_registry::store::{
    self, Moved, Portable, RedbConfig, RedbStore, Store, TransferError, transfer,
};
use resource_registry::{Error, MeshStates, StateStore};
use serde_json::{Value, json};
use starlane_core::{Code, Point, Problem};

use super::Session;
use super::place::Typed;
use crate::output::{Render, Stop, Table, safe};
use crate::registry_place::{Place, STATES, open_etcd};

/// How many states are looked at together.
const PAGE: usize = 1_000;

/// Looks after the place where the registry of a mesh is kept.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane registry migrate --from data/registry.redb --to etcd://etcd-1:2379,etcd-2:2379/mesh
See also: starlane serve --help, for `--registry`")]
pub(super) struct RegistryArgs {
    #[command(subcommand)]
    command: RegistryCommand,
}

#[derive(Debug, Subcommand)]
enum RegistryCommand {
    /// Move a registry between a file and an etcd, while its node is stopped
    Migrate(MigrateArgs),
}

/// Copies a registry as it is, with its history, into an empty place, and counts what arrived. The states of mechtrons are moved
/// along: those of a registry in a file are in `state.redb` beside it. The source stays as it is; stop its nodes before, and
/// start them with the new place then.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane registry migrate --from data/registry.redb --to etcd://etcd-1:2379,etcd-2:2379/mesh
  starlane serve --data data --registry etcd://etcd-1:2379,etcd-2:2379/mesh

And back:
  starlane registry migrate --from etcd://etcd-1:2379/mesh --to data/registry.redb
  starlane serve --data data --registry embedded")]
struct MigrateArgs {
    /// Where the registry is: a file, or an etcd as `starlane serve --registry` takes it
    #[arg(long, value_name = "WHERE", value_parser = Typed(parse_end))]
    from: End,
    /// Where it shall be: a file that is not there yet, or an etcd that has none under the prefix
    #[arg(long, value_name = "WHERE", value_parser = Typed(parse_end))]
    to: End,
}

/// One side of a move.
#[derive(Debug, Clone)]
enum End {
    File(PathBuf),
    Etcd(String),
}

fn parse_end(text: &str) -> Result<End, String> {
    match text.contains("://") {
        true => match text.parse()? {
            Place::Etcd(address) => Ok(End::Etcd(address)),
            Place::Embedded => Err(format!("`{text}` is no place")),
        },
        false if text.is_empty() => Err("a file has a name".to_owned()),
        false => Ok(End::File(text.into())),
    }
}

impl End {
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Etcd(address) => address.clone(),
        }
    }
}

pub(super) async fn run(session: &Session, args: RegistryArgs) -> Result<(), Stop> {
    let RegistryCommand::Migrate(MigrateArgs { from, to }) = args.command;
    let states = match (&from, &to) {
        // They stay where they are.
        (End::File(from), End::File(to)) if from.parent() == to.parent() => None,
        _ => states_of(&from, false).await?,
    };
    let moved = match &to {
        End::Etcd(address) => {
            let from = open(&from).await?;
            let to = open_etcd(address, None).await?;
            let moved = transfer(&*from, &to).await.map_err(|error| refused(error, address))?;
            drop(to);
            let to = open_etcd(address, None).await?;
            check(moved, &to, address).await?;
            moved
        }
        End::File(path) => into_file(&from, path).await?,
    };
    let (states, left) = match states {
        Some(states) => copy_states(&states, &to).await.map_err(|problem| {
            problem.help(
                "the registry was moved, and not all states of mechtrons: move it into an empty place again",
            )
        })?,
        None => (0, Vec::new()),
    };
    for point in left {
        session
            .out
            .note(format!("the state of `{point}` stays where it was: it is larger than an etcd takes"));
    }
    session.out.show(&Done { from: from.name(), to: to.name(), moved, states })
}

/// The states that belong to a registry; `None` when there are none beside it, and none shall be made.
async fn states_of(end: &End, make: bool) -> Result<Option<MeshStates>, Problem> {
    Ok(match end {
        End::Etcd(address) => Some(MeshStates::Etcd(open_etcd(address, None).await?.states())),
        End::File(path) => {
            let file = path.with_file_name(STATES);
            if !make && !file.is_file() {
                return Ok(None);
            }
            Some(MeshStates::Here(StateStore::open(file).map_err(|error| match error {
                Error::Store(error) => unopened(error),
                error => error.into(),
            })?))
        }
    })
}

/// Copies the states of mechtrons, with the epochs that were begun; answers how many, and whose are too large.
async fn copy_states(from: &MeshStates, to: &End) -> Result<(u64, Vec<Point>), Problem> {
    let (mut count, mut left) = (0, Vec::new());
    let mut points = from.list(None, PAGE).await?;
    if points.is_empty() {
        return Ok((count, left));
    }
    let Some(to) = states_of(to, true).await? else { return Ok((count, left)) };
    while let Some(last) = points.last().cloned() {
        for point in points {
            let Some((epoch, state)) = from.get(&point).await? else { continue };
            match to.commit(&point, epoch, state).await {
                Ok(()) => count += 1,
                Err(Error::Store(store::Error::TooLarge(_))) => {
                    left.push(point);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            if let Some(begun) = from.begun(&point).await?.filter(|begun| *begun > epoch) {
                to.claim(&point, begun).await?;
            }
        }
        points = from.list(Some(&last), PAGE).await?;
    }
    Ok((count, left))
}

async fn open(end: &End) -> Result<Box<dyn Portable>, Problem> {
    Ok(match end {
        End::Etcd(address) => Box::new(open_etcd(address, None).await?),
        End::File(path) if path.is_file() => Box::new(open_file(path)?),
        End::File(path) => {
            return Err(Problem::new(Code::NotFound, format!("there is no file {}", path.display()))
                .help("the registry of a node is the file `registry.redb` in its data folder"));
        }
    })
}

fn open_file(path: &Path) -> Result<RedbStore, Problem> {
    RedbStore::open(path, &RedbConfig::default()).map_err(unopened)
}

fn unopened(error: store::Error) -> Problem {
    match error {
        store::Error::InUse { .. } => Problem::new(Code::StoreUnavailable, error.to_string())
            .help("stop the node that has it, then move its registry"),
        error => Error::Store(error).into(),
    }
}

/// Under another name first, so that a file of this name is always whole.
async fn into_file(from: &End, path: &Path) -> Result<Moved, Problem> {
    let name = path.display().to_string();
    let io = |error: std::io::Error| Problem::new(Code::StoreUnavailable, format!("{name}: {error}"));
    let taken = match path.exists() {
        true => Some(path.to_owned()),
        false => store::log_left(path).map_err(io)?,
    };
    if let Some(taken) = taken {
        return Err(Problem::new(Code::Exists, format!("there is a file {} already", taken.display()))
            .help("move it away, or name another file"));
    }
    let from = open(from).await?;
    let partial = path.with_extension("partial");
    store::remove_file(&partial).map_err(io)?;
    let moved = {
        let to = open_file(&partial)?;
        transfer(&*from, &to).await.map_err(|error| refused(error, &name))?
    };
    check(moved, &open_file(&partial)?, &name).await?;
    if store::log_left(&partial).map_err(io)?.is_some() {
        let detail = format!("{name}: not all of it could be written to its file; the disk may be full");
        return Err(Problem::new(Code::StoreUnavailable, detail));
    }
    std::fs::rename(&partial, path).map_err(io)?;
    store::remove_file(&partial).map_err(io)?;
    #[cfg(unix)]
    store::sync_folder(path).map_err(io)?;
    Ok(moved)
}

async fn check(moved: Moved, to: &dyn Store, name: &str) -> Result<(), Problem> {
    moved.check(to).await.map_err(|error| refused(error, name))
}

fn refused(error: TransferError, to: &str) -> Problem {
    let problem = |code| Problem::new(code, error.to_string());
    match &error {
        TransferError::NotEmpty { .. } => problem(Code::Exists).help(format!(
            "{to} is left as it is; take another prefix, or delete what is there if an earlier move stopped half-way"
        )),
        TransferError::Moving { .. } => {
            problem(Code::StoreUnavailable).help("stop the node of the registry, and move it into an empty place again")
        }
        TransferError::Differs { .. } => {
            problem(Code::Corrupt).help("the source is as it was; do not use the target, and report this")
        }
        TransferError::Source(cause) | TransferError::Target(cause) => {
            let cause = Problem::from(Error::Store(cause.clone()));
            problem(cause.code).help("the source is as it was; try it again with an empty place")
        }
    }
}

/// A registry that was moved.
struct Done {
    from: String,
    to: String,
    moved: Moved,
    /// How many states of mechtrons.
    states: u64,
}

impl Render for Done {
    fn json(&self) -> Value {
        let Moved { records, commits, revisions } = self.moved;
        json!({
            "from": self.from,
            "to": self.to,
            "records": records,
            "commits": commits,
            "revision": revisions.newest,
            "oldest": revisions.oldest,
            "states": self.states,
        })
    }

    fn names(&self) -> Vec<String> {
        vec![self.to.clone()]
    }

    fn table(&self, _wide: bool) -> Table {
        let Moved { records, commits, revisions } = self.moved;
        let mut table = Table::new(&["TO", "RECORDS", "COMMITS", "REVISION", "STATES"]);
        table.row(vec![
            self.to.clone(),
            records.to_string(),
            commits.to_string(),
            revisions.newest.to_string(),
            self.states.to_string(),
        ]);
        table
    }

    fn text(&self) -> Vec<String> {
        let Moved { records, commits, revisions } = self.moved;
        vec![safe(&format!(
            "moved {records} records, {commits} commits up to revision {} and {} states to {}",
            revisions.newest, self.states, self.to
        ))]
    }
}
