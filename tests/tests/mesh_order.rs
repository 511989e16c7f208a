//! Signals keep their order between one sender and one receiver.
#![cfg(target_os = "linux")]

use std::time::Duration;

use tests::net::Lab;
use tests::soak;

#[test]
fn signals_keep_their_order_over_a_bad_network() {
    let Some(lab) = Lab::new() else { return };
    let report = soak::signals_over_a_bad_network(lab, 10, 200, 1, Duration::from_secs(8));
    println!("{report}");
    assert!(report.kept(), "{report}");
}
