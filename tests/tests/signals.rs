//! Signals between mechtrons, wherever their shards are.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Node, root};

const PATIENCE: Duration = Duration::from_secs(30);

/// Several receivers, so that some are on another shard than the sender, and none was ever woken before.
const RECEIVERS: usize = 6;

#[test]
fn signals_arrive_once_and_in_order_on_every_shard() {
    let node = Node::start();
    node.exec("create shop<Space>; create shop:repo<Repo>; create shop:repo:witness<BundleSeries>").ok();
    let bundle = root().join("target/bundles/witness");
    node.run(["publish", &format!("^[ {} ]-> shop:repo:witness:1.0.0", bundle.display())]).ok();
    let witness = |name: &str| {
        let config = "shop:repo:witness:1.0.0:/config/witness.mechtron";
        node.exec(&format!("create shop:{name}<Mechtron>{{ +config={config} }}")).ok();
    };
    witness("sender");
    for number in 0..RECEIVERS {
        witness(&format!("receiver-{number}"));
        let burst = format!(r#"{{"to": "shop:receiver-{number}", "first": 0, "count": 100}}"#);
        node.run(["request", "shop:sender^Ext<Burst>", &burst]).ok();
    }
    for number in 0..RECEIVERS {
        let begun = Instant::now();
        let record = loop {
            let told = node.run(["request", &format!("shop:receiver-{number}^Ext<GetRecord>")]).ok();
            let record: Value = serde_json::from_str(&told).expect("a record is JSON");
            if record["end"] == 100 || begun.elapsed() > PATIENCE {
                break record;
            }
        };
        assert_eq!(
            record,
            serde_json::json!({ "end": 100, "missing": 0, "again": 0, "late": 0 }),
            "{number}"
        );
    }
}
