//! `starlane cp`.

use std::path::Path;

use clap::Args;
use starlane_core::{Code, Point, Problem};

use super::{Session, transfer};
use crate::output::Stop;

/// Copies a local file into the mesh, or content of the mesh into a local file. What holds a `:` and begins with
/// neither `.` nor `/` is a point; write `./a:b` for a file of such a name.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  starlane cp logo.svg shop:files:/img/logo.svg
  starlane cp logo.svg shop:files:/img/            (keeps its name)
  starlane cp shop:files:/img/logo.svg ./logo.svg
  starlane cp shop:files:/img/logo.svg .")]
pub(super) struct CpArgs {
    /// A local file, `-` for standard input, or a point
    from: String,
    /// A point, a local file or folder, or `-` for standard output
    to: String,
}

pub(super) async fn run(session: &Session, args: CpArgs) -> Result<(), Stop> {
    match plan(&args.from, &args.to)? {
        Plan::In { file, point } => session.out.show(&transfer::upload(session, &file, &point).await?),
        Plan::Out { point, file } if file == "-" => {
            transfer::print(session, session.client()?.read(&point).await?).await
        }
        Plan::Out { point, file } => {
            session.out.show(&transfer::download(session, &point, Path::new(&file)).await?)
        }
    }
}

/// Which way a copy goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    In { file: String, point: Point },
    Out { point: Point, file: String },
}

pub(super) fn plan(from: &str, to: &str) -> Result<Plan, Problem> {
    match (is_point(from), is_point(to)) {
        (false, true) => {
            let mut point = super::statement::parse_point(to)?;
            if point.is_directory() {
                let name = Path::new(from).file_name().and_then(|name| name.to_str()).filter(|_| from != "-");
                let name = name.ok_or_else(|| {
                    Problem::new(
                        Code::Usage,
                        format!("{to} is a directory, and `{from}` has no name to keep"),
                    )
                    .help(format!("name the file: {to}NAME"))
                })?;
                point = super::statement::parse_point(&format!("{to}{name}"))?;
            }
            Ok(Plan::In { file: from.to_owned(), point })
        }
        (true, false) => Ok(Plan::Out { point: super::statement::parse_point(from)?, file: to.to_owned() }),
        (true, true) => Err(Problem::new(Code::Usage, format!("`{from}` and `{to}` are both points"))
            .help("one side is a local file; write `./a:b` for a file with a `:` in its name")),
        (false, false) => {
            Err(Problem::new(Code::Usage, format!("neither `{from}` nor `{to}` is a point of the mesh"))
                .help("a file of the mesh is written as `shop:files:/img/logo.svg`"))
        }
    }
}

/// The File that a local file becomes: in a directory it keeps its name.
pub(super) fn target(from: &str, to: &Point) -> Result<Point, Problem> {
    if !to.is_directory() {
        return Ok(to.clone());
    }
    let name = Path::new(from).file_name().and_then(|name| name.to_str()).filter(|_| from != "-");
    let name = name.ok_or_else(|| {
        Problem::new(Code::Usage, format!("{to} is a directory, and `{from}` has no name to keep"))
            .help(format!("name the file: {to}NAME"))
    })?;
    super::statement::parse_point(&format!("{to}{name}"))
}

fn is_point(text: &str) -> bool {
    text.contains(':') && !text.starts_with(['.', '/', '~'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_with_the_point_says_which_way() {
        let point = |text: &str| text.parse::<Point>().unwrap();
        let file = |text: &str| text.to_owned();
        for (from, to, expected) in [
            (
                "a.svg",
                "shop:files:/a.svg",
                Plan::In { file: file("a.svg"), point: point("shop:files:/a.svg") },
            ),
            (
                "x/a.svg",
                "shop:files:/img/",
                Plan::In { file: file("x/a.svg"), point: point("shop:files:/img/a.svg") },
            ),
            ("./a:b", "shop:files:/c", Plan::In { file: file("./a:b"), point: point("shop:files:/c") }),
            ("-", "shop:files:/c", Plan::In { file: file("-"), point: point("shop:files:/c") }),
            ("shop:files:/a", "-", Plan::Out { point: point("shop:files:/a"), file: file("-") }),
            ("shop:files:/a", ".", Plan::Out { point: point("shop:files:/a"), file: file(".") }),
        ] {
            assert_eq!(plan(from, to), Ok(expected), "{from} {to}");
        }
    }

    #[test]
    fn what_has_no_direction_is_refused() {
        for (from, to) in
            [("a", "b"), ("shop:a", "shop:b"), ("-", "shop:files:/img/"), ("a", "Shop:files:/a")]
        {
            assert!(plan(from, to).is_err(), "{from} {to}");
        }
    }
}
