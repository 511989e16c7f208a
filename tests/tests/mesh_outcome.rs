//! A request has exactly one outcome.
#![cfg(target_os = "linux")]

use tests::net::Lab;
use tests::soak;

#[test]
fn requests_have_one_outcome_while_packets_are_lost_and_nodes_are_killed() {
    let Some(lab) = Lab::new() else { return };
    let report = soak::requests_under_kills(lab, 1_500, 3, 10);
    println!("{report}");
    assert!(report.kept(), "{report}");
}
