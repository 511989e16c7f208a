//! WASI commands, which run once for each message.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use starlane_core::{Body, Code, Outcome, Refusal};

use super::Shard;
use super::turns::unfit;
use crate::engine::Entry;
use crate::imports::Env;
use crate::instance::clamp;
use crate::outside::Activation;
use crate::wasi::Command as Wasi;

impl Shard {
    /// Runs a WASI command for the next message.
    pub(super) fn run_command(&mut self, at: u32, activation: &Arc<Activation>) {
        let now = self.now;
        let (clock, line_bytes) = (self.config.clock.clone(), self.config.logs.line_bytes);
        let Some(slot) = self.slot(at) else { return };
        let Some(mail) = slot.mailbox.pop() else { return self.schedule(at) };
        slot.last_used = now;
        slot.handled += 1;
        let (limits, point) = (Arc::clone(&slot.limits), slot.point.clone());
        if !slot.mailbox.is_empty() {
            self.make_ready(at);
        }
        if let Some(refusal) = unfit(&mail, now, false, activation) {
            return self.refuse(mail, refusal);
        }
        let input = match mail.request().map(|request| &request.body) {
            Some(Body::Bytes(bytes)) => bytes.clone(),
            _ => Bytes::new(),
        };
        let mut env = Env::new(clock.clone(), limits.run_lines, line_bytes);
        env.calls_left = limits.host_calls;
        env.command = Some(Box::new(Wasi::of(&mail.message, input, limits.outbox_bytes as usize)));
        let outcome = match activation.module.code().instantiate(clamp(&limits), env) {
            Err(detail) => Outcome::Failed(Refusal::new(Code::NotReady, detail)),
            Ok(mut guest) => {
                guest.set_ticks(limits.ticks);
                let ended = guest.call(Entry::Start, 0).and_then(|_| guest.call(Entry::Command, 0));
                let env = guest.env();
                let command = *env.command.take().unwrap_or_default();
                env.end_line();
                let (kept, left_out) = env.lines.take();
                if !kept.is_empty() || left_out > 0 {
                    self.logs.write(&point, clock.wall_ms(), kept, left_out);
                }
                command_outcome(ended, command)
            }
        };
        if !matches!(outcome, Outcome::Ok(_)) {
            self.counters().traps.fetch_add(1, Ordering::Relaxed);
        }
        self.counters().handled.fetch_add(1, Ordering::Relaxed);
        self.reply(mail.reply, outcome);
        self.schedule(at);
    }
}

fn command_outcome(ended: Result<i64, crate::engine::Trap>, command: Wasi) -> Outcome {
    let fail = |code: Code, detail: String| Outcome::Failed(Refusal::new(code, detail));
    match (ended, command.exit) {
        (Ok(_), _) | (Err(_), Some(0)) if command.overflow => {
            fail(Code::TooLarge, format!("it wrote more than {} bytes", command.output_max))
        }
        (Ok(_), _) | (Err(_), Some(0)) => Outcome::Ok(command.into_reply()),
        (Err(_), Some(exit)) => fail(Code::HandlerFailed, format!("it left with exit code {exit}")),
        (Err(crate::engine::Trap::Budget), None) => {
            fail(Code::TimeBudget, "it used up the time of its turn".into())
        }
        (Err(trap), None) => fail(Code::Trapped, trap.to_string()),
    }
}
