//! Draining loses nothing.
#![cfg(target_os = "linux")]

use tests::soak;

#[test]
fn no_request_fails_while_each_node_is_drained_and_started_again() {
    let report = soak::rolling_restarts(1, 100);
    println!("{report}");
    assert!(report.kept(), "{report}");
}
