//! Promises under faults, each as a function with a size: small in the tests, large as `soak NAME`.

#[cfg(target_os = "linux")]
mod cable;
#[cfg(target_os = "linux")]
mod death;
#[cfg(target_os = "linux")]
mod drain;
#[cfg(unix)]
mod etcd;
#[cfg(target_os = "linux")]
mod forget;
mod kill;
#[cfg(target_os = "linux")]
mod leader;
#[cfg(target_os = "linux")]
mod linear;
#[cfg(target_os = "linux")]
mod moves;
#[cfg(target_os = "linux")]
mod order;
mod orders;
#[cfg(target_os = "linux")]
mod outcome;
mod report;
#[cfg(target_os = "linux")]
mod revoke;
#[cfg(target_os = "linux")]
mod slow;
#[cfg(target_os = "linux")]
mod split;
#[cfg(target_os = "linux")]
mod told;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(target_os = "linux")]
pub use cable::pulled_in_the_middle;
#[cfg(target_os = "linux")]
pub use death::{mechtrons_of_killed_nodes, no_false_deaths};
#[cfg(target_os = "linux")]
pub use drain::rolling_restarts;
#[cfg(unix)]
pub use etcd::members_killed_and_paused;
#[cfg(target_os = "linux")]
pub use forget::{Forgetting, watches_while_the_history_is_forgotten};
pub use kill::{KillFigures, kill_during_creates};
#[cfg(target_os = "linux")]
pub use leader::mechtrons_of_killed_leaders;
#[cfg(target_os = "linux")]
pub use linear::{Histories, Judged, Store, Work, histories};
#[cfg(target_os = "linux")]
pub use moves::moves_under_load;
#[cfg(target_os = "linux")]
pub use order::signals_over_a_bad_network;
pub use orders::orders_while_the_node_is_killed;
#[cfg(target_os = "linux")]
pub use outcome::requests_under_kills;
pub use report::Report;
#[cfg(target_os = "linux")]
pub use revoke::a_revoked_node;
#[cfg(target_os = "linux")]
pub use slow::{Slow, a_stopped_watcher};
#[cfg(target_os = "linux")]
pub use split::{Splits, partitions};
#[cfg(target_os = "linux")]
pub use watch::{Watching, watches_under_faults};
