//! Clients that mean harm.

use crate::client::{Connection, World};

/// What is answered to these bytes, and whether the connection is closed after it.
async fn answer(world: &World, bytes: impl AsRef<[u8]>) -> String {
    let mut connection = Connection::open(world.at.web).await;
    connection.say(bytes).await;
    String::from_utf8_lossy(&connection.rest().await).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn answers(answer: &str) -> usize {
    answer.matches("HTTP/1.1 ").count()
}

#[tokio::test]
async fn two_readings_of_one_request_are_never_possible() {
    let world = World::new().await;
    let smuggled = "GET /teapot HTTP/1.1\r\nhost: shop\r\n\r\n";
    for head in [
        "content-length: 3\r\ncontent-length: 4\r\n",
        "content-length: 3, 4\r\n",
        "content-length: +3\r\n",
        "content-length: 0x3\r\n",
        "content-length: -1\r\n",
        "content-length: 99999999999999999999\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: xchunked\r\n",
        "content-length : 3\r\n",
        "content-length: 3\r\n transfer-encoding: chunked\r\n",
    ] {
        let said = format!("POST /echo HTTP/1.1\r\nhost: shop\r\n{head}\r\n0\r\n\r\n{smuggled}");
        let heard = answer(&world, &said).await;
        assert_eq!((status(&heard), answers(&heard)), ("400", 1), "{head}: {heard}");
    }
    let old =
        answer(&world, "POST /echo HTTP/1.0\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
            .await;
    assert_eq!((status(&old), answers(&old)), ("400", 1));
}

#[tokio::test]
async fn malformed_requests_are_answered_400_and_closed() {
    let world = World::new().await;
    for said in [
        "GET /hello\r\n\r\n",
        "\u{0}\u{0}\u{0}\u{0}\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: shop\r\n\r\n",
        "GET /hello HTTP/1.1\r\nhost shop\r\n\r\n",
        "GET /hello HTTP/1.1\r\nho\u{0}st: shop\r\n\r\n",
        "GET /hello HTTP/1.1\r\nhost: shop\r\nx: a\u{0}b\r\n\r\n",
        "GET /hello HTTP/9.1\r\nhost: shop\r\n\r\n",
        "POST /echo HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "POST /echo HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let heard = answer(&world, said).await;
        assert_eq!((status(&heard), answers(&heard)), ("400", 1), "{said:?}: {heard}");
    }
}

#[tokio::test]
async fn heads_have_a_largest_size() {
    let world = World::with(|config| {
        config.limits.head_bytes_max = 8 * 1024;
        config.limits.headers_max = 20;
    })
    .await;
    let ask =
        |headers: &str| format!("GET /hello HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n{headers}\r\n");
    assert_eq!(status(&answer(&world, ask(&format!("x: {}\r\n", "a".repeat(7_000)))).await), "200");
    assert_eq!(status(&answer(&world, ask(&format!("x: {}\r\n", "a".repeat(9_000)))).await), "431");
    assert_eq!(status(&answer(&world, ask(&"x: a\r\n".repeat(19))).await), "431");
    let endless = answer(&world, format!("GET /{} ", "a".repeat(200_000))).await;
    assert!(matches!(status(&endless), "431" | "414"), "{endless}");
}

#[tokio::test]
async fn hosts_are_checked() {
    let world = World::new().await;
    for (head, expected) in [
        ("GET /hello HTTP/1.1\r\n", "400"),
        ("GET /hello HTTP/1.1\r\nhost: a\r\nhost: b\r\n", "400"),
        ("GET /hello HTTP/1.1\r\nhost: a/b\r\n", "400"),
        ("GET /hello HTTP/1.1\r\nhost: shop:orders\r\n", "400"),
        ("GET /hello HTTP/1.1\r\nhost: ../etc\r\n", "400"),
        ("GET http://shop/hello HTTP/1.1\r\nhost: missing\r\n", "200"),
        ("OPTIONS * HTTP/1.1\r\nhost: shop\r\n", "400"),
        ("CONNECT shop:80 HTTP/1.1\r\nhost: shop\r\n", "404"),
        ("M-SEARCH /hello HTTP/1.1\r\nhost: shop\r\n", "501"),
    ] {
        let heard = answer(&world, format!("{head}connection: close\r\n\r\n")).await;
        assert_eq!((status(&heard), answers(&heard)), (expected, 1), "{head}: {heard}");
    }
    let long = "a".repeat(300);
    let heard = answer(&world, format!("GET / HTTP/1.1\r\nhost: {long}\r\nconnection: close\r\n\r\n")).await;
    assert_eq!(status(&heard), "400");
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused() {
    let world = World::new().await;
    let heard =
        answer(&world, b"GET /hello HTTP/1.1\r\nhost: shop\r\nx: \xff\xfe\r\nconnection: close\r\n\r\n")
            .await;
    assert_eq!(status(&heard), "400");
    assert!(heard.contains("the header `x` is not UTF-8"));
    let heard = answer(&world, b"GET /hello HTTP/1.1\r\nhost: sh\xffop\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status(&heard), "400");
    // UTF-8 is fine, and goes through.
    let heard =
        answer(&world, "GET /echo HTTP/1.1\r\nhost: shop\r\nx: grün\r\nconnection: close\r\n\r\n").await;
    assert!(heard.contains("x=grün"), "{heard}");
}
