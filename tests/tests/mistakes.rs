//! Mistakes at a real node: each is answered with a code, a place or a point, and a next step, and changes nothing.
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::{Api, Node, root};

/// The number of the last commit.
fn revision(api: &Api) -> u64 {
    let (_, page) = api.get("/v1/resources?select=mesh").expect("the node answers");
    page["revision"].as_u64().expect("a page has a revision")
}

/// Publishes a folder as a bundle of the space `shop`.
fn publish(node: &Node, folder: &Path, version: &str) {
    node.exec("create? shop<Space>; create? shop:repo<Repo>; create? shop:repo:it<BundleSeries>").ok();
    node.run(["publish", &format!("^[ {} ]-> shop:repo:it:{version}", folder.display())]).ok();
}

fn bundle(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("folders can be made");
        fs::write(path, content).expect("files can be written");
    }
    folder
}

/// What an example's own bundle holds under a name, as `examples/build` laid it out.
fn built(name: &str) -> Vec<u8> {
    fs::read(root().join("target/bundles").join(name)).expect("`make wasm` builds the examples")
}

/// A module that is a mechtron of some guest ABI, by what its `mechtron_abi` does.
fn module(abi: &str) -> Vec<u8> {
    let text = format!(
        "(module (memory (export \"memory\") 1) \
           (func (export \"mechtron_abi\") (result i32) {abi}) \
           (func (export \"mechtron_inbox\") (param i32) (result i32) (i32.const 1024)) \
           (func (export \"mechtron_init\") (param i32) (result i64) (i64.const 0)) \
           (func (export \"mechtron_run\") (param i32) (result i64) (i64.const 0)))"
    );
    wat::parse_str(text).expect("it is well formed")
}

#[test]
fn mistakes_say_what_to_do_next_and_change_nothing() {
    let node = Node::start();
    let bundle = bundle(&[
        ("bind/wrong.bind", b"Bind(version=1.0.0) { Http { <Get>/( -> shop => &; } }"),
        ("config/wrong.app", b"App { Set { +wasm.src } }"),
        (
            "config/other.mechtron",
            b"Mechtron(version=1.0.0) { Wasm { +bin=${bundle}:/wasm/not.wasm; +name=x } }",
        ),
        ("wasm/not.wasm", b"this is no module"),
        ("wasm/library.wasm", &wat::parse_str("(module (memory (export \"memory\") 1))").expect("a module")),
        ("wasm/future.wasm", &module("(i32.const 0x20000)")),
        ("wasm/computed.wasm", &module("(i32.shl (i32.const 2) (i32.const 16))")),
        ("wasm/trapping.wasm", &module("(unreachable)")),
        ("config/future.mechtron", b"Mechtron { Wasm { +bin=${bundle}:/wasm/future.wasm } }"),
        ("config/future.app", b"App { Set { +wasm.src=${bundle}:/wasm/future.wasm } }"),
        ("config/installs-future.app", b"App { Install { create .:a<Base>; create .:b<Mechtron>{ +config=${bundle}:/config/future.mechtron } } }"),
        ("config/kind.app", b"App { Install { create .:a<Base>; create .:b<Mechatron>; create .:c<Base> } }"),
        ("config/parent.app", b"App { Install { create .:a<Base>; create .:a:b:c<Base> } }"),
        ("config/locked.app", b"App { Install { create .:a<Base>; set ..:plan{ +approved=false } } }"),
        ("config/taken.app", b"App { Install { create .:a<Base>; create ..:plan<Base> } }"),
        ("config/order.app", b"App { Install { create .:a<Base>; create .:o-1<Order>{ +total=many } } }"),
        ("config/deep.app", b"App { Install { create .:deep<App>{ +config=${bundle}:/config/deep.app } } }"),
        ("config/get.app", b"App { Install { create .:a<Base>; get .:a } }"),
        ("wasm/shop.wasm", &built("shop/wasm/shop.wasm")),
        (
            "schema/order.json",
            br#"{"type":"object","properties":{"total":{"type":"integer"}},"required":["total"]}"#,
        ),
        ("schema/broken.json", br#"{"type": 12}"#),
    ]);
    publish(&node, bundle.path(), "1.0.0");
    node.exec("create shop:kinds<Base>; create shop:kinds:order<Kind>{ +schema=shop:repo:it:1.0.0:/schema/order.json }").ok();
    node.exec("create shop:plan<Base>{ +@approved=true }; create shop:plan:part<Base>").ok();
    node.exec(
        "create shop:cart<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/wasm/shop.wasm, +mechtron.name=cart }",
    )
    .ok();
    node.exec("create shop:app<App>").ok();
    node.exec("create shop:files<FileSystem>; write shop:files:/a.txt \"milk\"").ok();
    let api = Api::of(&node);
    let mut before = revision(&api);
    let mut wrong = String::new();
    for (statement, exit, code, next) in [
        ("create shop:x<Mechatron>", 2, "E-KIND-UNKNOWN", "did you mean `Mechtron`"),
        ("create shop:repo:it:x<File>", 2, "E-KIND-PARENT", "shop:files:/img/logo.svg"),
        ("create mesh:nodes:mine<Node>", 2, "E-KIND-RESERVED", "help"),
        ("create mesh<Space>", 5, "E-EXISTS", "create?"),
        ("create mesh:nodes:other<Base>", 4, "E-FORBIDDEN", "mesh:kinds"),
        ("create shop:Cart<Base>", 2, "E-POINT-SYNTAX", "┬"),
        ("create shop:a..b<Base>", 2, "E-POINT-SYNTAX", "┬"),
        ("create shop:no:parent<Base>", 3, "E-NOT-FOUND", "help"),
        ("create shop:plan<Base>", 5, "E-EXISTS", "create?"),
        ("create? shop:plan<App>", 5, "E-KIND-MISMATCH", "help"),
        ("create! shop:plan<Base>{ +approved=false }", 5, "E-PROPERTY-LOCKED", "approved"),
        ("set shop:plan{ !approved }", 5, "E-PROPERTY-LOCKED", "approved"),
        ("set shop:plan{ +Title=x }", 2, "E-PROPERTY-KEY", "┬"),
        ("set shop:gone{ +title=x }", 3, "E-NOT-FOUND", "select"),
        ("set shop{ +bind=shop:repo:it:1.0.0:/bind/none.bind }", 2, "E-ARTIFACT-INVALID", "select"),
        ("set shop{ +bind=shop:plan }", 2, "E-ARTIFACT-INVALID", "publish"),
        ("set shop{ +bind=nowhere }", 2, "E-ARTIFACT-INVALID", "help"),
        ("set shop{ +bind=shop:repo:it:1.0.0:/bind/wrong.bind }", 2, "E-BIND-SYNTAX", "┬"),
        ("create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/wrong.app }", 2, "E-CONFIG-SYNTAX", "┬"),
        (
            "create shop:m<Mechtron>{ +config=shop:repo:it:1.0.0:/config/other.mechtron }",
            2,
            "E-WASM-INVALID",
            "not.wasm",
        ),
        (
            "create shop:m<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/wasm/not.wasm }",
            2,
            "E-WASM-INVALID",
            "not.wasm",
        ),
        (
            "create shop:m<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/wasm/library.wasm }",
            2,
            "E-WASM-INVALID",
            "starlane new",
        ),
        (
            "create shop:m<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/wasm/future.wasm }",
            2,
            "`shop:repo:it:1.0.0:/wasm/future.wasm` is no module that can run here: it speaks guest ABI 2",
            "docs/guest-abi.md",
        ),
        (
            "create shop:m<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/wasm/computed.wasm }",
            2,
            "it speaks guest ABI 2",
            "docs/guest-abi.md",
        ),
        (
            "create shop:m<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/wasm/trapping.wasm }",
            2,
            "E-WASM-INVALID",
            "return its version",
        ),
        (
            "set shop:cart{ +wasm.src=shop:repo:it:1.0.0:/wasm/future.wasm }",
            2,
            "E-WASM-INVALID",
            "docs/guest-abi.md",
        ),
        (
            "create shop:m<Mechtron>{ +config=shop:repo:it:1.0.0:/config/future.mechtron }",
            2,
            "E-WASM-INVALID",
            "docs/guest-abi.md",
        ),
        (
            "create shop:m-%<Mechtron>{ +config=shop:repo:it:1.0.0:/config/future.mechtron }",
            2,
            "E-WASM-INVALID",
            "docs/guest-abi.md",
        ),
        (
            "create! shop:cart<Mechtron>{ +config=shop:repo:it:1.0.0:/config/future.mechtron }",
            2,
            "E-WASM-INVALID",
            "docs/guest-abi.md",
        ),
        (
            "set shop:cart{ +config=shop:repo:it:1.0.0:/config/future.mechtron }",
            2,
            "E-WASM-INVALID",
            "docs/guest-abi.md",
        ),
        (
            "create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/future.app }",
            2,
            "E-WASM-INVALID",
            "docs/guest-abi.md",
        ),
        (
            "create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/installs-future.app }",
            2,
            "installing `shop:a`: `shop:repo:it:1.0.0:/wasm/future.wasm`",
            "installs-future.app:1:",
        ),
        (
            "create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/kind.app }",
            2,
            "E-KIND-UNKNOWN",
            "kind.app:1:",
        ),
        (
            "create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/parent.app }",
            3,
            "E-NOT-FOUND",
            "parent.app:1:",
        ),
        (
            "create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/locked.app }",
            5,
            "E-PROPERTY-LOCKED",
            "locked.app:1:",
        ),
        ("create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/taken.app }", 5, "E-EXISTS", "taken.app:1:"),
        ("create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/order.app }", 2, "E-SCHEMA", "order.app:1:"),
        (
            "create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/deep.app }",
            2,
            "installs go 8 deep at most",
            "let no config install",
        ),
        (
            "create shop:a<App>{ +config=shop:repo:it:1.0.0:/config/get.app }",
            2,
            "E-CONFIG-SYNTAX",
            "get.app:1:",
        ),
        ("set shop:app{ +config=shop:repo:it:1.0.0:/config/get.app }", 2, "E-CONFIG-SYNTAX", "get.app:1:"),
        ("create shop:o-1<Order>{ +total=many }", 2, "E-SCHEMA", "/total"),
        ("create shop:o-1<Order>", 2, "E-SCHEMA", "total"),
        (
            "create shop:kinds:bad<Kind>{ +schema=shop:repo:it:1.0.0:/schema/broken.json }",
            2,
            "E-ARTIFACT-INVALID",
            "/type",
        ),
        ("delete shop:plan", 5, "E-HAS-CHILDREN", "-r"),
        ("delete shop:nothing", 3, "E-NOT-FOUND", "select"),
        ("delete shop:repo:it:1.0.0:/wasm/not.wasm", 2, "E-KIND-RESERVED", "delete -r shop:repo:it:1.0.0"),
        ("set shop:repo:it:1.0.0{ +title=x }", 2, "E-KIND-RESERVED", "publish"),
        ("set shop:files:/a.txt{ +digest=aaaa }", 2, "E-PROPERTY-VALUE", "starlane cp"),
        ("create shop:files:/b.txt<File>{ +size=9 }", 2, "E-PROPERTY-VALUE", "starlane cp"),
        (
            "create shop:m<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/wasm/shop.wasm, +mechtron.name=nope }",
            2,
            "E-PROPERTY-VALUE",
            "+mechtron.name=cart",
        ),
        (
            "create shop:m<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/wasm/shop.wasm }",
            2,
            "E-PROPERTY-VALUE",
            "+mechtron.name=cart",
        ),
        ("set shop:cart{ +mechtron.name=nope }", 2, "E-PROPERTY-VALUE", "+mechtron.name=cart"),
        ("set shop:cart{ +durability=sometimes }", 2, "E-PROPERTY-VALUE", "memory"),
        ("select shop:**<Mechtron>[cpu >= 0]", 2, "E-UNSUPPORTED", "leave it out"),
        ("request shop:cart^Ext<AddItem> \"[]\"", 2, "E-MESSAGE-INVALID", "starlane describe"),
        ("select shop:**[total >", 2, "E-SYNTAX", "┬"),
        ("select shop:(^1.x.y)", 2, "E-SYNTAX", "┬"),
        ("make shop:x<Base>", 2, "E-SYNTAX", "┬"),
        ("create shop:x<Base>{ +a=1", 2, "E-SYNTAX", "┬"),
        ("create ${space}:x<Base>", 2, "E-VARIABLE-UNKNOWN", "space"),
        ("grant perm +csd-RwX on shop:** to mesh:users:bob", 2, "E-UNSUPPORTED", "help"),
        ("chown mesh:users:bob shop", 2, "E-UNSUPPORTED", "help"),
        ("read shop:plan", 2, "E-USAGE", "name a file in it"),
        ("request shop:plan^Ext<Add>", 3, "E-NO-ROUTE", "code"),
    ] {
        let answer = node.exec(statement);
        let told = format!("{}{}", answer.out, answer.err);
        if answer.code != exit || !told.contains(code) || !told.contains(next) {
            wrong += &format!("{statement}: exit {exit}, {code} and {next}, not {}\n{told}\n", answer.code);
        }
        let after = revision(&api);
        if after != before {
            wrong += &format!("{statement} changed something\n");
        }
        before = after;
    }
    assert!(wrong.is_empty(), "{wrong}");
    let republished =
        node.run(["publish", &format!("^[ {} ]-> shop:repo:it:1.0.0", bundle.path().display())]);
    assert!(republished.fails(5).contains("E-EXISTS"));
    assert_eq!(revision(&api), before);
    let (status, ..) =
        tests::http(node.api(), "GET", "localhost", "/v1/info", "authorization: Bearer wrong\r\n", b"");
    assert_eq!(status, 401);
}

#[test]
fn a_new_version_of_a_bundle_is_bound_anew_though_its_bind_says_the_same() {
    let node = Node::start();
    let bind = b"Bind(version=1.0.0) { Http { <Get>/(.*) -> ${bundle}:/html/$1 => &; } }";
    for version in ["1.0.0", "1.1.0"] {
        let page = format!("this is {version}\n");
        let bundle = bundle(&[("bind/site.bind", bind), ("html/index.html", page.as_bytes())]);
        publish(&node, bundle.path(), version);
        node.exec(&format!("set shop{{ +bind=shop:repo:it:{version}:/bind/site.bind }}")).ok();
        let (status, _, body) = node.http("GET", "shop", "/index.html", b"");
        assert_eq!((status, String::from_utf8_lossy(&body).as_ref()), (200, page.as_str()));
    }
}

#[test]
fn an_install_that_fails_leaves_nothing_behind() {
    let node = Node::start();
    let config = b"App { Set { +title=app } Install { create ..:sibling<Base>; create .:child<Base>; create ..:taken<Base> } }";
    // Whether it keeps to a schema shows only when the kind is there.
    let late = b"App { Install { create ..:kinds<Base>; create ..:kinds:thing<Kind>{ +schema=${bundle}:/schema/thing.json }; create .:it<Thing> } }";
    let good = b"App { Set { +title=app } }";
    let bundle = bundle(&[
        ("config/bad.app", config),
        ("config/late.app", late),
        ("config/good.app", good),
        ("schema/thing.json", br#"{"type":"object","required":["size"]}"#),
    ]);
    publish(&node, bundle.path(), "1.0.0");
    node.exec("create shop:taken<Base>").ok();
    let before = revision(&Api::of(&node));
    let error = node.exec("create shop:app<App>{ +config=shop:repo:it:1.0.0:/config/bad.app }").fails(5);
    assert!(error.contains("installing `shop:app`") && error.contains("shop:taken"), "{error}");
    assert!(error.contains("bad.app") && error.contains("create ..:taken<Base>"), "its place: {error}");
    assert_eq!(revision(&Api::of(&node)), before, "it was found before anything was done");
    let error = node.exec("create shop:app<App>{ +config=shop:repo:it:1.0.0:/config/late.app }").fails(2);
    assert!(error.contains("E-SCHEMA") && error.contains("create .:it<Thing>"), "its place: {error}");
    let below = node.exec("select shop:*").ok();
    for gone in ["shop:app", "shop:sibling", "shop:kinds"] {
        assert!(!below.contains(gone), "{below}");
    }
    assert!(below.contains("shop:taken<Base>"), "{below}");

    node.exec("create shop:app<App>{ +config=shop:repo:it:1.0.0:/config/good.app, +title=mine }").ok();
    let gone = node.exec("create! shop:app<App>{ +config=shop:repo:it:1.0.0:/config/none.app }");
    assert_eq!(gone.code, 2, "{gone:?}");
    let app: Value = serde_json::from_str(&node.run(["get", "shop:app", "-o", "json"]).ok()).expect("JSON");
    let app = &app["resource"];
    assert_eq!(
        (&app["status"]["phase"], &app["properties"]["title"]["value"]),
        (&"Ready".into(), &"mine".into()),
        "{app}"
    );
}

#[test]
fn code_runs_on_any_kind_and_its_state_goes_with_its_resource() {
    let node = Node::start();
    let wasm = built("counter/wasm/counter.wasm");
    let bundle = bundle(&[("wasm/counter.wasm", &wasm)]);
    publish(&node, bundle.path(), "1.0.0");
    let create =
        "create shop:count<Base>{ +wasm.src=shop:repo:it:1.0.0:/wasm/counter.wasm, +mechtron.name=counter }";
    for _ in 0..2 {
        node.exec(create).ok();
        let total = node.run(["request", "shop:count^Ext<Add>", r#"{"by": 2}"#]).ok();
        assert!(total.contains(r#""total":2"#), "{total}");
        node.exec("delete shop:count").ok();
    }
}
