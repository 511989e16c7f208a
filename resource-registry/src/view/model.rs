//! The view against the plainest one there is: every resource is asked.

use proptest::prelude::*;
use starlane_core::{Kind, Property, Query, Status, Value};

use super::*;

const POINTS: [&str; 36] = [
    "ROOT", "a", "a:a", "a:b", "a:c", "a:d", "a:e", "a:f", "a:g", "a:h", "a:i", "a:j", "a:k", "a:l", "a:o",
    "a:o:a", "a:o:b", "a:o:c", "a:o:d", "a:o:e", "a:o:f", "a:q:r", "b", "b:a", "b:b", "b:c", "b:d", "b:e",
    "b:f", "b:p:x", "mesh:o", "mesh:p", "mesh:q", "o", "o:a", "o:b",
];
const DECLARATIONS: [&str; 4] = ["a:kinds:order", "mesh:kinds:order", "b:kinds:line-item", "a:kinds:x:order"];
const KINDS: [&str; 6] = ["Order", "Order", "Order<Big>", "LineItem", "LineItem", "Base"];
const INDEXED: [Option<&str>; 6] = [None, Some("x"), Some("y"), Some("x, y"), Some("x,z"), Some("No key")];
const SELECTORS: [&str; 14] = [
    "a:**<Order>[x >= 1]",
    "a:**<Order>[x < 2 and x > 0]",
    "a+:**<Order>[x >= 1 and x <= 1]",
    "a:*<Order>[x > 3 and x < 2]",
    "ROOT+**<Order>[x > 0 and y <= 2]",
    "**<Order<Big>>[x >= 2 and not y > 1]",
    "b:**<LineItem>[y >= \"b\"]",
    "b:**<LineItem>[y < \"b\" and x >= \"0\"]",
    "a:o+:**<Order>[y > \"2\" and y <= \"zz\"]",
    "**<Order>[x >= 0]",
    "o<Order>[x > 0]",
    "a:**[x > 1]",
    "**<Base>[x > 1]",
    "**<*>[y > \"\"]",
];
const FIRST: [&str; 6] = [
    "first 2 by x of a:**<Order>",
    "first 3 by x desc of ROOT+**<Order>[y > 0]",
    "first 1 by y of b:**<LineItem>",
    "first 4 by y desc of a:**<Order<Big>>",
    "first 2 by x of **",
    "first 5 by x of o<Order>",
];

#[derive(Debug, Clone)]
enum Act {
    Put {
        point: usize,
        kind: usize,
        x: Option<Value>,
        y: Option<Value>,
    },
    Declare {
        point: usize,
        indexed: Option<usize>,
    },
    Remove {
        point: usize,
    },
    /// Loads all of it anew.
    Load,
}

fn value() -> impl Strategy<Value = Option<Value>> {
    let texts = ["0", "1", "1.0", "3", "a", "b", "ab", "", "true", "nan"].map(Value::from);
    let json = ["0", "1", "2", "3", "-0.0", "1.5", "true", "false", "null", "[1]"];
    let json = json.map(|text| Value::from(serde_json::from_str::<serde_json::Value>(text).unwrap()));
    let values: Vec<_> = texts.into_iter().chain(json).map(Some).chain([None]).collect();
    prop::sample::select(values)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (1..POINTS.len(), 0..KINDS.len(), value(), value())
            .prop_map(|(point, kind, x, y)| Act::Put { point, kind, x, y }),
        3 => (0..DECLARATIONS.len(), prop::option::weighted(0.8, 0..INDEXED.len()))
            .prop_map(|(point, indexed)| Act::Declare { point, indexed }),
        2 => (1..POINTS.len()).prop_map(|point| Act::Remove { point }),
        1 => Just(Act::Load),
    ]
}

/// Everything is there at first, so that ranges are small beside it.
fn acts() -> impl Strategy<Value = Vec<Act>> {
    let put = |point: usize| {
        (0..KINDS.len(), value(), value()).prop_map(move |(kind, x, y)| Act::Put { point, kind, x, y })
    };
    let first: Vec<_> = (1..POINTS.len()).map(put).collect();
    (first, prop::collection::vec(act(), 1..40)).prop_map(|(first, then)| [first, then].concat())
}

fn resource(point: &str, kind: &str, properties: &[(&str, Option<Value>)]) -> Arc<Resource> {
    let properties = properties.iter().filter_map(|(key, value)| {
        Some((key.parse().unwrap(), Property { value: value.clone()?, locked: false }))
    });
    Arc::new(Resource {
        point: point.parse().unwrap(),
        kind: kind.parse::<Kind>().unwrap(),
        properties: properties.collect(),
        status: Status::ready(),
        created: Revision(1),
        modified: Revision(1),
        version: 1,
    })
}

fn is_before(a: &Arc<Resource>, b: &Arc<Resource>) -> bool {
    (!a.point.is_root(), &a.point) < (!b.point.is_root(), &b.point)
}

/// What a selector means, page by page.
fn pages(view: &View, selector: &Selector, limit: usize, looks: usize) -> Vec<Arc<Resource>> {
    let (mut all, mut after): (Vec<Arc<Resource>>, Option<Point>) = (Vec::new(), None);
    loop {
        let page = view.page(selector, after.as_ref(), limit, looks);
        assert!(page.resources.len() <= limit);
        all.extend(page.resources);
        assert!(all.is_sorted_by(is_before), "{selector}");
        match page.looked_at {
            Some(last) => after = Some(last),
            None => return all,
        }
    }
}

fn run(acts: Vec<Act>, limit: usize, stretches: usize) {
    let mut view = View::default();
    let mut model: BTreeMap<Point, Arc<Resource>> = BTreeMap::new();
    let root = resource("ROOT", "Root", &[]);
    model.insert(root.point.clone(), root.clone());
    view.put(root);
    for (n, act) in acts.into_iter().enumerate() {
        let put = match act {
            Act::Put { point, kind, x, y } => resource(POINTS[point], KINDS[kind], &[("x", x), ("y", y)]),
            Act::Declare { point, indexed: Some(indexed) } => {
                let indexed = INDEXED[indexed].map(Value::from);
                resource(DECLARATIONS[point], "Kind", &[("indexed", indexed)])
            }
            Act::Declare { point, indexed: None } => {
                let point: Point = DECLARATIONS[point].parse().unwrap();
                model.remove(&point);
                view.remove(&point);
                continue;
            }
            Act::Remove { point } => {
                let point: Point = POINTS[point].parse().unwrap();
                model.remove(&point);
                view.remove(&point);
                continue;
            }
            Act::Load => {
                view = View::load(model.values().cloned().collect(), HashMap::new(), Revision(0));
                continue;
            }
        };
        model.insert(put.point.clone(), put.clone());
        view.put(put);
        if n + 1 < POINTS.len() {
            continue;
        }
        // What is not full yet is not used, and things change between the stretches.
        check(&view, &model, limit);
        for _ in 0..stretches {
            view.fill(2);
        }
        check(&view, &model, limit);
    }
    while view.fill(5) {}
    check(&view, &model, limit);
    // What is gone left nothing.
    let anew = View::load(model.values().cloned().collect(), HashMap::new(), Revision(0));
    for text in SELECTORS {
        let scope = text.parse::<Selector>().unwrap().scope();
        let entries = |view: &View| {
            let mut entries: Vec<_> =
                view.ordered.of(&scope).map(|index| (index.key().clone(), index.len())).collect();
            entries.sort();
            entries
        };
        assert_eq!(entries(&view), entries(&anew), "{text}");
    }
}

fn check(view: &View, model: &BTreeMap<Point, Arc<Resource>>, limit: usize) {
    for text in SELECTORS {
        let selector: Selector = text.parse().unwrap();
        let mut expected: Vec<_> = model.values().filter(|it| selector.matches(it)).cloned().collect();
        expected.sort_by(|a, b| (!a.point.is_root(), &a.point).cmp(&(!b.point.is_root(), &b.point)));
        assert_eq!(pages(view, &selector, limit, 3), expected, "{text}");
        assert_eq!(pages(view, &selector, usize::MAX, usize::MAX), expected, "{text}");
    }
    for text in FIRST {
        let Query::First(first) = text.parse().unwrap() else { panic!("{text}") };
        let Some(found) = view.ranked(&first, limit, usize::MAX) else { continue };
        let meant = model.values().filter(|it| first.of.matches(it));
        let mut ranked: Vec<_> = meant.filter_map(|it| Some((first.rank(it)?, it.clone()))).collect();
        ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
        let expected: Vec<_> = ranked.into_iter().map(|(_, it)| it).take(limit).collect();
        assert_eq!(found, expected, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_view_is_its_model(acts in acts(), limit in 1usize..5, stretches in 0usize..9) {
        run(acts, limit, stretches);
    }
}

/// A thousand orders, each with another total.
fn orders(declared: &[(&str, &str)]) -> View {
    let mut view = View::default();
    for n in 0..1_000 {
        let total = Some(Value::Number(n.into()));
        let at = Some(Value::text(format!("2026-{:02}-{:02}", n / 31 % 12 + 1, n % 31 + 1)));
        view.put(resource(&format!("a:o-{:03}", n * 7 % 1_000), "Order", &[("total", total), ("at", at)]));
    }
    for (point, indexed) in declared {
        view.put(resource(point, "Kind", &[("indexed", Some(Value::from(*indexed)))]));
    }
    while view.fill(100) {}
    view
}

/// How many resources are looked at for all that matches; 1 for none.
fn looked(view: &View, text: &str) -> usize {
    let selector: Selector = text.parse().unwrap();
    let looks: Vec<usize> = (1..2_000).collect();
    let more = |looks: &usize| view.page(&selector, None, usize::MAX, *looks).looked_at.is_some();
    looks.partition_point(more) + 1
}

#[test]
fn a_range_of_an_indexed_property_looks_at_what_is_in_it() {
    let view = orders(&[("a:kinds:order", "total, at")]);
    for (text, expected) in [
        ("a:*<Order>[total >= 980]", 20),
        ("a:*<Order>[total > 100 and total <= 110]", 10),
        ("a:**<Order>[total > 100 and total <= 110 and at > \"2026-12\"]", 10),
        ("a:o-007<Order>[total < 3]", 1),
        ("a:*<Order>[at >= \"2026-07-07\" and at < \"2026-07-09\"]", 6),
        ("a:*<Order>[total > 5 and total < 3]", 1),
        // Half of them is not worth it, and neither is what an equality finds sooner.
        ("a:*<Order>[total >= 400]", 1_000),
        ("a:*<Order>[total >= 900 and at = \"2026-07-07\"]", 3),
        // Others are not in the index.
        ("a:*[total >= 980]", 1_000),
        ("a:*<Order>[note >= 980]", 1_000),
    ] {
        assert_eq!(looked(&view, text), expected, "{text}");
    }
    let range = "a:*<Order>[total >= 980]";
    assert_eq!(looked(&orders(&[]), range), 1_000);
    assert_eq!(looked(&orders(&[("b:kinds:order", "total")]), range), 1_000, "of another space");
    assert_eq!(looked(&orders(&[("mesh:kinds:order", "total")]), range), 20, "it holds everywhere");
    assert_eq!(looked(&orders(&[("mesh:kinds:order", "total")]), "**<Order>[total >= 980]"), 20);
    assert_eq!(looked(&view, "**<Order>[total >= 980]"), 1_000, "other spaces are not in the index");
    let dropped = orders(&[("a:kinds:order", "total"), ("a:kinds:order", "at")]);
    assert_eq!(looked(&dropped, range), 1_000, "it is no longer named");
    let mut removed = orders(&[("a:kinds:order", "total")]);
    removed.remove(&"a:kinds:order".parse().unwrap());
    assert_eq!(looked(&removed, range), 1_000);
}

#[test]
fn the_first_are_found_without_the_others() {
    let view = orders(&[("a:kinds:order", "total")]);
    let first = |text: &str, looks: usize| {
        let Query::First(first) = text.parse().unwrap() else { panic!("{text}") };
        let ranked = view.ranked(&first, first.limit, looks)?;
        Some(ranked.iter().map(|it| it.property("total").unwrap().to_string()).collect::<Vec<_>>())
    };
    assert_eq!(first("first 3 by total of a:*<Order>", 3).unwrap(), ["0", "1", "2"]);
    assert_eq!(first("first 2 by total desc of a:*<Order>[total < 900]", 102).unwrap(), ["899", "898"]);
    assert_eq!(first("first 2 by total desc of a:*<Order>[total < 900]", 101), None, "that is enough");
    assert_eq!(first("first 3 by at of a:*<Order>", 2_000), None, "no index has them");
    assert_eq!(first("first 3 by total of a:*", 2_000), None, "others are not in the index");
    assert_eq!(
        first("first 3 by total of a:*<Order>[total > 998]", 1_000).unwrap(),
        ["999"],
        "all there are"
    );
}
