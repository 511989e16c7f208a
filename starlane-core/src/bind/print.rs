//! Printing binds in their canonical form: one rule a line.

use std::fmt;

use super::{Arrow, Bind, Rule, Stop};

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bind(version=1.0.0) {\n")?;
        self.rules.iter().try_for_each(|rule| writeln!(f, "    {rule};"))?;
        f.write_str("}\n")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.family.map_or("*".to_owned(), |family| family.to_string());
        let method = self.method.as_ref().map_or("*", |name| name.as_str());
        match self.auth {
            true => write!(f, "Route(auth)<{family}<{method}>>")?,
            false => write!(f, "{family}<{method}>")?,
        }
        if let Some(path) = &self.path {
            f.write_str(&path.text)?;
        }
        self.steps.iter().try_for_each(|step| write!(f, " {} {}", step.arrow, step.stop))
    }
}

impl fmt::Display for Arrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.answer, self.check) {
            (false, None) => f.write_str("->"),
            (true, None) => f.write_str("=>"),
            (false, Some(check)) => write!(f, "-[ {} ]->", check.as_str()),
            (true, Some(check)) => write!(f, "=[ {} ]=>", check.as_str()),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Caller => f.write_str("&"),
            Stop::Own => f.write_str("(())"),
            Stop::Point(to) => to.template.fmt(f),
            Stop::Call { to, method, path } => {
                write!(f, "{}^{method}", to.template)?;
                path.write_raw(f)
            }
        }
    }
}
