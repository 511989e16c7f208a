//! Why the registry did not do what it was asked.

use starlane_core::{Base, Code, Key, Kind, Point, PointerError, Problem, Revision, When, kind_unknown};

use crate::store;

/// Why the registry did not do what it was asked. Nothing changed unless the variant says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No resource is there.
    #[error("nothing is at `{0}`")]
    NotFound(Point),
    /// The parent of what was to be made is missing.
    #[error("`{point}` cannot be made: nothing is at `{parent}`")]
    ParentMissing {
        /// What was to be made.
        point: Point,
        /// What must be made first.
        parent: Point,
    },
    /// A resource is there already.
    #[error("`{point}<{kind}>` is there already")]
    Exists {
        /// Where.
        point: Point,
        /// What it is.
        kind: Kind,
    },
    /// The kind is neither built in nor declared.
    #[error("no kind `{kind}`")]
    KindUnknown {
        /// What was to be made.
        point: Point,
        /// Of what kind.
        kind: Kind,
        /// The kinds that are declared for its space.
        declared: Vec<String>,
    },
    /// A rule of the language refuses it.
    #[error("{0}")]
    Rule(Box<Problem>),
    /// The resource has another kind, which never changes.
    #[error("`{point}` is a {is}, not a {asked}")]
    KindMismatch {
        /// Which.
        point: Point,
        /// What it is.
        is: Kind,
        /// What it was taken for.
        asked: Box<Kind>,
    },
    /// The resource belongs to the mesh.
    #[error("`{0}` is the mesh's own")]
    Reserved(Point),
    /// The property can never change.
    #[error("`{key}` of `{point}` is locked")]
    PropertyLocked {
        /// Of which resource.
        point: Point,
        /// Which.
        key: Key,
    },
    /// The property says where the resource lives or who serves it, which only the mesh knows.
    #[error("`{key}` of `{point}` is set by the mesh alone: it says where messages to `{point}` go")]
    Assigned {
        /// Of which resource.
        point: Point,
        /// Which.
        key: Key,
    },
    /// The properties do not match the schema of the kind.
    #[error("the properties of `{point}` do not match the schema of {kind}{}", places(errors))]
    Invalid {
        /// Of which resource.
        point: Point,
        /// Of what kind.
        kind: Kind,
        /// What is wrong.
        errors: Vec<PointerError>,
    },
    /// The schema of a kind cannot be used.
    #[error("the schema of `{declaration}` cannot be used: {problem}")]
    SchemaUnusable {
        /// Which kind's.
        declaration: Point,
        /// Why.
        problem: Box<Problem>,
    },
    /// The resource is not at the revision that was expected.
    #[error("`{point}` was changed by revision {found}, not {expected}")]
    RevisionConflict {
        /// Which.
        point: Point,
        /// What was expected.
        expected: Revision,
        /// What is.
        found: Revision,
    },
    /// The resource has children.
    #[error("`{point}` has children: `{child}`{}", if *more { " and others" } else { "" })]
    HasChildren {
        /// Which.
        point: Point,
        /// One of them.
        child: Point,
        /// Whether there are more.
        more: bool,
    },
    /// Something is larger than it may be.
    #[error("{0}")]
    TooLarge(String),
    /// The field changes without commits, so it can be selected but not watched.
    #[error("`{0}` is measured when it is asked for: it can be selected, not watched")]
    Sampled(String),
    /// What was then is no longer known.
    #[error("{} is before the history that is kept: it goes back to revision {oldest}", named(when))]
    Gone {
        /// What was asked for.
        when: When,
        /// The oldest revision whose resources can be read.
        oldest: Revision,
    },
    /// The revision is still to come.
    #[error("revision {asked} is still to come: the newest is {newest}")]
    NotYet {
        /// What was asked for.
        asked: Revision,
        /// The newest there is.
        newest: Revision,
    },
    /// The resume token belongs to another selector.
    #[error("the resume token belongs to another selector")]
    TokenMismatch,
    /// The cursor is none of this registry.
    #[error("`{0}` is not a cursor of a selection")]
    CursorInvalid(String),
    /// Too much goes on at once.
    #[error("{0}")]
    Busy(&'static str),
    /// A tree was larger than one commit, and deleting it stopped half-way.
    #[error("{} resources were deleted, then: {cause}", removed.len())]
    DeletedPartly {
        /// What is gone.
        removed: Vec<(Point, Kind)>,
        /// Why the rest is not.
        cause: Box<Error>,
    },
    /// The store below failed.
    #[error("{0}")]
    Store(store::Error),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Store(error)
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Error::Rule(Box::new(problem))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        let problem = |code| Problem::new(code, detail.clone());
        match error {
            Error::NotFound(point) => {
                let above = point.parent().filter(|parent| !parent.is_root());
                let look = above.map_or("*".to_owned(), |parent| format!("{parent}:*"));
                problem(Code::NotFound)
                    .at(&point)
                    .help(format!("see what is there: `starlane select '{look}'`"))
            }
            Error::ParentMissing { point, parent } => {
                let kind =
                    if parent.parent().is_some_and(|above| above.is_root()) { "Space" } else { "Base" };
                problem(Code::NotFound)
                    .at(&parent)
                    .help(format!("make it first, then `{point}`: `starlane create '{parent}<{kind}>'`"))
            }
            Error::Exists { point, .. } => problem(Code::Exists).at(&point).help(format!(
                "`create? {point}` accepts it as it is, `create! {point}` replaces its properties"
            )),
            Error::KindUnknown { point, kind, declared } => {
                kind_unknown(kind.base.as_str(), declared.iter().map(String::as_str)).at(&point)
            }
            Error::Rule(problem) => *problem,
            Error::KindMismatch { point, .. } => problem(Code::KindMismatch)
                .at(&point)
                .help("a kind never changes: delete the resource first, or use another point"),
            Error::Reserved(point) => problem(Code::Forbidden).at(&point).help(
                "users declare kinds in `mesh:kinds`; everything else in `mesh` is made by the mesh itself",
            ),
            Error::PropertyLocked { point, key } => problem(Code::PropertyLocked).at(&point).help(format!(
                "a locked property never changes; leave `{key}` out, or make another resource"
            )),
            Error::Assigned { point, .. } => problem(Code::PropertyValue)
                .at(&point)
                .help("leave it out: the mesh writes it when it knows where messages go"),
            Error::Invalid { point, kind, errors } => {
                let of_index = |error: &PointerError| error.pointer.split('/').nth(1) == Some("indexed");
                let help = match kind.base == Base::Kind && errors.iter().all(of_index) {
                    true => {
                        "let `indexed` name up to eight properties that `schema` declares as texts, numbers or truth values, or \
                         leave it out: everything can be asked for without, more slowly"
                    }
                    false => "give the properties that the schema of its kind asks for",
                };
                let mut problem = problem(Code::Schema).at(&point).help(help);
                problem.errors = errors;
                problem
            }
            Error::SchemaUnusable { declaration, problem: inner } => {
                let mut problem = problem(inner.code).at(&declaration).help(format!(
                    "let `schema` of `{declaration}` name an artifact or a file that holds a JSON Schema"
                ));
                problem.errors = inner.errors;
                problem
            }
            Error::RevisionConflict { point, .. } => {
                problem(Code::RevisionConflict).at(&point).help("get it again, and decide anew")
            }
            Error::HasChildren { point, .. } => problem(Code::HasChildren)
                .at(&point)
                .help(format!("delete it with all below it: `starlane delete -r {point}`")),
            Error::TooLarge(_) => problem(Code::TooLarge),
            Error::Sampled(_) => {
                problem(Code::Unsupported).help("leave it out of the filter, or use `select`")
            }
            Error::Gone { oldest, .. } => problem(Code::HistoryGone).help(format!(
                "ask for revision {oldest} or a later one; how long the history is kept is up to the node"
            )),
            Error::NotYet { newest, .. } => {
                problem(Code::Usage).help(format!("ask for revision {newest} or an earlier one"))
            }
            Error::TokenMismatch => {
                problem(Code::WatchMismatch).help("resume with the selector that the token came from")
            }
            Error::CursorInvalid(_) => problem(Code::Usage).help("begin again without a cursor"),
            Error::Busy(_) => {
                let mut problem = problem(Code::Busy).help("try again in a moment");
                problem.retry_after = Some(1);
                problem
            }
            Error::DeletedPartly { cause, .. } => {
                let mut problem = Problem::from(*cause);
                problem.detail = detail;
                problem
            }
            Error::Store(error) => store_problem(&error),
        }
    }
}

/// The places of the first things that are wrong.
fn places(errors: &[PointerError]) -> String {
    let mut places: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
    places.dedup();
    let more = if places.len() > 3 { " and others" } else { "" };
    match &places[..places.len().min(3)] {
        [] => String::new(),
        places => format!(": {}{more}", places.join(", ")),
    }
}

fn named(when: &When) -> String {
    match when {
        When::Revision(revision) => format!("revision {revision}"),
        When::Time(time) => time.to_rfc3339(),
    }
}

fn store_problem(error: &store::Error) -> Problem {
    use store::Error as E;
    let (code, help) = match error {
        E::Conflict { .. } => (Code::RevisionConflict, "get it again, and decide anew"),
        E::FenceStale { .. } => (Code::EpochStale, "somebody else acts for it now; stop"),
        E::LeaseUnknown(_) => (Code::NotFound, "grant a new lease"),
        E::TooLarge(_) => (Code::TooLarge, "split it"),
        E::Busy => (Code::Busy, "try again in a moment"),
        E::Unavailable { .. } => {
            (Code::StoreUnavailable, "make room on the disk; writes go on by themselves, reads never stopped")
        }
        E::Halted { .. } => {
            (Code::StoreUnavailable, "check the disk, then restart the node; what was acknowledged is kept")
        }
        E::Corrupt { .. } => (Code::Corrupt, "restore the file from a backup; it is left as it is"),
        E::FormatNewer { .. } => (Code::StoreUnavailable, "run a newer version of starlane"),
        E::InUse { .. } => {
            (Code::StoreUnavailable, "stop the other node, or use another data folder: `--data DIR`")
        }
        E::Foreign { .. } => (
            Code::StoreUnavailable,
            "give each mesh a prefix of its own: `--registry etcd://HOST:PORT/PREFIX`",
        ),
        E::Denied { .. } => (
            Code::StoreUnavailable,
            "look at the files and the user that `--registry` names, and at what etcd lets that user do",
        ),
        E::Closed => (Code::Draining, "the node is stopping"),
        E::Unreachable { .. } => (
            Code::Unreachable,
            "nothing was changed; what runs here goes on, and `--stale-ok` reads what this node knew last",
        ),
        E::Unknown { .. } => (Code::Timeout, "look whether it was done before you try it again"),
        E::Unsupported { .. } => (
            Code::Unsupported,
            "nothing was changed; upgrade the registry's node: `starlane node list` shows which version each runs",
        ),
    };
    let mut problem = Problem::new(code, error.to_string()).help(help);
    if matches!(error, E::Busy | E::Unavailable { .. } | E::Unreachable { .. }) {
        problem.retry_after = Some(1);
    }
    problem
}
