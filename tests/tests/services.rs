//! Services without Wasm: they serve points, publish, subscribe and watch through the portal of whichever node.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use starlane_client::core::{Change, Phase};
use starlane_client::{Call, Client, Config, Error, Failed, Heard, Reply, Step, Watch};
use tests::mesh::{Mesh, Plan, wait};
use tests::{Answer, Node, Serve, root, soak};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);

fn config(node: &Node) -> Config {
    Config::of_data(node.data()).unwrap()
}

async fn client(node: &Node) -> Client {
    Client::connect(config(node)).await.unwrap()
}

/// A service that answers with its name, and counts.
async fn named(client: &Client, point: &str, name: &'static str) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let answer = move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Failed>(Reply::text(name)) }
    };
    client.serve(point, Some("Portal"), answer).await.unwrap();
    count
}

/// Waits for a change of one resource that holds.
async fn until(watch: &mut Watch, holds: impl Fn(&starlane_client::core::Resource) -> bool) {
    let found = async {
        loop {
            match watch.next().await.unwrap() {
                Step::Listed { resources, .. } if resources.iter().any(|resource| holds(resource)) => return,
                Step::Changed { changes, .. } if changes.iter().any(|change| holds(change.resource())) => {
                    return;
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("it comes to hold");
}

#[test]
fn orders_are_seen_exactly_while_the_node_is_killed() {
    let report = soak::orders_while_the_node_is_killed(1_500, 3);
    println!("{report}");
    assert!(report.kept(), "{report}");
}

#[test]
fn two_processes_share_the_work_and_their_point_says_when_none_is_left() {
    let node = Node::start();
    Runtime::new().unwrap().block_on(async {
        let asks = client(&node).await;
        asks.ensure("shop", "Space", ()).await.unwrap();
        let (one, two) = (client(&node).await, client(&node).await);
        let counts = [named(&one, "shop:pay", "one").await, named(&two, "shop:pay", "two").await];
        for _ in 0..20 {
            let reply = asks.request("shop:pay", Call::new("Pay")).await.unwrap();
            assert!(["one", "two"].contains(&&*reply.to_text()));
        }
        assert_eq!(counts.each_ref().map(|count| count.load(Ordering::Relaxed)), [10, 10]);
        let mut watch = asks.watch("shop:*<Portal>").await.unwrap();
        until(&mut watch, |portal| portal.status.phase == Phase::Ready).await;
        assert!(asks.get("shop:pay").await.unwrap().property("served").is_some());

        // One leaves, and the other goes on.
        drop(one);
        let answers = |name: &'static str| {
            let asks = asks.clone();
            async move {
                loop {
                    match asks.request("shop:pay", Call::new("Pay")).await {
                        Ok(reply) if reply.to_text() == name => return,
                        // What one had when it left may have run.
                        Ok(_) | Err(Error::Unknown(_)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, answers("two")).await.unwrap();
        two.unserve("shop:pay").await.unwrap();
        until(&mut watch, |portal| portal.status.phase == Phase::Pending).await;
        let refused = asks.request("shop:pay", Call::new("Pay")).await.unwrap_err();
        assert!(matches!(&refused, Error::Rejected(problem) if problem.code == "E-NOT-READY"), "{refused:?}");
        // Somebody else may serve it again.
        named(&two, "shop:pay", "two").await;
        until(&mut watch, |portal| portal.status.phase == Phase::Ready).await;
        tokio::time::timeout(PATIENCE, answers("two")).await.unwrap();

        // What the mesh writes of it, nobody else does; and a point with code of its own is not served.
        let set = asks.set("shop:pay", json!({ "served": ["elsewhere"] }), None).await.unwrap_err();
        assert_eq!(set.code(), Some("E-PROPERTY-VALUE"));
        let missing = asks.serve("shop:none", None, |_| async { Ok(Reply::new(204)) }).await.unwrap_err();
        assert_eq!(missing.code(), Some("E-NOT-FOUND"));
    });
    // What a person sees of it.
    let got = node.run(["get", "shop:pay", "-o", "json"]).ok();
    assert!(got.contains("Portal"), "{got}");
    let why = node.run(["why", "shop:pay"]);
    assert!(why.code == 1 && why.out.contains("nobody serves it"), "{why:?}");
    let asked = node.run(["request", "shop:pay^Ext<Pay>"]);
    assert_eq!(asked.code, 1, "{asked:?}");
}

#[test]
fn a_service_answers_wherever_it_is_asked_from_and_events_reach_all_nodes() {
    let mut mesh = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::leaf("edge")]);
    mesh.wait_ready(2, PATIENCE);
    mesh.publish_witness();
    let witness = mesh.witness("mech", "[at = \"cloud\"]");
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let (cloud, edge) = (client(mesh.node("cloud")).await, client(mesh.node("edge")).await);
        cloud.ensure("shop", "Space", ()).await.unwrap();
        let heard = Arc::new(AtomicUsize::new(0));
        let counts = heard.clone();
        // It asks a mechtron on another node for the sake of what it is asked.
        let (inside, target) = (edge.clone(), witness.clone());
        let answer = move |incoming: starlane_client::Incoming| {
            counts.fetch_add(1, Ordering::Relaxed);
            let (edge, witness) = (inside.clone(), target.clone());
            async move {
                let record = edge.request(&witness, Call::new("GetRecord").within(&incoming)).await?;
                Ok(Reply::new(200).with("application/json", record.body))
            }
        };
        edge.serve("shop:pay", Some("Portal"), answer).await.unwrap();
        let reply =
            cloud.request("shop:pay", Call::new("Pay").json(&json!({ "sum": 3 })).unwrap()).await.unwrap();
        assert_eq!(reply.read::<serde_json::Value>().unwrap()["end"], 0);
        for n in 0..50 {
            cloud.send("shop:pay", Call::new("Note").path(&format!("/{n}"))).await.unwrap();
        }

        // Both hear what either publishes, in order.
        cloud.ensure("shop:prices", "Base", ()).await.unwrap();
        let mut topics =
            [cloud.subscribe("shop:prices").await.unwrap(), edge.subscribe("shop:prices").await.unwrap()];
        cloud.get("shop:prices").await.unwrap();
        for n in 0..20 {
            cloud.publish("shop:prices", Call::event().path(&format!("/{n}"))).await.unwrap();
        }
        for topic in &mut topics {
            for n in 0..20 {
                let heard = tokio::time::timeout(PATIENCE, topic.next()).await.unwrap().unwrap();
                assert!(
                    matches!(&heard, Heard::Event { path, .. } if *path == format!("/{n}")),
                    "{n}: {heard:?}"
                );
            }
        }
        let count = || heard.load(Ordering::Relaxed);
        tokio::task::block_in_place(|| wait(PATIENCE, "the signals arrive", || count() == 51));
    });
    let shown = mesh.first().run(["trace", "shop:pay"]).ok();
    assert!(shown.contains("edge"), "{shown}");

    // The service's node dies: its point says so, and another may serve it.
    mesh.node_mut("edge").kill();
    runtime.block_on(async {
        let cloud = client(mesh.node("cloud")).await;
        let mut watch = cloud.watch("shop:*<Portal>").await.unwrap();
        until(&mut watch, |portal| portal.property("served").is_none()).await;
        named(&cloud, "shop:pay", "cloud").await;
        assert_eq!(cloud.request("shop:pay", Call::new("Pay")).await.unwrap().to_text(), "cloud");
    });
}

#[test]
fn a_client_finds_its_node_again_and_goes_on() {
    let mut node = Node::start();
    let runtime = Runtime::new().unwrap();
    let (client, mut watch, mut topic, count) = runtime.block_on(async {
        let client = client(&node).await;
        client.ensure("shop", "Space", ()).await.unwrap();
        client.ensure("shop:prices", "Base", ()).await.unwrap();
        let count = named(&client, "shop:pay", "one").await;
        let mut watch = client.watch("shop:*<Base>").await.unwrap();
        assert!(matches!(watch.next().await.unwrap(), Step::Listed { resources, last: true, .. } if resources.len() == 1));
        let topic = client.subscribe("shop:prices").await.unwrap();
        (client, watch, topic, count)
    });
    node.kill();
    node.restart();
    runtime.block_on(async {
        orders::surely(|| client.ensure("shop:more", "Base", ())).await.unwrap();
        loop {
            match tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap() {
                // Who hears the topic is written down anew meanwhile.
                Step::Changed { changes, .. }
                    if changes.iter().all(|change| matches!(change, Change::Updated(_))) => {}
                Step::Changed { changes, .. } => {
                    assert!(
                        matches!(&changes[..], [Change::Entered(more)] if more.point.as_str() == "shop:more")
                    );
                    break;
                }
                Step::Bookmark { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let heard = tokio::time::timeout(PATIENCE, topic.next()).await.unwrap();
        assert_eq!(heard, Some(Heard::Reconnected));
        let asked = orders::surely(|| client.request("shop:pay", Call::new("Pay"))).await.unwrap();
        assert_eq!((asked.to_text().as_str(), count.load(Ordering::Relaxed) >= 1), ("one", true));
    });
    // A wrong token is told at once.
    let wrong = Config { token: "wrong".to_owned(), ..config(&node) };
    let refused = runtime.block_on(Client::connect(wrong)).unwrap_err();
    assert!(matches!(&refused, Error::Connect(why) if why.contains("token")), "{refused:?}");
}

/// Runs the tests of a TypeScript package against a node, with more in its environment; `None` when this machine has no Node.
fn typescript(package: &str, node: &Node, more: &[(&str, String)]) -> Option<Answer> {
    let folder = root().join(package);
    let built = folder.join("dist").is_dir();
    let required = std::env::var("STARLANE_REQUIRE_NODE").is_ok_and(|value| value == "1");
    if !built {
        assert!(!required, "STARLANE_REQUIRE_NODE=1, and {package} is not built: run scripts/node-tools");
        eprintln!("SKIPPED: {package} is not built (see scripts/node-tools)");
        return None;
    }
    let output = Command::new("node")
        .args(["--test", "test/"])
        .current_dir(&folder)
        .env("STARLANE_DATA", node.data())
        .env("STARLANE", tests::binary())
        .envs(more.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .output()
        .expect("node runs");
    Some(output.into())
}

#[test]
fn the_typescript_client_and_its_example_work_against_a_real_node() {
    let node = Node::start();
    for package in ["clients/typescript", "examples/orders/typescript"] {
        let Some(told) = typescript(package, &node, &[]) else { return };
        told.ok();
    }
}

#[test]
fn the_typescript_client_reaches_a_node_with_tls_whose_certificate_node_believes() {
    let folder = tempfile::tempdir().unwrap();
    tests::certificates::write(folder.path(), "localhost");
    let file = |name: &str| folder.path().join(name);
    let tls = Some((file("cert.pem"), file("key.pem")));
    let node = Node::serve(Serve { tls, ..Serve::named("node-1") });
    let api = ("STARLANE_API", format!("https://localhost:{}", node.api().port()));
    let ca = ("NODE_EXTRA_CA_CERTS", file("ca.pem").display().to_string());
    let Some(told) = typescript("clients/typescript", &node, &[api.clone(), ca]) else { return };
    told.ok();
    let told = typescript("clients/typescript", &node, &[api]).unwrap();
    assert!(told.code != 0 && told.out.contains("no connection: unable to verify"), "{told:?}");
}
