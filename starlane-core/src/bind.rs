//! Binds: the contract and the gateway of a resource, outside its code.

mod check;
mod pipeline;
mod print;
mod read;
mod route;

pub use pipeline::{Action, Pipeline};
pub use route::Route;

use std::sync::Arc;

use regex::Regex;

use self::check::Check;
use crate::cursor::within;
use crate::kind::Name;
use crate::template::Template;
use crate::{Method, MethodFamily, Point, Problem};

/// What a resource does with the requests that reach it: rules, of which the first that matches applies.
///
/// Prints in its canonical form, one rule a line. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Bind {
    rules: Arc<[Rule]>,
    origin: Arc<Origin>,
}

#[derive(Debug)]
struct Origin {
    name: String,
    text: String,
}

/// Which requests, and what becomes of them.
#[derive(Debug, Clone)]
struct Rule {
    /// Whether the caller must be signed in.
    auth: bool,
    /// `None` for all families.
    family: Option<MethodFamily>,
    /// `None` for all methods of the family.
    method: Option<Name>,
    /// `None` for all paths.
    path: Option<PathPattern>,
    steps: Vec<Step>,
}

/// A regular expression about a whole path.
#[derive(Debug, Clone)]
struct PathPattern {
    text: String,
    regex: Regex,
}

/// One step: an arrow and where it leads.
#[derive(Debug, Clone)]
struct Step {
    arrow: Arrow,
    stop: Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arrow {
    /// `=>`: what goes on is an answer.
    answer: bool,
    check: Option<Check>,
}

#[derive(Debug, Clone)]
enum Stop {
    /// `&`
    Caller,
    /// `(())`
    Own,
    Point(Address),
    /// A call that rewrites method and path.
    Call {
        to: Address,
        method: Method,
        path: Template,
    },
}

/// The point of a stop, read already when it holds no captures.
#[derive(Debug, Clone)]
struct Address {
    template: Template,
    point: Option<Point>,
}

impl Bind {
    /// Reads a bind; `name` is what its errors call it.
    ///
    /// # Errors
    /// The first mistake, with its place; `E-BIND-SYNTAX` unless it has a name of its own.
    pub fn parse(text: &str, name: &str) -> Result<Self, Problem> {
        let rules = read::read(text).map_err(|problem| problem.in_file(name))?;
        let origin = Arc::new(Origin { name: name.to_owned(), text: text.to_owned() });
        Ok(Self { rules: rules.into(), origin })
    }

    /// The bind as it is for one resource: relative points become absolute, and `${bundle}` the bundle that the bind
    /// came from.
    ///
    /// # Errors
    /// When a relative point leads above `ROOT`, or a point with the bundle in it is none.
    pub fn at(&self, here: &Point, bundle: Option<&Point>) -> Result<Self, Problem> {
        let rules = self.rules.iter().map(|rule| rule.at(here, bundle)).collect::<Result<Vec<_>, _>>();
        let rules =
            rules.map_err(|problem| within(problem, &self.origin.text, 0).in_file(&*self.origin.name))?;
        Ok(Self { rules: rules.into(), origin: Arc::clone(&self.origin) })
    }

    /// Finds the first rule for a request; `path` may carry a query, which no rule sees. `None` when there is none.
    ///
    /// # Errors
    /// `E-MESSAGE-INVALID` (400) when the rule builds a point from a part of the path that cannot be part of one.
    pub fn route(&self, method: &Method, path: &str) -> Result<Option<Route>, Problem> {
        route::find(&self.rules, method, path)
    }

    /// Whether a rule exists for a family of methods. Without one, `Ext` goes to the resource's own code.
    pub fn has_rules_for(&self, family: MethodFamily) -> bool {
        self.rules.iter().any(|rule| rule.family.is_none_or(|known| known == family))
    }
}

impl PartialEq for Bind {
    /// Whether they say the same, however they are written.
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Rule {
    fn at(&self, here: &Point, bundle: Option<&Point>) -> Result<Self, Problem> {
        let mut rule = self.clone();
        for step in &mut rule.steps {
            match &mut step.stop {
                Stop::Point(address) => *address = self.settle(address, here, bundle)?,
                Stop::Call { to, path, .. } => {
                    *to = self.settle(to, here, bundle)?;
                    *path = self.fill_bundle(path, bundle);
                }
                Stop::Caller | Stop::Own => {}
            }
        }
        Ok(rule)
    }

    fn settle(&self, address: &Address, here: &Point, bundle: Option<&Point>) -> Result<Address, Problem> {
        Address::new(self.fill_bundle(&address.template, bundle).seen_from(here)?)
    }

    fn fill_bundle(&self, template: &Template, bundle: Option<&Point>) -> Template {
        template.fill_some(|name| {
            let of_bundle = read::BUNDLE.contains(&name) && !self.captures().any(|capture| capture == name);
            bundle.filter(|_| of_bundle).map(|bundle| bundle.to_string())
        })
    }

    /// The names and numbers of the captures in the path.
    fn captures(&self) -> impl Iterator<Item = String> {
        let names = self.path.iter().flat_map(|path| path.regex.capture_names().enumerate().skip(1));
        names.flat_map(|(number, name)| name.map(str::to_owned).into_iter().chain([number.to_string()]))
    }
}

impl Address {
    /// Reads the point when it is known already.
    fn new(template: Template) -> Result<Self, Problem> {
        let literal = template.literal().filter(|_| !template.is_relative());
        let point = literal.map(|text| template.point_of(text)).transpose()?;
        Ok(Self { template, point })
    }
}
