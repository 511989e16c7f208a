//! What everything that can grow is held to, with defaults.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;

/// How a host is set up.
#[derive(Clone)]
pub struct Config {
    /// Where everything that is not a turn runs: storage, the network, compilation.
    pub runtime: tokio::runtime::Handle,
    /// The folder for compiled code, which only this node may write to; `None` keeps nothing on disk.
    pub cache: Option<PathBuf>,
    /// Which engine runs the modules.
    pub engine: EngineKind,
    /// How many threads run turns.
    pub shards: usize,
    /// How many modules may be compiled at the same time.
    pub compiles: usize,
    /// How many threads one compilation may use.
    pub compile_threads: usize,
    /// How long one compilation may take before it is refused.
    pub compile_time: Duration,
    /// How many modules are remembered, compiled or refused.
    pub modules: usize,
    /// What a module may be at most.
    pub module: ModuleLimits,
    /// What a mechtron may use at most, unless its activation says otherwise.
    pub limits: Limits,
    /// How long a mechtron stays live without anything to do.
    pub idle: Duration,
    /// How many mechtrons may be live; 16,381 is the hard end (8 GiB of address space each).
    pub live_max: usize,
    /// How many mechtrons may be known, live or asleep.
    pub known_max: usize,
    /// How many commands a shard may have waiting; a message beyond is answered `Busy` at once.
    pub shard_queue: usize,
    /// How many starts of a mechtron may fail in [`Config::restart_window`] before it is `Panic`; and how many times in a
    /// row messages may end it before it waits [`Config::restart_delay`] to start again.
    pub restarts: u32,
    /// The window in which restarts are counted, and how long a `Panic` lasts.
    pub restart_window: Duration,
    /// How long the first restart of a series after the second waits; doubles with each.
    pub restart_delay: Duration,
    /// How long a change that a mechtron failed at waits before it is told again; doubles with each time, up to
    /// [`Config::tell_again_max`].
    pub tell_again: Duration,
    /// How long such a change waits at most.
    pub tell_again_max: Duration,
    /// How long a change may be handled.
    pub change_time: Duration,
    /// How often it is kept how far a watch is that tells nothing: less often than the history is trimmed.
    pub keep_place: Duration,
    /// How log lines are kept.
    pub logs: LogLimits,
    /// Where time comes from.
    pub clock: Clock,
}

impl Config {
    /// The defaults, on a runtime.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            runtime,
            cache: None,
            engine: EngineKind::Wasmer,
            shards: cores,
            compiles: 2,
            compile_threads: cores.min(4),
            compile_time: Duration::from_secs(10),
            modules: 1_024,
            module: ModuleLimits::default(),
            limits: Limits::default(),
            idle: Duration::from_secs(60),
            live_max: 12_000,
            known_max: 1_000_000,
            shard_queue: 65_536,
            restarts: 5,
            restart_window: Duration::from_secs(60),
            restart_delay: Duration::from_millis(100),
            tell_again: Duration::from_millis(100),
            tell_again_max: Duration::from_secs(60),
            change_time: Duration::from_secs(60),
            keep_place: Duration::from_secs(600),
            logs: LogLimits::default(),
            clock: Clock::system(),
        }
    }
}

/// The engines that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// Compiles to machine code.
    Wasmer,
    /// Interprets; for small devices, and as the twin in conformance tests.
    Wasmi,
}

/// What one mechtron may use at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory, in bytes.
    pub memory_bytes: u64,
    /// Entries of each table.
    pub table_entries: u32,
    /// Ticks of one turn: about as many as calls and turns of loops. Ten million take some 8 ms.
    pub ticks: i64,
    /// Calls of host functions in one turn.
    pub host_calls: u32,
    /// Messages that may wait; the next is answered `Busy` at once.
    pub mailbox_messages: usize,
    /// Bytes of messages that may wait.
    pub mailbox_bytes: u64,
    /// Bytes of one message's body.
    pub body_bytes: u64,
    /// Bytes that one run may put out.
    pub outbox_bytes: u32,
    /// Frames that one run may put out.
    pub outbox_frames: usize,
    /// Requests that may wait for their answer.
    pub requests: usize,
    /// Timers that may be set.
    pub timers: usize,
    /// Bytes of the state.
    pub state_bytes: u32,
    /// Messages of one run.
    pub batch: usize,
    /// Lines that one run may log; what is more is counted and left out.
    pub run_lines: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            table_entries: 65_536,
            ticks: 10_000_000,
            host_calls: 100_000,
            mailbox_messages: 1_000,
            mailbox_bytes: 4 << 20,
            body_bytes: 4 << 20,
            outbox_bytes: 8 << 20,
            outbox_frames: 16_384,
            requests: 1_024,
            timers: 1_024,
            state_bytes: 4 << 20,
            batch: 16,
            run_lines: 256,
        }
    }
}

/// What a module may be at most. What is beyond is refused before anything is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleLimits {
    /// The module as a whole, in bytes.
    pub bytes: usize,
    /// All code together, in bytes; what compiling takes grows with it.
    pub code_bytes: u64,
    /// One function's code, in bytes.
    pub function_bytes: u64,
    /// Functions.
    pub functions: u32,
    /// Types.
    pub types: u32,
    /// Imports.
    pub imports: u32,
    /// Exports.
    pub exports: u32,
    /// Globals.
    pub globals: u32,
    /// Tables.
    pub tables: u32,
    /// Segments of data or elements, each.
    pub segments: u32,
    /// Locals of one function with its parameters.
    pub locals: u64,
    /// Blocks within each other in one function.
    pub nesting: usize,
    /// Targets of all `br_table` in one function.
    pub branch_targets: u64,
    /// The contract section, in bytes.
    pub contract_bytes: usize,
}

impl Default for ModuleLimits {
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            code_bytes: 8 << 20,
            function_bytes: 256 << 10,
            functions: 50_000,
            types: 10_000,
            imports: 64,
            exports: 1_000,
            globals: 10_000,
            tables: 8,
            segments: 20_000,
            locals: 4_096,
            nesting: 1_000,
            branch_targets: 16_384,
            contract_bytes: 1 << 20,
        }
    }
}

/// How log lines are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLimits {
    /// Lines kept of each mechtron.
    pub lines: usize,
    /// Bytes of one line; what is longer is cut.
    pub line_bytes: usize,
    /// Mechtrons whose lines are kept; beyond, those that were silent longest are forgotten.
    pub points: usize,
    /// Lines a mechtron may log in a second; what is more is counted and left out.
    pub per_second: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { lines: 1_000, line_bytes: 4_096, points: 4_096, per_second: 1_000 }
    }
}

/// The limits that hold for an activation.
pub(crate) fn effective(own: Option<&Limits>, host: &Arc<Limits>) -> Arc<Limits> {
    let Some(own) = own else { return Arc::clone(host) };
    // What the module was compiled and the inbox laid out for is the host's and cannot be exceeded.
    Arc::new(Limits { memory_bytes: own.memory_bytes.min(host.memory_bytes), ..own.clone() })
}
