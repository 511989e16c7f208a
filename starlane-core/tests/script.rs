//! Commands and scripts: what they mean, how they print, and how they are refused.

#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

use proptest::prelude::*;
use starlane_core::{
    Bindings, Code, Command, CreateMode, DeleteTarget, Grant, Location, MaskMode, Point, Problem,
    PropertyChange, Script, Target, Value, kind_unknown,
};

fn script(text: &str) -> Script {
    Script::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem:?}"))
}

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

/// What a single statement means, seen from `shop:app`.
fn command(text: &str) -> Command {
    let script = script(text);
    assert_eq!(script.statements.len(), 1, "{text}");
    script.statements[0].resolve(&bindings()).unwrap_or_else(|problem| panic!("{text}: {problem:?}"))
}

fn bindings() -> Bindings {
    let here = Bindings { here: Some(point("shop:app")), ..Bindings::default() };
    here.with("bundle", "shop:repo:site:1.0.0")
        .with("self.config.bundle", "shop:repo:site:1.0.0")
        .with("name", "cart")
}

fn set(key: &str, value: impl Into<Value>) -> PropertyChange {
    PropertyChange::Set { key: key.parse().unwrap(), value: value.into(), lock: false }
}

#[test]
fn every_command_of_the_language_is_understood() {
    for (text, printed) in [
        ("create localhost<Space>", "create localhost<Space>"),
        ("create? .:users<Base>", "create? .:users<Base>"),
        ("? create .:users<Base>", "create? .:users<Base>"),
        ("! create shop<Space>{}", "create! shop<Space>"),
        ("create! shop<Space>", "create! shop<Space>"),
        ("create shop:cart-%<Mechtron>{ +a=b, }", "create shop:cart-%<Mechtron>{ +a=b }"),
        (
            "create ${name}:x <Base<Repo>> {\n  +k = v,\n !gone , +@locked=\"a b\" }",
            "create ${name}:x<Repo>{ +k=v, !gone, +@locked=\"a b\" }",
        ),
        ("set shop{ +k=v, !k2 }", "set shop{ +k=v, !k2 }"),
        ("set shop{ +place=[tier = \"edge\"] }", "set shop{ +place=[tier = \"edge\"] }"),
        ("set shop{ +place=[tier=\"$(name)\"] }", "set shop{ +place=[tier=\"${name}\"] }"),
        ("get shop", "get shop"),
        ("get shop{ k, wasm.src }", "get shop{ k, wasm.src }"),
        ("select shop:+**", "select shop+:**"),
        ("select .:**<Mechtron>", "select .:**<Mechtron>"),
        ("delete shop:x", "delete shop:x"),
        ("delete shop:x -r", "delete -r shop:x"),
        ("delete -r shop:**[a=1]", "delete -r shop:**[a = 1]"),
        ("publish ^[ file.zip ]-> shop:repo:site:1.0.0", "publish ^[ file.zip ]-> shop:repo:site:1.0.0"),
        ("publish ^[my site/]-> shop:repo:site:1.0.0", "publish ^[ \"my site/\" ]-> shop:repo:site:1.0.0"),
        ("cp logo.svg shop:files:/img/logo.svg", "cp logo.svg shop:files:/img/logo.svg"),
        ("cp shop:files:/img/logo.svg ./a:b", "cp shop:files:/img/logo.svg ./a:b"),
        ("read shop:files:/a.txt", "read shop:files:/a.txt"),
        ("read \"shop:files:/my photo.jpg\"", "read \"shop:files:/my photo.jpg\""),
        ("write shop:files:/a.txt Hello", "write shop:files:/a.txt Hello"),
        ("write shop:files:/a.txt \"Hello world\"", "write shop:files:/a.txt \"Hello world\""),
        ("watch shop:orders:*", "watch shop:orders:*"),
        (
            "grant perm +csd-RwX on shop:** to mesh:users:bob",
            "grant perm +csd-RwX on shop:** to mesh:users:bob",
        ),
        ("grant perm &CSD-RWX on shop:** to mesh:users:*", "grant perm &CSD-RWX on shop:** to mesh:users:*"),
        (
            "grant priv property:email:read on shop to <User>",
            "grant priv property:email:read on shop to **<User>",
        ),
        ("grant super on shop:** to mesh:users:ann", "grant super on shop:** to mesh:users:ann"),
        ("grant list on shop:**", "grant list on shop:**"),
        ("grant revoke 7", "grant revoke 7"),
        ("chown mesh:users:ann shop:**", "chown mesh:users:ann shop:**"),
        ("send shop:cart^Ext<AddItem> {\"a\": 1}", "send shop:cart^Ext<AddItem> {\"a\": 1}"),
        ("send shop:cart^Msg<AddItem>", "send shop:cart^Ext<AddItem>"),
        ("request shop:cart^Http<GET>/items?x=1 hi", "request shop:cart^Http<Get>/items?x=1 hi"),
        ("request ..:$(name)^Http<Get>/${name}/x", "request ..:${name}^Http<Get>/${name}/x"),
    ] {
        let first = script(text).to_string();
        assert_eq!(first, format!("{printed};\n"), "{text}");
        assert_eq!(script(&first).to_string(), first);
        command(text);
    }
}

#[test]
fn commands_say_what_is_meant() {
    let Command::Create { mode, target, kind, changes } = command(
        "create? ..:$(name)<Mechtron>{ +config=${bundle}:/c.mechtron, +n=12, +list=[1, {\"a\": null}], \
         +place=[tier = \"edge\"], +text=\"${name} costs \\$5\", +peer=.:users, +dots=\".:users\", +c=#fff, \
         +range=shop:repo:(^1, <2), +flag=true }",
    ) else {
        panic!()
    };
    assert_eq!((mode, target), (CreateMode::Ensure, Target::Point(point("shop:cart"))));
    assert_eq!(kind.to_string(), "Mechtron");
    assert_eq!(
        changes,
        [
            set("config", "shop:repo:site:1.0.0:/c.mechtron"),
            set("n", "12"),
            set("list", Value::from(serde_json::json!([1, {"a": null}]))),
            set("place", "[tier = \"edge\"]"),
            set("text", "cart costs $5"),
            set("peer", "shop:app:users"),
            set("dots", ".:users"),
            set("c", "#fff"),
            set("range", "shop:repo:(^1, <2)"),
            set("flag", "true"),
        ]
    );
    let Command::Create { target: Target::Sequence(sequence), .. } = command("create shop:cart-%<Base>")
    else {
        panic!()
    };
    assert_eq!(sequence.point(17).unwrap(), point("shop:cart-17"));
    let Command::Delete { target, recursive } = command("delete shop:x") else { panic!() };
    assert_eq!((target, recursive), (DeleteTarget::Point(point("shop:x")), false));
    let Command::Delete { target: DeleteTarget::Selector(selector), .. } = command("delete .:*") else {
        panic!()
    };
    assert_eq!(selector.to_string(), "shop:app:*");
    assert_eq!(
        command("cp - shop:files:/x"),
        Command::Copy { from: Location::Local("-".into()), to: Location::Point(point("shop:files:/x")) }
    );
    assert_eq!(
        command("select ${bundle}:/+**[name = \"${name}\"]"),
        Command::Select("shop:repo:site:1.0.0+:/**[name = \"cart\"]".parse().unwrap())
    );
    let Command::Request(call) = command("request shop:cart^Ext<Add>  [1, 2]") else { panic!() };
    assert_eq!((&*call.path, &*call.body), ("/", "[1, 2]"));
    let Command::Grant(Grant::Permission { mask, .. }) = command("grant perm +csd-RwX on shop to shop")
    else {
        panic!()
    };
    assert_eq!(mask.mode, MaskMode::Add);
    assert!(mask.rights.read && mask.rights.execute && !mask.rights.write && !mask.rights.create);
}

#[test]
fn a_variable_in_a_quoted_text_of_a_selector_cannot_end_the_quotes() {
    let script = script("select shop:*[name = \"${name}\"]");
    let evil = Bindings::default().with("name", "x\" or exists(a) or name = \"y");
    let Command::Select(selector) = script.statements[0].resolve(&evil).unwrap() else { panic!() };
    assert_eq!(selector.fields().collect::<Vec<_>>(), ["name"]);
}

#[test]
fn a_filter_is_a_value_in_brackets_and_in_quotes() {
    for text in [
        r#"set shop:x{ +place=[tier = "edge" and not exists(gone)], +replicas=3 }"#,
        r#"set shop:x{ +place="[tier = \"edge\" and not exists(gone)]", +replicas=3 }"#,
    ] {
        let Command::Set { changes, .. } = command(text) else { panic!() };
        let expected = set("place", "[tier = \"edge\" and not exists(gone)]");
        assert_eq!(changes, [expected, set("replicas", "3")], "{text}");
    }
    let evil = Bindings::default().with("name", "x\" or exists(a) or name = \"y");
    for text in [
        "set shop:x{ +place=[tier = \"${name}\"] }",
        "set shop:x{ +place=[exists(a) # it's \"here\n and tier = \"${name}\"] }",
        "select *[exists(a) # it's \"here\n and tier = \"${name}\"]",
    ] {
        let fields = |selector: &str| {
            let selector: starlane_core::Selector = selector.parse().unwrap();
            selector.fields().filter(|field| *field != "a").map(str::to_owned).collect::<Vec<_>>()
        };
        let found = match script(text).statements[0].resolve(&evil).unwrap() {
            Command::Set { changes, .. } => {
                let PropertyChange::Set { value, .. } = &changes[0] else { panic!() };
                fields(&format!("*{value}"))
            }
            Command::Select(selector) => fields(&selector.to_string()),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, ["tier"], "{text}");
    }
}

#[test]
fn scripts_hold_statements_and_comments() {
    let text =
        "# a shop\ncreate shop<Space>; # and its users\n;;\n  create\n shop:users\n <Base>\n { } ; get shop";
    assert_eq!(script(text).to_string(), "create shop<Space>;\ncreate shop:users<Base>;\nget shop;\n");
    assert_eq!(script(" # nothing\n").statements.len(), 0);
    let spans: Vec<_> = script(text).statements.iter().map(|s| &text[s.span.start..s.span.end]).collect();
    assert_eq!(spans[0], "create shop<Space>");
    assert_eq!(spans[2], "get shop");
}

/// Checks where a problem points, what it says and what it advises.
fn check(text: &str, problem: &Problem, place: &str, code: Code, detail: &str, help: &str) {
    let marked = problem.place.as_ref().unwrap_or_else(|| panic!("{text}: {problem:?}"));
    assert_eq!(marked.source, text);
    assert_eq!(&text[marked.span.start..marked.span.end], place, "{text}: {problem:?}");
    assert!(!marked.label.is_empty(), "{text}");
    assert_eq!(problem.code, code, "{text}");
    assert!(problem.detail.contains(detail), "{text}: {}", problem.detail);
    assert!(problem.help.clone().unwrap_or_default().contains(help), "{text}: {:?}", problem.help);
}

#[test]
fn mistakes_are_refused_at_the_place() {
    for (text, place, code, detail, help) in [
        ("creat shop<Space>", "creat", Code::Syntax, "no command `creat`", "did you mean `create`?"),
        ("frobnicate", "frobnicate", Code::Syntax, "no command", "commands are `create`"),
        ("? set shop{ +a=b }", "?", Code::Syntax, "goes with `create` alone", ""),
        ("? create! shop<Space>", "!", Code::Syntax, "not both", ""),
        ("create", "", Code::Syntax, "expected a point", "shop:users:bob"),
        ("create shop", "", Code::Syntax, "a kind `<…>` after the point", "create shop<Base>"),
        ("create shop Space", "Space", Code::Syntax, "a kind `<…>`", ""),
        ("write sh:\u{597} x", "", Code::PointSyntax, "a segment is empty", ""),
        ("create Shop<Space>", "S", Code::PointSyntax, "lowercase", ""),
        ("create shop:a_b<Base>", "_", Code::PointSyntax, "`_` cannot stand in a segment", ""),
        ("create shop:*<Base>", "*", Code::PointSyntax, "`*` cannot stand", ""),
        ("create shop:r:1.0.0+x<Base>", "+x", Code::PointSyntax, "build metadata", ""),
        ("create shop:a-%-%<Base>", "shop:a-%-%", Code::PointSyntax, "one `%`", "shop:cart-%"),
        ("create shop:1.0.%<Base>", "shop:1.0.%", Code::PointSyntax, "cannot be counted", ""),
        ("create shop<space>", "space", Code::KindSyntax, "not written like a kind", "did you mean `Space`?"),
        ("create shop<line-item>", "line-item", Code::KindSyntax, "not written like a kind", "`LineItem`"),
        ("create shop<Space", "<", Code::Syntax, "never closed", "`>`"),
        ("create shop<Space>{ +a=b", "{", Code::Syntax, "never closed", "`}`"),
        ("create shop<Space>{ +a=two words }", "words", Code::Syntax, "expected `,` or `}`", "quotes"),
        ("create shop<Space>{ a=b }", "a", Code::Syntax, "expected `+key=value`", "sets and locks"),
        (
            "create shop<Space>{ +A=b }",
            "A",
            Code::PropertyKey,
            "not a property key",
            "keys are lowercase: `a`",
        ),
        ("create shop<Space>{ +a=, +b=c }", ",", Code::Syntax, "a value for `a`", "`+a=\"\"`"),
        ("create shop<Space>{ +a b }", "b", Code::Syntax, "`=` after `a`", "+a=value"),
        ("create shop<Space>{ +a=1, !a }", "!a", Code::Syntax, "named twice", ""),
        ("create shop<Space>{ +a={\"b\": } }", "}", Code::Syntax, "not JSON", "in quotes"),
        ("create shop<Space>{ +a=[1, } }", "[", Code::Syntax, "in brackets is never closed", "`]`"),
        ("create shop<Space>{ +a=[1,, 2] }", "1", Code::PropertyKey, "not a property key", "a JSON list"),
        ("create shop<Space>{ +a=\"x }", "\"", Code::Syntax, "never closed", "`\"`"),
        ("set shop{ +place=[tier == 1] }", "==", Code::Syntax, "not a comparison", "a filter, as"),
        (
            "set shop{ +place=[tier = \"a\" & b = 1] }",
            "&",
            Code::Syntax,
            "`and`, `or` or `]`",
            "a filter, as",
        ),
        ("set shop{ +place=[status = Redy] }", "Redy", Code::Syntax, "no status `Redy`", "a filter, as"),
        ("create shop<Space>{ +a=x(1 }", "(", Code::Syntax, "never closed", "`)`"),
        ("set shop", "", Code::Syntax, "`{` and the properties", "set shop{"),
        ("set shop{}", "{}", Code::Syntax, "nothing to set", ""),
        ("get shop{ a b }", "b", Code::Syntax, "`,` or `}`", ""),
        ("get shop x", "x", Code::Syntax, "`;` or the end", "separated by `;`"),
        ("select", "", Code::Syntax, "expected a selector", ""),
        ("select shop:cart-*", "cart-*", Code::Syntax, "a whole segment", ""),
        ("select shop:**[a == 1]", "==", Code::Syntax, "not a comparison", "single `=`"),
        ("delete -f shop", "-f", Code::Syntax, "knows no `-f`", "`-r`"),
        ("publish site.zip shop:r:s:1.0.0", "site", Code::Syntax, "`^[`", "publish ^["),
        ("publish ^[ site.zip -> shop:r:s:1.0.0", "site", Code::Syntax, "then `]->`", "publish ^["),
        ("publish ^[ a.zip ]-> shop:r:s", "shop:r:s", Code::PointSyntax, "ends with a version", "1.0.0"),
        ("cp a b", "a b", Code::Syntax, "both ends are local", "one of the two is a point"),
        ("cp a:/x b:/y", "a:/x b:/y", Code::Syntax, "both ends are points", ""),
        ("cp a", "", Code::Syntax, "a point or a local file", ""),
        ("write shop:files:/a", "", Code::Syntax, "expected the content", "write shop:files"),
        ("send shop:cart", "", Code::Syntax, "`^` and the method", "Ext<AddItem>"),
        ("send shop:cart^Ex<A>", "Ex", Code::Syntax, "no family", "did you mean `Ext`?"),
        ("send shop:cart^Ext<add>", "add", Code::Syntax, "not the name of a method", "Pascal"),
        ("send shop:cart^Ext<A>x", "x", Code::Syntax, "begins with `/`", ""),
        ("send shop:cart^Ext<A> {a}", "a", Code::Syntax, "not JSON", ""),
        ("send shop:cart^Ext<A> a b", "b", Code::Syntax, "`;` or the end", "quotes"),
        ("grant perm +csd on shop to x", "+csd", Code::Syntax, "not a mask", "+csd-RwX"),
        ("grant perm +csd-RwX to x", "to", Code::Syntax, "`on` and a selector", "grant perm"),
        ("grant parm x", "parm", Code::Syntax, "no `grant parm`", "did you mean `perm`?"),
        ("grant revoke x", "x", Code::Syntax, "the number of a grant", "grant list"),
        ("get ${a", "${a", Code::Syntax, "not written in full", "${name}"),
        ("get shop; get \n shop:X", "X", Code::PointSyntax, "lowercase", ""),
    ] {
        let problem = Script::parse(text).expect_err(text);
        check(text, &problem, place, code, detail, help);
    }
}

#[test]
fn mistakes_that_only_variables_show_are_refused_at_the_place() {
    for (text, place, code, detail, help) in [
        (
            "get ${bundel}:/x",
            "${bundel}",
            Code::VariableUnknown,
            "no variable `bundel`",
            "did you mean `bundle`?",
        ),
        ("get shop; get $(x)", "$(x)", Code::VariableUnknown, "no variable `x`", "known here"),
        ("get ${bundle}:more", "${bundle}:more", Code::PointSyntax, "after a version", ""),
        ("get ..:..:..:..:x", "..:..:..:..:x", Code::PointSyntax, "`ROOT` has no parent", "whole point"),
        ("set shop{ +a=${no} }", "${no}", Code::VariableUnknown, "no variable `no`", ""),
        ("select ${no}:**", "${no}", Code::VariableUnknown, "no variable `no`", ""),
    ] {
        let problem = script(text).statements.iter().find_map(|s| s.resolve(&bindings()).err()).expect(text);
        check(text, &problem, place, code, detail, help);
    }
    let text = "get .:users";
    let problem = script(text).statements[0].resolve(&Bindings::default()).unwrap_err();
    check(text, &problem, ".:users", Code::PointSyntax, "no meaning here", "the whole point");
}

#[test]
fn a_problem_met_while_carrying_out_gets_its_place() {
    let text = "create shop:cart<Mechatron>";
    let statement = &script(text).statements[0];
    let problem = statement.locate(kind_unknown("Mechatron", []));
    check(text, &problem, "Mechatron", Code::KindUnknown, "no kind `Mechatron`", "did you mean `Mechtron`?");
    assert_eq!(problem.place.unwrap().label, "not a kind");
    let problem = statement.locate(Problem::new(Code::Exists, "x"));
    assert_eq!(problem.place.unwrap().span.start, 7);
    let text = "get shop; set shop{ +a=b }";
    let problem = script(text).statements[1].locate(Problem::new(Code::PropertyLocked, "x"));
    check(text, &problem, "{ +a=b }", Code::PropertyLocked, "", "");
}

#[test]
fn bounds_hold() {
    assert_eq!(Script::parse(&"get a;".repeat(10_000)).unwrap().statements.len(), 10_000);
    assert!(Script::parse(&"get a;".repeat(10_001)).unwrap_err().detail.contains("at most 10000"));
    assert_eq!(Script::parse(&" ".repeat((1 << 20) + 1)).unwrap_err().code, Code::TooLarge);
    assert!(Script::parse(&format!("set a{{ +a={}", "[".repeat(100_000))).is_err());
    let many = script(&format!("set a{{ +a=\"{}\" }}", "${v}".repeat(1000)));
    let big = Bindings::default().with("v", "x".repeat(1 << 16));
    assert_eq!(many.statements[0].resolve(&big).unwrap_err().code, Code::TooLarge);
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~éß\n\t\u{85}]{0,12}", Just("${name}".to_owned()), Just(".:x".to_owned())]
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$"))
}

proptest! {
    #[test]
    fn values_survive_printing(texts in proptest::collection::vec(any_text(), 1..5)) {
        let changes: Vec<_> = texts.iter().enumerate().map(|(at, text)| format!("+k{at}={}", quoted(text))).collect();
        let first = script(&format!("set shop{{ {} }}", changes.join(", ")));
        let again = script(&first.to_string());
        prop_assert_eq!(first.to_string(), again.to_string());
        let Command::Set { changes, .. } = again.statements[0].resolve(&Bindings::default()).unwrap() else { panic!() };
        for (change, text) in changes.iter().zip(&texts) {
            let PropertyChange::Set { value, .. } = change else { panic!() };
            prop_assert_eq!(value.as_text(), Some(text.as_str()));
        }
    }

    #[test]
    fn filters_survive_printing_as_they_were_written(filter in any_filter()) {
        let text = format!("[{filter}]");
        let Ok(first) = Script::parse(&format!("set shop{{ +place={text} }}")) else { return Ok(()) };
        let again = script(&first.to_string());
        prop_assert_eq!(first.to_string(), again.to_string());
        let [first, again] = [first, again].map(|script| script.statements[0].resolve(&bindings()).unwrap());
        prop_assert_eq!(&first, &again);
        let Command::Set { changes, .. } = first else { panic!() };
        let PropertyChange::Set { value, .. } = &changes[0] else { panic!() };
        if let Some(filter) = value.as_text() {
            prop_assert!(format!("shop:**{filter}").parse::<starlane_core::Selector>().is_ok(), "{}", filter);
            let in_quotes = script(&format!("set shop{{ +place={} }}", quoted(filter)));
            let Command::Set { changes: same, .. } = in_quotes.statements[0].resolve(&bindings()).unwrap() else { panic!() };
            prop_assert_eq!(changes, same);
        }
    }

    #[test]
    fn files_survive_printing(name in "[ -~é]{1,10}") {
        let text = format!("shop:files:/{name}");
        if let Ok(point) = text.parse::<Point>() {
            let first = script(&format!("read {}", quoted(&text)));
            let again = script(&first.to_string());
            prop_assert_eq!(again.statements[0].resolve(&Bindings::default()).unwrap(), Command::Read(point));
        }
    }

    #[test]
    fn any_script_is_answered(words in proptest::collection::vec(any_word(), 0..12)) {
        if let Ok(first) = Script::parse(&words.concat()) {
            let again = script(&first.to_string());
            prop_assert_eq!(first.to_string(), again.to_string());
            for (first, again) in first.statements.iter().zip(&again.statements) {
                prop_assert_eq!(first.resolve(&bindings()).ok(), again.resolve(&bindings()).ok());
            }
        }
    }
}

/// Conditions, well joined more often than not.
fn any_filter() -> impl Strategy<Value = String> {
    let conditions = [
        "tier = \"edge\"",
        "tier=edge",
        "status = Ready",
        "queue >= 2",
        "region in (\"a\", 2)",
        "name like \"a*\"",
        "exists(a)",
        "not exists(a)",
        "(a = 1 or b = 2)",
        "tier = \"${name}\"",
        "tier = \"\\${name}\"",
        "tier = \"a \\\"b\"",
        "tier = \"#a\"",
        "1",
        "]",
    ];
    let joints = [" and ", " or ", "\nand\n", " # ${x} \"]\n and ", ", "];
    let one = (proptest::sample::select(joints.to_vec()), proptest::sample::select(conditions.to_vec()));
    (proptest::sample::select(conditions.to_vec()), proptest::collection::vec(one, 0..4)).prop_map(
        |(first, more)| {
            more.into_iter().fold(first.to_owned(), |text, (joint, condition)| text + joint + condition)
        },
    )
}

fn any_word() -> impl Strategy<Value = String> {
    let words = [
        "create",
        "create?",
        "! ",
        "set",
        "get",
        "select",
        "delete",
        "publish",
        "cp",
        "read",
        "write",
        "watch",
        "send",
        "request",
        "grant perm",
        "chown",
        " ",
        "shop",
        ":",
        "users",
        "<Base>",
        "<Order<Big>>",
        "{",
        "}",
        " +k=",
        "v",
        "!k",
        ", ",
        ";",
        "\"a b\"",
        "${bundle}",
        "$(name)",
        ".:x",
        "..",
        ":/a/b",
        "^Ext<Add>",
        "^Http<Get>/p",
        "^[ a.zip ]-> ",
        "1.0.0",
        "*",
        "**",
        "+:**",
        "[a = 1]",
        "[1,2]",
        "{\"a\":1}",
        " on ",
        " to ",
        "+csd-RwX",
        "-r ",
        "-%",
        "# c\n",
        "\n",
        "$",
        "\\",
        "(^1.2)",
        "./f",
    ];
    proptest::sample::select(words.to_vec()).prop_map(str::to_owned)
}
