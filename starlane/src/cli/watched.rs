//! What a mechtron watches, and how far it was told.

use serde_json::Value;

use crate::output::safe;

/// Appends the watches of an activation in words. Parts that are not as expected are left out, never an error: a newer node may
/// say more.
pub(super) fn lines(watches: &Value, lines: &mut Vec<String>) {
    let watches = watches.as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |watch: &Value| watch["name"].as_str().unwrap_or_default().to_owned();
    let width = watches.iter().map(|watch| name(watch).chars().count()).max().unwrap_or_default();
    if !watches.is_empty() {
        lines.push("watches".to_owned());
    }
    for watch in watches {
        lines.push(format!("  {:<width$}  {}", safe(&name(watch)), safe(&how_far(watch))));
    }
}

/// `told up to revision 12`
fn how_far(watch: &Value) -> String {
    let told = &watch["told"];
    let failed = watch["failures"].as_u64().map(|count| match count {
        1 => "; the next failed once".to_owned(),
        count => format!("; the next failed {count} times"),
    });
    let text = match (&told["revision"], &told["list"], &told["commit"]) {
        (Value::Null, Value::Null, _) => "told nothing yet".to_owned(),
        (Value::Null, list, _) => match told["after"].as_str() {
            Some(after) => format!("told the list of revision {list} up to {after}"),
            None => format!("is told the list of revision {list}"),
        },
        (revision, _, Value::Null) => format!("told up to revision {revision}"),
        (revision, _, commit) => {
            format!("told up to revision {revision}, and {} changes of revision {commit}", told["changes"])
        }
    };
    text + &failed.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_watch_says_how_far_it_was_told() {
        let watches = json!([
            { "name": "overdue", "selector": "shop:*", "told": { "revision": 12 } },
            { "name": "a", "selector": "a", "told": { "list": 9, "after": "shop:b" }, "failures": 3 },
            { "name": "b", "selector": "b", "told": { "list": 9 }, "failures": 1 },
            { "name": "c", "selector": "c", "told": { "revision": 12, "commit": 14, "changes": 2 } },
            { "name": "d", "selector": "d" },
        ]);
        let mut shown = Vec::new();
        lines(&watches, &mut shown);
        let expected = [
            "watches",
            "  overdue  told up to revision 12",
            "  a        told the list of revision 9 up to shop:b; the next failed 3 times",
            "  b        is told the list of revision 9; the next failed once",
            "  c        told up to revision 12, and 2 changes of revision 14",
            "  d        told nothing yet",
        ];
        assert_eq!(shown, expected);
        shown.clear();
        lines(&json!([]), &mut shown);
        assert!(shown.is_empty());
    }
}
