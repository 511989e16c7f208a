//! The contract of a mechtron: the messages that it understands, with the types of what goes in and comes out.

use serde_json::Value;

use crate::output::safe;

/// How deep a type is spelt out.
const DEPTH_MAX: usize = 4;

/// Appends the contract in words. Parts that are not as expected are left out, never an error: a newer SDK may say more.
pub(super) fn lines(contract: &Value, lines: &mut Vec<String>) {
    let schemas = contract.get("$defs").or_else(|| contract.get("definitions"));
    let mechtrons = match contract.get("mechtrons").and_then(Value::as_array) {
        Some(several) => several.iter().collect(),
        None => vec![contract],
    };
    for mechtron in mechtrons {
        let name = mechtron.get("name").and_then(Value::as_str).unwrap_or_default();
        lines.push(safe(format!("contract {name}").trim_end()));
        doc(mechtron, "  ", lines);
        let methods = ["methods", "handlers"].iter().find_map(|key| mechtron.get(*key)?.as_array());
        for method in methods.into_iter().flatten() {
            lines.push(format!("  {}", safe(&signature(method, schemas))));
            doc(method, "    ", lines);
        }
    }
}

fn doc(of: &Value, indent: &str, lines: &mut Vec<String>) {
    let text = ["doc", "description"].iter().find_map(|key| of.get(*key)?.as_str()).unwrap_or_default();
    lines.extend(text.trim().lines().map(|line| format!("{indent}{}", safe(line.trim_end()))));
}

/// `Ext<AddItem> {item: string, count?: integer} -> {total: integer}`.
fn signature(method: &Value, schemas: Option<&Value>) -> String {
    let text = |key: &str| method.get(key).and_then(Value::as_str);
    let mut signature = text("method").or_else(|| text("name")).unwrap_or("?").to_owned();
    if let Some(path) = text("path") {
        signature.push_str(path);
    }
    let part =
        |keys: [&str; 3]| keys.iter().find_map(|key| method.get(*key)).filter(|schema| !schema.is_null());
    if let Some(input) = part(["input", "request", "params"]) {
        signature.push(' ');
        signature.push_str(&type_of(input, schemas, 0));
    }
    if let Some(output) = part(["output", "reply", "returns"]) {
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
    let local = schema.get("$defs").or_else(|| schema.get("definitions")).or(schemas);
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

    fn shown(contract: &Value) -> Vec<String> {
        let mut shown = Vec::new();
        lines(contract, &mut shown);
        shown
    }

    #[test]
    fn methods_show_their_types() {
        let contract = json!({
            "name": "cart",
            "doc": "Keeps items.",
            "methods": [{
                "method": "Ext<AddItem>",
                "doc": "Adds an item.",
                "input": {
                    "type": "object",
                    "properties": {
                        "item": {"$ref": "#/$defs/Item"},
                        "tags": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["item"],
                    "$defs": {"Item": {"enum": ["shoe", "hat"]}},
                },
                "output": {"type": ["integer", "null"]},
            }],
        });
        assert_eq!(
            shown(&contract),
            [
                "contract cart",
                "  Keeps items.",
                "  Ext<AddItem> {item: \"shoe\" | \"hat\", tags?: [string]} -> integer | null",
                "    Adds an item.",
            ]
        );
    }

    #[test]
    fn a_type_that_holds_itself_ends() {
        let contract = json!({
            "methods": [{"method": "Ext<Walk>", "input": {"$ref": "#/$defs/Tree"}}],
            "$defs": {"Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}}},
        });
        assert!(shown(&contract)[1].contains('…'));
    }

    #[test]
    fn what_is_no_contract_is_survived() {
        for odd in [json!(null), json!([1]), json!({"methods": 3}), json!({"methods": [null, {"input": 7}]})]
        {
            shown(&odd);
        }
    }
}
