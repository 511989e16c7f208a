//! Runs mechtrons: modules are inspected, rewritten and compiled, mechtrons activated by their first message, run one
//! turn after the other within limits, and put to sleep when idle.
//!
//! The host knows nothing of the network and nothing of the registry: what it needs of its node is the trait
//! [`Outside`].

mod asker;
mod cache;
mod changes;
mod clock;
mod contract;
mod engine;
mod host;
mod imports;
mod inspect;
mod instance;
mod kept;
mod limits;
mod logs;
mod mailbox;
mod module;
mod names;
mod outside;
mod rewrite;
mod shard;
mod turn;
mod wasi;

pub use asker::{Asker, Caller};
pub use changes::{Change, Changes, Place, Step};
pub use clock::{Clock, ManualClock};
pub use contract::Contract;
pub use host::{Error, Host, Stats};
pub use inspect::check_module;
pub use limits::{Config, EngineKind, Limits, LogLimits, ModuleLimits};
pub use logs::{Line, LogStream};
pub use mailbox::NotHere;
pub use mechtron_abi::ChangeKind;
pub use module::Module;
pub use outside::{Activation, Durability, Outside, Runs};
pub use shard::{Info, Released, Returned, State, Waiting, Watched};
