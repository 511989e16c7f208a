//! The API: every path and every refusal.

use crate::client::{Connection, TOKEN, World};

#[tokio::test]
async fn the_node_says_who_it_is_and_how_it_is() {
    let world = World::new().await;
    let open = Connection::open(world.at.api).await.ask("GET", "/healthz", "host: localhost\r\n", "").await;
    assert_eq!((open.status, open.text()), (200, "ok\n"));
    assert_eq!(world.api("GET", "/readyz", "", "").await.text(), "ready\n");
    world.mesh.unready.store(true, std::sync::atomic::Ordering::Relaxed);
    let waiting = world.api("GET", "/readyz", "", "").await;
    assert_eq!((waiting.status, waiting.text()), (503, "the store opens\n"));
    assert_eq!(world.api("GET", "/v1/info", "", "").await.json()["node"], "cloud");
    assert_eq!(world.api("GET", "/v1/nodes", "", "").await.json()["nodes"][0]["point"], "mesh:nodes:cloud");
    let errors = world.api("GET", "/v1/errors", "", "").await.json();
    assert_eq!(errors.as_array().unwrap().len(), starlane_core::Code::ALL.len());
    assert_eq!(errors[0]["code"], "E-SYNTAX");
}

#[tokio::test]
async fn metrics_count_both_doors_and_the_node() {
    let world = World::new().await;
    world.web("/hello", "").await;
    world.web("/busy", "").await;
    let text = world.api("GET", "/metrics", "", "").await;
    for line in [
        "starlane_gateway_requests_total{door=\"web\",status=\"2xx\"} 1\n",
        "starlane_gateway_requests_total{door=\"web\",status=\"5xx\"} 1\n",
        "starlane_gateway_request_seconds_count{door=\"web\"} 2\n",
        "fake 1\n# EOF\n",
    ] {
        assert!(text.text().contains(line), "{line} in {}", text.text());
    }
}

#[tokio::test]
async fn nobody_enters_without_the_token() {
    let world = World::new().await;
    for authorization in
        ["", "authorization: Bearer wrong\r\n", "authorization: Basic abc\r\n", "authorization: Bearer \r\n"]
    {
        for path in ["/v1/info", "/v1/exec", "/metrics", "/nowhere"] {
            let headers = format!("host: localhost\r\n{authorization}");
            let reply = Connection::open(world.at.api).await.ask("GET", path, &headers, "").await;
            assert_eq!(
                (reply.status, reply.problem().as_str()),
                (401, "E-UNAUTHORIZED"),
                "{authorization}{path}"
            );
            assert_eq!(reply.header("www-authenticate"), "Bearer");
        }
    }
    let headers = format!("host: localhost\r\nauthorization: bearer {TOKEN}\r\n");
    assert_eq!(Connection::open(world.at.api).await.ask("GET", "/v1/info", &headers, "").await.status, 200);
}

#[tokio::test]
async fn pages_from_elsewhere_cannot_call() {
    let world = World::with(|config| {
        config.api_hosts = vec!["node.example".into()];
        config.api_origins = vec!["https://console.example".into()];
    })
    .await;
    for (host, origin, status) in [
        ("localhost:4343", "", 200),
        ("127.0.0.1", "", 200),
        ("[::1]:4343", "", 200),
        ("node.example", "", 200),
        ("evil.example", "", 403),
        ("localhost.evil.example", "", 403),
        ("localhost:4343", "http://localhost:4343", 200),
        ("localhost:4343", "https://console.example", 200),
        ("localhost:4343", "http://localhost:8080", 403),
        ("localhost:4343", "null", 403),
        ("localhost:4343", "https://evil.example", 403),
    ] {
        let origin_line = if origin.is_empty() { String::new() } else { format!("origin: {origin}\r\n") };
        let headers = format!("host: {host}\r\nauthorization: Bearer {TOKEN}\r\n{origin_line}");
        let reply = Connection::open(world.at.api).await.ask("GET", "/v1/info", &headers, "").await;
        assert_eq!(reply.status, status, "{host} {origin}");
        assert_eq!(reply.header("access-control-allow-origin"), "");
        if status == 403 {
            assert_eq!(reply.problem(), "E-FORBIDDEN");
        }
    }
    let reply =
        Connection::open(world.at.api).await.ask("GET", "/healthz", "host: evil.example\r\n", "").await;
    assert_eq!(reply.status, 403);
}

#[tokio::test]
async fn unknown_paths_methods_and_parameters_are_refused_in_words() {
    let world = World::new().await;
    let reply = world.api("GET", "/v1/files/shop:files:/logo.svg", "", "").await;
    assert_eq!((reply.status, reply.problem().as_str()), (404, "E-USAGE"));
    assert!(reply.json()["help"].as_str().unwrap().contains("%2F"));
    let reply = world.api("PUT", "/v1/info", "", "x").await;
    assert_eq!((reply.status, reply.problem().as_str()), (405, "E-USAGE"));
    assert_eq!(reply.header("allow"), "GET,HEAD");
    let reply = world.api("DELETE", "/v1/resources", "", "").await;
    assert_eq!((reply.status, reply.header("allow")), (405, "GET,HEAD,POST"));
    for (path, word) in [
        ("/v1/resources", "select"),
        ("/v1/resources?select=a&limt=3", "limt"),
        ("/v1/resources?select=a&limit=many", "limit"),
        ("/v1/resources?select=a&select=b", "duplicate"),
        ("/v1/resources?select=a&limit=0", "limit"),
        ("/v1/resources?select=a&limit=1001", "limit"),
        ("/v1/watch?selector=a", "selector"),
        ("/v1/logs/shop?tail=10001", "tail"),
        ("/v1/logs/shop?follow=maybe", "follow"),
        ("/v1/resources/shop?stale=yes", "stale"),
        ("/v1/resources/shop?fresh=ok", "fresh"),
        ("/v1/describe/shop?stale=", "stale"),
        ("/v1/trace/shop?timeout=301", "timeout"),
        ("/v1/trace/shop?timeout=soon", "soon"),
        ("/v1/trace/shop?stale=ok", "stale"),
    ] {
        let reply = world.api("GET", path, "", "").await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "E-USAGE"), "{path}");
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{path}: {detail}");
    }
}

#[tokio::test]
async fn a_wrong_point_is_shown_its_place() {
    let world = World::new().await;
    let reply = world.api("GET", "/v1/resources/shop:Cart", "", "").await;
    assert_eq!((reply.status, reply.problem().as_str()), (400, "E-POINT-SYNTAX"));
    let place = &reply.json()["place"];
    assert_eq!((place["source"].as_str(), place["column"].as_u64()), (Some("shop:Cart"), Some(6)));
    for path in
        ["/v1/resources/shop:%FF", "/v1/resources/%00", "/v1/describe/%2F", "/v1/files/shop:files:%2F..%2Fx"]
    {
        let reply = world.api("GET", path, "", "").await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "E-POINT-SYNTAX"), "{path}");
    }
}

#[tokio::test]
async fn resources_are_made_read_changed_and_removed() {
    let world = World::new().await;
    let body = r#"{"point":"shop:cart","kind":"Mechtron","properties":{"title":"a","n":3},"locked":["n"]}"#;
    let made = world.json("POST", "/v1/resources", body).await;
    assert_eq!(
        (made.status, made.header("location"), made.header("etag")),
        (201, "/v1/resources/shop:cart", "\"20\"")
    );
    assert_eq!(
        (made.json()["point"].as_str(), made.json()["kind"].as_str()),
        (Some("shop:cart"), Some("Mechtron"))
    );
    let there =
        world.json("POST", "/v1/resources", r#"{"point":"shop","kind":"Space","mode":"ensure"}"#).await;
    assert_eq!(there.status, 200);
    let twice = world.json("POST", "/v1/resources", r#"{"point":"shop","kind":"Space"}"#).await;
    assert_eq!((twice.status, twice.problem().as_str()), (409, "E-EXISTS"));
    assert_eq!(
        (twice.json()["point"].as_str(), twice.json()["help"].as_str()),
        (Some("shop"), Some("`create?` ensures it"))
    );

    let got = world.api("GET", "/v1/resources/shop:files:%2Fimg%2Fmy%20logo.svg", "", "").await;
    assert_eq!(
        (got.json()["point"].as_str(), got.header("etag")),
        (Some("shop:files:/img/my logo.svg"), "\"17\"")
    );
    assert_eq!(got.json()["properties"]["title"], serde_json::json!({"value": "blue", "locked": true}));
    assert_eq!(world.api("GET", "/v1/resources/shop", "if-none-match: \"17\"\r\n", "").await.status, 304);
    let missing = world.api("GET", "/v1/resources/missing:x", "", "").await;
    assert_eq!((missing.status, missing.problem().as_str()), (404, "E-NOT-FOUND"));

    let patch = r#"{"set":{"a":1},"lock":{"b":"x"},"unset":["c"]}"#;
    let guarded = |tag: &str| format!("content-type: application/json\r\nif-match: {tag}\r\n");
    let changed = world.api("PATCH", "/v1/resources/shop", &guarded("\"17\""), patch).await;
    assert_eq!((changed.status, changed.header("etag")), (200, "\"18\""));
    assert!(world.mesh.last().contains("Unset(Key(\"c\"))] at Some(Revision(17))"), "{}", world.mesh.last());
    let stale = world.api("PATCH", "/v1/resources/shop", &guarded("\"16\""), patch).await;
    assert_eq!((stale.status, stale.problem().as_str()), (412, "E-REVISION-CONFLICT"));
    assert_eq!(world.api("PATCH", "/v1/resources/shop", &guarded("W/\"x\""), patch).await.status, 400);
    let twice = world.json("PATCH", "/v1/resources/shop", r#"{"set":{"a":1},"unset":["a"]}"#).await;
    assert_eq!(twice.problem(), "E-PROPERTY-KEY");

    let kept = world.api("DELETE", "/v1/resources/shop", "", "").await;
    assert_eq!((kept.status, kept.problem().as_str()), (409, "E-HAS-CHILDREN"));
    let removed = world.api("DELETE", "/v1/resources/shop?recursive=true", "", "").await;
    assert_eq!(removed.json(), serde_json::json!({"deleted": [{"point": "shop", "kind": "Space"}]}));
    assert_eq!(
        world.api("GET", "/v1/describe/shop", "", "").await.json()["contract"]["AddItem"]["type"],
        "object"
    );
}

#[tokio::test]
async fn a_selector_is_answered_in_pages() {
    let world = World::new().await;
    let first = world.api("GET", "/v1/resources?select=shop%3A**%3CMechtron%3E&limit=5", "", "").await.json();
    assert_eq!(
        (first["resources"][0]["point"].as_str(), first["next"].as_str()),
        (Some("shop:a"), Some("c1"))
    );
    assert!(
        world.mesh.last().contains("\"shop:**<Mechtron>\", limit: 5, cursor: None"),
        "{}",
        world.mesh.last()
    );
    let last = world.api("GET", "/v1/resources?select=shop&cursor=c1", "", "").await.json();
    assert!(last.get("next").is_none());
    let wrong = world.api("GET", "/v1/resources?select=(", "", "").await;
    assert_eq!(
        (wrong.problem().as_str(), wrong.json()["place"]["label"].as_str()),
        ("E-SYNTAX", Some("here"))
    );
}

#[tokio::test]
async fn the_past_is_asked_for_by_a_revision_or_a_time() {
    let world = World::new().await;
    world.api("GET", "/v1/resources?select=shop&at=17", "", "").await.json();
    assert!(world.mesh.last().contains("at: Some(Revision(Revision(17)))"), "{}", world.mesh.last());
    let entry = world.api("GET", "/v1/history/shop%3Aa?limit=7", "", "").await.json()["entries"][0].clone();
    assert_eq!(world.mesh.last(), "history shop:a 7");
    assert_eq!(
        (entry["change"].as_str(), entry["agent"].as_str(), entry["time"].as_u64()),
        (Some("added"), Some("mesh:users:ann"), Some(1_000))
    );
    let path = "/v1/diff?select=shop&from=4&to=1970-01-01T01:00:00%2B01:00&limit=3";
    let diff = world.api("GET", path, "", "").await.json();
    assert!(world.mesh.last().contains("to: Some(Time(Timestamp(0))), limit: 3"), "{}", world.mesh.last());
    let changes: Vec<_> = [0, 1].iter().map(|n| diff["differences"][n]["change"].as_str()).collect();
    assert_eq!(changes, [Some("changed"), Some("removed")]);
    for path in ["/v1/resources?select=a&at=noon", "/v1/diff?select=a&from=1969-12-31", "/v1/diff?select=a"] {
        assert_eq!(world.api("GET", path, "", "").await.problem(), "E-USAGE", "{path}");
    }
}

#[tokio::test]
async fn a_backup_comes_as_it_is() {
    let world = World::new().await;
    assert_eq!(world.api("GET", "/v1/backup", "", "").await.text(), "starlane-backup");
}

#[tokio::test]
async fn reads_are_fresh_unless_stale_ones_are_good_enough() {
    let world = World::new().await;
    for path in ["/v1/resources/shop?", "/v1/resources?select=shop&", "/v1/describe/shop?"] {
        world.api("GET", path.trim_end_matches(['?', '&']), "", "").await;
        assert!(world.mesh.last().ends_with(" Latest"), "{path}: {}", world.mesh.last());
        world.api("GET", &format!("{path}stale=ok"), "", "").await;
        assert!(world.mesh.last().ends_with(" Stale"), "{path}: {}", world.mesh.last());
    }
}

#[tokio::test]
async fn wrong_documents_are_refused_with_a_pointer() {
    let world = World::new().await;
    for (body, pointer) in [
        (r#"{"point":"a","kind":"space"}"#, "/kind"),
        (r#"{"point":"a","kind":"Space","properties":{"Bad":1}}"#, "/properties/Bad"),
        (r#"{"point":"a","kind":"Space","mode":"maybe"}"#, "/mode"),
        (r#"{"point":"a"}"#, ""),
        (r#"{"point":"a","kind":"Space","extra":1}"#, "/extra"),
        (r#"{"point":"a","kind":"Space"} x"#, ""),
        ("{", ""),
        ("\u{0}", ""),
    ] {
        let reply = world.json("POST", "/v1/resources", body).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "E-USAGE"), "{body}");
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{body}: {}", reply.text());
    }
    let deep = "[".repeat(100_000);
    assert_eq!(world.json("POST", "/v1/resources", &deep).await.status, 400);
    for content_type in ["", "content-type: text/plain\r\n", "content-type: multipart/form-data\r\n"] {
        let reply = world.api("POST", "/v1/resources", content_type, "{}").await;
        assert_eq!((reply.status, reply.problem().as_str()), (415, "E-USAGE"));
    }
    let packed = world.api("POST", "/v1/exec", "content-encoding: gzip\r\n", "x").await;
    assert_eq!(packed.status, 415);
    let locked = world.json("POST", "/v1/resources", r#"{"point":"a","kind":"Space","locked":["b"]}"#).await;
    assert_eq!(locked.problem(), "E-PROPERTY-KEY");
}

#[tokio::test]
async fn a_script_runs_and_shows_where_it_fails() {
    let world = World::new().await;
    let done = world.api("POST", "/v1/exec", "", "create shop<Space>").await.json();
    assert_eq!(world.mesh.last(), "mesh:users:admin: create shop<Space>");
    let types: Vec<_> =
        done["results"].as_array().unwrap().iter().map(|output| output["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["created", "resource", "properties", "list", "deleted", "content", "reply", "sent"]);
    assert_eq!(done["results"][5]["contentType"], "image/png");
    assert_eq!(done["results"][5]["base64"], "//4=");
    assert_eq!(done["results"][6]["text"], "hi");

    let failed = world
        .api("POST", "/v1/exec", "content-type: text/plain\r\n", "get shop;\ncreate shop:ä<Mechatron>")
        .await;
    assert_eq!((failed.status, failed.problem().as_str()), (400, "E-KIND-UNKNOWN"));
    let problem = failed.json();
    assert_eq!((problem["place"]["line"].as_u64(), problem["place"]["column"].as_u64()), (Some(2), Some(15)));
    assert_eq!(problem["results"].as_array().unwrap().len(), 8);
    assert_eq!(problem["type"], "urn:starlane:error:E-KIND-UNKNOWN");
    assert_eq!(world.api("POST", "/v1/exec", "content-type: application/json\r\n", "{}").await.status, 415);
    let mut connection = Connection::open(world.at.api).await;
    let head = format!("POST /v1/exec HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n");
    connection.say([head.as_bytes(), b"content-length: 2\r\n\r\n\xff\xfe"].concat()).await;
    assert_eq!(connection.reply("POST").await.problem(), "E-SYNTAX");
}

#[tokio::test]
async fn messages_are_asked_and_sent() {
    let world = World::new().await;
    let asked = world
        .api(
            "POST",
            "/v1/request/shop:cart?method=AddItem&path=/echo%3Fa=1&timeout=2s",
            "content-type: application/json\r\nx-my: v\r\naccept: text/plain\r\nkeep-alive: 9\r\n",
            "{}",
        )
        .await;
    assert_eq!((asked.status, asked.header("starlane-outcome")), (200, "ok"));
    assert_eq!(
        asked.text(),
        "Ext<AddItem> /echo?a=1 to shop:cart from mesh:nodes:test for mesh:users:admin in 2s\n\
         x-my=v\naccept=text/plain\ncontent-type=application/json\n\n2 bytes: {}"
    );
    for (path, status, outcome) in [
        ("/teapot", 418, "ok"),
        ("/busy", 503, "rejected"),
        ("/trap", 502, "failed"),
        ("/unknown", 504, "unknown"),
    ] {
        let reply = world.api("POST", &format!("/v1/request/shop?path={path}"), "", "").await;
        assert_eq!((reply.status, reply.header("starlane-outcome")), (status, outcome));
    }
    let blob = world.api("POST", "/v1/request/shop?method=GET&path=/blob", "", "").await;
    assert_eq!(blob.body.len(), 1_000_000);
    for query in [
        "method=get",
        "method=Foo%3C",
        "path=x",
        "path=/a%20b",
        "path=/a%0Ab",
        "timeout=soon",
        "timeout=301",
        "timout=3",
    ] {
        let reply = world.api("POST", &format!("/v1/request/shop?{query}"), "", "").await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "E-USAGE"), "{query}");
    }
    let sent = world.api("POST", "/v1/send/shop:cart?method=Msg%3CPing%3E", "", "x").await;
    assert_eq!(
        (sent.status, sent.json()["id"].as_str()),
        (202, Some("00000000-0000-0000-0000-00000000002a"))
    );
    assert_eq!(world.mesh.last(), "Ext<Ping> / to shop:cart");
    assert_eq!(world.api("POST", "/v1/send/missing", "", "").await.problem(), "E-NOT-FOUND");
}

#[tokio::test]
async fn content_goes_in_and_out_as_a_stream() {
    let world = World::new().await;
    let path = "/v1/files/shop:files:%2Fa.bin";
    let got = world.api("GET", path, "", "").await;
    assert_eq!((got.body.len(), got.header("etag")), (1000, "\"tag1\""));
    assert_eq!(got.header("last-modified"), "Sun, 06 Nov 1994 08:49:37 GMT");
    let head = world.api("HEAD", path, "", "").await;
    assert_eq!((head.status, head.header("content-length")), (200, "1000"));
    let part = world.api("GET", path, "range: bytes=10-19\r\n", "").await;
    assert_eq!((part.status, part.body), (206, crate::fake::pattern(10..20)));
    assert_eq!(world.api("GET", path, "range: bytes=1000-\r\n", "").await.status, 416);
    assert_eq!(world.api("GET", path, "if-none-match: \"tag1\"\r\n", "").await.status, 304);
    assert_eq!(
        world.api("GET", path, "if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "").await.status,
        304
    );
    assert_eq!(
        world.api("GET", path, "if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT\r\n", "").await.status,
        200
    );
    assert_eq!(world.api("GET", "/v1/files/missing:files:%2Fx", "", "").await.problem(), "E-NOT-FOUND");

    // Larger than what is held in memory.
    let body = "x".repeat(3_000_000);
    let put = world.api("PUT", path, "if-match: \"a\", \"b\"\r\n", &body).await;
    assert_eq!((put.status, put.header("etag")), (200, "\"new\""));
    assert_eq!(put.json()["bytes"], 3_000_000);
    let expecting = r#"wrote Ok(3000000) bytes at shop:files:/a.bin expecting Present(["a", "b"])"#;
    assert_eq!(world.mesh.last(), expecting);
    world.api("PUT", path, "if-none-match: *\r\n", "x").await;
    assert!(world.mesh.last().ends_with("expecting Absent"));
    assert_eq!(world.api("PUT", path, "if-none-match: \"x\"\r\n", "x").await.problem(), "E-USAGE");

    let published = world.api("PUT", "/v1/bundles/shop:repo:site:1.0.0", "", &body).await;
    assert_eq!((published.status, published.header("location")), (201, "/v1/resources/shop:repo:site:1.0.0"));
    assert_eq!(published.json()["bytes"], 3_000_000);
}

#[tokio::test]
async fn uploads_have_a_largest_size_and_an_end() {
    let world = World::with(|config| config.limits.upload_bytes_max = 1000).await;
    let path = "/v1/files/shop:files:%2Fa.bin";
    assert_eq!(world.api("PUT", path, "", &"x".repeat(1001)).await.problem(), "E-TOO-LARGE");
    let mut connection = Connection::open(world.at.api).await;
    let head = format!("PUT {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n");
    connection
        .say(format!("{head}transfer-encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001)))
        .await;
    assert_eq!(connection.reply("PUT").await.problem(), "E-TOO-LARGE");

    let mut connection = Connection::open(world.at.api).await;
    connection.say(format!("{head}content-length: 900\r\n\r\nonly this")).await;
    drop(connection);
    while !world.mesh.last().starts_with("wrote Err") {
        tokio::task::yield_now().await;
    }
}
