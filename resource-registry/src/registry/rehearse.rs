//! Finding out whether changes could be made, without making them.

use parking_lot::Mutex;

use super::write::{ATTEMPTS_MAX, part};
use super::{Inner, Op, Registry};
use crate::draft::{Draft, Stop};
use crate::error::Error;

impl Registry {
    /// Checks what these would do one after the other, without doing any of it; later ones see the earlier. It is as of now:
    /// others may change something before it is done.
    ///
    /// # Errors
    /// The first that cannot be done, by its number, and why.
    pub async fn rehearse(&self, ops: &[Op]) -> Result<(), (usize, Error)> {
        self.inner.check_declarations(ops).await?;
        self.inner.rehearse(ops).await
    }
}

impl Inner {
    async fn rehearse(&self, ops: &[Op]) -> Result<(), (usize, Error)> {
        let mut fresh = false;
        // Each schema is loaded once, unless it is changed meanwhile.
        for _ in 0..ATTEMPTS_MAX + ops.len() {
            // Its numbers are nobody else's.
            let counters = Mutex::default();
            let (seen, stopped) = {
                let view = self.view.read();
                let mut draft = Draft::new(&view, &self.compiled, &counters, true).only_check();
                let stopped = ops.iter().enumerate().find_map(|(number, op)| {
                    let done = part(&mut draft, op).and_then(|part| Ok(draft.check_size(part.point())?));
                    done.err().map(|stop| (number, stop))
                });
                (view.revision, stopped)
            };
            match stopped {
                None => return Ok(()),
                Some((number, Stop::Load(declaration))) => {
                    self.load_schema(&declaration).await.map_err(|error| (number, error))?;
                }
                Some((number, Stop::Error(error))) => {
                    if fresh || self.fresh().await.map_err(|error| (number, error))? <= seen {
                        return Err((number, error));
                    }
                    fresh = true;
                }
            }
        }
        Err((0, Error::Busy("others keep changing the same resources")))
    }
}
