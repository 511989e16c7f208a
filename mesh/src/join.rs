//! Joining: how a node that holds a token becomes a member, and how a member gets its next certificate.
//!
//! Both are one request and one answer on a connection of their own protocol ([`crate::identity::ALPN_JOIN`]). Who joins
//! shows no certificate, and looks first whether the other end is certified by the authority that the token pins: before
//! that, nothing is sent. Who renews shows its certificate, which may have ended up to 30 days ago.
//!
//! A [`Service`] takes the connections; the [`Desk`] behind it answers: [`Enrolment`] where the authority is, and on any
//! other node a [`Carrier`], which carries requests there over links, since requests and answers are plain bytes ([`Request::encode`]) that
//! nobody on the way can change unnoticed.
//!
//! A member whose certificate says that it serves the registry is told the authority as well ([`authority`]): on such a
//! connection to a node that has it, so that nobody who carries requests ever sees it.

mod carrier;
mod client;
mod desk;
mod error;
mod memory;

mod rates;
mod service;
mod stay;
mod wire;

pub use carrier::Carrier;
pub use client::{Joined, Wish, authority, join, renew};
pub use desk::{Admission, Admitted, Applicant, Denied, Desk, Enrolment};
pub use error::JoinError;
pub use memory::{MemoryMembers, MemoryTokens};
pub use service::{Config, Service};
pub use stay::{authority_at, join_at, keep_renewed};
pub use wire::{Answer, Contact, Handover, Join, Malformed, Refusal, Renew, Request};
