//! The language and the rules of the mesh.
//!
//! Points, kinds, selectors, commands, configs and binds are parsed and printed here; resources, messages,
//! outcomes and changes have their shapes here; what may stand where, which rule of a bind applies and whether
//! a resource matches a selector are decided here. Nothing in this crate reads a clock, draws randomness,
//! touches a file or a socket, or knows a runtime: it builds for `wasm32-unknown-unknown`.

mod address;
mod assignment;
mod bind;
mod changes;
mod command;
mod config;
mod cursor;
mod declared;
pub mod frame;
mod header;
mod interest;
mod kind;
mod message;
mod moment;
mod nearest;
mod node;
pub mod placement;
pub mod portal;
mod problem;
mod property;
mod query;
mod quote;
mod resource;
pub mod routing;
pub mod rules;
mod script;
mod selector;
pub mod socket;
mod template;
mod watch;
mod when;

pub use address::{Point, PointError};
pub use assignment::Assignment;
pub use bind::{Action, Bind, Pipeline, Route};
pub use command::{
    Call, Command, CreateMode, DeleteTarget, Grant, Location, Mask, MaskMode, Rights, Sequence, Target,
};
pub use config::{Config, EnvValue, ResolvedConfig};
pub use declared::{Column, Declared, Names};
pub use interest::Interest;
pub use kind::{Base, Kind, KindError, Name, Specific, Sub, kind_unknown};
pub use message::{
    Agent, Blob, Body, CallChain, Digest, DigestError, Header, Headers, Message, MessageId, Method,
    MethodFamily, Outcome, Payload, Priority, Refusal, Reply, Request, Signal, Trace,
};
pub use moment::Moment;
pub use node::{Generation, NodeId, NodeName, NodeNameError, Role, RoleError};
pub use problem::{Code, Place, PointerError, Problem, Span};
pub use property::{Key, KeyError, Properties, Property, PropertyChange, Value};
pub use query::{First, Query, Rank, Sorted};
pub use resource::{Epoch, Phase, Resource, Revision, Status, Timestamp};
pub use script::{Script, Statement};
pub use selector::{Depth, Range, Scope, Selector};
pub use template::Bindings;
pub use watch::{Change, Event, ResumeToken, ResumeTokenError};
pub use when::{When, WhenError};
