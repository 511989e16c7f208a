//! A stream of JSON documents, one a line.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use reqwest::Response;
use serde::de::DeserializeOwned;

/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A stream of JSON documents of one type, one a line. Empty lines are signs of life and skipped.
#[derive(Debug)]
pub struct JsonLines<T> {
    response: Response,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    /// After how long without a byte the connection is taken for dead.
    silence_max: Option<Duration>,
    of: PhantomData<fn() -> T>,
}

/// Why no further document comes.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[from] reqwest::Error),
    /// Nothing came for longer than a living node would be silent.
    #[error("nothing was heard of the node for {} s", .0.as_secs())]
    Silent(Duration),
    /// A line is no document of the type.
    #[error("a line cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// A line has more bytes than are read.
    #[error("a line is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
}

impl<T: DeserializeOwned> JsonLines<T> {
    pub(super) fn new(response: Response, silence_max: Option<Duration>) -> Self {
        Self { response, buffer: BytesMut::new(), searched: 0, silence_max, of: PhantomData }
    }

    /// The next document; `None` when the other side ended the stream. Safe to drop while it waits.
    ///
    /// # Errors
    /// When the connection broke or fell silent, or a line cannot be read.
    pub async fn next(&mut self) -> Result<Option<T>, LinesError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end);
                self.buffer.advance(1);
                self.searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(LinesError::TooLong);
            }
            let chunk = match self.silence_max {
                None => self.response.chunk().await,
                Some(limit) => tokio::time::timeout(limit, self.response.chunk())
                    .await
                    .map_err(|_| LinesError::Silent(limit))?,
            };
            let Some(chunk) = chunk? else { return Ok(None) };
            self.buffer.extend_from_slice(&chunk);
        }
    }
}
