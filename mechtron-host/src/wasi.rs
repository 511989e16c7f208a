//! The few functions of `wasi_snapshot_preview1` that C, Go and Rust programs cannot do without, and what a plain
//! WASI command reads and writes. There are no files, no sockets and no environment but a command's own.

use bytes::Bytes;
use starlane_core::{Message, Payload, Reply};

use crate::engine::Trap;
use crate::imports::{Env, Type, range, range_mut};

/// The module name.
pub(crate) const MODULE: &str = "wasi_snapshot_preview1";

const SUCCESS: i64 = 0;
const BADF: i64 = 8;
const FAULT: i64 = 21;
const INVAL: i64 = 28;
const NOSYS: i64 = 52;

macro_rules! functions {
    ($($variant:ident $name:literal [$($parameter:ident)*];)+) => {
        /// The functions that there are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Wasi { $($variant,)+ }

        impl Wasi {
            pub(crate) fn find(name: &str) -> Option<Self> {
                match name { $($name => Some(Wasi::$variant),)+ _ => None }
            }

            pub(crate) fn parameters(self) -> &'static [Type] {
                match self { $(Wasi::$variant => &[$(Type::$parameter),*],)+ }
            }
        }
    };
}

functions! {
    ArgsGet "args_get" [I32 I32];
    ArgsSizesGet "args_sizes_get" [I32 I32];
    EnvironGet "environ_get" [I32 I32];
    EnvironSizesGet "environ_sizes_get" [I32 I32];
    ClockResGet "clock_res_get" [I32 I32];
    ClockTimeGet "clock_time_get" [I32 I64 I32];
    RandomGet "random_get" [I32 I32];
    FdWrite "fd_write" [I32 I32 I32 I32];
    FdRead "fd_read" [I32 I32 I32 I32];
    FdClose "fd_close" [I32];
    FdSeek "fd_seek" [I32 I64 I32 I32];
    FdFdstatGet "fd_fdstat_get" [I32 I32];
    FdFdstatSetFlags "fd_fdstat_set_flags" [I32 I32];
    FdPrestatGet "fd_prestat_get" [I32 I32];
    FdPrestatDirName "fd_prestat_dir_name" [I32 I32 I32];
    ProcExit "proc_exit" [I32];
    SchedYield "sched_yield" [];
    PollOneoff "poll_oneoff" [I32 I32 I32 I32];
}

impl Wasi {
    pub(crate) fn result(self) -> Option<Type> {
        (self != Wasi::ProcExit).then_some(Type::I32)
    }

    /// Does it; the result is an errno.
    pub(crate) fn call(self, env: &mut Env, memory: &mut [u8], arguments: &[i64]) -> Result<i64, Trap> {
        let argument = |at: usize| arguments.get(at).copied().unwrap_or_default();
        let (a, b, c, d) = (argument(0), argument(1), argument(2), argument(3));
        let none = Vec::new();
        let command = env.command.as_deref();
        let errno = match self {
            Wasi::ArgsGet => strings(memory, command.map_or(&none, |c| &c.arguments), a, b),
            Wasi::ArgsSizesGet => sizes(memory, command.map_or(&none, |c| &c.arguments), a, b),
            Wasi::EnvironGet => strings(memory, command.map_or(&none, |c| &c.environment), a, b),
            Wasi::EnvironSizesGet => sizes(memory, command.map_or(&none, |c| &c.environment), a, b),
            Wasi::ClockResGet => put(memory, b, &1_000_000_u64.to_le_bytes()),
            Wasi::ClockTimeGet => put(memory, c, &(env.clock.wall_ms() * 1_000_000).to_le_bytes()),
            Wasi::RandomGet => match range_mut(memory, a, b) {
                Some(bytes) if bytes.len() <= 65_536 => match getrandom::fill(bytes) {
                    Ok(()) => Some(SUCCESS),
                    Err(_) => Some(NOSYS),
                },
                Some(_) => Some(INVAL),
                None => None,
            },
            Wasi::FdWrite => return Ok(write(env, memory, a, b, c, d).unwrap_or(FAULT)),
            Wasi::FdRead => return Ok(read(env, memory, a, b, c, d).unwrap_or(FAULT)),
            // A character device without rights to seek: what the C library takes for a terminal or a pipe.
            Wasi::FdFdstatGet if (0..=2).contains(&a) => {
                let mut stat = [0; 24];
                stat[0] = 2;
                stat[8..16].copy_from_slice(&(1_u64 << 1 | 1 << 6).to_le_bytes());
                put(memory, b, &stat)
            }
            Wasi::FdClose
            | Wasi::FdSeek
            | Wasi::FdFdstatGet
            | Wasi::FdFdstatSetFlags
            | Wasi::FdPrestatGet
            | Wasi::FdPrestatDirName => Some(BADF),
            Wasi::ProcExit => {
                if let Some(command) = &mut env.command {
                    command.exit = Some(a as i32);
                }
                return Err(Trap::Fault(format!("it left with exit code {}", a as i32)));
            }
            Wasi::SchedYield => Some(SUCCESS),
            Wasi::PollOneoff => Some(NOSYS),
        };
        Ok(errno.unwrap_or(FAULT))
    }
}

fn put(memory: &mut [u8], pointer: i64, bytes: &[u8]) -> Option<i64> {
    range_mut(memory, pointer, bytes.len() as i64)?.copy_from_slice(bytes);
    Some(SUCCESS)
}

fn sizes(memory: &mut [u8], list: &[String], count: i64, size: i64) -> Option<i64> {
    let bytes: usize = list.iter().map(|item| item.len() + 1).sum();
    put(memory, count, &(list.len() as u32).to_le_bytes())?;
    put(memory, size, &(bytes as u32).to_le_bytes())
}

fn strings(memory: &mut [u8], list: &[String], mut pointers: i64, mut buffer: i64) -> Option<i64> {
    for item in list {
        put(memory, pointers, &(buffer as u32).to_le_bytes())?;
        put(memory, buffer, item.as_bytes())?;
        put(memory, buffer + item.len() as i64, &[0])?;
        pointers += 4;
        buffer += item.len() as i64 + 1;
    }
    Some(SUCCESS)
}

/// The pieces that an array of `iovec` names; at most 1,024, as on Linux.
fn pieces(memory: &[u8], vectors: i64, count: i64) -> Option<Vec<(u32, u32)>> {
    let count = (count as u32).min(1_024);
    let list = range(memory, vectors, i64::from(count) * 8)?;
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Some(list.chunks_exact(8).map(|piece| (word(&piece[..4]), word(&piece[4..]))).collect())
}

fn write(env: &mut Env, memory: &mut [u8], fd: i64, vectors: i64, count: i64, written: i64) -> Option<i64> {
    if fd != 1 && fd != 2 {
        return Some(BADF);
    }
    let mut total = 0_u32;
    for (pointer, length) in pieces(memory, vectors, count)? {
        let bytes = range(memory, i64::from(pointer), i64::from(length))?;
        match &mut env.command {
            Some(command) if fd == 1 => {
                let room = command.output_max.saturating_sub(command.output.len());
                if bytes.len() > room {
                    command.overflow = true;
                }
                command.output.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            _ => log(env, fd, bytes),
        }
        total = total.saturating_add(length);
    }
    put(memory, written, &total.to_le_bytes())
}

fn log(env: &mut Env, fd: i64, bytes: &[u8]) {
    let level = if fd == 2 { 2 } else { 3 };
    let Env { partial, lines, .. } = env;
    for piece in bytes[..bytes.len().min(1 << 20)].split_inclusive(|byte| *byte == b'\n') {
        let ends = piece.ends_with(b"\n");
        let room = lines.bytes_max.saturating_sub(partial.len());
        partial.push_str(&String::from_utf8_lossy(&piece[..(piece.len() - usize::from(ends)).min(room)]));
        if ends {
            lines.push(level, partial);
            partial.clear();
        }
    }
}

fn read(env: &mut Env, memory: &mut [u8], fd: i64, vectors: i64, count: i64, given: i64) -> Option<i64> {
    let Some(command) = env.command.as_mut().filter(|_| fd == 0) else { return Some(BADF) };
    let mut total = 0_u32;
    for (pointer, length) in pieces(memory, vectors, count)? {
        let room = range_mut(memory, i64::from(pointer), i64::from(length))?;
        let taken = command.input.split_to(room.len().min(command.input.len()));
        room[..taken.len()].copy_from_slice(&taken);
        total += taken.len() as u32;
    }
    put(memory, given, &total.to_le_bytes())
}

/// What a WASI command reads and writes while it handles one message.
#[derive(Debug, Default)]
pub(crate) struct Command {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<String>,
    pub(crate) input: Bytes,
    pub(crate) output: Vec<u8>,
    pub(crate) output_max: usize,
    /// Whether it wrote more than it may.
    pub(crate) overflow: bool,
    pub(crate) exit: Option<i32>,
}

impl Command {
    /// What a command finds when it handles a message: the manner of CGI (RFC 3875).
    pub(crate) fn of(message: &Message, input: Bytes, output_max: usize) -> Self {
        let header = &message.header;
        let request = match &message.payload {
            Payload::Request(request) | Payload::Signal(request) => Some(request),
            Payload::Reply(_) => None,
        };
        let (method, path, headers) = match request {
            Some(request) => (request.method.to_string(), &*request.path, Some(&request.headers)),
            None => (String::new(), "/", None),
        };
        let verb = method.strip_prefix("Http<").and_then(|name| name.strip_suffix('>'));
        let (plain, query) = path.split_once('?').unwrap_or((path, ""));
        let mut environment = vec![
            "GATEWAY_INTERFACE=CGI/1.1".to_owned(),
            format!("REQUEST_METHOD={}", verb.map_or_else(|| "POST".to_owned(), str::to_ascii_uppercase)),
            format!("PATH_INFO={plain}"),
            format!("QUERY_STRING={query}"),
            format!("CONTENT_LENGTH={}", input.len()),
            format!("STARLANE_POINT={}", header.to),
            format!("STARLANE_FROM={}", header.from),
            format!("STARLANE_AGENT={}", header.agent),
            format!("STARLANE_METHOD={method}"),
        ];
        for (name, value) in headers.iter().flat_map(|headers| headers.iter()) {
            let name = name.to_ascii_uppercase().replace('-', "_");
            // `HTTP_PROXY` would be taken for the proxy of the program's own requests (httpoxy).
            if name == "CONTENT_TYPE" {
                environment.push(format!("CONTENT_TYPE={value}"));
            } else if name != "PROXY" && name != "CONTENT_LENGTH" {
                environment.push(format!("HTTP_{name}={value}"));
            }
        }
        let arguments = vec![method, path.to_owned()];
        // A NUL would end the string early in the guest's eyes.
        environment.retain(|item| !item.contains('\0'));
        Self { arguments, environment, input, output_max, ..Self::default() }
    }

    /// The answer that the output is: a CGI header block if there is one, else the whole as text.
    pub(crate) fn into_reply(self) -> Reply {
        header_block(&self.output)
            .unwrap_or_else(|| Reply::new(200, "text/plain; charset=utf-8", self.output))
    }
}

fn header_block(output: &[u8]) -> Option<Reply> {
    let (head, body) = [&b"\r\n\r\n"[..], b"\n\n"]
        .iter()
        .filter_map(|end| {
            let at = output.windows(end.len()).position(|window| window == *end)?;
            Some((&output[..at], &output[at + end.len()..]))
        })
        .min_by_key(|(head, _)| head.len())?;
    let mut reply = Reply::new(200, "text/plain; charset=utf-8", body.to_vec());
    let mut known = false;
    for line in std::str::from_utf8(head).ok()?.lines() {
        let (name, value) = line.split_once(':')?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(token) {
            return None;
        }
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "status" => {
                let status = value.split(' ').next()?.parse().ok()?;
                reply.status = Some(status).filter(|status| (200..600).contains(status))?;
                known = true;
            }
            "content-type" => {
                reply.headers.set("content-type", value);
                known = true;
            }
            _ => {
                known |= name == "location";
                reply.headers.add(&name, value);
            }
        }
    }
    // Text that merely looks like headers is not taken for them.
    known.then_some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_block_is_read_and_other_text_is_not() {
        let reply = |output: &[u8]| Command { output: output.to_vec(), ..Command::default() }.into_reply();
        let made = reply(b"Status: 404 Not Found\nContent-Type: text/html\nX-A: b\n\nnope");
        assert_eq!((made.status, made.headers.get("content-type")), (404, Some("text/html")));
        assert_eq!(made.headers.get("x-a"), Some("b"));
        assert_eq!(made.body.len(), 4);
        for text in [&b"hello"[..], b"Dear: reader\n\nbody", b"a b: c\n\nbody", b"Status: 99\n\nx"] {
            let made = reply(text);
            assert_eq!((made.status, made.body.len()), (200, text.len() as u64));
        }
    }

    #[test]
    fn pointers_beyond_memory_are_faults_and_change_nothing() {
        let mut env = Env::new(crate::clock::Clock::system(), 10, 100);
        let mut memory = vec![0; 64];
        for pointer in [60, 64, -1, i64::from(u32::MAX)] {
            assert_eq!(Wasi::ClockTimeGet.call(&mut env, &mut memory, &[0, 0, pointer]), Ok(FAULT));
            assert_eq!(Wasi::FdWrite.call(&mut env, &mut memory, &[1, pointer, 1, 0]), Ok(FAULT));
        }
        assert_eq!(memory, vec![0; 64]);
    }
}
