//! What the doors need from a node, and no more.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use starlane_core::{
    Agent, Blob, Event, Key, Kind, Message, MessageId, NodeName, Outcome, Point, Problem, PropertyChange,
    Request, Resource, ResumeToken, Revision, Role, Timestamp, Trace, When,
};
use tokio::sync::mpsc;

use crate::Socket;
use crate::portal::{Order, Seat, Subscription};
use crate::shapes::{
    Create, Created, DeadLetterList, Deleted, Description, Diff, ExecProblem, Graph, History, Info, LogLine,
    Moved, NodeInfo, NodePatch, Output, Page, Published, Route, Token, TokenInfo, Why,
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

    /// A point for a client that wants a WebSocket, and what is pushed there for as long as it is held.
    ///
    /// # Errors
    /// `Internal` when there is no randomness.
    fn socket(&self) -> Result<Socket, Problem>;

    /// Sends the request of a client that wants a WebSocket, as [`Mesh::request`] does; tells with the outcome whose answer
    /// it is, since that is who gets the client's messages.
    fn upgrade(&self, message: Message) -> impl Future<Output = (Outcome, Point)> + Send;

    /// Runs the statements of a script in order; the first that fails stops it.
    fn exec(
        &self,
        agent: Agent,
        script: String,
    ) -> impl Future<Output = Result<Vec<Output>, ExecProblem>> + Send;

    /// Creates a resource.
    fn create(&self, agent: Agent, create: Create) -> impl Future<Output = Result<Created, Problem>> + Send;

    /// Asks every resource that a selector means, each with a message of its own, at the same time. Each of them is in
    /// the answers once, by `scatter.timeout`, and in the order in which they come; those that did not answer by then
    /// are `Unknown`, or `Rejected` when they surely did not run. Dropping the answers gives up those still to come.
    ///
    /// # Errors
    /// `Syntax` for the selector, `TooLarge` when it means more than `scatter.points_max`; nothing was sent then.
    fn scatter(
        &self,
        agent: Agent,
        scatter: Scatter,
    ) -> impl Future<Output = Result<Gathering, Problem>> + Send;

    /// A place for a session among those who serve points here, and what it will be asked.
    fn seat(&self) -> (Seat, mpsc::Receiver<Order>);

    /// Lets a session take the messages of a point, from wherever in the mesh they come, together with all others who serve it;
    /// done when the mesh knows. With a kind, the resource is made when it is not there.
    ///
    /// # Errors
    /// `NotFound` when nothing is at the point, `Usage` when its messages go to code of its own, `Unreachable` when the
    /// registry is out of reach.
    fn serve(
        &self,
        agent: Agent,
        point: Point,
        kind: Option<Kind>,
        seat: Seat,
    ) -> impl Future<Output = Result<(), Problem>> + Send;

    /// Tells all who subscribe to the signal's receiver; done when the links' queues have taken it.
    ///
    /// # Errors
    /// `NotFound` when nothing is at the point.
    fn publish_event(&self, message: Message) -> impl Future<Output = Result<(), Problem>> + Send;

    /// What is published to a topic from now on, by whichever node.
    ///
    /// # Errors
    /// `NotFound` when nothing is at the point, `Unreachable` when the registry is out of reach.
    fn subscribe(
        &self,
        agent: Agent,
        topic: Point,
    ) -> impl Future<Output = Result<Subscription, Problem>> + Send;

    /// The resource at a point.
    fn get(
        &self,
        agent: Agent,
        point: Point,
        freshness: Freshness,
    ) -> impl Future<Output = Result<Resource, Problem>> + Send;

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
        freshness: Freshness,
    ) -> impl Future<Output = Result<Page, Problem>> + Send;

    /// What happened to the resource at a point, at most `limit` commits of it, the newest first; of one that is gone too.
    ///
    /// # Errors
    /// `NotFound` when nothing is known of it.
    fn history(
        &self,
        agent: Agent,
        point: Point,
        limit: usize,
    ) -> impl Future<Output = Result<History, Problem>> + Send;

    /// A page of what is different between two moments.
    ///
    /// # Errors
    /// `HistoryGone` when the history does not reach back that far.
    fn diff(
        &self,
        agent: Agent,
        comparison: Comparison,
    ) -> impl Future<Output = Result<Diff, Problem>> + Send;

    /// Everything in the registry at one revision, as the bytes of a backup.
    fn backup(&self, agent: Agent) -> impl Future<Output = Result<Upload, Problem>> + Send;

    /// What is known of the resource at a point.
    fn describe(
        &self,
        agent: Agent,
        point: Point,
        freshness: Freshness,
    ) -> impl Future<Output = Result<Description, Problem>> + Send;

    /// The answer of a query and then its changes, or only the changes after `since`. After a `Gone` the stream
    /// ends. Each event comes with the token that resumes after it. Dropping the stream ends the watch. `freshness` is
    /// that of the list at the beginning.
    ///
    /// # Errors
    /// `Syntax` for the selector, `WatchMismatch` for a token of another one.
    fn watch(
        &self,
        agent: Agent,
        query: String,
        since: Option<ResumeToken>,
        freshness: Freshness,
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

    /// The nodes of the mesh as this one sees them, those that cannot be reached too.
    fn nodes(&self, agent: Agent) -> impl Future<Output = Result<Vec<NodeInfo>, Problem>> + Send;

    /// Changes the labels of a node, or begins or ends to drain it: no mechtron is placed on a node that drains, and those
    /// that it has are moved away. Done when that is decided, not when the last has moved.
    ///
    /// # Errors
    /// `NotFound` when there is no such node, `Unreachable` when the registry is out of reach.
    fn patch_node(
        &self,
        agent: Agent,
        name: NodeName,
        patch: NodePatch,
    ) -> impl Future<Output = Result<NodeInfo, Problem>> + Send;

    /// Shuts a node out: its links are closed, and it can never join again as what it is now. Done when that is decided.
    ///
    /// # Errors
    /// `NotFound` when there is no such node, `Forbidden` for one that cannot be shut out, `Unreachable` when the
    /// registry is out of reach.
    fn revoke(&self, agent: Agent, name: NodeName) -> impl Future<Output = Result<(), Problem>> + Send;

    /// The links between nodes, as this one knows them.
    fn graph(&self, agent: Agent) -> impl Future<Output = Result<Graph, Problem>> + Send;

    /// Makes a token with which one node can join.
    fn new_token(
        &self,
        agent: Agent,
        terms: TokenTerms,
    ) -> impl Future<Output = Result<Token, Problem>> + Send;

    /// The tokens that can still be used.
    fn tokens(&self, agent: Agent) -> impl Future<Output = Result<Vec<TokenInfo>, Problem>> + Send;

    /// Takes back a token that was not used.
    ///
    /// # Errors
    /// `NotFound` when there is none of this id, since it was used, has expired or never was.
    fn delete_token(&self, agent: Agent, id: String) -> impl Future<Output = Result<(), Problem>> + Send;

    /// The way of a message from this node to the one where a point lives, each node of it asked and timed, by `timeout`.
    /// A way that breaks is an answer too.
    ///
    /// # Errors
    /// `NotFound` when nothing is at the point.
    fn trace(
        &self,
        agent: Agent,
        point: Point,
        timeout: Duration,
    ) -> impl Future<Output = Result<Route, Problem>> + Send;

    /// The signals to a space that could not be delivered: the last of them, and how many there were.
    ///
    /// # Errors
    /// `NotFound` when there is no such space, `Usage` when the point is inside one.
    fn dead_letters(
        &self,
        agent: Agent,
        space: Point,
    ) -> impl Future<Output = Result<DeadLetterList, Problem>> + Send;

    /// Where a point lives and why, or why it does not; a point where nothing is is an answer too.
    fn why(&self, agent: Agent, point: Point) -> impl Future<Output = Result<Why, Problem>> + Send;

    /// Moves a mechtron to a node, with its mailbox and its state; done when it is there.
    ///
    /// # Errors
    /// `NotFound` when nothing is at the point or no node has this name, `Usage` when it is no mechtron or may not live
    /// there, `Timeout` when it is not there by `timeout`: it is still on its way.
    fn move_to(
        &self,
        agent: Agent,
        point: Point,
        to: NodeName,
        timeout: Duration,
    ) -> impl Future<Output = Result<Moved, Problem>> + Send;

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

/// How fresh what is read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// It holds all that was acknowledged before, on any node; `Unreachable` when the registry is out of reach.
    #[default]
    Latest,
    /// It is what this node last heard, whether or not the registry can be reached.
    Stale,
}

/// A question to many.
#[derive(Debug, Clone, PartialEq)]
pub struct Scatter {
    /// The selector of those who are asked.
    pub selector: String,
    /// What each of them is asked.
    pub request: Request,
    /// Whom the messages come from.
    pub from: Point,
    /// How long to wait for answers.
    pub timeout: Duration,
    /// Which trace the messages belong to.
    pub trace: Trace,
    /// How many may be asked; none is when the selector means more.
    pub points_max: usize,
}

/// The answers to a question to many.
pub struct Gathering {
    /// How many were asked.
    pub asked: u64,
    /// What each of them answered.
    pub answers: BoxStream<'static, Gathered>,
}

/// What one of many answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Gathered {
    /// Who.
    pub point: Point,
    /// Where it lives, when that is known.
    pub node: Option<NodeName>,
    /// What.
    pub outcome: Outcome,
}

/// What a token is good for: one node, once, for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTerms {
    /// What the node will do for others.
    pub role: Role,
    /// For how long it can be used.
    pub ttl: Duration,
    /// What will be said of the node, for selectors.
    pub labels: BTreeMap<Key, String>,
    /// What the node will be called; any name when absent.
    pub name: Option<NodeName>,
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
    /// At which moment of the history; now when absent.
    pub at: Option<When>,
}

/// What is to be compared between two moments of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The selector's text.
    pub selector: String,
    /// The earlier moment.
    pub from: When,
    /// The later one; now when absent.
    pub to: Option<When>,
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
