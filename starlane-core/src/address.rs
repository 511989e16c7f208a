//! Points: the addresses of resources.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most levels a point may have; every path component counts as one.
const LEVELS_MAX: usize = 64;
/// The longest single segment, in bytes.
const SEGMENT_BYTES_MAX: usize = 255;
/// The longest point, in bytes.
const POINT_BYTES_MAX: usize = 4096;

const ROOT: &str = "ROOT";

/// The address of a resource: `shop:orders:o-17`, `shop:repo:site:1.0.0:/bind/site.bind`, `ROOT`.
///
/// A `Point` is always absolute, without variables, and within the bounds of the language. Cloning is cheap.
/// Points order by their text, so that everything under a point stands close to it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point(Arc<str>);

/// Why a text is no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PointError {
    /// Where in the text the trouble begins, in bytes.
    pub at: usize,
    /// How many bytes it covers; at least one unless the text is empty.
    pub length: usize,
    /// What is wrong, in words.
    pub reason: String,
}

impl Point {
    /// The point above all others.
    pub fn root() -> Self {
        Self(Arc::from(ROOT))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `ROOT`.
    pub fn is_root(&self) -> bool {
        &*self.0 == ROOT
    }

    /// The first segment, usually a Space; `None` for `ROOT`.
    pub fn space(&self) -> Option<&str> {
        (!self.is_root()).then(|| self.0.split(':').next().unwrap_or_default())
    }

    /// The part before `:/`, and the path from its `/` on when there is one.
    pub fn split_path(&self) -> (&str, Option<&str>) {
        match self.0.find(":/") {
            Some(at) => (&self.0[..at], Some(&self.0[at + 1..])),
            None => (&self.0, None),
        }
    }

    /// The path with its leading `/`, when the point has one.
    pub fn path(&self) -> Option<&str> {
        self.split_path().1
    }

    /// The resource that holds the path: the FileSystem of a file, the Bundle of an artifact, else itself.
    pub fn holder(&self) -> Point {
        Point(Arc::from(self.split_path().0))
    }

    /// Whether the point names a directory: its path ends with `/`.
    pub fn is_directory(&self) -> bool {
        self.path().is_some_and(|path| path.ends_with('/'))
    }

    /// The segments from the first on; each component of a path is one, and a directory keeps its trailing `/`.
    /// The root directory `:/` is one segment, `/`. `ROOT` has none.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        let (front, path) = if self.is_root() { ("", None) } else { self.split_path() };
        let components = path.unwrap_or_default();
        let components = if components == "/" { components } else { components.trim_start_matches('/') };
        front.split(':').chain(components.split_inclusive('/')).filter(|level| !level.is_empty()).map(
            |level| {
                if level == "/" { level } else { level.trim_end_matches('/') }
            },
        )
    }

    /// How many levels below `ROOT` the point stands.
    pub fn depth(&self) -> usize {
        self.levels().count()
    }

    /// The last segment: a name, a version, or the last component of a path (with its `/` when a directory).
    pub fn last(&self) -> &str {
        let text = &*self.0;
        match self.split_path() {
            (_, Some("/")) => "/",
            (_, Some(path)) => {
                let body = path.strip_suffix('/').unwrap_or(path);
                &path[body.rfind('/').map_or(0, |at| at + 1)..]
            }
            (_, None) => &text[text.rfind(':').map_or(0, |at| at + 1)..],
        }
    }

    /// The point one level above; `None` for `ROOT`. The parent of a file in the root directory is its holder.
    pub fn parent(&self) -> Option<Point> {
        if self.is_root() {
            return None;
        }
        let (front, path) = self.split_path();
        let parent = match path {
            Some(path) => {
                let body = path.strip_suffix('/').unwrap_or(path);
                match body.rfind('/') {
                    None | Some(0) => front,
                    Some(at) => &self.0[..front.len() + 1 + at + 1],
                }
            }
            None => match front.rfind(':') {
                Some(at) => &front[..at],
                None => ROOT,
            },
        };
        Some(Point(Arc::from(parent)))
    }

    /// All points above this one, nearest first, `ROOT` last.
    pub fn ancestors(&self) -> impl Iterator<Item = Point> {
        std::iter::successors(self.parent(), Point::parent)
    }

    /// The point one segment (or, after `:/`, one path component) below.
    ///
    /// # Errors
    /// When the segment is not one, or the result is out of bounds.
    pub fn child(&self, segment: &str) -> Result<Point, PointError> {
        if self.is_root() {
            return segment.parse();
        }
        let joint = if self.is_directory() { "" } else { ":" };
        format!("{}{joint}{segment}", self.0).parse()
    }

    /// The point of a path inside this holder; `path` begins with `/`.
    ///
    /// # Errors
    /// When the path is not a safe one.
    pub fn join_path(&self, path: &str) -> Result<Point, PointError> {
        format!("{}:{path}", self.split_path().0).parse()
    }

    /// Whether `other` is this point or stands below it.
    pub fn contains(&self, other: &Point) -> bool {
        if self.is_root() || self == other {
            return true;
        }
        let (this, that) = (&*self.0, &*other.0);
        that.len() > this.len()
            && that.starts_with(this)
            && (self.is_directory() || self.path().is_none() && that.as_bytes()[this.len()] == b':')
    }

    /// The version segment, when the point is a Bundle or stands in one.
    pub fn version(&self) -> Option<semver::Version> {
        let (front, _) = self.split_path();
        let last = &front[front.rfind(':')? + 1..];
        semver::Version::parse(last).ok()
    }
}

impl FromStr for Point {
    type Err = PointError;

    fn from_str(text: &str) -> Result<Self, PointError> {
        check(text)?;
        Ok(Point(Arc::from(text)))
    }
}

fn refuse(at: usize, length: usize, reason: impl Into<String>) -> PointError {
    PointError { at, length, reason: reason.into() }
}

fn check(text: &str) -> Result<(), PointError> {
    if text.is_empty() {
        return Err(refuse(0, 0, "a point cannot be empty"));
    }
    if text == ROOT {
        return Ok(());
    }
    if text.len() > POINT_BYTES_MAX {
        return Err(refuse(
            0,
            text.len(),
            format!("a point has at most {POINT_BYTES_MAX} bytes, this one {}", text.len()),
        ));
    }
    let (front, path) = match text.find(":/") {
        Some(at) => (&text[..at], Some((at + 1, &text[at + 1..]))),
        None => (text, None),
    };
    let mut levels = 0;
    let mut at = 0;
    let mut version = false;
    for segment in front.split(':') {
        if version {
            return Err(refuse(at, segment.len().max(1), "after a version only a path may follow: `:/…`"));
        }
        version = check_segment(segment, at)?;
        at += segment.len() + 1;
        levels += 1;
    }
    if let Some((start, path)) = path {
        levels += check_path(path, start)?;
    }
    if levels > LEVELS_MAX {
        return Err(refuse(
            0,
            text.len(),
            format!("a point has at most {LEVELS_MAX} segments, this one {levels}"),
        ));
    }
    Ok(())
}

/// Checks one segment that begins at `at`; tells whether it is a version.
fn check_segment(segment: &str, at: usize) -> Result<bool, PointError> {
    if segment.is_empty() {
        return Err(refuse(at, 1, "a segment is empty"));
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        let reason = format!("a segment has at most {SEGMENT_BYTES_MAX} bytes, this one {}", segment.len());
        return Err(refuse(at, segment.len(), reason));
    }
    if at == 0 {
        return check_space(segment).map(|()| false);
    }
    if let Some(offset) =
        segment.find('+').filter(|offset| semver::Version::parse(segment).is_ok() && *offset > 0)
    {
        return Err(refuse(
            at + offset,
            segment.len() - offset,
            "build metadata is not allowed in a version",
        ));
    }
    if semver::Version::parse(segment).is_ok() {
        return Ok(true);
    }
    if let Some((offset, other)) =
        segment.char_indices().find(|(_, c)| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'))
    {
        let reason = if other.is_ascii_uppercase() {
            format!("a segment is lowercase: `{}`", segment.to_lowercase())
        } else if other == '.' {
            "only the first segment may hold dots; a version has three numbers: `1.0.0`".to_owned()
        } else {
            format!("`{}` cannot stand in a segment: a-z, 0-9 and `-` can", other.escape_debug())
        };
        return Err(refuse(at + offset, other.len_utf8(), reason));
    }
    if segment.starts_with('-') {
        return Err(refuse(at, 1, "a segment begins with a letter or a digit"));
    }
    Ok(false)
}

fn check_space(segment: &str) -> Result<(), PointError> {
    if let Some((offset, other)) = segment
        .char_indices()
        .find(|(_, c)| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.')))
    {
        let reason = if other.is_ascii_uppercase() {
            format!("the first segment is a lowercase host or domain name: `{}`", segment.to_lowercase())
        } else {
            format!("`{}` cannot stand in a host or domain name", other.escape_debug())
        };
        return Err(refuse(offset, other.len_utf8(), reason));
    }
    let mut at = 0;
    for label in segment.split('.') {
        if label.is_empty() || label.starts_with('-') || label.ends_with('-') {
            let reason = "each label of a host name begins and ends with a letter or a digit";
            return Err(refuse(
                at,
                label.len().max(1).min(segment.len() - at.min(segment.len() - 1)),
                reason,
            ));
        }
        at += label.len() + 1;
    }
    if semver::Version::parse(segment).is_ok() {
        return Err(refuse(0, segment.len(), "a version cannot be the first segment"));
    }
    Ok(())
}

/// Checks a path that begins at `start` with `/`; tells how many levels it adds.
fn check_path(path: &str, start: usize) -> Result<usize, PointError> {
    if path == "/" {
        return Ok(1);
    }
    let mut at = start + 1;
    let mut levels = 0;
    let body = &path[1..];
    let body = body.strip_suffix('/').unwrap_or(body);
    for component in body.split('/') {
        check_component(component, at)?;
        at += component.len() + 1;
        levels += 1;
    }
    Ok(levels)
}

fn check_component(component: &str, at: usize) -> Result<(), PointError> {
    if component.is_empty() {
        return Err(refuse(at, 1, "a path component is empty"));
    }
    if component.len() > SEGMENT_BYTES_MAX {
        let reason =
            format!("a path component has at most {SEGMENT_BYTES_MAX} bytes, this one {}", component.len());
        return Err(refuse(at, component.len(), reason));
    }
    if component == "." || component == ".." {
        return Err(refuse(at, component.len(), format!("`{component}` cannot stand in a path")));
    }
    for (offset, c) in component.char_indices() {
        if c.is_control() || c == '\\' || is_bidi_control(c) {
            let reason = format!("`{}` cannot stand in a path", c.escape_unicode());
            return Err(refuse(at + offset, c.len_utf8(), reason));
        }
        if c == '%' {
            let code = component.get(offset + 1..offset + 3).map(str::to_ascii_lowercase);
            if matches!(code.as_deref(), Some("2f" | "5c" | "2e" | "00")) {
                return Err(refuse(
                    at + offset,
                    3,
                    "an encoded separator, dot or NUL cannot stand in a path",
                ));
            }
        }
    }
    Ok(())
}

/// Characters that make a name read otherwise than it is stored (Unicode UAX 9).
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Point {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Point {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(text: &str) -> Point {
        text.parse().unwrap()
    }

    #[test]
    fn points_of_the_language_are_accepted() {
        for text in [
            "ROOT",
            "localhost",
            "my-domain.com:users:bob",
            "shop:orders:o-17",
            "shop:orders:17",
            "shop:repo:site:1.0.0",
            "shop:repo:site:1.0.0-rc.1:/bind/site.bind",
            "shop:files:/img/logo.svg",
            "shop:files:/",
            "shop:files:/img/",
            "shop:files:/my photo.jpg",
        ] {
            assert_eq!(point(text).to_string(), text);
        }
    }

    #[test]
    fn others_are_refused_with_a_place() {
        for (text, at) in [
            ("", 0),
            ("Shop", 0),
            ("shop::a", 5),
            ("shop:A", 5),
            ("shop:a.b", 6),
            ("shop:repo:1.0.0+x", 15),
            ("shop:repo:1.0.0:more", 16),
            ("1.0.0", 0),
            ("shop:files:/../x", 12),
            ("shop:files:/a/./x", 14),
            ("shop:files:/a\\b", 13),
            ("shop:files:/a%2Fb", 13),
            ("shop:files://x", 12),
            ("shop:-a", 5),
            ("shop..com", 5),
            ("-shop", 0),
            ("shop:", 5),
            ("shop:files:/a\u{202e}b", 13),
        ] {
            assert_eq!(text.parse::<Point>().expect_err(text).at, at, "{text}");
        }
    }

    #[test]
    fn bounds_hold() {
        assert!(format!("a{}", ":b".repeat(63)).parse::<Point>().is_ok());
        assert!(format!("a{}", ":b".repeat(64)).parse::<Point>().is_err());
        assert!(format!("a:{}", "b".repeat(255)).parse::<Point>().is_ok());
        assert!(format!("a:{}", "b".repeat(256)).parse::<Point>().is_err());
        assert!(format!("a{}", format!(":{}", "b".repeat(254)).repeat(17)).parse::<Point>().is_err());
    }

    #[test]
    fn parents_lead_to_the_root() {
        let chain = |text: &str| point(text).ancestors().map(|p| p.to_string()).collect::<Vec<_>>();
        assert_eq!(chain("shop:orders:o-17"), ["shop:orders", "shop", "ROOT"]);
        assert_eq!(chain("shop:files:/img/a.svg"), ["shop:files:/img/", "shop:files", "shop", "ROOT"]);
        assert_eq!(chain("shop:files:/img/"), ["shop:files", "shop", "ROOT"]);
        assert_eq!(chain("ROOT"), [""; 0]);
    }

    #[test]
    fn levels_and_last_agree() {
        for text in ["shop", "shop:a:b", "shop:files:/img/a.svg", "shop:files:/img/", "shop:r:s:1.0.0:/a"] {
            let point = point(text);
            assert_eq!(point.levels().last(), Some(point.last().trim_end_matches('/')), "{text}");
            assert_eq!(point.depth(), point.ancestors().count(), "{text}");
        }
    }

    #[test]
    fn children_are_inside() {
        let files = point("shop:files");
        assert_eq!(files.child("/a.txt").unwrap(), point("shop:files:/a.txt"));
        assert_eq!(point("shop:files:/img/").child("a.txt").unwrap(), point("shop:files:/img/a.txt"));
        assert!(files.contains(&point("shop:files:/a/b")));
        assert!(!files.contains(&point("shop:files2")));
        assert!(point("shop:files:/img/").contains(&point("shop:files:/img/a")));
        assert!(!point("shop:files:/img").contains(&point("shop:files:/img2")));
        assert!(!point("shop:files:/img").contains(&point("shop:files:/img:2")));
        assert!(Point::root().contains(&files));
    }
}
