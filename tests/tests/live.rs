//! Watches of what is counted and ranked, on a whole node.
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use serde_json::Value;
use tests::{Api, Node};

/// The next event of a watch each time, without those that say that nothing happened.
fn open(api: &Api, query: &str, since: &str) -> impl FnMut() -> Value + use<> {
    let events = api.events(&format!("/v1/watch?select={query}{since}")).expect("the node answers");
    let mut events = events.filter(|event| event["event"] != "bookmark");
    move || events.next().expect("the stream goes on")
}

#[test]
fn what_is_counted_and_ranked_is_told_commit_by_commit_also_after_a_restart() {
    let mut node = Node::start();
    node.exec("create shop<Space>; create shop:a<Base>{ +total=5 }; create shop:b<Base>{ +total=50 }").ok();
    let api = Api::of(&node);
    let mut count = open(&api, "count(shop:*%5Btotal%20%3E=%2010%5D)", "");
    let mut first = open(&api, "first%202%20by%20total%20desc%20of%20shop:*", "");
    let points = |event: &Value| -> Vec<String> {
        let resources = event["resources"].as_array().expect("it ranks resources");
        resources.iter().map(|resource| resource["point"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(count()["count"], 1);
    assert_eq!(points(&first()), ["shop:b", "shop:a"]);
    node.exec("create shop:c<Base>{ +total=20 }").ok();
    let told = count();
    assert_eq!((&told["event"], &told["count"]), (&Value::from("counted"), &Value::from(2)));
    let ranked = first();
    assert_eq!(
        (&ranked["event"], points(&ranked)),
        (&Value::from("ranked"), vec!["shop:b".into(), "shop:c".into()])
    );
    assert_eq!(told["revision"], ranked["revision"], "both tell of the same commit");
    let since = |event: &Value| format!("&since={}", event["token"].as_str().expect("it has a token"));
    let (counted, ranked) = (since(&told), since(&ranked));
    node.exec("create shop:d<Base>{ +total=30 }; set shop:d{ +total=3 }").ok();
    node.kill();
    node.restart();
    let api = Api::of(&node);
    let mut count = open(&api, "count(shop:*%5Btotal%20%3E=%2010%5D)", &counted);
    let mut first = open(&api, "first%202%20by%20total%20desc%20of%20shop:*", &ranked);
    assert_eq!([count(), count()].map(|told| told["count"].as_u64()), [Some(3), Some(2)]);
    assert_eq!(points(&first()), ["shop:b", "shop:d"]);
    assert_eq!(points(&first()), ["shop:b", "shop:c"]);
}
