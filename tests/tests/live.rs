//! Watches of what is counted and ranked, on a whole node.
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;
use tests::{Api, Node};

/// A stream of events, without those that say that nothing happened.
struct Events<R>(std::io::Lines<BufReader<R>>);

impl<R: Read> Events<R> {
    fn next(&mut self) -> Value {
        loop {
            let line = self.0.next().expect("the stream goes on").expect("it can be read");
            if line.is_empty() {
                continue;
            }
            let event: Value = serde_json::from_str(&line).expect("a line is JSON");
            if event["event"] != "bookmark" {
                return event;
            }
        }
    }
}

fn open(api: &Api, query: &str, since: &str) -> Events<impl Read + use<>> {
    let path = format!("/v1/watch?select={query}{since}");
    Events(BufReader::new(api.stream(&path).expect("the node answers")).lines())
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
    assert_eq!(count.next()["count"], 1);
    assert_eq!(points(&first.next()), ["shop:b", "shop:a"]);
    node.exec("create shop:c<Base>{ +total=20 }").ok();
    let told = count.next();
    assert_eq!((&told["event"], &told["count"]), (&Value::from("counted"), &Value::from(2)));
    let ranked = first.next();
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
    assert_eq!([count.next(), count.next()].map(|told| told["count"].as_u64()), [Some(3), Some(2)]);
    assert_eq!(points(&first.next()), ["shop:b", "shop:d"]);
    assert_eq!(points(&first.next()), ["shop:b", "shop:c"]);
}
