//! Stored content where code and checks meet it: they see its bytes, however it is kept.
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::fs;

use tests::{Node, root};

const BIND: &str = "Bind(version=1.0.0) {
  Http {
    <Get>/add -> shop:files:/add.json -[ Json ]-> shop:count^Ext<Add> => &;
    <Get>/good -> shop:files:/add.json =[ Json ]=> &;
    <Get>/bad -> shop:files:/bad.json =[ Json ]=> &;
    <Get>/large -> shop:files:/large.json =[ Json ]=> &;
  }
  Ext { <GetPrice> -> shop:files^Http<Get>/price.json => &; }
}";

#[test]
fn mechtrons_and_checks_read_what_is_stored() {
    let node = Node::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("site.bind"), BIND).expect("a file can be written");
    for name in ["counter", "shop"] {
        let wasm = format!("{name}.wasm");
        let built = root().join("target/bundles").join(name).join("wasm").join(&wasm);
        fs::copy(built, folder.path().join(wasm)).expect("`make wasm` builds the examples");
    }
    let large = folder.path().join("large");
    fs::write(&large, format!("[{}0]", "0,".repeat(600_000))).expect("a file can be written");
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:it<BundleSeries>").ok();
    node.run(["publish", &format!("^[ {} ]-> shop:repo:it:1.0.0", folder.path().display())]).ok();
    node.exec(
        r#"create shop:files<FileSystem>; write shop:files:/add.json "{\"by\":2}"; write shop:files:/bad.json "nojson";
           write shop:files:/price.json "{\"cents\":7}";
           create shop:count<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/counter.wasm, +mechtron.name=counter };
           create shop:prices<Base>{ +bind=shop:repo:it:1.0.0:/site.bind };
           create shop:cart<Mechtron>{ +wasm.src=shop:repo:it:1.0.0:/shop.wasm, +mechtron.name=cart, +validator=shop:prices };
           set shop{ +bind=shop:repo:it:1.0.0:/site.bind }"#,
    )
    .ok();
    node.run(["cp", &large.display().to_string(), "shop:files:/large.json"]).ok();

    let get = |path: &str| {
        let (status, _, body) = node.http("GET", "shop", path, b"");
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    let (status, body) = get("/add");
    assert!(status == 200 && body.contains("\"total\":2"), "a file as a message: {status} {body}");
    assert_eq!(get("/good"), (200, "{\"by\":2}".to_owned()));
    let (status, body) = get("/bad");
    assert!(status == 400 && body.contains("is not JSON"), "{status} {body}");
    let (status, body) = get("/large");
    assert!(status == 413 && body.contains("1048576"), "{status} {body}");

    node.run(["request", "shop:cart^Ext<AddItem>", r#"{"article": "apple", "count": 1}"#]).ok();
    let receipt = node.run(["request", "shop:cart^Ext<Checkout>"]).ok();
    assert!(receipt.contains('7'), "a file as the answer to a mechtron: {receipt}");
}
