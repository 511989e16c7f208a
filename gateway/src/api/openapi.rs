//! The API's description of itself (OpenAPI 3.1).

use http::header::CONTENT_TYPE;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi as _};

use super::{files, history, homes, mesh, messages, nodes, resources, scatter, topics, watch};
use crate::portal::session;
use crate::shapes::{ProblemDetails, WatchEvent};

/// The document that describes the API.
#[utoipa::path(get, path = "/openapi.json", tag = "node", security(()),
    responses((status = 200, description = "This document", body = serde_json::Value)))]
pub(crate) async fn openapi() -> ([(http::HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "application/json")], document())
}

/// The document, as JSON.
pub(crate) fn document() -> String {
    Document::openapi().to_json().unwrap_or_default()
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Starlane", description = "The API of a node of the mesh."),
    paths(
        mesh::healthz, mesh::readyz, mesh::metrics, openapi, mesh::info, mesh::errors, mesh::exec,
        nodes::list, nodes::get, nodes::patch, nodes::revoke, nodes::graph, nodes::new_token, nodes::tokens,
        nodes::delete_token, homes::trace, homes::why, homes::move_to, scatter::scatter, topics::publish, topics::subscribe,
        session::open, resources::select, resources::create, resources::get, resources::patch, resources::delete,
        resources::describe, history::history, history::diff, history::backup, watch::watch, watch::logs, messages::request,
        messages::send, messages::dead_letters, files::publish,
        files::read, files::write,
    ),
    components(schemas(ProblemDetails, WatchEvent)),
    security(("token" = [])),
    modifiers(&Common),
)]
struct Document;

/// What holds for every path: the token, and problems.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut OpenApi) {
        if let Some(components) = &mut document.components {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
            components.add_security_scheme("token", SecurityScheme::Http(scheme));
        }
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemDetails"))).build();
        let problem = ResponseBuilder::new()
            .description("A problem; its `code` is stable")
            .content("application/problem+json", content)
            .build();
        for path in document.paths.paths.values_mut() {
            let operations =
                [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch];
            for operation in operations.into_iter().flatten() {
                operation.responses.responses.insert("default".to_owned(), RefOr::T(problem.clone()));
            }
        }
    }
}
