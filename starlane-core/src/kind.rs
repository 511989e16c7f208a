//! Kinds: what a resource is, and what it may stand under.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cursor::shorten;
use crate::nearest::did_you_mean;
use crate::{Code, Problem, Span};

/// A name in Pascal case, as kinds and methods have: `Order`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in kebab case, as it stands in a point: `LineItem` is `line-item`.
    pub fn to_kebab(&self) -> String {
        let mut kebab = String::with_capacity(self.0.len() + 4);
        for (at, c) in self.0.char_indices() {
            if c.is_ascii_uppercase() && at > 0 {
                kebab.push('-');
            }
            kebab.push(c.to_ascii_lowercase());
        }
        kebab
    }

    /// The name that a kebab-case segment stands for: `line-item` is `LineItem`; `None` when it cannot be one.
    pub fn from_kebab(segment: &str) -> Option<Self> {
        let mut name = String::with_capacity(segment.len());
        for part in segment.split('-') {
            let mut chars = part.chars();
            name.push(chars.next()?.to_ascii_uppercase());
            name.push_str(chars.as_str());
        }
        name.parse().ok()
    }
}

impl FromStr for Name {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, KindError> {
        let proper = text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.len() <= 63
            && text.chars().all(|c| c.is_ascii_alphanumeric());
        if proper { Ok(Self(Arc::from(text))) } else { Err(KindError(text.to_owned())) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not written like a kind: `Name`, `Name<Sub>` or `Name<Sub<provider:vendor:product:variant:version>>`"
)]
pub struct KindError(pub String);

/// The base of a kind: one of those built in, or a user's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Base {
    /// What stands above everything.
    Root,
    /// A host or domain; the first segment of most points.
    Space,
    /// A plain branch.
    Base,
    /// A resource with a configuration, and usually code of its own.
    App,
    /// A Wasm actor.
    Mechtron,
    /// Holds files.
    FileSystem,
    /// A file or a directory.
    File,
    /// Holds bundle series.
    Repo,
    /// Holds the versions of a bundle.
    BundleSeries,
    /// An immutable, versioned set of artifacts.
    Bundle,
    /// A file or a directory in a bundle.
    Artifact,
    /// A person or a program that acts.
    User,
    /// A process of the mesh.
    Node,
    /// What joins two nodes.
    Link,
    /// The declaration of a user's kind.
    Kind,
    /// A door for services without Wasm.
    Portal,
    /// A kind that a user declared.
    Custom(Name),
}

const BUILT_IN: [(&str, Base); 16] = [
    ("Root", Base::Root),
    ("Space", Base::Space),
    ("Base", Base::Base),
    ("App", Base::App),
    ("Mechtron", Base::Mechtron),
    ("FileSystem", Base::FileSystem),
    ("File", Base::File),
    ("Repo", Base::Repo),
    ("BundleSeries", Base::BundleSeries),
    ("Bundle", Base::Bundle),
    ("Artifact", Base::Artifact),
    ("User", Base::User),
    ("Node", Base::Node),
    ("Link", Base::Link),
    ("Kind", Base::Kind),
    ("Portal", Base::Portal),
];

impl Base {
    /// The kinds that need no declaration.
    pub fn built_in() -> impl Iterator<Item = Base> {
        BUILT_IN.iter().map(|(_, base)| base.clone())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        if let Base::Custom(name) = self {
            return name.as_str();
        }
        BUILT_IN.iter().find(|(_, base)| base == self).map_or("", |(name, _)| name)
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a resource is: `Mechtron`, `Database<Relational>`,
/// `Database<Relational<uberscott.com:postgres:postgres:gis:8.0.0>>`.
///
/// Cloning is cheap. The aliases `ArtifactBundleSeries`, `ArtifactBundle` and `Base<Repo>` are accepted and read
/// as what they stand for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// What it is in the first place.
    pub base: Base,
    /// What it is more exactly.
    pub sub: Option<Sub>,
}

/// The second level of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sub {
    /// Its name.
    pub name: Name,
    /// The product that fulfils it.
    pub specific: Option<Specific>,
}

/// The product that fulfils a kind: `provider:vendor:product:variant:version`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Specific(Arc<str>);

impl Specific {
    /// The five parts joined by `:`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Specific {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, KindError> {
        let wrong = || KindError(text.to_owned());
        let parts: Vec<&str> = text.split(':').collect();
        let [provider, vendor, product, variant, version] = parts[..] else { return Err(wrong()) };
        let plain = |part: &str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
        };
        let version_ok = semver::Version::parse(version).is_ok_and(|version| version.build.is_empty());
        if text.len() <= 255 && [provider, vendor, product, variant].into_iter().all(plain) && version_ok {
            Ok(Self(Arc::from(text)))
        } else {
            Err(wrong())
        }
    }
}

impl Kind {
    /// A kind without a sub-kind.
    pub const fn of(base: Base) -> Self {
        Self { base, sub: None }
    }
}

impl FromStr for Kind {
    type Err = KindError;

    /// Reads a kind with or without its outer brackets.
    fn from_str(text: &str) -> Result<Self, KindError> {
        let wrong = || KindError(text.to_owned());
        let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(text);
        let (base, sub) = split_bracket(inner).ok_or_else(wrong)?;
        let sub = match sub {
            None => None,
            Some(sub) => {
                let (name, specific) = split_bracket(sub).ok_or_else(wrong)?;
                let name = name.parse().map_err(|_| wrong())?;
                Some(Sub { name, specific: specific.map(str::parse).transpose().map_err(|_| wrong())? })
            }
        };
        if base == "Base" && sub.as_ref().is_some_and(|s| s.name.as_str() == "Repo" && s.specific.is_none()) {
            return Ok(Kind::of(Base::Repo));
        }
        let base = match base {
            "ArtifactBundleSeries" => Base::BundleSeries,
            "ArtifactBundle" => Base::Bundle,
            name => match BUILT_IN.iter().find(|(known, _)| *known == name) {
                Some((_, base)) => base.clone(),
                None => Base::Custom(name.parse().map_err(|_| wrong())?),
            },
        };
        Ok(Kind { base, sub })
    }
}

impl Kind {
    /// Reads a kind as [`FromStr`] does, and says what to write instead when it is none.
    ///
    /// # Errors
    /// `E-KIND-SYNTAX`. A name that nobody declared is fine here: whoever knows the declared kinds refuses it with
    /// [`kind_unknown`].
    pub fn parse_with_help(text: &str) -> Result<Kind, Problem> {
        text.parse().map_err(|_| {
            let span = Span { start: 0, end: text.len() };
            let detail = if text.is_empty() {
                "a kind cannot be empty".to_owned()
            } else {
                format!("`{}` is not written like a kind", shorten(text))
            };
            let problem = Problem::new(Code::KindSyntax, detail).in_text(text, span, "not a kind");
            problem.help(writing_help(text))
        })
    }
}

/// What to write instead of a text that is no kind.
pub(crate) fn writing_help(text: &str) -> String {
    let name = text.trim_start_matches('<').split(['<', '>']).next().unwrap_or_default();
    let general =
        "kinds are written `Name`, `Name<Sub>` or `Name<Sub<provider:vendor:product:variant:version>>`";
    if name.parse::<Name>().is_ok() || name.is_empty() {
        return general.to_owned();
    }
    if let Some(help) = did_you_mean(name, BUILT_IN.iter().map(|(name, _)| *name)) {
        return help;
    }
    let kebab = name.replace(['_', ' '], "-").to_ascii_lowercase();
    match Name::from_kebab(&kebab) {
        Some(pascal) => format!("kinds are written in Pascal case: `{pascal}`"),
        None => general.to_owned(),
    }
}

/// The problem that a kind is neither built in nor declared. `declared` are the names of the kinds that could have
/// been meant besides those built in.
pub fn kind_unknown<'a>(name: &str, declared: impl IntoIterator<Item = &'a str>) -> Problem {
    let known = BUILT_IN.iter().map(|(name, _)| *name).chain(declared);
    let help = did_you_mean(name, known).unwrap_or_else(|| match name.parse::<Name>() {
        Ok(own) => format!("declare it first: `create mesh:kinds:{}<Kind>`", own.to_kebab()),
        Err(_) => writing_help(name),
    });
    Problem::new(Code::KindUnknown, format!("no kind `{name}`")).help(help)
}

/// Splits `a<b>` into `a` and `b`; a text without brackets stays whole.
fn split_bracket(text: &str) -> Option<(&str, Option<&str>)> {
    match text.find('<') {
        None => (!text.contains('>')).then_some((text, None)),
        Some(at) => Some((&text[..at], Some(text[at + 1..].strip_suffix('>')?))),
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.as_str())?;
        match &self.sub {
            None => Ok(()),
            Some(Sub { name, specific: None }) => write!(f, "<{name}>"),
            Some(Sub { name, specific: Some(specific) }) => write!(f, "<{name}<{}>>", specific.as_str()),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{self}>")
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_print_as_they_read() {
        for text in ["Space", "Order", "Database<Relational>", "Database<Relational<a.com:v:p:x:8.0.0>>"] {
            assert_eq!(text.parse::<Kind>().unwrap().to_string(), text);
            assert_eq!(format!("<{text}>").parse::<Kind>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn aliases_read_as_what_they_stand_for() {
        for (alias, kind) in
            [("ArtifactBundleSeries", "BundleSeries"), ("ArtifactBundle", "Bundle"), ("Base<Repo>", "Repo")]
        {
            assert_eq!(alias.parse::<Kind>().unwrap().to_string(), kind);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "order", "A<", "A<b>", "A<B<x>>", "A>", "A<B>>", "A-B", "A<B<a:b:c:d:1.0>>"] {
            assert!(text.parse::<Kind>().is_err(), "{text}");
        }
    }

    #[test]
    fn slips_in_kinds_get_help() {
        for (text, help) in [
            ("mechtron", "did you mean `Mechtron`?"),
            (
                "<Bundel<>>",
                "kinds are written `Name`, `Name<Sub>` or `Name<Sub<provider:vendor:product:variant:version>>`",
            ),
            ("line-item", "kinds are written in Pascal case: `LineItem`"),
            ("line_item", "kinds are written in Pascal case: `LineItem`"),
        ] {
            let problem = Kind::parse_with_help(text).unwrap_err();
            assert_eq!((problem.code, problem.help.as_deref()), (Code::KindSyntax, Some(help)), "{text}");
        }
        assert_eq!(kind_unknown("Mechatron", []).help.unwrap(), "did you mean `Mechtron`?");
        assert_eq!(kind_unknown("Ordr", ["Order"]).help.unwrap(), "did you mean `Order`?");
        assert_eq!(
            kind_unknown("LineItem", ["Order"]).help.unwrap(),
            "declare it first: `create mesh:kinds:line-item<Kind>`"
        );
    }

    #[test]
    fn kebab_and_pascal_case_are_one_name() {
        for (kebab, pascal) in [("order", "Order"), ("line-item", "LineItem")] {
            let name = Name::from_kebab(kebab).unwrap();
            assert_eq!((name.as_str(), name.to_kebab().as_str()), (pascal, kebab));
        }
        assert_eq!(Name::from_kebab("2d"), None);
    }
}
