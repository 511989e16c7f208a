//! Nodes, their links and the tokens with which they join.

use serde_json::json;

use crate::client::World;

#[tokio::test]
async fn a_node_is_found_by_its_name() {
    let world = World::new().await;
    let node = world.api("GET", "/v1/nodes/cloud", "", "").await.json();
    assert_eq!(
        (node["role"].as_str(), node["hops"].as_u64(), node["registry"].as_bool(), node["seenMs"].as_u64()),
        (Some("relay"), Some(0), Some(true), Some(400))
    );
    let lost = world.api("GET", "/v1/nodes/desktop", "", "").await.json();
    assert_eq!(lost["status"], json!({"phase": "Unknown", "reason": "nobody has a link to it"}));
    assert_eq!((lost.get("hops"), &lost["ready"]), (None, &json!(false)));
    let nobody = world.api("GET", "/v1/nodes/nobody", "", "").await;
    assert_eq!((nobody.status, nobody.problem().as_str()), (404, "E-NOT-FOUND"));
    assert_eq!(nobody.json()["help"], "there are: cloud, edge-1, desktop");
    for method in ["GET", "DELETE"] {
        let wrong = world.api(method, "/v1/nodes/Edge%201", "", "").await;
        assert_eq!((wrong.status, wrong.problem().as_str()), (400, "E-USAGE"));
    }
}

#[tokio::test]
async fn a_node_is_labelled_drained_and_shut_out() {
    let world = World::new().await;
    let patch = r#"{"labels":{"zone":"a","tier":null},"draining":true}"#;
    let node = world.json("PATCH", "/v1/nodes/edge-1", patch).await.json();
    assert_eq!((&node["labels"], &node["draining"]), (&json!({"zone": "a"}), &json!(true)));
    assert_eq!(
        world.mesh.last(),
        r#"edge-1 NodePatch { labels: {Key("tier"): None, Key("zone"): Some("a")}, draining: Some(true) }"#
    );
    assert_eq!(world.json("PATCH", "/v1/nodes/nobody", "{}").await.problem(), "E-NOT-FOUND");
    for (patch, pointer) in [
        (r#"{"labels":{"Bad":"a"}}"#, "/labels/Bad"),
        (r#"{"labels":{"zone":3}}"#, "/labels/zone"),
        (r#"{"drain":true}"#, "/drain"),
    ] {
        let wrong = world.json("PATCH", "/v1/nodes/edge-1", patch).await;
        assert_eq!((wrong.status, &wrong.json()["errors"][0]["pointer"]), (400, &json!(pointer)), "{patch}");
    }
    assert_eq!(world.api("DELETE", "/v1/nodes/edge-1", "", "").await.status, 204);
    assert_eq!(world.mesh.last(), "revoke edge-1");
    assert_eq!(world.api("DELETE", "/v1/nodes/cloud", "", "").await.problem(), "E-FORBIDDEN");
}

#[tokio::test]
async fn the_graph_has_its_links_and_those_that_are_lost() {
    let graph = World::new().await.api("GET", "/v1/graph", "", "").await.json();
    assert_eq!(graph["links"][0], json!({"a": "cloud", "b": "edge-1", "rttUs": 400}));
    assert_eq!(graph["links"][1].get("rttUs"), None);
    assert_eq!(graph["nodes"][2], json!({"name": "desktop", "role": "relay", "seenMs": 400}));
}

#[tokio::test]
async fn tokens_are_made_listed_and_taken_back() {
    let world = World::new().await;
    let asked = r#"{"role":"relay","ttl":"2m","labels":{"tier":"edge"},"name":"edge-1"}"#;
    let made = world.json("POST", "/v1/tokens", asked).await;
    assert_eq!((made.status, made.header("cache-control")), (201, "no-store"));
    assert_eq!(
        made.json(),
        json!({
            "token": "sl1.pin.t1.secret", "address": "203.0.113.7:4343", "id": "t1", "role": "relay",
            "expires": 120_000, "labels": {"tier": "edge"}, "name": "edge-1",
        })
    );
    let plain = world.json("POST", "/v1/tokens", "{}").await.json();
    assert_eq!((plain["role"].as_str(), plain["expires"].as_u64()), (Some("leaf"), Some(600_000)));
    for asked in [
        r#"{"ttl":"1441m"}"#,
        r#"{"ttl":"0s"}"#,
        r#"{"role":"king"}"#,
        r#"{"name":"Edge"}"#,
        r#"{"labels":{"A":"b"}}"#,
    ] {
        let refused = world.json("POST", "/v1/tokens", asked).await;
        assert_eq!((refused.status, refused.problem().as_str()), (400, "E-USAGE"), "{asked}");
    }
    let listed = world.api("GET", "/v1/tokens", "", "").await;
    assert_eq!(listed.json()["tokens"][0]["name"], "edge-1");
    assert!(!listed.text().contains("secret"), "{}", listed.text());
    assert_eq!(world.api("DELETE", "/v1/tokens/t1", "", "").await.status, 204);
    assert_eq!(world.api("DELETE", "/v1/tokens/t%2F2", "", "").await.problem(), "E-NOT-FOUND");
    assert_eq!(world.mesh.last(), "delete token t/2");
}
