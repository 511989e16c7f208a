//! Configs: what a bundle says about the resource that is made with it.

use std::fmt;
use std::sync::Arc;

use crate::changes::{self, Change, Changes};
use crate::cursor::{Cursor, is_word, shorten, within};
use crate::nearest::did_you_mean;
use crate::script::{self, Origin};
use crate::template::Template;
use crate::{
    Base, Bindings, Code, Command, Key, Kind, Point, Problem, PropertyChange, Statement, command, header,
};

/// The variables that a config knows; both are the bundle that it came from.
const BUNDLE: [&str; 2] = ["bundle", "self.config.bundle"];
/// The names by which `Wasm` calls its properties, and the properties.
const WASM: [(&str, &str); 2] = [("bin", "wasm.src"), ("name", "mechtron.name")];
/// The most names an `Env` may have.
const ENV_MAX: usize = 256;

/// A config as it is written: `App { Set {…} Env {…} Install {…} }`, or the newer `Mechtron { Wasm {…} }`, which is
/// read as what it stands for. Prints in its canonical form.
#[derive(Debug, Clone)]
pub struct Config {
    kind: Base,
    set: Vec<Change>,
    env: Vec<Variable>,
    install: Vec<Statement>,
    origin: Arc<Origin>,
}

/// One entry of `Env`: `users<Base> = .:users`, or `max = 100`.
#[derive(Debug, Clone)]
struct Variable {
    name: String,
    value: VariableValue,
}

#[derive(Debug, Clone)]
enum VariableValue {
    Point { kind: Option<Kind>, point: Template },
    Json(Arc<serde_json::Value>),
}

/// What an entry of `Env` gives to the resource's code.
#[derive(Debug, Clone, PartialEq)]
pub enum EnvValue {
    /// The point of another resource, and the kind that it should have.
    Point(Point, Option<Kind>),
    /// A number, a text in quotes, `true`, `false`, a list or an object.
    Json(Arc<serde_json::Value>),
}

/// What a config means for one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedConfig {
    /// What kind of resource it is for.
    pub kind: Base,
    /// The properties that the resource gets.
    pub set: Vec<PropertyChange>,
    /// What the resource's code knows by name.
    pub env: Vec<(String, EnvValue)>,
    /// What is done in order when the resource is created.
    pub install: Vec<Command>,
}

impl Config {
    /// Reads a config; `name` is what its errors call it.
    ///
    /// # Errors
    /// The first mistake, with its place; `E-CONFIG-SYNTAX` unless it has a name of its own. Unknown variables are
    /// found here.
    pub fn parse(text: &str, name: &str) -> Result<Self, Problem> {
        let origin = Arc::new(Origin { name: name.to_owned(), text: text.to_owned() });
        let parse = || {
            let mut cursor = Cursor::new(text, Code::ConfigSyntax)?;
            let config = read(&mut cursor, &origin)?;
            if cursor.is_done() { Ok(config) } else { Err(cursor.unexpected("the end of the config")) }
        };
        let config = parse().map_err(|problem| problem.in_file(name))?;
        config.check_variables()?;
        Ok(config)
    }

    /// Says what the config means: `bundle` is where it came from, `here` the resource that is made with it.
    ///
    /// # Errors
    /// What makes one of its points wrong, with its place.
    pub fn resolve(&self, bundle: &Point, here: &Point) -> Result<ResolvedConfig, Problem> {
        let bindings = BUNDLE
            .into_iter()
            .fold(Bindings { here: Some(here.clone()), ..Bindings::default() }, |bindings, name| {
                bindings.with(name, bundle.as_str())
            });
        let set = Changes { list: self.set.clone(), ..Changes::default() }.resolve(&bindings);
        let env = self.env.iter().map(|variable| {
            let value = match &variable.value {
                VariableValue::Point { kind, point } => {
                    EnvValue::Point(point.point(&bindings)?, kind.clone())
                }
                VariableValue::Json(json) => EnvValue::Json(Arc::clone(json)),
            };
            Ok((variable.name.clone(), value))
        });
        Ok(ResolvedConfig {
            kind: self.kind.clone(),
            set: set.map_err(|problem| self.locate(problem))?,
            env: env.collect::<Result<_, _>>().map_err(|problem| self.locate(problem))?,
            install: self
                .install
                .iter()
                .map(|statement| statement.resolve(&bindings))
                .collect::<Result<_, _>>()?,
        })
    }

    /// What kind of resource it is for.
    pub fn kind(&self) -> &Base {
        &self.kind
    }

    /// Gives a problem that carrying out a statement of `Install` met its place in the config. `number` counts them from 0.
    pub fn locate_installed(&self, number: usize, problem: Problem) -> Problem {
        match self.install.get(number) {
            Some(statement) => statement.locate(problem),
            None => problem,
        }
    }

    fn locate(&self, problem: Problem) -> Problem {
        within(problem, &self.origin.text, 0).in_file(&*self.origin.name)
    }

    /// Finds variables that no bundle and no resource could make known.
    fn check_variables(&self) -> Result<(), Problem> {
        let examples = "a:a:a:1.0.0".parse().and_then(|bundle: Point| Ok((bundle, "a:a".parse()?)));
        let Ok((bundle, here)) = examples else { return Ok(()) };
        match self.resolve(&bundle, &here) {
            Err(problem) if problem.code == Code::VariableUnknown => Err(problem),
            _ => Ok(()),
        }
    }
}

fn read(cursor: &mut Cursor<'_>, origin: &Arc<Origin>) -> Result<Config, Problem> {
    cursor.trivia();
    let span = cursor.token();
    let kind = match cursor.word() {
        "App" => Base::App,
        "Mechtron" => Base::Mechtron,
        "" => {
            return Err(cursor.unexpected("`App` or `Mechtron`").help("a config begins like `App {`"));
        }
        other => {
            let help = did_you_mean(other, ["App", "Mechtron"])
                .unwrap_or_else(|| "a config begins with `App {` or `Mechtron {`".to_owned());
            let detail = format!("there are no configs of a `{}`", shorten(other));
            return Err(cursor.problem(span, detail, "not known").help(help));
        }
    };
    header::version(cursor)?;
    let mut config =
        Config { kind, set: Vec::new(), env: Vec::new(), install: Vec::new(), origin: Arc::clone(origin) };
    cursor.trivia();
    let start = cursor.at();
    cursor.expect("{", "after the kind of the config")?;
    loop {
        while cursor.next_is(";") || cursor.next_is(",") {}
        if cursor.eat("}") {
            return Ok(config);
        }
        if cursor.rest().is_empty() {
            return Err(changes::unclosed(cursor, start));
        }
        section(cursor, &mut config)?;
    }
}

fn section(cursor: &mut Cursor<'_>, config: &mut Config) -> Result<(), Problem> {
    let span = cursor.token();
    match cursor.word() {
        "Set" => {
            let changes = block(cursor)?;
            set(cursor, config, changes)
        }
        "Wasm" => {
            let mut changes = block(cursor)?;
            for change in &mut changes.list {
                let known = WASM.iter().find(|(name, _)| *name == change.key().as_str());
                match (known.and_then(|(_, key)| key.parse::<Key>().ok()), &mut *change) {
                    (Some(full), Change::Set { key, .. }) => *key = full,
                    _ => {
                        let detail = format!("`Wasm` knows no `{}`", change.key());
                        let problem = cursor.problem(changes.span, detail, "not known");
                        return Err(
                            problem.help("it knows `+bin=` and `+name=`; other properties go into `Set`")
                        );
                    }
                }
            }
            set(cursor, config, changes)
        }
        "Env" => env(cursor, config),
        "Install" => {
            cursor.trivia();
            let start = cursor.at();
            cursor.expect("{", "after `Install`")?;
            let origin = Arc::clone(&config.origin);
            let at_end = |cursor: &Cursor<'_>| cursor.rest().is_empty() || cursor.looks_at("}");
            let statements = script::read(cursor, &origin, at_end)?;
            if let Some(other) = statements.iter().find(|statement| !statement.makes_or_sets()) {
                let detail = "an `Install` holds `create` and `set` statements only";
                let problem = cursor.problem(other.span, detail, "neither of them");
                return Err(problem.help("leave it out, and type it when the resource is there"));
            }
            config.install.extend(statements);
            if cursor.eat("}") { Ok(()) } else { Err(changes::unclosed(cursor, start)) }
        }
        "" => {
            Err(cursor.unexpected("a section or `}`").help("sections are `Set`, `Env`, `Install` and `Wasm`"))
        }
        other => {
            let sections = ["Set", "Env", "Install", "Wasm"];
            let help = did_you_mean(other, sections)
                .unwrap_or_else(|| "sections are `Set`, `Env`, `Install` and `Wasm`".to_owned());
            let detail = format!("a config has no section `{}`", shorten(other));
            Err(cursor.problem(span, detail, "not a section").help(help))
        }
    }
}

fn block(cursor: &mut Cursor<'_>) -> Result<Changes, Problem> {
    cursor.trivia();
    Changes::read(cursor)
}

fn set(cursor: &Cursor<'_>, config: &mut Config, changes: Changes) -> Result<(), Problem> {
    let twice = changes.list.iter().find(|new| config.set.iter().any(|old| old.key() == new.key()));
    if let Some(change) = twice {
        let detail = format!("`{}` is set twice", change.key());
        return Err(cursor.problem(changes.span, detail, "again"));
    }
    config.set.extend(changes.list);
    Ok(())
}

fn env(cursor: &mut Cursor<'_>, config: &mut Config) -> Result<(), Problem> {
    cursor.trivia();
    let start = cursor.at();
    cursor.expect("{", "after `Env`")?;
    loop {
        while cursor.next_is(";") || cursor.next_is(",") {}
        if cursor.eat("}") {
            return Ok(());
        }
        if cursor.rest().is_empty() {
            return Err(changes::unclosed(cursor, start));
        }
        let span = cursor.token();
        let name = cursor.word().to_owned();
        if name.is_empty() {
            return Err(cursor.unexpected("a name").help("write it like `users<Base> = .:users`"));
        }
        if config.env.iter().any(|known| known.name == name) {
            return Err(cursor.problem(span, format!("`{name}` is named twice"), "again"));
        }
        if config.env.len() == ENV_MAX {
            return Err(cursor.problem(span, format!("`Env` has at most {ENV_MAX} names"), "one too many"));
        }
        cursor.trivia();
        let kind = if cursor.looks_at("<") { Some(command::kind(cursor)?.0) } else { None };
        if !cursor.next_is("=") {
            return Err(cursor
                .unexpected("`=` and a point or a value")
                .help(format!("write it like `{name} = .:{name}`, or `{name} = 100`")));
        }
        let value = variable_value(cursor, kind)?;
        config.env.push(Variable { name, value });
        cursor.trivia();
        if !cursor.looks_at(",")
            && !cursor.looks_at(";")
            && !cursor.looks_at("}")
            && !cursor.rest().is_empty()
        {
            return Err(cursor.unexpected("`,` or `}`"));
        }
    }
}

/// Reads what an entry of `Env` is: a point, unless it begins as only a value can.
fn variable_value(cursor: &mut Cursor<'_>, kind: Option<Kind>) -> Result<VariableValue, Problem> {
    cursor.trivia();
    if kind.is_none() {
        if matches!(cursor.peek(), Some('{' | '[' | '"')) {
            return changes::json(cursor).map(|(json, _)| VariableValue::Json(json));
        }
        // A number or a word alone; with more after it, it is a point.
        let rest = cursor.rest();
        let end = rest.find(|c: char| !(is_word(c) || matches!(c, ':' | '.' | '+'))).unwrap_or(rest.len());
        if let Ok(json @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) =
            serde_json::from_str(&rest[..end])
        {
            cursor.skip(end);
            return Ok(VariableValue::Json(Arc::new(json)));
        }
    }
    let span = cursor.token();
    let point = command::point(cursor)?;
    // In quotes it would be a text.
    if point.to_string().starts_with('"') {
        let detail = format!("`{}` is not a point that can stand here", shorten(&point.to_string()));
        return Err(cursor.problem(span, detail, "not a point").help("a text goes in quotes"));
    }
    if let Some(text) = point.literal().filter(|_| !point.is_relative()) {
        point.point_of(text).map_err(|problem| within(problem, cursor.source(), 0))?;
    }
    Ok(VariableValue::Point { kind, point })
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {{", self.kind)?;
        if !self.set.is_empty() {
            writeln!(f, "    Set {}", Changes { list: self.set.clone(), ..Changes::default() })?;
        }
        if !self.env.is_empty() {
            writeln!(f, "    Env {{")?;
            for Variable { name, value } in &self.env {
                match value {
                    VariableValue::Point { kind: Some(kind), point } => {
                        writeln!(f, "        {name}<{kind}> = {point},")?;
                    }
                    VariableValue::Point { kind: None, point } => writeln!(f, "        {name} = {point},")?,
                    VariableValue::Json(json) => writeln!(f, "        {name} = {json},")?,
                }
            }
            writeln!(f, "    }}")?;
        }
        if !self.install.is_empty() {
            writeln!(f, "    Install {{")?;
            for statement in &self.install {
                writeln!(f, "        {statement};")?;
            }
            writeln!(f, "    }}")?;
        }
        f.write_str("}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_need_quotes_is_no_point_in_env() {
        let problem = Config::parse("App { Env { f = .+:**.:x } }", "").unwrap_err();
        assert_eq!(problem.place.unwrap().label, "not a point");
    }

    #[test]
    fn env_gives_points_and_values() {
        let text = r#"App { Env { users<Base> = .:users, max = -1.5e3; name = "Bob", on = true, prices = {"a": [1]}, one = 1:2 } }"#;
        let config = Config::parse(text, "").unwrap();
        let [bundle, here] = ["a:r:s:1.0.0", "a:b"].map(|text| text.parse().unwrap());
        let env = config.resolve(&bundle, &here).unwrap().env;
        let json = |value: serde_json::Value| EnvValue::Json(value.into());
        assert_eq!(
            env.into_iter().map(|(_, value)| value).collect::<Vec<_>>(),
            [
                EnvValue::Point("a:b:users".parse().unwrap(), Some(Kind::of(Base::Base))),
                json(serde_json::json!(-1.5e3)),
                json("Bob".into()),
                json(true.into()),
                json(serde_json::json!({ "a": [1] })),
                EnvValue::Point("1:2".parse().unwrap(), None),
            ]
        );
        assert_eq!(Config::parse(&config.to_string(), "").unwrap().to_string(), config.to_string());
    }
}
