//! The node's own metrics, beside those of its doors.

use std::fmt::Write;

use mechtron_host::Host;
use resource_registry::Registry;

/// Appends the metrics in the OpenMetrics text format.
pub(super) fn write(text: &mut String, registry: &Registry, host: &Host) {
    let stats = host.stats();
    let rows: [(&str, &str, &str, u64); 7] = [
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
    ];
    for (name, kind, help, value) in rows {
        let suffix = if kind == "counter" { "_total" } else { "" };
        // Writing to a String cannot fail.
        _ = writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {help}\n{name}{suffix} {value}");
    }
}
