//! What the host needs of a Wasm engine, and no more.

use std::fmt;

use crate::imports::Env;

pub(crate) mod wasmer;
pub(crate) mod wasmi;

/// Makes code of modules. A module given to it was inspected and rewritten (see `inspect.rs`, `rewrite.rs`).
pub(crate) trait Engine: Send + Sync {
    /// Names engine, version and settings: code of another is not loaded.
    fn fingerprint(&self) -> String;
    /// Makes what [`Engine::load`] takes, and what may be kept on disk.
    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, String>;
    /// Loads what this engine compiled.
    ///
    /// # Safety
    /// The bytes come from [`Engine::compile`] of an engine with the same fingerprint on this machine: they may be
    /// run as machine code.
    #[expect(unsafe_code, reason = "loading compiled code is running it")]
    unsafe fn load(&self, compiled: &[u8]) -> Result<Box<dyn Code>, String>;
}

/// A loaded module.
pub(crate) trait Code: Send + Sync {
    /// Makes an instance, with its memory and tables clamped. Nothing of the module runs yet.
    fn instantiate(&self, clamp: Clamp, env: Env) -> Result<Box<dyn Guest>, String>;
}

/// An instance. Stays on the thread that made it.
pub(crate) trait Guest {
    /// Calls an export; what it does not return is 0.
    fn call(&mut self, entry: Entry, argument: i32) -> Result<i64, Trap>;
    /// Whether the module exports it.
    fn has(&self, entry: Entry) -> bool;
    /// Sets the ticks that the following calls may use together.
    fn set_ticks(&mut self, ticks: i64);
    /// The guest's linear memory, until the next call.
    fn memory(&mut self) -> &mut [u8];
    /// What the host functions see.
    fn env(&mut self) -> &mut Env;
}

/// What an instance may grow to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clamp {
    pub(crate) memory_pages: u32,
    pub(crate) table_entries: u32,
}

/// The exports that the host calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Entry {
    /// The module's start function.
    Start,
    /// `_initialize`
    Initialize,
    /// `mechtron_abi`
    Abi,
    /// `mechtron_inbox`
    Inbox,
    /// `mechtron_init`
    Init,
    /// `mechtron_run`
    Run,
    /// `mechtron_save`
    Save,
    /// `mechtron_load`
    Load,
    /// `_start` of a WASI command
    Command,
}

/// What an export takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `()`
    Nothing,
    /// `() -> i32`
    GivesI32,
    /// `() -> i64`
    GivesI64,
    /// `(i32) -> i32`
    TakesI32GivesI32,
    /// `(i32) -> i64`
    TakesI32GivesI64,
}

impl Entry {
    pub(crate) const ALL: [Entry; 9] = [
        Entry::Start,
        Entry::Initialize,
        Entry::Abi,
        Entry::Inbox,
        Entry::Init,
        Entry::Run,
        Entry::Save,
        Entry::Load,
        Entry::Command,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Entry::Start => crate::rewrite::START,
            Entry::Initialize => "_initialize",
            Entry::Abi => "mechtron_abi",
            Entry::Inbox => "mechtron_inbox",
            Entry::Init => "mechtron_init",
            Entry::Run => "mechtron_run",
            Entry::Save => "mechtron_save",
            Entry::Load => "mechtron_load",
            Entry::Command => "_start",
        }
    }

    pub(crate) const fn shape(self) -> Shape {
        match self {
            Entry::Start | Entry::Initialize | Entry::Command => Shape::Nothing,
            Entry::Abi => Shape::GivesI32,
            Entry::Save => Shape::GivesI64,
            Entry::Inbox => Shape::TakesI32GivesI32,
            Entry::Init | Entry::Run | Entry::Load => Shape::TakesI32GivesI64,
        }
    }
}

/// A call that did not return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trap {
    /// The ticks were used up, or the calls of host functions.
    Budget,
    /// The guest did what Wasm forbids, or stopped itself.
    Fault(String),
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trap::Budget => f.write_str("it used up the time of its turn"),
            Trap::Fault(reason) => f.write_str(reason),
        }
    }
}
