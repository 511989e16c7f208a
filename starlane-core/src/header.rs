//! How configs and binds begin: `Bind(version=1.0.0) {`.

use semver::Version;

use crate::Problem;
use crate::cursor::{Cursor, shorten};

/// Reads the version of a format, when one is written. Only what version 1 says can be read.
pub(crate) fn version(cursor: &mut Cursor<'_>) -> Result<(), Problem> {
    if !cursor.next_is("(") {
        return Ok(());
    }
    let help = "write it like `(version=1.0.0)`";
    cursor.trivia();
    if cursor.word() != "version" || !cursor.next_is("=") {
        return Err(cursor.unexpected("`version=1.0.0`").help(help));
    }
    cursor.trivia();
    let start = cursor.at();
    let text = cursor.eat_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
    let span = cursor.span_since(start);
    match Version::parse(text) {
        Ok(version) if version.major == 1 => {}
        Ok(version) => {
            let detail = format!("version {version} of this format is not known");
            return Err(cursor.problem(span, detail, "not known").help("known is version 1.0.0"));
        }
        Err(_) => {
            let detail = format!("`{}` is not a version", shorten(text));
            return Err(cursor.problem(span, detail, "not a version").help(help));
        }
    }
    cursor.expect(")", "after the version")
}
