//! Binds: which rule a request takes, how it runs through it, and how mistakes are refused.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test builds itself is right, or the test fails"
)]

use bytes::Bytes;
use proptest::prelude::*;
use starlane_core::{
    Action, Bind, Blob, Body, Code, Digest, Headers, Method, MethodFamily, Pipeline, Point, Reply, Request,
};

const SHOP: &str = "Bind(version=1.0.0) {
  Http {
    <Get>/app/(.*)   -> shop:cart^Http<Get>/$1 => &;
    <Get>/(.*)       -> shop:repo:site:1.0.0:/html/$1 => &;
  }
  Ext { <AddItem> -[ Json ]-> shop:validator -[ Json ]-> (()) =[ Json ]=> &; }
  Route(auth) -> { Http<Get>/users/(?P<user>[^/]+)$ -> shop:profiles:${user} => &; Ext<*> -> (()) => &; }
}
";

fn bind(text: &str) -> Bind {
    Bind::parse(text, "shop.bind").unwrap_or_else(|problem| panic!("{text}: {problem:?}"))
}

fn rule(text: &str) -> Bind {
    bind(&format!("Bind {{ {text} }}"))
}

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn method(text: &str) -> Method {
    text.parse().unwrap()
}

fn request(method_text: &str, path: &str, body: &str) -> Request {
    Request {
        method: method(method_text),
        path: path.into(),
        headers: [("x-own", "1")].into_iter().collect(),
        body: Body::Bytes(Bytes::copy_from_slice(body.as_bytes())),
    }
}

fn start(bind: &Bind, request: Request) -> Pipeline {
    bind.route(&request.method, &request.path).unwrap().expect("a route").start(request)
}

/// Whom a request goes to first, and with what path.
fn first(bind: &Bind, method: &str, path: &str) -> String {
    match start(bind, request(method, path, "")).next() {
        Action::Ask { to, method, path, .. } => format!("{to} {method} {path}"),
        Action::Own { method, path, .. } => format!("own {method} {path}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_rule_that_matches_applies() {
    let bind = bind(SHOP);
    assert_eq!(first(&bind, "Http<Get>", "/app/items/7"), "shop:cart Http<Get> /items/7");
    assert_eq!(first(&bind, "Http<Get>", "/app/"), "shop:cart Http<Get> /");
    assert_eq!(
        first(&bind, "Http<Get>", "/a/b.css"),
        "shop:repo:site:1.0.0:/html/a/b.css Http<Get> /a/b.css"
    );
    assert_eq!(first(&bind, "Http<Get>", "/"), "shop:repo:site:1.0.0:/html/ Http<Get> /");
    assert_eq!(bind.route(&method("Http<Post>"), "/app/x").unwrap(), None);
    assert_eq!(bind.route(&method("Cmd<Stop>"), "/").unwrap(), None);
    assert!(bind.has_rules_for(MethodFamily::Ext) && !bind.has_rules_for(MethodFamily::Cmd));
    assert!(rule("* -> (()) => &").has_rules_for(MethodFamily::Cmd));
    assert_eq!(bind.route(&method("Http<Get>"), "x").unwrap(), None, "the whole path must match");
}

#[test]
fn nesting_may_be_collapsed() {
    let expected = "Bind(version=1.0.0) {\n    Http<Get>/x -> (()) => &;\n}\n";
    for text in [
        "Route<Http<Get>>/x -> (()) => &;",
        "Route { Http<Get>/x -> (()) => & }",
        "Route { Http { <Get>/x -> {{ }} => &; } }",
        "Http { <Get>/x -> (( )) => & }",
        "Http<Get> { /x -> {{}} => & }",
        "Route<Http<GET>>/x\n->\n(())\n=> & # done\n;",
        "Route -> { Http -> { <Get>/x -> (()) => & } };",
    ] {
        assert_eq!(rule(text).to_string(), expected, "{text}");
    }
    assert_eq!(rule("Route<*>/x -> (()) => &"), rule("*<*>/x -> (()) => &"));
    assert_eq!(rule("Msg<*> -> (()) => &"), rule("Ext -> (()) => &"));
}

#[test]
fn binds_print_in_one_form() {
    let printed = bind(SHOP).to_string();
    assert_eq!(
        printed,
        "Bind(version=1.0.0) {\n    Http<Get>/app/(.*) -> shop:cart^Http<Get>/$1 => &;\n    Http<Get>/(.*) -> \
         shop:repo:site:1.0.0:/html/$1 => &;\n    Ext<AddItem> -[ Json ]-> shop:validator -[ Json ]-> (()) =[ Json ]=> \
         &;\n    Route(auth)<Http<Get>>/users/(?P<user>[^/]+)$ -> shop:profiles:${user} => &;\n    Route(auth)<Ext<*>> -> \
         (()) => &;\n}\n"
    );
    assert_eq!(bind(&printed).to_string(), printed);
    let spaced =
        rule("Http<Get>/a\\ b -> \"shop:files:/my dir/$1\" => &".replace("a\\ b", "a\\ (b)").as_str());
    assert_eq!(bind(&spaced.to_string()), spaced);
}

#[test]
fn captures_are_decoded_once_and_stay_in_their_place() {
    let site = rule("Http<Get>/(.*) -> shop:files:/$1 => &");
    let users = rule("Http<Get>/users/(?P<user>.*) -> shop:profiles:${user} => &");
    assert_eq!(
        first(&site, "Http<Get>", "/my%20photo.jpg"),
        "shop:files:/my photo.jpg Http<Get> /my%20photo.jpg"
    );
    assert_eq!(first(&site, "Http<Get>", "/100%25.txt"), "shop:files:/100%.txt Http<Get> /100%25.txt");
    assert_eq!(first(&users, "Http<Get>", "/users/bob"), "shop:profiles:bob Http<Get> /users/bob");
    for (bind, path) in [
        (&site, "/../secret"),
        (&site, "/%2e%2e/secret"),
        (&site, "/a/%2e%2e%2fsecret"),
        (&site, "/%252e%252e/x"),
        (&site, "/a%5cb"),
        (&site, "/a%00"),
        (&site, "/%ff"),
        (&site, "//x"),
        (&users, "/users/"),
        (&users, "/users/bob/x"),
        (&users, "/users/bob:x"),
        (&users, "/users/bob%3ax"),
        (&users, "/users/bob%2fx"),
        (&users, "/users/%3a%2fetc"),
        (&users, "/users/Bob"),
    ] {
        let problem = bind.route(&method("Http<Get>"), path).expect_err(path);
        assert_eq!((problem.code, problem.code.http_status()), (Code::MessageInvalid, 400), "{path}");
        assert!(problem.detail.contains("leads to no point"), "{}", problem.detail);
    }
    let call = rule("Http<Get>/app/(.*) -> shop:cart^Http<Get>/v1/$1 => &");
    assert_eq!(
        first(&call, "Http<Get>", "/app/a%2Fb"),
        "shop:cart Http<Get> /v1/a%2Fb",
        "decoded by who is called"
    );
}

#[test]
fn a_query_is_seen_by_no_rule_and_travels() {
    let bind = rule(
        "Http<Get>/a$ -> shop:x^Ext<Y>/z => &; Http<Get>/b -> shop:x^Http<Get>/z?own=1 => &; Http<Get>/c -> shop:x => &",
    );
    assert_eq!(first(&bind, "Http<Get>", "/a?q=1?2"), "shop:x Ext<Y> /z?q=1?2");
    assert_eq!(first(&bind, "Http<Get>", "/b?q=1"), "shop:x Http<Get> /z?own=1&q=1");
    assert_eq!(first(&bind, "Http<Get>", "/c?q=1"), "shop:x Http<Get> /c?q=1");
}

#[test]
fn a_chain_hands_bodies_on() {
    let bind = bind(SHOP);
    let mut asked = request("Ext<AddItem>", "/", "{\"item\": \"tea\"}");
    asked.headers.add("content-length", "15");
    let mut pipeline = start(&bind, asked);
    let Action::Ask { to, headers, .. } = pipeline.next() else { panic!() };
    assert_eq!((to, headers.get("x-own")), (point("shop:validator"), Some("1")));
    assert_eq!(pipeline.next(), pipeline.next(), "the same again until it is answered");
    pipeline.answer(Reply::new(200, "application/json", "{\"checked\": true}"));
    let Action::Own { method, headers, body, .. } = pipeline.next() else { panic!() };
    assert_eq!(method.to_string(), "Ext<AddItem>");
    assert_eq!(body, Body::Bytes(Bytes::from_static(b"{\"checked\": true}")));
    assert_eq!((headers.get("content-type"), headers.get("x-own")), (Some("application/json"), Some("1")));
    assert_eq!(headers.get("content-length"), None, "the body is another one now");
    let mut last = Reply::new(201, "application/json", "[]");
    last.headers.add("x-theirs", "2");
    pipeline.answer(last.clone());
    assert_eq!(pipeline.next(), Action::Answer(last));
}

#[test]
fn another_answer_than_2xx_returns_at_once() {
    for status in [304, 404, 503] {
        let mut pipeline = start(&bind(SHOP), request("Ext<AddItem>", "/", "{}"));
        let reply = Reply::new(status, "text/plain", "no");
        pipeline.answer(reply.clone());
        assert_eq!(pipeline.next(), Action::Answer(reply.clone()));
        pipeline.answer(Reply::new(200, "text/plain", "too late"));
        assert_eq!(pipeline.next(), Action::Answer(reply));
    }
}

#[test]
fn a_body_that_fails_its_check_is_refused_by_name() {
    let refused = |mut pipeline: Pipeline| match pipeline.next() {
        Action::Refuse(problem) => {
            assert_eq!((problem.code, problem.code.http_status()), (Code::MessageInvalid, 400));
            format!("{}; {}", problem.detail, problem.help.unwrap())
        }
        other => panic!("{other:?}"),
    };
    let bind = bind(SHOP);
    let text = refused(start(&bind, request("Ext<AddItem>", "/", "{\"item\": ")));
    assert!(text.starts_with("the body of the request is not JSON: EOF"), "{text}");
    assert!(text.ends_with("the bind lets only `Json` through here"), "{text}");
    let mut pipeline = start(&bind, request("Ext<AddItem>", "/", "{}"));
    pipeline.answer(Reply::new(200, "text/plain", "not json"));
    assert!(refused(pipeline).starts_with("the body of the answer is not JSON"));
    let text_bind =
        rule("Ext<A> -[ Text ]-> (()) => &; Ext<B> -[ Empty ]-> (()) => &; Ext<C> -[ Bin ]-> (()) => &");
    let with_body = |method: &str, body: Body, content_type: &str| {
        let headers: Headers = [("content-type", content_type)].into_iter().collect();
        start(&text_bind, Request { body, headers, ..request(method, "/", "") })
    };
    let bytes = || Body::Bytes(Bytes::from_static(&[0xff]));
    let blob = || Body::Blob(Blob { digest: Digest([0; 32]), bytes: 5 });
    assert!(refused(with_body("Ext<A>", bytes(), "")).contains("byte 0 is not UTF-8"));
    let mut stored = with_body("Ext<A>", blob(), "text/plain");
    assert!(stored.to_read().is_some_and(|blob| blob.bytes == 5));
    assert!(refused(stored.clone()).contains("was not read"), "nothing is taken at its word");
    stored.read(Bytes::from_static(b"hello"));
    assert_eq!(stored.to_read(), None);
    assert!(matches!(stored.next(), Action::Own { body: Body::Bytes(bytes), .. } if bytes == "hello"));
    assert_eq!(with_body("Ext<C>", blob(), "").to_read(), None);
    assert!(refused(with_body("Ext<B>", blob(), "text/plain")).contains("has 5 bytes and should have none"));
    for mut accepted in [with_body("Ext<B>", Body::default(), ""), with_body("Ext<C>", bytes(), "")] {
        assert!(matches!(accepted.next(), Action::Own { .. }));
    }
}

#[test]
fn a_route_for_the_signed_in_is_never_taken_for_open() {
    let bind = rule("Route(auth) { Http<Get>/x -> (()) => & }");
    let route = bind.route(&method("Http<Get>"), "/x").unwrap().unwrap();
    assert!(route.needs_auth());
    let mut pipeline = route.start(request("Http<Get>", "/x", ""));
    assert!(matches!(pipeline.next(), Action::Refuse(problem) if problem.code == Code::Unsupported));
}

#[test]
fn a_bind_is_seen_from_its_resource() {
    let bind = rule(
        "Http<Get>/(.*) -> .:validator => (()) => &; Ext<A> -> ..:${1} => &; Ext<B> -> ${bundle}:/x => &"
            .replace("Ext<A> ->", "Ext<A>/(.*) ->")
            .as_str(),
    );
    let at = bind.at(&point("shop:cart"), Some(&point("shop:repo:app:1.0.0"))).unwrap();
    assert_eq!(first(&at, "Http<Get>", "/x"), "shop:cart:validator Http<Get> /x");
    assert_eq!(first(&at, "Ext<A>", "/bob"), "shop:bob Ext<A> /bob");
    assert_eq!(first(&at, "Ext<B>", "/"), "shop:repo:app:1.0.0:/x Ext<B> /");
    assert_eq!(Bind::parse(&at.to_string(), "").unwrap(), at);
    assert!(bind.route(&method("Http<Get>"), "/x").is_err(), "relative to nothing");
}

#[test]
fn mistakes_are_refused_at_the_place() {
    for (text, place, code, detail, help) in [
        ("", "", Code::BindSyntax, "expected `Bind`", "Bind(version=1.0.0)"),
        ("Bond {}", "Bond", Code::BindSyntax, "expected `Bind`", ""),
        ("Bind(version=9.0.0) {}", "9.0.0", Code::BindSyntax, "not known", ""),
        ("Bind { Http<Get>/x -> (()) => &;", "{", Code::BindSyntax, "never closed", "`}`"),
        ("Bind {} x", "x", Code::BindSyntax, "the end of the bind", ""),
        ("Bind { Htp<Get> -> (()) => & }", "Htp", Code::BindSyntax, "no family", "did you mean `Http`?"),
        ("Bind { <Get>/x -> (()) => & }", "<Get>/x ", Code::BindSyntax, "for which family", "Http { … }"),
        ("Bind { Http { Ext<A> -> (()) => & } }", "Ext", Code::BindSyntax, "for `Http` already", "alone"),
        ("Bind { Http<Get> { <Put> -> (()) => & } }", "Put", Code::BindSyntax, "one method already", ""),
        ("Bind { Ext<add> -> (()) => & }", "add", Code::BindSyntax, "not the name of a method", "Pascal"),
        (
            "Bind { Http<Get>/(x -> (()) => & }",
            "/(x",
            Code::BindSyntax,
            "not a regular expression: unclosed group",
            "first blank",
        ),
        ("Bind { Http<Get>/x)(y -> (()) => & }", "/x)(y", Code::BindSyntax, "not a regular expression", ""),
        ("Bind { Http<Get>/\\w{1,999} -> (()) => & }", "/\\w{1,999}", Code::BindSyntax, "too large", ""),
        ("Bind { Http<Get>/x => & }", "=>", Code::BindSyntax, "leads nowhere", "-> (()) => &"),
        ("Bind { Http<Get>/x -> & }", "->", Code::BindSyntax, "leads nowhere", ""),
        ("Bind { Http<Get>/x -> (()) -> & }", "->", Code::BindSyntax, "is an answer", "`=> &`"),
        ("Bind { Http<Get>/x -> (()); }", ";", Code::BindSyntax, "expected `->`", "ends with `=> &;`"),
        ("Bind { Http<Get>/x -> ; }", ";", Code::BindSyntax, "expected a stop", "`&` for the caller"),
        (
            "Bind { Http<Get>/x -[ Jsn ]-> (()) => & }",
            "Jsn",
            Code::BindSyntax,
            "no check",
            "did you mean `Json`?",
        ),
        (
            "Bind { Http<Get>/x -[ Json ]=> (()) => & }",
            "]",
            Code::BindSyntax,
            "expected `]->`",
            "on an answer",
        ),
        ("Bind { Http<Get>/x -> shop:X => & }", "X", Code::PointSyntax, "lowercase", ""),
        ("Bind { Http<Get>/(.*) -> shop:$2 => & }", "$2", Code::VariableUnknown, "no variable `2`", ""),
        (
            "Bind { Http<Get>/(?P<user>.*) -> shop:${usr} => & }",
            "${usr}",
            Code::VariableUnknown,
            "no variable `usr`",
            "`user`",
        ),
        ("Bind { Http<Get>/x -> shop^Htp<Get>/y => & }", "Htp", Code::BindSyntax, "no family", "`Http`"),
        (
            "Bind { Http<Get>/x -> (()) => & Http<Get>/y -> (()) => & }",
            "Http",
            Code::BindSyntax,
            "`;` after the rule",
            "=> &;",
        ),
        ("Bind { Http/x { <Get> -> (()) => & } }", "/", Code::BindSyntax, "not on a block", ""),
        ("Bind { Route(admin) { } }", "", Code::BindSyntax, "expected `auth)`", "signed in"),
        ("Bind { !x }", "!", Code::BindSyntax, "a rule or `}`", "a rule is written like"),
    ] {
        let problem = Bind::parse(text, "x.bind").expect_err(text);
        let marked = problem.place.as_ref().unwrap();
        assert_eq!((&*marked.name, &*marked.source), ("x.bind", text));
        if !place.is_empty() || marked.span.start == text.len() {
            assert_eq!(&text[marked.span.start..marked.span.end], place, "{text}: {problem:?}");
        }
        assert_eq!(problem.code, code, "{text}");
        assert!(problem.detail.contains(detail), "{text}: {}", problem.detail);
        assert!(problem.help.clone().unwrap_or_default().contains(help), "{text}: {:?}", problem.help);
    }
}

#[test]
fn bounds_hold() {
    let deep = format!("Bind {}", "{ Route ".repeat(100));
    assert!(Bind::parse(&deep, "").unwrap_err().detail.contains("nested deeper"));
    assert!(Bind::parse(&format!("Bind {{ {} }}", "Ext<A> -> (()) => &;".repeat(257)), "").is_err());
    assert!(Bind::parse(&format!("Bind {{ Ext<A> {} => & }}", "-> (()) ".repeat(16)), "").is_err());
    assert!(Bind::parse(&format!("Bind {{ Http<Get>/{} -> (()) => & }}", "a".repeat(2049)), "").is_err());
    for ordinary in ["/(?P<id>\\w+)/(.*)", "/[^/]+/\\d{1,10}", "/(a|b|c)/[\\w.-]+"] {
        rule(&format!("Http<Get>{ordinary} -> (()) => &"));
    }
}

proptest! {
    #[test]
    fn any_bind_is_answered(words in proptest::collection::vec(proptest::sample::select(vec![
        "Http", "Ext", "Msg", "*", "Route", "(auth)", "<Get>", "<*>", "<Http<Get>>", "/x", "/(.*)", "/(?P<user>[^/]+)$", "{", "}",
        " -> ", " => ", " -[ Json ]-> ", " =[ Text ]=> ", "(())", "{{ }}", "&", ";", "shop:a", "shop:a^Http<Get>/$1", ":/f/$1",
        "${user}", ".:x", "..", "${bundle}:/x", "\"shop:f:/a b/$1\"", " ", "# c\n", "-> (()) => &;",
    ]), 0..16), path in "/[a-z/.%0-9A-F]{0,10}") {
        if let Ok(first) = Bind::parse(&format!("Bind {{ {} }}", words.concat()), "") {
            let again = bind(&first.to_string());
            prop_assert_eq!(first.to_string(), again.to_string());
            let get = method("Http<Get>");
            prop_assert_eq!(first.route(&get, &path).ok(), again.route(&get, &path).ok());
            if let Ok(at) = first.at(&point("shop:x:y"), Some(&point("a:b:c:1.0.0"))) {
                prop_assert_eq!(&bind(&at.to_string()), &at);
                prop_assert!(at.route(&get, &path).is_ok() || at.route(&get, &path).unwrap_err().code == Code::MessageInvalid);
            }
        }
    }
}
