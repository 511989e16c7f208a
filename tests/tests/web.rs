//! The users' web of a real node, as browsers and caches use it.
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::fs;

use tests::Node;

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(known, _)| known.eq_ignore_ascii_case(name)))
        .map(|(_, value)| value)
}

#[test]
fn a_site_is_served_as_browsers_expect() {
    let node = Node::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(folder.path().join("html/sub")).expect("folders can be made");
    fs::create_dir_all(folder.path().join("bind")).expect("folders can be made");
    fs::write(folder.path().join("html/index.html"), "0123456789").expect("a file can be written");
    fs::write(folder.path().join("html/sub/index.html"), "below\n").expect("a file can be written");
    let bind = "Bind(version=1.0.0) { Http { <Get>/files/(.*) -> shop:files:/$1 => &; <Get>/(.*) -> ${bundle}:/html/$1 => &; } }";
    fs::write(folder.path().join("bind/site.bind"), bind).expect("a file can be written");
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:site<BundleSeries>; create shop:files<FileSystem>").ok();
    node.run(["publish", &format!("^[ {} ]-> shop:repo:site:1.0.0", folder.path().display())]).ok();
    node.exec("set shop{ +bind=shop:repo:site:1.0.0:/bind/site.bind }").ok();
    node.exec("write shop:files:/notes/today.txt \"milk\"").ok();
    let ask =
        |method: &str, path: &str, headers: &str| tests::http(node.web(), method, "shop", path, headers, b"");

    let (status, head, body) = ask("GET", "/", "");
    assert_eq!((status, &body[..]), (200, &b"0123456789"[..]));
    let etag = header(&head, "etag").expect("content has an entity tag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "RFC 9110, 8.8.3: {etag}");
    let modified = header(&head, "last-modified").expect("content has a time").to_owned();
    assert_eq!(ask("GET", "/index.html", &format!("if-none-match: {etag}\r\n")).0, 304);
    assert_eq!(ask("GET", "/index.html", &format!("if-modified-since: {modified}\r\n")).0, 304);
    let (status, head, body) = ask("HEAD", "/index.html", "");
    assert_eq!((status, header(&head, "content-length"), body.len()), (200, Some("10"), 0));
    let (status, head, body) =
        ask("GET", "/index.html", &format!("range: bytes=2-4\r\nif-range: {etag}\r\n"));
    assert_eq!((status, &body[..], header(&head, "content-range")), (206, &b"234"[..], Some("bytes 2-4/10")));
    let (status, _, body) = ask("GET", "/index.html", "range: bytes=2-4\r\nif-range: \"another\"\r\n");
    assert_eq!((status, body.len()), (200, 10));

    let (status, _, body) = ask("GET", "/sub/", "");
    assert_eq!((status, &body[..]), (200, &b"below\n"[..]));
    let (status, head, _) = ask("GET", "/sub?page=2", "");
    assert_eq!((status, header(&head, "location")), (308, Some("./sub/?page=2")));
    assert_eq!(ask("GET", "/files/notes/today.txt", "").2, b"milk");
    assert_eq!(ask("GET", "/nothing", "").0, 404);
}

#[test]
fn a_bind_that_cannot_be_used_says_what_to_do() {
    let node = Node::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(
        folder.path().join("site.bind"),
        "Bind(version=1.0.0) { Http { <Get>/(.*) -> ${bundle}:/$1 => &; } }",
    )
    .expect("a file can be written");
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:site<BundleSeries>").ok();
    node.run(["publish", &format!("^[ {} ]-> shop:repo:site:1.0.0", folder.path().display())]).ok();
    node.exec("set shop{ +bind=shop:repo:site:1.0.0:/site.bind }; delete -r shop:repo:site:1.0.0").ok();
    let (status, head, body) = tests::http(node.web(), "GET", "shop", "/", "accept: text/html\r\n", b"");
    let page = String::from_utf8_lossy(&body);
    assert_eq!((status, header(&head, "content-type")), (503, Some("text/html; charset=utf-8")), "{page}");
    assert!(page.contains("shop:repo:site:1.0.0:/site.bind") && page.contains("starlane get"), "{page}");
}
