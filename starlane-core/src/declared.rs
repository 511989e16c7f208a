//! What the declaration of a user's kind says besides its schema: where its resources may stand, how lists show
//! them, and which of their properties are indexed in their order.

use std::fmt;

use crate::{Base, Key, Kind, PointerError, Properties, Value};

/// The most entries of one list.
const ENTRIES_MAX: usize = 32;
/// The most properties of a kind that are indexed in their order.
const INDEXED_MAX: usize = 8;

/// What the declaration of a user's kind says besides its schema.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Declared {
    /// The kinds that its resources may stand under; `None` when those of every branch. Read from `parents`.
    pub parents: Option<Vec<Base>>,
    /// What lists show of its resources. Read from `columns`.
    pub columns: Vec<Column>,
    /// The properties that are indexed in the order of their values. Read from `indexed`.
    pub indexed: Vec<Key>,
}

/// A column of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// What stands above it.
    pub title: String,
    /// The property that it shows.
    pub key: Key,
}

impl Declared {
    /// Reads the properties of a declaration: lists in a text with commas between, or as a JSON array of texts.
    ///
    /// # Errors
    /// Each thing that is wrong, with its place.
    pub fn of(properties: &Properties) -> Result<Self, Vec<PointerError>> {
        let mut errors = Vec::new();
        let parents =
            list(properties, "parents", ENTRIES_MAX, &mut errors, |text| match text.parse::<Kind>() {
                Ok(kind) if kind.to_string() == kind.base.as_str() => Ok(kind.base),
                Ok(_) => Err(format!("`{text}` has a sub-kind; parents are named by the kind alone")),
                Err(error) => Err(error.to_string()),
            });
        let columns = list(properties, "columns", ENTRIES_MAX, &mut errors, |text| {
            let (key, title) = text.split_once(':').map_or((text, None), |(key, title)| (key, Some(title)));
            let key: Key = key.trim().parse().map_err(|error: crate::KeyError| error.to_string())?;
            let title = title.map(str::trim).filter(|title| !title.is_empty());
            Ok(Column { title: title.map_or_else(|| key.as_str().to_uppercase(), str::to_owned), key })
        });
        let indexed = indexed(properties, &mut errors, |_| Ok(()));
        match errors.is_empty() {
            true => Ok(Self { parents, columns: columns.unwrap_or_default(), indexed }),
            false => Err(errors),
        }
    }

    /// Asks of each property that a declaration says to index whether it may be.
    ///
    /// # Errors
    /// Each that may not, with its place in the declaration.
    pub fn check_indexed(
        properties: &Properties,
        may_be: impl Fn(&Key) -> Result<(), String>,
    ) -> Result<(), Vec<PointerError>> {
        let mut errors = Vec::new();
        indexed(properties, &mut errors, may_be);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Whether its resources may stand under one of a kind.
    pub fn may_stand_under(&self, parent: &Base) -> bool {
        self.parents.as_ref().is_none_or(|parents| parents.contains(parent))
    }
}

/// The kinds that it names, as people list them: `Order, Base or Space`.
pub struct Names<'a>(pub &'a [Base]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.0.len().saturating_sub(1);
        for (n, base) in self.0.iter().enumerate() {
            let between = match n {
                0 => "",
                n if n == last => " or ",
                _ => ", ",
            };
            write!(f, "{between}{}", base.as_str())?;
        }
        Ok(())
    }
}

fn indexed(
    properties: &Properties,
    errors: &mut Vec<PointerError>,
    may_be: impl Fn(&Key) -> Result<(), String>,
) -> Vec<Key> {
    let read = |text: &str| {
        let key: Key = text.parse().map_err(|error: crate::KeyError| error.to_string())?;
        may_be(&key).map(|()| key)
    };
    let mut keys = list(properties, "indexed", INDEXED_MAX, errors, read).unwrap_or_default();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn list<T>(
    properties: &Properties,
    key: &str,
    entries_max: usize,
    errors: &mut Vec<PointerError>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let value = &properties.get(key)?.value;
    let mut wrong = |pointer: String, detail: String| errors.push(PointerError { pointer, detail });
    let texts: Vec<(String, String)> = match value {
        Value::Text(text) => {
            text.split(',').map(|part| (format!("/{key}"), part.trim().to_owned())).collect()
        }
        Value::Json(json) if json.is_array() => {
            let entries = json.as_array().into_iter().flatten().enumerate();
            entries
                .map(|(n, entry)| (format!("/{key}/{n}"), entry.as_str().unwrap_or_default().to_owned()))
                .collect()
        }
        _ => {
            wrong(format!("/{key}"), "it is neither a text nor a list of texts".to_owned());
            return None;
        }
    };
    if texts.len() > entries_max {
        wrong(
            format!("/{key}"),
            format!("it has {} entries, and may have {entries_max} at most", texts.len()),
        );
        return None;
    }
    let mut entries = Vec::with_capacity(texts.len());
    for (pointer, text) in texts {
        match read(&text) {
            Ok(entry) => entries.push(entry),
            Err(detail) => wrong(pointer, detail),
        }
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Property;

    fn properties(list: &[(&str, serde_json::Value)]) -> Properties {
        let property =
            |value: &serde_json::Value| Property { value: Value::from(value.clone()), locked: false };
        list.iter().map(|(key, value)| (key.parse().unwrap(), property(value))).collect()
    }

    #[test]
    fn lists_are_texts_or_arrays() {
        let text =
            properties(&[("parents", "Base, Order".into()), ("columns", "total,customer:BUYER".into())]);
        let array = properties(&[
            ("parents", serde_json::json!(["Base", "Order"])),
            ("columns", serde_json::json!(["total", "customer: BUYER"])),
        ]);
        let declared = Declared::of(&text).unwrap();
        assert_eq!(declared, Declared::of(&array).unwrap());
        let titles: Vec<_> = declared.columns.iter().map(|column| column.title.as_str()).collect();
        assert_eq!(titles, ["TOTAL", "BUYER"]);
        let base = |text: &str| text.parse::<Kind>().unwrap().base;
        assert!(declared.may_stand_under(&base("Order")) && !declared.may_stand_under(&base("Space")));
        assert!(Declared::of(&Properties::new()).unwrap().may_stand_under(&base("Space")));
        let indexed = Declared::of(&properties(&[("indexed", "total, at,total".into())])).unwrap().indexed;
        assert_eq!(indexed.iter().map(Key::as_str).collect::<Vec<_>>(), ["at", "total"]);
        assert_eq!(Names(&[base("A"), base("B"), base("C")]).to_string(), "A, B or C");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (key, value, pointer) in [
            ("parents", serde_json::json!("base"), "/parents"),
            ("parents", serde_json::json!("Base, "), "/parents"),
            ("parents", serde_json::json!(["Base", "Database<Relational>"]), "/parents/1"),
            ("parents", serde_json::json!(7), "/parents"),
            ("columns", serde_json::json!(["total", "Total"]), "/columns/1"),
            ("columns", serde_json::json!(["total", 7]), "/columns/1"),
            ("columns", serde_json::json!({"total": 1}), "/columns"),
            ("columns", serde_json::json!(vec!["a"; 33]), "/columns"),
            ("indexed", serde_json::json!(["total", "Total"]), "/indexed/1"),
            ("indexed", serde_json::json!(vec!["a"; 9]), "/indexed"),
        ] {
            let errors = Declared::of(&properties(&[(key, value.clone())])).unwrap_err();
            assert_eq!(errors.len(), 1, "{value}");
            assert_eq!(errors[0].pointer, pointer, "{value}");
        }
    }
}
