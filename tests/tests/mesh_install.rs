//! A node that dies in the middle of an install leaves nothing half made.
#![cfg(target_os = "linux")]

use std::time::Duration;

use serde_json::json;
use tests::Api;
use tests::mesh::{Mesh, Plan, publish_witness, wait};

const PATIENCE: Duration = Duration::from_secs(60);
/// How many resources an install makes: more than there is time for.
const CHILDREN: usize = 600;

fn install(statements: &str) -> String {
    format!("App {{ Install {{ {statements} }} }}")
}

/// How a resource is: its phase, and the reason.
fn status(api: &Api, point: &str) -> Option<(String, String)> {
    let (200, resource) = api.get(&format!("/v1/resources/{point}"))? else { return None };
    let text = |key: &str| resource["status"][key].as_str().unwrap_or_default().to_owned();
    Some((text("phase"), text("reason")))
}

#[test]
fn an_install_whose_node_dies_is_finished_by_another() {
    let mut mesh = Mesh::on_loopback(&[Plan::relay("cloud"), Plan::leaf("edge")]);
    mesh.wait_ready(2, PATIENCE);
    publish_witness(mesh.first());
    let bundle = tempfile::tempdir().expect("a temporary folder");
    let children: Vec<String> = (0..CHILDREN).map(|number| format!("create .:n-{number}<Base>")).collect();
    let good = install(&children.join("; "));
    std::fs::write(bundle.path().join("good.app"), good).expect("a file can be written");
    mesh.publish("installs", bundle.path());

    let (cloud, edge) = (Api::of(mesh.first()), Api::of(mesh.node("edge")));
    let names = ["good"];
    std::thread::scope(|scope| {
        for name in names {
            let edge = &edge;
            scope.spawn(move || {
                let config = format!("mesh-test:repo:installs:1.0.0:/{name}.app");
                let create = json!({ "point": format!("mesh-test:{name}"), "kind": "App",
                    "properties": { "config": config } });
                // Nobody is left who could answer.
                assert_eq!(edge.post("/v1/resources", &create), None);
            });
        }
        wait(PATIENCE, "the install is in its middle", || {
            names.iter().all(|name| {
                let (first, last) =
                    (format!("mesh-test:{name}:n-0"), format!("mesh-test:{name}:n-{}", CHILDREN - 1));
                status(&cloud, &first).is_some() && status(&cloud, &last).is_none()
            })
        });
        mesh.node_mut("edge").kill();
    });
    for name in names {
        assert_eq!(status(&cloud, &format!("mesh-test:{name}")).expect("it was made").0, "Init", "{name}");
    }
    wait(PATIENCE, "it is not half made for long", || {
        names.iter().all(|name| {
            status(&cloud, &format!("mesh-test:{name}")).is_some_and(|(phase, _)| phase != "Init")
        })
    });
    assert_eq!(status(&cloud, "mesh-test:good").expect("it is there").0, "Ready");
    assert_eq!(cloud.points("mesh-test:good:*").len(), CHILDREN);
}
