//! A command as it is written, before its variables are known.

use super::grant::Mask;
use super::{Call, Command, CreateMode, DeleteTarget, Grant, Location, Sequence, Target};
use crate::changes::Changes;
use crate::template::{Bindings, Template};
use crate::{Code, Key, Kind, Method, Point, Problem, Span};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Form {
    Create { mode: CreateMode, target: Template, kind: Kind, kind_span: Span, changes: Changes },
    Set { point: Template, changes: Changes },
    Get { point: Template, keys: Vec<Key> },
    Select(Template),
    Delete { target: Template, recursive: bool },
    Publish { source: Template, point: Template },
    Copy { from: End, to: End },
    Read(Template),
    Write { point: Template, content: Body },
    Watch(Template),
    Send(CallForm),
    Request(CallForm),
    Permission { mask: Mask, on: Template, to: Template },
    Privilege { name: String, on: Template, to: Template },
    Super { on: Template, to: Template },
    ListGrants { on: Template },
    Revoke { number: u64 },
    Chown { owner: Template, on: Template },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    Local(Template),
    Point(Template),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CallForm {
    pub(crate) to: Template,
    pub(crate) method: Method,
    /// Empty when none is written.
    pub(crate) path: Template,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    None,
    Text(Template),
    /// JSON as it was written.
    Json(String),
}

impl Form {
    pub(crate) fn resolve(&self, bindings: &Bindings) -> Result<Command, Problem> {
        let point = |template: &Template| template.point(bindings);
        let selector = |template: &Template| template.selector(bindings);
        Ok(match self {
            Form::Create { mode, target, kind, changes, .. } => Command::Create {
                mode: *mode,
                target: resolve_target(target, bindings)?,
                kind: kind.clone(),
                changes: changes.resolve(bindings)?,
            },
            Form::Set { point: at, changes } => {
                Command::Set { point: point(at)?, changes: changes.resolve(bindings)? }
            }
            Form::Get { point: at, keys } => Command::Get { point: point(at)?, keys: keys.clone() },
            Form::Select(what) => Command::Select(selector(what)?),
            Form::Delete { target, recursive } => {
                let selector = selector(target)?;
                let target = match selector.as_point() {
                    Some(point) => DeleteTarget::Point(point.clone()),
                    None => DeleteTarget::Selector(selector),
                };
                Command::Delete { target, recursive: *recursive }
            }
            Form::Publish { source, point: at } => {
                Command::Publish { source: source.text(bindings)?, point: bundle(at, bindings)? }
            }
            Form::Copy { from, to } => {
                Command::Copy { from: from.resolve(bindings)?, to: to.resolve(bindings)? }
            }
            Form::Read(at) => Command::Read(point(at)?),
            Form::Write { point: at, content } => {
                Command::Write { point: point(at)?, content: content.resolve(bindings)? }
            }
            Form::Watch(what) => Command::Watch(selector(what)?),
            Form::Send(call) => Command::Send(call.resolve(bindings)?),
            Form::Request(call) => Command::Request(call.resolve(bindings)?),
            Form::Permission { mask, on, to } => {
                Command::Grant(Grant::Permission { mask: *mask, on: selector(on)?, to: selector(to)? })
            }
            Form::Privilege { name, on, to } => {
                Command::Grant(Grant::Privilege { name: name.clone(), on: selector(on)?, to: selector(to)? })
            }
            Form::Super { on, to } => Command::Grant(Grant::Super { on: selector(on)?, to: selector(to)? }),
            Form::ListGrants { on } => Command::Grant(Grant::List { on: selector(on)? }),
            Form::Revoke { number } => Command::Grant(Grant::Revoke { number: *number }),
            Form::Chown { owner, on } => Command::Chown { owner: point(owner)?, on: selector(on)? },
        })
    }

    /// Finds what can already be known to be wrong, before the variables are known.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let is_final = |template: &Template| template.literal().is_some() && !template.is_relative();
        let none = Bindings::default();
        let points = self.points();
        for template in points.into_iter().filter(|template| is_final(template)) {
            template.point(&none)?;
        }
        for template in self.selectors().into_iter().filter(|template| is_final(template)) {
            template.selector(&none)?;
        }
        match self {
            Form::Create { target, .. } if is_final(target) => resolve_target(target, &none).map(drop),
            Form::Publish { point, .. } if is_final(point) => bundle(point, &none).map(drop),
            _ => Ok(()),
        }
    }

    fn points(&self) -> Vec<&Template> {
        match self {
            Form::Set { point, .. }
            | Form::Get { point, .. }
            | Form::Read(point)
            | Form::Write { point, .. }
            | Form::Chown { owner: point, .. } => vec![point],
            Form::Copy { from, to } => from.point().into_iter().chain(to.point()).collect(),
            Form::Send(call) | Form::Request(call) => vec![&call.to],
            _ => Vec::new(),
        }
    }

    fn selectors(&self) -> Vec<&Template> {
        match self {
            Form::Select(on)
            | Form::Watch(on)
            | Form::Delete { target: on, .. }
            | Form::ListGrants { on }
            | Form::Chown { on, .. } => vec![on],
            Form::Permission { on, to, .. } | Form::Privilege { on, to, .. } | Form::Super { on, to } => {
                vec![on, to]
            }
            _ => Vec::new(),
        }
    }

    /// Where in the statement a problem of this code belongs, and what to write there.
    pub(crate) fn place_of(&self, code: Code) -> Option<(Span, &'static str)> {
        if let Form::Create { kind_span, .. } = self {
            match code {
                Code::KindUnknown => return Some((*kind_span, "not a kind")),
                Code::KindParent => return Some((*kind_span, "cannot stand there")),
                Code::KindReserved => return Some((*kind_span, "not made by hand")),
                Code::KindMismatch => return Some((*kind_span, "another kind")),
                _ => {}
            }
        }
        if let Form::Create { changes, .. } | Form::Set { changes, .. } = self
            && matches!(
                code,
                Code::PropertyKey
                    | Code::PropertyValue
                    | Code::PropertyLocked
                    | Code::ArtifactInvalid
                    | Code::Schema
                    | Code::WasmInvalid
                    | Code::BindSyntax
                    | Code::ConfigSyntax
            )
            && !changes.list.is_empty()
        {
            return Some((changes.span, "refused"));
        }
        let label = match code {
            Code::Exists => "taken",
            Code::NotFound => "nothing there",
            Code::HasChildren => "has children",
            Code::ArchiveInvalid | Code::TooLarge => "refused",
            _ => "here",
        };
        let span = match self {
            Form::Create { target, .. } => target.span,
            Form::Publish { source, .. } if code == Code::ArchiveInvalid => source.span,
            Form::Publish { point, .. } => point.span,
            _ => self.points().into_iter().chain(self.selectors()).next()?.span,
        };
        Some((span, label))
    }
}

pub(super) fn resolve_target(template: &Template, bindings: &Bindings) -> Result<Target, Problem> {
    let text = template.absolute(bindings, |point| point.to_string())?;
    let last = text.rfind(':').map_or(0, |at| at + 1);
    let in_path = text.contains(":/");
    let Some((prefix, suffix)) = text[last..].split_once('%').filter(|_| !in_path) else {
        return template.point_of(&text).map(Target::Point);
    };
    let wrong = |detail: &str| {
        Problem::new(Code::PointSyntax, detail)
            .in_text("", template.span, "not a template")
            .help("the last segment may hold one `%`, which the next number replaces: `shop:cart-%`")
    };
    if suffix.contains('%') {
        return Err(wrong("a template has one `%`"));
    }
    let first = template.point_of(&text.replacen('%', "0", 1))?;
    if first.version().is_some() {
        return Err(wrong("a version cannot be counted"));
    }
    let parent = first.parent().ok_or_else(|| wrong("a template needs a name"))?;
    Ok(Target::Sequence(Sequence { parent, prefix: prefix.to_owned(), suffix: suffix.to_owned() }))
}

/// The point of a bundle: its last segment is a version.
fn bundle(template: &Template, bindings: &Bindings) -> Result<Point, Problem> {
    let point = template.point(bindings)?;
    if point.version().is_some() && point.path().is_none() {
        return Ok(point);
    }
    Err(Problem::new(Code::PointSyntax, "the point of a bundle ends with a version")
        .in_text("", template.span, "no version")
        .help("write it like `shop:repo:site:1.0.0`"))
}

impl End {
    fn point(&self) -> Option<&Template> {
        match self {
            End::Point(template) => Some(template),
            End::Local(_) => None,
        }
    }

    fn resolve(&self, bindings: &Bindings) -> Result<Location, Problem> {
        Ok(match self {
            End::Local(template) => Location::Local(template.text(bindings)?),
            End::Point(template) => Location::Point(template.point(bindings)?),
        })
    }
}

impl CallForm {
    fn resolve(&self, bindings: &Bindings) -> Result<Call, Problem> {
        let path = self.path.text(bindings)?;
        Ok(Call {
            to: self.to.point(bindings)?,
            method: self.method.clone(),
            path: if path.is_empty() { "/".into() } else { path.into() },
            body: self.body.resolve(bindings)?,
        })
    }
}

impl Body {
    fn resolve(&self, bindings: &Bindings) -> Result<String, Problem> {
        match self {
            Body::None => Ok(String::new()),
            Body::Text(text) => text.text(bindings),
            Body::Json(json) => Ok(json.clone()),
        }
    }
}
