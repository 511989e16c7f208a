//! The side of a split that the registry is not on goes on with what it has, says what it cannot do, and yields after.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::time::Duration;

use serde_json::{Value, json};
use tests::mesh::{Mesh, Plan, mark, placed, record, wait, witness};
use tests::net::Lab;
use tests::{Api, Asked};

const PATIENCE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(20);
/// How many writes are refused while one request waits.
const WRITES: usize = 100;
const NAMES: [&str; 3] = ["cloud", "edge", "far"];

fn is_ok(asked: Option<Asked>) -> bool {
    asked.is_some_and(|asked| asked.is_ok())
}

/// How a write ends: its status, and the code of its problem.
fn write(api: &Api, name: &str) -> (u16, Value) {
    let create = json!({ "point": format!("mesh-test:{name}"), "kind": "Base" });
    let (status, answer) = api.post("/v1/resources", &create).expect("the node answers");
    (status, answer["code"].clone())
}

#[test]
fn the_side_without_the_registry_goes_on_and_yields_after() {
    let Some(lab) = Lab::new() else { return };
    let mesh = Mesh::in_lab(lab, &NAMES.map(Plan::relay));
    mesh.wait_ready(NAMES.len(), PATIENCE);
    mesh.publish_witness();
    let either = "+place=[at in (\"cloud\", \"edge\")]";
    let stays = mesh.witness("stays", "[at = \"edge\"]");
    let roams = witness(mesh.first(), "roams", &format!(", {either}"));
    let kept = witness(mesh.first(), "kept", &format!(", {either}, +durability=mesh"));
    let nowhere = mesh.witness("nowhere", "[at = \"nowhere\"]");
    let apis = NAMES.map(|name| Api::of(mesh.node(name)));
    let [cloud, edge, far] = &apis;
    for point in [&stays, &roams, &kept] {
        wait(PATIENCE, "it lives somewhere", || placed(cloud, point).is_some());
        mesh.first().run(["move", point, "--to", "edge"]).ok();
        for number in 0..3 {
            assert!(is_ok(mark(far, point, number, TIMEOUT)), "{point} {number}");
        }
    }
    let before = [&stays, &roams, &kept].map(|point| placed(cloud, point).expect("it lives on a node").1);

    let [on_cloud, on_edge, on_far] = NAMES.map(|name| mesh.space(name));
    mesh.lab().split(&[&on_cloud], &[&on_edge, &on_far]);

    // Until the loss is noticed a write may be in doubt; from then on each is refused at once, long before one request
    // for somebody who lives nowhere has waited in vain.
    let unreachable = (503, json!("E-UNREACHABLE"));
    for (api, name) in [(edge, "edge"), (far, "far")] {
        wait(PATIENCE, "a write is refused", || write(api, &format!("noticed-{name}")) == unreachable);
    }
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| edge.request(&nowhere, "GetRecord", &Value::Null, TIMEOUT));
        for number in 0..WRITES {
            for (api, name) in [(edge, "edge"), (far, "far")] {
                assert_eq!(write(api, &format!("{name}-{number}")), unreachable);
            }
        }
        assert!(!waits.is_finished(), "writes waited for what cannot come");
        let waited = waits.join().expect("it ends").expect("the node answers");
        assert_eq!((waited.outcome.as_str(), &waited.json["code"]), ("rejected", &json!("E-NOT-READY")));
    });
    let cut_off = mesh.node("edge");
    let said = cut_off.exec("create mesh-test:late<Base>").fails(6);
    assert!(said.contains("E-UNREACHABLE") && said.contains("nothing was changed"), "{said}");
    // What is not known here may be on the other side: that nothing is there is not for this side to say.
    assert_eq!(write(cloud, "elsewhere").0, 201);
    let said = cut_off.exec("set mesh-test:elsewhere{ +color=blue }").fails(6);
    assert!(said.contains("E-UNREACHABLE"), "{said}");
    let asked = edge.request("mesh-test:elsewhere", "GetRecord", &Value::Null, TIMEOUT).expect("it answers");
    assert_eq!((asked.outcome.as_str(), &asked.json["code"]), ("rejected", &json!("E-UNREACHABLE")));
    let said = cut_off.run(["get", &stays]).fails(6);
    assert!(said.contains("--stale-ok"), "{said}");
    assert!(cut_off.run(["get", &stays, "--stale-ok"]).ok().contains(&stays));
    assert!(cut_off.run(["select", "mesh-test:*", "--stale-ok"]).ok().contains(&stays));

    // What lives here goes on, asked at either node, even what the other side has placed anew.
    wait(PATIENCE, "the other side places anew what it may", || {
        [&roams, &kept].iter().all(|point| placed(cloud, point).is_some_and(|(node, _)| node == "cloud"))
    });
    for (number, api) in [(3, edge), (4, far), (5, edge)] {
        assert!(is_ok(mark(api, &stays, number, TIMEOUT)), "{stays} {number}");
        assert!(is_ok(mark(api, &roams, number, TIMEOUT)), "{roams} {number}");
    }
    // But what keeps its state in the mesh lives on one side alone: the one that the state is on.
    for api in [edge, far] {
        let asked = api.request(&kept, "GetRecord", &Value::Null, Duration::from_millis(500));
        let asked = asked.expect("the node answers");
        assert_eq!((asked.outcome.as_str(), &asked.json["code"]), ("rejected", &json!("E-NOT-READY")));
        assert!(asked.json.to_string().contains("cut off from the registry"), "{asked:?}");
    }
    wait(PATIENCE, "it answers there", || record(cloud, &kept).is_some() && record(cloud, &roams).is_some());
    assert_eq!(record(cloud, &kept).map(|record| record.end), Some(3), "with what it knew");
    for number in 3..5 {
        assert!(is_ok(mark(cloud, &kept, number, TIMEOUT)), "{kept} {number}");
    }

    mesh.lab().heal();
    wait(PATIENCE, "both sides agree", || {
        [&stays, &roams, &kept].iter().all(|point| {
            let seen: Vec<_> = apis.iter().map(|api| (placed(api, point), record(api, point))).collect();
            seen[0].0.is_some() && seen[0].1.is_some() && seen.windows(2).all(|pair| pair[0] == pair[1])
        })
    });
    let after = [&stays, &roams, &kept].map(|point| placed(far, point).expect("it lives on a node"));
    assert_eq!(after[0], ("edge".to_owned(), before[0]), "what could live nowhere else was left alone");
    for (place, before) in after[1..].iter().zip(&before[1..]) {
        assert!(place.0 == "cloud" && place.1 > *before, "the higher epoch wins: {place:?} after {before}");
    }
    let ends = [&stays, &roams, &kept].map(|point| record(edge, point).expect("it answers").end);
    assert_eq!((ends[0], ends[2]), (6, 5));
    assert!(ends[1] < 6, "what the losing side did alone is gone: {ends:?}");
    assert_eq!(write(edge, "after").0, 201);
    let made = cloud.points("mesh-test:*");
    let refused = |point: &&String| [":edge-", ":far-", ":late"].iter().any(|name| point.contains(name));
    assert_eq!(made.iter().find(refused), None);
}
