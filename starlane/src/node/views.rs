//! The mesh as users see it: nodes, the graph of links, the way to a point, and why it lives where it does.

use gateway::shapes::{
    self, Candidate, Difference, Graph, GraphLink, GraphNode, HistoryEntry, Hop, NodeInfo, Route, WhyState,
};
use resource_registry::{LogChange, LogEntry};
use starlane_core::placement::{self, Life, Lives, Verdict, epoch_of};
use starlane_core::routing::Routes;
use starlane_core::{Base, Interest, NodeId, NodeName, Phase, Point, Resource, Role};

use super::links::serves;
use super::members::Record;
use super::router::has_code;
use super::services::NodeLife;

/// What a commit did to the one resource that its entry tells of.
pub(super) fn history_entry(mut entry: LogEntry) -> Option<HistoryEntry> {
    let difference = difference(entry.changes.pop()?);
    Some(HistoryEntry { revision: entry.revision, time: entry.time, agent: entry.agent.0, difference })
}

/// What is different of a resource.
pub(super) fn difference(change: LogChange) -> Difference {
    Difference::new(change.point, change.before, change.after)
}

/// A node, by what the registry, the links and the leader know of it; each of them may know nothing.
pub(super) fn node(
    resource: &Resource,
    routes: &Routes,
    life: Option<&NodeLife>,
    home: &NodeName,
) -> Option<NodeInfo> {
    let name = NodeName::of_point(&resource.point)?;
    let record = Record::of(resource);
    let member = routes.member(name.id());
    let hops = member.and_then(|member| member.route).map(|route| route.hops);
    let role = record.role.or(member.map(|member| member.advert.role)).unwrap_or(Role::Leaf);
    let alive = life.map_or(hops.is_some(), |life| life.alive);
    Some(NodeInfo {
        point: resource.point.clone(),
        ready: alive && !record.revoked && resource.status.phase == Phase::Ready,
        status: resource.status.clone(),
        role,
        generation: member.map_or(record.generation, |member| member.advert.edition.generation),
        version: record.version,
        mechtrons: life.map_or(0, |life| life.assigned),
        live: life.map_or(0, |life| life.load.live),
        hops,
        draining: record.draining,
        registry: serves(&name, role, home),
        addresses: record.address.into_iter().collect(),
        seen_ms: life.and_then(|life| life.seen_ms),
        labels: record.labels,
        name,
    })
}

/// The links that both ends tell of.
pub(super) fn graph(from: &NodeName, routes: &Routes, lives: &[NodeLife]) -> Graph {
    let seen = |name: &NodeName| lives.iter().find(|life| life.name == *name).and_then(|life| life.seen_ms);
    let nodes = routes.members().iter().map(|member| GraphNode {
        name: member.advert.name.clone(),
        role: member.advert.role,
        hops: member.route.map(|route| route.hops),
        seen_ms: seen(&member.advert.name),
    });
    let mut nodes: Vec<_> = nodes.collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let mut links = Vec::new();
    for member in routes.members() {
        for link in &member.advert.links {
            let Some(other) = routes.member(link.to) else { continue };
            let (a, b) = (&member.advert.name, &other.advert.name);
            let Some(back) = other.advert.cost_to(member.id) else { continue };
            if a < b && member.is_reachable() && other.is_reachable() {
                let rtt = link.cost.max(back).micros().into();
                links.push(GraphLink { a: a.clone(), b: b.clone(), rtt_us: Some(rtt) });
            }
        }
    }
    links.sort_by(|one, other| (&one.a, &one.b).cmp(&(&other.a, &other.b)));
    Graph { from: from.clone(), nodes, links }
}

/// The way to a point, as those on it told; each hop comes with the round trip of its own link.
pub(super) fn route(
    point: &Point,
    from: &NodeName,
    hops: &[mesh::Hop],
    name_of: impl Fn(NodeId) -> Option<NodeName>,
) -> Route {
    let mut way = vec![Hop { node: from.clone(), rtt_us: Some(0) }];
    let mut total = 0;
    for hop in hops.iter().filter(|hop| hop.node != from.id()) {
        let Some(node) = name_of(hop.node) else { continue };
        total += u64::try_from(hop.rtt.as_micros()).unwrap_or(u64::MAX);
        way.push(Hop { node, rtt_us: Some(total) });
    }
    Route { point: point.clone(), hops: way, reached: true, reason: None }
}

/// A way that is not known to its end.
pub(super) fn route_broken(
    point: &Point,
    from: &NodeName,
    known: &[NodeName],
    reason: impl Into<String>,
) -> Route {
    let mut hops = vec![Hop { node: from.clone(), rtt_us: Some(0) }];
    let more = known.iter().filter(|node| *node != from);
    hops.extend(more.map(|node| Hop { node: node.clone(), rtt_us: None }));
    Route { point: point.clone(), hops, reached: false, reason: Some(reason.into()) }
}

/// The first node that a mechtron lives on.
pub(super) fn lives_on(resource: &Resource, registry: &NodeName) -> Option<NodeName> {
    match Lives::of(resource) {
        Lives::AtHome => Some(registry.clone()),
        Lives::On(nodes) => nodes.first().cloned(),
        Lives::Nowhere => None,
    }
}

/// Nothing is at the point.
pub(super) fn why_missing(point: &Point) -> shapes::Why {
    let help = "create it, or look for what is there: `starlane select '**'`";
    base(point, WhyState::Missing, "nothing is at this point", Some(help))
}

/// Why a resource lives where it does, by what the leader knows of it.
pub(super) fn why(resource: &Resource, known: Option<placement::Why>) -> shapes::Why {
    let point = &resource.point;
    if !has_code(resource) {
        return why_without_code(resource);
    }
    let Some(known) = known else {
        let state = match resource.status.phase {
            Phase::Panic | Phase::Fatal => WhyState::Failed,
            _ => WhyState::Waiting,
        };
        return base(point, state, said(resource, "it is being set up"), None);
    };
    let node = match &known.lives {
        Lives::AtHome => {
            known.candidates.iter().find(|candidate| is_chosen(candidate)).map(|one| one.node.clone())
        }
        Lives::On(nodes) => nodes.first().cloned(),
        Lives::Nowhere => None,
    };
    let failed = matches!(resource.status.phase, Phase::Panic | Phase::Fatal);
    let state = match (&node, failed) {
        (_, true) => WhyState::Failed,
        (None, _) => WhyState::Waiting,
        (Some(_), _) => WhyState::Placed,
    };
    let reason = match (&node, &known.moving) {
        _ if failed => said(resource, "it failed").to_owned(),
        (_, Some((to, trouble))) => {
            let to: Vec<_> = to.iter().map(NodeName::as_str).collect();
            let trouble = trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
            format!("it moves to {}{trouble}", to.join(", "))
        }
        _ if !known.waiting.is_empty() => known.waiting.clone(),
        (Some(node), _) => match &known.place {
            Some(place) => format!("`{node}` matches {place}"),
            None if matches!(known.lives, Lives::AtHome) => {
                format!("it says nothing of where it may live, so it lives on the registry's node, `{node}`")
            }
            None => format!("it was placed on `{node}`, and says nothing of where it may live"),
        },
        (None, _) => "no node may have it".to_owned(),
    };
    let help = match state {
        WhyState::Waiting => Some(format!(
            "label a node so that it matches, `starlane node label NODE KEY=VALUE`, or set another `place` of {point}"
        )),
        WhyState::Failed => Some(format!("see what it logged: `starlane logs {point}`")),
        _ => None,
    };
    shapes::Why {
        point: point.clone(),
        state,
        node,
        epoch: Some(epoch_of(resource)),
        reason,
        place: known.place.clone(),
        candidates: known.candidates.iter().map(candidate).collect(),
        help,
    }
}

/// Why a resource without code answers where it does, or does not answer.
fn why_without_code(resource: &Resource) -> shapes::Why {
    let point = &resource.point;
    if let Some(bind) = resource.point_property("bind") {
        let reason = format!("its bind `{bind}` leads each request on from the node that it comes to");
        return base(point, WhyState::Everywhere, &reason, None);
    }
    let served = Interest::Serves.nodes(resource);
    if let Some(first) = served.first() {
        let nodes: Vec<_> = served.iter().map(|node| format!("`{node}`")).collect();
        let reason = format!("services that are connected to {} answer for it", nodes.join(", "));
        return shapes::Why { node: Some(first.clone()), ..base(point, WhyState::Running, &reason, None) };
    }
    let content = match resource.kind.base {
        Base::File | Base::Artifact => "it is content",
        Base::FileSystem => "what is below it is content",
        Base::Portal => {
            let help = "start a service that serves it; `starlane watch` shows when it is `Ready`";
            return base(point, WhyState::NoCode, "nobody serves it at the moment", Some(help));
        }
        _ => {
            let reason = "it has neither code nor a bind nor content that could answer";
            let help = format!(
                "set its property `config`, `wasm.src` or `bind`, or ask what is below it: `starlane select '{point}:**'`"
            );
            return base(point, WhyState::NoCode, reason, Some(&help));
        }
    };
    let reason = format!("{content}, which each node reads from its own cache or from the registry's node");
    base(point, WhyState::Everywhere, &reason, None)
}

/// The reason that a resource gives, or what is to be said when it gives none.
fn said<'a>(resource: &'a Resource, otherwise: &'a str) -> &'a str {
    if resource.status.reason.is_empty() { otherwise } else { &resource.status.reason }
}

fn base(point: &Point, state: WhyState, reason: &str, help: Option<&str>) -> shapes::Why {
    shapes::Why {
        point: point.clone(),
        state,
        node: None,
        epoch: None,
        reason: reason.to_owned(),
        place: None,
        candidates: Vec::new(),
        help: help.map(str::to_owned),
    }
}

fn is_chosen(candidate: &placement::Candidate) -> bool {
    matches!(candidate.verdict, Verdict::Chosen | Verdict::Stays(_))
}

fn candidate(candidate: &placement::Candidate) -> Candidate {
    let listed = |reasons: &[placement::Reason]| {
        let all: Vec<_> = reasons.iter().map(ToString::to_string).collect();
        all.join("; ")
    };
    let reason = match &candidate.verdict {
        Verdict::Chosen => match candidate.life {
            Life::Alive => format!("it lives here, with {} in all", candidate.assigned),
            _ => "it lives here".to_owned(),
        },
        Verdict::Stays(reasons) => format!("it stays here since no node is better: {}", listed(reasons)),
        Verdict::Fits => format!("it could live here too; {} do", candidate.assigned),
        Verdict::Refused(reasons) => listed(reasons),
    };
    Candidate { node: candidate.node.clone(), chosen: is_chosen(candidate), reason }
}

#[cfg(test)]
mod tests {
    use starlane_core::{Properties, Property, PropertyChange, Revision, Status, Value};

    use super::*;

    fn resource(text: &str, kind: &str, properties: &[(&str, &str)]) -> Resource {
        let property = |value: &str| Property { value: Value::text(value), locked: false };
        Resource {
            point: text.parse().unwrap(),
            kind: kind.parse().unwrap(),
            properties: properties
                .iter()
                .map(|(key, value)| (key.parse().unwrap(), property(value)))
                .collect::<Properties>(),
            status: Status::ready(),
            created: Revision(3),
            modified: Revision(3),
            version: 1,
        }
    }

    #[test]
    fn what_services_answer_for_says_where_they_are() {
        let mut portal = resource("shop:pay", "Portal", &[]);
        let nobody = why(&portal, None);
        assert_eq!((nobody.state, nobody.node), (WhyState::NoCode, None));
        assert_eq!(nobody.reason, "nobody serves it at the moment");
        for node in ["edge", "cloud"] {
            let change = Interest::Serves.change(&portal, &node.parse().unwrap(), true);
            let Some(PropertyChange::Set { key, value, .. }) = change else { panic!() };
            portal.properties.insert(key, Property { value, locked: false });
        }
        let served = why(&portal, None);
        assert_eq!((served.state, served.node), (WhyState::Running, Some("cloud".parse().unwrap())));
        assert!(served.reason.contains("`cloud`, `edge`"), "{}", served.reason);
    }

    #[test]
    fn what_has_no_code_says_who_answers_all_the_same() {
        let bind = [("bind", "shop:repo:site:1.0.0:/bind/site.bind")];
        for (resource, state, said) in [
            (
                resource("shop", "Space", &bind),
                WhyState::Everywhere,
                "its bind `shop:repo:site:1.0.0:/bind/site.bind`",
            ),
            (resource("shop:files:/a.txt", "File", &[]), WhyState::Everywhere, "it is content"),
            (
                resource("shop:repo:site:1.0.0:/a.html", "Artifact", &[]),
                WhyState::Everywhere,
                "it is content",
            ),
            (resource("shop:files", "FileSystem", &[]), WhyState::Everywhere, "what is below it"),
            (resource("shop", "Space", &[]), WhyState::NoCode, "neither code nor a bind"),
        ] {
            let why = why(&resource, None);
            assert_eq!((why.state, why.node), (state, None), "{resource:?}");
            assert!(why.reason.starts_with(said) || why.reason.contains(said), "{}", why.reason);
        }
    }
}
