//! The portal: services in any language serve points, send, ask, watch, publish and subscribe over one WebSocket.
//!
//! `docs/portal.md` is the specification, `starlane_core::portal` has the frames. A session is bounded in all it holds: by what
//! the client granted, and by the frames that wait until it reads.

mod changed;
mod pools;
pub(crate) mod session;
mod topics;

pub(crate) use pools::GRANTED_MAX;
pub use pools::{Order, Pools, Seat, Ticket, unserved};
pub(crate) use session::{Door, pairs_of};
pub use topics::{Subscription, Topics, event_method, is_event};
