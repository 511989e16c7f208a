//! The JSON of the API: what goes in, what comes out. The command line reads the same types.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use starlane_core::{
    Change, Code, Event, Key, Kind, Place, Point, PointerError, Problem, Properties, Resource, Revision,
    Span, Timestamp, Value,
};
use utoipa::ToSchema;

use crate::schema;

mod dead_letters;
mod history;
mod homes;
mod nodes;
mod scatter;

pub use dead_letters::{DeadLetter, DeadLetterList};
pub use history::{Diff, Difference, DifferenceKind, History, HistoryEntry};
pub use homes::{Candidate, Hop, Move, Moved, Route, Why, WhyState};
pub use nodes::{
    Graph, GraphLink, GraphNode, NewToken, NodeInfo, NodeList, NodePatch, Token, TokenInfo, TokenList,
};
pub use scatter::{ScatterAnswer, ScatterEnd, ScatterLine, ScatterOutcome, Until, UntilError};

/// A resource to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Where; a last segment with one `%` gets the parent's next number.
    #[schema(example = "shop:cart")]
    pub point: String,
    /// What.
    #[schema(value_type = schema::Kind)]
    pub kind: Kind,
    /// Its first properties.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, schema::Value>)]
    pub properties: BTreeMap<Key, Value>,
    /// Which of the properties are locked from the beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub locked: Vec<Key>,
    /// What to do when it exists.
    #[serde(default)]
    pub mode: CreateMode,
}

/// What to do when a resource to be created exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CreateMode {
    /// That is an error.
    #[default]
    New,
    /// That is fine when it is of the same kind.
    Ensure,
    /// Its properties are replaced.
    Override,
}

/// A resource that was asked to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Created {
    /// The resource.
    #[schema(value_type = schema::Resource)]
    pub resource: Resource,
    /// What happened to it.
    pub outcome: CreateOutcome,
}

/// What happened to a resource that was asked to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CreateOutcome {
    /// It is new.
    Created,
    /// It was there, and was left as it was.
    Existed,
    /// It was there, and got new properties.
    Replaced,
}

/// Changes to properties, all or none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Properties to set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, schema::Value>)]
    pub set: BTreeMap<Key, Value>,
    /// Properties to set and never change again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, schema::Value>)]
    pub lock: BTreeMap<Key, Value>,
    /// Properties to take away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub unset: Vec<Key>,
}

/// A resource that was removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// Where it was.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// What it was.
    #[schema(value_type = schema::Kind)]
    pub kind: Kind,
}

/// What a deletion removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeletedList {
    /// All that was removed.
    pub deleted: Vec<Deleted>,
}

/// A page of a selector's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page {
    /// What matches.
    #[schema(value_type = Vec<schema::Resource>)]
    pub resources: Vec<Arc<Resource>>,
    /// When.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// The cursor of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What is known of a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Description {
    /// The resource.
    #[schema(value_type = schema::Resource)]
    pub resource: Resource,
    /// Those one level below it.
    #[schema(value_type = Vec<schema::Resource>)]
    pub children: Vec<Arc<Resource>>,
    /// Whether it has more children than are listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// The messages that it understands, when it is a mechtron that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, serde_json::Value>>)]
    pub contract: Option<serde_json::Value>,
    /// What is known of its activation, when it is a mechtron.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, serde_json::Value>>)]
    pub activation: Option<serde_json::Value>,
}

/// A line that a mechtron logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub time: Timestamp,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// Whose it is.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// What it says.
    pub line: String,
    /// The trace that it belongs to, as 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// A bundle that was published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// The bundle.
    #[schema(value_type = schema::Resource)]
    pub bundle: Resource,
    /// How many artifacts it has.
    pub artifacts: u64,
    /// How many bytes they have together.
    pub bytes: u64,
}

/// Content that was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    /// Of what.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// What it means.
    pub content_type: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// Its entity tag, without quotes.
    pub etag: String,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// The version of the program.
    pub version: String,
    /// The name of the node.
    pub node: String,
    /// The name of the cluster.
    pub cluster: String,
    /// The version of the API: `v1`.
    pub api: String,
}

/// The id of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sent {
    /// A UUID version 7.
    pub id: String,
}

/// What one who subscribes to a topic hears.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum TopicLine {
    /// Something was published.
    Event {
        /// Who did.
        #[schema(value_type = schema::Point)]
        from: Point,
        /// What it is about; `/` unless it was said.
        path: String,
        /// Its headers, in order; a name may repeat.
        headers: Vec<(String, String)>,
        /// What it says.
        #[serde(flatten)]
        data: Data,
    },
    /// Events were missed, since they were not read as fast as they came.
    Gap {
        /// How many.
        missed: u64,
    },
}

/// What the statements of a script answered, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Results {
    /// One for each statement.
    pub results: Vec<Output>,
}

/// What one statement answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Output {
    /// A resource was made, or was there.
    Created {
        /// The resource.
        #[schema(value_type = schema::Resource)]
        resource: Resource,
        /// What happened to it.
        outcome: CreateOutcome,
    },
    /// A resource.
    Resource {
        /// The resource.
        #[schema(value_type = schema::Resource)]
        resource: Resource,
    },
    /// Some properties of a resource.
    Properties {
        /// Whose.
        #[schema(value_type = schema::Point)]
        point: Point,
        /// Which.
        #[schema(value_type = BTreeMap<String, schema::Property>)]
        properties: Properties,
    },
    /// A page of a selector's answer.
    List {
        /// What matches.
        #[schema(value_type = Vec<schema::Resource>)]
        resources: Vec<Arc<Resource>>,
        /// When.
        #[schema(value_type = u64)]
        revision: Revision,
        /// The cursor of the next page; absent on the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// Resources were removed.
    Deleted {
        /// All that was removed.
        deleted: Vec<Deleted>,
    },
    /// The content of a point.
    Content {
        /// Whose.
        #[schema(value_type = schema::Point)]
        point: Point,
        /// What it means.
        #[serde(rename = "contentType")]
        content_type: String,
        /// How many bytes it has.
        bytes: u64,
        /// The bytes.
        #[serde(flatten)]
        data: Data,
    },
    /// The answer of a mechtron.
    Reply {
        /// Its HTTP status.
        status: u16,
        /// Its headers, in order; a name may repeat.
        headers: Vec<(String, String)>,
        /// Its body.
        #[serde(flatten)]
        data: Data,
    },
    /// A message was sent.
    Sent {
        /// A UUID version 7.
        id: String,
    },
}

/// Bytes in JSON: as text when they are text, else in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// UTF-8.
    Text(String),
    /// RFC 4648, section 4.
    Base64(String),
}

impl Data {
    /// These bytes.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Data::Text(text.to_owned()),
            Err(_) => Data::Base64(BASE64.encode(bytes)),
        }
    }

    /// The bytes; `None` when the base64 is none.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        match self {
            Data::Text(text) => Some(text.clone().into_bytes()),
            Data::Base64(text) => BASE64.decode(text).ok(),
        }
    }
}

/// A script that stopped at a statement.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecProblem {
    /// What is wrong with the statement.
    pub problem: Problem,
    /// What those before it answered.
    pub done: Vec<Output>,
}

impl From<Problem> for ExecProblem {
    fn from(problem: Problem) -> Self {
        Self { problem, done: Vec::new() }
    }
}

/// One step of a watch, with the token that resumes after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WatchEvent {
    /// What happened.
    #[serde(flatten)]
    pub event: WatchStep,
    /// What to resume with: `since`, or `Last-Event-ID`. Empty after `gone`.
    pub token: String,
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum WatchStep {
    /// A page of what matches.
    Listed {
        /// The page.
        #[schema(value_type = Vec<schema::Resource>)]
        resources: Vec<Arc<Resource>>,
        /// The same for all pages.
        #[schema(value_type = u64)]
        revision: Revision,
        /// Whether changes follow.
        last: bool,
    },
    /// All that one commit changed in the answer.
    Changed {
        /// The commit.
        #[schema(value_type = u64)]
        revision: Revision,
        /// In the order of the commit.
        changes: Vec<WatchChange>,
    },
    /// How many match; only for `count(…)`.
    Counted {
        /// The commit that made it so many, or where the watch began.
        #[schema(value_type = u64)]
        revision: Revision,
        /// So many.
        count: u64,
    },
    /// The first in their order; only for `first N by KEY of …`.
    Ranked {
        /// The commit that changed one of them or their order, or where the watch began.
        #[schema(value_type = u64)]
        revision: Revision,
        /// All of them, in their order.
        #[schema(value_type = Vec<schema::Resource>)]
        resources: Vec<Arc<Resource>>,
    },
    /// Nothing changed up to here.
    Bookmark {
        /// Up to where.
        #[schema(value_type = u64)]
        revision: Revision,
    },
    /// The history after the token is no longer kept; the list follows again.
    Gone {
        /// The oldest revision that can be resumed from.
        #[schema(value_type = u64)]
        oldest: Revision,
    },
}

/// What happened to one resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WatchChange {
    /// What.
    pub change: ChangeKind,
    /// As far as the selector saw it.
    #[schema(value_type = schema::Resource)]
    pub resource: Arc<Resource>,
}

/// What happened to a resource, relative to the answer of the watched selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It matches now and did not before.
    Entered,
    /// It matched before and after.
    Updated,
    /// It matched before and does not now.
    Left,
}

impl From<Event> for WatchStep {
    fn from(event: Event) -> Self {
        match event {
            Event::Listed { resources, revision, last } => WatchStep::Listed { resources, revision, last },
            Event::Changed { revision, changes } => {
                WatchStep::Changed { revision, changes: changes.into_iter().map(WatchChange::from).collect() }
            }
            Event::Counted { revision, count } => WatchStep::Counted { revision, count },
            Event::Ranked { revision, resources } => WatchStep::Ranked { revision, resources },
            Event::Bookmark { revision } => WatchStep::Bookmark { revision },
            Event::Gone { oldest } => WatchStep::Gone { oldest },
        }
    }
}

impl From<WatchStep> for Event {
    fn from(step: WatchStep) -> Self {
        match step {
            WatchStep::Listed { resources, revision, last } => Event::Listed { resources, revision, last },
            WatchStep::Changed { revision, changes } => {
                Event::Changed { revision, changes: changes.into_iter().map(Change::from).collect() }
            }
            WatchStep::Counted { revision, count } => Event::Counted { revision, count },
            WatchStep::Ranked { revision, resources } => Event::Ranked { revision, resources },
            WatchStep::Bookmark { revision } => Event::Bookmark { revision },
            WatchStep::Gone { oldest } => Event::Gone { oldest },
        }
    }
}

impl From<Change> for WatchChange {
    fn from(change: Change) -> Self {
        let (change, resource) = match change {
            Change::Entered(resource) => (ChangeKind::Entered, resource),
            Change::Updated(resource) => (ChangeKind::Updated, resource),
            Change::Left(resource) => (ChangeKind::Left, resource),
        };
        Self { change, resource }
    }
}

impl From<WatchChange> for Change {
    fn from(WatchChange { change, resource }: WatchChange) -> Self {
        match change {
            ChangeKind::Entered => Change::Entered(resource),
            ChangeKind::Updated => Change::Updated(resource),
            ChangeKind::Left => Change::Left(resource),
        }
    }
}

/// An entry of the error catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorEntry {
    /// The stable name.
    #[schema(value_type = String, example = "E-NOT-FOUND")]
    pub code: Code,
    /// What it means, in one sentence.
    pub title: String,
    /// The HTTP status that it becomes.
    pub status: u16,
    /// The exit code that it becomes on the command line.
    pub exit_code: u8,
}

/// An error, as RFC 9457 has it, with what is known of its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemDetails {
    /// `urn:starlane:error:` and the code.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// What the code means, in one sentence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// The stable name of the error.
    #[schema(value_type = String, example = "E-NOT-FOUND")]
    pub code: Code,
    /// The resource that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Point>)]
    pub point: Option<Point>,
    /// The place in a text that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<PlaceDetails>,
    /// Each thing that is wrong inside a document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::PointerError>)]
    pub errors: Vec<PointerError>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The trace that it happened in, as 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// After how many seconds it is worth trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// What the statements before the failed one answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<Output>,
}

/// The place in a text that an error is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlaceDetails {
    /// Whose text it is: a file name or a point; absent for what was sent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The whole text.
    pub source: String,
    /// The stretch that is wrong, in bytes.
    #[schema(value_type = schema::Span)]
    pub span: Span,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// What is wrong with it, in a few words.
    pub label: String,
}

impl From<Problem> for ProblemDetails {
    fn from(problem: Problem) -> Self {
        Self {
            type_uri: format!("urn:starlane:error:{}", problem.code),
            title: problem.code.title().to_owned(),
            status: problem.code.http_status(),
            detail: problem.detail,
            code: problem.code,
            point: problem.point,
            place: problem.place.map(|place| PlaceDetails::from(*place)),
            errors: problem.errors,
            help: problem.help,
            trace_id: None,
            retry_after: problem.retry_after,
            results: Vec::new(),
        }
    }
}

impl From<ProblemDetails> for Problem {
    fn from(details: ProblemDetails) -> Self {
        Problem {
            code: details.code,
            detail: details.detail,
            point: details.point,
            place: details.place.map(|place| Box::new(Place::from(place))),
            help: details.help,
            errors: details.errors,
            retry_after: details.retry_after,
        }
    }
}

impl From<Place> for PlaceDetails {
    fn from(place: Place) -> Self {
        let (line, column) = (place.line(), place.column());
        Self { name: place.name, source: place.source, span: place.span, line, column, label: place.label }
    }
}

impl From<PlaceDetails> for Place {
    fn from(place: PlaceDetails) -> Self {
        Self { name: place.name, source: place.source, span: place.span, label: place.label }
    }
}
