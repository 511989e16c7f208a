//! Labels of nodes, as they are typed.

use std::collections::BTreeMap;
use std::fmt::Display;

use starlane_core::Key;

/// Reads `tier=edge`.
///
/// # Errors
/// What to write instead.
pub(super) fn parse(text: &str) -> Result<(Key, String), String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(format!("`{text}` is not a label: write it as `tier=edge`"));
    };
    let key: Key = key.parse().map_err(|_| {
        format!("`{key}` cannot be the key of a label: write it in lowercase, as in `tier=edge`")
    })?;
    Ok((key, value.to_owned()))
}

/// Labels in one line: `tier=edge,zone=a`.
pub(super) fn line<K: Display>(labels: &BTreeMap<K, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_key_and_a_value() {
        assert_eq!(parse("tier=edge").unwrap(), ("tier".parse().unwrap(), "edge".to_owned()));
        assert_eq!(parse("note=a=b").unwrap().1, "a=b");
        assert_eq!(parse("empty=").unwrap().1, "");
        for wrong in ["", "tier", "=edge", "Tier=edge", "ti er=edge"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
