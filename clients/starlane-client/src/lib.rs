//! For services without Wasm: a process that joins the mesh through the portal of a node.
//!
//! It creates, finds and watches resources, serves points of its own, asks and tells others, publishes and subscribes, all over
//! one connection. A connection that breaks is made again: points are served again, subscriptions and watches go on, each
//! watch after the last step that it told. What was asked and not answered by then ends as [`Error::Unknown`], since it may
//! have been done; nothing is asked twice by itself.
//!
//! ```no_run
//! # async fn example() -> Result<(), starlane_client::Error> {
//! use starlane_client::{Client, Config, Reply};
//!
//! let client = Client::connect(Config::local()?).await?;
//! client.ensure("shop", "Space", ()).await?;
//! client.serve("shop:greeter", Some("Portal"), |incoming| async move {
//!     Ok(Reply::text(format!("hello, {}\n", incoming.from)))
//! }).await?;
//! let mut orders = client.watch("shop:orders:*<Order>[total >= 100]").await?;
//! while let Some(step) = orders.next().await {
//!     println!("{step:?}");
//! }
//! # Ok(())
//! # }
//! ```

mod api;
mod client;
mod config;
mod error;
mod link;
mod message;
mod service;
mod tls;
mod topic;
mod watch;

pub use client::Client;
pub use config::Config;
pub use error::Error;
pub use message::{Call, Incoming, Reply};
pub use service::Failed;
pub use starlane_core::Event as Step;
pub use tls::Trust;
pub use topic::{Heard, Topic};
pub use watch::Watch;

pub use starlane_core as core;
