//! Scripts: statements, one after the other.

use std::fmt;
use std::sync::Arc;

use crate::command::{self, Form};
use crate::cursor::{Cursor, within};
use crate::{Bindings, Code, Command, Place, Problem, Span};

/// The most statements a script may have.
const STATEMENTS_MAX: usize = 10_000;

/// Statements, to be carried out in order until one fails. Prints in its canonical form, one statement a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// The statements, in order.
    pub statements: Vec<Statement>,
}

/// One command as it is written: its points may be relative and hold variables.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Where in its source it stands.
    pub span: Span,
    form: Form,
    origin: Arc<Origin>,
}

/// The text that statements come from, for the errors about them.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Script {
    /// Reads the statements of a script; a single statement is one too.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut cursor = Cursor::new(text, Code::Syntax)?;
        let origin = Arc::new(Origin { name: String::new(), text: text.to_owned() });
        let statements = read(&mut cursor, &origin, |cursor| cursor.rest().is_empty())?;
        Ok(Self { statements })
    }
}

/// Reads statements until `is_end`, which is asked between them.
pub(crate) fn read(
    cursor: &mut Cursor<'_>,
    origin: &Arc<Origin>,
    is_end: impl Fn(&Cursor<'_>) -> bool,
) -> Result<Vec<Statement>, Problem> {
    let mut statements = Vec::new();
    loop {
        while cursor.next_is(";") {}
        if is_end(cursor) {
            return Ok(statements);
        }
        if statements.len() == STATEMENTS_MAX {
            let detail = format!("a script has at most {STATEMENTS_MAX} statements");
            return Err(cursor.problem(cursor.token(), detail, "one too many"));
        }
        let start = cursor.at();
        let form = command::read(cursor)?;
        let span = cursor.span_since(start);
        statements.push(Statement { span, form, origin: Arc::clone(origin) });
        cursor.trivia();
        if !cursor.looks_at(";") && !is_end(cursor) {
            return Err(cursor
                .unexpected("`;` or the end of the statement")
                .help("statements are separated by `;`; a point or value with blanks goes in quotes"));
        }
    }
}

impl Statement {
    /// Replaces the variables and makes relative points absolute.
    ///
    /// # Errors
    /// `E-VARIABLE-UNKNOWN` for a variable that is not bound, and what makes a point or a selector wrong, each with
    /// its place in the script.
    pub fn resolve(&self, bindings: &Bindings) -> Result<Command, Problem> {
        self.form.resolve(bindings).map_err(|problem| self.locate(problem))
    }

    /// Whether it makes a resource or changes one's properties.
    pub(crate) fn makes_or_sets(&self) -> bool {
        matches!(self.form, Form::Create { .. } | Form::Set { .. })
    }

    /// Gives a problem that carrying out this statement met its place in the script; one that has a place keeps it.
    pub fn locate(&self, problem: Problem) -> Problem {
        let mut problem = match &problem.place {
            Some(place) if !place.source.is_empty() => return problem,
            Some(_) => within(problem, &self.origin.text, 0),
            None => {
                let (span, label) = self.form.place_of(problem.code).unwrap_or((self.span, "here"));
                problem.in_text(self.origin.text.clone(), span, label)
            }
        };
        if let Some(place) = &mut problem.place {
            place.name.clone_from(&self.origin.name);
        }
        problem
    }

    /// The whole statement as a place, for what is said about it.
    pub fn place(&self, label: impl Into<String>) -> Place {
        Place {
            name: self.origin.name.clone(),
            source: self.origin.text.clone(),
            span: self.span,
            label: label.into(),
        }
    }
}

impl PartialEq for Statement {
    /// Whether they ask for the same, wherever they stand.
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.form.fmt(f)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.statements.iter().try_for_each(|statement| writeln!(f, "{statement};"))
    }
}
