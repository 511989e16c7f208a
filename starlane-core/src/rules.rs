//! What may stand where: the rules for making resources.

use crate::{Base, Code, Point, Problem};

/// The space that holds what the mesh knows of itself.
const MESH: &str = "mesh";
/// The name of the bases that hold kinds.
const KINDS: &str = "kinds";

const BRANCHES: &[Base] = &[Base::Root, Base::Space, Base::Base, Base::App, Base::Mechtron];

/// The kinds of resource that a kind may stand under, before what [`may_stand_under`] says of names.
pub fn allowed_parents(child: &Base) -> &'static [Base] {
    match child {
        Base::Root => &[],
        Base::Space => &[Base::Root],
        Base::Base
        | Base::App
        | Base::Mechtron
        | Base::Repo
        | Base::FileSystem
        | Base::User
        | Base::Portal
        | Base::Custom(_) => BRANCHES,
        Base::BundleSeries => &[Base::Repo],
        Base::Bundle => &[Base::BundleSeries],
        Base::Artifact => &[Base::Bundle, Base::Artifact],
        Base::File => &[Base::FileSystem, Base::File],
        Base::Kind | Base::Node | Base::Link => &[Base::Base],
    }
}

/// Refuses the kinds that are not made by `create`: bundles and artifacts come with `publish`, nodes and links from
/// the mesh, and there is one root.
///
/// # Errors
/// `E-KIND-RESERVED`
pub fn made_by_hand(child: &Base) -> Result<(), Problem> {
    let (maker, help) = match child {
        Base::Bundle | Base::Artifact => {
            ("is made by `publish` alone", "write it like `publish ^[ site.zip ]-> shop:repo:site:1.0.0`")
        }
        Base::Node | Base::Link => ("is made by the mesh alone", "start a node with `starlane serve`"),
        Base::Root => ("is there from the beginning", "begin with a Space: `create localhost<Space>`"),
        _ => return Ok(()),
    };
    Err(Problem::new(Code::KindReserved, format!("{} `{child}` {maker}", article(child))).help(help))
}

/// Decides whether a resource may stand under another.
///
/// # Errors
/// `E-KIND-PARENT`, with the right parents as help.
pub fn may_stand_under(child: &Base, parent: &Base, parent_point: &Point) -> Result<(), Problem> {
    let right_kind = allowed_parents(child).contains(parent);
    let right_place = match (child, parent) {
        (Base::Kind, _) => parent_point.last() == KINDS,
        (Base::File, Base::File) | (Base::Artifact, Base::Artifact) => parent_point.is_directory(),
        _ => true,
    };
    if right_kind && right_place {
        return Ok(());
    }
    let detail = match (parent, right_kind) {
        (Base::Root, _) => format!("{} `{child}` cannot stand under `ROOT`", article(child)),
        (_, true) if *child == Base::Kind => {
            format!("a `Kind` cannot stand under `{parent_point}`, which is not called `{KINDS}`")
        }
        (_, true) => format!("`{parent_point}` is not a directory"),
        _ => format!(
            "{} `{child}` cannot stand under `{parent_point}`, {} `{parent}`",
            article(child),
            article(parent)
        ),
    };
    Err(Problem::new(Code::KindParent, detail).help(right_parents(child)))
}

/// Decides whether the point of a resource can be one of its kind: only what is in a bundle or a file system has a
/// path, only a bundle is a version, and nobody makes a space called `mesh`.
///
/// # Errors
/// `E-KIND-PARENT` or `E-KIND-RESERVED`
pub fn may_be_at(child: &Base, point: &Point) -> Result<(), Problem> {
    let wrong = |detail: String, help: &str| Err(Problem::new(Code::KindParent, detail).at(point).help(help));
    let has_path = point.path().is_some();
    let is_version = point.version().is_some() && !has_path;
    match child {
        Base::File | Base::Artifact if !has_path => wrong(
            format!("{} `{child}` is at a path, and `{point}` has none", article(child)),
            "write it like `shop:files:/img/logo.svg`",
        ),
        Base::Bundle if !is_version => wrong(
            format!("the last segment of a `Bundle` is a version, and that of `{point}` is not"),
            "write it like `shop:repo:site:1.0.0`",
        ),
        Base::File | Base::Artifact | Base::Bundle => Ok(()),
        _ if has_path => wrong(
            format!("{} `{child}` cannot be at a path", article(child)),
            "what is at a path is a File; paths begin with `:/`",
        ),
        _ if is_version => wrong(
            format!("{} `{child}` cannot be a version", article(child)),
            "only a Bundle is a version, and `publish` makes it",
        ),
        Base::Root if !point.is_root() => {
            wrong(format!("`Root` is the kind of `ROOT`, not of `{point}`"), "use another kind, as `Base`")
        }
        _ if point.as_str() == MESH => Err(Problem::new(
            Code::KindReserved,
            "`mesh` holds what the mesh knows of itself; nobody else makes it",
        )
        .at(point)
        .help("choose another name")),
        _ => Ok(()),
    }
}

fn right_parents(child: &Base) -> String {
    let list = |parents: &[Base]| {
        let names: Vec<_> = parents
            .iter()
            .map(|parent| if *parent == Base::Root { "ROOT" } else { parent.as_str() })
            .collect();
        match names.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    };
    match child {
        Base::Root => "`ROOT` stands under nothing".to_owned(),
        Base::File => {
            "it may stand under a FileSystem or a directory in one, as `shop:files:/img/`".to_owned()
        }
        Base::Artifact => "it may stand under a Bundle or a directory in one".to_owned(),
        Base::Kind => {
            format!("it may stand under a Base called `{KINDS}`, as `mesh:{KINDS}` or `shop:{KINDS}`")
        }
        child => format!("it may stand under {}", list(allowed_parents(child))),
    }
}

fn article(base: &Base) -> &'static str {
    match base {
        // By its sound.
        Base::User => "a",
        base if base.as_str().starts_with(['A', 'E', 'I', 'O', 'U']) => "an",
        _ => "a",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(child: &str, parent: &str, parent_point: &str) -> Result<(), Problem> {
        let base = |text: &str| text.parse::<crate::Kind>().unwrap().base;
        may_stand_under(&base(child), &base(parent), &parent_point.parse().unwrap())
    }

    #[test]
    fn the_table_of_parents_holds() {
        let branch = ["Root", "Space", "Base", "App", "Mechtron"];
        let table: [(&str, &[&str]); 14] = [
            ("Space", &["Root"]),
            ("Base", &branch),
            ("App", &branch),
            ("Mechtron", &branch),
            ("Repo", &branch),
            ("FileSystem", &branch),
            ("User", &branch),
            ("Portal", &branch),
            ("Order", &branch),
            ("BundleSeries", &["Repo"]),
            ("Bundle", &["BundleSeries"]),
            ("Artifact", &["Bundle"]),
            ("File", &["FileSystem"]),
            ("Root", &[]),
        ];
        for (child, parents) in table {
            for parent in Base::built_in().map(|base| base.to_string()).chain(["Order".to_owned()]) {
                let expected = parents.contains(&parent.as_str());
                assert_eq!(check(child, &parent, "shop:x").is_ok(), expected, "{child} under {parent}");
            }
        }
    }

    #[test]
    fn some_parents_depend_on_their_name() {
        assert!(check("Kind", "Base", "shop:kinds").is_ok());
        assert!(check("Kind", "Base", "shop:other").unwrap_err().help.unwrap().contains("called `kinds`"));
        assert!(check("File", "File", "shop:files:/img/").is_ok());
        assert!(check("File", "File", "shop:files:/img").is_err());
        assert!(check("Artifact", "Artifact", "shop:r:s:1.0.0:/a/").is_ok());
    }

    #[test]
    fn refusals_name_the_right_parents() {
        let problem = check("BundleSeries", "Space", "shop").unwrap_err();
        assert_eq!(problem.code, Code::KindParent);
        assert_eq!(problem.detail, "a `BundleSeries` cannot stand under `shop`, a `Space`");
        assert_eq!(problem.help.unwrap(), "it may stand under Repo");
        let problem = check("App", "File", "shop:f:/a").unwrap_err();
        assert_eq!(problem.help.unwrap(), "it may stand under ROOT, Space, Base, App or Mechtron");
    }

    #[test]
    fn some_kinds_are_not_made_by_hand() {
        for (kind, expected) in
            [("Bundle", "publish"), ("Artifact", "publish"), ("Node", "mesh"), ("Link", "mesh")]
        {
            let base = kind.parse::<crate::Kind>().unwrap().base;
            let problem = made_by_hand(&base).unwrap_err();
            assert_eq!(problem.code, Code::KindReserved);
            assert!(problem.detail.contains(expected), "{}", problem.detail);
        }
        assert!(made_by_hand(&Base::User).is_ok());
    }

    #[test]
    fn a_point_fits_its_kind() {
        for (kind, point, fits) in [
            ("File", "shop:files:/a", true),
            ("File", "shop:files", false),
            ("Bundle", "shop:repo:site:1.0.0", true),
            ("Bundle", "shop:repo:site", false),
            ("Base", "shop:repo:site:1.0.0", false),
            ("Base", "shop:files:/a/", false),
            ("Space", "mesh", false),
            ("Base", "mesh", false),
            ("Space", "shop", true),
            ("Root", "shop", false),
        ] {
            let base = kind.parse::<crate::Kind>().unwrap().base;
            assert_eq!(may_be_at(&base, &point.parse().unwrap()).is_ok(), fits, "{point}<{kind}>");
        }
    }
}
