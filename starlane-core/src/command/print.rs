//! Printing commands in their canonical form.

use std::fmt;

use super::CreateMode;
use super::form::{Body, CallForm, End, Form};
use crate::template::{Bindings, Template, is_plain};

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Create { mode, target, kind, changes, .. } => {
                let sign = match mode {
                    CreateMode::New => "",
                    CreateMode::Ensure => "?",
                    CreateMode::Override => "!",
                };
                write!(f, "create{sign} {target}<{kind}>")?;
                if changes.list.is_empty() { Ok(()) } else { write!(f, "{changes}") }
            }
            Form::Set { point, changes } => write!(f, "set {point}{changes}"),
            Form::Get { point, keys } => {
                write!(f, "get {point}")?;
                if keys.is_empty() {
                    return Ok(());
                }
                let keys: Vec<_> = keys.iter().map(|key| key.as_str()).collect();
                write!(f, "{{ {} }}", keys.join(", "))
            }
            Form::Select(on) => write!(f, "select {}", Select(on)),
            Form::Delete { target, recursive } => {
                write!(f, "delete {}{}", if *recursive { "-r " } else { "" }, Select(target))
            }
            Form::Publish { source, point } => {
                f.write_str("publish ^[ ")?;
                source.write(f, is_plain)?;
                write!(f, " ]-> {point}")
            }
            Form::Copy { from, to } => write!(f, "cp {from} {to}"),
            Form::Read(point) => write!(f, "read {point}"),
            Form::Write { point, content } => write!(f, "write {point}{content}"),
            Form::Watch(on) => write!(f, "watch {}", Select(on)),
            Form::Send(call) => write!(f, "send {call}"),
            Form::Request(call) => write!(f, "request {call}"),
            Form::Permission { mask, on, to } => {
                write!(f, "grant perm {mask} on {} to {}", Select(on), Select(to))
            }
            Form::Privilege { name, on, to } => {
                write!(f, "grant priv {name} on {} to {}", Select(on), Select(to))
            }
            Form::Super { on, to } => write!(f, "grant super on {} to {}", Select(on), Select(to)),
            Form::ListGrants { on } => write!(f, "grant list on {}", Select(on)),
            Form::Revoke { number } => write!(f, "grant revoke {number}"),
            Form::Chown { owner, on } => write!(f, "chown {owner} {}", Select(on)),
        }
    }
}

/// A selector: canonical when all of it is known, else as it was written.
struct Select<'a>(&'a Template);

impl fmt::Display for Select<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.literal().is_some()
            && !self.0.is_relative()
            && let Ok(selector) = self.0.selector(&Bindings::default())
        {
            return selector.fmt(f);
        }
        self.0.write_raw(f)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Local(template) | End::Point(template) => template.fmt(f),
        }
    }
}

impl fmt::Display for CallForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}^{}", self.to, self.method)?;
        self.path.write_raw(f)?;
        self.body.fmt(f)
    }
}

impl fmt::Display for Body {
    /// With the blank before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::None => Ok(()),
            Body::Json(json) => write!(f, " {json}"),
            Body::Text(text) => {
                f.write_str(" ")?;
                text.write(f, is_plain)
            }
        }
    }
}
