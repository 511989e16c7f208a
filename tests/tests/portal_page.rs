//! Each frame on the page of the portal is one that the node or a client says.

use std::collections::BTreeSet;

use starlane_client::core::portal::{Ask, Tell, decode_text};
use tests::root;

#[test]
fn every_frame_of_the_page_is_one() {
    let page = std::fs::read_to_string(root().join("docs/portal.md")).unwrap();
    let mut ops = BTreeSet::new();
    for frame in page.lines().filter(|line| line.starts_with(r#"{"op":"#)) {
        let [ask, tell] = [decode_text::<Ask>(frame).map(drop), decode_text::<Tell>(frame).map(drop)];
        assert!(ask.is_ok() || tell.is_ok(), "{frame}\nas a client's: {ask:?}\nas the node's: {tell:?}");
        ops.insert(frame[7..].split('"').next().unwrap().to_owned());
    }
    // Those that stand in sentences: cancel, unserve; `end` is the only one that needs no example.
    let all = [
        "api", "bye", "change", "done", "error", "event", "fail", "gap", "grant", "hello", "publish", "reply",
    ];
    let more = ["request", "send", "serve", "signal", "subscribe", "watch", "welcome"];
    assert_eq!(ops, all.into_iter().chain(more).map(str::to_owned).collect());
}
