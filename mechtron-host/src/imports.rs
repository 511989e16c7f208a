//! What a guest may call: four functions of the host's own, and the WASI shims of `wasi.rs`.

use bytes::Bytes;

use crate::clock::Clock;
use crate::engine::Trap;
use crate::wasi::{self, Command, Wasi};

/// The module name of the host's own functions.
const MECHTRON: &str = "mechtron";
/// Random bytes in one call.
const RANDOM_BYTES_MAX: usize = 65_536;

/// The types of parameters and results; nothing else is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    I32,
    I64,
}

/// A function that a guest may import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Import {
    /// `mechtron_log(level, ptr, len)`
    Log,
    /// `mechtron_now() -> i64`
    Now,
    /// `mechtron_random(ptr, len)`
    Random,
    /// `mechtron_state_get(ptr, cap) -> i32`
    StateGet,
    /// One of `wasi_snapshot_preview1`.
    Wasi(Wasi),
}

impl Import {
    /// The function with a name, if there is one.
    pub(crate) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            (MECHTRON, "mechtron_log") => Some(Import::Log),
            (MECHTRON, "mechtron_now") => Some(Import::Now),
            (MECHTRON, "mechtron_random") => Some(Import::Random),
            (MECHTRON, "mechtron_state_get") => Some(Import::StateGet),
            (wasi::MODULE, name) => Wasi::find(name).map(Import::Wasi),
            _ => None,
        }
    }

    pub(crate) fn parameters(self) -> &'static [Type] {
        match self {
            Import::Log => &[Type::I32, Type::I32, Type::I32],
            Import::Now => &[],
            Import::Random | Import::StateGet => &[Type::I32, Type::I32],
            Import::Wasi(wasi) => wasi.parameters(),
        }
    }

    pub(crate) fn result(self) -> Option<Type> {
        match self {
            Import::Log | Import::Random => None,
            Import::Now => Some(Type::I64),
            Import::StateGet => Some(Type::I32),
            Import::Wasi(wasi) => wasi.result(),
        }
    }

    /// Does it. An error ends the guest; [`Env::trap`] says why.
    pub(crate) fn call(self, env: &mut Env, memory: &mut [u8], arguments: &[i64]) -> Result<i64, Stopped> {
        let Some(left) = env.calls_left.checked_sub(1) else {
            env.trap = Some(Trap::Budget);
            return Err(Stopped);
        };
        env.calls_left = left;
        let done = match self {
            Import::Log => match range(memory, arguments[1], arguments[2]) {
                Some(text) => {
                    let level = u8::try_from(arguments[0]).unwrap_or(3).clamp(1, 5);
                    let text = String::from_utf8_lossy(&text[..text.len().min(env.lines.bytes_max)]);
                    env.lines.push(level, &text);
                    Ok(0)
                }
                None => Err(Trap::Fault("mechtron_log was given text beyond its memory".into())),
            },
            Import::Now => Ok(env.clock.wall_ms() as i64),
            Import::Random => random(memory, arguments[0], arguments[1]),
            Import::StateGet => state_get(env, memory, arguments[0], arguments[1]),
            Import::Wasi(wasi) => wasi.call(env, memory, arguments),
        };
        done.map_err(|trap| {
            env.trap = Some(trap);
            Stopped
        })
    }
}

/// A host function ended the guest.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the host stopped the guest")]
pub(crate) struct Stopped;

/// What the host functions of one instance see.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) clock: Clock,
    /// Calls of host functions that are left in this turn.
    pub(crate) calls_left: u32,
    /// What was logged and not yet taken.
    pub(crate) lines: Lines,
    /// The committed state.
    pub(crate) state: Option<Bytes>,
    /// What a WASI command reads and writes; `None` for a mechtron.
    pub(crate) command: Option<Box<Command>>,
    /// Why a host function ended the guest.
    pub(crate) trap: Option<Trap>,
    /// What was written to stdout or stderr since the last end of line.
    pub(crate) partial: String,
}

impl Env {
    pub(crate) fn new(clock: Clock, lines_max: usize, bytes_max: usize) -> Self {
        Self {
            clock,
            calls_left: 0,
            lines: Lines { kept: Vec::new(), left_out: 0, lines_max, bytes_max },
            state: None,
            command: None,
            trap: None,
            partial: String::new(),
        }
    }

    /// Makes a line of what was written since the last end of one.
    pub(crate) fn end_line(&mut self) {
        let partial = std::mem::take(&mut self.partial);
        if !partial.is_empty() {
            self.lines.push(2, &partial);
        }
    }
}

/// Lines of one turn.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) kept: Vec<(u8, String)>,
    /// How many there were beyond the limit.
    pub(crate) left_out: u64,
    lines_max: usize,
    pub(crate) bytes_max: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, level: u8, line: &str) {
        if self.kept.len() < self.lines_max {
            let mut end = line.len().min(self.bytes_max);
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            self.kept.push((level, line[..end].to_owned()));
        } else {
            self.left_out += 1;
        }
    }

    /// Takes them out, with the number of those that were left out.
    pub(crate) fn take(&mut self) -> (Vec<(u8, String)>, u64) {
        (std::mem::take(&mut self.kept), std::mem::take(&mut self.left_out))
    }

    pub(crate) fn clear(&mut self) {
        self.kept.clear();
        self.left_out = 0;
    }
}

fn random(memory: &mut [u8], pointer: i64, length: i64) -> Result<i64, Trap> {
    let Some(bytes) = range_mut(memory, pointer, length) else {
        return Err(Trap::Fault("random bytes were asked for beyond its memory".into()));
    };
    if bytes.len() > RANDOM_BYTES_MAX {
        return Err(Trap::Fault(format!("more than {RANDOM_BYTES_MAX} random bytes were asked for at once")));
    }
    getrandom::fill(bytes)
        .map(|()| 0)
        .map_err(|error| Trap::Fault(format!("the machine gives no randomness: {error}")))
}

fn state_get(env: &Env, memory: &mut [u8], pointer: i64, capacity: i64) -> Result<i64, Trap> {
    let Some(room) = range_mut(memory, pointer, capacity) else {
        return Err(Trap::Fault("mechtron_state_get was given room beyond its memory".into()));
    };
    let Some(state) = &env.state else { return Ok(-1) };
    let length = state.len().min(room.len());
    room[..length].copy_from_slice(&state[..length]);
    Ok(state.len() as i64)
}

/// The bytes from a guest's pointer on; both numbers are its u32 in whatever sign they came.
pub(crate) fn range(memory: &[u8], pointer: i64, length: i64) -> Option<&[u8]> {
    let (start, length) = (pointer as u32 as usize, length as u32 as usize);
    memory.get(start..start.checked_add(length)?)
}

/// See [`range`].
pub(crate) fn range_mut(memory: &mut [u8], pointer: i64, length: i64) -> Option<&mut [u8]> {
    let (start, length) = (pointer as u32 as usize, length as u32 as usize);
    memory.get_mut(start..start.checked_add(length)?)
}
