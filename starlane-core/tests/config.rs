//! Configs: both forms, what they mean, and how they are refused.

#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

use proptest::prelude::*;
use starlane_core::{Base, Code, Command, Config, EnvValue, Point, PropertyChange};

const APP: &str = "App {
  Set { +wasm.src=$(self.config.bundle):/wasm/shop.wasm, +mechtron.name=cart }
  Env { users<Base> = .:users }
  Install { create? .:users<Base>; create? .:mailer<Mechtron>{ +config=${bundle}:/config/mailer.mechtron } }
}
";

const MECHTRON: &str = "Mechtron(version=1.0.0) { Wasm { +bin=${bundle}:/wasm/shop.wasm; +name=cart } }";

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn config(text: &str) -> Config {
    Config::parse(text, "shop.config").unwrap_or_else(|problem| panic!("{text}: {problem:?}"))
}

fn texts(changes: &[PropertyChange]) -> Vec<(String, String)> {
    let text = |change: &PropertyChange| match change {
        PropertyChange::Set { key, value, .. } => (key.to_string(), value.to_string()),
        PropertyChange::Unset(key) => (format!("!{key}"), String::new()),
    };
    changes.iter().map(text).collect()
}

#[test]
fn a_config_means_the_same_in_both_forms() {
    let bundle = point("shop:repo:app:1.0.0");
    let here = point("shop:cart");
    let wasm = [
        ("wasm.src".to_owned(), "shop:repo:app:1.0.0:/wasm/shop.wasm".to_owned()),
        ("mechtron.name".to_owned(), "cart".to_owned()),
    ];
    let app = config(APP).resolve(&bundle, &here).unwrap();
    assert_eq!(app.kind, Base::App);
    assert_eq!(texts(&app.set), wasm);
    let users = EnvValue::Point(point("shop:cart:users"), Some("Base".parse().unwrap()));
    assert_eq!(app.env, [("users".to_owned(), users)]);
    assert_eq!(app.install.len(), 2);
    let Command::Create { changes, .. } = &app.install[1] else { panic!() };
    assert_eq!(texts(changes)[0].1, "shop:repo:app:1.0.0:/config/mailer.mechtron");
    let mechtron = config(MECHTRON).resolve(&bundle, &here).unwrap();
    assert_eq!(mechtron.kind, Base::Mechtron);
    assert_eq!(texts(&mechtron.set), wasm);
}

#[test]
fn configs_print_in_one_form() {
    assert_eq!(
        config(APP).to_string(),
        "App {\n    Set { +wasm.src=${self.config.bundle}:/wasm/shop.wasm, +mechtron.name=cart }\n    Env {\n        \
         users<Base> = .:users,\n    }\n    Install {\n        create? .:users<Base>;\n        create? \
         .:mailer<Mechtron>{ +config=${bundle}:/config/mailer.mechtron };\n    }\n}\n"
    );
    assert_eq!(
        config(MECHTRON).to_string(),
        "Mechtron {\n    Set { +wasm.src=${bundle}:/wasm/shop.wasm, +mechtron.name=cart }\n}\n"
    );
    for text in [APP, MECHTRON, "App {}", "App { Set { }; Env { a = shop:x; b = ..:y } Install { ; } }"] {
        let first = config(text).to_string();
        assert_eq!(config(&first).to_string(), first);
    }
}

#[test]
fn a_config_says_where_its_mechtron_lives() {
    let text = "Mechtron { Set { +place=[tier = \"edge\"], +replicas=2 } }";
    let found = config(text).resolve(&point("shop:repo:app:1.0.0"), &point("shop:cart")).unwrap();
    let expected = [("place", "[tier = \"edge\"]"), ("replicas", "2")];
    assert_eq!(texts(&found.set), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert!(config(text).to_string().contains("+place=[tier = \"edge\"], +replicas=2"));
}

#[test]
fn mistakes_are_refused_at_the_place() {
    for (text, place, code, detail, help) in [
        ("", "", Code::ConfigSyntax, "`App` or `Mechtron`", "`App {`"),
        ("Ap {}", "Ap", Code::ConfigSyntax, "no configs of a `Ap`", "did you mean `App`?"),
        ("App(version=2.0.0) {}", "2.0.0", Code::ConfigSyntax, "version 2.0.0", "1.0.0"),
        ("App(vers=1) {}", "=", Code::ConfigSyntax, "`version=1.0.0`", ""),
        ("App { Sett {} }", "Sett", Code::ConfigSyntax, "no section `Sett`", "did you mean `Set`?"),
        ("App { Set { +a=b }", "{", Code::ConfigSyntax, "never closed", "`}`"),
        ("App {} x", "x", Code::ConfigSyntax, "the end of the config", ""),
        (
            "Mechtron { Set { +place=[tier ~ 1] } }",
            "~",
            Code::ConfigSyntax,
            "not a comparison",
            "a filter, as `[tier",
        ),
        ("App { Set { +a=b } Set { +a=c } }", "{ +a=c }", Code::ConfigSyntax, "`a` is set twice", ""),
        (
            "App { Set { +a=${bundel} } }",
            "${bundel}",
            Code::VariableUnknown,
            "no variable `bundel`",
            "`bundle`",
        ),
        ("App { Env { a = ${x}:y } }", "${x}", Code::VariableUnknown, "no variable `x`", "${bundle}"),
        ("App { Env { a .:y } }", ".", Code::ConfigSyntax, "`=` and a point", "a = .:a"),
        ("App { Env { a = Shop } }", "S", Code::PointSyntax, "lowercase", ""),
        ("App { Env { a = b, a = c } }", "a", Code::ConfigSyntax, "named twice", ""),
        ("App { Install { creat x<Base> } }", "creat", Code::ConfigSyntax, "no command", "`create`"),
        ("App { Install { set ${y}{ +a=b } } }", "${y}", Code::VariableUnknown, "no variable `y`", ""),
        ("App { Install { set x{ +a=b }", "{", Code::ConfigSyntax, "never closed", ""),
        (
            "App { Install { create x<Base>; get x; } }",
            "get x",
            Code::ConfigSyntax,
            "`create` and `set` statements only",
            "leave it out",
        ),
        (
            "Mechtron { Wasm { +bin=a, +other=b } }",
            "{ +bin=a, +other=b }",
            Code::ConfigSyntax,
            "knows no `other`",
            "Set",
        ),
    ] {
        let problem = Config::parse(text, "x.config").expect_err(text);
        let marked = problem.place.as_ref().unwrap();
        assert_eq!((&*marked.name, &*marked.source), ("x.config", text));
        assert_eq!(&text[marked.span.start..marked.span.end], place, "{text}: {problem:?}");
        assert_eq!(problem.code, code, "{text}");
        assert!(problem.detail.contains(detail), "{text}: {}", problem.detail);
        assert!(problem.help.clone().unwrap_or_default().contains(help), "{text}: {:?}", problem.help);
    }
}

#[test]
fn what_only_the_place_shows_is_refused_there() {
    let config = config("App { Env { a = ..:..:..:x } }");
    let problem = config.resolve(&point("a:b:c:1.0.0"), &point("shop:x")).unwrap_err();
    let place = problem.place.unwrap();
    assert_eq!((&*place.name, place.span.start, place.span.end), ("shop.config", 16, 26));
}

proptest! {
    #[test]
    fn any_config_is_answered(words in proptest::collection::vec(proptest::sample::select(vec![
        "App", "Mechtron", "(version=1.0.0)", "{", "}", " Set ", " Env ", " Install ", " Wasm ", "+a=b", "+bin=x", "+c={\"d\":1}",
        "+place=[tier = \"${bundle}\"]", "+p=[a = 1 # ${x}\n and b = 2]",
        ",", ";", " users<Base> = ", ".:x", "..", "shop:a", "${bundle}", "$(self.config.bundle):/x", "create? .:a<Base>",
        "set .{ +a=b }", "get shop", "\"a b\"", "# c\n", " ",
    ]), 0..16), body in any::<bool>()) {
        let text = if body { format!("App {{ {} }}", words.concat()) } else { words.concat() };
        if let Ok(first) = Config::parse(&text, "") {
            let again = config(&first.to_string());
            prop_assert_eq!(first.to_string(), again.to_string());
            let (bundle, here) = (point("a:b:c:1.0.0"), point("shop:x:y"));
            prop_assert_eq!(first.resolve(&bundle, &here).ok(), again.resolve(&bundle, &here).ok());
        }
    }
}
