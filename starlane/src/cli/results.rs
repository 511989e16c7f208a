//! How the results of the API look in every form.

use gateway::shapes::{Data, Description, Output, Published, Written};
use serde_json::{Value, json};
use starlane_core::{Column, Phase, Properties, Resource, Revision};
use std::sync::Arc;

use crate::output::{Render, Table, human, safe};

/// `point<Kind>`.
pub(super) fn resource_line(resource: &Resource) -> String {
    safe(&resource.to_string())
}

/// `Ready`, or another phase and why.
pub(super) fn status(resource: &Resource) -> String {
    if resource.status.reason.is_empty() {
        resource.status.phase.to_string()
    } else {
        format!("{}: {}", resource.status.phase, resource.status.reason)
    }
}

/// What changed, in the words of the language: `status Ready→Panic: out of memory, +title=Shoes, !motd`.
pub(super) fn difference(before: &Resource, after: &Resource) -> String {
    let mut parts = Vec::new();
    if before.status != after.status {
        parts.push(format!("status {}→{}", before.status.phase, status(after)));
    }
    for (key, property) in &after.properties {
        if before.properties.get(key) != Some(property) {
            let lock = if property.locked { "@" } else { "" };
            parts.push(format!("+{lock}{key}={}", property.value));
        }
    }
    for key in before.properties.keys().filter(|key| !after.properties.contains_key(*key)) {
        parts.push(format!("!{key}"));
    }
    if parts.is_empty() {
        return format!("version {}", after.version);
    }
    parts.join(", ")
}

/// `key=value` lines; locked ones are marked as in a statement: `@key=value`.
fn property_lines(properties: &Properties) -> impl Iterator<Item = String> {
    properties.iter().map(|(key, property)| {
        let lock = if property.locked { "@" } else { "" };
        safe(&format!("{lock}{key}={}", property.value))
    })
}

fn resources_table<'a>(
    resources: impl IntoIterator<Item = &'a Resource>,
    columns: &[Column],
    wide: bool,
) -> Table {
    let mut header = vec!["POINT", "KIND", "STATUS"];
    header.extend(columns.iter().map(|column| column.title.as_str()));
    if wide {
        header.extend(["CREATED", "MODIFIED", "VERSION", "PROPERTIES"]);
    }
    let mut table = Table::new(&header);
    for resource in resources {
        let mut row = vec![resource.point.to_string(), resource.kind.to_string(), status(resource)];
        row.extend(columns.iter().map(|column| {
            resource.property(column.key.as_str()).map_or_else(String::new, ToString::to_string)
        }));
        if wide {
            row.extend([
                resource.created.to_string(),
                resource.modified.to_string(),
                resource.version.to_string(),
            ]);
            row.push(property_lines(&resource.properties).collect::<Vec<_>>().join(" "));
        }
        table.row(row);
    }
    table
}

/// A whole answer of a selector.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) revision: Revision,
    /// Whether it was cut short.
    pub(super) more: bool,
    /// What is shown of each besides what every resource has.
    pub(super) columns: Vec<Column>,
}

impl Render for Listing {
    fn json(&self) -> Value {
        let mut json = json!({ "resources": self.resources, "revision": self.revision });
        if self.more {
            json["more"] = true.into();
        }
        json
    }

    fn json_lines(&self) -> Vec<Value> {
        self.resources.iter().map(|resource| json!(resource)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.resources.iter().map(|resource| resource_line(resource)).collect()
    }

    fn table(&self, wide: bool) -> Table {
        resources_table(self.resources.iter().map(|resource| &**resource), &self.columns, wide)
    }
}

/// What one statement gave.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The node's answer.
    Node(Output),
    /// A bundle that this command published.
    Published(Published),
    /// A file that this command wrote.
    Written(Written),
    /// A local file that this command wrote.
    Saved { point: String, file: String, bytes: u64 },
}

impl Outcome {
    /// The bytes that are shown as they are when no form was asked for.
    pub(super) fn raw(&self) -> Option<Vec<u8>> {
        match self {
            Outcome::Node(Output::Content { data, .. } | Output::Reply { data, .. }) => {
                Some(data.to_bytes().unwrap_or_default())
            }
            _ => None,
        }
    }

    /// The status of a mechtron's answer that is an error.
    pub(super) fn failed_status(&self) -> Option<u16> {
        match self {
            Outcome::Node(Output::Reply { status, .. }) if *status >= 400 => Some(*status),
            _ => None,
        }
    }
}

impl Render for Outcome {
    fn json(&self) -> Value {
        match self {
            Outcome::Node(output) => json!(output),
            Outcome::Published(published) => tagged("published", json!(published)),
            Outcome::Written(written) => tagged("written", json!(written)),
            Outcome::Saved { point, file, bytes } => {
                json!({ "type": "saved", "point": point, "file": file, "bytes": bytes })
            }
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Outcome::Node(output) => output_names(output),
            Outcome::Published(published) => vec![resource_line(&published.bundle)],
            Outcome::Written(written) => vec![safe(written.point.as_str())],
            Outcome::Saved { file, .. } => vec![safe(file)],
        }
    }

    fn table(&self, wide: bool) -> Table {
        match self {
            Outcome::Node(output) => output_table(output, wide),
            Outcome::Published(published) => {
                let mut table = Table::new(&["BUNDLE", "ARTIFACTS", "SIZE"]);
                table.row([
                    published.bundle.point.to_string(),
                    published.artifacts.to_string(),
                    human::bytes(published.bytes),
                ]);
                table
            }
            Outcome::Written(written) => {
                let mut table = Table::new(&["FILE", "TYPE", "SIZE"]);
                table.row([
                    written.point.to_string(),
                    written.content_type.clone(),
                    human::bytes(written.bytes),
                ]);
                table
            }
            Outcome::Saved { point, file, bytes } => {
                let mut table = Table::new(&["POINT", "FILE", "SIZE"]);
                table.row([point.clone(), file.clone(), human::bytes(*bytes)]);
                table
            }
        }
    }

    fn text(&self) -> Vec<String> {
        match self {
            Outcome::Node(output) => output_text(output),
            Outcome::Published(published) => vec![format!(
                "published {} ({} artifacts, {})",
                resource_line(&published.bundle),
                published.artifacts,
                human::bytes(published.bytes)
            )],
            Outcome::Written(written) => {
                vec![format!("wrote {} ({})", safe(written.point.as_str()), human::bytes(written.bytes))]
            }
            Outcome::Saved { file, bytes, .. } => {
                vec![format!("wrote {} ({})", safe(file), human::bytes(*bytes))]
            }
        }
    }
}

fn tagged(kind: &str, mut json: Value) -> Value {
    json["type"] = kind.into();
    json
}

fn output_names(output: &Output) -> Vec<String> {
    match output {
        Output::Created { resource, .. } | Output::Resource { resource } => vec![resource_line(resource)],
        Output::Properties { properties, .. } => {
            properties.keys().map(|key| key.as_str().to_owned()).collect()
        }
        Output::List { resources, .. } => resources.iter().map(|resource| resource_line(resource)).collect(),
        Output::Deleted { deleted } => {
            deleted.iter().map(|gone| safe(&format!("{}<{}>", gone.point, gone.kind))).collect()
        }
        Output::Content { point, .. } => vec![safe(point.as_str())],
        Output::Reply { status, .. } => vec![status.to_string()],
        Output::Sent { id } => vec![safe(id)],
    }
}

fn output_table(output: &Output, wide: bool) -> Table {
    match output {
        Output::Created { resource, .. } | Output::Resource { resource } => {
            resources_table([resource], &[], wide)
        }
        Output::Properties { properties, .. } => {
            let mut table = Table::new(&["KEY", "VALUE", "LOCKED"]);
            for (key, property) in properties {
                let locked = if property.locked { "yes" } else { "" };
                table.row([key.to_string(), property.value.to_string(), locked.to_owned()]);
            }
            table
        }
        Output::List { resources, .. } => {
            resources_table(resources.iter().map(|resource| &**resource), &[], wide)
        }
        Output::Deleted { deleted } => {
            let mut table = Table::new(&["DELETED", "KIND"]);
            for gone in deleted {
                table.row([gone.point.to_string(), gone.kind.to_string()]);
            }
            table
        }
        Output::Content { point, content_type, bytes, .. } => {
            let mut table = Table::new(&["POINT", "TYPE", "SIZE"]);
            table.row([point.to_string(), content_type.clone(), human::bytes(*bytes)]);
            table
        }
        Output::Reply { status, data, .. } => {
            let mut table = Table::new(&["STATUS", "BODY"]);
            let body = match data {
                Data::Text(text) => text.clone(),
                Data::Base64(text) => text.clone(),
            };
            table.row([status.to_string(), body]);
            table
        }
        Output::Sent { id } => {
            let mut table = Table::new(&["SENT"]);
            table.row([id.clone()]);
            table
        }
    }
}

fn output_text(output: &Output) -> Vec<String> {
    match output {
        Output::Created { resource, outcome } => {
            let outcome = match outcome {
                gateway::shapes::CreateOutcome::Created => "created",
                gateway::shapes::CreateOutcome::Existed => "existed",
                gateway::shapes::CreateOutcome::Replaced => "replaced",
            };
            vec![format!("{outcome} {}", resource_line(resource))]
        }
        Output::Resource { resource } => resource_text(resource),
        Output::Properties { properties, .. } => property_lines(properties).collect(),
        Output::Deleted { .. } => {
            output_names(output).into_iter().map(|name| format!("deleted {name}")).collect()
        }
        Output::Sent { id } => vec![format!("sent {}", safe(id))],
        other => output_names(other),
    }
}

/// `point<Kind>`, its status when there is something to say, and its properties.
fn resource_text(resource: &Resource) -> Vec<String> {
    let mut lines = vec![resource_line(resource)];
    if resource.status.phase != Phase::Ready {
        lines.push(safe(&format!("  status: {}", status(resource))));
    }
    lines.extend(property_lines(&resource.properties).map(|line| format!("  {line}")));
    lines
}

/// The results of several statements, as one document.
#[derive(Debug, Default)]
pub(super) struct Outcomes(pub(super) Vec<Outcome>);

impl Render for Outcomes {
    fn json(&self) -> Value {
        json!({ "results": self.json_lines() })
    }

    fn json_lines(&self) -> Vec<Value> {
        self.0.iter().map(Render::json).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().flat_map(Render::names).collect()
    }

    fn table(&self, _wide: bool) -> Table {
        let mut table = Table::new(&["RESULT"]);
        for line in self.0.iter().flat_map(Render::text) {
            table.row([line]);
        }
        table
    }
}

/// All that is known of a resource.
#[derive(Debug)]
pub(super) struct Described(pub(super) Description);

impl Render for Described {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn names(&self) -> Vec<String> {
        vec![resource_line(&self.0.resource)]
    }

    fn table(&self, wide: bool) -> Table {
        resources_table(
            std::iter::once(&self.0.resource).chain(self.0.children.iter().map(|child| &**child)),
            &[],
            wide,
        )
    }

    fn text(&self) -> Vec<String> {
        let Description { resource, children, more, contract, activation } = &self.0;
        let mut lines = vec![resource_line(resource)];
        let mut field = |name: &str, value: String| lines.push(format!("  {name:<10} {}", safe(&value)));
        field("status", status(resource));
        field("created", format!("revision {}", resource.created));
        field("modified", format!("revision {}, version {}", resource.modified, resource.version));
        if let Some(Value::Object(activation)) = activation {
            for (name, value) in activation.iter().filter(|(name, _)| *name != "watches") {
                field(name, plain(value));
            }
        }
        if !resource.properties.is_empty() {
            lines.push("properties".to_owned());
            lines.extend(property_lines(&resource.properties).map(|line| format!("  {line}")));
        }
        if let Some(contract) = contract {
            super::contract::lines(contract, &mut lines);
        }
        if let Some(watches) = activation.as_ref().and_then(|activation| activation.get("watches")) {
            super::watched::lines(watches, &mut lines);
        }
        if !children.is_empty() {
            lines.push("children".to_owned());
            lines.extend(children.iter().map(|child| {
                let note = if child.status.phase == Phase::Ready { String::new() } else { status(child) };
                format!("  {}  {}", resource_line(child), safe(&note)).trim_end().to_owned()
            }));
        }
        if *more {
            lines.push(format!("  … more: starlane select '{}:*'", resource.point));
        }
        lines
    }
}

/// A JSON value in a line: text without its quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
