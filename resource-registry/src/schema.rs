//! The schemas of users' kinds: values get their types by them, and every write is checked against them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use parking_lot::Mutex;
use starlane_core::{
    Code, Key, KeyError, Point, PointerError, Problem, Properties, Property, Resource, Revision, Value,
};

/// The longest schema, in bytes.
const SCHEMA_BYTES_MAX: usize = 256 * 1024;
/// The most schemas that are kept compiled.
const COMPILED_MAX: usize = 1_024;
/// The most errors that are told at once.
const ERRORS_MAX: usize = 20;

/// Where the text of a schema comes from: what a `schema` property names is an artifact or a file.
pub trait Schemas: Send + Sync {
    /// The content at a point.
    fn read(&self, source: Point) -> BoxFuture<'static, Result<Bytes, Problem>>;
}

/// A compiled schema.
pub(crate) struct Schema {
    validator: Validator,
    types: BTreeMap<String, Type>,
    /// The properties that it names, and whether each is a text, a number or a truth value.
    named: BTreeMap<String, bool>,
    /// What a property is when nobody set it.
    defaults: BTreeMap<Key, Value>,
}

/// What a text is read as when the schema asks for it.
#[derive(Clone, Copy)]
enum Type {
    Number,
    Bool,
    Json,
}

impl Schema {
    pub(crate) fn compile(text: &[u8]) -> Result<Self, Box<Problem>> {
        let wrong = |what: String| Box::new(Problem::new(Code::ArtifactInvalid, what));
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(wrong(format!(
                "a schema has at most {SCHEMA_BYTES_MAX} bytes, this one {}",
                text.len()
            )));
        }
        let schema: serde_json::Value =
            serde_json::from_slice(text).map_err(|error| wrong(format!("it is not JSON: {error}")))?;
        let validator = jsonschema::options()
            .offline()
            // In linear time, whatever pattern somebody writes.
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| {
                let mut problem = wrong(format!("it is not a JSON Schema: {error}"));
                problem.errors = vec![PointerError {
                    pointer: error.instance_path().to_string(),
                    detail: error.to_string(),
                }];
                problem
            })?;
        let properties = schema.get("properties").and_then(|properties| properties.as_object());
        let types = properties
            .into_iter()
            .flatten()
            .filter_map(|(key, property)| Some((key.clone(), Type::of(property.get("type")?)?)))
            .collect();
        let named = properties
            .into_iter()
            .flatten()
            .map(|(key, property)| (key.clone(), property.get("type").is_some_and(is_scalar)))
            .collect();
        let mut defaults = BTreeMap::new();
        for (key, property) in properties.into_iter().flatten() {
            let Some(default) = property.get("default") else { continue };
            let place = format!("/properties/{}/default", pointer_segment(key));
            let unfit = |detail: String| {
                let mut problem = wrong(format!("the default of `{key}` cannot be used: {detail}"));
                problem.errors = vec![PointerError { pointer: place.clone(), detail }];
                problem
            };
            let name: Key = key.parse().map_err(|error: KeyError| unfit(error.to_string()))?;
            let alone = serde_json::json!({ key.as_str(): default });
            let about_it = format!("/{}", pointer_segment(key));
            let mut errors = validator.iter_errors(&alone);
            if let Some(error) = errors.find(|error| error.instance_path().to_string().starts_with(&about_it))
            {
                return Err(unfit(error.to_string()));
            }
            defaults.insert(name, Value::from(default.clone()));
        }
        Ok(Self { validator, types, named, defaults })
    }

    /// Whether a property can be put in an order.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check_sortable(&self, key: &Key) -> Result<(), String> {
        match self.named.get(key.as_str()) {
            Some(true) => Ok(()),
            Some(false) => Err(format!(
                "the schema does not say of `{key}` that its `type` is a text, a number or a truth value"
            )),
            None => Err(format!("the schema has no property `{key}`")),
        }
    }

    /// Gives what has no value the one that the schema says; so what was written under an older schema becomes what this one
    /// asks for.
    pub(crate) fn fill(&self, properties: &mut Properties) {
        for (key, value) in &self.defaults {
            if !properties.contains_key(key) {
                properties.insert(key.clone(), Property { value: value.clone(), locked: false });
            }
        }
    }

    /// Gives each text the type that the schema asks for, where it reads as one.
    pub(crate) fn type_values(&self, properties: &mut Properties) {
        for (key, property) in properties {
            if let Some(wanted) = self.types.get(key.as_str())
                && let Some(value) = property.value.as_text().and_then(|text| wanted.read(text))
            {
                property.value = value;
            }
        }
    }

    pub(crate) fn check(&self, properties: &Properties) -> Vec<PointerError> {
        let instance: serde_json::Map<_, _> = properties
            .iter()
            .map(|(key, property)| (key.as_str().to_owned(), property.value.to_json()))
            .collect();
        self.validator
            .iter_errors(&serde_json::Value::Object(instance))
            .take(ERRORS_MAX)
            .map(|error| PointerError { pointer: pointer(&error), detail: error.to_string() })
            .collect()
    }
}

/// Whether what a schema gives for `type` allows texts, numbers, truth values and null alone, and not only null.
fn is_scalar(wanted: &serde_json::Value) -> bool {
    let wanted = wanted.as_array().map_or(std::slice::from_ref(wanted), Vec::as_slice);
    let names = || wanted.iter().filter_map(serde_json::Value::as_str);
    let is_value = |name: &str| matches!(name, "string" | "number" | "integer" | "boolean");
    names().any(is_value) && names().all(|name| is_value(name) || name == "null")
}

/// The place of what is wrong: for a property that is missing or too many, its own.
fn pointer(error: &ValidationError<'_>) -> String {
    let about = match error.kind() {
        ValidationErrorKind::Required { property } => property.as_str(),
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected.first().map(String::as_str),
        _ => None,
    };
    let place = error.instance_path().to_string();
    about.map_or(place.clone(), |key| format!("{place}/{}", pointer_segment(key)))
}

/// A key as a JSON pointer has it (RFC 6901).
fn pointer_segment(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

impl Type {
    fn of(wanted: &serde_json::Value) -> Option<Self> {
        match wanted.as_str()? {
            "number" | "integer" => Some(Type::Number),
            "boolean" => Some(Type::Bool),
            "array" | "object" | "null" => Some(Type::Json),
            _ => None,
        }
    }

    fn read(self, text: &str) -> Option<Value> {
        match self {
            Type::Bool => text.parse().ok().map(Value::Bool),
            Type::Number => match serde_json::from_str(text).ok()? {
                serde_json::Value::Number(number) => Some(Value::Number(number)),
                _ => None,
            },
            Type::Json => serde_json::from_str::<serde_json::Value>(text).ok().map(Value::from),
        }
    }
}

/// The compiled schemas, each for one revision of its declaration and of its source.
#[derive(Default)]
pub(crate) struct Compiled {
    schemas: Mutex<HashMap<Point, Entry>>,
}

struct Entry {
    of: Versions,
    schema: Arc<Schema>,
}

/// What a compiled schema was made from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versions {
    declaration: Revision,
    source: Option<Revision>,
}

impl Versions {
    pub(crate) fn of(declaration: &Resource, source: Option<&Arc<Resource>>) -> Self {
        Self { declaration: declaration.modified, source: source.map(|source| source.modified) }
    }
}

impl Compiled {
    pub(crate) fn get(&self, declaration: &Point, versions: Versions) -> Option<Arc<Schema>> {
        let schemas = self.schemas.lock();
        schemas.get(declaration).filter(|entry| entry.of == versions).map(|entry| entry.schema.clone())
    }

    pub(crate) fn insert(&self, declaration: Point, versions: Versions, schema: Schema) {
        let mut schemas = self.schemas.lock();
        if schemas.len() >= COMPILED_MAX {
            // They compile again when they are needed.
            schemas.clear();
        }
        schemas.insert(declaration, Entry { of: versions, schema: Arc::new(schema) });
    }
}
