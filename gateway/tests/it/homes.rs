//! Where points live: the way there, the reasons, and moves.

use serde_json::json;

use crate::client::World;

#[tokio::test]
async fn a_way_is_told_as_far_as_it_leads() {
    let world = World::new().await;
    let route = world.api("GET", "/v1/trace/shop:cart?timeout=2s", "", "").await.json();
    assert_eq!(
        route,
        json!({
            "point": "shop:cart", "reached": false, "reason": "`desktop` did not answer",
            "hops": [{"node": "cloud", "rttUs": 0}, {"node": "edge-1", "rttUs": 412}, {"node": "desktop"}],
        })
    );
    assert_eq!(world.mesh.last(), "trace shop:cart in 2s");
    assert_eq!(world.api("GET", "/v1/trace/missing:x", "", "").await.problem(), "E-NOT-FOUND");
}

#[tokio::test]
async fn reasons_are_told_node_by_node() {
    let world = World::new().await;
    let why = world.api("GET", "/v1/why/shop:cart", "", "").await.json();
    assert_eq!(
        (&why["state"], &why["node"], &why["epoch"]),
        (&json!("running"), &json!("edge-1"), &json!(42))
    );
    assert_eq!(why["candidates"][1], json!({"node": "cloud", "chosen": false, "reason": "tier is cloud"}));
    let missing = world.api("GET", "/v1/why/missing:x", "", "").await;
    assert_eq!((missing.status, &missing.json()["state"]), (200, &json!("missing")));
    assert_eq!(world.api("GET", "/v1/why/Wrong", "", "").await.problem(), "E-POINT-SYNTAX");
}

#[tokio::test]
async fn a_mechtron_moves_where_it_is_told() {
    let world = World::new().await;
    let moved = world.json("POST", "/v1/move/shop:cart?timeout=1m", r#"{"to":"desktop"}"#).await.json();
    assert_eq!(moved, json!({"point": "shop:cart", "node": "desktop", "from": "edge-1", "epoch": 43}));
    assert_eq!(world.mesh.last(), "move shop:cart to desktop in 60s");
    for body in ["{}", r#"{"to":"Edge"}"#, r#"{"to":"edge-1","from":"x"}"#] {
        assert_eq!(world.json("POST", "/v1/move/shop:cart", body).await.problem(), "E-USAGE", "{body}");
    }
}
