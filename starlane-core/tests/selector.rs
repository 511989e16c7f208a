//! Selectors: what they mean, how they print, and how they are refused.

#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

use proptest::prelude::*;
use starlane_core::{Code, Depth, Kind, Point, Property, Resource, Revision, Selector, Status, Value};

fn selector(text: &str) -> Selector {
    text.parse().unwrap_or_else(|problem| panic!("{text}: {problem:?}"))
}

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn resource(text: &str, kind: &str) -> Resource {
    Resource {
        point: point(text),
        kind: kind.parse().unwrap(),
        properties: Default::default(),
        status: Status::ready(),
        created: Revision(3),
        modified: Revision(7),
        version: 2,
    }
}

fn with(mut resource: Resource, key: &str, value: impl Into<Value>) -> Resource {
    let value = Property { value: value.into(), locked: false };
    resource.properties.insert(key.parse().unwrap(), value);
    resource
}

const POINTS: [&str; 14] = [
    "ROOT",
    "shop",
    "shop:orders",
    "shop:orders:o-17",
    "shop:eu:orders",
    "shop:eu:north:orders",
    "shopping",
    "shop:repo:site:1.0.0",
    "shop:repo:site:1.2.7",
    "shop:repo:site:2.0.0",
    "shop:repo:site:1.2.7:/html/index.html",
    "shop:files:/",
    "shop:files:/img/",
    "shop:files:/img/logo.svg",
];

#[test]
fn patterns_mean_these_points() {
    for (text, meant) in [
        ("shop", &["shop"][..]),
        ("shop:*", &["shop:orders"]),
        ("*", &["shop", "shopping"]),
        ("ROOT", &["ROOT"]),
        ("shop:**:orders", &["shop:orders", "shop:eu:orders", "shop:eu:north:orders"]),
        ("shop:*:orders", &["shop:eu:orders"]),
        ("**:orders", &["shop:orders", "shop:eu:orders", "shop:eu:north:orders"]),
        ("shop:orders+:**", &["shop:orders", "shop:orders:o-17"]),
        ("shop:orders:+**", &["shop:orders", "shop:orders:o-17"]),
        ("shop:orders+:*", &["shop:orders", "shop:orders:o-17"]),
        ("shop:repo:site:(^1.2.0)", &["shop:repo:site:1.2.7"]),
        (
            "shop:repo:site:(>=1, <3)",
            &["shop:repo:site:1.0.0", "shop:repo:site:1.2.7", "shop:repo:site:2.0.0"],
        ),
        ("shop:repo:site:(^1.2.0):/html/*", &["shop:repo:site:1.2.7:/html/index.html"]),
        ("shop:repo:**:/html/index.html", &["shop:repo:site:1.2.7:/html/index.html"]),
        ("shop:files:*", &["shop:files:/", "shop:files:/img/"]),
        ("shop:files:/*", &["shop:files:/", "shop:files:/img/"]),
        ("shop:files:/**", &["shop:files:/", "shop:files:/img/", "shop:files:/img/logo.svg"]),
        ("shop:files:/img/", &["shop:files:/img/"]),
        ("shop:files:/img/*", &["shop:files:/img/logo.svg"]),
        ("shop:files:/img/+**", &["shop:files:/img/", "shop:files:/img/logo.svg"]),
        ("shop:files:/*/", &["shop:files:/", "shop:files:/img/"]),
        ("shop:files:/**/", &["shop:files:/", "shop:files:/img/"]),
        ("shop:files:/**/logo.svg", &["shop:files:/img/logo.svg"]),
        ("\"shop:files:/img/\"logo.svg", &["shop:files:/img/logo.svg"]),
    ] {
        let selector = selector(text);
        let found: Vec<_> = POINTS.into_iter().filter(|text| selector.matches_point(&point(text))).collect();
        assert_eq!(found, meant, "{text}");
    }
    for text in ["ROOT+**", "ROOT+:**", "ROOT:+**", "+**"] {
        assert!(POINTS.iter().all(|text| selector("ROOT+**").matches_point(&point(text))), "{text}");
        assert_eq!(selector(text).to_string(), "ROOT+**");
    }
    assert!(POINTS[1..].iter().all(|text| selector("**").matches_point(&point(text))));
    assert!(!selector("**").matches_point(&Point::root()));
}

#[test]
fn selectors_print_in_one_form() {
    for (text, canonical) in [
        ("shop:*", "shop:*"),
        ("shop:+**", "shop+:**"),
        ("<Mechtron>", "**<Mechtron>"),
        ("**<User>", "**<User>"),
        ("**<ArtifactBundle>", "**<Bundle>"),
        ("**< Base<Repo> >", "**<Repo>"),
        ("<Database<*>>", "**<Database<*>>"),
        ("<Database<Relational<*>>>", "**<Database<Relational<*>>>"),
        (
            "<Database<Relational<uberscott.com:postgres:*:*:(^8.0.0)>>>",
            "**<Database<Relational<uberscott.com:postgres:*:*:(^8.0.0)>>>",
        ),
        ("<*>", "**<*>"),
        ("[tier = \"edge\"]", "**[tier = \"edge\"]"),
        (
            "shop:**<Mechtron>[region=\"eu\"and queue>100]",
            "shop:**<Mechtron>[region = \"eu\" and queue > 100]",
        ),
        (
            "shop:orders:* <Order>\n[ total >= 100 # big ones\n and not exists( paid ) ]",
            "shop:orders:*<Order>[total >= 100 and not exists(paid)]",
        ),
        (
            "mesh:nodes:*[tier = \"edge\" and status = Ready]",
            "mesh:nodes:*[tier = \"edge\" and status = Ready]",
        ),
        ("*[a = eu]", "*[a = \"eu\"]"),
        ("*[(a = 1 and b = 2) and (c = 3 or (d = 4))]", "*[a = 1 and b = 2 and (c = 3 or d = 4)]"),
        ("*[not (a = 1 or b = 2)]", "*[not (a = 1 or b = 2)]"),
        ("*[a in (1, \"x\", true,)]", "*[a in (1, \"x\", true)]"),
        ("*[a like \"ab*\"]", "*[a like \"ab*\"]"),
        ("*[a = \"say \\\"hi\\\"\"]", "*[a = \"say \\\"hi\\\"\"]"),
        ("\"shop:files:/my photo.jpg\"", "\"shop:files:/my photo.jpg\""),
        ("\"shop:files:/my photos/\"**<File>", "\"shop:files:/my photos/\"**<File>"),
        ("shop:files:/*/\"my photo.jpg\"", "shop:files:/*/\"my photo.jpg\""),
        ("ROOT:shop:x", "shop:x"),
        ("shop:files:/:/*", "shop:files:/:/*"),
    ] {
        let first = selector(text).to_string();
        assert_eq!(first, canonical, "{text}");
        assert_eq!(selector(&first).to_string(), canonical);
        assert_eq!(selector(&first), selector(text), "{text}");
    }
}

#[test]
fn kinds_narrow() {
    let database = resource("shop:db", "Database<Relational<a.com:pg:postgres:gis:8.0.3>>");
    for (text, expected) in [
        ("<Database>", true),
        ("<Database<*>>", true),
        ("<Database<Relational>>", true),
        ("<Database<Relational<*>>>", true),
        ("<Database<Relational<a.com:pg:postgres:gis:8.0.3>>>", true),
        ("<Database<Relational<a.com:*:*:gis:(^8)>>>", true),
        ("<Database<Relational<*:*:*:*:(^9)>>>", false),
        ("<Database<Relational<b.com:*:*:*:*>>>", false),
        ("<Database<Graph>>", false),
        ("<*>", true),
        ("<Space>", false),
    ] {
        assert_eq!(selector(text).matches(&database), expected, "{text}");
    }
    assert!(!selector("<Database<*>>").matches(&resource("shop:db", "Database")));
}

#[test]
fn filters_compare() {
    let order = with(with(resource("shop:orders:o-17", "Order"), "total", "120"), "region", "eu");
    let order = with(order, "gift", Value::Bool(true));
    for (filter, expected) in [
        ("total >= 100", true),
        ("total > 120", false),
        ("total = 120", true),
        ("total = 120.0", true),
        ("total = \"120\"", true),
        ("total < \"13\"", true),
        ("total != 120", false),
        ("missing = 1", false),
        ("missing != 1", false),
        ("not missing = 1", true),
        ("region < 5", false),
        ("region != 5", true),
        ("exists(region)", true),
        ("exists(paid)", false),
        ("region in (\"us\", \"eu\")", true),
        ("region in (\"us\")", false),
        ("region like \"e*\"", true),
        ("total like \"12*\"", true),
        ("gift = true", true),
        ("gift = \"true\"", true),
        ("region = \"us\" or total = 120 and gift = true", true),
        ("(region = \"us\" or total = 120) and gift = false", false),
        ("kind = Order", true),
        ("status = Ready", true),
        ("status != Ready", false),
        ("created = 3 and modified = 7 and revision = 7", true),
        ("node = \"a\"", false),
    ] {
        assert_eq!(selector(&format!("**[{filter}]")).matches(&order), expected, "{filter}");
    }
}

#[test]
fn the_fields_of_a_filter_are_known() {
    let selector = selector("**[a.b = 1 and (not exists(queue) or status = Ready)]");
    assert_eq!(selector.fields().collect::<Vec<_>>(), ["a.b", "queue", "status"]);
}

#[test]
fn wrong_selectors_are_refused_at_the_place() {
    for (text, place, code, detail, help) in [
        ("", "", Code::Syntax, "a selector cannot be empty", "`ROOT+**` selects everything"),
        ("shop:", "", Code::Syntax, "expected a segment", "pattern<Kind>[filter]"),
        ("shop:cart-*", "cart-*", Code::Syntax, "a whole segment", "`*` is one level"),
        ("shop:*-cart", "*-cart", Code::Syntax, "a whole segment", "`*` is one level"),
        ("shop:***", "***", Code::Syntax, "a whole segment", "`*` is one level"),
        ("Shop:*", "S", Code::PointSyntax, "lowercase", ""),
        ("shop:*:Orders", "O", Code::PointSyntax, "a segment is lowercase: `orders`", ""),
        ("shop:repo:site:(^1.x.y.z)", "^1.x.y.z", Code::Syntax, "not a version range", "(^1.2.0)"),
        ("shop:repo:site:(^1.2", "(", Code::Syntax, "never closed", "`)`"),
        ("shop:repo:site:(^1):x", "x", Code::PointSyntax, "after a version only a path", ""),
        ("shop:*+:**", "+", Code::Syntax, "`+` stands between", "`shop+:**`"),
        ("shop+", "+", Code::Syntax, "`+` stands between", "`shop+:**`"),
        ("shop:files:/../*", "..", Code::PointSyntax, "cannot stand in a path", ""),
        ("shop:files:/img+**", "+", Code::Syntax, "nothing is below a file", "ends with `/`"),
        ("/img/*", "/", Code::Syntax, "after the point that holds it", "shop:files:/img/*"),
        ("<mechtron>", "mechtron", Code::KindSyntax, "not written like a kind", "`Mechtron`"),
        ("<Mechtron", "", Code::Syntax, "`>` at the end of the kind", ""),
        ("**<Mechtron>x", "x", Code::Syntax, "a filter `[…]` or the end", ""),
        ("**[region == \"eu\"]", "==", Code::Syntax, "not a comparison", "single `=`"),
        ("**[region = \"eu\" && a = 1]", "&", Code::Syntax, "`and`, `or` or `]`", "joined by `and`"),
        ("**[region = \"eu\"", "[", Code::Syntax, "never closed", "`]`"),
        ("**[region = \"eu]", "\"", Code::Syntax, "never closed", "end it with `\"`"),
        ("**[region]", "]", Code::Syntax, "expected a comparison", "exists(region)"),
        ("**[Region = 1]", "Region", Code::PropertyKey, "not a property key", ""),
        ("**[status = Redy]", "Redy", Code::Syntax, "no status `Redy`", "did you mean `Ready`?"),
        ("**[and a = 1]", "and", Code::Syntax, "expected a property or a field", "region"),
        ("**[a = ]", "]", Code::Syntax, "expected a value", "in quotes"),
        ("**[a in 1]", "1", Code::Syntax, "`(` after `in`", "in (\"eu\""),
        ("**[a like b*]", "b", Code::Syntax, "a text in quotes", "like \"ab*\""),
        ("**[a = \"\\q\"]", "\\q", Code::Syntax, "no such escape", ""),
        ("\"shop:files:/a b\"x", "x", Code::Syntax, "end of the selector", ""),
    ] {
        let problem = text.parse::<Selector>().expect_err(text);
        let marked = problem.place.as_ref().unwrap();
        assert_eq!(&text[marked.span.start..marked.span.end], place, "{text}: {problem:?}");
        assert_eq!(problem.code, code, "{text}");
        assert!(problem.detail.contains(detail), "{text}: {}", problem.detail);
        assert!(problem.help.clone().unwrap_or_default().contains(help), "{text}: {:?}", problem.help);
    }
}

#[test]
fn bounds_hold() {
    assert!(format!("**[{}a = 1{}]", "(".repeat(64), ")".repeat(64)).parse::<Selector>().is_ok());
    let deep = format!("**[{}a = 1{}]", "(".repeat(65), ")".repeat(65)).parse::<Selector>().unwrap_err();
    assert!(deep.detail.contains("nested deeper"), "{}", deep.detail);
    assert!(format!("**[{}a = 1]", "not ".repeat(100_000)).parse::<Selector>().is_err());
    let long = vec!["a = 1"; 257].join(" and ");
    assert!(format!("**[{long}]").parse::<Selector>().unwrap_err().detail.contains("at most 256"));
    assert!(format!("*{}", ":*".repeat(64)).parse::<Selector>().is_err());
    let huge = "a".repeat(1 << 21).parse::<Selector>().unwrap_err();
    assert_eq!(huge.code, Code::TooLarge);
}

#[test]
fn scopes_say_where_to_look() {
    let scope =
        selector("shop:orders:*<Order>[region = \"eu\" and total = 5 and (a = \"x\" or b = \"y\")]").scope();
    assert_eq!(scope.base, point("shop:orders"));
    assert!(!scope.inclusive);
    assert_eq!(scope.depth, Depth::Exactly(1));
    assert_eq!(scope.kind, Some("Order".parse::<Kind>().unwrap().base));
    let five = Value::from(serde_json::json!(5));
    let equals = [("region".parse().unwrap(), Value::from("eu")), ("total".parse().unwrap(), five)];
    assert_eq!(scope.equals, equals);
    assert_eq!(selector("shop").scope().depth, Depth::Exactly(0));
    assert!(selector("shop").scope().inclusive);
    assert_eq!(selector("shop:files:/img/**").scope().base, point("shop:files:/img/"));
}

#[test]
fn a_range_holds_every_value_that_can_match() {
    let comparands = [
        "0", "-0.0", "9", "10", "-1.5", "1e300", "\"9\"", "\"10\"", "\"abc\"", "\"b\"", "\"true\"", "\"\"",
        "\"nan\"", "true", "false",
    ];
    let json = |text: &str| Value::from(serde_json::from_str::<serde_json::Value>(text).unwrap());
    let mut found: Vec<Option<Value>> =
        ["0", "-0.0", "9", "9.5", "10", "-2", "1e300", "1e301", "true", "false", "null", "[9]", "\"x\""]
            .map(|text| Some(json(text)))
            .into();
    let texts = ["9", "9.0", "1e1", "-0", "abc", "abcd", "", "nan", "inf", "true", "false", "zz", "10"];
    found.extend(texts.map(|text| Some(Value::from(text))));
    found.push(None);
    let mut conditions = Vec::new();
    for value in comparands {
        for sign in ["<", "<=", ">", ">=", "!="] {
            conditions.extend([format!("a {sign} {value}"), format!("not a {sign} {value}")]);
        }
    }
    let mut narrow = 0;
    for first in &conditions {
        for second in &conditions {
            let selector = selector(&format!("shop[{first} and {second}]"));
            let scope = selector.scope();
            narrow += usize::from(!scope.numbers.is_empty() || !scope.texts.is_empty());
            for value in &found {
                let resource = resource("shop", "Base");
                let resource =
                    value.iter().fold(resource, |resource, value| with(resource, "a", value.clone()));
                if !selector.matches(&resource) {
                    continue;
                }
                let number = value.as_ref().and_then(Value::as_number);
                let text = value.as_ref().and_then(Value::as_text).map(std::sync::Arc::from);
                for range in &scope.numbers {
                    assert!(number.is_some_and(|number| range.contains(&number)), "{selector}: {value:?}");
                }
                for range in &scope.texts {
                    assert!(text.as_ref().is_some_and(|text| range.contains(text)), "{selector}: {value:?}");
                }
            }
        }
    }
    assert_eq!(narrow, 150 * 150 - 110 * 110, "of 150 conditions 40 ask for a range");
}

#[test]
fn ranges_are_as_narrow_as_the_conditions() {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let ends = |text: &str| {
        let scope = selector(&format!("shop[{text}]")).scope();
        let [range] = &scope.numbers[..] else { panic!("{text}: {scope:?}") };
        assert_eq!(range.key.as_str(), "a");
        (range.from, range.to)
    };
    assert_eq!(ends("a >= 1 and a > 1 and a > 0"), (Excluded(1.0), Unbounded));
    assert_eq!(ends("a < 3 and a <= 3 and a <= 4 and a > -2.5"), (Excluded(-2.5), Excluded(3.0)));
    assert_eq!(ends("not a > 3 and a >= 1"), (Included(1.0), Included(3.0)));
    assert_eq!(ends("a <= 1 and a >= 2"), (Included(2.0), Included(1.0)));
    for text in
        ["not a > 3", "a != 3", "a > 3 or a > 4", "not (a > 3)", "kind > 3", "a in (1, 2)", "a > true"]
    {
        let scope = selector(&format!("shop[{text}]")).scope();
        assert!(scope.numbers.is_empty() && scope.texts.is_empty(), "{text}: {scope:?}");
    }
    let scope = selector("shop[at >= \"2026-01\" and at < \"2026-02\" and not at > \"2026-01-30\"]").scope();
    assert_eq!(scope.texts[0].from, Included("2026-01".into()));
    assert_eq!(scope.texts[0].to, Included("2026-01-30".into()));
    assert_eq!((scope.numbers.len(), scope.texts.len()), (0, 1));
}

/// Random trees of points over few names, so that patterns often match.
fn any_point() -> impl Strategy<Value = Point> {
    let segment = prop_oneof![Just("a"), Just("b"), Just("c")];
    let path = proptest::option::weighted(
        0.3,
        (proptest::collection::vec(prop_oneof![Just("x"), Just("y"), Just("z z")], 0..3), any::<bool>()),
    );
    (
        proptest::collection::vec(segment, 0..4),
        proptest::option::weighted(0.2, prop_oneof![Just("1.0.0"), Just("1.2.0")]),
        path,
    )
        .prop_map(|(segments, version, path)| {
            if segments.is_empty() {
                return Point::root();
            }
            let mut text = segments.join(":");
            if let Some(version) = version {
                text = format!("{text}:{version}");
            }
            if let Some((components, directory)) = path {
                let slash = if directory && !components.is_empty() { "/" } else { "" };
                text = format!("{text}:/{}{slash}", components.join("/"));
            }
            text.parse().unwrap()
        })
}

#[derive(Debug, Clone)]
struct Model {
    inclusive: bool,
    segments: Vec<&'static str>,
    path: Option<Vec<&'static str>>,
}

impl Model {
    fn text(&self) -> String {
        let mut text = String::new();
        for (at, segment) in self.segments.iter().enumerate() {
            if at > 0 {
                text.push(':');
            }
            text.push_str(segment);
            if at == 0 && self.inclusive && self.segments.len() > 1 && self.segments[1].starts_with('*') {
                text.push('+');
            }
        }
        if let Some(path) = &self.path {
            text.push_str(":/");
            text.push_str(&path.join("/"));
        }
        text
    }

    /// The meaning of the pattern, said as a regular expression over the levels of a point.
    fn meaning(&self) -> regex::Regex {
        let mut pattern = String::from("^");
        let last = self.path.as_ref().map_or(self.segments.len(), |_| usize::MAX);
        for (at, segment) in self.segments.iter().enumerate() {
            match *segment {
                "*" => pattern.push_str("[^;]+;"),
                "**" if at + 1 == last => pattern.push_str("([^;]+;)+"),
                "**" => pattern.push_str("([^;]+;)*"),
                "(^1.1)" => pattern.push_str("1[.]2[.]0;"),
                other => pattern.push_str(&format!("{};", regex::escape(other))),
            }
        }
        for (at, component) in self.path.iter().flatten().enumerate() {
            let end = at + 1 == self.path.as_ref().unwrap().len();
            match *component {
                "*" if end => pattern.push_str("/[^;]+;"),
                "*" => pattern.push_str("/[^;]+/;"),
                "**" if end => pattern.push_str("(/[^;]+;)+"),
                "**" => pattern.push_str("(/[^;]+;)*"),
                other => {
                    pattern.push('/');
                    pattern.push_str(&regex::escape(other));
                    pattern.push_str(if end { ";" } else { "/;" });
                }
            }
        }
        pattern.push('$');
        regex::Regex::new(&pattern).unwrap()
    }

    fn matches(&self, meaning: &regex::Regex, point: &Point) -> bool {
        let levels: Vec<String> = if point.is_root() {
            vec![]
        } else {
            let (front, path) = point.split_path();
            let front = front.split(':').map(|segment| format!("{segment};"));
            let path = path.map(|path| {
                if path == "/" {
                    vec!["//".to_owned()]
                } else {
                    path[1..].split_inclusive('/').map(|component| format!("/{component};")).collect()
                }
            });
            front.chain(path.unwrap_or_default()).map(|level| level.replace("//", "/\u{1};")).collect()
        };
        let levels: String = levels.concat();
        let plus = self.text().contains('+');
        meaning.is_match(&levels) || plus && levels == format!("{};", self.segments[0])
    }
}

fn any_model() -> impl Strategy<Value = Model> {
    let first = prop_oneof![3 => Just("a"), 1 => Just("b"), 1 => Just("*"), 1 => Just("**")];
    let segment = prop_oneof![Just("a"), Just("b"), Just("*"), Just("**")];
    let path = proptest::option::weighted(
        0.3,
        proptest::collection::vec(prop_oneof![Just("x"), Just("y"), Just("*"), Just("**")], 1..3),
    );
    let range = proptest::bool::weighted(0.2);
    (any::<bool>(), first, proptest::collection::vec(segment, 0..3), range, path).prop_map(
        |(inclusive, first, rest, range, path)| {
            let mut segments = vec![first];
            segments.extend(rest);
            if range {
                segments.push("(^1.1)");
            }
            let inclusive = inclusive && !first.starts_with('*');
            Model { inclusive, segments, path }
        },
    )
}

proptest! {
    #[test]
    fn patterns_mean_what_the_model_says(model in any_model(), points in proptest::collection::vec(any_point(), 1..40)) {
        let (selector, meaning) = (selector(&model.text()), model.meaning());
        for point in points {
            prop_assert_eq!(selector.matches_point(&point), model.matches(&meaning, &point), "{} on {}", model.text(), point);
        }
    }

    #[test]
    fn what_matches_is_inside_the_scope(model in any_model(), points in proptest::collection::vec(any_point(), 1..40)) {
        let selector = selector(&model.text());
        let scope = selector.scope();
        for point in points {
            prop_assert!(!selector.matches_point(&point) || scope.contains(&point), "{selector} on {point}: {scope:?}");
        }
    }

    #[test]
    fn patterns_print_as_they_read(model in any_model()) {
        let first = selector(&model.text());
        let second = selector(&first.to_string());
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(first.to_string(), second.to_string());
    }

    #[test]
    fn exactly_and_below_print_as_they_read(point in any_point(), other in any_point()) {
        for selected in [Selector::exactly(&point), Selector::below(&point)] {
            let again = selector(&selected.to_string());
            prop_assert_eq!(again.to_string(), selected.to_string());
            prop_assert_eq!(again.matches_point(&other), selected.matches_point(&other));
        }
        prop_assert_eq!(Selector::exactly(&point).matches_point(&other), point == other);
        let below = other.ancestors().any(|above| above == point);
        let root_directory = point.path() == Some("/");
        prop_assert!(root_directory || Selector::below(&point).matches_point(&other) == below, "{point} {other}");
    }

    #[test]
    fn any_text_is_answered(text in r#"[a-z*:+()/"\[\]<>=! 0-9.A-Z\\$#]{0,40}"#) {
        if let Ok(selected) = text.parse::<Selector>() {
            let printed = selected.to_string();
            prop_assert_eq!(selector(&printed).to_string(), printed);
        }
    }

    #[test]
    fn filters_print_as_they_read(filter in any_filter()) {
        let first = selector(&format!("**[{filter}]"));
        let second = selector(&first.to_string());
        prop_assert_eq!(&first, &second);
    }
}

fn any_filter() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| serde_json::json!(number).to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("true".to_owned()),
        Just("word".to_owned()),
        "[ -~é]{0,8}".prop_map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))),
    ];
    let field = prop_oneof![Just("a"), Just("b.c"), Just("kind"), Just("created")];
    let leaf = prop_oneof![
        (field.clone(), prop_oneof![Just("="), Just("!="), Just("<"), Just(">=")], value.clone())
            .prop_map(|(field, comparison, value)| format!("{field}{comparison}{value}")),
        (field.clone(), proptest::collection::vec(value, 1..3))
            .prop_map(|(field, values)| format!("{field} in({})", values.join(","))),
        field.prop_map(|field| format!("exists({field})")),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("not ({inner})")),
            proptest::collection::vec(inner.clone(), 2..4)
                .prop_map(|all| format!("({})", all.join(") and ("))),
            proptest::collection::vec(inner, 2..4).prop_map(|any| format!("({})", any.join(") or ("))),
        ]
    })
}
