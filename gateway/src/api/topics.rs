//! Topics: what is published to a point, and who hears it.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use starlane_core::{Body as MessageBody, Message, Payload, Trace};
use tokio::time::Interval;
use utoipa::IntoParams;

use super::Shared;
use super::extract::{Asks, At, Whole};
use super::messages::message;
use super::watch::{Form, NDJSON, Open, heartbeat, json_line, stream};
use crate::mesh::Mesh;
use crate::portal::{Subscription, event_method};
use crate::problem::Failure;
use crate::schema;
use crate::shapes::{Data, Sent, TopicLine};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PublishAsks {
    /// What it is about, for those who hear it; `/` without it.
    #[param(example = "/gold")]
    path: Option<String>,
}

/// Tells all who subscribe to a topic something. The body and its content type are the event's.
#[utoipa::path(post, path = "/v1/publish/{point}", tag = "messages",
    params(("point" = schema::Point, Path, description = "The topic, a resource of any kind; one segment: `/` is `%2F`"), PublishAsks),
    request_body(content = Vec<u8>, content_type = "*/*", description = "The event"),
    responses((status = 202, description = "It is on its way", body = Sent)))]
pub(crate) async fn publish<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(topic): At,
    Asks(asks): Asks<PublishAsks>,
    Extension(trace): Extension<Trace>,
    headers: HeaderMap,
    body: Whole,
) -> Result<Response, Failure> {
    let timeout = shared.config.limits.request_timeout;
    let Message { header, payload } =
        message(&shared, topic, None, asks.path, timeout, trace, &headers, body)?;
    let Payload::Request(mut event) = payload else { return Ok(StatusCode::ACCEPTED.into_response()) };
    event.method = event_method();
    let id = header.id.to_string();
    shared.mesh.publish_event(Message { header, payload: Payload::Signal(event) }).await?;
    Ok((StatusCode::ACCEPTED, Json(Sent { id })).into_response())
}

/// What is published to a topic from now on. An event that comes while too many wait is missed, and then the next line says
/// how many were.
#[utoipa::path(get, path = "/v1/subscribe/{point}", tag = "messages",
    params(("point" = schema::Point, Path, description = "The topic; one segment: `/` is `%2F`")),
    responses((status = 200, description = "One JSON document a line, until one side goes away", body = TopicLine,
        content_type = "application/x-ndjson")))]
pub(crate) async fn subscribe<M: Mesh>(
    State(shared): State<Arc<Shared<M>>>,
    At(topic): At,
) -> Result<Response, Failure> {
    let open = Open::new(&shared)?;
    let subscription = shared.mesh.subscribe(shared.agent(), topic).await?;
    let events = Events { subscription, heartbeat: heartbeat(&shared), _open: open, shared };
    Ok(stream(NDJSON, Body::from_stream(futures::stream::unfold(events, Events::next))))
}

struct Events<M> {
    shared: Arc<Shared<M>>,
    subscription: Subscription,
    heartbeat: Interval,
    _open: Open,
}

impl<M: Mesh> Events<M> {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let missed = self.subscription.missed();
        if missed > 0 {
            return Some((json_line(&TopicLine::Gap { missed }), self));
        }
        let event = tokio::select! {
            biased;
            () = self.shared.closing.cancelled() => None,
            event = self.subscription.next() => event,
            _ = self.heartbeat.tick() => return Some((Ok(Form::Lines.heartbeat()), self)),
        };
        self.heartbeat.reset();
        Some((line(&*event?), self))
    }
}

fn line(event: &Message) -> io::Result<Bytes> {
    let Payload::Signal(said) = &event.payload else { return Ok(Bytes::new()) };
    let bytes = match &said.body {
        MessageBody::Bytes(bytes) => bytes.clone(),
        MessageBody::Blob(_) => Bytes::new(),
    };
    json_line(&TopicLine::Event {
        from: event.header.from.clone(),
        path: said.path.to_string(),
        headers: said.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        data: Data::of(&bytes),
    })
}
