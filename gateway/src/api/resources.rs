//! Resources: one, many, made, changed and removed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use starlane_core::{Code, Problem, PropertyChange, Resource};
use utoipa::IntoParams;

use super::Shared;
use super::extract::{Asks, At, Json as JsonBody, ReadAsks, Stale, if_match};
use super::history::{limit, when};
use crate::content::lists_tag;
use crate::mesh::{Mesh, Selection};
use crate::problem::Failure;
use crate::schema;
use crate::segment::encode_point;
use crate::shapes::{Create, CreateOutcome, DeletedList, Description, Page, Patch};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SelectAsks {
    /// A selector.
    #[param(example = "shop:**<Mechtron>")]
    select: String,
    /// How many resources at most.
    #[param(minimum = 1)]
    limit: Option<usize>,
    /// The `next` of the page before.
    cursor: Option<String>,
    /// What it was at a moment of the history: a revision, or a time as RFC 3339 has it. Further pages name the `revision`
    /// of the first.
    #[param(example = "1042")]
    at: Option<String>,
    /// `ok` reads what this node last heard, also when the registry is out of reach.
    #[param(inline)]
    stale: Option<Stale>,
}

/// A page of a selector's answer.
#[utoipa::path(get, path = "/v1/resources", tag = "resources", params(SelectAsks),
    responses((status = 200, description = "What matches", body = Page)))]
pub(crate) async fn select<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    Asks(asks): Asks<SelectAsks>,
) -> Result<Json<Page>, Failure> {
    let limit = limit(asks.limit, &shared.config.limits)?;
    let at = asks.at.as_deref().map(when).transpose()?;
    let selection = Selection { selector: asks.select, limit, cursor: asks.cursor, at };
    Ok(Json(shared.mesh.select(shared.agent(), selection, Stale::freshness(asks.stale)).await?))
}

/// Creates a resource.
#[utoipa::path(post, path = "/v1/resources", tag = "resources", request_body = Create,
    responses(
        (status = 201, description = "It is new", body = schema::Resource,
            headers(("location" = String, description = "Its path"), ("etag" = String, description = "Its revision"))),
        (status = 200, description = "It was there", body = schema::Resource,
            headers(("location" = String, description = "Its path"), ("etag" = String, description = "Its revision")))))]
pub(crate) async fn create<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    JsonBody(create): JsonBody<Create>,
) -> Result<Response, Failure> {
    if let Some(key) = create.locked.iter().find(|key| !create.properties.contains_key(*key)) {
        let problem = Problem::new(Code::PropertyKey, format!("`{key}` is to be locked and has no value"));
        return Err(problem.help("give it a value in `properties`").into());
    }
    let created = shared.mesh.create(shared.agent(), create).await?;
    let status = match created.outcome {
        CreateOutcome::Created => StatusCode::CREATED,
        CreateOutcome::Existed | CreateOutcome::Replaced => StatusCode::OK,
    };
    let location = format!("/v1/resources/{}", encode_point(&created.resource.point));
    Ok((status, [(LOCATION, location)], one(created.resource)).into_response())
}

/// The resource at a point.
#[utoipa::path(get, path = "/v1/resources/{point}", tag = "resources",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"), ReadAsks,
        ("if-none-match" = Option<String>, Header, description = "Entity tags that are known")),
    responses(
        (status = 200, description = "It", body = schema::Resource,
            headers(("etag" = String, description = "Its revision"))),
        (status = 304, description = "It did not change")))]
pub(crate) async fn get<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Asks(asks): Asks<ReadAsks>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let resource = shared.mesh.get(shared.agent(), point, Stale::freshness(asks.stale)).await?;
    let tag = tag(&resource);
    if headers.get(IF_NONE_MATCH).is_some_and(|known| lists_tag(known, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(one(resource).into_response())
}

/// Changes properties, all or none.
#[utoipa::path(patch, path = "/v1/resources/{point}", tag = "resources", request_body = Patch,
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"),
        ("if-match" = Option<String>, Header, description = "The entity tag that it must have")),
    responses((status = 200, description = "The resource as it is now", body = schema::Resource,
        headers(("etag" = String, description = "Its revision")))))]
pub(crate) async fn patch<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    headers: HeaderMap,
    JsonBody(patch): JsonBody<Patch>,
) -> Result<Response, Failure> {
    let expect = if_match(&headers)?;
    let changes = changes(patch)?;
    Ok(one(shared.mesh.patch(shared.agent(), point, changes, expect).await?).into_response())
}

fn changes(patch: Patch) -> Result<Vec<PropertyChange>, Problem> {
    let set = patch.set.into_iter().map(|(key, value)| PropertyChange::Set { key, value, lock: false });
    let lock = patch.lock.into_iter().map(|(key, value)| PropertyChange::Set { key, value, lock: true });
    let changes: Vec<_> = set.chain(lock).chain(patch.unset.into_iter().map(PropertyChange::Unset)).collect();
    let mut keys: Vec<_> = changes.iter().map(PropertyChange::key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            let problem = Problem::new(Code::PropertyKey, format!("`{}` is changed twice", pair[0]));
            Err(problem.help("name it once, in `set`, `lock` or `unset`"))
        }
        None => Ok(changes),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteAsks {
    /// Whether all below it goes too.
    #[serde(default)]
    #[param(required = false)]
    recursive: bool,
}

/// Removes a resource.
#[utoipa::path(delete, path = "/v1/resources/{point}", tag = "resources",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"), DeleteAsks,
        ("if-match" = Option<String>, Header, description = "The entity tag that it must have")),
    responses((status = 200, description = "All that was removed", body = DeletedList)))]
pub(crate) async fn delete<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Asks(asks): Asks<DeleteAsks>,
    headers: HeaderMap,
) -> Result<Json<DeletedList>, Failure> {
    let expect = if_match(&headers)?;
    let deleted = shared.mesh.delete(shared.agent(), point, asks.recursive, expect).await?;
    Ok(Json(DeletedList { deleted }))
}

/// What is known of the resource at a point.
#[utoipa::path(get, path = "/v1/describe/{point}", tag = "resources",
    params(("point" = schema::Point, Path, description = "One segment: `/` is `%2F`"), ReadAsks),
    responses((status = 200, description = "The resource and what belongs to it", body = Description)))]
pub(crate) async fn describe<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(point): At,
    Asks(asks): Asks<ReadAsks>,
) -> Result<Json<Description>, Failure> {
    Ok(Json(shared.mesh.describe(shared.agent(), point, Stale::freshness(asks.stale)).await?))
}

/// A resource with its entity tag.
fn one(resource: Resource) -> impl IntoResponse {
    ([(ETAG, tag(&resource))], Json(resource))
}

fn tag(resource: &Resource) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", resource.modified)).unwrap_or(HeaderValue::from_static("\"\""))
}
