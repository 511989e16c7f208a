//! Printing filters in their canonical form.

use std::fmt;

use super::read::{bare_value, is_bare, is_reserved};
use super::{Field, Filter};
use crate::{Value, quote};

impl fmt::Display for Filter {
    /// Without the outer brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Filter::Or(any) => joined(f, any, " or ", |_| false),
            Filter::And(all) => joined(f, all, " and ", |filter| matches!(filter, Filter::Or(_))),
            Filter::Not(filter) => match **filter {
                Filter::And(_) | Filter::Or(_) => write!(f, "not ({filter})"),
                _ => write!(f, "not {filter}"),
            },
            Filter::Exists(field) => write!(f, "exists({})", field.name()),
            Filter::Compare(field, comparison, value) => {
                write!(f, "{} {} ", field.name(), comparison.as_str())?;
                write_value(f, field, value)
            }
            Filter::In(field, values) => {
                write!(f, "{} in (", field.name())?;
                for (at, value) in values.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { ", " })?;
                    write_value(f, field, value)?;
                }
                f.write_str(")")
            }
            Filter::Like(field, pattern) => write!(f, "{} like {}", field.name(), quote::quoted(pattern)),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    filters: &[Filter],
    joint: &str,
    in_parentheses: impl Fn(&Filter) -> bool,
) -> fmt::Result {
    for (at, filter) in filters.iter().enumerate() {
        f.write_str(if at == 0 { "" } else { joint })?;
        if in_parentheses(filter) {
            write!(f, "({filter})")?;
        } else {
            write!(f, "{filter}")?;
        }
    }
    Ok(())
}

fn write_value(f: &mut fmt::Formatter<'_>, field: &Field, value: &Value) -> fmt::Result {
    match value {
        Value::Text(text) => {
            let bare = field.is_name()
                && !text.is_empty()
                && text.chars().all(is_bare)
                && !is_reserved(text)
                && bare_value(text) == *value;
            f.write_str(&if bare { text.to_string() } else { quote::quoted(text) })
        }
        other => write!(f, "{other}"),
    }
}
