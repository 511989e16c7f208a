//! The contract of a mechtron: the messages that it understands, with the types of what goes in and comes out.

use serde_json::Value;

use crate::output::safe;

/// How deep a type is spelt out.
const DEPTH_MAX: usize = 4;

/// Appends the contract in words. Parts that are not as expected are left out, never an error: a newer SDK may say more.
pub(super) fn lines(contract: &Value, lines: &mut Vec<String>) {
    let schemas = contract.get("$defs");
    for mechtron in contract.get("mechtrons").and_then(Value::as_array).into_iter().flatten() {
        let name = mechtron.get("mechtron").and_then(Value::as_str).unwrap_or_default();
        lines.push(safe(format!("contract {name}").trim_end()));
        doc(mechtron, "  ", lines);
        for handler in mechtron.get("handlers").and_then(Value::as_array).into_iter().flatten() {
            lines.push(format!("  {}", safe(&signature(handler, schemas))));
            doc(handler, "    ", lines);
        }
    }
}

fn doc(of: &Value, indent: &str, lines: &mut Vec<String>) {
    let text = of.get("doc").and_then(Value::as_str).unwrap_or_default();
    lines.extend(text.trim().lines().map(|line| format!("{indent}{}", safe(line.trim_end()))));
}

/// `Ext<AddItem> {item: string, count?: integer} -> {total: integer}`; handlers that take no message say what they are.
fn signature(handler: &Value, schemas: Option<&Value>) -> String {
    let text = |key: &str| handler.get(key).and_then(Value::as_str);
    let Some(method) = text("method") else {
        let parts = [text("role").unwrap_or("?"), text("name").unwrap_or_default()];
        let parts = parts.into_iter().chain(text("selector"));
        return parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    };
    let mut signature = format!("{method}{}", text("path").unwrap_or_default());
    let part = |key: &str| handler.get(key).filter(|schema| !schema.is_null());
    if let Some(input) = part("input") {
        signature.push(' ');
        signature.push_str(&type_of(input, schemas, 0));
    }
    if let Some(output) = part("output") {
        signature.push_str(" -> ");
        signature.push_str(&type_of(output, schemas, 0));
    }
    signature
}

/// A JSON Schema (2020-12) as a type in one line.
fn type_of(schema: &Value, schemas: Option<&Value>, depth: usize) -> String {
    if depth > DEPTH_MAX {
        return "…".to_owned();
    }
    let local = schema.get("$defs").or(schemas);
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        return match local.and_then(|schemas| schemas.get(name)) {
            Some(target) => type_of(target, local, depth + 1),
            None => name.to_owned(),
        };
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(several) = schema.get(key).and_then(Value::as_array) {
            let types: Vec<String> = several.iter().map(|one| type_of(one, local, depth + 1)).collect();
            return types.join(" | ");
        }
    }
    // The SDK wraps a field's type in this to give it a description.
    if let Some([only]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        return type_of(only, local, depth);
    }
    match schema.get("type") {
        Some(Value::String(name)) => named_type(name, schema, local, depth),
        Some(Value::Array(names)) => {
            let types =
                names.iter().filter_map(Value::as_str).map(|name| named_type(name, schema, local, depth));
            types.collect::<Vec<_>>().join(" | ")
        }
        _ => "any".to_owned(),
    }
}

fn named_type(name: &str, schema: &Value, schemas: Option<&Value>, depth: usize) -> String {
    match name {
        "object" => {
            let required = |key: &str| {
                let list = schema.get("required").and_then(Value::as_array);
                list.is_some_and(|list| list.iter().any(|name| name.as_str() == Some(key)))
            };
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
                return "object".to_owned();
            };
            let fields = properties.iter().map(|(key, schema)| {
                let mark = if required(key) { "" } else { "?" };
                format!("{key}{mark}: {}", type_of(schema, schemas, depth + 1))
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        "array" => match schema.get("items") {
            Some(items) => format!("[{}]", type_of(items, schemas, depth + 1)),
            None => "array".to_owned(),
        },
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_type_with_a_description_of_its_own_is_its_type() {
        let integer = json!({ "type": "integer", "minimum": 0 });
        let field = json!({ "allOf": [integer], "description": "How much." });
        let schema = json!({ "type": "object", "properties": { "by": field }, "required": ["by"] });
        assert_eq!(type_of(&schema, None, 0), "{by: integer}");
    }

    fn shown(contract: &Value) -> Vec<String> {
        let mut shown = Vec::new();
        lines(contract, &mut shown);
        shown
    }

    #[test]
    fn methods_show_their_types() {
        let contract = json!({
            "mechtrons": [{
                "mechtron": "Cart",
                "doc": "Keeps items.",
                "handlers": [
                    {
                        "role": "call", "name": "add", "method": "Ext<AddItem>", "doc": "Adds an item.",
                        "input": {"$ref": "#/$defs/AddItem"},
                        "output": {"type": ["integer", "null"]},
                    },
                    {"role": "http", "name": "page", "method": "Http<Get>", "path": "/total"},
                    {"role": "timer", "name": "idle"},
                    {"role": "watch", "name": "overdue", "selector": "shop:orders:*[total >= 100]"},
                ],
            }],
            "$defs": {
                "AddItem": {
                    "type": "object",
                    "properties": {
                        "item": {"$ref": "#/$defs/Item"},
                        "tags": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["item"],
                },
                "Item": {"enum": ["shoe", "hat"]},
            },
        });
        assert_eq!(
            shown(&contract),
            [
                "contract Cart",
                "  Keeps items.",
                "  Ext<AddItem> {item: \"shoe\" | \"hat\", tags?: [string]} -> integer | null",
                "    Adds an item.",
                "  Http<Get>/total",
                "  timer idle",
                "  watch overdue shop:orders:*[total >= 100]",
            ]
        );
    }

    #[test]
    fn a_type_that_holds_itself_ends() {
        let contract = json!({
            "mechtrons": [{"handlers": [{"method": "Ext<Walk>", "input": {"$ref": "#/$defs/Tree"}}]}],
            "$defs": {"Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}}},
        });
        assert!(shown(&contract)[1].contains('…'));
    }

    #[test]
    fn what_is_no_contract_is_survived() {
        for odd in [
            json!(null),
            json!([1]),
            json!({"mechtrons": 3}),
            json!({"mechtrons": [null, {"handlers": [7, {"input": 7}]}]}),
        ] {
            shown(&odd);
        }
    }
}
