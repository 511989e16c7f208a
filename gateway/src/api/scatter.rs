//! One question to many, and their answers as they come.

use std::io;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use starlane_core::{Blob, Body as MessageBody, Code, Problem, Trace};
use tokio::time::Interval;
use utoipa::IntoParams;

use super::Shared;
use super::extract::{Asks, Whole, timeout};
use super::messages::content;
use super::watch::{Form, NDJSON, Open, heartbeat, json_line, stream};
use crate::mesh::{Gathered, Gathering, Mesh, Scatter};
use crate::problem::{Failure, reply};
use crate::shapes::{Data, ScatterAnswer, ScatterEnd, ScatterLine, ScatterOutcome, Until};
use crate::web::read_reply;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ScatterAsks {
    /// A selector of those who are asked.
    #[param(example = "shop:**<Mechtron>")]
    select: String,
    /// What is asked: `Ext<Stock>` or `Stock`, `Http<Get>` or `GET`. Without it, `Http<Post>` when there is a body,
    /// else `Http<Get>`.
    #[param(example = "Stock")]
    method: Option<String>,
    /// Of what; `/` without it.
    #[param(example = "/")]
    path: Option<String>,
    /// How many good answers to wait for: `all`, which is so without it, `quorum`, or a number.
    #[param(example = "quorum")]
    until: Option<String>,
    /// How long to wait: `500ms`, `10s`, `2m`, or seconds.
    #[param(example = "10s")]
    timeout: Option<String>,
}

/// Asks every resource that a selector means at once. The body and its content type are the message's.
#[utoipa::path(post, path = "/v1/scatter", tag = "messages", params(ScatterAsks),
    request_body(content = Vec<u8>, content_type = "*/*", description = "The message"),
    responses((status = 200, body = ScatterLine, content_type = "application/x-ndjson",
        description = "One JSON document a line for each that was asked, as they come; the last line counts them")))]
pub(crate) async fn scatter<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    Asks(asks): Asks<ScatterAsks>,
    Extension(trace): Extension<Trace>,
    headers: HeaderMap,
    body: Whole,
) -> Result<Response, Failure> {
    let limits = &shared.config.limits;
    let until = asks.until.as_deref().unwrap_or("all").parse::<Until>().map_err(|error| {
        Problem::new(Code::Usage, error.to_string()).help("without `until` all answers are waited for")
    })?;
    let scatter = Scatter {
        selector: asks.select,
        timeout: timeout(asks.timeout.as_deref(), limits)?,
        request: content(asks.method.as_deref(), asks.path, &headers, body)?,
        from: shared.config.point.clone(),
        trace,
        points_max: limits.scatter_points_max,
    };
    let open = Open::new(&shared)?;
    let Gathering { asked, answers } = shared.mesh.scatter(shared.agent(), scatter).await?;
    let heartbeat = heartbeat(&shared);
    let end = ScatterEnd { gathered: 0, asked, ok: 0 };
    let gather =
        Gather { answers: Some(answers), wanted: until.wanted(asked), end, heartbeat, _open: open, shared };
    Ok(stream(NDJSON, Body::from_stream(futures::stream::unfold(gather, Gather::next))))
}

struct Gather<M> {
    shared: Arc<Shared<M>>,
    /// What is still to come; dropped when it is not waited for, and then gone.
    answers: Option<futures::stream::BoxStream<'static, Gathered>>,
    /// How many good answers are enough.
    wanted: u64,
    end: ScatterEnd,
    heartbeat: Interval,
    _open: Open,
}

impl<M: Mesh> Gather<M> {
    /// The next bytes of the stream; `None` after its last line, or when the door closes.
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let answers = self.answers.as_mut()?;
        let gathered = tokio::select! {
            biased;
            () = self.shared.closing.cancelled() => return None,
            gathered = answers.next() => gathered,
            _ = self.heartbeat.tick() => return Some((Ok(Form::Lines.heartbeat()), self)),
        };
        self.heartbeat.reset();
        let line = match gathered {
            Some(gathered) => {
                let answer = read(&self.shared, gathered).await;
                self.end.gathered += 1;
                self.end.ok += u64::from(answer.is_good());
                json_line(&answer)
            }
            None => {
                self.answers = None;
                json_line(&self.end)
            }
        };
        if self.end.ok >= self.wanted && self.answers.is_some() {
            self.answers = Some(futures::stream::empty().boxed());
        }
        Some((line, self))
    }
}

async fn read<M: Mesh>(shared: &Shared<M>, Gathered { point, node, outcome }: Gathered) -> ScatterAnswer {
    let mut answer = ScatterAnswer {
        point,
        node,
        outcome: ScatterOutcome::Ok,
        status: None,
        content_type: None,
        body: None,
        problem: None,
    };
    let (status, headers, body) = match reply(outcome).and_then(read_reply) {
        Ok(replied) => replied,
        Err(failure) => {
            answer.outcome = match failure.outcome {
                Some("rejected") => ScatterOutcome::Rejected,
                Some("unknown") => ScatterOutcome::Unknown,
                // A reply that cannot be one is the handler's failure.
                _ => ScatterOutcome::Failed,
            };
            answer.problem = Some(failure.details(None));
            return answer;
        }
    };
    answer.status = Some(status.as_u16());
    answer.content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let bytes = match body {
        MessageBody::Bytes(bytes) => Ok(bytes),
        MessageBody::Blob(blob) => whole(shared, blob).await,
    };
    match bytes {
        Ok(bytes) => answer.body = Some(Data::of(&bytes)),
        Err(problem) => answer.problem = Some(Failure::from(problem).details(None)),
    }
    answer
}

/// The bytes of a blob that fits into a line.
async fn whole<M: Mesh>(shared: &Shared<M>, blob: Blob) -> Result<Bytes, Problem> {
    let bytes_max = shared.config.limits.body_bytes_max as u64;
    if blob.bytes > bytes_max {
        let detail = format!("the answer has {} bytes, too many for one of many", blob.bytes);
        return Err(Problem::new(Code::TooLarge, detail).help("ask this one alone: `/v1/request/{point}`"));
    }
    let mut bytes = BytesMut::new();
    if blob.bytes > 0 {
        let mut parts = shared.mesh.blob(blob, 0..blob.bytes).await?;
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part?);
        }
    }
    Ok(bytes.freeze())
}
