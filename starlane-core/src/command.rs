//! Commands: what a statement asks for, once its variables are known.

mod form;
mod grant;
mod print;
mod read;

pub use grant::{Grant, Mask, MaskMode, Rights};

pub(crate) use form::Form;
pub(crate) use read::{kind, method, path, point, read};

use std::sync::Arc;

use crate::cursor::{Cursor, within};
use crate::{Bindings, Code, Key, Kind, Method, Point, PointError, Problem, PropertyChange, Selector};

/// One command of the language, with everything absolute.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Registers a resource and provisions it.
    Create {
        /// What to do when the point is taken.
        mode: CreateMode,
        /// Where.
        target: Target,
        /// As what.
        kind: Kind,
        /// With which properties.
        changes: Vec<PropertyChange>,
    },
    /// Changes properties, all or none.
    Set {
        /// Of which resource.
        point: Point,
        /// How; never empty.
        changes: Vec<PropertyChange>,
    },
    /// Shows a resource.
    Get {
        /// Which.
        point: Point,
        /// Only these properties; all of it when empty.
        keys: Vec<Key>,
    },
    /// Lists what a selector means.
    Select(Selector),
    /// Deletes resources.
    Delete {
        /// Which.
        target: DeleteTarget,
        /// Whether their children go too; else a resource with children is not deleted.
        recursive: bool,
    },
    /// Publishes an archive or a directory as an immutable bundle.
    Publish {
        /// The file or directory, as its user names it.
        source: String,
        /// The bundle, whose last segment is a version.
        point: Point,
    },
    /// Copies content between a local file and a File; exactly one of the two is a point.
    Copy {
        /// Where it is.
        from: Location,
        /// Where it goes.
        to: Location,
    },
    /// Shows the content of a File or an Artifact.
    Read(Point),
    /// Gives a File its content.
    Write {
        /// Which file.
        point: Point,
        /// The whole content.
        content: String,
    },
    /// Shows what a selector means, then how that changes.
    Watch(Selector),
    /// Sends a message that wants no answer.
    Send(Call),
    /// Sends a message and shows the answer.
    Request(Call),
    /// Changes or shows permissions.
    Grant(Grant),
    /// Makes somebody the owner of resources.
    Chown {
        /// Who.
        owner: Point,
        /// Of what.
        on: Selector,
    },
}

/// What `create` does when the point is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CreateMode {
    /// `create`: refuses.
    #[default]
    New,
    /// `create?`: succeeds when the kind is the same, and changes nothing.
    Ensure,
    /// `create!`: replaces the properties, never the kind nor a locked property.
    Override,
}

/// Where something is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// There.
    Point(Point),
    /// Where the parent's sequence says.
    Sequence(Sequence),
}

impl Target {
    /// Reads an absolute point, or one with a `%` in its last segment.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(text: &str) -> Result<Self, Problem> {
        let mut cursor = Cursor::new(text, Code::PointSyntax)?;
        let template = read::point(&mut cursor)?;
        if !cursor.is_done() {
            return Err(cursor.unexpected("the end of the point"));
        }
        form::resolve_target(&template, &Bindings::default()).map_err(|problem| within(problem, text, 0))
    }
}

/// A name with one `%`, which the parent's next number replaces: `shop:cart-%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Whose sequence.
    pub parent: Point,
    /// What stands before the number.
    pub prefix: String,
    /// What stands after it.
    pub suffix: String,
}

impl Sequence {
    /// The point with this number.
    ///
    /// # Errors
    /// When the point becomes too long.
    pub fn point(&self, number: u64) -> Result<Point, PointError> {
        self.parent.child(&format!("{}{number}{}", self.prefix, self.suffix))
    }
}

/// What `delete` is about.
#[derive(Debug, Clone, PartialEq)]
pub enum DeleteTarget {
    /// This resource.
    Point(Point),
    /// Whatever matches.
    Selector(Selector),
}

/// One end of `cp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file where the command is typed.
    Local(String),
    /// A resource.
    Point(Point),
}

/// A message as `send` and `request` write it: `shop:cart^Ext<AddItem>/path BODY`.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// For whom.
    pub to: Point,
    /// What is asked.
    pub method: Method,
    /// Of what; begins with `/`, and may carry a query.
    pub path: Arc<str>,
    /// What is given along; empty when nothing is. JSON when it begins with `{` or `[`.
    pub body: String,
}
