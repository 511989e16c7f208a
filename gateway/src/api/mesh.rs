//! The node itself: whether it lives, who it is, what it counts; and scripts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus_client::encoding::text::encode_registry;
use starlane_core::{Code, Problem};

use super::Shared;
use super::extract::{Whole, media_type};
use crate::mesh::Mesh;
use crate::problem::Failure;
use crate::shapes::{ErrorEntry, Info, ProblemDetails, Results};

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "node", security(()),
    responses((status = 200, description = "It does", body = String, content_type = "text/plain")))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the node can do its work.
#[utoipa::path(get, path = "/readyz", tag = "node", security(()), responses(
    (status = 200, description = "It can", body = String, content_type = "text/plain"),
    (status = 503, description = "It waits for something", body = String, content_type = "text/plain")))]
pub(crate) async fn readyz<M: Mesh>(State(shared): State<Arc<Shared<M>>>) -> (StatusCode, String) {
    match shared.mesh.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

/// What the node counts, in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "node",
    responses((status = 200, description = "All metrics", body = String, content_type = "application/openmetrics-text")))]
pub(crate) async fn metrics<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
) -> Result<([(http::HeaderName, &'static str); 1], String), Failure> {
    let mut text = String::new();
    encode_registry(&mut text, &shared.registry)
        .map_err(|error| Problem::new(Code::Internal, format!("cannot write the metrics: {error}")))?;
    shared.mesh.metrics(&mut text);
    text.push_str("# EOF\n");
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

/// Who answers.
#[utoipa::path(get, path = "/v1/info", tag = "node",
    responses((status = 200, description = "The node, its cluster and versions", body = Info)))]
pub(crate) async fn info<M: Mesh>(State(shared): State<Arc<Shared<M>>>) -> Json<Info> {
    Json(shared.mesh.info())
}

/// The catalogue of errors.
#[utoipa::path(get, path = "/v1/errors", tag = "node",
    responses((status = 200, description = "Every error that can be answered", body = [ErrorEntry])))]
pub(crate) async fn errors() -> Json<Vec<ErrorEntry>> {
    let entry = |code: &Code| ErrorEntry {
        code: *code,
        title: code.title().to_owned(),
        status: code.http_status(),
        exit_code: code.exit_code(),
    };
    Json(Code::ALL.iter().map(entry).collect())
}

/// Runs the statements of a script in order; the first that fails stops it.
#[utoipa::path(post, path = "/v1/exec", tag = "commands",
    request_body(content = String, content_type = "text/plain", description = "Statements, separated by `;`",
        example = "create shop<Space>; select shop+:**"),
    responses(
        (status = 200, description = "What each statement answered", body = Results),
        (status = 400, description = "A statement is wrong; `results` holds the answers of those before it",
            body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn exec<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    body: Whole,
) -> Result<Json<Results>, Failure> {
    let kind = body.content_type.as_deref().map(media_type).unwrap_or_default();
    // What curl sends unless told otherwise is meant as it stands.
    let plain =
        matches!(kind.as_str(), "" | "application/octet-stream" | "application/x-www-form-urlencoded");
    if !plain && !kind.starts_with("text/") {
        let detail = format!("a script is text, and not `{kind}`");
        return Err(Failure::usage(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            detail,
            "send it with `content-type: text/plain`",
        ));
    }
    let script = String::from_utf8(body.bytes.into()).map_err(|error| {
        let detail = format!("the script is not UTF-8 from byte {} on", error.utf8_error().valid_up_to());
        Problem::new(Code::Syntax, detail).help("save it as UTF-8")
    })?;
    let results = shared.mesh.exec(shared.agent(), script).await?;
    Ok(Json(Results { results }))
}
