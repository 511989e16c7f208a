//! What the author of a mechtron imports.
//!
//! A mechtron is a struct whose fields are its state and an `impl` whose methods are its handlers; this crate turns
//! them into a Wasm module that speaks the guest ABI, and, natively, into something that [`TestKit`] runs in a
//! plain `cargo test`. It needs no import from its host but the log, for what a panic says, starts no thread and reads
//! no clock of its own: what a handler learns of the world comes through [`Cx`].
//!
//! ```
//! use mechtron_sdk::prelude::*;
//!
//! #[derive(Message)]
//! pub struct Add { pub by: u64 }
//!
//! /// Adds numbers.
//! #[mechtron]
//! pub struct Counter { total: u64 }
//!
//! #[handlers]
//! impl Counter {
//!     /// Adds to the total and returns it.
//!     #[call]
//!     async fn add(&mut self, _cx: &mut Cx, m: Add) -> Result<u64> {
//!         ensure!(m.by > 0, INVALID_MESSAGE, "`by` must be above zero");
//!         self.total += m.by;
//!         Ok(self.total)
//!     }
//! }
//!
//! mechtrons![Counter];
//!
//! let kit = TestKit::new();
//! let counter = kit.spawn("shop:counter", Counter::default());
//! assert_eq!(counter.add(Add { by: 2 })?, 2);
//! assert_eq!(counter.add(Add { by: 0 }).unwrap_err().code(), INVALID_MESSAGE);
//! # Ok::<(), Error>(())
//! ```

// The macros name this crate by its path, also where this crate itself uses them.
extern crate self as mechtron_sdk;

mod change;
mod contract;
mod cx;
mod error;
mod guest;
pub mod http;
#[cfg(target_arch = "wasm32")]
mod log;
mod macros;
mod mechtron;
mod message;
mod reference;
mod resource;
mod shared;
mod socket;
#[cfg(not(target_arch = "wasm32"))]
mod testkit;
mod time;

pub use change::Change;
pub use cx::{Cx, Level, TimerId};
pub use error::{Error, ErrorKind, INVALID_MESSAGE, NOT_FOUND, Result};
pub use guest::{Guest, GuestError};
pub use mechtron::Mechtron;
pub use mechtron_sdk_macros::{Message, handlers, mechtron};
pub use message::Message;
pub use reference::{Reference, Reply};
pub use resource::Resource;
pub use shared::Pending;
pub use socket::{Frame, Socket, SocketClosed, SocketMessage};
#[cfg(not(target_arch = "wasm32"))]
pub use testkit::{Failure, LogLine, Sent, TestKit, TestSocket};
pub use time::{Durations, Instant};
pub use {serde, serde_json};

/// What nearly every mechtron needs.
pub mod prelude {
    pub use core::time::Duration;

    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::testkit::{Failure, TestKit};
    pub use crate::{
        Change, Cx, Durations, Error, Frame, INVALID_MESSAGE, Instant, Message, NOT_FOUND, Resource, Result,
        Socket, SocketClosed, SocketMessage, bail, debug, ensure, error, handlers,
        http::{DELETE, GET, Html, Json, PATCH, POST, PUT, Request, Response},
        info, mechtron, mechtrons, warn,
    };
}

/// What the macros write; no part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::contract::{Probe, Unknown, concat, length, reference, text};
    pub use crate::guest::exports;
    pub use crate::http::IntoResponse;
    pub use crate::mechtron::{Answer, Dispatched, Entry, Incoming, Object, State, Turn};
    pub use crate::message::from_json;
    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::testkit::{Handle, Tested};
}
