//! A live mechtron's instance: the calls of the guest ABI, each checked.

use std::sync::Arc;

use bytes::Bytes;
use mechtron_abi::{InitHead, features};
use starlane_core::Code;

use crate::clock::Clock;
use crate::engine::{self, Clamp, Entry, Guest, Trap};
use crate::imports::{Env, Lines};
use crate::inspect::check_abi;
use crate::limits::Limits;
use crate::outside::Activation;

/// The least inbox that is asked for.
const INBOX_BYTES: u32 = 2_048;

/// Why an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Code,
    pub(crate) detail: String,
}

impl Ended {
    pub(crate) fn violation(detail: impl Into<String>) -> Self {
        Self { code: Code::AbiViolation, detail: detail.into() }
    }

    fn trapped(entry: Entry, trap: &Trap) -> Self {
        match trap {
            Trap::Budget => Self { code: Code::TimeBudget, detail: format!("{}: {trap}", entry.name()) },
            Trap::Fault(reason) => {
                Self { code: Code::Trapped, detail: format!("{}: {reason}", entry.name()) }
            }
        }
    }
}

pub(crate) struct Instance {
    guest: Box<dyn Guest>,
    limits: Arc<Limits>,
    inbox: u32,
    capacity: u32,
    /// Where the output of the last run lies.
    output: (u32, u32),
}

pub(crate) fn clamp(limits: &Limits) -> Clamp {
    let pages = u32::try_from(limits.memory_bytes / 65_536).unwrap_or(u32::MAX).min(32_768);
    Clamp { memory_pages: pages, table_entries: limits.table_entries }
}

impl Instance {
    /// Makes an instance. Nothing of the module runs yet.
    pub(crate) fn new(
        code: &dyn engine::Code,
        limits: &Arc<Limits>,
        clock: &Clock,
        line_bytes: usize,
    ) -> Result<Self, Ended> {
        let env = Env::new(clock.clone(), limits.run_lines, line_bytes);
        let guest = code.instantiate(clamp(limits), env);
        let guest = guest.map_err(|detail| Ended { code: Code::NotReady, detail })?;
        Ok(Self { guest, limits: Arc::clone(limits), inbox: 0, capacity: 0, output: (0, 0) })
    }

    /// Starts the module and asks which guest ABI it speaks.
    pub(crate) fn version(&mut self) -> Result<i32, Ended> {
        self.refill();
        self.call(Entry::Start, 0)?;
        self.call(Entry::Initialize, 0)?;
        Ok(self.call(Entry::Abi, 0)? as i32)
    }

    /// Initialises it; the state is given along unless it comes with the start.
    pub(crate) fn start(&mut self, activation: &Activation, state: Option<&Bytes>) -> Result<(), Ended> {
        self.guest.env().state = state.cloned();
        let version = self.version()?;
        if let Err(problem) = check_abi(version) {
            return Err(Ended::violation(problem.detail));
        }
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| Ended::violation(error.to_string()))?;
        let head = InitHead {
            features: features::STATE | features::SELECT | features::WATCH,
            seed: u64::from_le_bytes(seed),
            config: activation.config.as_str().into(),
        };
        let bytes = postcard::to_allocvec(&head).map_err(|error| Ended::violation(error.to_string()))?;
        self.give(Entry::Init, &bytes)?;
        if let Some(state) = state.filter(|_| self.loads()) {
            self.refill();
            self.give(Entry::Load, state)?;
        }
        Ok(())
    }

    /// Whether it takes its state by an export of its own, not with the start.
    pub(crate) fn loads(&self) -> bool {
        self.guest.has(Entry::Load)
    }

    /// Whether it gives its state by an export of its own.
    pub(crate) fn saves(&self) -> bool {
        self.guest.has(Entry::Save)
    }

    /// Handles frames.
    pub(crate) fn run(&mut self, frames: &[u8]) -> Result<(), Ended> {
        self.refill();
        let returned = self.give(Entry::Run, frames)?;
        self.output = self.checked(returned, self.limits.outbox_bytes, "its output")?;
        Ok(())
    }

    /// The output of the last run.
    pub(crate) fn output(&mut self) -> &[u8] {
        let (pointer, length) = (self.output.0 as usize, self.output.1 as usize);
        self.guest.memory().get(pointer..pointer + length).unwrap_or_default()
    }

    /// The state that it would be saved with.
    pub(crate) fn save(&mut self) -> Result<Bytes, Ended> {
        self.refill();
        let returned = self.call(Entry::Save, 0)?;
        let (pointer, length) = self.checked(returned, self.limits.state_bytes, "its state")?;
        let (pointer, length) = (pointer as usize, length as usize);
        Ok(Bytes::copy_from_slice(self.guest.memory().get(pointer..pointer + length).unwrap_or_default()))
    }

    /// What `mechtron_state_get` gives from now on.
    pub(crate) fn set_state(&mut self, state: Bytes) {
        self.guest.env().state = Some(state);
    }

    pub(crate) fn lines(&mut self) -> &mut Lines {
        &mut self.guest.env().lines
    }

    /// The lines that were not taken, and what it began and will not end.
    pub(crate) fn last_lines(&mut self) -> (Vec<(u8, String)>, u64) {
        self.guest.env().end_line();
        self.lines().take()
    }

    pub(crate) fn memory_bytes(&mut self) -> u64 {
        self.guest.memory().len() as u64
    }

    fn refill(&mut self) {
        self.guest.set_ticks(self.limits.ticks);
        self.guest.env().calls_left = self.limits.host_calls;
    }

    fn call(&mut self, entry: Entry, argument: i32) -> Result<i64, Ended> {
        self.guest.call(entry, argument).map_err(|trap| Ended::trapped(entry, &trap))
    }

    /// Puts bytes into the inbox and calls; a negative answer is a failure.
    fn give(&mut self, entry: Entry, bytes: &[u8]) -> Result<i64, Ended> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if length > self.capacity {
            let least = length.next_multiple_of(1_024).max(INBOX_BYTES);
            let pointer = self.call(Entry::Inbox, least as i32)? as u32;
            let size = self.guest.memory().len() as u64;
            if pointer == 0 || !pointer.is_multiple_of(8) || u64::from(pointer) + u64::from(least) > size {
                return Err(Ended::violation(format!("it has no inbox of {least} bytes")));
            }
            (self.inbox, self.capacity) = (pointer, least);
        }
        let start = self.inbox as usize;
        match self.guest.memory().get_mut(start..start + bytes.len()) {
            Some(room) => room.copy_from_slice(bytes),
            None => return Err(Ended::violation("its inbox is not in its memory")),
        }
        let returned = self.call(entry, length as i32)?;
        if returned < 0 {
            return Err(Ended::violation(format!("{} returned {returned}", entry.name())));
        }
        Ok(returned)
    }

    fn checked(&mut self, returned: i64, max: u32, what: &str) -> Result<(u32, u32), Ended> {
        let Some((pointer, length)) = mechtron_abi::unpack(returned) else {
            return Err(Ended::violation(format!("{what}: it returned {returned}")));
        };
        if length > max {
            return Err(Ended::violation(format!("{what} has {length} bytes; {max} may be at most")));
        }
        if u64::from(pointer) + u64::from(length) > self.guest.memory().len() as u64 {
            return Err(Ended::violation(format!("{what} is not in its memory")));
        }
        Ok((pointer, length))
    }
}
