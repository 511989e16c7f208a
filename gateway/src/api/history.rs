//! What happened, what is different between two moments, and everything as it is.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::TryStreamExt;
use serde::Deserialize;
use starlane_core::{Code, Problem, When};
use utoipa::IntoParams;

use super::Shared;
use super::extract::{Asks, At};
use super::watch::stream;
use crate::config::Limits;
use crate::mesh::{Comparison, Mesh};
use crate::problem::Failure;
use crate::schema;
use crate::shapes::{Diff, History};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryAsks {
    /// How many commits at most, the newest first.
    #[param(minimum = 1)]
    limit: Option<usize>,
}

/// What happened to the resource at a point: who changed what, when, on whose authority.
#[utoipa::path(get, path = "/v1/history/{point}", tag = "resources",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"), HistoryAsks),
    responses((status = 200, description = "As far back as the history is kept", body = History)))]
pub(crate) async fn history<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Asks(asks): Asks<HistoryAsks>,
) -> Result<Json<History>, Failure> {
    let limit = limit(asks.limit, &shared.config.limits)?;
    Ok(Json(shared.mesh.history(shared.agent(), point, limit).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DiffAsks {
    /// A selector.
    #[param(example = "shop:**<Mechtron>")]
    select: String,
    /// The earlier moment: a revision, or a time as RFC 3339 has it.
    #[param(example = "1042")]
    from: String,
    /// The later one; now without it.
    #[param(example = "2026-03-01T12:04:11Z")]
    to: Option<String>,
    /// How many resources at most.
    #[param(minimum = 1)]
    limit: Option<usize>,
    /// The `next` of the page before; `from` and `to` are then the revisions that it had.
    cursor: Option<String>,
}

/// What is different between two moments of the history.
#[utoipa::path(get, path = "/v1/diff", tag = "resources", params(DiffAsks),
    responses((status = 200, description = "A page of the resources that differ", body = Diff)))]
pub(crate) async fn diff<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    Asks(asks): Asks<DiffAsks>,
) -> Result<Json<Diff>, Failure> {
    let limit = limit(asks.limit, &shared.config.limits)?;
    let comparison = Comparison {
        selector: asks.select,
        from: when(&asks.from)?,
        to: asks.to.as_deref().map(when).transpose()?,
        limit,
        cursor: asks.cursor,
    };
    Ok(Json(shared.mesh.diff(shared.agent(), comparison).await?))
}

/// Reads a moment of the history.
pub(super) fn when(text: &str) -> Result<When, Problem> {
    text.parse().map_err(|error: starlane_core::WhenError| {
        Problem::new(Code::Usage, error.to_string()).help("a `+` in a query is `%2B`")
    })
}

/// How much one page may hold.
pub(super) fn limit(asked: Option<usize>, limits: &Limits) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(limits.page_default);
    if limit == 0 || limit > limits.page_max {
        let detail = format!("`limit` is {limit}, and must be from 1 to {}", limits.page_max);
        return Err(Problem::new(Code::Usage, detail).help("ask for more pages with `cursor`"));
    }
    Ok(limit)
}

/// Everything in the registry at one revision, in one file. `starlane restore` checks it, and makes a registry of it.
#[utoipa::path(get, path = "/v1/backup", tag = "node",
    responses((status = 200, description = "The backup, streamed; one that is cut off is noticed", body = Vec<u8>,
        content_type = "application/octet-stream")))]
pub(crate) async fn backup<M: Mesh>(State(shared): State<Arc<Shared<M>>>) -> Result<Response, Failure> {
    let bytes = shared.mesh.backup(shared.agent()).await?;
    Ok(stream("application/octet-stream", Body::from_stream(bytes.map_err(io::Error::other))))
}
