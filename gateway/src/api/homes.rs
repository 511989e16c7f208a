//! Where points live: the way there, the reasons, and moves.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Shared;
use super::extract::{Asks, At, Json as JsonBody, WaitAsks, timeout};
use crate::mesh::Mesh;
use crate::problem::Failure;
use crate::schema;
use crate::shapes::{Move, Moved, Route, Why};

/// The way of a message to a point, with the time to each node of it.
#[utoipa::path(get, path = "/v1/trace/{point}", tag = "homes",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"), WaitAsks),
    responses((status = 200, description = "The way, as far as it leads", body = Route)))]
pub(crate) async fn trace<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Asks(asks): Asks<WaitAsks>,
) -> Result<Json<Route>, Failure> {
    let timeout = timeout(asks.timeout.as_deref(), &shared.config.limits)?;
    Ok(Json(shared.mesh.trace(shared.agent(), point, timeout).await?))
}

/// Where a point lives and why, or why it is not placed, not running or not there.
#[utoipa::path(get, path = "/v1/why/{point}", tag = "homes",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`")),
    responses((status = 200, description = "The reasons, node by node", body = Why)))]
pub(crate) async fn why<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
) -> Result<Json<Why>, Failure> {
    Ok(Json(shared.mesh.why(shared.agent(), point).await?))
}

/// Moves a mechtron to another node, with its mailbox and its state.
#[utoipa::path(post, path = "/v1/move/{point}", tag = "homes", request_body = Move,
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"), WaitAsks),
    responses((status = 200, description = "It lives there now", body = Moved)))]
pub(crate) async fn move_to<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Asks(asks): Asks<WaitAsks>,
    JsonBody(asked): JsonBody<Move>,
) -> Result<Json<Moved>, Failure> {
    let timeout = timeout(asks.timeout.as_deref(), &shared.config.limits)?;
    Ok(Json(shared.mesh.move_to(shared.agent(), point, asked.to, timeout).await?))
}
