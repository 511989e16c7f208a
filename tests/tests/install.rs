//! A node that is killed in the middle of an install: after its restart the resource is whole, or it says why it failed.
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tests::mesh::wait;
use tests::{Api, Node};

const PATIENCE: Duration = Duration::from_secs(60);
/// How many resources one install makes, besides the app in their middle and what that installs.
const PARTS: usize = 1_000;
/// How many the app in the middle installs.
const INNER_PARTS: usize = 20;

fn publish(node: &Node) {
    let parts = |from: usize, to: usize| -> String {
        (from..to).map(|number| format!("create .:p-{number}<Base>; ")).collect()
    };
    let (first, rest) = (parts(0, PARTS / 2), parts(PARTS / 2, PARTS));
    let inner = "create .:inner<App>{ +config=${bundle}:/config/inner.app }";
    let outer = format!("App {{ Set {{ +title=whole }} Install {{ {first} {inner}; {rest} }} }}");
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("config")).expect("folders can be made");
    fs::write(folder.path().join("config/outer.app"), outer).expect("a file can be written");
    let inner = format!("App {{ Install {{ {} }} }}", parts(0, INNER_PARTS));
    fs::write(folder.path().join("config/inner.app"), inner).expect("a file can be written");
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:it<BundleSeries>").ok();
    node.run(["publish", &format!("^[ {} ]-> shop:repo:it:1.0.0", folder.path().display())]).ok();
}

/// How many resources are below a point, however deep.
fn below(node: &Node, point: &str) -> usize {
    node.run(["select", &format!("{point}:**"), "-o", "name", "--limit", "10000"]).ok().lines().count()
}

/// The resource, if it is there.
fn get(node: &Node, point: &str) -> Option<Value> {
    let told = node.run(["get", point, "-o", "json"]);
    (told.code == 0).then(|| serde_json::from_str::<Value>(&told.out).expect("JSON")["resource"].clone())
}

/// Begins to make an app, waits until so many of its parts are there, does something, and kills the node. Tells whether it was
/// in the middle.
fn kill_within(node: &mut Node, point: &str, parts: usize, before: impl FnOnce(&Node)) -> bool {
    let api = Api::of(node);
    let create = format!("create {point}<App>{{ +config=shop:repo:it:1.0.0:/config/outer.app }}");
    let mut command = node.command(["exec", &create]);
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command starts");
    let last = format!("/v1/resources/{point}:p-{parts}");
    wait(PATIENCE, "some parts are made", || matches!(api.get(&last), Some((200, _))));
    before(node);
    node.kill();
    !client.wait().expect("the command ends").success()
}

#[test]
fn an_install_that_a_kill_interrupts_is_whole_after_the_restart() {
    let mut node = Node::start();
    publish(&node);
    let rounds = [0, 10, PARTS / 4, PARTS / 2 + 1];
    let mut interrupted = 0;
    for (round, parts) in rounds.into_iter().enumerate() {
        let point = format!("shop:app-{round}");
        interrupted += usize::from(kill_within(&mut node, &point, parts, |_| {}));
        node.restart();
        let app = get(&node, &point).expect("some of its parts were there");
        assert_eq!(app["status"]["phase"], "Ready", "{app}");
        assert_eq!(app["properties"]["title"]["value"], "whole", "{app}");
        assert_eq!(below(&node, &point), PARTS + 1 + INNER_PARTS, "{point}");
        let inner = get(&node, &format!("{point}:inner")).expect("it was installed");
        assert_eq!(inner["status"]["phase"], "Ready", "{inner}");
    }
    println!("{interrupted} of {} installs were interrupted by a kill, all are whole", rounds.len());
    assert!(interrupted > rounds.len() / 2, "kills must come in the middle: {interrupted}");
}

#[test]
fn an_install_that_cannot_go_on_after_a_kill_says_why() {
    let mut node = Node::start();
    publish(&node);
    // Somebody takes the place of a part that is still to come; the kill is faster than the install.
    let last = format!("shop:app:p-{}", PARTS - 1);
    let interrupted = kill_within(&mut node, "shop:app", 0, |node| {
        node.exec(&format!("create {last}<Repo>")).ok();
    });
    node.restart();
    assert!(interrupted, "the kill came in the middle");
    let app = get(&node, "shop:app").expect("its first part was there");
    assert_eq!(app["status"]["phase"], "Fatal", "{app}");
    let reason = app["status"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("its install failed") && reason.contains(&last), "{reason}");
    // It stays so, and can be taken away.
    node.kill();
    node.restart();
    assert_eq!(get(&node, "shop:app").expect("it is there")["status"]["phase"], "Fatal");
    node.run(["delete", "-r", "shop:app"]).ok();
}
