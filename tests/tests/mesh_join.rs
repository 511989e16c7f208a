//! Who may not join is told why, and what to do.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::mesh::{Mesh, Plan, token, wait};
use tests::{Answer, Node, binary};

const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a node that is not to become one, and waits for its end.
fn join(address: SocketAddr, token: &str) -> Answer {
    let data = tempfile::tempdir().expect("a temporary folder");
    Command::new(binary())
        .args(["serve", "--name", "late", "--http", "127.0.0.1:0", "--api", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .args(["--join", &address.to_string(), token])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
        .into()
}

fn links(node: &Node) -> SocketAddr {
    node.served().listen.expect("the first node of a mesh accepts links")
}

#[test]
fn a_token_is_good_once_in_time_and_for_its_mesh() {
    let mesh = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::leaf("edge")]);
    let cloud = mesh.first();
    let refused = |token: &str, code: i32, words: &[&str]| {
        let said = join(links(cloud), token).fails(code);
        for word in words {
            assert!(said.contains(word), "{word:?} is missing in {said:?}");
        }
    };
    let make_another = "make another with `starlane token`";

    let (_, used) = mesh.node("edge").served().join.clone().expect("it joined with a token");
    refused(
        &used,
        4,
        &["E-FORBIDDEN", "the token is not known: it was used already, or has expired", make_another],
    );

    let expired = cloud.run(["token", "--ttl", "1s"]).ok();
    wait(PATIENCE, "the token expires", || cloud.run(["token", "list"]).ok().lines().count() <= 1);
    refused(expired.trim(), 4, &["E-FORBIDDEN", "expired", make_another]);

    let other = Node::start();
    let foreign = token(&other, false);
    refused(
        &foreign,
        4,
        &["E-FORBIDDEN", "belongs to another mesh: nothing was sent", "ask for a token of its mesh"],
    );
    // It was not used up by that: nothing was sent.
    assert!(other.run(["token", "list"]).ok().lines().count() > 1);

    // The right pin, and a secret that nobody has.
    let good = token(cloud, false);
    let (known, secret) = good.rsplit_once('.').expect("a token has a secret");
    let guessed = format!("{known}.{}", "A".repeat(secret.len()));
    refused(&guessed, 4, &["E-FORBIDDEN", "the token is not known"]);

    for garbage in ["nonsense", "sl1.", "sl2.a.b.c", known, ""] {
        refused(garbage, 2, &["E-USAGE", "that is not a token", "`starlane token` printed it"]);
    }
    // Nobody is there: the port was a moment ago another node's.
    let nobody = links(&other);
    drop(other);
    let said = join(nobody, &good).fails(6);
    assert!(said.contains("E-UNREACHABLE") && said.contains("check the address"), "{said}");

    // After all that the good one is still good.
    let list = cloud.run(["node", "list", "-o", "name"]).ok();
    assert_eq!(list, "cloud\nedge\n");
    assert!(cloud.run(["token", "list"]).ok().lines().count() > 1);
}
