//! What a module says about its mechtrons and their messages, and whether a message keeps to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jsonschema::Validator;
use serde_json::{Map, Value, json};
use starlane_core::{Problem, Refusal, Selector};

use crate::inspect::invalid;

/// How many things that are wrong with a message are told.
const ERRORS_MAX: usize = 8;
/// How many watches a mechtron may have.
const WATCHES_MAX: usize = 16;

/// The contract of a module: its mechtrons, the messages they take, and the schemas of these.
#[derive(Debug)]
pub struct Contract {
    json: Value,
    mechtrons: Vec<Mechtron>,
}

#[derive(Debug)]
struct Mechtron {
    name: String,
    reentrant: bool,
    inputs: HashMap<String, Validator>,
    watches: Vec<Watch>,
}

/// A watch of a mechtron.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The name of the handler that its changes are for.
    pub name: Arc<str>,
    /// What is watched, in its canonical form. A mechtron watches no selector twice.
    pub selector: Arc<str>,
}

impl Contract {
    /// Reads the records of the section `mechtron.contract`, one JSON object a line.
    ///
    /// # Errors
    /// `E-WASM-INVALID`, naming the line that is not a record or the schema that is none.
    pub(crate) fn read(section: &[u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(section)
            .map_err(|error| invalid(format!("its contract is not UTF-8: {error}")))?;
        let (mut records, mut defs) = (Vec::new(), Map::new());
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_matches(|c: char| c.is_whitespace() || c == '\0');
            if line.is_empty() {
                continue;
            }
            let wrong = |why: String| invalid(format!("line {} of its contract: {why}", number + 1));
            let mut record: Value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            if record.get("mechtron").is_some_and(Value::is_string) {
                records.push(record);
            } else if let (Some(name), Some(schema)) =
                (record.get("def").and_then(Value::as_str).map(str::to_owned), record.get_mut("schema"))
            {
                defs.insert(name, schema.take());
            } else {
                return Err(wrong("it is neither a mechtron nor a definition".into()));
            }
        }
        refuse_endless(&defs)?;
        let defs = Value::Object(defs);
        let mechtrons =
            records.iter().map(|record| Mechtron::read(record, &defs)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { json: json!({ "mechtrons": records, "$defs": defs }), mechtrons })
    }

    /// Reads the contract of a module, and looks at nothing else of it.
    ///
    /// # Errors
    /// `E-WASM-INVALID` when it is no module or its contract is none.
    pub fn of_module(wasm: &[u8]) -> Result<Self, Problem> {
        let mut section = Vec::new();
        for payload in wasmparser::Parser::new(0).parse_all(wasm) {
            let payload = payload.map_err(|error| invalid(format!("it is malformed: {error}")))?;
            if let wasmparser::Payload::CustomSection(custom) = payload
                && custom.name() == mechtron_abi::CONTRACT_SECTION
            {
                section.extend_from_slice(custom.data());
            }
        }
        Self::read(&section)
    }

    /// The contract as JSON: `{mechtrons: […], $defs: {…}}`.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The names of the mechtrons; empty for a module without a contract.
    pub fn mechtrons(&self) -> impl Iterator<Item = &str> {
        self.mechtrons.iter().map(|mechtron| mechtron.name.as_str())
    }

    /// What a mechtron watches.
    pub fn watches(&self, name: &str) -> &[Watch] {
        self.mechtron(name).map_or(&[], |mechtron| &mechtron.watches)
    }

    /// Whether a mechtron takes the next message while a handler waits.
    pub(crate) fn is_reentrant(&self, name: &str) -> bool {
        self.mechtron(name).is_some_and(|mechtron| mechtron.reentrant)
    }

    /// Whether there is anything to check for a mechtron.
    pub(crate) fn checks(&self, name: &str) -> bool {
        self.mechtron(name).is_some_and(|mechtron| !mechtron.inputs.is_empty())
    }

    /// Checks the body of a message; what the contract does not know, it does not refuse.
    pub(crate) fn check(&self, name: &str, method: &str, body: &[u8]) -> Result<(), Refusal> {
        let Some(validator) = self.mechtron(name).and_then(|mechtron| mechtron.inputs.get(method)) else {
            return Ok(());
        };
        let refuse = |detail: String| Err(Refusal::new(starlane_core::Code::MessageInvalid, detail));
        let json: Value = match body {
            [] => Value::Null,
            body => match serde_json::from_slice(body) {
                Ok(json) => json,
                Err(error) => return refuse(format!("the body of {method} is not JSON: {error}")),
            },
        };
        let mut wrong = validator.iter_errors(&json).take(ERRORS_MAX).peekable();
        if wrong.peek().is_none() {
            return Ok(());
        }
        let list: Vec<_> = wrong
            .map(|error| {
                let pointer = error.instance_path().to_string();
                format!("`{}`: {error}", if pointer.is_empty() { "/" } else { &pointer })
            })
            .collect();
        refuse(format!("the body of {method} does not keep to its schema: {}", list.join("; ")))
    }

    /// The mechtron with a name; the empty name is that of a module's only one.
    fn mechtron(&self, name: &str) -> Option<&Mechtron> {
        match (name, &self.mechtrons[..]) {
            ("", [only]) => Some(only),
            _ => self.mechtrons.iter().find(|mechtron| mechtron.name.eq_ignore_ascii_case(name)),
        }
    }
}

impl Mechtron {
    fn read(record: &Value, defs: &Value) -> Result<Self, Problem> {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let name = text(record, "mechtron").unwrap_or_default();
        let (mut inputs, mut watches) = (HashMap::new(), Vec::new());
        for handler in record.get("handlers").and_then(Value::as_array).into_iter().flatten() {
            let role = text(handler, "role").unwrap_or_default();
            if role == "watch" {
                watches.push(watch(&name, handler, &watches)?);
                continue;
            }
            let (Some(method), Some(Value::Object(input))) = (text(handler, "method"), handler.get("input"))
            else {
                continue;
            };
            if role != "call" && role != "cast" {
                continue;
            }
            let mut schema = input.clone();
            schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
            schema.insert("$defs".into(), defs.clone());
            // Patterns run in linear time; nothing outside the document is fetched.
            let validator = jsonschema::options()
                .with_pattern_options(jsonschema::PatternOptions::regex())
                .build(&Value::Object(schema))
                .map_err(|error| {
                    invalid(format!("the schema of {method} in its contract is not one: {error}"))
                })?;
            inputs.insert(method, validator);
        }
        let reentrant = record.get("reentrant").and_then(Value::as_bool).unwrap_or(false);
        Ok(Self { name, reentrant, inputs, watches })
    }
}

/// What a record of a handler says of its watch; `others` are those before it.
fn watch(mechtron: &str, handler: &Value, others: &[Watch]) -> Result<Watch, Problem> {
    let text = |key: &str| handler.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = text("name");
    let wrong = |why: String| Err(invalid(format!("the watch `{name}` of its mechtron `{mechtron}`: {why}")));
    let selector: Selector = match text("selector").parse() {
        Ok(selector) => selector,
        Err(error) => {
            let help = error.help.clone();
            let problem =
                wrong(format!("`{}` is no selector: {}", text("selector").escape_debug(), error.detail));
            return match help {
                Some(help) => problem.map_err(|problem| problem.help(help)),
                None => problem,
            };
        }
    };
    let selector: Arc<str> = selector.to_string().into();
    if let Some(other) = others.iter().find(|other| *other.name == *name || other.selector == selector) {
        return wrong(format!("`{}` has the same name or selector", other.name));
    }
    if others.len() >= WATCHES_MAX {
        return wrong(format!("there are more than {WATCHES_MAX}"));
    }
    Ok(Watch { name: name.into(), selector })
}

/// Refuses definitions that refer to themselves without a step into the value: checking would never end.
fn refuse_endless(defs: &Map<String, Value>) -> Result<(), Problem> {
    let mut done = BTreeMap::new();
    for name in defs.keys() {
        visit(name, defs, &mut done)?;
    }
    Ok(())
}

fn visit<'a>(
    name: &'a str,
    defs: &'a Map<String, Value>,
    done: &mut BTreeMap<&'a str, bool>,
) -> Result<(), Problem> {
    match done.get(name) {
        Some(true) => return Ok(()),
        Some(false) => return Err(invalid(format!("the schema `{name}` of its contract refers to itself"))),
        None => {}
    }
    if done.values().filter(|finished| !**finished).count() > 64 {
        return Err(invalid("the schemas of its contract refer to each other more than 64 deep"));
    }
    done.insert(name, false);
    let mut here = vec![];
    in_place(defs.get(name).unwrap_or(&Value::Null), &mut here);
    for reference in here {
        let target = reference.strip_prefix("#/$defs/").and_then(|name| defs.get_key_value(name));
        match target {
            Some((target, _)) => visit(target, defs, done)?,
            None => {
                return Err(invalid(format!("the schema `{name}` of its contract refers to `{reference}`"))
                    .help("references are to `#/$defs/NAME`"));
            }
        }
    }
    done.insert(name, true);
    Ok(())
}

/// The references of a schema that apply to the same value.
fn in_place<'a>(schema: &'a Value, references: &mut Vec<&'a str>) {
    for key in ["$ref", "$dynamicRef"] {
        references.extend(schema.get(key).and_then(Value::as_str));
    }
    for key in ["not", "if", "then", "else"] {
        if let Some(inner) = schema.get(key) {
            in_place(inner, references);
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for inner in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            in_place(inner, references);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTER: &str = r##"{"mechtron":"Counter","handlers":[{"role":"call","method":"Ext<Add>","input":{"$ref":"#/$defs/Add"}}]}
{"def":"Add","schema":{"type":"object","properties":{"by":{"type":"integer","minimum":0},"more":{"$ref":"#/$defs/Add"}},"required":["by"]}}"##;

    #[test]
    fn a_message_is_checked_and_the_pointer_named() {
        let contract = Contract::read(COUNTER.as_bytes()).unwrap();
        assert_eq!(contract.check("Counter", "Ext<Add>", br#"{"by":1}"#), Ok(()));
        assert_eq!(contract.check("", "Ext<Other>", b"anything"), Ok(()));
        let refused = contract.check("", "Ext<Add>", br#"{"by":1,"more":{"by":-1}}"#).unwrap_err();
        assert!(refused.detail.contains("`/more/by`"), "{refused}");
        let refused = contract.check("", "Ext<Add>", b"{").unwrap_err();
        assert!(refused.detail.contains("not JSON"), "{refused}");
    }

    #[test]
    fn endless_schemas_are_refused() {
        for text in [
            r##"{"def":"A","schema":{"$ref":"#/$defs/A"}}"##,
            "{\"def\":\"A\",\"schema\":{\"anyOf\":[{\"$ref\":\"#/$defs/B\"}]}}\n{\"def\":\"B\",\"schema\":{\"not\":{\"$ref\":\"#/$defs/A\"}}}",
            r##"{"def":"A","schema":{"$ref":"https://example.org"}}"##,
            r#"{"what":1}"#,
            "{",
        ] {
            assert!(Contract::read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
