//! The node's own metrics, beside those of its doors.

use std::fmt::Write;

use resource_registry::Registry;

use super::reach::Reach;

/// Appends the metrics in the OpenMetrics text format.
pub(super) fn write(text: &mut String, registry: &Registry, reach: &Reach) {
    let stats = reach.host.stats();
    let links = &reach.links.handle;
    let (waiting, running) = links.under_way();
    let rows: [(&str, &str, &str, u64); 11] = [
        ("starlane_registry_revision", "gauge", "The number of the last commit.", registry.revision().0),
        ("starlane_resources", "gauge", "Resources in the registry.", registry.resources() as u64),
        ("starlane_watches", "gauge", "Watches that are open.", registry.watches() as u64),
        ("starlane_mechtrons_known", "gauge", "Mechtrons that were reached since the start.", stats.known),
        ("starlane_mechtrons_live", "gauge", "Mechtrons in memory.", stats.live),
        ("starlane_messages_handled", "counter", "Messages that mechtrons completed.", stats.handled),
        (
            "starlane_messages_refused",
            "counter",
            "Messages that were refused since something was full.",
            stats.refused,
        ),
        (
            "starlane_dead_letters",
            "counter",
            "Signals that were taken and could not be delivered.",
            reach.dead.total(),
        ),
        ("starlane_links", "gauge", "Links to other nodes.", links.links().len() as u64),
        ("starlane_links_waiting", "gauge", "Requests to other nodes without an answer.", waiting as u64),
        ("starlane_links_running", "gauge", "Requests of other nodes that run here.", running as u64),
    ];
    let counted: Vec<_> =
        links.counted().iter().map(|(name, value)| (format!("starlane_links_{name}"), value)).collect();
    let counted =
        counted.iter().map(|(name, value)| (name.as_str(), "counter", "Counted by the links.", *value));
    for (name, kind, help, value) in rows.into_iter().chain(counted) {
        let suffix = if kind == "counter" { "_total" } else { "" };
        // Writing to a String cannot fail.
        _ = writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {help}\n{name}{suffix} {value}");
    }
}
