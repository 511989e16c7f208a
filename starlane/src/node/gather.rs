//! One question to many, asked at the same time.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use gateway::{Gathered, Gathering, Scatter};
use resource_registry::Registry;
use starlane_core::{Agent, Code, Header, Message, NodeName, Payload, Problem, Resource, Selector};

use super::homes::{Home, Homes};
use super::ids::Ids;
use super::router::{Router, has_code};

/// Asks everybody that a selector means; what they answer comes in the order in which it comes.
///
/// # Errors
/// For a selector that cannot be read, or means too many; nothing was sent then.
pub(super) fn scatter(
    registry: &Registry,
    router: &Router,
    homes: &Homes,
    ids: &Arc<Ids>,
    agent: &Agent,
    scatter: Scatter,
) -> Result<Gathering, Problem> {
    let Scatter { selector, request, from, timeout, trace, points_max } = scatter;
    let selector: Selector = selector.parse()?;
    let found = registry.select(&selector, points_max, None)?;
    if found.next.is_some() {
        let detail = format!("`{selector}` means more than {points_max} resources, so none was asked");
        return Err(Problem::new(Code::TooLarge, detail).help("ask fewer at a time: narrow the selector"));
    }
    let asked = found.resources.len() as u64;
    let answers: FuturesUnordered<_> = found
        .resources
        .into_iter()
        .map(|resource| {
            let mut header =
                Header::new(ids.next(), from.clone(), resource.point.clone(), agent.clone(), timeout);
            header.trace = trace;
            let node = node_of(homes, &resource);
            let asked = router.request(Message { header, payload: Payload::Request(request.clone()) });
            async move { Gathered { point: resource.point.clone(), node, outcome: asked.await } }
        })
        .collect();
    Ok(Gathering { asked, answers: answers.boxed() })
}

fn node_of(homes: &Homes, resource: &Arc<Resource>) -> Option<NodeName> {
    if !has_code(resource) {
        return None;
    }
    match homes.of(resource) {
        Home::Here => Some(homes.me().clone()),
        Home::There(node) => Some(node),
        Home::Nowhere => None,
    }
}
