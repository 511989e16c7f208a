//! Reading filters.

use serde_json::Number;

use super::{Comparison, FIELDS, Field, Filter};
use crate::cursor::{Cursor, shorten};
use crate::nearest::did_you_mean;
use crate::{Code, Key, Phase, Problem, Value, quote};

/// How many conditions and values a filter may have.
const TERMS_MAX: usize = 256;

const RESERVED: [&str; 5] = ["and", "or", "not", "in", "like"];

const FORMS: &str = "write it like `region = \"eu\" and queue > 100`, `total in (1, 2)`, `exists(paid)` or \
                     `name like \"ab*\"`";

/// Reads a filter, at whose `[` the cursor stands.
pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Filter, Problem> {
    let start = cursor.at();
    cursor.expect("[", "before a filter")?;
    let mut reader = Reader { terms: 0 };
    let filter = reader.any(cursor)?;
    if !cursor.next_is("]") {
        if cursor.rest().is_empty() {
            let span = crate::Span { start, end: start + 1 };
            return Err(cursor
                .problem(span, "a filter is never closed", "opened here")
                .help("end it with `]`"));
        }
        return Err(operator_help(cursor, cursor.unexpected("`and`, `or` or `]`")));
    }
    Ok(filter)
}

/// Reads a text that is a filter in brackets and nothing else; `code` is what its mistakes are called.
pub(crate) fn parse(text: &str, code: Code) -> Result<Filter, Problem> {
    let mut cursor = Cursor::new(text, code)?;
    cursor.trivia();
    let filter = read(&mut cursor)?;
    if cursor.is_done() { Ok(filter) } else { Err(cursor.unexpected("the end of the filter")) }
}

struct Reader {
    terms: usize,
}

impl Reader {
    fn any(&mut self, cursor: &mut Cursor<'_>) -> Result<Filter, Problem> {
        let mut any = vec![self.all(cursor)?];
        while eat_keyword(cursor, "or") {
            any.push(self.all(cursor)?);
        }
        Ok(flatten(any, Filter::Or, |filter| match filter {
            Filter::Or(inner) => Ok(inner),
            other => Err(other),
        }))
    }

    fn all(&mut self, cursor: &mut Cursor<'_>) -> Result<Filter, Problem> {
        let mut all = vec![self.one(cursor)?];
        while eat_keyword(cursor, "and") {
            all.push(self.one(cursor)?);
        }
        Ok(flatten(all, Filter::And, |filter| match filter {
            Filter::And(inner) => Ok(inner),
            other => Err(other),
        }))
    }

    fn one(&mut self, cursor: &mut Cursor<'_>) -> Result<Filter, Problem> {
        cursor.trivia();
        if eat_keyword(cursor, "not") {
            let filter = cursor.nested(|cursor| self.one(cursor))?;
            return Ok(Filter::Not(Box::new(filter)));
        }
        if cursor.eat("(") {
            let filter = cursor.nested(|cursor| self.any(cursor))?;
            if !cursor.next_is(")") {
                return Err(operator_help(cursor, cursor.unexpected("`and`, `or` or `)`")));
            }
            return Ok(filter);
        }
        self.condition(cursor)
    }

    fn condition(&mut self, cursor: &mut Cursor<'_>) -> Result<Filter, Problem> {
        self.count(cursor)?;
        let start = cursor.at();
        if cursor.eat("exists") && cursor.next_is("(") {
            cursor.trivia();
            let field = field(cursor)?;
            cursor.expect(")", "after the property")?;
            return Ok(Filter::Exists(field));
        }
        cursor.skip_back(start);
        let field = field(cursor)?;
        if eat_keyword(cursor, "in") {
            return self.list(cursor, field);
        }
        if eat_keyword(cursor, "like") {
            cursor.trivia();
            if !cursor.looks_at("\"") {
                return Err(cursor.unexpected("a text in quotes").help("write it like `name like \"ab*\"`"));
            }
            return Ok(Filter::Like(field, quote::read(cursor)?.into()));
        }
        let comparison = comparison(cursor, &field)?;
        let value = value(cursor, &field)?;
        Ok(Filter::Compare(field, comparison, value))
    }

    /// Reads the values after `in`.
    fn list(&mut self, cursor: &mut Cursor<'_>, field: Field) -> Result<Filter, Problem> {
        if !cursor.next_is("(") {
            return Err(cursor
                .unexpected("`(` after `in`")
                .help("write it like `region in (\"eu\", \"us\")`"));
        }
        let mut values = vec![value(cursor, &field)?];
        loop {
            self.count(cursor)?;
            let comma = cursor.next_is(",");
            if cursor.next_is(")") {
                return Ok(Filter::In(field, values.into()));
            }
            if !comma {
                return Err(cursor.unexpected("`,` or `)`"));
            }
            values.push(value(cursor, &field)?);
        }
    }

    fn count(&mut self, cursor: &Cursor<'_>) -> Result<(), Problem> {
        self.terms += 1;
        if self.terms <= TERMS_MAX {
            return Ok(());
        }
        let detail = format!("a filter has at most {TERMS_MAX} conditions and values");
        Err(cursor.problem(cursor.token(), detail, "one too many"))
    }
}

/// One filter stays itself; of several those of the same sort are taken apart, as parentheses change nothing there.
fn flatten(
    mut filters: Vec<Filter>,
    join: impl Fn(Box<[Filter]>) -> Filter,
    apart: impl Fn(Filter) -> Result<Box<[Filter]>, Filter>,
) -> Filter {
    if filters.len() == 1
        && let Some(filter) = filters.pop()
    {
        return filter;
    }
    let flat =
        filters.into_iter().flat_map(|filter| apart(filter).unwrap_or_else(|filter| Box::new([filter])));
    join(flat.collect())
}

fn eat_keyword(cursor: &mut Cursor<'_>, keyword: &str) -> bool {
    cursor.trivia();
    let word = &cursor.rest()[..cursor.token().end - cursor.at()];
    let found = word == keyword && !cursor.rest()[word.len()..].starts_with('.');
    if found {
        cursor.skip(word.len());
    }
    found
}

fn field(cursor: &mut Cursor<'_>) -> Result<Field, Problem> {
    cursor.trivia();
    let start = cursor.at();
    let name = cursor.eat_while(|c| crate::cursor::is_word(c) || c == '.');
    let span = cursor.span_since(start);
    if name.is_empty() {
        return Err(cursor.unexpected("a property or a field").help(FORMS));
    }
    if RESERVED.contains(&name) {
        let detail = format!("expected a property or a field, but found `{name}`");
        return Err(cursor.problem(span, detail, "expected a property or a field").help(FORMS));
    }
    if let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) {
        return Ok(field.clone());
    }
    name.parse::<Key>()
        .map(Field::Property)
        .map_err(|error| cursor.problem_of(Code::PropertyKey, span, error.to_string(), "not a property key"))
}

fn comparison(cursor: &mut Cursor<'_>, field: &Field) -> Result<Comparison, Problem> {
    cursor.trivia();
    let start = cursor.at();
    let sign = cursor.eat_while(|c| matches!(c, '=' | '!' | '<' | '>' | '~'));
    let found = [
        Comparison::Equal,
        Comparison::Unequal,
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
    ]
    .into_iter()
    .find(|comparison| comparison.as_str() == sign);
    if let Some(comparison) = found {
        return Ok(comparison);
    }
    let help = match sign {
        "==" => "equality is a single `=`".to_owned(),
        "<>" => "inequality is `!=`".to_owned(),
        "=<" => "write `<=`".to_owned(),
        "=>" => "write `>=`".to_owned(),
        "~" | "=~" => "compare with a pattern like `name like \"ab*\"`".to_owned(),
        _ => format!(
            "known are `=` `!=` `<` `<=` `>` `>=` `in (…)` and `like \"…\"`; whether there is one at all is \
             `exists({})`",
            field.name()
        ),
    };
    let problem = if sign.is_empty() {
        cursor.unexpected("a comparison")
    } else {
        let detail = format!("`{sign}` is not a comparison");
        cursor.problem(cursor.span_since(start), detail, "not a comparison")
    };
    Err(problem.help(help))
}

fn value(cursor: &mut Cursor<'_>, field: &Field) -> Result<Value, Problem> {
    cursor.trivia();
    let start = cursor.at();
    let value = if cursor.looks_at("\"") {
        Value::text(quote::read(cursor)?)
    } else {
        let word = cursor.eat_while(is_bare);
        if word.is_empty() || RESERVED.contains(&word) {
            cursor.skip_back(start);
            return Err(cursor
                .unexpected("a value")
                .help("a value is a number, `true`, `false`, a word, or a text in quotes"));
        }
        bare_value(word)
    };
    if *field == Field::Status
        && let Some(text) = value.as_text()
        && !Phase::ALL.iter().any(|phase| phase.as_str() == text)
    {
        let names = Phase::ALL.map(Phase::as_str);
        let help = did_you_mean(text, names).unwrap_or_else(|| format!("known are {}", names.join(", ")));
        let detail = format!("no status `{}`", shorten(text));
        return Err(cursor.problem(cursor.span_since(start), detail, "not a status").help(help));
    }
    Ok(value)
}

/// What a word without quotes is: a number, a truth value, or text.
pub(super) fn bare_value(word: &str) -> Value {
    match word {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => number(word).map_or_else(|| Value::text(word), Value::Number),
    }
}

/// A number as JSON writes it.
fn number(word: &str) -> Option<Number> {
    if !word.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        || !word.ends_with(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    if let Ok(number) = word.parse::<u64>() {
        return (number.to_string() == word).then(|| number.into());
    }
    if let Ok(number) = word.parse::<i64>() {
        return (number.to_string() == word).then(|| number.into());
    }
    word.parse::<f64>().ok().filter(|number| number.is_finite()).and_then(Number::from_f64)
}

/// Whether a character can stand in a value without quotes.
pub(super) fn is_bare(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '@' | '%' | '+')
}

pub(super) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// Explains the operators of other languages.
fn operator_help(cursor: &Cursor<'_>, problem: Problem) -> Problem {
    if cursor.looks_at("&") {
        problem.help("conditions are joined by `and`")
    } else if cursor.looks_at("|") {
        problem.help("conditions are joined by `or`")
    } else {
        problem
    }
}
