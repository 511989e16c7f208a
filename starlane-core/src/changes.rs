//! Changes to properties as they are written: `{ +key=value, +@key="locked", !key }`.

use std::fmt;
use std::sync::Arc;

use crate::cursor::{Cursor, shorten, within};
use crate::template::{Bare, Bindings, Template, is_plain};
use crate::{Code, Key, Problem, PropertyChange, Span, Value, selector};

/// The changes between braces.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Changes {
    pub(crate) list: Vec<Change>,
    pub(crate) span: Span,
}

/// One change, in whose value variables may stand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Set { key: Key, value: ValueTemplate, lock: bool },
    Unset(Key),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ValueTemplate {
    Text(Template),
    Json(Arc<serde_json::Value>),
    /// A filter in brackets, which becomes the text that it is. What its variables stand for stays inside its quotes.
    Filter(Template),
}

impl Change {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Change::Set { key, .. } | Change::Unset(key) => key,
        }
    }

    fn resolve(&self, bindings: &Bindings) -> Result<PropertyChange, Problem> {
        Ok(match self {
            Change::Unset(key) => PropertyChange::Unset(key.clone()),
            Change::Set { key, value, lock } => {
                PropertyChange::Set { key: key.clone(), value: value.resolve(bindings)?, lock: *lock }
            }
        })
    }
}

impl ValueTemplate {
    fn resolve(&self, bindings: &Bindings) -> Result<Value, Problem> {
        match self {
            ValueTemplate::Json(json) => Ok(Value::from((**json).clone())),
            // Only a bare `.:users` is a relative point; in quotes it is text.
            ValueTemplate::Text(text) if !text.is_quoted() && text.is_relative() => {
                text.point(bindings).map(|point| Value::from(&point))
            }
            ValueTemplate::Text(text) | ValueTemplate::Filter(text) => text.text(bindings).map(Value::text),
        }
    }
}

impl Changes {
    pub(crate) fn resolve(&self, bindings: &Bindings) -> Result<Vec<PropertyChange>, Problem> {
        self.list.iter().map(|change| change.resolve(bindings)).collect()
    }

    /// Reads a block, at whose `{` the cursor stands.
    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Problem> {
        let start = cursor.at();
        cursor.expect("{", "before the properties")?;
        let mut list: Vec<Change> = Vec::new();
        let mut keys = std::collections::HashSet::new();
        loop {
            cursor.trivia();
            if cursor.eat("}") {
                return Ok(Self { list, span: cursor.span_since(start) });
            }
            if cursor.rest().is_empty() {
                return Err(unclosed(cursor, start));
            }
            let change_start = cursor.at();
            let change = change(cursor)?;
            if !keys.insert(change.key().clone()) {
                let detail = format!("`{}` is named twice", change.key());
                return Err(cursor.problem(cursor.span_since(change_start), detail, "again"));
            }
            list.push(change);
            cursor.trivia();
            if !cursor.eat(",") && !cursor.eat(";") && !cursor.looks_at("}") && !cursor.rest().is_empty() {
                return Err(cursor
                    .unexpected("`,` or `}`")
                    .help("put a value with blanks or braces in quotes: `+key=\"two words\"`"));
            }
        }
    }
}

pub(crate) fn unclosed(cursor: &Cursor<'_>, start: usize) -> Problem {
    let span = Span { start, end: start + 1 };
    cursor.problem(span, "a block is never closed", "opened here").help("end it with `}`")
}

fn change(cursor: &mut Cursor<'_>) -> Result<Change, Problem> {
    if cursor.eat("!") {
        return Ok(Change::Unset(key(cursor)?));
    }
    if !cursor.eat("+") {
        return Err(cursor
            .unexpected("`+key=value` or `!key`")
            .help("`+key=value` sets, `+@key=value` sets and locks, `!key` unsets"));
    }
    let lock = cursor.next_is("@");
    let key = key(cursor)?;
    if !cursor.next_is("=") {
        return Err(cursor
            .unexpected(&format!("`=` after `{key}`"))
            .help(format!("write it like `+{key}=value`")));
    }
    // A `#` right after the `=` is part of the value, not a comment.
    if !cursor.looks_at("#") {
        cursor.trivia();
    }
    Ok(Change::Set { value: value(cursor, &key)?, key, lock })
}

/// Reads a property key.
pub(crate) fn key(cursor: &mut Cursor<'_>) -> Result<Key, Problem> {
    cursor.trivia();
    let start = cursor.at();
    let text = cursor.eat_while(|c| crate::cursor::is_word(c) || c == '.');
    if text.is_empty() {
        return Err(cursor
            .unexpected("a property key")
            .help("keys are dotted lowercase words, as `wasm.src`"));
    }
    text.parse().map_err(|_| {
        let detail = format!("`{}` is not a property key", shorten(text));
        let lower = text.to_ascii_lowercase();
        let help = match lower.parse::<Key>() {
            Ok(key) => format!("keys are lowercase: `{key}`"),
            Err(_) => "keys are dotted lowercase words, as `wasm.src`".to_owned(),
        };
        cursor.problem_of(Code::PropertyKey, cursor.span_since(start), detail, "not a key").help(help)
    })
}

fn value(cursor: &mut Cursor<'_>, key: &Key) -> Result<ValueTemplate, Problem> {
    if cursor.looks_at("{") {
        return json(cursor).map(|(json, _)| ValueTemplate::Json(json));
    }
    if cursor.looks_at("[") {
        return list_or_filter(cursor);
    }
    if cursor.looks_at("\"") {
        return Template::read(cursor, Bare::POINT).map(ValueTemplate::Text);
    }
    let start = cursor.at();
    let template = bare_value(cursor)?;
    if template.is_empty() {
        return Err(cursor
            .unexpected(&format!("a value for `{key}`"))
            .help(format!("an empty text is `+{key}=\"\"`; to unset it write `!{key}`")));
    }
    // In quotes it would be a text, and bare it cannot become a point.
    if template.is_relative() && !template.is_plain() {
        let span = cursor.span_since(start);
        return Err(cursor
            .problem_of(
                Code::PointSyntax,
                span,
                "this begins like a relative point and cannot be one",
                "not a point",
            )
            .help("a text goes in quotes"));
    }
    Ok(ValueTemplate::Text(template))
}

/// Reads a value without quotes: up to a blank, `,`, `;` or a brace that is not inside brackets.
fn bare_value(cursor: &mut Cursor<'_>) -> Result<Template, Problem> {
    let mut ahead = cursor.clone();
    let mut open: Vec<(char, usize)> = Vec::new();
    while let Some(c) = ahead.peek() {
        let end = c.is_whitespace() || matches!(c, ',' | ';' | '{' | '}' | '"');
        if ahead.looks_at("${") || ahead.looks_at("$(") {
            let close = if ahead.looks_at("${") { '}' } else { ')' };
            ahead.eat_while(|c| c != close);
        } else if open.is_empty() && end {
            break;
        } else if c == '"' {
            crate::quote::read(&mut ahead)?;
            continue;
        } else if matches!(c, '(' | '[') {
            open.push((if c == '(' { ')' } else { ']' }, ahead.at()));
        } else if open.last().is_some_and(|(close, _)| *close == c) {
            open.pop();
        }
        ahead.bump();
    }
    if let Some((close, at)) = open.pop() {
        let span = Span { start: at, end: at + 1 };
        return Err(cursor
            .problem(span, "a bracket in a value is never closed", "opened here")
            .help(format!("end it with `{close}`, or put the value in quotes")));
    }
    Template::raw(cursor, ahead.at(), false)
}

/// Reads what begins with `[`: a JSON list, or a filter, which is kept as text.
fn list_or_filter(cursor: &mut Cursor<'_>) -> Result<ValueTemplate, Problem> {
    let mut as_json = cursor.clone();
    let json = json(&mut as_json);
    if let Ok((json, _)) = json {
        *cursor = as_json;
        return Ok(ValueTemplate::Json(json));
    }
    let start = cursor.at();
    let mut ahead = cursor.clone();
    selector::skip_brackets(&mut ahead).map_err(|mut problem| {
        problem.detail = "a value in brackets is never closed".to_owned();
        problem
    })?;
    let text = ahead.since(start);
    if let Err(problem) = selector::parse_filter(text, cursor.code()) {
        let help = "a value that begins with `[` is a JSON list, as `[1, \"two\"]`, or a filter, as \
                    `[tier = \"edge\"]`; anything else goes in quotes";
        return Err(within(problem, cursor.source(), start).help(help));
    }
    Template::raw(cursor, ahead.at(), true).map(ValueTemplate::Filter)
}

/// Reads one JSON value and tells its text.
pub(crate) fn json<'a>(cursor: &mut Cursor<'a>) -> Result<(Arc<serde_json::Value>, &'a str), Problem> {
    let rest = cursor.rest();
    let start = cursor.at();
    // Numbers and words do not end by themselves, as the others do.
    let rest = match rest.starts_with(['{', '[', '"']) {
        true => rest,
        false => {
            &rest[..rest.find(|c: char| c.is_whitespace() || ",;{}[]()".contains(c)).unwrap_or(rest.len())]
        }
    };
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<serde_json::Value>();
    match values.next() {
        Some(Ok(json)) => {
            cursor.skip(values.byte_offset());
            Ok((Arc::new(json), cursor.since(start)))
        }
        Some(Err(error)) => {
            let line: usize =
                rest.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
            let mut at = (line + error.column().saturating_sub(1)).min(rest.len());
            while !rest.is_char_boundary(at) {
                at -= 1;
            }
            let length = rest[at..].chars().next().map_or(0, char::len_utf8);
            let span = Span { start: start + at, end: start + at + length };
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            Err(cursor
                .problem(span, format!("not JSON: {reason}"), "not JSON")
                .help("what begins with `{` or `[` is read as JSON; a text goes in quotes"))
        }
        None => Err(cursor.unexpected("JSON")),
    }
}

impl fmt::Display for Changes {
    /// With the braces: `{ +key=value, !key }`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, change) in self.list.iter().enumerate() {
            write!(f, "{} {change}", if at == 0 { "" } else { "," })?;
        }
        f.write_str(if self.list.is_empty() { "}" } else { " }" })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Unset(key) => write!(f, "!{key}"),
            Change::Set { key, value, lock } => {
                write!(f, "+{}{key}=", if *lock { "@" } else { "" })?;
                match value {
                    ValueTemplate::Json(json) => write!(f, "{json}"),
                    // What looks relative but is text must stay in quotes.
                    ValueTemplate::Text(text) if text.is_quoted() && text.is_relative() => {
                        text.write(f, |_| false)
                    }
                    ValueTemplate::Text(text) => text.write(f, is_plain),
                    ValueTemplate::Filter(filter) => filter.write_raw(f),
                }
            }
        }
    }
}
