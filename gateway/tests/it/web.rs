//! The users' web.

use std::io::Read;

use crate::client::{Connection, World};
use crate::fake::pattern;

#[tokio::test]
async fn a_request_becomes_a_message_to_the_space() {
    let world = World::new().await;
    let headers = "Host: Shop.localhost:8080\r\nX-Own: a\r\nX-Own: b\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
        Keep-Alive: 5\r\nTE: trailers\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";
    let reply = world.web_as("POST", "/echo?a=%20b&c", headers, "body").await;
    assert_eq!(
        reply.text(),
        "Http<Post> /echo?a=%20b&c to shop from mesh:nodes:test for mesh:users:anonymous in 30s\n\
         host=Shop.localhost:8080\nx-own=a\nx-own=b\nx-forwarded-for=127.0.0.1\nx-forwarded-proto=http\n\n\
         4 bytes: body"
    );
    assert_eq!((reply.status, reply.header("content-type")), (200, "text/plain"));
}

#[tokio::test]
async fn a_proxy_that_we_know_is_believed() {
    let world = World::with(|config| config.protection = gateway::Protection::BehindProxy).await;
    let reply = world.web("/echo", "x-forwarded-for: 192.0.2.7\r\n").await;
    assert!(reply.text().contains("x-forwarded-for=192.0.2.7\n") && !reply.text().contains("127.0.0.1"));
}

#[tokio::test]
async fn a_reply_comes_back_as_it_is_but_for_what_belongs_to_a_connection() {
    let world = World::new().await;
    let reply = world.web("/teapot", "").await;
    assert_eq!((reply.status, reply.text()), (418, "short and stout"));
    let reply = world.web("/cookies", "").await;
    let cookies: Vec<_> =
        reply.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, v)| v.as_str()).collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!((reply.header("content-length"), reply.header("connection")), ("0", ""));
    let reply = world.web("/nothing", "").await;
    assert_eq!((reply.status, reply.header("content-length")), (204, ""));
}

#[tokio::test]
async fn what_http_cannot_say_is_the_handlers_failure() {
    let world = World::new().await;
    for path in ["/bad-header", "/bad-status"] {
        let reply = world.web(path, "").await;
        assert_eq!((reply.status, reply.problem().as_str()), (502, "E-HANDLER"));
        assert_eq!(reply.header("set-cookie"), "");
    }
}

#[tokio::test]
async fn each_outcome_has_its_status() {
    let world = World::new().await;
    for (path, status, code) in [
        ("/busy", 503, "E-BUSY"),
        ("/invalid", 400, "E-MESSAGE-INVALID"),
        ("/no-route", 404, "E-NO-ROUTE"),
        ("/cycle", 508, "E-CYCLE"),
        ("/unreachable", 503, "E-UNREACHABLE"),
        ("/unknown", 504, "E-TIMEOUT"),
        ("/trap", 502, "E-TRAP"),
        ("/failed-late", 502, "E-NOT-FOUND"),
    ] {
        let reply = world.web(path, "").await;
        assert_eq!((reply.status, reply.problem().as_str()), (status, code), "{path}");
        assert_eq!(reply.header("cache-control"), "no-store");
    }
    assert_eq!(world.web("/busy", "").await.header("retry-after"), "3");
}

#[tokio::test]
async fn people_read_what_to_type_next() {
    let world = World::new().await;
    let html = "accept: text/html,*/*\r\n";
    let reply = world.web("/", &format!("host: missing\r\n{html}")).await;
    assert_eq!((reply.status, reply.header("content-type")), (404, "text/html; charset=utf-8"));
    assert!(
        reply.text().contains("<code>starlane create &#39;missing&lt;Space&gt;&#39;</code>"),
        "{}",
        reply.text()
    );
    let reply = world.web("/", &format!("host: unbound\r\n{html}")).await;
    assert_eq!(reply.status, 404);
    assert!(reply.text().contains("starlane set &#39;unbound{ +bind="), "{}", reply.text());

    let reply = world.web("/", "host: missing\r\n").await;
    assert_eq!(reply.problem(), "E-NOT-FOUND");
    assert_eq!(reply.json()["help"], "`starlane create 'missing<Space>'`");
    assert_eq!(world.web("/", "host: unbound\r\n").await.problem(), "E-NO-ROUTE");
}

#[tokio::test]
async fn head_is_a_get_without_its_body() {
    let world = World::new().await;
    for path in ["/text", "/blob", "/busy"] {
        let got = world.web(path, "").await;
        let mut connection = Connection::open(world.at.web).await;
        let head = connection.ask("HEAD", path, "host: shop\r\n", "").await;
        assert_eq!(head.status, got.status, "{path}");
        for name in ["content-length", "content-type", "etag"] {
            assert_eq!(head.header(name), got.header(name), "{name} of {path}");
        }
        // The connection goes on where the head ended: no byte of a body came.
        assert_eq!(connection.ask("GET", "/hello", "host: shop\r\n", "").await.text(), "hello\n");
    }
}

#[tokio::test]
async fn a_blob_is_streamed_whole_or_in_ranges() {
    let world = World::new().await;
    let whole = world.web("/blob", "").await;
    assert_eq!((whole.header("content-length"), whole.header("accept-ranges")), ("1000000", "bytes"));
    assert!(whole.body == pattern(0..1_000_000));
    let tag = whole.header("etag").to_owned();
    assert_eq!(tag, format!("\"{}\"", "07".repeat(32)));

    let part = world.web("/blob", "range: bytes=65530-65540\r\n").await;
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 65530-65540/1000000"));
    assert_eq!(part.body, pattern(65_530..65_541));
    let last = world.web("/blob", "range: bytes=-5\r\n").await;
    assert_eq!((last.status, last.body), (206, pattern(999_995..1_000_000)));
    let outside = world.web("/blob", "range: bytes=1000000-\r\n").await;
    assert_eq!((outside.status, outside.header("content-range")), (416, "bytes */1000000"));
    let several = world.web("/blob", "range: bytes=0-1,5-6\r\n").await;
    assert_eq!((several.status, several.body.len()), (200, 1_000_000));

    let same = world.web("/blob", &format!("range: bytes=0-1\r\nif-range: {tag}\r\n")).await;
    assert_eq!(same.status, 206);
    let other = world.web("/blob", "range: bytes=0-1\r\nif-range: \"other\"\r\n").await;
    assert_eq!((other.status, other.body.len()), (200, 1_000_000));
    assert_eq!(world.web("/tagged", "range: bytes=2-4\r\n").await.text(), "234");
    assert_eq!(
        world.web("/hello", "range: bytes=2-4\r\n").await.text(),
        "hello\n",
        "what may change has no ranges"
    );
    let post = world.web_as("POST", "/blob", "range: bytes=0-1\r\n", "x").await;
    assert_eq!((post.status, post.body.len()), (200, 1_000_000));
}

#[tokio::test]
async fn what_did_not_change_is_not_sent_again() {
    let world = World::new().await;
    for (path, tag) in [("/tagged", "\"v1\"".to_owned()), ("/blob", format!("\"{}\"", "07".repeat(32)))] {
        let reply = world.web(path, &format!("if-none-match: \"old\", {tag}\r\n")).await;
        assert_eq!((reply.status, reply.header("etag")), (304, tag.as_str()));
        assert_eq!(world.web(path, "if-none-match: \"old\"\r\n").await.status, 200);
    }
}

#[tokio::test]
async fn text_is_compressed_for_those_who_ask() {
    let world = World::new().await;
    for (path, whole) in
        [("/text", "a line of text\n".repeat(1000).into_bytes()), ("/style.css", pattern(0..300_000))]
    {
        let reply = world.web(path, "accept-encoding: br, gzip\r\n").await;
        assert_eq!(
            (reply.header("content-encoding"), reply.header("vary")),
            ("gzip", "accept-encoding"),
            "{path}"
        );
        assert!(reply.body.len() < whole.len() / 2);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*reply.body).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == whole, "{path}");
        let plain = world.web(path, "").await;
        assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"));
        assert!(plain.body == whole);
    }
    let ranged = world.web("/style.css", "accept-encoding: gzip\r\nrange: bytes=0-9\r\n").await;
    assert_eq!((ranged.status, ranged.header("content-encoding")), (206, ""));
    for path in ["/blob", "/hello"] {
        assert_eq!(
            world.web(path, "accept-encoding: gzip\r\n").await.header("content-encoding"),
            "",
            "{path}"
        );
    }
    let weak = world.web("/style.css", "accept-encoding: gzip\r\n").await.header("etag").to_owned();
    assert!(weak.starts_with("W/"));
    assert_eq!(world.web("/style.css", &format!("if-none-match: {weak}\r\n")).await.status, 304);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_seen_to_break_off() {
    let world = World::new().await;
    let mut connection = Connection::open(world.at.web).await;
    connection.say("GET /torn HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(connection.head().await.header("content-length"), "300000");
    assert!(connection.rest().await.len() < 300_000);
}

#[tokio::test]
async fn a_trace_goes_through() {
    let world = World::new().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let reply = world.web("/trace", &format!("traceparent: {trace}\r\n")).await;
    assert_eq!((reply.text(), reply.header("traceparent")), (trace, trace));
    let failed = world.web("/busy", &format!("traceparent: {trace}\r\n")).await;
    assert_eq!(failed.json()["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(world.web("/busy", "").await.json()["traceId"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn bodies_have_a_largest_size() {
    let world = World::with(|config| config.limits.body_bytes_max = 1000).await;
    let whole = "x".repeat(1000);
    assert!(world.web_as("POST", "/echo", "", &whole).await.text().contains("1000 bytes"));
    let over = world.web_as("POST", "/echo", "", &format!("{whole}x")).await;
    assert_eq!((over.status, over.problem().as_str()), (413, "E-TOO-LARGE"));
    let mut connection = Connection::open(world.at.web).await;
    let chunked = format!("transfer-encoding: chunked\r\nhost: shop\r\n\r\n3e8\r\n{whole}\r\n");
    connection.say(format!("POST /echo HTTP/1.1\r\n{chunked}0\r\n\r\n")).await;
    assert!(connection.reply("POST").await.text().contains("1000 bytes"));
    connection.say(format!("POST /echo HTTP/1.1\r\n{chunked}1\r\nx\r\n0\r\n\r\n")).await;
    assert_eq!(connection.reply("POST").await.status, 413);
}

#[tokio::test]
async fn bodies_in_memory_have_a_largest_sum() {
    let world = World::with(|config| config.limits.bodies_bytes_max = 1000).await;
    let mut first = Connection::open(world.at.web).await;
    first
        .say(format!("POST /gate HTTP/1.1\r\nhost: shop\r\ncontent-length: 900\r\n\r\n{}", "x".repeat(900)))
        .await;
    while world.mesh.last() != "at the gate" {
        tokio::task::yield_now().await;
    }
    let second = world.web_as("POST", "/echo", "", &"x".repeat(200)).await;
    assert_eq!((second.status, second.problem().as_str()), (503, "E-BUSY"));
    world.mesh.gate.notify_one();
    assert_eq!(first.reply("POST").await.text(), "through the gate");
    assert_eq!(world.web_as("POST", "/echo", "", &"x".repeat(200)).await.status, 200);
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_order() {
    let world = World::new().await;
    let mut connection = Connection::open(world.at.web).await;
    let ask = |path| format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n");
    connection.say(format!("{}{}{}", ask("/hello"), ask("/tagged"), ask("/teapot"))).await;
    for body in ["hello\n", "0123456789", "short and stout"] {
        assert_eq!(connection.reply("GET").await.text(), body);
    }
}
