//! What the doors need from a node, and no more.

use std::future::Future;
use std::ops::Range;

use bytes::Bytes;
use futures::stream::BoxStream;
use starlane_core::{
    Agent, Blob, Event, Message, MessageId, Outcome, Point, Problem, PropertyChange, Resource, ResumeToken,
    Revision, Timestamp,
};

use crate::shapes::{
    Create, Created, Deleted, Description, ExecProblem, Info, LogLine, NodeInfo, Output, Page, Published,
};

/// What the doors need from a node, and no more.
///
/// Whoever implements it checks what `agent` may do; the doors only say who asks. A future that is dropped gives
/// up what it waits for, never what was already decided.
pub trait Mesh: Send + Sync + 'static {
    /// A new id, later than all before it.
    fn new_message_id(&self) -> MessageId;

    /// Sends a request to its receiver and waits for the outcome, which comes by `header.remaining`.
    ///
    /// A request whose receiver is a Space goes through the Space's bind. A space that is not there or has no bind
    /// is `Rejected` with `NotFound` or `NoRoute`; [`Mesh::space`] then tells which.
    fn request(&self, message: Message) -> impl Future<Output = Outcome> + Send;

    /// Sends a signal; done when a mailbox or a link's queue has taken it.
    fn send(&self, message: Message) -> impl Future<Output = Result<MessageId, Problem>> + Send;

    /// Runs the statements of a script in order; the first that fails stops it.
    fn exec(
        &self,
        agent: Agent,
        script: String,
    ) -> impl Future<Output = Result<Vec<Output>, ExecProblem>> + Send;

    /// Creates a resource.
    fn create(&self, agent: Agent, create: Create) -> impl Future<Output = Result<Created, Problem>> + Send;

    /// The resource at a point.
    fn get(&self, agent: Agent, point: Point) -> impl Future<Output = Result<Resource, Problem>> + Send;

    /// Changes properties, all or none; with `expect` only when the resource was last changed at that revision.
    fn patch(
        &self,
        agent: Agent,
        point: Point,
        changes: Vec<PropertyChange>,
        expect: Option<Revision>,
    ) -> impl Future<Output = Result<Resource, Problem>> + Send;

    /// Deletes a resource, with `recursive` all below it too; tells what it removed.
    fn delete(
        &self,
        agent: Agent,
        point: Point,
        recursive: bool,
        expect: Option<Revision>,
    ) -> impl Future<Output = Result<Vec<Deleted>, Problem>> + Send;

    /// A page of a selector's answer.
    fn select(
        &self,
        agent: Agent,
        selection: Selection,
    ) -> impl Future<Output = Result<Page, Problem>> + Send;

    /// What is known of the resource at a point.
    fn describe(
        &self,
        agent: Agent,
        point: Point,
    ) -> impl Future<Output = Result<Description, Problem>> + Send;

    /// The answer of a selector and then its changes, or only the changes after `since`. After a `Gone` the stream
    /// ends. Each event comes with the token that resumes after it. Dropping the stream ends the watch.
    ///
    /// # Errors
    /// `Syntax` for the selector, `WatchMismatch` for a token of another one.
    fn watch(
        &self,
        agent: Agent,
        selector: String,
        since: Option<ResumeToken>,
    ) -> impl Future<Output = Result<BoxStream<'static, (Event, ResumeToken)>, Problem>> + Send;

    /// The last `tail` lines that a mechtron logged and, with `follow`, those to come.
    fn logs(
        &self,
        agent: Agent,
        point: Point,
        tail: usize,
        follow: bool,
    ) -> impl Future<Output = Result<BoxStream<'static, LogLine>, Problem>> + Send;

    /// Publishes the zip in `body` as the bundle at a point. An error in the body ends it, and nothing is published.
    fn publish(
        &self,
        agent: Agent,
        point: Point,
        body: Upload,
    ) -> impl Future<Output = Result<Published, Problem>> + Send;

    /// Replaces the content of a File, creating the File when it is not there. An error in the body leaves the old content.
    fn write_file(
        &self,
        agent: Agent,
        point: Point,
        body: Upload,
        expect: Expect,
    ) -> impl Future<Output = Result<Content, Problem>> + Send;

    /// What the content of a File or an Artifact is; a directory's is that of its `index.html`.
    fn content(&self, agent: Agent, point: Point) -> impl Future<Output = Result<Content, Problem>> + Send;

    /// Bytes `range.start..range.end` of a blob, in order; the range lies within it.
    fn blob(
        &self,
        blob: Blob,
        range: Range<u64>,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Bytes, Problem>>, Problem>> + Send;

    /// Whether a space is there and has a bind.
    fn space(&self, space: Point) -> impl Future<Output = SpaceState> + Send;

    /// The nodes of the mesh.
    fn nodes(&self, agent: Agent) -> impl Future<Output = Result<Vec<NodeInfo>, Problem>> + Send;

    /// Who answers.
    fn info(&self) -> Info;

    /// Whether the node can do its work.
    ///
    /// # Errors
    /// What it waits for.
    fn ready(&self) -> Result<(), Problem>;

    /// Appends the node's own metrics to `text`, in the OpenMetrics text format and without its end mark.
    fn metrics(&self, text: &mut String);
}

/// A body on its way in. It yields an error when the sender is too slow, sends too much or goes away.
pub type Upload = BoxStream<'static, Result<Bytes, Problem>>;

/// A page of a selector's answer, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The selector's text.
    pub selector: String,
    /// How many resources at most.
    pub limit: usize,
    /// Where the page before ended: its `next`.
    pub cursor: Option<String>,
}

/// What must be there for a write to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Anything or nothing.
    Any,
    /// Nothing.
    Absent,
    /// Content with one of these entity tags, without their quotes; with none listed, any content.
    Present(Vec<String>),
}

/// What the content of a point is.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// Where its bytes are.
    pub blob: Blob,
    /// What its bytes mean.
    pub content_type: String,
    /// Its entity tag, without quotes.
    pub etag: String,
    /// When it was written.
    pub modified: Timestamp,
}

/// A header of a reply: its content is that of a directory, which was named without its `/`. The users' web leads the
/// browser to the name with it, so that relative links lead where they should.
pub const IS_DIRECTORY: &str = "starlane-directory";

/// Whether a space can answer the web.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpaceState {
    /// It has a bind.
    Ready,
    /// It is there, without a bind.
    NoBind,
    /// It has a bind that cannot be used.
    BadBind {
        /// Why.
        reason: String,
    },
    /// It is not there.
    Missing,
}
