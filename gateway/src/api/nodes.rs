//! The nodes of the mesh: which there are, how they are linked, who may join and who may not.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use starlane_core::{Code, NodeName, Problem};

use super::Shared;
use super::extract::{Json as JsonBody, Named, TokenId, duration};
use crate::mesh::{Mesh, TokenTerms};
use crate::problem::Failure;
use crate::schema;
use crate::shapes::{Graph, NewToken, NodeInfo, NodeList, NodePatch, Token, TokenList};

/// For how long a token can be used when not asked otherwise, and at most.
const TTL_DEFAULT: Duration = Duration::from_secs(600);
const TTL_MAX: Duration = Duration::from_secs(86_400);

/// The nodes of the mesh.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes",
    responses((status = 200, description = "All that are known", body = NodeList)))]
pub(crate) async fn list<M: Mesh>(State(shared): State<Arc<Shared<M>>>) -> Result<Json<NodeList>, Failure> {
    let nodes = shared.mesh.nodes(shared.agent()).await?;
    Ok(Json(NodeList { nodes }))
}

/// A node.
#[utoipa::path(get, path = "/v1/nodes/{name}", tag = "nodes",
    params(("name" = schema::NodeName, Path, description = "Its name")),
    responses((status = 200, description = "It", body = NodeInfo)))]
pub(crate) async fn get<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    Named(name): Named,
) -> Result<Json<NodeInfo>, Failure> {
    let nodes = shared.mesh.nodes(shared.agent()).await?;
    match nodes.iter().find(|node| node.name == name) {
        Some(node) => Ok(Json(node.clone())),
        None => Err(no_node(&name, &nodes).into()),
    }
}

/// How many nodes are named to somebody who asked for another.
const NAMED_MAX: usize = 10;

fn no_node(name: &NodeName, nodes: &[NodeInfo]) -> Problem {
    let mut names: Vec<&str> = nodes.iter().take(NAMED_MAX).map(|node| node.name.as_str()).collect();
    if nodes.len() > NAMED_MAX {
        names.push("…");
    }
    Problem::new(Code::NotFound, format!("no node is called `{name}`"))
        .help(format!("there are: {}", names.join(", ")))
}

/// Changes a node: its labels, or whether its mechtrons move away. Done when that is decided, not when they have moved.
#[utoipa::path(patch, path = "/v1/nodes/{name}", tag = "nodes", request_body = NodePatch,
    params(("name" = schema::NodeName, Path, description = "Its name")),
    responses((status = 200, description = "The node as it is now", body = NodeInfo)))]
pub(crate) async fn patch<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    Named(name): Named,
    JsonBody(patch): JsonBody<NodePatch>,
) -> Result<Json<NodeInfo>, Failure> {
    Ok(Json(shared.mesh.patch_node(shared.agent(), name, patch).await?))
}

/// Shuts a node out: its links are closed, and its certificate is worth nothing any more.
#[utoipa::path(delete, path = "/v1/nodes/{name}", tag = "nodes",
    params(("name" = schema::NodeName, Path, description = "Its name")),
    responses((status = 204, description = "It is shut out")))]
pub(crate) async fn revoke<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    Named(name): Named,
) -> Result<StatusCode, Failure> {
    shared.mesh.revoke(shared.agent(), name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How the nodes are linked.
#[utoipa::path(get, path = "/v1/graph", tag = "nodes",
    responses((status = 200, description = "As the node that answers knows it", body = Graph)))]
pub(crate) async fn graph<M: Mesh>(State(shared): State<Arc<Shared<M>>>) -> Result<Json<Graph>, Failure> {
    Ok(Json(shared.mesh.graph(shared.agent()).await?))
}

/// Makes a token with which one node can join, once.
#[utoipa::path(post, path = "/v1/tokens", tag = "nodes", request_body = NewToken,
    responses((status = 201, description = "The token; its secret is told this once", body = Token)))]
pub(crate) async fn new_token<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    JsonBody(asked): JsonBody<NewToken>,
) -> Result<(StatusCode, Json<Token>), Failure> {
    let ttl = asked.ttl.as_deref().map_or(Ok(TTL_DEFAULT), duration)?;
    if ttl > TTL_MAX {
        let problem = Problem::new(Code::Usage, "a token can be used for a day at most");
        return Err(problem.help("make one when a node is about to join: `ttl` is `10m` without it").into());
    }
    let terms = TokenTerms { role: asked.role, ttl, labels: asked.labels, name: asked.name };
    Ok((StatusCode::CREATED, Json(shared.mesh.new_token(shared.agent(), terms).await?)))
}

/// The tokens that can still be used, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", tag = "nodes",
    responses((status = 200, description = "All of them", body = TokenList)))]
pub(crate) async fn tokens<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
) -> Result<Json<TokenList>, Failure> {
    Ok(Json(TokenList { tokens: shared.mesh.tokens(shared.agent()).await? }))
}

/// Takes back a token that was not used.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "nodes",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "Nobody can use it any more")))]
pub(crate) async fn delete_token<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    TokenId(id): TokenId,
) -> Result<StatusCode, Failure> {
    shared.mesh.delete_token(shared.agent(), id).await?;
    Ok(StatusCode::NO_CONTENT)
}
