//! JSON values as YAML 1.2 in block style.

use serde_json::Value;

/// The value as a YAML document, with a newline at its end.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

/// Writes a value that begins a line at the given depth.
fn block(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                indent(depth, text);
                text.push_str(&scalar_text(key));
                text.push(':');
                after_mark(value, depth, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(depth, text);
                text.push('-');
                match item {
                    // The first entry of a map may stand beside the dash; it is written a level deeper and its
                    // indentation is what the dash and a blank take.
                    Value::Object(map) if !map.is_empty() => {
                        let mut inner = String::new();
                        block(item, depth + 1, &mut inner);
                        text.push(' ');
                        text.push_str(inner.trim_start_matches(' '));
                    }
                    _ => after_mark(item, depth, text),
                }
            }
        }
        scalar => {
            indent(depth, text);
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
}

/// Writes what follows a `:` or a `-`.
fn after_mark(value: &Value, depth: usize, text: &mut String) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        text.push('\n');
        block(value, depth + 1, text);
    } else {
        text.push(' ');
        text.push_str(&inline(value));
        text.push('\n');
    }
}

fn indent(depth: usize, text: &mut String) {
    text.extend(std::iter::repeat_n("  ", depth));
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(string) => scalar_text(string),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// Text as it is where no reader of YAML could take it for anything else, else quoted as JSON, which is YAML too.
fn scalar_text(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !text.ends_with(':')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '<' | '>'))
        && !is_word_of_yaml(text);
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

/// Words that YAML 1.1 or 1.2 reads as something else than text.
fn is_word_of_yaml(text: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off", "true", "false", "null"]
        .iter()
        .any(|word| word.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_in_block_style() {
        let value = json!({
            "point": "shop:cart", "kind": "Mechtron", "empty": {}, "none": null, "total": 1.5,
            "list": [1, {"a": "x y", "b": [true]}, []],
        });
        let expected = "empty: {}\nkind: Mechtron\nlist:\n  - 1\n  - a: \"x y\"\n    b:\n      - true\n  - []\n\
                        none: null\npoint: shop:cart\ntotal: 1.5\n";
        assert_eq!(document(&value), expected);
    }

    #[test]
    fn text_that_could_be_taken_for_something_else_is_quoted() {
        for text in ["", "true", "No", "1.0.0", "- a", "a: b", "a #b", "x:", "*", "~", "a\nb", "0x1f", "é"] {
            assert_eq!(document(&json!(text)), format!("{}\n", json!(text)), "{text}");
        }
        for text in ["shop:files:/a.txt", "point<Kind>", "w1.17.00ff"] {
            assert_eq!(document(&json!(text)), format!("{text}\n"));
        }
    }
}
